"""One build from message to result, with real uv, a real spool and a small internal door."""

from __future__ import annotations

import json
import logging
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.config import ToolConfig
from builder.worker import uv_config
from control_plane.domain.builds import ArtifactKind, BuildEvent, BuildEventKind, BuildLimits, BuildPhase, BuildRequest, BuildVerdict
from control_plane.domain.ids import BuildId
from control_plane.domain.reasons import Reason
from control_plane.telemetry.logs import JsonLines
from tests.functional.builder.changing_index import ChangingIndex
from tests.functional.builder.conftest import Workplace, build_request
from tests.functional.builder.door import FakeDoor, tar_of

APP = {"app.py": "import gradio\n"}


def build(workplace: Workplace, request: BuildRequest | None = None, files: dict[str, Any] | None = None) -> BuildEvent:
    workplace.door.source = tar_of(files if files is not None else APP)
    workplace.worker.handle((request or build_request()).to_payload())
    return workplace.door.last()


def test_a_gradio_space_becomes_a_bundle_with_a_shared_environment(workplace: Workplace, door: FakeDoor) -> None:
    event = build(workplace, files={**APP, "requirements.txt": "tinydep==1.0\n", "data/x.txt": "x"})
    assert event.kind is BuildEventKind.SUCCEEDED, (event, door.lines)
    assert door.kinds()[0] is BuildEventKind.STARTED
    phases = [one.phase for one in door.events if one.kind is BuildEventKind.PHASE]
    assert phases == [BuildPhase.FETCH, BuildPhase.PLAN, BuildPhase.RESOLVE, BuildPhase.INSTALL, BuildPhase.PUBLISH]
    assert event.result is not None
    artifact = event.result.artifact
    assert artifact.kind is ArtifactKind.BUNDLE
    assert (workplace.data_dir / "bundles" / artifact.ref / "tree/data/x.txt").read_text() == "x"
    environment = workplace.data_dir / "envs" / artifact.env_key
    workplace.worker.environments.settle()
    site = next((environment / "lib").glob("python3.*/site-packages"))
    assert "1.0" in (site / "tinydep/__init__.py").read_text()
    assert list((site / "tinydep/__pycache__").glob("*.pyc"))
    assert event.result.launch.argv == ("python", "app.py")
    assert any("built in" in line for line in door.lines)


@pytest.mark.parametrize(("files", "last"), [(APP, "build.succeeded"), ({"README.md": "no app"}, "build.failed")])
def test_each_line_of_the_builders_own_log_names_build_space_and_revision(
    workplace: Workplace, caplog: pytest.LogCaptureFixture, files: dict[str, Any], last: str
) -> None:
    request = build_request(attempt=3)
    with caplog.at_level(logging.INFO, "vitrine.builder"):
        build(workplace, request, files)
        workplace.worker.handle(request.to_payload())  # a second delivery is its build's too
    lines = [json.loads(JsonLines("builder").format(record)) for record in caplog.records if record.name == "vitrine.builder"]
    assert {"build.started", last} <= {line["event"] for line in lines}
    ids = {"build_id": request.build_id, "space_id": request.space_id, "space": "alice/demo", "revision": request.revision, "attempt": 3}
    assert [line for line in lines if {key: line.get(key) for key in ids} != ids] == []


def test_the_same_declaration_is_installed_once(workplace: Workplace, door: FakeDoor) -> None:
    first = build(workplace)
    second = build(workplace, build_request(build_id=BuildId("d" * 24), tenant="bob"))
    assert first.result and second.result
    assert first.result.artifact.env_key == second.result.artifact.env_key
    assert first.result.artifact.ref != second.result.artifact.ref
    assert any("is there already" in line for line in door.lines)


def test_compiled_files_come_from_the_store_the_next_time(workplace: Workplace) -> None:
    build(workplace)
    workplace.worker.environments.settle()
    event = build(workplace, build_request(build_id=BuildId("d" * 24)), files={**APP, "requirements.txt": "streamlit\n"})
    assert event.result
    environment = workplace.data_dir / "envs" / event.result.artifact.env_key
    compiled = next(environment.glob("lib/python3.*/site-packages/gradio/__pycache__/*.pyc"))
    assert compiled.stat().st_nlink >= 2
    workplace.worker.environments.settle()
    assert (environment / ".vitrine-compiled").exists()


