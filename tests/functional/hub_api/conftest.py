from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.hub_api.running import Platform

# Clients read these once at import; a test machine's own sign-in must never reach a test.
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_IMPLICIT_TOKEN="1", HF_HUB_DISABLE_XET="1")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(tmp_path_factory.mktemp("platform")).start()
    running.user("alice")
    running.user("bob")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def alice(platform: Platform) -> str:
    return platform.token("alice")


@pytest.fixture(scope="module")
def bob(platform: Platform) -> str:
    return platform.token("bob")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
