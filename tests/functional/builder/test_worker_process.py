"""The worker as its own process: starts, takes messages from the spool, survives rubbish, dies cleanly and uncleanly."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.domain.builds import BuildEvent, BuildEventKind, BuildPhase, BuildVerdict
from control_plane.domain.ids import BuildId
from control_plane.domain.reasons import Reason
from control_plane.queue.celery_queue import CeleryBuildQueue
from tests.functional.builder.conftest import build_request
from tests.functional.builder.door import FakeDoor, tar_of
from tests.functional.builder.worker_program import Start, broker_of, stuck_uv, worker_processes


@pytest.fixture
def start(tmp_path: Path, door: FakeDoor, index_url: str) -> Iterator[Start]:
    with worker_processes(tmp_path, door.config, index_url) as starts:
        yield starts


def submit(tmp_path: Path, *requests: Any, redis: str = "") -> None:
    options = broker_of(tmp_path, redis)
    queue = CeleryBuildQueue(options.url, transport=options.transport, transport_options=options.transport_options)

    async def send() -> None:
        for request in requests:
            await queue.submit(request)
        await queue.close()

    asyncio.run(send())


def test_messages_sent_before_and_after_the_start_are_built(start: Start, door: FakeDoor, tmp_path: Path) -> None:
    door.source = tar_of({"app.py": "x = 1\n"})
    submit(tmp_path, build_request())
    (tmp_path / "queue/inbox/0.vitrine-builds.msg").write_bytes(b"rubbish")
    process = start()
    assert door.wait(lambda: BuildEventKind.SUCCEEDED in door.kinds())
    submit(tmp_path, build_request(build_id=BuildId("e" * 24)))
    assert door.wait(lambda: door.kinds().count(BuildEventKind.SUCCEEDED) == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_a_doubled_message_has_one_effect(start: Start, door: FakeDoor, tmp_path: Path) -> None:
    door.source = tar_of({"app.py": "x = 1\n"})
    started: set[str] = set()

    def verdict(event: BuildEvent) -> BuildVerdict:
        if event.kind is BuildEventKind.STARTED:
            if event.build_id in started:
                return BuildVerdict.STOP
            started.add(event.build_id)
        return BuildVerdict.GO_ON

    door.verdict = verdict
    submit(tmp_path, *[build_request()] * 10, build_request(build_id=BuildId("e" * 24)))
    start()
    assert door.wait(lambda: door.kinds().count(BuildEventKind.SUCCEEDED) == 2)
    assert door.kinds().count(BuildEventKind.SUCCEEDED) == 2


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_worker_that_dies_leaves_no_step_behind(start: Start, door: FakeDoor, tmp_path: Path, sign: signal.Signals) -> None:
    slow, pid_file = tmp_path / "slow-uv", tmp_path / "step.pid"
    slow.write_text(f"#!/bin/sh\necho $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 600\n")
    slow.chmod(0o755)
    door.source = tar_of({"app.py": "x = 1\n"})
    process = start(uv=str(slow))
    submit(tmp_path, build_request())
    assert door.wait(lambda: BuildPhase.RESOLVE in [event.phase for event in door.events] and pid_file.exists())
    step = os.pidfd_open(int(pid_file.read_text()))
    process.send_signal(sign)
    assert process.wait(15) is not None
    if sign is not signal.SIGKILL:
        assert door.last().reason == Reason.BUILD_LOST.value
    assert select.select([step], [], [], 10)[0]  # readable when it is gone
    os.close(step)


def test_a_worker_told_to_stop_does_not_wait_for_a_platform_that_is_gone(start: Start, door: FakeDoor, tmp_path: Path) -> None:
    door.source = tar_of({"app.py": "x = 1\n"})
    process = start(uv=stuck_uv(tmp_path))
    submit(tmp_path, build_request())
    assert door.wait(lambda: BuildPhase.RESOLVE in [event.phase for event in door.events])
    door.failures = 10_000
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


@pytest.fixture
def redis_url() -> Iterator[str]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("no redis-server on this machine")
    folder = tempfile.mkdtemp(prefix="v")
    process = subprocess.Popen(
        [server, "--port", "0", "--unixsocket", f"{folder}/r.sock", "--save", "", "--dir", folder], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    for line in process.stdout:
        if b"eady to accept connections" in line:
            break
    yield f"redis+socket://{folder}/r.sock"
    process.terminate()
    process.communicate(timeout=10)
    shutil.rmtree(folder)


def test_the_same_over_redis(start: Start, door: FakeDoor, tmp_path: Path, redis_url: str) -> None:
    door.source = tar_of({"app.py": "x = 1\n"})
    submit(tmp_path, build_request(), redis=redis_url)
    process = start(redis=redis_url)
    assert door.wait(lambda: BuildEventKind.SUCCEEDED in door.kinds())
    submit(tmp_path, build_request(build_id=BuildId("e" * 24)), redis=redis_url)
    assert door.wait(lambda: door.kinds().count(BuildEventKind.SUCCEEDED) == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_over_redis_a_message_of_a_killed_worker_is_not_the_truth(start: Start, door: FakeDoor, tmp_path: Path, redis_url: str) -> None:
    """Redis gives it to nobody for hours; the platform's scan submits again, and the next worker builds."""
    door.source = tar_of({"app.py": "x = 1\n"})
    submit(tmp_path, build_request(), redis=redis_url)
    process = start(uv=stuck_uv(tmp_path), redis=redis_url)
    assert door.wait(lambda: BuildPhase.RESOLVE in [event.phase for event in door.events])
    process.kill()
    process.wait()
    start(redis=redis_url)
    submit(tmp_path, build_request(attempt=2), redis=redis_url)
    assert door.wait(lambda: BuildEventKind.SUCCEEDED in door.kinds())
    assert door.last().attempt == 2
