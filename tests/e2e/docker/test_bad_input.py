"""Everything that a hostile or clumsy commit can ask of the Docker runtime, on one whole platform: a reason, words, the old version serves.

Engine and registry have small disks of their own, so that both can be full. The slow cases run beside the quick ones: each Space here
serves a good version before its bad one is pushed, and `slow` pushes those that take their time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.engines.docker_prune import forget_unfinished
from control_plane.runtimes.docker.manifests import Names
from tests.contract.docker_engine import TestEngine
from tests.e2e.conftest import Platform, Work, start_platform, stop_platform
from tests.e2e.docker.conftest import Registry, marks, until

pytestmark = list(marks)
MIB = 1 << 20
TIME_LIMIT_S = 75  # many times what a good build takes, and no longer than the other cases beside it
ENGINE_MIB, REGISTRY_MIB, ROOM_MIB = 900, 200, 96  # `ROOM_MIB`: what a build may write beside its base image
BASE = "FROM test/python:1\nUSER root\n"
SERVES = f'{BASE}WORKDIR /srv\nCOPY . .\nCMD ["/usr/bin/python", "-m", "http.server", "7860"]\n'


def python(code: str) -> str:
    """As a RUN or CMD has it: the base image has no shell."""
    return json.dumps(["/usr/bin/python", "-uc", code])


def writes(mib: int) -> str:
    return f"f = open('/big{mib}', 'wb'); [f.write(b'0' * {MIB}) for _ in range({mib})]"


@contextlib.contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Nothing more can be written there."""
    filler = folder / "filler"
    with open(filler, "wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * MIB)
            file.flush()
    try:
        yield
    finally:
        filler.unlink()


@dataclass
class Site:
    """A platform, what it runs on, and the clones of its Spaces."""

    platform: Platform
    engine: TestEngine
    registry: Registry
    folder: Path
    disk_bytes: int  # of one build
    clones: dict[str, Work] = field(default_factory=dict)

    def space(self, name: str, *, more: str = "") -> Work:
        """A Space that is on its way to serve its first version."""
        self.platform.create(name, "docker")
        work = self.clones[name] = Work(self.platform, name, self.folder / name)
        work.write(README__md=f"---\ntitle: T\nsdk: docker\n{more}---\n", Dockerfile=SERVES, index__html="good")
        work.push("good", wait=False)
        return work

    def serves(self, name: str) -> bool:
        return "good" in self.platform.app(f"admin-{name}", "/index.html").text

    def told(self, name: str) -> dict[str, str]:
        """Code and words of why its newest version is not there."""
        return dict(self.platform.runtime(name).get("reason") or {})  # type: ignore[call-overload]

    def until_told(self, name: str, code: str, words: str, seconds: float = 90) -> None:
        def found() -> bool:
            told = self.told(name)
            return told.get("code") == code and words in told["message"]

        until(found, seconds, f"{code} of {name}, which says {self.told(name)},")
        assert self.serves(name)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True)))
        engine = TestEngine(Path(tempfile.mkdtemp(prefix="v")))
        held.callback(engine.remove)
        held.enter_context(small_disk(engine.folder / "data", ENGINE_MIB))
        engine.start()
        engine.image("print(1)")
        with engine.client() as client:
            disk_bytes = int(client.inspect_image("test/python:1")["Size"]) + ROOM_MIB * MIB
        held.enter_context(small_disk(folder / "registry" / "registry", REGISTRY_MIB))
        registry = Registry(folder / "registry")
        registry.start()
        held.callback(registry.stop)
        (folder / "tmp").mkdir(mode=0o777)
        data = folder / "d"
        engine.tags.add(Names.of_platform(data).tag)
        settings = {
            "VITRINE_DOCKER_HOST": engine.host, "VITRINE_REGISTRY": registry.prefix, "VITRINE_DRAIN_S": "1", "TMPDIR": str(folder / "tmp"),
            "SSL_CERT_FILE": "",  # as on most machines: where one is named, it reaches builds through BuildKit
            "VITRINE_BUILD_DISK_BYTES": str(disk_bytes), "VITRINE_BUILD_TIME_LIMIT_S": str(TIME_LIMIT_S), "VITRINE_BUILD_CONCURRENCY": "3",
        }  # fmt: skip
        platform = start_platform(data, "--runtime", "docker", env=settings)
        held.callback(stop_platform, platform)
        yield Site(platform, engine, registry, folder, disk_bytes)


