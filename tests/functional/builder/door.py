"""A small internal door: what the control plane serves to builders, with ways to say stop, to be slow and to be away."""

from __future__ import annotations

import io
import json
import socketserver
import tarfile
import tempfile
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from builder.config import DoorConfig
from control_plane.domain.builds import BuildEvent, BuildEventKind, BuildVerdict


def tar_of(files: Mapping[str, str | bytes], links: Mapping[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


class FakeDoor:
    """Listens on a Unix socket in its own short folder. `verdict` decides what each event is answered with."""

    def __init__(self) -> None:
        self.source = b""
        self.events: list[BuildEvent] = []
        self.lines: list[str] = []
        self.verdict: Callable[[BuildEvent], BuildVerdict] = lambda event: BuildVerdict.GO_ON
        self.failures = 0  # so many of the next requests answer 503
        self.changed = threading.Condition()
        self._folder = tempfile.TemporaryDirectory(prefix="v")
        self.socket_path = str(Path(self._folder.name, "d.sock"))
        door = self

        class Handler(BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "builder"

            def log_message(self, format: str, *args: Any) -> None:
                return

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self._away():
                    return
                answer: dict[str, Any] = {}
                with door.changed:
                    if self.path.endswith("/events"):
                        event = BuildEvent.from_payload(body)
                        door.events.append(event)
                        answer = {"verdict": door.verdict(event).value}
                    else:
                        door.lines += [text for _, text in body["lines"]]
                    door.changed.notify_all()
                self._answer(json.dumps(answer).encode())

            def do_GET(self) -> None:
                if not self._away():
                    answers = {"source": door.source, "registry": b"{}"}
                    self._answer(answers.get(self.path.rpartition("/")[2], b'{"TOKEN": "s3cret"}'))

            def _away(self) -> bool:
                assert self.headers["Authorization"] == "Bearer worker-secret"
                if door.failures <= 0:
                    return False
                door.failures -= 1
                self.send_error(503)
                return True

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def get_request(self) -> Any:
                connection, _ = super().get_request()
                return connection, ("builder", 0)

        self._server = Server(self.socket_path, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def config(self) -> DoorConfig:
        return DoorConfig(secret="worker-secret", socket_path=self.socket_path)

    def kinds(self) -> list[BuildEventKind]:
        return [event.kind for event in self.events if event.kind is not BuildEventKind.HEARTBEAT]

    def last(self) -> BuildEvent:
        return next(event for event in reversed(self.events) if event.kind is not BuildEventKind.HEARTBEAT)

    def wait(self, claim: Callable[[], bool], timeout_s: float = 60.0) -> bool:
        with self.changed:
            return self.changed.wait_for(claim, timeout_s)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._folder.cleanup()
