"""Kill -9 of a worker in the middle of a build, with a real broker, the platform's own record and its scheduler's repair.

Only the time until a silent worker counts as lost is not waited for: it is a constant, and the sum of the constants is claimed below.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest

from builder.broker import POLL_S
from builder.config import DoorConfig, WorkerConfig
from control_plane.builds.record import LOST_AFTER_S, UNHEARD_AFTER_S
from control_plane.db.engine import SystemClock
from control_plane.domain.builds import MAX_ATTEMPTS, BuildPhase, BuildStatus
from control_plane.domain.ids import SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.spaces import Build
from control_plane.queue.celery_queue import CeleryBuildQueue
from control_plane.scheduler.reconcile import REPAIR_EVERY_S
from tests.fakes.redis_server import redis_server
from tests.functional.builder.worker_program import broker_of, stuck_uv, worker_processes
from tests.functional.hub_api.running import WholePlatform
from tests.functional.scheduler.test_hardware_line import World


class LaterClock(SystemClock):
    """The scheduler's, ahead of the others by `ahead_s` seconds."""

    ahead_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.ahead_s)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholePlatform]:
    running = WholePlatform(tmp_path_factory.mktemp("crashed"))
    running.start()
    yield running
    running.stop()


def test_a_silent_worker_is_noticed_in_time() -> None:
    """Nothing that it said is newer than its crash, so these are the longest that a build waits for its next worker."""
    (beat_s,) = (float(one.default) for one in fields(WorkerConfig) if one.name == "heartbeat_s")  # type: ignore[arg-type]
    assert LOST_AFTER_S + REPAIR_EVERY_S + POLL_S < 15, "killed after its first word"
    assert UNHEARD_AFTER_S + REPAIR_EVERY_S + POLL_S < 15, "killed before it"
    assert 3 * beat_s < LOST_AFTER_S, "a worker that is only slow is not taken for dead"


@pytest.mark.parametrize(
    ("over_redis", "survives"), [(False, True), (True, True), (True, False)], ids=["spool-resumes", "redis-resumes", "redis-fails"]
)
def test_a_crashed_worker_s_build_resumes_or_fails_with_a_reason(
    platform: WholePlatform, over_redis: bool, survives: bool, tmp_path: Path, index_url: str
) -> None:
    with redis_server(tmp_path) if over_redis else contextlib.nullcontext() as server:
        crash(platform, server.url if server else "", survives, tmp_path, index_url)


def crash(platform: WholePlatform, redis_url: str, survives: bool, tmp_path: Path, index_url: str) -> None:
    door = DoorConfig(platform.built.internal_secret, base_url=platform.url)
    options, clock = broker_of(tmp_path, redis_url), LaterClock()
    queue = CeleryBuildQueue(options.url, transport=options.transport, transport_options=options.transport_options)
    world = World(platform.built.database, clock, queue)
    space_id = a_space(platform, f"{'redis' if redis_url else 'spool'}-{'yes' if survives else 'no'}")

    def turn() -> None:
        platform.run(world.scheduler._repair_builds())
        platform.run(world.scheduler.reconcile_space(space_id))

    def build() -> Build:
        return platform.run(latest(platform, space_id))

    def resolving(attempt: int) -> bool:
        return (build().attempt, build().phase) == (attempt, BuildPhase.RESOLVE)

    def noticed(attempt: int) -> bool:
        turn()
        return build().attempt > attempt or build().status.is_terminal

    with worker_processes(tmp_path, door, index_url) as start:
        turn()
        with deaf_door() as (url, first_word):
            victim = start(redis=redis_url, url=url)
            assert b'"started"' in first_word(), "it has taken the message, and nobody has heard so"
            victim.kill()
            victim.wait()
        assert platform.run(queue.waiting()) == frozenset() and build().status is BuildStatus.QUEUED
        clock.ahead_s = UNHEARD_AFTER_S
        until(lambda: platform.run(world.scheduler._repair_messages()) or build().submitted_at is None)
        clock.ahead_s = 0.0
        for attempt in range(1, 2 if survives else MAX_ATTEMPTS + 1):
            turn()
            victim = start(uv=stuck_uv(tmp_path), redis=redis_url)
            until(partial(resolving, attempt))
            victim.kill()
            victim.wait()
            clock.ahead_s = LOST_AFTER_S
            began = time.monotonic()
            if survives:
                start(redis=redis_url)
            until(partial(noticed, attempt))
            clock.ahead_s = 0.0
        until(lambda: build().status.is_terminal)
    took_s = time.monotonic() - began
    print(f"noticed {LOST_AFTER_S + REPAIR_EVERY_S:g} s after the crash at the latest; then {took_s:.1f} s until the build's end")
    ended = build()
    if survives:
        assert (ended.status, ended.attempt) == (BuildStatus.SUCCEEDED, 2), ended.message
    else:
        assert (ended.status, ended.reason, ended.attempt) == (BuildStatus.FAILED, Reason.BUILD_LOST, MAX_ATTEMPTS), ended
        assert "went away" in ended.message
    platform.run(world.scheduler.close())
    platform.run(queue.close())


@contextlib.contextmanager
def deaf_door() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """An address that takes requests and answers none, and the first request to it."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as held:
        server.settimeout(60)

        def first_word() -> bytes:
            asking, said = held.enter_context(server.accept()[0]), b""
            asking.settimeout(60)
            while not said.endswith(b"}"):
                said += asking.recv(65536)
            return said

        yield f"http://127.0.0.1:{server.getsockname()[1]}", first_word


async def latest(platform: WholePlatform, space_id: SpaceId) -> Build:
    async with platform.built.uow.read() as uow:
        found = await uow.builds.latest(space_id)
    assert found is not None
    return found


def a_space(platform: WholePlatform, name: str) -> SpaceId:
    headers = {"Authorization": f"Bearer {platform.admin_token}"}
    made = httpx.post(f"{platform.url}/api/repos/create", json={"name": name, "type": "space", "sdk": "gradio"}, headers=headers)
    assert made.status_code == 200, made.text
    files = {"README.md": "---\nsdk: gradio\n---\n", "app.py": "import gradio\n"}
    lines = [{"key": "header", "value": {"summary": "x"}}]
    lines += [{"key": "file", "value": {"path": path, "content": text, "encoding": "utf-8"}} for path, text in files.items()]
    done = httpx.post(f"{platform.url}/api/spaces/admin/{name}/commit/main", content="\n".join(map(json.dumps, lines)), headers=headers)
    assert done.status_code == 200, done.text
    return SpaceId(made.json()["id"])


def until(good: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < end
        time.sleep(0.05)
