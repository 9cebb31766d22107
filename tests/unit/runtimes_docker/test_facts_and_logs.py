"""The engine's answers become observations; its log becomes lines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from control_plane.domain.errors import Broken
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.runtimes.docker import facts, manifests
from control_plane.runtimes.docker.logs import LineCutter, Meter, Outbox

LABELS = {manifests.REPLICA: "r1", manifests.SPACE: "s1", manifests.GENERATION: "3", manifests.PORT: "7860"}
BEGAN = "2026-01-02T03:04:05.123456789Z"


def inspected(ip: str = "10.213.0.2", **state: Any) -> dict[str, Any]:
    return {
        "Config": {"Labels": LABELS},
        "State": {"StartedAt": BEGAN, **state},
        "NetworkSettings": {"Networks": {"n": {"IPAddress": ip}}},
    }


def test_a_running_container_is_starting_at_its_own_address() -> None:
    seen = facts.observation(inspected(Status="running"), ports=(7860,))
    assert seen.endpoint is not None
    assert (seen.state, seen.generation, seen.endpoint.address, seen.listening_ports) == (
        ReplicaState.STARTING,
        3,
        "10.213.0.2:7860",
        (7860,),
    )
    assert seen.started_at is not None
    assert seen.started_at.tzinfo is not None
    assert facts.observation(inspected("", Status="running")).endpoint is None


def test_a_container_that_never_ran_is_pending() -> None:
    seen = facts.observation({**inspected(Status="created"), "NetworkSettings": {}})
    assert (seen.state, seen.endpoint) == (ReplicaState.PENDING, None)


@pytest.mark.parametrize(
    ("state", "disk_full", "reason", "code"),
    [
        ({"ExitCode": 3}, False, Reason.APP_EXITED, 3),
        ({"ExitCode": 0}, False, Reason.APP_EXITED, 0),
        ({"ExitCode": 137, "OOMKilled": True}, False, Reason.APP_OUT_OF_MEMORY, 137),
        ({"ExitCode": 137}, True, Reason.APP_DISK_FULL, 137),
        ({"ExitCode": 128, "Error": "exec: not found"}, False, Reason.APP_EXITED, 128),
        ({"ExitCode": 0, "Dead": True}, False, Reason.PLATFORM_ERROR, None),
    ],
)
def test_every_end_has_its_reason(state: dict[str, Any], disk_full: bool, reason: Reason, code: int | None) -> None:
    seen = facts.observation(inspected(Status="exited", **state), disk_full=disk_full, log_tail=("last",))
    assert (seen.state, seen.reason, seen.exit_code, seen.endpoint, seen.log_tail) == (ReplicaState.FAILED, reason, code, None, ("last",))
    assert seen.message


def test_usage_is_of_the_time_between_two_looks() -> None:
    def look(second: int, cpu_ns: int) -> dict[str, Any]:
        return {
            "read": f"2026-01-01T00:00:{second:02d}Z",
            "cpu_stats": {"cpu_usage": {"total_usage": cpu_ns}},
            "memory_stats": {"usage": 100, "limit": 1000, "stats": {"total_inactive_file": 30}},
            "networks": {"eth0": {"rx_bytes": 5, "tx_bytes": 7}},
        }

    found = facts.usage(ReplicaId("r1"), look(4, 3_000_000_000), look(2, 1_000_000_000))
    assert found is not None
    assert (found.cpu_cores, found.memory_bytes, found.memory_limit_bytes, found.rx_bytes, found.tx_bytes) == (1.0, 70, 1000, 5, 7)
    assert facts.usage(ReplicaId("r1"), {"memory_stats": {}}, None) is None


def test_listening_ports_are_the_apps_own() -> None:
    text = (
        "  sl  local_address rem_address   st\n"
        "   0: 00000000:1EB4 00000000:0000 0A 0\n"
        "   1: 0B00007F:A3F1 00000000:0000 0A 0\n"  # the engine's own DNS
        "   2: 0200D50A:1EB4 0100D50A:C350 01 0\n"
    )
    assert facts.listening_ports(text) == (7860,)


def test_lines_are_put_together_from_pieces() -> None:
    cutter = LineCutter()
    assert cutter.feed(b"2026-01-01T00:00:00.000000001Z one\n") == ["one"]
    assert cutter.feed(b"2026-01-01T00:00:00.000000002Z half") == []
    assert cutter.feed(b"2026-01-01T00:00:00.000000003Z  line\r\n") == ["half line"]
    assert cutter.last_stamp == "2026-01-01T00:00:00.000000003Z"
    assert cutter.feed(b"2026-01-01T00:00:00.000000004Z end\0\xff") == []
    assert cutter.finish() == ["end��"]
    assert len(cutter.feed(b"2026-01-01T00:00:00.000000005Z " + b"x" * 20_000)[0]) == 8192


def test_a_flood_is_cut_and_said() -> None:
    meter = Meter(bytes_per_s=100, burst_bytes=1000)
    kept = [one for _ in range(200) for one in meter.admit("x" * 9, 0.0)]
    assert len(kept) == 100
    later = meter.admit("calm", 10.0)
    assert later == ["[100 lines (1000 bytes) were dropped: the app printed faster than its log may grow]", "calm"]


async def test_a_sink_that_fails_does_not_stop_the_next_lines() -> None:
    got: list[str] = []

    async def sink(space_id: SpaceId, replica_id: ReplicaId, lines: Sequence[str]) -> None:
        if "bad" in lines:
            raise Broken("disk")
        got.extend(lines)

    outbox = Outbox(asyncio.get_running_loop(), sink)
    await asyncio.to_thread(outbox.put, SpaceId("s"), ReplicaId("r"), ["bad"])
    await outbox.flush()
    await asyncio.to_thread(outbox.put, SpaceId("s"), ReplicaId("r"), ["good"])
    await outbox.flush()
    assert got == ["good"]
