"""Whether NetworkPolicy is enforced, tried out: the scheduler knocks once at an app that its policy opens to the proxy only.

Says something only inside the cluster, from a pod that is not itself a proxy.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping

from control_plane.domain.errors import VitrineError
from control_plane.runtimes.kubernetes.api import KubeApi

logger = logging.getLogger(__name__)

_KNOCK_S = 3.0


class PolicyProof:
    """`is_ignored`: None = not tried, or it said nothing. `pod` is our own, by default the one this process runs in."""

    def __init__(self, api: KubeApi, namespace: str, let_in: Mapping[str, str], pod: str = "") -> None:
        self._api, self._let_in = api, dict(let_in)
        self._path = f"/api/v1/namespaces/{namespace}/pods/{pod or socket.gethostname()}"
        self._task: asyncio.Task[None] | None = None
        self.is_ignored: bool | None = None

    def try_once(self, address: str) -> None:
        """`address` is host:port of an app that answers. Only the first call does anything."""
        if self._task is None:
            self._task = asyncio.create_task(self._try(address))

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _try(self, address: str) -> None:
        try:
            labels = (await asyncio.to_thread(self._api.get, self._path))["metadata"].get("labels") or {}
        except VitrineError as error:
            logger.info("policy.not_tried", extra={"error": error.message})
            return
        if self._let_in.items() <= labels.items():
            return
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(_KNOCK_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except TimeoutError:
            self.is_ignored = False
            return
        except OSError:
            return  # refused or unreachable: that may be the app
        writer.close()
        self.is_ignored = True
        logger.warning("policy.ignored")
