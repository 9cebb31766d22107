"""The trace and the durations that a Space's history tells, and the sums that leave its name out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prometheus_client.parser import text_string_to_metric_families

from control_plane.domain.ids import SpaceId
from control_plane.domain.spaces import SpaceEvent
from control_plane.telemetry.history import HistoryFollower, push_trace, trace_id_of
from control_plane.telemetry.metrics import SchedulerMetrics, without_label

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)
STORY = (
    ("push.received", 0.0, {"revision": "a" * 40}),
    ("push.checked", 0.1, {}),
    ("build.queued", 0.1, {"build_id": "b1", "revision": "a" * 40}),
    ("build.started", 0.6, {"build_id": "b1"}),
    ("build.phase", 0.7, {"build_id": "b1", "phase": "resolve"}),
    ("build.phase", 1.7, {"build_id": "b1", "phase": "install"}),
    ("build.succeeded", 3.7, {"build_id": "b1"}),
    ("deploy.created", 3.7, {"generation": 1, "cause": "push"}),
    ("replica.pending", 3.8, {"generation": 1}),
    ("replica.starting", 4.0, {"generation": 1}),
    ("replica.ready", 6.0, {"generation": 1}),
    ("route.live", 6.1, {"generation": 1, "seconds": 6.1}),
)


def events(story: tuple[tuple[str, float, dict[str, object]], ...] = STORY) -> list[SpaceEvent]:
    return [SpaceEvent(n, SpaceId("s1"), NOW + timedelta(seconds=at), kind, facts) for n, (kind, at, facts) in enumerate(story, 1)]


def test_a_push_that_went_live_is_one_trace() -> None:
    trace = push_trace("ann/demo", events())
    assert trace is not None
    assert trace.trace_id == trace_id_of("b1")
    found = {span.name: (span.parent, round((span.end - span.start).total_seconds(), 3)) for span in trace.spans}
    assert found == {
        "git push": ("", 6.1),
        "check": ("git push", 0.1),
        "wait for a builder": ("git push", 0.5),
        "build": ("git push", 3.1),
        "place": ("git push", 0.2),
        "start": ("git push", 2.0),
        "first answer": ("git push", 0.1),
        "resolve": ("build", 1.0),
        "install": ("build", 2.0),
    }
    assert trace.spans[0].attributes["vitrine.deployment"] == "s1/1"
    assert not any(span.failed for span in trace.spans)


def test_a_trace_begins_with_the_first_byte_of_the_push() -> None:
    first_byte = NOW - timedelta(seconds=2)
    story = events((("push.received", 0.0, {"revision": "a" * 40, "began_at": first_byte.isoformat()}), *STORY[1:]))
    trace = push_trace("ann/demo", story)
    assert trace is not None
    assert trace.spans[0].start == first_byte
    [receive] = [span for span in trace.spans if span.name == "receive"]
    assert (receive.start, receive.end, receive.parent) == (first_byte, NOW, "git push")
    metrics = SchedulerMetrics()
    follower = HistoryFollower(None, metrics, None)  # type: ignore[arg-type]  # `observe` reads nothing
    for event in story:
        follower.observe(event)
    assert "vitrine_push_live_seconds_sum 8.1" in metrics.text()


def test_a_build_that_failed_ends_the_trace_with_the_reason() -> None:
    failed = (*STORY[:6], ("build.failed", 2.0, {"build_id": "b1", "reason": "BUILD_FAILED", "message": "no such package"}))
    trace = push_trace("ann/demo", events(failed))
    assert trace is not None
    assert trace.spans[0].failed == "no such package"
    assert {span.name for span in trace.spans if span.failed} == {"git push", "build"}


def test_a_wake_of_what_was_live_is_no_push() -> None:
    later = (*STORY, ("replica.ready", 90.0, {"generation": 1}), ("route.live", 90.1, {"generation": 1}))
    assert push_trace("ann/demo", events(later)) is None
    assert push_trace("ann/demo", events(STORY[:3])) is None


def test_durations_are_observed_once() -> None:
    metrics = SchedulerMetrics()
    follower = HistoryFollower(None, metrics, None)  # type: ignore[arg-type]  # `observe` reads nothing
    asleep = (("wake", 100.0, {}), ("replica.ready", 102.0, {"generation": 1}), ("replica.failed", 103.0, {"reason": "APP_EXITED"}))
    for event in events((*STORY, *asleep)):
        follower.observe(event)
    values = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
        if sample.name.endswith(("_sum", "_count", "_total"))
    }
    assert values["vitrine_build_wait_seconds_sum", ()] == 0.5
    assert round(values["vitrine_build_phase_seconds_sum", (("phase", "install"),)], 3) == 2.0
    assert round(values["vitrine_build_seconds_sum", (("outcome", "succeeded"),)], 3) == 3.1
    assert round(values["vitrine_start_phase_seconds_sum", (("phase", "placing"),)], 3) == 0.2
    assert (values["vitrine_push_live_seconds_sum", ()], values["vitrine_push_live_seconds_count", ()]) == (6.1, 1)
    assert (values["vitrine_wake_seconds_sum", ()], values["vitrine_wake_seconds_count", ()]) == (2.0, 1)
    assert values["vitrine_replica_failures_total", (("reason", "APP_EXITED"),)] == 1


def test_names_are_summed_away_whatever_they_hold() -> None:
    text = (
        "# TYPE x_total counter\n"
        'x_total{space="ann/private",class="2xx"} 3\n'
        'x_total{space="b\\"}o,b",class="2xx"} 4\n'
        'x_total{space="c",class="5xx"} 1\n'
        "y 2.5\n"
    )
    assert without_label(text, "space") == '# TYPE x_total counter\nx_total{class="2xx"} 7\nx_total{class="5xx"} 1\ny 2.5\n'
