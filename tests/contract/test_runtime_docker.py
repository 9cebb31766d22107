"""The runtime contract on the Docker adapter: every test of `test_runtime`, and what only containers have, on a real engine."""

from __future__ import annotations

import asyncio
import gc
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.errors import NoCapacity, Rejected, Unavailable
from control_plane.domain.hardware import Accelerator
from control_plane.domain.ids import ReplicaId, Sha, SpaceId, new_id
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import Mount, ReplicaObservation, ReplicaSpec, ReplicaState
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Sdk, Space, SpaceConfig
from control_plane.net.dial import DialError, dial
from control_plane.runtimes.docker.build_network import ensure_build_network, reach
from control_plane.runtimes.docker.manifests import Names
from control_plane.runtimes.docker.options import DockerOptions
from control_plane.runtimes.docker.runtime import DockerRuntime
from control_plane.runtimes.volumes import VolumeFolders
from tests.contract import test_runtime as suite
from tests.contract.docker_engine import TestEngine, needs_engine, test_engine
from tests.fakes.mounted_repo import READ, READS, repository_of

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # docker-py leaves sockets to the collector
    needs_engine,
]
OPTIONS = DockerOptions(retry_s=0.05, disk_check_s=0.2)


@pytest.fixture(scope="module")
def engine() -> Iterator[TestEngine]:
    with test_engine() as made:
        made.image(suite.STAYS)
        yield made
    gc.collect()  # what docker-py left to the collector goes here, where the mark above covers it


class DockerHarness(suite.Harness):
    def __init__(self, engine: TestEngine, options: DockerOptions = OPTIONS) -> None:
        self.engine, self.options = engine, options
        self.folder = Path(tempfile.mkdtemp(prefix="v"))
        self.lines: list[str] = []
        self.runtime = self.docker = self.new_runtime()

    def new_runtime(self) -> DockerRuntime:
        made = DockerRuntime(self.engine.host, self._log, self.folder, self.options)
        self.engine.tags.add(made._names.tag)
        return made

    async def _log(self, space_id: SpaceId, replica_id: ReplicaId, lines: Sequence[str]) -> None:
        self.lines.extend(lines)

    def spec(self, *, space: str = "", generation: int = 1, app: str = suite.STAYS, extra: tuple[str, ...] = ()) -> ReplicaSpec:
        artifact = Artifact(ArtifactKind.IMAGE, self.engine.image(app, extra=extra))
        space_id = SpaceId(space or new_id())
        return ReplicaSpec(ReplicaId(new_id()), space_id, "alice/demo", generation, Sha("0" * 40), artifact, LaunchPlan(), suite.SMALL)

    async def make_it_exit(self, spec: ReplicaSpec) -> None:
        await knock(self.docker, spec)

    async def close(self) -> None:
        """Ours outlive the runtime, so the test removes them."""
        if not self.docker._closing.is_set():
            for seen in await self.docker.observe_all():
                await self.docker.stop(seen.replica_id, grace_s=0.0)
        await super().close()
        shutil.rmtree(self.folder, ignore_errors=True)


async def knock(runtime: DockerRuntime, spec: ReplicaSpec) -> None:
    (seen,) = await runtime.observe(spec.space_id)
    assert seen.endpoint is not None
    async with asyncio.timeout(60):
        while True:
            try:
                sock = await dial(seen.endpoint, 2.0)
            except DialError:
                await asyncio.sleep(0.02)
                continue
            await asyncio.get_running_loop().sock_sendall(sock, b"x")
            sock.close()
            return


