"""Output, manifests, /proc tables, netlink bytes, build steps, doctor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.builds import Artifact, ArtifactKind, BuildLimits, LaunchPlan
from control_plane.domain.errors import Rejected
from control_plane.domain.hardware import DEFAULT_FLAVORS
from control_plane.domain.ids import ReplicaId, Sha, SpaceId
from control_plane.domain.replicas import Mount, ReplicaSpec
from control_plane.domain.sensitive import Sensitive
from control_plane.runtimes.process.build_sandbox import sandbox_command
from control_plane.runtimes.process.doctor import Level, examine
from control_plane.runtimes.process.door import parse_listening
from control_plane.runtimes.process.floor import FloorItem, FloorReport
from control_plane.runtimes.process.manifests import Machine, Place, group_limits, launcher_spec, scratch_bytes
from control_plane.runtimes.process.netlink import local_default_route
from control_plane.runtimes.process.output import OutputMeter
from control_plane.runtimes.process.runtime import interpreter_prefixes, start_ticks

LAPTOP = Machine(4.0, 8 << 30)
SPEC = ReplicaSpec(
    ReplicaId("r"), SpaceId("s"), "alice/demo", 1, Sha("0" * 40), Artifact(ArtifactKind.BUNDLE, "s/b", "e1"),
    LaunchPlan(("streamlit", "run", "app.py"), 8501, {"PORT": "8501"}, "sub"), DEFAULT_FLAVORS[0],
    env={"KEY": Sensitive("hush"), "LANG": "de_DE.UTF-8"}, mounts=(Mount("/v/a", "/data", False), Mount("/v/b", "/models")),
)  # fmt: skip
PLACE = Place(Path("/d/bundles/s/b/tree"), Path("/d/envs/e1"), "/opt/python", (("/opt/py", "/opt/py"),))


def made(spec: ReplicaSpec = SPEC, place: Place = PLACE) -> dict[str, object]:
    return launcher_spec(spec, place, LAPTOP, cgroup_procs=["/c"], outer_uid=7, egress={"ports": [80]})


def test_the_launcher_spec_of_a_replica() -> None:
    body = made()
    assert body["argv"] == ["streamlit", "run", "app.py"]
    assert body["cwd"] == "/home/user/app/sub"
    assert body["binds_rw"] == [["/v/a", "/data"]]
    assert body["binds_ro"] == [["/opt/py", "/opt/py"], ["/d/envs/e1", "/d/envs/e1"]]
    assert body["volumes_ro"] == [["/v/b", "/models"]], "after the app's tree, in which they may lie"
    assert body["overlays"] == [["/d/bundles/s/b/tree", "/home/user/app"]]
    assert (body["port"], body["network"], body["lenient"], body["outer_uid"]) == (8501, "egress", False, 7)
    env = body["env"]
    assert isinstance(env, dict)
    assert (env["KEY"], env["LANG"], env["PORT"], env["HOME"]) == ("hush", "de_DE.UTF-8", "8501", "/home/user")
    assert env["PATH"].startswith("/home/user/.local/bin:/d/envs/e1/bin:")
    json.dumps(body)


def test_without_an_environment_python_is_the_platforms_own() -> None:
    spec = replace(SPEC, launch=LaunchPlan(("python", "app.py")))
    assert made(spec, replace(PLACE, environment=None))["argv"] == ["/opt/python", "app.py"]
    with pytest.raises(Rejected):
        made(replace(SPEC, launch=LaunchPlan(())))
    with pytest.raises(Rejected):
        made(replace(SPEC, launch=LaunchPlan(("python",), workdir="../..")))


@pytest.mark.parametrize(
    ("given", "inside"),
    [
        ("http://hub.internal:7860", "http://hub.internal"),
        ("http://hub.internal:7860/x", "http://hub.internal/x"),
        ("http://hub.internal", "http://hub.internal"),
        ("https://vitrine.example.org:8443", "https://vitrine.example.org:8443"),
    ],
)
def test_the_hub_is_reached_on_a_port_that_no_app_uses(given: str, inside: str) -> None:
    env = made(replace(SPEC, hub_host="hub.internal", env={"HF_ENDPOINT": given}))["env"]
    assert isinstance(env, dict)
    assert env["HF_ENDPOINT"] == inside


def test_a_flavor_is_capped_to_the_machine() -> None:
    limits = group_limits(SPEC, LAPTOP)
    assert (limits.memory_bytes, limits.vcpu) == (8 << 30, 2)
    assert scratch_bytes(SPEC, limits) == 4 << 30
    assert group_limits(SPEC, Machine(1.0, 1 << 20)).memory_bytes == 128 << 20


def test_lines_are_cut_out_of_any_pieces() -> None:
    meter = OutputMeter()
    assert meter.feed(b"one\ntw", 0.0) == ["one"]
    assert meter.feed(b"o\r\n\xff\0\n", 0.0) == ["two", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"]
    assert meter.feed(b"last", 0.0) == []
    assert meter.finish() == ["last"]
    assert list(meter.tail)[-1] == "last"


def test_a_line_without_an_end_is_broken() -> None:
    meter = OutputMeter()
    lines = meter.feed(b"x" * 20_000, 0.0) + meter.finish()
    assert [len(line) for line in lines] == [8192, 8192, 3616]


def test_a_flood_is_dropped_counted_and_over() -> None:
    meter = OutputMeter(bytes_per_s=100, burst_bytes=1000)
    kept = meter.feed(b"123456789\n" * 500, 0.0)
    assert len(kept) == 100
    assert meter.is_flooded
    assert list(meter.tail) == ["123456789"] * 50
    after = meter.feed(b"calm\n", 60.0)
    assert after == ["[400 lines (4000 bytes) were dropped: the app printed faster than its log may grow]", "calm"]
    assert not meter.is_flooded


@given(st.lists(st.binary(max_size=300), max_size=30))
def test_every_byte_comes_out_whatever_the_pieces(pieces: list[bytes]) -> None:
    meter = OutputMeter()
    lines = [line for piece in pieces for line in meter.feed(piece, 0.0)] + meter.finish()
    whole = OutputMeter()
    assert lines == whole.feed(b"".join(pieces), 0.0) + whole.finish()


def test_listening_rows_of_proc_net_tcp() -> None:
    table = (
        "  sl  local_address rem_address   st\n"
        "   0: 00000000:1EB4 00000000:0000 0A 00000000:00000000\n"
        "   1: 0100007F:C350 0100007F:1EB4 01 00000000:00000000\n"
    )
    assert parse_listening(table) == {7860}
    assert parse_listening("") == set()


def test_the_netlink_request() -> None:
    message = local_default_route(2, 1, 9)
    assert len(message) == 36
    assert message[:4] == (36).to_bytes(4, "little")


def test_interpreter_prefixes_follow_the_links(tmp_path: Path) -> None:
    real = tmp_path / "python-3.12.1" / "bin"
    real.mkdir(parents=True)
    (real / "python3.12").touch()
    (tmp_path / "python-3.12").symlink_to(tmp_path / "python-3.12.1")
    env = tmp_path / "env" / "bin"
    env.mkdir(parents=True)
    (env / "python").symlink_to(tmp_path / "python-3.12" / "bin" / "python3.12")
    pairs = {inside: host for host, inside in interpreter_prefixes(env / "python")}
    source = str(tmp_path / "python-3.12.1")
    assert pairs == {str(tmp_path / "python-3.12"): source, source: source}
    (env / "python").unlink()
    (env / "python").symlink_to("/usr/bin/python3")
    assert interpreter_prefixes(env / "python") == ()


def test_start_ticks_know_a_process_from_its_successor() -> None:
    assert start_ticks(1) >= 0
    assert start_ticks(2**22 + 1) == 0


def test_a_build_step() -> None:
    command = sandbox_command(
        ["sh", "-c", "x"], cwd="/w", binds_rw=[("/h/w", "/w")], env={"A": "1"}, limits=BuildLimits(), network="egress"
    )
    body = json.loads(command.stdin)
    assert command.argv[1:3] == ("-I", "-S")
    assert command.argv[3].endswith("launcher.py")
    assert body["egress_inline"] is True
    assert body["binds_rw"] == [["/h/w", "/w"]]
    assert "A" not in " ".join(command.argv)


def test_doctor_names_what_is_wrong_and_the_fix() -> None:
    report = FloorReport((FloorItem("namespaces", False, "EPERM", "Allow them."), FloorItem("limits", True, "cgroup v2")))
    answers = {"git": "git version 2.20.1", "uv": "uv 0.9.1"}
    found = examine(report=report, uv="uv", resolve=lambda name: "", run=lambda command: answers.get(command[0], ""))
    findings = {f.name: f for f in found}
    assert findings["sandbox: namespaces"].level is Level.PROBLEM
    assert findings["sandbox: namespaces"].fix == "Allow them."
    assert findings["sandbox: limits"].level is Level.OK
    assert (findings["git"].level, findings["uv"].level, findings["git-lfs"].level) == (Level.PROBLEM, Level.OK, Level.WARNING)
    assert findings["names below localhost"].level is Level.WARNING
    assert all(f.fix for f in findings.values() if f.level is Level.PROBLEM)
    assert "Allow them." in report.words
