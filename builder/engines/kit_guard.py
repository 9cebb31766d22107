"""What bounding BuildKit's steps needs root beside the engine for, as a program of its own: a builder without rights asks for it.

A Unix socket, one JSON object per line each way:

    {"do": "watch", "root", "limit_bytes"}           → {} when steps are watched; until the connection ends
    {"do": "ended", "root", "limit_bytes", "since"}  → {"written": bytes}, 0 where no step was ended since then (monotonic clock)
    {"do": "limit", "info", "memory_bytes", "cpu"}   → {"limited": bool}
    {"do": "orphans"}                                → {"count": n}

Whoever may connect may do no more than that; the socket's folder says who.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from builder.engines.kit_watch import KitWatch
from builder.engines.orphans import end_orphans
from builder.errors import BuildFailed
from control_plane.domain.reasons import Reason

logger = logging.getLogger("vitrine.builder")
ANSWER_S = 30.0  # how long the guard may take to answer
# Whether limits of all steps together are in force: the engine's word about itself, memory in bytes, cores.
Limit = Callable[[Mapping[str, Any], int, float], bool]


class KitGuard(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The server. Its socket is its group's."""

    daemon_threads = True

    def __init__(self, path: Path, limit: Limit) -> None:
        path.unlink(missing_ok=True)
        before = os.umask(0o007)
        try:
            super().__init__(str(path), _Conversation)
        finally:
            os.umask(before)
        self.limit = limit
        self._watches: dict[tuple[str, int], KitWatch] = {}
        self._lock = threading.Lock()

    def watch(self, root: str, limit_bytes: int) -> KitWatch:
        with self._lock:
            return self._watches.setdefault((root, limit_bytes), KitWatch(Path(root), limit_bytes))


class _Conversation(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        guard = self.server
        assert isinstance(guard, KitGuard)
        try:
            for line in self.rfile:
                order = json.loads(line)
                if order["do"] == "watch":
                    with guard.watch(str(order["root"]), int(order["limit_bytes"])).watching():
                        self._say({})
                        self.rfile.read()
                elif order["do"] == "ended":
                    written = guard.watch(str(order["root"]), int(order["limit_bytes"])).ended(float(order["since"]))
                    self._say({"written": written})
                elif order["do"] == "limit":
                    self._say({"limited": guard.limit(dict(order["info"]), int(order["memory_bytes"]), float(order["cpu"]))})
                elif order["do"] == "orphans":
                    self._say({"count": end_orphans()})
                else:
                    raise ValueError(f"no such order: {order['do']!r}")
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("guard.bad_order", extra={"error": str(error)})
        except ConnectionError:
            return  # whoever asked is gone

    def _say(self, answer: Mapping[str, object]) -> None:
        self.wfile.write(json.dumps(answer).encode() + b"\n")


class GuardClient:
    """The builder's side. Raises BuildFailed(BUILD_LOST) when the guard does not answer: a step that nobody bounds is not begun."""

    def __init__(self, path: str) -> None:
        self._path = path

    def ask(self, **order: object) -> dict[str, Any]:
        with self._asking(order) as answer:
            return answer

    @contextlib.contextmanager
    def watching(self, root: Path, limit_bytes: int) -> Iterator[None]:
        with self._asking({"do": "watch", "root": str(root), "limit_bytes": limit_bytes}):
            yield

    @contextlib.contextmanager
    def _asking(self, order: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        """The answer, and the connection kept meanwhile."""
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(ANSWER_S)
            try:
                one.connect(self._path)
                one.sendall(json.dumps(order).encode() + b"\n")
                with one.makefile("rb") as lines:
                    answer: dict[str, Any] = json.loads(lines.readline())
            except (OSError, ValueError) as error:
                raise BuildFailed(Reason.BUILD_LOST, f"The guard of BuildKit's steps does not answer: {error}") from error
            yield answer


class GuardedWatch:
    """As `KitWatch`, by the guard."""

    def __init__(self, guard: GuardClient, root: Path, limit_bytes: int) -> None:
        self._guard, self._root, self._limit_bytes = guard, root, limit_bytes

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with self._guard.watching(self._root, self._limit_bytes):
            yield

    def ended(self, since: float) -> int:
        return int(self._guard.ask(do="ended", root=str(self._root), limit_bytes=self._limit_bytes, since=since)["written"])
