"""The builder with a real Docker Engine and a real registry: `pytest -m docker tests/e2e/docker`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from builder.broker import broker_options
from builder.catalog import load_catalog
from builder.config import WorkerConfig
from builder.engines.docker_engine import DockerConfig, DockerEngine, find_buildkit_client
from builder.engines.kit_guard import KitGuard
from builder.images import ImageBuilder, ImageConfig
from builder.reporter import CancelToken
from builder.steps import StepRunner
from builder.worker import BuildWorker
from control_plane.domain.builds import ArtifactKind, BuildEvent, BuildEventKind, BuildLimits, BuildVerdict, SourceKind
from control_plane.domain.ids import BuildId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.runtimes.docker.build_limits import limit_buildkit
from control_plane.runtimes.docker.build_network import BuildNetwork, ensure_build_network, reach
from control_plane.runtimes.docker.manifests import Names
from tests.contract.docker_engine import TestEngine
from tests.e2e.docker.conftest import marks, sleepers, until
from tests.functional.builder.changing_index import ChangingIndex
from tests.functional.builder.conftest import build_request
from tests.functional.builder.door import FakeDoor, tar_of

pytestmark = list(marks)
APP = {"app.py": "import gradio\nprint(gradio.VERSION)\n", "requirements.txt": "tinydep\n"}


class Lines:
    def line(self, text: str) -> None:
        return


@pytest.fixture(scope="module")
def changing_index(folder: Path) -> Iterator[ChangingIndex]:
    """Names a release, and has no file behind it when that is fetched for the first time."""
    with ChangingIndex(folder / "changing", gone=1) as index:
        yield index


@pytest.fixture(scope="module")
def network(host: TestEngine, folder: Path, http_index: str, changing_index: ChangingIndex) -> BuildNetwork:
    host.tags.add(Names.of_platform(folder).tag)
    return ensure_build_network(host.host, folder, urls=(http_index, changing_index.url))


@pytest.fixture
def make_worker(
    tmp_path: Path, engine: DockerEngine, engine_host: str, registry: str, http_index: str, network: BuildNetwork
) -> Iterator[Any]:
    door = FakeDoor()
    workers: list[BuildWorker] = []

    def make(*, buildkit: bool = False, used: DockerEngine = engine, guard: str = "", **changes: Any) -> tuple[BuildWorker, FakeDoor]:
        if buildkit:
            client = find_buildkit_client(StepRunner(Lines(), BuildLimits(), CancelToken()))
            if not client:
                pytest.skip("no docker client here that can drive BuildKit")
            used = DockerEngine(DockerConfig(host=engine_host, buildkit_cli=client, guard=guard))
        mirrors = {"pypi_index_url": reach(http_index, network.gateway), "kit_index_url": reach(http_index, network.buildkit_gateway)}
        config = replace(ImageConfig(registry=registry, build_network=network.name, **mirrors), **changes)
        worker = BuildWorker(
            WorkerConfig(broker=broker_options(None, tmp_path / "queue"), door=door.config, data_dir=tmp_path / "data", heartbeat_s=0.1),
            images=ImageBuilder(used, load_catalog(), config),
        )
        workers.append(worker)
        return worker, door

    yield make
    for worker in workers:
        worker.close()
    door.close()


def image_request(number: int, **changes: Any) -> Any:
    return build_request(build_id=BuildId(f"{number:024x}"), target=SourceKind.IMAGE, **changes)


def test_a_gradio_space_becomes_an_image_by_digest(make_worker: Any, engine_host: str, http_index: str) -> None:
    worker, door = make_worker()
    door.source = tar_of(APP)
    worker.handle(image_request(1).to_payload())
    event = door.last()
    assert event.kind is BuildEventKind.SUCCEEDED, (event, door.lines[-20:])
    artifact = event.result.artifact
    assert artifact.kind is ArtifactKind.IMAGE and "@sha256:" in artifact.ref

    client = docker.DockerClient(base_url=engine_host, version="1.41")
    output = client.containers.run(
        artifact.ref, ["sh", "-c", "id -u; python app.py; pwd"], network_mode="none", remove=True, read_only=True, cap_drop=["ALL"]
    )
    assert output.decode().split() == ["1000", "6.0.0", "/home/user/app"]
    history = str(client.images.get(artifact.ref).history()) + str(client.images.get(artifact.ref).attrs)
    assert http_index not in history
    client.close()

    door.lines.clear()
    door.source = tar_of({**APP, "app.py": "print('second')\n"})
    worker.handle(image_request(2).to_payload())
    assert door.last().kind is BuildEventKind.SUCCEEDED
    steps = [index for index, line in enumerate(door.lines) if line.startswith("Step ")]
    made = [line for index, line in enumerate(door.lines) if index - 1 in steps and "Using cache" not in line and "--->" not in line]
    assert not any("Running in" in line for line in made[:-1]), door.lines

    worker.handle(image_request(3, space_id=SpaceId("e" * 24), tenant="bob").to_payload())
    assert door.last().kind is BuildEventKind.SUCCEEDED


def test_an_index_that_changes_its_mind_is_asked_once_more(make_worker: Any, network: BuildNetwork, changing_index: ChangingIndex) -> None:
    worker, door = make_worker(pypi_index_url=reach(changing_index.url, network.gateway))
    door.source = tar_of({"app.py": "", "requirements.txt": "tinydep\n"})
    worker.handle(image_request(17).to_payload())
    assert door.last().kind is BuildEventKind.SUCCEEDED, (door.last(), door.lines[-20:])
    assert sum("once more, past its caches" in line for line in door.lines) == 1
    assert any("404 Not Found" in line for line in door.lines), door.lines


@pytest.mark.parametrize(
    ("dockerfile", "reason"),
    [
        ("FROM vitrine/python:3.11\n" + "RUN true\n" * 120, Reason.SOURCE_REJECTED),
        ("FROM vitrine/python:3.1\n", Reason.PYTHON_MISSING),
        ("FROM vitrine/python:3.11\nRUN --mount=type=secret,id=A cat /run/secrets/A\n", Reason.UNSUPPORTED_HERE),
        ("FROM absent/nowhere:1\n", Reason.DOCKERFILE_FAILED),
    ],
)
def test_a_docker_space_that_cannot_be_built_says_why(make_worker: Any, engine_host: str, dockerfile: str, reason: Reason) -> None:
    worker, door = make_worker()
    door.source = tar_of({"Dockerfile": dockerfile})
    worker.handle(image_request(4, sdk="docker").to_payload())
    assert (door.last().kind, door.last().reason) == (BuildEventKind.FAILED, reason.value), door.last()
    assert_nothing_runs(engine_host)


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[str]:
    """As `vitrine serve guard` runs it, for a builder that has no rights itself."""
    with KitGuard(tmp_path / "guard.sock", limit_buildkit) as made:
        serving = threading.Thread(target=made.serve_forever)
        serving.start()
        yield str(tmp_path / "guard.sock")
        made.shutdown()
        serving.join()


@pytest.mark.parametrize(
    ("guarded", "step"),
    [
        (False, "RUN --mount=type=tmpfs,target=/unused yes > /tmp/big"),
        (True, "RUN --mount=type=cache,target=/cache,uid=1000 yes > /cache/big"),
    ],
)
def test_a_step_that_writes_without_end(
    make_worker: Any, engine_host: str, guard: str, guarded: bool, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BuildKit has no quota for what a step writes, so it is measured, and the step ended. The classic builder: test_bad_input."""
    if guarded:
        monkeypatch.setattr("builder.engines.docker_engine.KitWatch", None)
    worker, door = make_worker(buildkit=True, guard=guard if guarded else "")
    door.source = tar_of({"Dockerfile": f"FROM vitrine/python:3.11\n{step}\n"})
    worker.handle(image_request(16, sdk="docker", limits=BuildLimits(disk_bytes=300 << 20)).to_payload())
    assert (door.last().kind, door.last().reason) == (BuildEventKind.FAILED, Reason.BUILD_DISK.value), (door.last(), door.lines[-5:])
    assert "more than the limit of 300 MiB" in door.last().message
    assert_nothing_runs(engine_host)