@pytest.fixture(scope="module")
def slow(site: Site) -> Site:
    """Every Space serves, and those with a bad version that takes its time have been given it."""
    for name in ("quick", "endless", "elsewhere"):
        site.space(name)
    site.space("silent", more="startup_duration_timeout: 15s\n")
    for name in site.clones:
        found = site.platform.until(name, "RUNNING", "BUILD_ERROR", "RUNTIME_ERROR", seconds=120)
        assert found["stage"] == "RUNNING" and site.serves(name), found
    bad = {
        "silent": f"CMD {python('import time; time.sleep(600)')}",
        "elsewhere": 'CMD ["/usr/bin/python", "-m", "http.server", "9999"]',
        "endless": f"RUN {python('import time; time.sleep(600)')}",
    }
    for name, line in bad.items():
        site.clones[name].write(Dockerfile=f"{BASE}{line}\n")
        site.clones[name].push("bad", wait=False)
    return site


WANTS_ROOT = 'import os; raise SystemExit(f"this wants root, and is {os.getuid()}")'
QUICK = (
    ("RUN --network=host id", "SOURCE_REJECTED", "line 3"),
    ("RUN --security=insecure id", "SOURCE_REJECTED", "line 3"),
    ("RUN --device=nvidia.com/gpu=all id", "SOURCE_REJECTED", "line 3"),
    ("ADD http://169.254.169.254/latest /x", "SOURCE_REJECTED", "line 3"),
    ("RUN true\n" * 10_000, "SOURCE_REJECTED", "more than 500 instructions"),
    (f"RUN {python('raise SystemExit(3)')}", "DOCKERFILE_FAILED", "non-zero code: 3"),
    (f"RUN {python('while True: print(chr(48) * 1000)')}", "BUILD_LOG_FLOOD", "printed more than"),
    (f"RUN {python(writes(ROOM_MIB * 2) + '; import time; time.sleep(60)')}", "BUILD_DISK", "A step wrote"),
    ("".join(f"RUN {python(writes(ROOM_MIB * 2 // 3 + one))}\n" for one in range(2)), "BUILD_DISK", "The image has"),
    ("COPY absent /x", "DOCKERFILE_FAILED", "absent"),
    (f"CMD {python(WANTS_ROOT)}", "APP_EXITED", "is 1000"),
)


def test_a_dockerfile_that_asks_for_too_much(slow: Site) -> None:
    work = slow.clones["quick"]
    for rest, reason, words in QUICK:
        work.write(Dockerfile=f"{BASE}{rest}\n")
        said = work.push("bad")
        assert reason in said and words in said and "keeps serving" in said, said
        assert slow.told("quick")["code"] == reason and slow.serves("quick")


def test_a_context_that_is_too_large(slow: Site) -> None:
    work = slow.clones["quick"]
    work.write(Dockerfile=SERVES, **{f"part{number}": "0" * (9 * MIB) for number in range(12)})
    said = work.push("bad")
    assert "BUILD_DISK" in said and "larger than the" in said and "keeps serving" in said, said
    assert slow.told("quick")["code"] == "BUILD_DISK" and slow.serves("quick")
    work.git("rm", "-q", *(f"part{number}" for number in range(12)))


