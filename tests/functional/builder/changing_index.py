"""A package index over HTTP whose answers change between two questions, as one behind caches does."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.functional.builder.wheels import make_wheel


class ChangingIndex:
    """Has `tinydep` 1.0 and 2.0, and a Gradio. `hidden`: which questions for tinydep's page (from 1) are answered without 2.0; `gone`: how
    many downloads of that release find nothing. No answer may be kept, so that every run of uv asks."""

    def __init__(self, folder: Path, *, hidden: Collection[int] = (), gone: int = 0) -> None:
        self.pages = 0
        made = (("tinydep", "1.0"), ("tinydep", "2.0"), ("gradio", "6.0.0"), ("spaces", "0.40.0"))
        self._files = {one.name: one.read_bytes() for one in (make_wheel(folder, *release) for release in made)}
        self._hidden, self._gone = hidden, gone
        index = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                return

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                body = index.answer(self.path, is_download=self.command == "GET")
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
                self.send_header("Content-Length", str(len(body or b"")))
                self.send_header("Cache-Control", "max-age=0")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body or b"")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str, *, is_download: bool) -> bytes | None:
        name = path.strip("/").rpartition("/")[2]
        if path.endswith("/"):
            self.pages += path == "/tinydep/"
            shown = [one for one in self._files if one.startswith(f"{name}-") and not ("-2.0-" in one and self.pages in self._hidden)]
            return "".join(f'<a href="/files/{one}" data-core-metadata="true">{one}</a>' for one in shown).encode()
        if name.endswith(".metadata"):
            with zipfile.ZipFile(io.BytesIO(self._files[name.removesuffix(".metadata")])) as wheel:
                return next(wheel.read(member) for member in wheel.namelist() if member.endswith("/METADATA"))
        if "-2.0-" in name and is_download and self._gone > 0:
            self._gone -= 1
            return None
        return self._files.get(name)

    def __enter__(self) -> ChangingIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