def test_buildkit_s_cache_does_not_grow_for_ever(make_worker: Any, engine: DockerEngine, engine_host: str) -> None:
    worker, door = make_worker(buildkit=True)
    step = "RUN --mount=type=cache,target=/cache,uid=1000 head -c 30000000 /dev/urandom > /cache/big"
    door.source = tar_of({"Dockerfile": f"FROM vitrine/python:3.11\n{step}\n"})
    worker.handle(image_request(18, sdk="docker").to_payload())
    assert door.last().kind is BuildEventKind.SUCCEEDED, (door.last(), door.lines[-20:])

    def cached() -> int:
        client = docker.APIClient(base_url=engine_host, version="1.41")
        try:
            return sum(one["Size"] for one in client.df()["BuildCache"] or () if not one["Shared"])
        finally:
            client.close()

    runner = StepRunner(Lines(), BuildLimits(), CancelToken())
    assert cached() > 30_000_000
    engine.prune(runner, keep=5, dry_run=True, cache_bytes=0)
    assert cached() > 30_000_000
    engine.prune(runner, keep=5, dry_run=False, cache_bytes=10_000_000)
    assert cached() <= 10_000_000


def test_a_cancel_stops_the_engine(make_worker: Any, engine_host: str) -> None:
    worker, door = make_worker()
    door.source = tar_of({"Dockerfile": "FROM vitrine/python:3.11\nRUN sleep 600\n"})
    door.verdict = lambda event: BuildVerdict.STOP if stops(event, door) else BuildVerdict.GO_ON
    worker.handle(image_request(5, sdk="docker").to_payload())
    assert door.kinds()[-1] is BuildEventKind.PHASE
    assert_nothing_runs(engine_host)


