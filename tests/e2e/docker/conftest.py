"""A real engine, a real registry, a small package index and one base image, started once for all tests of this folder.

The base image is bootstrapped from Debian packages, so no image registry is needed.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builder.base_images import BaseImages
from builder.catalog import load_catalog
from builder.config import ToolConfig
from builder.engines.docker_engine import DockerConfig, DockerEngine
from builder.worker import uv_config
from tests.contract.docker_engine import TestEngine, can_start, test_engine
from tests.e2e.conftest import patience
from tests.functional.builder.wheels import make_index, make_wheel

TOOLS = ("docker-registry", "mmdebstrap")
marks = (
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the first test waits for a base image, made from Debian packages
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # docker-py leaves sockets to the collector
    pytest.mark.skipif(
        not os.environ.get("CI") and not (can_start and all(map(shutil.which, TOOLS))),
        reason=f"starts a Docker engine, which needs root, dockerd, runc, nft, {', '.join(TOOLS)}",
    ),
)


class Registry:
    """Debian's docker-registry on a port of its own. `auth`: lines of its configuration."""

    def __init__(self, folder: Path, auth: str = "") -> None:
        self.port, self._folder, self._auth = free_port(), folder, auth
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def prefix(self) -> str:
        return f"127.0.0.1:{self.port}/spaces"

    def start(self) -> None:
        """Does nothing when it runs."""
        if self._process is not None:
            return
        config = self._folder / "registry.yml"
        config.write_text(
            f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {self._folder}/registry\nhttp:\n  addr: 127.0.0.1:{self.port}\n"
            + self._auth
        )
        with open(self._folder / "registry.log", "ab") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
        until(lambda: connects(self.port), 10, "the registry")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def connects(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def until(good: Any, seconds: float, what: str) -> Any:
    """The first true answer."""
    end = time.monotonic() + seconds * patience()
    while True:
        if found := good():
            return found
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(0.05)


def sleepers(seconds: str) -> list[str]:
    """Processes `sleep SECONDS` of this machine, whoever started them: a step of BuildKit is in no list of the engine."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if place.read_bytes().split(b"\0")[:2] == [b"sleep", seconds.encode()]:
                found.append(place.parent.name)
    return found


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="v"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def host() -> Iterator[TestEngine]:
    with test_engine() as made:
        yield made
    gc.collect()  # what docker-py left to the collector goes here, where the mark above covers it


@pytest.fixture(scope="session")
def engine_host(host: TestEngine) -> str:
    return host.host


@pytest.fixture(scope="session")
def registry_server(folder: Path) -> Iterator[Registry]:
    made = Registry(folder)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def registry(registry_server: Registry) -> str:
    return registry_server.prefix


@pytest.fixture(scope="session")
def http_index(folder: Path) -> Iterator[str]:
    with package_index(folder) as url:
        yield url


@contextlib.contextmanager
def package_index(folder: Path) -> Iterator[str]:
    """On this host's loopback, as a mirror beside the platform is."""
    wheels = folder / "wheels"
    make_wheel(wheels, "gradio", "6.0.0", requires=("tinydep",))
    make_wheel(wheels, "streamlit", "1.50.0", files={"streamlit/__main__.py": STREAMLIT, "streamlit/__init__.py": ""})
    make_wheel(wheels, "tinydep", "1.0")
    make_wheel(wheels, "idna", "3.0")
    make_index(wheels)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder / "index")))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


# Stands for the real one: serves on the port that the platform tells it.
STREAMLIT = """
import http.server, sys
port = next(int(a.partition("=")[2]) for a in sys.argv if a.startswith("--server.port="))
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(("streamlit ran " + sys.argv[2]).encode())
http.server.ThreadingHTTPServer(("0.0.0.0", port), H).serve_forever()
"""


@pytest.fixture(scope="session")
def engine(engine_host: str) -> DockerEngine:
    """The builders' side of it, with the base image built."""
    made = DockerEngine(DockerConfig(host=engine_host))
    lines: list[str] = []
    bases = BaseImages(made, uv_config(ToolConfig()).path, lines.append)
    bases.build(load_catalog().find("cpu", None), bootstrap="debian", slim=True)
    assert bases.list()[0].size_bytes
    return made