def test_a_registry_that_is_away_and_then_full(slow: Site) -> None:
    work = slow.clones["quick"]
    slow.registry.stop()
    try:
        work.write(Dockerfile=SERVES, index__html="good, and late")
        work.push("late", wait=False)
        until(lambda: "could not be pushed" in slow.told("quick").get("message", str(slow.platform.runtime("quick"))), 60, "the first try")
        with full(slow.folder / "registry/registry"):
            slow.registry.start()
            slow.until_told("quick", "REGISTRY_UNAVAILABLE", "is its disk full?")
    finally:
        slow.registry.start()
    until(lambda: "late" in slow.platform.app("admin-quick", "/index.html").text, 60, "the version")


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("silent", "APP_NEVER_LISTENED", "nothing listened on port 7860 within 15 s"),
        ("elsewhere", "APP_WRONG_PORT", "the app listens on 9999, not on 7860"),
        ("endless", "BUILD_TIMEOUT", f"longer than its limit of {TIME_LIMIT_S} s"),
    ],
)
def test_a_version_that_never_comes_up(slow: Site, name: str, reason: str, words: str) -> None:
    """No port, the wrong one, no end."""
    slow.until_told(name, reason, words)


def test_an_engine_that_restarts_in_the_middle_of_a_build(slow: Site) -> None:
    work = slow.clones["quick"]
    work.write(
        Dockerfile=f"{BASE}RUN {python('import time; time.sleep(4)')}\n{SERVES.partition('USER root')[2]}", index__html="good, and later"
    )
    work.push("later", wait=False)
    with slow.engine.client() as client:
        until(lambda: any("sleep(4)" in one["Command"] for one in client.containers()), 60, "the step")
    slow.engine.stop()
    try:
        assert slow.serves("quick"), "what runs goes on without its engine"
    finally:
        slow.engine.start()
    slow.until_told("quick", "BUILD_LOST", "")
    until(lambda: "later" in slow.platform.app("admin-quick", "/index.html").text, 60, "the version")


def test_a_disk_of_the_engine_that_is_full(slow: Site) -> None:
    work = slow.clones["quick"]
    work.write(Dockerfile=f"{BASE}RUN {python(writes(20))}\n")
    with full(slow.engine.folder / "data"):
        said = work.push("bad")
        assert "BUILD_DISK" in said and "keeps serving" in said, said
        assert "full" in slow.told("quick")["message"] and slow.serves("quick")
    work.write(Dockerfile=SERVES, index__html="good again")
    assert "Live at" in work.push("good again")


def test_hardware_that_this_machine_has_not(slow: Site) -> None:
    for flavor, words in (("t4-small", "t4-small needs 1 GPU, and this machine has none"), ("a10g-largex4", "needs 4 GPUs")):
        asked = slow.platform.api("POST", "/api/spaces/admin/quick/hardware", json={"flavor": flavor})
        assert asked.status_code == 200, asked.text
        slow.until_told("quick", "UNSUPPORTED_HERE", words)
    assert slow.platform.api("POST", "/api/spaces/admin/quick/hardware", json={"flavor": "cpu-basic"}).status_code == 200
    slow.platform.until("quick", "RUNNING")
    until(lambda: not slow.told("quick"), 60, "the end of that")
    assert slow.serves("quick")


def test_nothing_is_left_of_all_that(slow: Site) -> None:
    with slow.engine.client() as client:

        def containers() -> list[str]:
            return sorted(one["Labels"].get("com.vitrine.replica", "a step") for one in client.containers(all=True))

        until(lambda: len(containers()) == len(slow.clones), 60, "the end of what drains")
        assert "a step" not in containers()
        own = len(slow.clones) + 1  # one for each app, and one for builds
        until(lambda: sum(one["Name"].startswith("vitrine-") for one in client.networks()) == own, 60, "the end of their networks")
        sizes = [int(one["Size"]) for one in client.images()]
        assert max(sizes) < slow.disk_bytes, "no image that was refused"
        forget_unfinished(client, "0s")  # as each push does with those of the day before
        assert client.images(filters={"dangling": True}) == []
    assert all(map(slow.serves, slow.clones))
    assert os.listdir(slow.folder / "tmp") == []
    assert not [left for left in slow.platform.data_dir.glob("bundles/*/.new-*") if left.is_dir()]
