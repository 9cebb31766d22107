"""`/healthz` and `/readyz` for components that serve nothing else (scheduler, builder): a thread of its own, so that it answers
while the component is busy, and tells when it is stuck.

    /healthz   200 while the component's heart beats (`beat()` at least every `STUCK_S`), else 503
    /readyz    200 when every check says "ok"; JSON with each one
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STUCK_S = 60.0
Checks = Callable[[], Mapping[str, str]]


class Health:
    """`checks` is called in the server's thread for each `/readyz`; name → "ok" or what is wrong. `facts` are shown beside it."""

    def __init__(self, sock: socket.socket, checks: Checks, *, beats: bool, facts: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._checks, self._facts = checks, facts
        self._beats = beats
        self._beaten_at = time.monotonic()
        health = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5
            server_version, sys_version = "vitrine", ""

            def do_GET(self) -> None:
                status, body = health._answer(self.path.partition("?")[0])
                data = json.dumps(body).encode() + b"\n"
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):  # who asked has left
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(sock.getsockname()[:2], Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = sock
        self.told = {"listen": "{}:{}".format(*sock.getsockname()[:2])}  # for who waits for the component
        self.is_closed = False
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        self._beaten_at = time.monotonic()

    def close(self) -> None:
        self.is_closed = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> tuple[int, Mapping[str, Any]]:
        if path == "/healthz":
            silent_s = time.monotonic() - self._beaten_at
            if self._beats and silent_s > STUCK_S:
                return 503, {"status": f"stuck for {silent_s:.0f} s"}
            return 200, {"status": "ok"}
        if path == "/readyz":
            found = dict(self._checks())
            ready = all(words == "ok" for words in found.values())
            return (200 if ready else 503), {"ready": ready, "dependencies": found, **self._facts()}
        return 404, {"error": "there is /healthz and /readyz here"}
