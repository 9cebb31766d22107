"""The whole runtime as an ordinary user, with and without groups that an operator made for them."""

# ruff: noqa: E501  (a whole app as one text)
from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.runtimes.process.cgroups import find_mounts
from control_plane.runtimes.process.floor import launcher_command, sandbox_report
from tests.fakes.operator_groups import operator_groups

REPO = Path(__file__).resolve().parents[3]
PYTHON = "/usr/bin/python3"  # another user may not read root's interpreter
UID = 54322

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else"),
    pytest.mark.skipif(not sandbox_report("ordinary").items[0].is_met, reason="this machine cannot isolate apps"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no interpreter that an ordinary user can read"),
]

SCRIPT = '''
import asyncio, dataclasses, json, os, sys
from tests.functional.sandbox.places import Place
from control_plane.domain.errors import Rejected
from control_plane.domain.replicas import Mount

APP = "import http.server; print('up as', __import__('os').getuid(), flush=True); http.server.HTTPServer(('0.0.0.0', 7860), http.server.SimpleHTTPRequestHandler).serve_forever()"
MOUNTED = """
import os
for path in ("/data/model/word", "/home/user/app/model/word"):
    tried = [lambda: open(path, "a"), lambda: os.chmod(path, 0o777), lambda: os.unlink(path), lambda: open(path + "2", "w")]
    kept = 0
    for change in tried:
        try:
            change()
        except OSError:
            kept += 1
    print(open(path).read(), kept, flush=True)
"""
HOG = "x = []\\nwhile True: x.append(bytearray(1 << 20))"

async def main():
    place = Place()
    await place.runtime.start()
    out = {"is_met": place.runtime.report.is_met, "fix": place.runtime.report.words, "uid": os.getuid()}
    spec = place.spec(APP)
    try:
        await place.runtime.apply(spec)
    except Rejected as error:
        out["refused"] = error.facts["reason"]
        spec = dataclasses.replace(spec, trusted=True)
        await place.runtime.apply(spec)
    with await place.connect(spec) as sock:
        sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        out["answer"] = sock.recv(15).decode()
    (seen,) = await place.runtime.observe(spec.space_id)
    out["ports"] = seen.listening_ports
    hog = await place.until_end(dataclasses.replace(place.spec(HOG), trusted=spec.trusted))
    out["hog"] = hog.reason
    library = place.root / "library"
    library.mkdir()
    (library / "word").write_text("mounted")
    (library / "word").chmod(0o444)
    mounts = tuple(Mount(str(library), path) for path in ("/data/model", "/home/user/app/model"))
    out["mounted"] = (await place.until_end(dataclasses.replace(place.spec(MOUNTED, mounts=mounts), trusted=spec.trusted))).log_tail
    await place.runtime.close()
    place.remove()
    print(json.dumps(out))

asyncio.run(main())
'''


@pytest.fixture
def copy() -> Iterator[Path]:
    """The sources at a place that anybody may read."""
    root = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    root.chmod(0o755)
    for package in ("control_plane", "tests/functional/sandbox"):
        shutil.copytree(REPO / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "script.py").write_text(SCRIPT)
    yield root
    shutil.rmtree(root)


def run(root: Path) -> dict[str, object]:
    done = subprocess.run(
        ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", PYTHON, str(root / "script.py")],
        capture_output=True, text=True, timeout=60, check=False, cwd="/", env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_without_limits_strangers_are_refused_and_ones_own_app_runs(copy: Path) -> None:
    result = run(copy)
    if result["is_met"]:
        pytest.skip("this machine gives groups to every user")
    assert result["refused"] == "SANDBOX_UNAVAILABLE"
    assert "sudo" in str(result["fix"])
    assert (result["uid"], result["answer"], result["ports"]) == (UID, "HTTP/1.0 200 OK", [7860])
    assert result["hog"] == "APP_EXITED"  # ended by its own limit: MemoryError
    assert result["mounted"] == ["mounted 4", "mounted 4"], "the app is the platform's own user, and still changes nothing"


def test_with_groups_made_by_the_operator_the_floor_is_met(copy: Path) -> None:
    mounts = find_mounts(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    if not mounts.v1.get("memory"):
        pytest.skip("no cgroup version 1 here")
    with operator_groups(list(mounts.v1.values()), UID):
        result = run(copy)
    assert result["is_met"] is True
    assert "refused" not in result
    assert (result["uid"], result["answer"], result["hog"]) == (UID, "HTTP/1.0 200 OK", "APP_OUT_OF_MEMORY")
    assert result["mounted"] == ["mounted 4", "mounted 4"]


def test_inside_a_sandbox_there_is_no_second_one_but_trusted_apps_run(tmp_path: Path) -> None:
    """The launcher where the kernel refuses namespaces: strict fails with 125, lenient runs and says what is missing."""
    inner = {"v": 1, "argv": ["sh", "-c", "pwd; cat data"], "env": {"PATH": "/usr/bin:/bin"}, "cwd": "/home/user/app"}
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "data").write_text("trusted\n")
    for name, lenient in (("strict", False), ("lenient", True)):
        body = {**inner, "overlays": [["/home/user/app", "/home/user/app"]], "network": "egress", "lenient": lenient}
        (tree / f"{name}.json").write_text(json.dumps(body))
    package = REPO / "control_plane"
    command = "python3 -I -S /src/control_plane/runtimes/process/launcher.py"
    outer = {
        "v": 1, "argv": ["sh", "-c", f"{command} < strict.json; echo status $?; {command} < lenient.json; echo status $?"],
        "env": {"PATH": "/usr/bin:/bin"}, "cwd": "/home/user/app", "overlays": [[str(tree), "/home/user/app"]],
        "binds_ro": [[str(package), "/src/control_plane"]], "network": "none", "scratch_bytes": 16 << 20,
    }  # fmt: skip
    done = subprocess.run(launcher_command(), input=json.dumps(outer), capture_output=True, text=True, timeout=30, check=False, env={})
    lines = done.stdout.splitlines()
    assert lines[0] == "status 125", done.stdout + done.stderr
    assert lines[2:] == ["trusted", "status 0"]
    assert "vitrine-sandbox: namespaces" in done.stderr