@pytest.mark.parametrize(
    ("changes", "files", "reason", "words"),
    [
        ({}, {"README.md": ""}, Reason.NO_APP_FILE, "app.py is not in the repository"),
        ({"sdk": "static"}, {"x.txt": ""}, Reason.NO_APP_FILE, "index.html"),
        ({"sdk": "docker"}, {"Dockerfile": "FROM scratch"}, Reason.UNSUPPORTED_HERE, "container images"),
        ({"sdk": "shiny"}, APP, Reason.CONFIG_ERROR, "allowed: gradio"),
        ({"python_version": "3.99"}, APP, Reason.PYTHON_MISSING, "Present: 3."),
        ({}, {**APP, "requirements.txt": "no-such-package==1\n"}, Reason.REQUIREMENTS_UNRESOLVED, "no-such-package"),
        ({}, {**APP, "requirements.txt": "a b c ===\n"}, Reason.REQUIREMENTS_UNRESOLVED, "requirements.txt line 1"),
        ({}, {**APP, "requirements.txt": "git+https://example.com/x.git\n"}, Reason.SANDBOX_UNAVAILABLE, "cannot contain"),
        ({}, {**APP, "packages.txt": "surely-not-a-package-1\n"}, Reason.UNSUPPORTED_HERE, "surely-not-a-package-1"),
        ({}, {**APP, "packages.txt": "x; rm -rf /\n"}, Reason.SOURCE_REJECTED, "packages.txt line 1"),
        ({"sdk_version": "5.0.0"}, {**APP, "requirements.txt": "gradio>=6\n"}, Reason.CONFIG_ERROR, "make them agree"),
    ],
)
def test_mistakes_fail_with_a_reason_and_words(
    workplace: Workplace, changes: dict[str, Any], files: dict[str, str], reason: Reason, words: str
) -> None:
    event = build(workplace, build_request(**changes), files)
    assert event.kind is BuildEventKind.FAILED
    assert (event.reason, words in event.message) == (reason.value, True), event.message
    assert not list(workplace.data_dir.glob("bundles/*/*")) and not list(workplace.data_dir.glob("sites/*/*"))


def test_a_static_space_becomes_a_site_without_an_environment(workplace: Workplace) -> None:
    event = build(workplace, build_request(sdk="static", app_file="index.html"), {"index.html": "<h1>hi</h1>"})
    assert event.result is not None
    assert event.result.artifact.kind is ArtifactKind.SITE
    assert event.result.artifact.env_key == ""
    assert (workplace.data_dir / "sites" / event.result.artifact.ref / "tree/index.html").exists()


def test_links_that_leave_the_tree_are_refused(workplace: Workplace, door: FakeDoor) -> None:
    door.source = tar_of(APP, {"secret": "../../etc/passwd"})
    workplace.worker.handle(build_request().to_payload())
    assert door.last().reason == Reason.SOURCE_REJECTED.value
    assert "secret" in door.last().message


def test_stop_on_started_is_obeyed_quietly(workplace: Workplace, door: FakeDoor) -> None:
    door.verdict = lambda event: BuildVerdict.STOP
    build(workplace)
    assert door.kinds() == [BuildEventKind.STARTED]


def test_a_cancel_kills_the_running_step(make_workplace: Any, door: FakeDoor, tmp_path: Any) -> None:
    slow = tmp_path / "slow-uv"
    slow.write_text("#!/bin/sh\nsleep 600 & sleep 600\n")
    slow.chmod(0o755)
    workplace = make_workplace(uv=str(slow))
    door.verdict = lambda event: (
        BuildVerdict.STOP if event.kind is BuildEventKind.HEARTBEAT and BuildPhase.RESOLVE in phases(door) else BuildVerdict.GO_ON
    )
    build(workplace)
    assert door.kinds()[-1] is BuildEventKind.PHASE
    assert not list(workplace.data_dir.glob("bundles/*/*"))


