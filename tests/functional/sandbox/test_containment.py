"""Apps that misbehave: each is contained, its owner reads why, and a neighbour keeps answering."""

# ruff: noqa: E501  (whole apps as one text)
from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.domain.errors import Broken, Rejected
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import Mount, ReplicaSpec, ReplicaState
from control_plane.runtimes.process.floor import FloorItem, FloorReport, sandbox_report
from control_plane.runtimes.process.runtime import ProcessRuntime
from tests.fakes.mounted_repo import READ, READS, repository_of
from tests.functional.sandbox.places import Place

pytestmark = pytest.mark.skipif(not sandbox_report("contain").is_met, reason="this machine cannot isolate apps")

WEB = """
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"neighbour " + os.environ["NAME"].encode())
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Answer).serve_forever()
"""


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    await made.runtime.start()
    yield made
    await made.runtime.close()
    made.remove()


async def get(place: Place, spec: ReplicaSpec, path: str = "/") -> bytes:
    with await place.connect(spec) as sock:
        return await asyncio.to_thread(_get, sock, path)


def _get(sock: socket.socket, path: str) -> bytes:
    sock.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    body = b""
    while piece := sock.recv(65536):
        body += piece
    return body.partition(b"\r\n\r\n")[2]


async def test_two_apps_on_the_same_port_answer_through_their_own_doors(place: Place) -> None:
    one, two = (place.spec(WEB, env={"NAME": name, "PORT": "7860"}) for name in ("one", "two"))
    await place.runtime.apply(one)
    await place.runtime.apply(two)
    assert await get(place, one) == b"neighbour one"
    assert await get(place, two) == b"neighbour two"
    (seen,) = await place.runtime.observe(one.space_id)
    assert seen.listening_ports == (7860,)


async def test_the_wrong_port_is_seen(place: Place) -> None:
    spec = place.spec(WEB, env={"NAME": "x", "PORT": "5000"})
    await place.runtime.apply(replace(spec, launch=replace(spec.launch, port=5000)))
    await get(place, spec)
    (seen,) = await place.runtime.observe(spec.space_id)
    assert seen.listening_ports == (5000,)


