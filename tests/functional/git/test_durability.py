"""The order of system calls of one push: data, then names of data, then the ref, then the folders, then the answer."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.git.conftest import Work

PUSH = """
import asyncio, sys
from pathlib import Path
from control_plane.git.lfs import FileLfsStore
from control_plane.git.receive import HookCall, Push, ReceiveLimits, write_hooks
from control_plane.git.store import BareGitStore

async def main(root, sha, pack):
    store = BareGitStore(root / "repos", FileLfsStore(root / "lfs"))
    await store.create("a" * 24)
    write_hooks(root / "hooks")
    head = f"{'0' * 40} {sha} refs/heads/main\\0report-status side-band-64k".encode()
    async def body():
        yield b"%04x" % (len(head) + 4) + head + b"0000" + pack
    async def say(call):
        yield "line"
    push = Push(store.git, Path(store.path("a" * 24)), root / "hooks", say, say, ReceiveLimits())
    task = asyncio.create_task(push.run(body()))
    async for chunk in push.output():
        if b"unpack ok" in chunk:
            (root / "ACKNOWLEDGED").write_bytes(chunk)
    await task

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.stdin.buffer.read()))
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
async def test_nothing_is_acknowledged_before_it_is_durable(work: Work, tmp_path: Path) -> None:
    sha = await work.commit(a="1")
    pack = subprocess.run(
        ["git", "pack-objects", "--stdout", "--revs", "-q"], cwd=work.folder, input=b"main\n", capture_output=True, check=True
    ).stdout
    trace = tmp_path / "trace"
    root = tmp_path / "root"
    root.mkdir()
    calls = "trace=fsync,rename,renameat,renameat2,link,linkat,openat"
    words = ["strace", "-f", "-y", "-qq", "-o", str(trace), "-e", calls, sys.executable, "-c", PUSH, str(root), sha]
    done = await asyncio.to_thread(subprocess.run, words, input=pack, capture_output=True, check=False, timeout=60)
    if b"ptrace" in done.stderr and done.returncode != 0:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr.decode()
    lines = [line.split(" ", 1)[1].strip() for line in trace.read_text(errors="replace").splitlines()]

    def first(pattern: str, after: int = 0) -> int:
        found = next((n for n, line in enumerate(lines) if n > after and re.search(pattern, line)), None)
        assert found is not None, f"no call like {pattern}"
        return found

    data = [n for n, line in enumerate(lines) if re.search(r"fsync\(.*tmp_objdir-incoming.*/tmp_(pack|idx)_", line)]
    named = [first(rf"link\(.*incoming.*/pack-\w+\.{kind}\", \"[^\"]*objects/pack/pack-\w+\.{kind}", max(data)) for kind in ("pack", "idx")]
    ref_synced = first(r"fsync\(.*refs/heads/main\.lock")
    ref_moved = first(r"rename.*refs/heads/main\.lock")
    folders = [first(rf"fsync\(.*\.git/{name}>", ref_moved) for name in ("objects", "objects/pack", "refs/heads")]
    answered = first(r"openat\(.*ACKNOWLEDGED")
    assert len(data) == 2  # the pack and its index, whole before they have a name
    assert max(data) < min(named) and max(named) < ref_synced < ref_moved < min(folders) and max(folders) < answered