def phases(door: FakeDoor) -> list[BuildPhase | None]:
    return [event.phase for event in door.events]


def test_a_flood_of_output_stops_the_build(make_workplace: Any, door: FakeDoor, tmp_path: Any) -> None:
    loud = tmp_path / "loud-uv"
    loud.write_text(f'#!/bin/sh\n[ "$2" = install ] && exec yes flood\nexec {uv_config(ToolConfig()).path} "$@"\n')
    loud.chmod(0o755)
    workplace = make_workplace(uv=str(loud))
    event = build(workplace, build_request(limits=BuildLimits(log_bytes=20_000)))
    assert event.reason == Reason.BUILD_LOG_FLOOD.value
    assert 20_000 > sum(len(line) + 1 for line in door.lines if line == "flood") > 15_000
    assert "is cut here" in door.lines[-1]


def test_time_is_limited(make_workplace: Any, door: FakeDoor, tmp_path: Any) -> None:
    slow = tmp_path / "slow-uv"
    slow.write_text("#!/bin/sh\nsleep 600\n")
    slow.chmod(0o755)
    event = build(make_workplace(uv=str(slow)), build_request(limits=BuildLimits(time_s=1)))
    assert event.reason == Reason.BUILD_TIMEOUT.value


@pytest.mark.parametrize(
    ("program", "limits", "reason"),
    [
        ("import time; x = bytearray(300 << 20); time.sleep(600)", {"memory_bytes": 150 << 20}, Reason.BUILD_MEMORY),
        ("import os, time; [os.fork() for _ in range(6)]; time.sleep(600)", {"pids": 20}, Reason.BUILD_FAILED),
        (
            "import os, time\nif os.fork() == 0: os.setsid(); x = bytearray(300 << 20)\ntime.sleep(600)",
            {"memory_bytes": 150 << 20},
            Reason.BUILD_MEMORY,
        ),
    ],
)
def test_a_greedy_step_is_stopped(
    make_workplace: Any, door: FakeDoor, tmp_path: Any, program: str, limits: dict[str, int], reason: Reason
) -> None:
    greedy = tmp_path / "greedy-uv"
    greedy.write_text(f"#!{sys.executable} -IS\n{program}\n")
    greedy.chmod(0o755)
    event = build(make_workplace(uv=str(greedy)), build_request(limits=BuildLimits(**limits)))
    assert event.reason == reason.value, event.message


def test_a_step_that_fills_the_disk_is_stopped(make_workplace: Any, door: FakeDoor, tmp_path: Any) -> None:
    greedy = tmp_path / "greedy-uv"
    fill = 'for last; do :; done; d=$(dirname $(dirname "$6")); while :; do head -c 5000000 /dev/zero >> "$d/fill"; done'
    greedy.write_text(f'#!/bin/sh\n[ "$2" = install ] && {{ {fill}; }}\nexec {uv_config(ToolConfig()).path} "$@"\n')
    greedy.chmod(0o755)
    event = build(make_workplace(uv=str(greedy)), build_request(limits=BuildLimits(disk_bytes=200 << 20)))
    assert event.reason in (Reason.BUILD_DISK.value, Reason.REQUIREMENTS_FAILED.value), event.message
    assert event.reason == Reason.BUILD_DISK.value


def test_a_lost_connection_is_tried_again(workplace: Workplace, door: FakeDoor) -> None:
    door.failures = 2
    assert build(workplace).kind is BuildEventKind.SUCCEEDED


def test_a_second_copy_of_a_running_message_does_nothing(workplace: Workplace, door: FakeDoor) -> None:
    door.source = tar_of(APP)
    held = threading.Event()

    def verdict(event: BuildEvent) -> BuildVerdict:
        if event.kind is BuildEventKind.STARTED and not held.is_set():
            held.set()
            workplace.worker.handle(build_request().to_payload())  # redelivered while it runs
        return BuildVerdict.GO_ON

    door.verdict = verdict
    workplace.worker.handle(build_request().to_payload())
    assert door.kinds().count(BuildEventKind.STARTED) == 1
    assert door.last().kind is BuildEventKind.SUCCEEDED


