"""Why a step was killed: the engine's client asks the engine once more before it blames the step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import pytest

from builder.engines import docker_step
from builder.engines.docker_engine import DockerConfig, DockerEngine
from builder.engines.docker_step import Refusal
from builder.engines.engine import ImageBuild
from builder.errors import BuildFailed
from builder.reporter import CancelToken
from builder.steps import StepRunner
from control_plane.domain.builds import BuildLimits
from control_plane.domain.reasons import Reason


class _Engine(BaseHTTPRequestHandler):
    """Says that it is well, and has no containers."""

    def do_GET(self) -> None:
        body = {"_ping": b"OK", "info": b'{"DockerRootDir": "/proc/nowhere"}'}.get(self.path.rpartition("/")[2], b"[]")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on the tests' output."""


@pytest.fixture
def engine() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Engine)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield server
    server.shutdown()
    server.server_close()
    serving.join()


@pytest.mark.parametrize("is_stopping", [False, True])
def test_a_step_killed_by_an_engine_that_stops_is_a_lost_build(
    engine: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, is_stopping: bool
) -> None:
    host = f"tcp://127.0.0.1:{engine.server_port}"
    order: dict[str, Any] = {
        "host": host, "tag": "registry/space:b1", "dockerfile": "Dockerfile", "no_cache": False, "network": "builds", "args": {},
        "labels": {}, "memory_bytes": 1 << 30, "cpu": 1.0, "disk_bytes": 1 << 30, "bases": [],
    }  # fmt: skip

    def killed(*_: object) -> dict[str, Any]:
        if is_stopping:
            engine.socket.close()  # as the engine does before it kills what it runs
        raise Refusal(Reason.BUILD_MEMORY, "The command returned a non-zero code: 137")

    monkeypatch.setattr(docker_step, "_build", killed)
    monkeypatch.setattr(docker_step, "_ENGINE_AWAY_S", 0.0)
    client = docker.APIClient(base_url=host, version=docker_step.API_VERSION, timeout=10)
    try:
        with pytest.raises(Refusal) as refused:
            docker_step.build(client, order)
    finally:
        client.close()
    assert refused.value.reason is (Reason.BUILD_LOST if is_stopping else Reason.BUILD_MEMORY)


@pytest.mark.parametrize("is_stopping", [False, True])
def test_the_same_for_buildkit(engine: ThreadingHTTPServer, tmp_path: Path, is_stopping: bool) -> None:
    """Its client is a program of its own, and says of a killed step what the engine says."""
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho 'process \"/bin/sh -c make\" did not complete successfully: exit code: 137'\nexit 1\n")
    client.chmod(0o755)
    used = DockerEngine(DockerConfig(f"tcp://127.0.0.1:{engine.server_port}", buildkit_cli=(str(client),)))
    runner = StepRunner(Unheard(), BuildLimits(), CancelToken())
    assert used._room(runner) is None, "asked once, before the engine goes"
    if is_stopping:
        engine.socket.close()
    with pytest.raises(BuildFailed) as failed:
        used.build(ImageBuild(tmp_path, "Dockerfile", "registry/space:b1", "builds", with_buildkit=True), runner)
    assert failed.value.reason is (Reason.BUILD_LOST if is_stopping else Reason.BUILD_MEMORY)


@pytest.mark.parametrize("code", [400, 500])
def test_a_full_disk_is_told_whatever_the_engine_was_at(engine: ThreadingHTTPServer, tmp_path: Path, code: int) -> None:
    engine.RequestHandlerClass = type("Full", (_Engine,), {"do_POST": lambda self: refuse(self, code)})
    used = DockerEngine(DockerConfig(f"tcp://127.0.0.1:{engine.server_port}"))
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(BuildFailed) as failed:
        used.build(ImageBuild(tmp_path, "Dockerfile", "registry/space:b1", "builds"), StepRunner(Unheard(), BuildLimits(), CancelToken()))
    assert failed.value.reason is Reason.BUILD_DISK and "engine is full" in failed.value.message


def refuse(handler: BaseHTTPRequestHandler, code: int) -> None:
    """As the engine does while it unpacks what it was sent."""
    while size := int(handler.rfile.readline(), 16):
        handler.rfile.read(size + 2)
    body = b'{"message": "Error processing tar file(exit status 1): write /app.py: no space left on device"}'
    handler.send_response(code)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class Unheard:
    def line(self, text: str) -> None:
        return
