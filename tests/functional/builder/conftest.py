from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from builder.broker import broker_options, prepare_spool
from builder.config import ToolConfig, WorkerConfig
from builder.worker import BuildWorker
from control_plane.domain.builds import BuildRequest, SourceKind
from control_plane.domain.ids import BuildId, Sha, SpaceId
from tests.functional.builder.door import FakeDoor
from tests.functional.builder.wheels import make_index, make_source, make_wheel

# What a package can find while it is built from source.
LOOK_AROUND = """
import os, socket
found["uid"] = os.getuid()
found["environment"] = sorted(os.environ)
found["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
names = ("queue", "secret.key", "bundles/other", "cache/uv", "envs/.resolved")
found["seen"] = [name for name in names if os.path.exists(DATA + "/" + name)]
try:
    socket.create_connection(("127.0.0.1", PORT), 1).close()
    found["loopback"] = True
except OSError:
    found["loopback"] = False
""".replace("DATA", "os.environ.get('UV_CACHE_DIR', '').split('/cache/')[0]").replace("PORT", "22")


def build_request(**changes: Any) -> BuildRequest:
    request = BuildRequest(
        build_id=BuildId("b" * 24),
        space_id=SpaceId("a" * 24),
        space_name="alice/demo",
        tenant="alice",
        revision=Sha("c" * 40),
        sdk="gradio",
        sdk_version=None,
        python_version=None,
        app_file="app.py",
        app_port=7860,
        target=SourceKind.PROCESS,
    )
    return replace(request, **changes)


@pytest.fixture
def door() -> Iterator[FakeDoor]:
    fake = FakeDoor()
    yield fake
    fake.close()


@pytest.fixture(scope="session")
def index_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    wheels = tmp_path_factory.mktemp("packages") / "wheels"
    make_wheel(wheels, "gradio", "6.0.0", requires=("tinydep>=1",))
    make_wheel(wheels, "gradio", "5.0.0", requires=("tinydep>=1",))
    make_wheel(wheels, "streamlit", "1.50.0")
    make_wheel(wheels, "tinydep", "1.0")
    make_wheel(wheels, "tinydep", "2.0")
    make_source(wheels, "fromsource", "1.0", LOOK_AROUND)
    return make_index(wheels)


@dataclass
class Workplace:
    """A worker with its door and folders."""

    worker: BuildWorker
    door: FakeDoor
    config: WorkerConfig
    others: list[BuildWorker] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        return self.config.data_dir

    def another(self) -> BuildWorker:
        other = BuildWorker(replace(self.config, name="other"))
        self.others.append(other)
        return other

    def close(self) -> None:
        for one in (self.worker, *self.others):
            one.close()


@pytest.fixture
def make_workplace(tmp_path: Path, door: FakeDoor, index_url: str) -> Iterator[Any]:
    made: list[Workplace] = []

    def make(**tools: Any) -> Workplace:
        options = broker_options(None, tmp_path / "data/queue")
        prepare_spool(options)
        config = WorkerConfig(
            broker=options,
            door=door.config,
            data_dir=tmp_path / "data",
            name="worker-1",
            heartbeat_s=0.05,
            tools=ToolConfig(**{"pypi_index_url": index_url, **tools}),
        )
        place = Workplace(BuildWorker(config), door, config)
        made.append(place)
        return place

    yield make
    for place in made:
        place.close()


@pytest.fixture
def workplace(make_workplace: Any) -> Workplace:
    place: Workplace = make_workplace()
    return place
