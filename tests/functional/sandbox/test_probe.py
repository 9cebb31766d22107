"""A probe Space tries to get out. Expected: it gets nowhere, in each way that the platform may be run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.domain.sensitive import Sensitive
from control_plane.runtimes.process import kernel
from control_plane.runtimes.process.floor import sandbox_report
from tests.functional.sandbox.places import Place

PROBE = Path(__file__).with_name("probe_app.py")
REPO = Path(__file__).resolve().parents[3]

pytestmark = [
    pytest.mark.skipif(not sandbox_report("probe").is_met, reason="this machine cannot isolate apps"),
    pytest.mark.skipif(kernel.machine() != "x86_64", reason="the probe's numbers of system calls are those of x86-64"),
]


class Bait:
    """Things of the host that the probe looks for: a service, sockets, shared memory."""

    def __init__(self) -> None:
        self.service = socket.create_server(("0.0.0.0", 0))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0vitrine-bait-{os.getpid()}")
        self.abstract.listen()

    def aims(self, **more: object) -> dict[str, object]:
        return {
            "secret_files": [], "secret_dirs": [], "read_only": [], "launcher_pid": os.getpid(), "ipc_key": 0x5EED,
            "host_port": self.service.getsockname()[1], "host_address": _own_address(), "abstract": f"vitrine-bait-{os.getpid()}",
            "platform_socket": "/nowhere", "canaries": [], **more,
        }  # fmt: skip

    def close(self) -> None:
        self.service.close()
        self.abstract.close()


@pytest.fixture
def bait() -> Iterator[Bait]:
    bait = Bait()
    yield bait
    bait.close()


async def test_an_app_of_the_runtime_gets_nowhere(bait: Bait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_CANARY", "canary-of-the-platform")
    place = Place()
    try:
        await place.runtime.start()
        other = place.spec("import time\nprint('up', flush=True)\ntime.sleep(60)", env={"OTHER": Sensitive("canary-of-another-space")})
        await place.runtime.apply(other)
        (place.root / "secret.key").write_text("k")
        tree = place.root / "bundles" / other.artifact.ref / "tree"
        aims = bait.aims(
            secret_files=[str(place.root / "secret.key"), str(tree / "app.py"), f"/proc/{os.getpid()}/environ"],
            secret_dirs=[str(place.root), str(tree), f"/proc/{os.getpid()}/root"],
            read_only=[str(Path(sys.base_prefix) / "lib" / "x"), str(place.root / "x")],
            platform_socket=str(place.root / "run" / "r" / f"{other.replica_id[:12]}.sock"),
            canaries=["canary-of-the-platform", "canary-of-another-space", str(place.root)],
        )
        spec = place.spec(PROBE.read_text(), env={"OWN_SECRET": Sensitive("mine")}, files={"probe.json": json.dumps(aims)})
        place.lines.clear()
        seen = await place.until_end(spec)
        assert seen.exit_code == 0, seen.log_tail
        result = json.loads(place.lines[-1])
        assert result["won"] == []
        assert result["tried"] > 130
        assert result["own"] == "mine"
    finally:
        await place.runtime.close()
        place.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_app_of_an_ordinary_user_gets_nowhere(bait: Bait) -> None:
    home = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    try:
        python = "/usr/bin/python3"  # another user may not read root's interpreter
        if not Path(python).exists():
            pytest.skip("no interpreter that an ordinary user can read")
        tree = home / "tree"
        tree.mkdir()
        shutil.copytree(REPO / "control_plane" / "runtimes" / "process", home / "control_plane" / "runtimes" / "process")
        for package in ("control_plane", "control_plane/runtimes"):
            (home / package / "__init__.py").touch()
        (tree / "app.py").write_text(PROBE.read_text())
        (tree / "probe.json").write_text(json.dumps(bait.aims(secret_dirs=[str(home)], canaries=[str(home)])))
        subprocess.run(["chown", "-R", "54321:54321", str(home)], check=True)
        body = {
            "v": 1, "argv": ["python3", "app.py"], "env": {"PATH": "/usr/bin:/bin", "OWN_SECRET": "mine"}, "cwd": "/home/user/app",
            "overlays": [[str(tree), "/home/user/app"]], "network": "egress", "egress_inline": True, "scratch_bytes": 16 << 20,
        }  # fmt: skip
        launcher = home / "control_plane" / "runtimes" / "process" / "launcher.py"
        done = subprocess.run(
            ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", python, "-I", "-S", str(launcher)],
            input=json.dumps(body), capture_output=True, text=True, timeout=60, check=False, env={},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["won"] == []
        assert result["tried"] > 120
    finally:
        shutil.rmtree(home)


def _own_address() -> str:
    """This machine's address towards the outside; loopback when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("203.0.113.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(sock.getsockname()[0])