@pytest.mark.parametrize(
    ("app", "reason", "word"),
    [
        ("import sys; print('no'); sys.exit(3)", Reason.APP_EXITED, "no"),
        ("raise ValueError('my mistake')", Reason.APP_EXITED, "ValueError: my mistake"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", Reason.APP_OUT_OF_MEMORY, ""),
        ("f = open('/home/user/big', 'wb')\nwhile True: f.write(bytes(1 << 20))", Reason.APP_DISK_FULL, "No space left on device"),
        ("f = open('/dev/shm/big', 'wb')\nwhile True: f.write(bytes(1 << 20))", Reason.APP_DISK_FULL, "No space left on device"),
        ("i = 0\nwhile True:\n    open(f'/tmp/{i}', 'w').close(); i += 1", Reason.APP_DISK_FULL, "No space left on device"),
        ("f = []\nwhile True: f.append(open('/dev/null'))", Reason.APP_EXITED, "Too many open files"),
        ("import os\nwhile True:\n    if os.fork() == 0:\n        while True: os.read(0, 1) or __import__('time').sleep(9)", Reason.APP_EXITED, "BlockingIOError"),
    ],
    ids=["exit", "crash", "memory", "disk", "shm", "inodes", "files", "forks"],
)  # fmt: skip
async def test_a_bad_app_is_contained_and_says_why(place: Place, app: str, reason: Reason, word: str) -> None:
    neighbour = place.spec(WEB, env={"NAME": "n", "PORT": "7860"})
    await place.runtime.apply(neighbour)
    bad = place.spec(app)
    async with asyncio.timeout(120):
        seen = await place.until_end(bad)
    assert (seen.state, seen.reason) == (ReplicaState.FAILED, reason)
    assert word in "\n".join(seen.log_tail)
    assert await get(place, neighbour) == b"neighbour n"


async def test_a_flood_of_output_is_cut_and_said(place: Place) -> None:
    seen = await place.until_end(place.spec("for i in range(100_000): print('x' * 100)\nprint('the end')"))
    assert seen.log_tail[-1] == "the end"
    assert any("lines" in line and "dropped" in line for line in place.lines)
    assert sum(len(line) for line in place.lines) < 6 << 20


async def test_nothing_survives_a_stop(place: Place) -> None:
    app = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork(); os.setsid() if os.getpid() != 2 else 0\nprint('up', flush=True)\nwhile True: time.sleep(60)"
    spec = place.spec(app)
    await place.runtime.apply(spec)
    (replica,) = place.runtime._replicas.values()
    assert replica.group is not None
    pids = replica.group.pids()
    await place.runtime.stop(spec.replica_id, grace_s=0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not replica.door_path.exists()
    assert not any(Path(path).exists() for path in replica.group.directories)


async def test_term_lets_an_app_finish(place: Place) -> None:
    app = "import signal, sys, time\ndef end(*_): print('goodbye', flush=True); sys.exit(0)\nsignal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\nwhile True: time.sleep(60)"
    spec = place.spec(app)
    await place.runtime.apply(spec)
    while "up" not in place.lines:
        await asyncio.sleep(0.01)
    await place.runtime.stop(spec.replica_id, grace_s=10)
    assert "goodbye" in place.lines


async def test_an_app_may_change_its_own_tree_but_not_the_bundle(place: Place) -> None:
    app = "open('data.txt', 'a').write('more'); open('new.txt', 'w').write('n'); print(open('data.txt').read())"
    spec = place.spec(app, files={"data.txt": "some "})
    seen = await place.until_end(spec)
    assert seen.log_tail == ("some more",)
    tree = place.root / "bundles" / spec.artifact.ref / "tree"
    assert (tree / "data.txt").read_text() == "some "
    assert not (tree / "new.txt").exists()


async def test_a_volume_outlives_its_replica_and_a_read_only_one_stays_as_it_is(place: Place) -> None:
    data, library = place.root / "volumes" / "a", place.root / "volumes" / "b"
    data.mkdir(parents=True)
    library.mkdir()
    (library / "model").write_text("weights")
    mounts = (Mount(str(data), "/data", read_only=False), Mount(str(library), "/models/b"))
    app = "open('/data/kept', 'a').write('k'); print(open('/data/kept').read(), open('/models/b/model').read())\ntry: open('/models/b/x', 'w')\nexcept OSError as e: print(e.errno)"
    for expected in ("k weights", "kk weights"):
        seen = await place.until_end(place.spec(app, mounts=mounts))
        assert seen.log_tail == (expected, "30")
    assert (data / "kept").stat().st_uid == os.geteuid()


async def test_a_repository_is_read_and_not_written(place: Place) -> None:
    trees, repo_id, commit = await repository_of(place.root / "platform")
    _, oid = await trees.pin(repo_id, "", "")
    await trees.fetch(repo_id, commit, "", oid, lambda done: None)
    part = (await trees.pin(repo_id, "", "deep/part.txt"))[1]
    await trees.fetch(repo_id, commit, "deep/part.txt", part, lambda done: None)
    mounts = (Mount(str(await trees.at(repo_id, oid)), "/data/model"), Mount(str(await trees.at(repo_id, part)), "/opt/part.txt"))
    assert (await place.until_end(place.spec(READS, mounts=mounts))).log_tail[-1] == READ


async def test_a_place_behind_a_link_of_the_repository_is_refused(place: Place) -> None:
    """Such a link could lead to the host's own files, which are still in sight while the sandbox is built."""
    (place.root / "library").mkdir()
    spec = place.spec("print('ran')", mounts=(Mount(str(place.root / "library"), "/home/user/app/out/cron.d"),))
    tree = place.root / "bundles" / spec.artifact.ref
    os.symlink("/oldroot/etc", next(path.parent for path in tree.rglob("app.py")) / "out")
    with pytest.raises(Rejected, match="/home/user/app/out is a symbolic link of the repository") as refused:
        await place.runtime.apply(spec)
    assert refused.value.facts["reason"] == Reason.VOLUME_UNAVAILABLE


async def test_an_app_whose_volume_is_over_its_size_is_ended_with_the_reason(place: Place) -> None:
    data = place.root / "volumes" / "own"
    data.mkdir(parents=True)
    await place.runtime.close()
    place.runtime = ProcessRuntime(place.root, place._log, volume_check_s=0.2)
    await place.runtime.start()
    neighbour = place.spec(WEB, env={"NAME": "n", "PORT": "7860"}, mounts=(Mount(str(data), "/data", False, 1 << 30),))
    await place.runtime.apply(neighbour)
    app = "import time\nopen('/data/big', 'wb').write(bytes(3 << 20)); time.sleep(60)"
    async with asyncio.timeout(120):
        seen = await place.until_end(place.spec(app, mounts=(Mount(str(data), "/data", False, 2_000_000),)))
    assert (seen.state, seen.reason) == (ReplicaState.FAILED, Reason.APP_DISK_FULL)
    assert seen.message == "The app filled its persistent storage: /data holds more than 0.002 GB."
    assert await get(place, neighbour) == b"neighbour n"


async def test_the_hub_endpoint_is_reached_and_nothing_else_of_the_platform(place: Place) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        host = next(line for line in asked.split(b"\r\n") if line.lower().startswith(b"host:"))
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhub saw " + host)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    app = (
        "import urllib.request\nprint(urllib.request.urlopen('http://hub.vitrine.internal/').read().decode())\n"
        f"try: urllib.request.urlopen('http://127.0.0.1:{port}/')\nexcept OSError as e: print('refused')\n"
        "try: urllib.request.urlopen('http://169.254.169.254/')\nexcept OSError as e: print('refused')"
    )
    spec = place.spec(app, hub_upstream=f"127.0.0.1:{port}")
    seen = await place.until_end(spec)
    server.close()
    await server.wait_closed()
    assert seen.log_tail == ("hub saw Host: hub.vitrine.internal", "refused", "refused")
    egress = place.runtime.egress_of(spec.replica_id)
    assert egress is not None
    assert dict(egress.denied) == {"169.254.169.254:80": 1}


async def test_a_killed_platform_leaves_no_process_and_the_next_life_cleans_up() -> None:
    parent = subprocess.Popen([sys.executable, str(Path(__file__).with_name("parent_app.py"))], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    root, *numbers = (await asyncio.to_thread(parent.stdout.readline)).split()
    watched = [os.pidfd_open(int(number)) for number in numbers]
    assert len(watched) >= 5
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for fd in watched:
        assert select.select([fd], [], [], 5)[0], "a process outlived the platform"
        os.close(fd)
    place = Place()
    place.remove()
    place.root = Path(root)
    place.runtime = place.new_runtime()
    await place.runtime.start()
    assert place.runtime._groups is not None
    assert place.runtime._groups.existing() == []
    assert list((place.root / "run" / "r").iterdir()) == []
    await place.runtime.close()
    place.remove()


async def test_below_the_floor_strangers_are_refused_with_the_fix() -> None:
    place = Place()
    report = FloorReport((FloorItem("namespaces", False, "not allowed", "Allow user namespaces."),))
    runtime = ProcessRuntime(place.root, place._log, report=report)
    await runtime.start()
    with pytest.raises(Rejected, match="Allow user namespaces") as caught:
        await runtime.apply(place.spec("print(1)"))
    assert caught.value.facts["reason"] == Reason.SANDBOX_UNAVAILABLE
    place.runtime = runtime
    seen = await place.until_end(replace(place.spec("print('mine')"), trusted=True))
    assert seen.log_tail == ("mine",)
    await runtime.close()
    place.remove()


async def test_a_bundle_that_is_gone_is_our_fault(place: Place) -> None:
    spec = place.spec("print(1)")
    with pytest.raises(Broken, match="not on this machine"):
        await place.runtime.apply(replace(spec, artifact=replace(spec.artifact, ref="x/y")))
    with pytest.raises(Broken, match="not on this machine"):
        await place.runtime.apply(replace(spec, artifact=replace(spec.artifact, ref="../../etc")))
    assert await place.runtime.observe_all() == ()
