"""The builder's side of the guard, and what it does when there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.engines.kit_guard import GuardClient, GuardedWatch, KitGuard
from builder.errors import BuildFailed
from control_plane.domain.reasons import Reason


@pytest.fixture
def asked() -> list[tuple[str, int, float]]:
    return []


@pytest.fixture
def guard(tmp_path: Path, asked: list[tuple[str, int, float]]) -> Iterator[KitGuard]:
    def limit(info: Mapping[str, Any], memory_bytes: int, cpu: float) -> bool:
        asked.append((info["CgroupDriver"], memory_bytes, cpu))
        return True

    with KitGuard(tmp_path / "g.sock", limit) as made:
        serving = threading.Thread(target=made.serve_forever)
        serving.start()
        yield made
        made.shutdown()
        serving.join()


def test_only_its_group_may_ask(guard: KitGuard, tmp_path: Path) -> None:
    assert (tmp_path / "g.sock").stat().st_mode & 0o777 == 0o770


def test_limits_are_put_in_force_for_whoever_asks(guard: KitGuard, tmp_path: Path, asked: list[tuple[str, int, float]]) -> None:
    client = GuardClient(str(tmp_path / "g.sock"))
    assert client.ask(do="limit", info={"CgroupDriver": "cgroupfs"}, memory_bytes=1 << 30, cpu=2.0) == {"limited": True}
    assert asked == [("cgroupfs", 1 << 30, 2.0)]


def test_a_watch_lasts_as_long_as_its_build_and_tells_what_it_ended(guard: KitGuard, tmp_path: Path) -> None:
    watch, began = GuardedWatch(GuardClient(str(tmp_path / "g.sock")), tmp_path, 1000), time.monotonic()
    theirs = guard.watch(str(tmp_path), 1000)
    with watch.watching():
        assert theirs._users == 1
        assert watch.ended(began) == 0
        theirs._ended.append((time.monotonic(), 2000))
    assert watch.ended(began) == 2000
    assert watch.ended(time.monotonic()) == 0


def test_rubbish_ends_one_conversation_and_no_other(guard: KitGuard, tmp_path: Path) -> None:
    client = GuardClient(str(tmp_path / "g.sock"))
    for rubbish in ({"do": "limit"}, {}, {"do": "reboot"}, {"do": "watch", "root": "/", "limit_bytes": "many"}):
        with pytest.raises(BuildFailed):
            client.ask(**rubbish)
    assert client.ask(do="ended", root="/", limit_bytes=1, since=0.0) == {"written": 0}


def test_without_its_guard_a_build_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed) as failed, GuardedWatch(GuardClient(str(tmp_path / "none")), tmp_path, 1).watching():
        raise AssertionError("a step that nobody bounds")
    assert failed.value.reason is Reason.BUILD_LOST
