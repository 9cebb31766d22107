"""Colours of log lines, diffs, addresses, and the story of a push."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from control_plane.domain.builds import Artifact, ArtifactKind, BuildStatus, LaunchPlan
from control_plane.domain.ids import BuildId, ReplicaId, Sha, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Build, Deployment, Replica, Sdk, SpaceConfig
from control_plane.spaces.timeline import timeline, usual_seconds
from web import ansi, diffs, security, words
from web.catalog import load
from web.markup import markdown, without_front_matter

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)
SPACE = SpaceId("a" * 24)


@pytest.mark.parametrize(
    ("line", "html"),
    [
        ("\x1b[1;31merror\x1b[0m: no", '<span class="ab ar">error</span>: no'),
        ("10%\r20%\r30%", "30%"),
        ("\x1b[38;5;196mred\x1b[39m", "red"),
        ("\x1b]0;title\x07plain", "plain"),
        ("\x1b[2Kclear\x1b[1A", "clear"),
        ("a<b>&c", "a&lt;b&gt;&amp;c"),
    ],
)
def test_log_lines(line: str, html: str) -> None:
    assert str(ansi.to_html(line)) == html


def test_a_diff_has_files_lines_and_numbers() -> None:
    text = "diff --git a/x.py b/y.py\nrename from x.py\n--- a/x.py\n+++ b/y.py\n"
    text += "@@ -3,2 +3,3 @@ def f\n same\n-old\n+new\n+--- not a header\n\\ No newline at end of file\n"
    files, cut = diffs.parse(text)
    assert not cut
    assert (files[0].path, files[0].old_path, files[0].added, files[0].removed) == ("y.py", "x.py", 2, 1)
    assert [(line.kind, line.old, line.new) for line in files[0].lines if line.kind in ("same", "add", "del")] == [
        ("same", 3, 3), ("del", 4, None), ("add", None, 4), ("add", None, 5),
    ]  # fmt: skip


def test_a_huge_diff_is_cut() -> None:
    files, cut = diffs.parse("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -0,0 +1,9000 @@\n" + "+x\n" * 9000)
    assert cut and files[0].added <= diffs.MAX_LINES


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil", "https://evil", "", None, "/a\nb", "javascript:1", "/a\\b"])
def test_only_local_paths_follow_a_sign_in(path: str | None) -> None:
    assert security.safe_next(path) == "/"


def test_relative_links_of_a_readme_stay_in_the_repository() -> None:
    html = markdown("[a](docs/x.md) ![b](../../../../etc/passwd) [c](#part) # Part", file_base="/n/r/blob/main", raw_base="/n/r/raw/main")
    assert 'href="/n/r/blob/main/docs/x.md"' in html and 'src="/n/r/raw/main/etc/passwd"' in html and 'href="#md-part"' in html
    assert without_front_matter("---\ntitle: x\n---\n# Hi") == "# Hi"


def _build(**changes: object) -> Build:
    made = Build(
        BuildId("b" * 24), SPACE, Sha("c" * 40), BuildStatus.QUEUED, NOW - timedelta(seconds=20), commit_title="First", author="alice"
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def _deployment(**changes: object) -> Deployment:
    made = Deployment(
        SPACE, 1, BuildId("b" * 24), Sha("c" * 40), Artifact(ArtifactKind.BUNDLE, "x/y"), LaunchPlan(), "cpu-basic",
        NOW - timedelta(seconds=8), SpaceConfig(Sdk.GRADIO),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def _states(build: Build | None, *deployments: Deployment, replicas: tuple[Replica, ...] = ()) -> dict[str, str]:
    line = timeline(build, deployments, replicas, now=NOW, usual_s=None)
    assert line is not None
    return {s.key: s.state for s in line.steps}


def test_the_story_of_a_push() -> None:
    started = NOW - timedelta(seconds=15)
    done = _build(status=BuildStatus.SUCCEEDED, started_at=started, finished_at=NOW - timedelta(seconds=8))
    starting = Replica(ReplicaId("r"), SPACE, 1, ReplicaState.STARTING, NOW, started_at=NOW)
    assert timeline(None, (), (), now=NOW, usual_s=None) is None
    assert _states(_build())["Queued"] == "now"
    assert _states(_build(status=BuildStatus.RUNNING, started_at=started))["Building"] == "now"
    assert _states(_build(status=BuildStatus.FAILED, reason=Reason.BUILD_MEMORY))["Building"] == "failed"
    assert _states(done, _deployment())["Placing"] == "now"
    assert _states(done, _deployment(), replicas=(starting,))["Starting"] == "now"
    assert _states(done, _deployment(failed_reason=Reason.APP_EXITED))["Starting"] == "failed"
    live = timeline(done, (_deployment(live_at=NOW),), (), now=NOW, usual_s=9.0)
    assert live is not None and live.is_over and live.took_s == 20.0
    moved = timeline(done, (_deployment(generation=2, cause="hardware", build_id=BuildId("b" * 24)),), (), now=NOW, usual_s=None)
    assert moved is not None and moved.steps[0].key == "Hardware change"


def test_the_estimate_is_the_median_of_pushes_that_went_live() -> None:
    builds = [_build(id=BuildId(str(i)), created_at=NOW) for i in range(3)]
    made = [_deployment(build_id=BuildId(str(i)), live_at=NOW + timedelta(seconds=s)) for i, s in enumerate((4, 30, 6))]
    assert usual_seconds(builds, made) == 6.0
    assert usual_seconds(builds, [_deployment(cause="restart", live_at=NOW)]) is None


@pytest.mark.parametrize(
    ("language", "this_year", "another", "time", "soon"),
    [
        ("en", "1 December", "1 January 2027", "1 August 2026, 12:00 UTC", "in 3 d"),
        ("zh", "12月1日", "2027年1月1日", "2026年8月1日 12:00 UTC", "3 天后"),
        ("ru", "1 декабря", "1 января 2027 г.", "1 августа 2026 г., 12:00 UTC", "через 3 дн."),
    ],
)
def test_dates_are_said_in_words(language: str, this_year: str, another: str, time: str, soon: str) -> None:
    t = load(language)
    december, january = datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    assert (words.ago(december, NOW, t), words.ago(january, NOW, t)) == (this_year, another)
    assert words.ago(NOW + timedelta(days=3), NOW, t) == soon
    assert words.day(NOW - timedelta(days=300), NOW, t).find("2025") >= 0
    assert words.moment(NOW, t) == time
    said = words.dated("<b> resets at 2026-12-01T00:00:00Z, not 2026-99-99T00:00:00Z", NOW, t)
    assert said == f'&lt;b&gt; resets at <time datetime="2026-12-01T00:00:00Z">{this_year}</time>, not 2026-99-99T00:00:00Z'
