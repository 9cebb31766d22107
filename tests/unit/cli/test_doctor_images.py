"""What `vitrine doctor` says about the registry and the base images."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from control_plane.cli.doctor_images import bases, registry
from control_plane.domain.errors import Unavailable
from control_plane.runtimes.process.doctor import Level


@pytest.mark.parametrize(
    ("status", "level", "words"), [(200, Level.OK, "everybody"), (401, Level.OK, "sign-in"), (500, Level.PROBLEM, "500")]
)
def test_a_registry_that_answers(status: int, level: Level, words: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/v2/" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        found = registry(f"127.0.0.1:{server.server_port}/spaces")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert found.level is level and words in found.detail


def test_no_registry_and_one_that_is_not_there() -> None:
    assert registry("").level is Level.PROBLEM and "VITRINE_REGISTRY" in registry("").fix
    assert "does not answer" in registry("127.0.0.1:1/spaces").detail


def test_base_images_are_named_or_asked_for() -> None:
    (good,) = bases(lambda name: name in ("vitrine/python:3.11", "vitrine/python:3.13"))
    assert (good.level, good.detail) == (Level.OK, "vitrine/python:3.11, vitrine/python:3.13")
    (bad,) = bases(lambda name: False)
    assert bad.level is Level.WARNING and "vitrine images build" in bad.fix

    def away(name: str) -> bool:
        raise Unavailable("no engine")

    assert list(bases(away)) == []