async def until(good: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not good():
            await asyncio.sleep(0.02)


async def until_end(runtime: DockerRuntime, spec: ReplicaSpec) -> ReplicaObservation:
    async with asyncio.timeout(30):
        while True:
            (seen,) = await runtime.observe(spec.space_id)
            if seen.state.is_terminal:
                return seen
            await asyncio.sleep(0.05)


@pytest.fixture
async def harness(engine: TestEngine) -> AsyncIterator[DockerHarness]:
    made = DockerHarness(engine)
    await made.runtime.start()
    yield made
    await made.close()


globals().update({name: test for name, test in vars(suite).items() if name.startswith("test_")})


PROBE = """
import json, os, socket
def can(call):
    try:
        call(); return "yes"
    except OSError as error:
        return type(error).__name__ + str(error.errno)
def connect(host, port):
    with socket.socket() as s:
        s.settimeout(0.5); s.connect((host, port))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
route = next(line.split() for line in open("/proc/net/route") if line.split()[1] == "00000000")
gateway = socket.inet_ntoa(int(route[2], 16).to_bytes(4, "little"))
print(json.dumps({
  "uid": os.getuid(), "caps": status["CapBnd"].strip(), "no_new_privs": status["NoNewPrivs"].strip(), "seccomp": status["Seccomp"].strip(),
  "etc": can(lambda: open("/etc/x", "w")), "app": can(lambda: open("/home/user/app/x", "w")), "tmp": can(lambda: open("/tmp/x", "w")),
  "mine": len([p for p in os.listdir("/proc") if p.isdigit()]),
  "metadata": can(lambda: connect("169.254.169.254", 80)), "host": can(lambda: connect(gateway, int(os.environ["HOST_PORT"]))),
  "raw": can(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()), "socket": os.path.exists("/var/run/docker.sock"),
  "nofile": __import__("resource").getrlimit(7)[1], "gpu": os.environ["NVIDIA_VISIBLE_DEVICES"], "secret": os.environ["TOKEN"],
}), flush=True)
"""


async def test_the_floor_seen_from_inside(harness: DockerHarness) -> None:
    import json
    import socket

    with socket.create_server(("0.0.0.0", 0)) as listening:
        spec = harness.spec(app=PROBE, extra=("USER root",))
        env: dict[str, str | Sensitive] = {
            "HOST_PORT": str(listening.getsockname()[1]), "TOKEN": Sensitive("s3cret"), "NVIDIA_VISIBLE_DEVICES": "all",
        }  # fmt: skip
        await harness.docker.apply(replace(spec, env=env))
        seen = await until_end(harness.docker, spec)
    assert seen.exit_code == 0, seen
    found = json.loads(seen.log_tail[-1])
    assert (found["uid"], int(found["caps"], 16), found["no_new_privs"], found["seccomp"]) == (1000, 0, "1", "2")
    assert (found["etc"], found["app"], found["tmp"]) == ("PermissionError13", "yes", "yes")
    assert found["mine"] <= 3
    assert found["metadata"] != "yes"
    assert found["host"] != "yes"
    assert found["raw"] == "PermissionError1"
    assert not found["socket"]
    assert (found["nofile"], found["gpu"], found["secret"]) == (512, "void", "s3cret")
    await until(lambda: bool(harness.lines))


async def test_logs_reach_the_sink_and_stay_after_the_container(harness: DockerHarness) -> None:
    spec = harness.spec(app="for n in range(300): print('line', n)\nprint('end')\n")
    await harness.docker.apply(spec)
    await until_end(harness.docker, spec)
    await harness.docker.stop(spec.replica_id)
    await until(lambda: harness.lines[-1:] == ["end"])
    assert harness.lines == [*(f"line {n}" for n in range(300)), "end"]


async def test_too_much_memory_has_its_reason(harness: DockerHarness) -> None:
    spec = harness.spec(app="x = []\nwhile True: x.append(bytearray(8 << 20))\n")
    await harness.docker.apply(spec)
    seen = await until_end(harness.docker, spec)
    assert (seen.reason, seen.endpoint) == (Reason.APP_OUT_OF_MEMORY, None)


async def test_too_much_disk_has_its_reason(harness: DockerHarness) -> None:
    app = "import time\nf = open('big', 'wb')\nf.truncate(0)\nimport os\nos.posix_fallocate(f.fileno(), 0, 1100 << 20)\ntime.sleep(60)\n"
    spec = harness.spec(app=app)
    await harness.docker.apply(spec)
    assert (await until_end(harness.docker, spec)).reason is Reason.APP_DISK_FULL


async def test_its_volume_outlives_a_replica_and_ends_an_app_that_fills_it(harness: DockerHarness) -> None:
    space = Space(
        SpaceId("5a"), "ann-demo", Sdk.DOCKER, SpaceConfig(Sdk.DOCKER), storage_tier="small", storage_key="k1", storage_bytes=4_000_000
    )
    folders = VolumeFolders(harness.folder / "volumes", uid=1000)
    app = "import sys\nopen('/data/kept', 'a').write('k')\nprint(open('/data/kept').read(), flush=True)\nsys.exit(3)\n"
    for expected in ("k", "kk"):
        spec = replace(harness.spec(app=app), mounts=folders.mounts_of(space))
        await harness.docker.apply(spec)
        assert (await until_end(harness.docker, spec)).log_tail[-1] == expected
    filler = "import time\nopen('/data/big', 'wb').write(bytes(6 << 20))\ntime.sleep(60)\n"
    spec = replace(harness.spec(app=filler), mounts=folders.mounts_of(space))
    await harness.docker.apply(spec)
    assert (await until_end(harness.docker, spec)).reason is Reason.APP_DISK_FULL
    await folders.remove_all(space, "ann/demo")
    assert list((harness.folder / "volumes").iterdir()) == []


async def test_a_repository_is_read_and_not_written(harness: DockerHarness) -> None:
    """The image's user is not the one who owns the copy; links are the repository's own bytes."""
    trees, repo_id, commit = await repository_of(harness.folder / "platform")
    _, oid = await trees.pin(repo_id, "", "")
    await trees.fetch(repo_id, commit, "", oid, lambda done: None)
    place, part = await trees.at(repo_id, oid), (await trees.pin(repo_id, "", "deep/part.txt"))[1]
    await trees.fetch(repo_id, commit, "deep/part.txt", part, lambda done: None)
    mounts = (Mount(str(place), "/data/model"), Mount(str(await trees.at(repo_id, part)), "/opt/part.txt"))
    spec = replace(harness.spec(app=READS), mounts=mounts)
    await harness.docker.apply(spec)
    assert (await until_end(harness.docker, spec)).log_tail[-1] == READ


async def test_a_command_that_is_not_there_says_so(harness: DockerHarness) -> None:
    spec = harness.spec(extra=('CMD ["nowhere"]',))
    await harness.docker.apply(spec)
    seen = await until_end(harness.docker, spec)
    assert (seen.reason, seen.exit_code) == (Reason.APP_EXITED, 127)
    assert "nowhere" in seen.log_tail[-1]


async def test_an_image_without_a_command_is_refused_with_words(harness: DockerHarness) -> None:
    spec = harness.spec(extra=("CMD []",))
    with pytest.raises(Rejected, match="command") as refused:
        await harness.docker.apply(spec)
    assert refused.value.facts["reason"] == Reason.APP_EXITED.value
    assert await harness.docker.observe_all() == ()


async def test_an_image_that_cannot_be_pulled(harness: DockerHarness) -> None:
    spec = replace(harness.spec(), artifact=Artifact(ArtifactKind.IMAGE, "127.0.0.1:1/x/y@sha256:" + "0f" * 32))
    await harness.docker.apply(spec)
    (seen,) = await harness.docker.observe(spec.space_id)
    assert seen.state is ReplicaState.PENDING
    seen = await until_end(harness.docker, spec)
    assert (seen.state, seen.reason) == (ReplicaState.FAILED, Reason.IMAGE_PULL_FAILED)
    await harness.docker.stop(spec.replica_id)
    assert await harness.docker.observe(spec.space_id) == ()


async def test_a_tag_is_refused(harness: DockerHarness) -> None:
    spec = replace(harness.spec(), artifact=Artifact(ArtifactKind.IMAGE, "test/python:1"))
    with pytest.raises(Rejected, match="digest"):
        await harness.docker.apply(spec)


async def test_the_next_scheduler_finds_what_runs_and_sweeps_the_rest(harness: DockerHarness) -> None:
    spec = harness.spec(generation=3)
    await harness.docker.apply(spec)
    await until(lambda: "ready" in harness.lines)
    with harness.engine.client() as client:
        half = client.create_container(spec.artifact.ref, labels={**harness.docker._engine.inspect(
            harness.docker._names.of(spec.replica_id))["Config"]["Labels"], "com.vitrine.replica": "half"}, name="half")  # fmt: skip
    await harness.docker.close()
    harness.runtime = harness.docker = harness.new_runtime()
    await harness.docker.start()
    (seen,) = await harness.docker.observe_all()
    assert (seen.replica_id, seen.state) == (spec.replica_id, ReplicaState.STARTING)
    assert half["Id"] not in [c["Id"] for c in harness.docker._containers.everything()]
    with pytest.raises(suite.StaleGeneration):
        await harness.docker.apply(harness.spec(space=spec.space_id, generation=2))
    await harness.make_it_exit(spec)
    await until(lambda: harness.lines[-1:] == ["last words"])
    assert harness.lines == ["ready", "last words"]


async def test_an_engine_that_restarts_is_unavailable_meanwhile_and_its_apps_stay(harness: DockerHarness) -> None:
    spec = harness.spec()
    await harness.docker.apply(spec)
    await until(lambda: "ready" in harness.lines)
    await asyncio.to_thread(harness.engine.stop)
    with pytest.raises(Unavailable):
        await harness.docker.observe(spec.space_id)
    await asyncio.to_thread(harness.engine.start)
    (seen,) = await harness.docker.observe(spec.space_id)
    assert seen.state is ReplicaState.STARTING
    changes = harness.docker.changes()
    hint = asyncio.ensure_future(anext(changes))
    await knock(harness.docker, spec)
    async with asyncio.timeout(60):
        assert await hint == spec.space_id
    assert (await until_end(harness.docker, spec)).exit_code == 3
    await until(lambda: harness.lines[-1:] == ["last words"])
    await changes.aclose()  # type: ignore[attr-defined]


async def test_neighbours_cannot_reach_each_other(harness: DockerHarness) -> None:
    first = harness.spec()
    await harness.docker.apply(first)
    (seen,) = await harness.docker.observe(first.space_id)
    assert seen.endpoint is not None
    host, _, port = seen.endpoint.address.rpartition(":")
    app = f"import socket\ns = socket.socket()\ns.settimeout(1)\ns.connect(({host!r}, {port}))\n"
    second = harness.spec(app=app)
    await harness.docker.apply(second)
    ended = await until_end(harness.docker, second)
    assert ended.exit_code == 1
    assert "imed out" in ended.log_tail[-1] or "nreachable" in ended.log_tail[-1]


async def test_where_the_rules_cannot_be_loaded_only_trusted_apps_start(engine: TestEngine) -> None:
    harness = DockerHarness(engine)
    harness.runtime = harness.docker = DockerRuntime(engine.host, harness._log, harness.folder, OPTIONS, load_firewall=lambda rules: "no")
    await harness.docker.start()
    try:
        spec = harness.spec()
        with pytest.raises(Rejected) as refused:
            await harness.docker.apply(spec)
        assert refused.value.facts["reason"] == Reason.SANDBOX_UNAVAILABLE.value
        await harness.docker.apply(replace(spec, trusted=True))
        assert (await harness.docker.observe(spec.space_id))[0].state is ReplicaState.STARTING
    finally:
        await harness.close()


async def test_gpus_are_given_once(engine: TestEngine) -> None:
    harness = DockerHarness(engine, replace(OPTIONS, gpus=("0", "1")))
    await harness.docker.start()
    try:
        for flavor, holder, refusal in (
            (replace(suite.SMALL, accelerator=Accelerator("t4", 3, 16)), (), Rejected),  # never here
            (replace(suite.SMALL, accelerator=Accelerator("t4", 1, 16)), ("0", "1"), NoCapacity),  # not now
        ):
            reserved = [("10.213.255.248/29", holder)] if holder else []
            with pytest.raises(refusal, match="GPU"):
                harness.docker._containers.place(replace(harness.spec(), flavor=flavor), reserved)
        with pytest.raises(Rejected, match="needs 3 GPUs, and this machine has 2"):
            await harness.docker.apply(replace(harness.spec(), flavor=replace(suite.SMALL, accelerator=Accelerator("t4", 3, 16))))
        assert (await harness.docker.capacity()).nodes[0].gpus == 2
    finally:
        await harness.close()


async def test_builds_have_a_network_that_cannot_reach_the_host(engine: TestEngine) -> None:
    import socket

    folder = Path(tempfile.mkdtemp(prefix="v"))
    engine.tags.add(Names.of_platform(folder).tag)
    try:
        with socket.create_server(("127.0.0.1", 0)) as index, socket.create_server(("0.0.0.0", 0)) as listening, engine.client() as client:
            ports = index.getsockname()[1], listening.getsockname()[1]
            mirrors = (f"http://127.0.0.1:{ports[0]}/simple",)
            made = await asyncio.to_thread(ensure_build_network, engine.host, folder, urls=mirrors)
            assert made == await asyncio.to_thread(ensure_build_network, engine.host, folder, urls=mirrors)
            assert not made.no_buildkit
            networks = ((made.name, made.gateway), ("bridge", made.buildkit_gateway))
            for name, gateway in networks:
                assert reach(mirrors[0], gateway) == f"http://{gateway}:{ports[0]}/simple"
                app = TRIES.format(gateway=gateway, index=ports[0], closed=ports[1])
                container = client.create_container(engine.image(app), host_config=client.create_host_config(network_mode=name))
                client.start(container["Id"])
                await asyncio.to_thread(client.wait, container["Id"])
                assert client.logs(container["Id"]).split() == [b"open", b"closed", b"closed"], name
                client.remove_container(container["Id"])
            client.remove_network(made.name)
        with pytest.raises(Rejected, match="kept"):
            await asyncio.to_thread(ensure_build_network, engine.host, folder, load_firewall=lambda rules: "no")
    finally:
        shutil.rmtree(folder)


async def test_buildkit_is_left_alone_where_others_use_its_bridge(engine: TestEngine, tmp_path: Path) -> None:
    engine.tags.add(Names.of_platform(tmp_path).tag)
    with engine.client() as client:
        other = client.create_container(engine.image(STAYS_ON), host_config=client.create_host_config(network_mode="bridge"))
        client.start(other["Id"])
        try:
            made = await asyncio.to_thread(ensure_build_network, engine.host, tmp_path)
            assert "other containers" in made.no_buildkit
            assert not made.buildkit_gateway
        finally:
            client.remove_container(other["Id"], force=True)
            client.remove_network(made.name)


STAYS_ON = "import time\ntime.sleep(600)\n"
TRIES = """
import socket
for address in (("{gateway}", {index}), ("{gateway}", {closed}), ("169.254.169.254", 80)):
    s = socket.socket()
    s.settimeout(1)
    try:
        s.connect(address)
        print("open", flush=True)
    except OSError:
        print("closed", flush=True)
"""