def test_what_a_dead_worker_left_is_built_over(workplace: Workplace, door: FakeDoor) -> None:
    """The second attempt finds a half-fetched tree, a bundle nobody heard of and a half-made environment."""
    first = build(workplace)
    assert first.result
    bundle = workplace.data_dir / "bundles" / first.result.artifact.ref / "tree"
    (bundle / "stale.txt").write_text("from the first attempt")
    environment = workplace.data_dir / "envs" / first.result.artifact.env_key
    workplace.worker.environments.settle()
    environment.rename(environment.with_name(f".new-{environment.name}~dead"))
    half = bundle.with_name(f".new-{bundle.name}~dead")
    half.mkdir()
    second = build(workplace, build_request(attempt=2))
    assert second.kind is BuildEventKind.SUCCEEDED
    assert not (bundle / "stale.txt").exists() and not half.exists()
    assert environment.is_dir() and not list(environment.parent.glob(".new-*"))


def test_two_workers_build_the_same_environment_once(workplace: Workplace, door: FakeDoor) -> None:
    door.source = tar_of(APP)
    other = workplace.another()
    threads = [
        threading.Thread(target=worker.handle, args=(build_request(build_id=BuildId(letter * 24)).to_payload(),))
        for worker, letter in ((workplace.worker, "1"), (other, "2"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = [event.result for event in door.events if event.result]
    assert len({result.artifact.env_key for result in results}) == 1 and len(results) == 2
    assert sum("installing" in line for line in door.lines) == 1


@pytest.mark.parametrize(
    "payload",
    [None, [], "x", {}, {"v": 99}, {"v": 1, "build_id": "x"}, build_request(build_id=BuildId("../../etc")).to_payload()],
)
def test_hostile_messages_are_dropped(workplace: Workplace, door: FakeDoor, payload: object) -> None:
    workplace.worker.handle(payload)
    assert door.events == []


def test_a_factory_rebuild_resolves_again(workplace: Workplace) -> None:
    resolved = workplace.data_dir / "envs/.resolved"
    build(workplace)
    (kept,) = resolved.glob("*.json")
    kept.write_text('{"lines": ["tinydep==1.0"], "open": false}')
    assert "gradio" not in lock_of(workplace, build(workplace, build_request(attempt=2)))
    assert "gradio" in lock_of(workplace, build(workplace, replace(build_request(attempt=3), no_cache=True)))


def lock_of(workplace: Workplace, event: BuildEvent) -> str:
    assert event.result
    return (workplace.data_dir / "envs" / event.result.artifact.env_key / ".vitrine-env.json").read_text()


@pytest.mark.parametrize(
    ("answers", "kind", "version"),
    [
        ({}, BuildEventKind.SUCCEEDED, "2.0"),
        ({"hidden": (2,)}, BuildEventKind.SUCCEEDED, "2.0"),  # the release is not seen by the first try to install it
        ({"hidden": range(2, 9)}, BuildEventKind.SUCCEEDED, "1.0"),  # it was withdrawn after it was named
        ({"hidden": (2, 4, 6, 8)}, BuildEventKind.FAILED, ""),  # the two questions never agree: once more is not for ever
        ({"gone": 99}, BuildEventKind.FAILED, ""),  # named on the page, and no file behind it
    ],
)
def test_an_index_that_changes_its_mind_is_asked_once_more(
    make_workplace: Any, door: FakeDoor, tmp_path: Path, answers: dict[str, Any], kind: BuildEventKind, version: str
) -> None:
    with ChangingIndex(tmp_path / "wheels", **answers) as index:
        workplace = make_workplace(pypi_index_url=index.url)
        event = build(workplace, files={"app.py": "", "requirements.txt": "tinydep\n"})
        assert event.kind is kind, (event, door.lines)
        assert sum("once more, past its caches" in line for line in door.lines) == bool(answers)
        assert index.pages <= 4, "resolve, install, and both again"
    if version:
        assert f"tinydep=={version}" in lock_of(workplace, event)
    else:
        assert (event.reason, "tinydep" in event.message) == (Reason.REQUIREMENTS_FAILED.value, True), event.message
