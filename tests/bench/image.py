"""image.code, image.shared, image.start: the container path on a Docker engine of its own. Needs what `tests/e2e/docker` needs."""

from __future__ import annotations

import contextlib
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import docker

from builder.base_images import BaseImages
from builder.catalog import load_catalog
from builder.config import ToolConfig
from builder.engines.docker_engine import DockerConfig, DockerEngine
from builder.worker import uv_config
from control_plane.runtimes.docker.manifests import Names
from tests.contract.docker_engine import test_engine
from tests.e2e.conftest import Platform, Work, start_platform, stop_platform
from tests.e2e.docker.conftest import Registry, package_index
from tests.e2e.test_push_to_live import PLAIN

_CARD = "---\ntitle: B\nsdk: gradio\nsdk_version: 6.0.0\n---\n"
_STARTS = 10
_IDLE_S = 3


def _row(name: str, value: float, reference: str, other: float, count: int) -> dict[str, Any]:
    return {
        "name": name, "value": round(value, 3), "unit": "s", "reference": reference, "reference_value": round(other, 3),
        "ratio": round(value / other, 3) if other else None, "n": count,
    }  # fmt: skip


def rows(rounds: int = 5) -> list[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True)))
        host = stack.enter_context(test_engine())
        registry = Registry(folder)
        registry.start()
        stack.callback(registry.stop)
        index = stack.enter_context(package_index(folder))
        lines: list[str] = []
        bases = BaseImages(DockerEngine(DockerConfig(host=host.host)), uv_config(ToolConfig()).path, lines.append)
        bases.build(load_catalog().find("cpu", None), bootstrap="debian", slim=True)
        host.tags.add(Names.of_platform(folder / "d").tag)
        settings = {
            "VITRINE_DOCKER_HOST": host.host, "VITRINE_REGISTRY": registry.prefix, "VITRINE_PYPI_INDEX_URL": index,
            "VITRINE_SLEEP_AFTER_S": str(_IDLE_S),
        }  # fmt: skip
        platform = start_platform(folder / "d", "--runtime", "docker", env=settings)
        stack.callback(stop_platform, platform)
        client = docker.APIClient(base_url=host.host, version="1.41")
        stack.callback(client.close)
        return _measure(platform, client, folder, rounds)


def _built_s(work: Work, tag: str, requirements: str) -> float:
    """The builder's own seconds, from taking the message to the digest."""
    work.write(README__md=_CARD, app__py=PLAIN.format(text=tag), requirements__txt=requirements)
    found = re.search(r"Built in ([\d.]+) s", work.push(tag))
    assert found is not None
    return float(found.group(1))


def _measure(platform: Platform, client: docker.APIClient, folder: Path, rounds: int) -> list[dict[str, Any]]:
    def made(name: str) -> Work:
        platform.create(name)
        return Work(platform, name, folder / name)

    first, shared, code, idle = [], [], [], []
    for i in range(rounds):
        first.append(_built_s(made(f"first{i}"), "a", f"tinydep\nidna>=2.{i}\n" if i else "tinydep\n"))
        work = made(f"shared{i}")
        shared.append(_built_s(work, "a", "tinydep\n"))
        code.append(_built_s(work, f"b{i}", "tinydep\n"))
        idle.append(_idle_build(client, folder / f"context{i}"))
    starts, bare = _starts(platform, work)
    return [
        _row("image.code", statistics.median(code), "docker build with nothing to do, as many steps", statistics.median(idle), rounds),
        _row("image.shared", statistics.median(shared), "first Space with these requirements", first[0], rounds),
        _row("image.start", sorted(starts)[int(0.95 * (len(starts) - 1))], "the same app, bare, p95 of both", max(bare), len(starts)),
    ]


def _idle_build(client: docker.APIClient, context: Path) -> float:
    """Seconds of a build of 15 cached steps, its second time."""
    context.mkdir()
    (context / "Dockerfile").write_text("FROM vitrine/python:3.11\n" + "".join(f"ENV A{n}={n}\n" for n in range(14)))
    took = 0.0
    for _ in range(2):
        began = time.monotonic()
        for _ in client.build(path=str(context), decode=True, network_mode="none"):
            pass
        took = time.monotonic() - began
    return took


def _starts(platform: Platform, work: Work) -> tuple[list[float], list[float]]:
    """Seconds from a request to a sleeping Space to its answer, and from `python app.py` to its first answer."""
    import socket
    import subprocess
    import sys

    woken, bare = [], []
    for _ in range(_STARTS):
        platform.until(work.name, "SLEEPING", seconds=60)
        began = time.monotonic()
        assert platform.app(f"admin-{work.name}", "/x", headers={"Accept": "application/json"}).status_code == 200
        woken.append(time.monotonic() - began)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, str(work.folder / "app.py")], env={"PORT": str(port)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while True:
                with socket.socket() as one:
                    if one.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.005)
            bare.append(time.monotonic() - began)
        finally:
            process.kill()
            process.wait()
    return woken, bare