def stops(event: BuildEvent, door: FakeDoor) -> bool:
    return event.kind is BuildEventKind.HEARTBEAT and any("Running in" in line for line in door.lines)


def test_secrets_are_mounted_and_stay_nowhere(make_worker: Any, engine_host: str, registry: str, http_index: str, tmp_path: Path) -> None:
    worker, door = make_worker(buildkit=True)
    dockerfile = (
        "FROM vitrine/python:3.11\n"
        "RUN --mount=type=secret,id=TOKEN,mode=0444,required=true cat /run/secrets/TOKEN && wc -c < /run/secrets/TOKEN > /home/user/size\n"
        "ARG GREETING\nRUN echo $GREETING > /home/user/greeting\n"
    )
    door.source = tar_of({"Dockerfile": dockerfile})
    worker.handle(image_request(7, sdk="docker", secret_names=("TOKEN", "OTHER"), variables={"GREETING": "hello", "X": "y"}).to_payload())
    event = door.last()
    assert event.kind is BuildEventKind.SUCCEEDED, (event, door.lines[-20:])
    assert any("[secret]" in line for line in door.lines)
    assert not any("s3cret" in line for line in door.lines)
    client = docker.DockerClient(base_url=engine_host, version="1.41")
    image = client.images.get(event.result.artifact.ref)
    output = client.containers.run(image.id, ["cat", "/home/user/size", "/home/user/greeting"], network_mode="none", remove=True)
    assert output.decode().split() == ["6", "hello"]
    assert "s3cret" not in str(image.history()) + str(image.attrs)
    assert b"s3cret" not in b"".join(image.save())
    client.close()


def test_what_dockerignore_names_is_not_in_the_image(make_worker: Any) -> None:
    worker, door = make_worker()
    check = "RUN test -e /x/kept.txt && test -e /x/sub/also.txt && test ! -e /x/sub/left.log && test ! -e /x/notes\n"
    files = {".dockerignore": "# ours\nnotes\n**/*.log\n", "kept.txt": "", "sub/also.txt": "", "sub/left.log": "", "notes/n.md": ""}
    door.source = tar_of({"Dockerfile": "FROM vitrine/python:3.11\nCOPY . /x\n" + check, **files})
    worker.handle(image_request(10, sdk="docker").to_payload())
    assert door.last().kind is BuildEventKind.SUCCEEDED, door.lines[-10:]


def test_an_engine_that_restarts_in_the_middle(make_worker: Any, host: TestEngine) -> None:
    """With BuildKit; the classic builder: test_bad_input."""
    worker, door = make_worker(buildkit=True)
    door.source = tar_of({"Dockerfile": "FROM vitrine/python:3.11\nRUN --mount=type=cache,target=/x sleep 31337\n"})
    building = threading.Thread(target=worker.handle, args=(image_request(11, sdk="docker").to_payload(),))
    building.start()
    try:
        until(lambda: sleepers("31337"), 60, "the step")
        host.stop()
    finally:
        if host.process is None:
            host.start()
        building.join(60)
    assert (door.last().kind, door.last().reason) == (BuildEventKind.FAILED, Reason.BUILD_LOST.value), door.last()
    assert Reason.BUILD_LOST.is_retryable
    until(lambda: not sleepers("31337"), 30, "the end of the step that nobody waits for")
    door.source = tar_of({"Dockerfile": "FROM vitrine/python:3.11\nRUN true\n"})
    worker.handle(image_request(13, sdk="docker").to_payload())
    assert door.last().kind is BuildEventKind.SUCCEEDED, door.lines[-10:]


def assert_nothing_runs(engine_host: str) -> None:
    client = docker.APIClient(base_url=engine_host, version="1.41")
    try:
        for _ in range(100):
            if not client.containers():
                return
            time.sleep(0.1)
        raise AssertionError(client.containers())
    finally:
        client.close()
