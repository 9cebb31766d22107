"""`BuildQueue` over Celery: a task name and a JSON payload, nothing else. No task code is imported here."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any

from celery import Celery
from kombu.exceptions import KombuError, OperationalError

from control_plane.domain.builds import TASK_NAME, BuildRequest, BuildTry
from control_plane.domain.errors import Unavailable
from control_plane.domain.ids import BuildId

_TRY = "."  # between a build's id and the number of its attempt, in a message's id


class CeleryBuildQueue:
    """Hands builds to workers.

    `transport` ("" = by the URL's scheme) and `transport_options` are those that the workers were given; the composition
    root takes both from one place. `send_timeout_s` bounds how long a dead broker can hold a caller.
    """

    def __init__(
        self,
        broker_url: str,
        *,
        transport: str = "",
        transport_options: Mapping[str, Any] | None = None,
        queue: str = "vitrine-builds",
        send_timeout_s: float = 5.0,
    ) -> None:
        self._queue = queue
        self._lock = threading.Lock()  # a kombu producer is not made for two threads at once
        app = Celery("vitrine-queue", broker=broker_url, set_as_current=False)
        if transport:
            app.conf.broker_transport = transport
        app.conf.update(
            broker_transport_options={
                **(transport_options or {}),
                "socket_timeout": send_timeout_s,
                "socket_connect_timeout": send_timeout_s,
            },
            broker_connection_timeout=send_timeout_s,
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            task_default_queue=queue,
            task_create_missing_queues=True,
            task_publish_retry=False,  # the periodic scan is the retry
            worker_send_task_events=False,
        )
        self._app = app

    async def submit(self, request: BuildRequest) -> None:
        """Raises Unavailable when the broker does not answer; the row stays QUEUED and the periodic scan submits again."""
        try:
            await asyncio.to_thread(self._send, request.to_payload())
        except (KombuError, OperationalError, OSError) as error:
            raise Unavailable(f"the build queue does not answer: {error}") from error

    def _send(self, payload: dict[str, Any]) -> None:
        with self._lock:
            name = f"{payload['build_id']}{_TRY}{payload['attempt']}"
            self._app.send_task(TASK_NAME, [payload], queue=self._queue, ignore_result=True, task_id=name)

    async def waiting(self) -> frozenset[BuildTry]:
        """Raises Unavailable when the broker does not answer."""
        try:
            return await asyncio.to_thread(self._waiting)
        except (KombuError, OperationalError, OSError) as error:
            raise Unavailable(f"the build queue does not answer: {error}") from error

    def _waiting(self) -> frozenset[BuildTry]:
        with self._lock, self._app.connection_for_read() as connection:
            try:
                channel = connection.channel()
                if hasattr(channel, "peek"):
                    messages = channel.peek(self._queue)
                else:
                    with channel.conn_or_acquire() as redis:
                        messages = map(json.loads, redis.lrange(self._queue, 0, -1))
                names = [str(message["headers"].get("id")).rpartition(_TRY) for message in messages]
            except (*connection.connection_errors, *connection.channel_errors) as error:
                raise OperationalError(str(error)) from error
        return frozenset((BuildId(build_id), int(attempt)) for build_id, _, attempt in names if attempt.isdigit())

    async def close(self) -> None:
        """Closes the connections to the broker."""
        await asyncio.to_thread(self._app.close)
