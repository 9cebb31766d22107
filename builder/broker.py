"""The broker of the embedded default: a spool of files, and the options both of its ends need.

Kombu ships a filesystem transport, with two holes that matter to us: a reader can pick a message up while it is still
being written (it opens the final name and writes after), and a file that is not JSON raises inside the consumer's loop.
`SpoolChannel` closes both: messages are renamed into place when complete, and a file that cannot be read is set aside.
Everything else (bindings, exchanges) is kombu's. Why files can be defended at all: control_plane/decisions/0001-broker.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import filesystem

QUEUE_NAME = "vitrine-builds"
POLL_S = 0.05  # what an idle worker waits between looks at the spool; a look is one listdir of an empty folder
STOP_LOOK_S = 0.2
VISIBILITY_S = 4 * 3600  # Redis gives a message that was not acknowledged to another worker after this; longer than any build


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What Celery must be told on both ends. `transport` is a kombu transport as `module:Class`, "" = by the URL's scheme."""

    url: str = field(repr=False)  # may hold a password
    transport: str = ""
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    queue: str = QUEUE_NAME

    @property
    def is_spool(self) -> bool:
        return bool(self.transport)


def broker_options(redis_url: str | None, spool_dir: Path) -> BrokerOptions:
    """Redis when its URL is given, else the spool in `spool_dir` (made by `prepare_spool`). Pure."""
    if redis_url:
        return BrokerOptions(url=redis_url, transport_options={"visibility_timeout": VISIBILITY_S})
    inbox = str(spool_dir / "inbox")
    return BrokerOptions(
        url="filesystem://spool",
        transport="builder.broker:SpoolTransport",
        transport_options={
            "data_folder_in": inbox,
            "data_folder_out": inbox,
            "control_folder": str(spool_dir / "control"),
            "processed_folder": str(spool_dir / "taken"),
            "polling_interval": POLL_S,
        },
    )


def prepare_spool(options: BrokerOptions) -> None:
    """Makes the spool's folders, private to this user: who can write a message there can ask for a build."""
    if not options.is_spool:
        return
    for key in ("data_folder_in", "control_folder", "processed_folder"):
        folder = Path(options.transport_options[key])
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


class SpoolChannel(filesystem.Channel):
    """kombu's filesystem channel with an atomic put and a get that survives any file."""

    do_restore = False  # what a worker leaves unfinished is another attempt, with a message of its own

    def _put(self, queue: str, payload: Mapping[str, Any], **_: Any) -> None:  # type: ignore[override]  # kombu's own two differ
        # wall-clock first, so that names sort by age across a reboot (kombu uses the monotonic clock)
        name = f"{time.time_ns():020d}_{uuid.uuid4().hex}.{queue}.msg"
        folder = self.data_folder_out
        hidden = os.path.join(folder, f".{name}.part")
        try:
            with open(hidden, "xb") as file:
                file.write(json.dumps(payload).encode())
                file.flush()
                os.fsync(file.fileno())
            os.rename(hidden, os.path.join(folder, name))
        except OSError as error:
            raise ChannelError(f"Cannot add a message to {folder!r}: {error}") from error

    def _names(self, queue: str) -> list[str]:
        """Of the messages that wait, oldest first."""
        ending = f"{queue}.msg"
        return [name for name in sorted(os.listdir(self.data_folder_in)) if not name.startswith(".") and name.partition(".")[2] == ending]

    def peek(self, queue: str) -> list[dict[str, Any]]:
        """The messages that wait, left where they are."""
        found = []
        for name in self._names(queue):
            with contextlib.suppress(OSError, ValueError):  # taken meanwhile, or no message
                if _is_envelope(message := json.loads(Path(self.data_folder_in, name).read_bytes())):
                    found.append(message)
        return found

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        for name in self._names(queue):
            taken = os.path.join(self.processed_folder, name)
            try:
                os.rename(os.path.join(self.data_folder_in, name), taken)  # exactly one worker wins
            except OSError:
                continue
            try:
                with open(taken, "rb") as file:
                    message = json.loads(file.read())
            except (OSError, ValueError):
                os.replace(taken, f"{taken}.bad")
                continue
            os.remove(taken)
            if _is_envelope(message):
                return message
        raise Empty


def _is_envelope(message: object) -> bool:
    """Whether kombu's virtual transport can open it; anything else would raise inside the worker's loop."""
    return (
        isinstance(message, dict)
        and isinstance(message.get("body"), str)
        and isinstance(properties := message.get("properties"), dict)
        and isinstance(properties.get("delivery_info"), dict)
        and "delivery_tag" in properties
        and isinstance(message.get("headers"), dict)
    )


class SpoolTransport(filesystem.Transport):
    Channel = SpoolChannel

    def drain_events(self, connection: Any, timeout: float | None = None, **_: Any) -> Any:
        # Celery waits 2 s here before it looks whether it was told to stop.
        return super().drain_events(connection, timeout=STOP_LOOK_S if timeout is None else min(timeout, STOP_LOOK_S))  # type: ignore[no-untyped-call]
