"""Metrics, traces and logs of a whole platform: one push is followed from git to its first answer, by a collector of our own."""

from __future__ import annotations

import gzip
import json
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from control_plane.telemetry.history import trace_id_of
from control_plane.telemetry.metrics import METRICS
from tests.e2e.conftest import PLAIN, Platform, Work, start_platform, stop_platform
from tests.e2e.test_push_to_live import child_named, plain, rewind, wait_for

TOKEN = "scrape-token-of-tests"


class Collector:
    """A real OTLP/HTTP receiver: keeps every span it is sent."""

    def __init__(self) -> None:
        self.spans: queue.Queue[tuple[str, object]] = queue.Queue()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            outer.spans.put((self.path, span))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def watched(collector: Collector) -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        running = start_platform(Path(folder) / "d", env={"VITRINE_OTLP_ENDPOINT": collector.url, "VITRINE_METRICS_TOKEN": TOKEN})
        running.create("watched")
        work = Work(running, "watched", Path(folder) / "watched")
        work.write(
            app__py="import http.server, os\nhttp.server.ThreadingHTTPServer(('0.0.0.0', 7860), http.server.SimpleHTTPRequestHandler)"
            ".serve_forever()\n"
        )
        assert "Live at" in work.push("one")
        assert running.app("admin-watched").status_code == 200
        yield running
        stop_platform(running)


def scrape(platform: Platform, path: str = "/metrics", **headers: str) -> str:
    answer = httpx.get(
        f"http://127.0.0.1:{platform.port}{path}", headers={"Host": f"localhost:{platform.port}", **headers}, timeout=20, verify=PLAIN
    )
    assert answer.status_code == 200, answer.text
    return answer.text


def test_one_push_is_one_trace_from_git_to_the_first_answer(watched: Platform, collector: Collector) -> None:
    found: dict[str, object] = {}
    end = time.monotonic() + 20
    while "git push" not in found and time.monotonic() < end:
        try:
            path, span = collector.spans.get(timeout=1)
        except queue.Empty:
            continue
        assert path == "/v1/traces"
        found[span.name] = span  # type: ignore[attr-defined]
        while not collector.spans.empty():
            _, more = collector.spans.get_nowait()
            found[more.name] = more  # type: ignore[attr-defined]
    assert {"git push", "receive", "check", "wait for a builder", "build", "place", "start", "first answer"} <= set(found)
    root = found["git push"]
    attributes = {a.key: a.value.string_value for a in root.attributes}  # type: ignore[attr-defined]
    assert attributes["vitrine.space"] == "admin/watched"
    assert root.trace_id.hex() == trace_id_of(attributes["vitrine.build_id"])  # type: ignore[attr-defined]
    assert root.parent_span_id == b""  # type: ignore[attr-defined]
    receive = found["receive"]
    assert receive.start_time_unix_nano == root.start_time_unix_nano  # type: ignore[attr-defined]
    assert receive.end_time_unix_nano > receive.start_time_unix_nano  # type: ignore[attr-defined]
    for name, span in found.items():
        assert span.trace_id == root.trace_id  # type: ignore[attr-defined]
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano  # type: ignore[attr-defined]
        if name in ("receive", "check", "build", "place", "start", "first answer"):
            assert span.parent_span_id == root.span_id  # type: ignore[attr-defined]


def test_every_documented_metric_exists_and_nothing_else(watched: Platform) -> None:
    wanted = {metric.name: metric for metric in METRICS}
    end = time.monotonic() + 60
    while "vitrine_push_live_seconds_count 1" not in (text := scrape(watched)).replace(".0", "") and time.monotonic() < end:
        time.sleep(0.2)
    families = {f.name: f for f in text_string_to_metric_families(text)}
    names = {f"{name}_total" if family.type == "counter" else name: family for name, family in families.items()}
    shown = {name: family for name, family in names.items() if name.startswith("vitrine_")}
    # A counter or gauge with labels has no line before the first one; a push leaves these untouched.
    silent = {"vitrine_replica_failures_total", "vitrine_proxy_errors_total"}
    assert set(wanted) - set(shown) <= silent
    assert set(shown) <= set(wanted)
    for name, family in shown.items():
        assert family.type == wanted[name].kind, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} <= set(wanted[name].labels), sample
    assert "admin/watched" not in text, "names of Spaces are not for everybody"
    assert families["vitrine_up"].samples
    assert all(sample.value == 1 for sample in families["vitrine_up"].samples), families["vitrine_up"].samples
    assert next(s.value for s in families["vitrine_spaces"].samples) == 1
    live = next(s for s in families["vitrine_push_live_seconds"].samples if s.name.endswith("_count"))
    assert live.value == 1


def test_one_push_and_one_visit_leave_figures_of_everything_that_is_watched(watched: Platform) -> None:
    """Declared is not measured: each of these has really been observed, or says how much there is."""
    wanted = {
        "waiting in the queue": ("vitrine_build_wait_seconds_count", {}),
        "phases of a build": ("vitrine_build_phase_seconds_count", {}),
        "builds": ("vitrine_build_seconds_count", {"outcome": "succeeded"}),
        "placing a replica": ("vitrine_start_phase_seconds_count", {"phase": "placing"}),
        "starting a replica": ("vitrine_start_phase_seconds_count", {"phase": "starting"}),
        "a push that is live": ("vitrine_push_live_seconds_count", {}),
        "reconciling": ("vitrine_reconcile_seconds_count", {}),
        "reconciling late": ("vitrine_reconcile_lag_seconds_count", {}),
        "latency of the proxy": ("vitrine_proxy_request_seconds_count", {}),
        "requests of the API": ("vitrine_http_request_seconds_count", {}),
        "the database reads": ("vitrine_database_seconds_count", {"kind": "read"}),
        "the database writes": ("vitrine_database_seconds_count", {"kind": "write"}),
        "the database is waited for": ("vitrine_database_seconds_count", {"kind": "wait"}),
        "capacity of a pool": ("vitrine_pool_units", {"state": "total"}),
        "what of it is used": ("vitrine_pool_units", {"state": "used"}),
        "replicas": ("vitrine_replicas", {}),
    }
    end = time.monotonic() + 60
    while True:
        samples = [s for f in text_string_to_metric_families(scrape(watched)) for s in f.samples]
        silent = [
            what
            for what, (name, labels) in wanted.items()
            if not any(s.name == name and labels.items() <= s.labels.items() and s.value > 0 for s in samples)
        ]
        if not silent or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert silent == []
    there = {s.name for s in samples}
    assert {"vitrine_queue_messages", "vitrine_build_queue_age_seconds", "vitrine_builds_open", "vitrine_wake_seconds_count"} <= there


def test_figures_move_as_the_platform_does(watched: Platform, tmp_path: Path) -> None:
    """What a queue, a build, a start, an error, a sleep and a wake change, seen by whoever scrapes."""

    def value(name: str, /, **labels: str) -> float:
        """The sum over what is not named."""
        samples = [s for f in text_string_to_metric_families(scrape(watched)) for s in f.samples]
        return sum(s.value for s in samples if s.name == f"vitrine_{name}" and labels.items() <= s.labels.items())

    def reaches(least: float, name: str, /, **labels: str) -> None:
        wait_for(lambda: value(name, **labels) >= least, 60, f"{name} {labels} does not reach {least}")

    def falls_to(most: float, name: str, /, **labels: str) -> None:
        wait_for(lambda: value(name, **labels) <= most, 60, f"{name} {labels} does not fall to {most}")

    timed = ("build_wait", "build_phase", "build", "start_phase", "push_live", "reconcile", "reconcile_lag", "database", "http_request")
    before = {name: value(f"{name}_seconds_count") for name in timed}
    spaces, used = value("spaces"), value("pool_units", state="used", hardware="cpu-basic")
    free, replicas = value("pool_units", state="free", hardware="cpu-basic"), value("replicas")
    waited = value("build_wait_seconds_sum")

    builder = child_named(watched.process.pid, "builder")
    os.kill(builder, signal.SIGSTOP)
    try:
        watched.create("moving")
        work = Work(watched, "moving", tmp_path / "moving")
        plain(work, "moving")
        work.push("queued", wait=False)
        assert value("spaces") == spaces + 1
        reaches(1, "builds_open", status="queued")
        reaches(1, "queue_messages")
        age = value("build_queue_age_seconds")
        reaches(age + 0.5, "build_queue_age_seconds")
    finally:
        os.kill(builder, signal.SIGCONT)
    watched.until("moving", "RUNNING")  # not visited: the scheduler would remember that, and a minute has to pass before it sleeps
    for name in timed:
        reaches(before[name] + 1, f"{name}_seconds_count")
    for gauge in ("builds_open", "queue_messages", "build_queue_age_seconds"):
        falls_to(0, gauge)
    assert value("build_wait_seconds_sum") - waited >= age + 0.5
    reaches(used + 1, "pool_units", state="used", hardware="cpu-basic")
    assert value("pool_units", state="free", hardware="cpu-basic") < free
    reaches(replicas + 1, "replicas")

    woken, held = value("wake_seconds_count"), value("proxy_wakes_total")
    assert watched.api("POST", "/api/spaces/admin/moving/sleeptime", json={"seconds": 60}).status_code == 200
    wait_for(lambda: asleep(watched, "moving"), 60, "it does not sleep")
    falls_to(replicas, "replicas")
    falls_to(used, "pool_units", state="used", hardware="cpu-basic")
    assert watched.app("admin-moving", "/x", headers={"Accept": "application/json"}).text == "moving"
    reaches(woken + 1, "wake_seconds_count")
    reaches(held + 1, "proxy_wakes_total")
    assert value("wake_seconds_sum") > 0

    latency = value("proxy_request_seconds_count")
    for _ in range(5):
        assert watched.app("admin-moving").status_code == 200
    reaches(latency + 5, "proxy_request_seconds_count")
    errors = value("proxy_errors_total")
    assert watched.app("nobody-has-this").status_code == 404
    reaches(errors + 1, "proxy_errors_total")


def asleep(platform: Platform, name: str) -> bool:
    rewind(platform, name, 3600)  # each time: what the scheduler remembers of the last visit is written now and then
    return platform.runtime(name)["stage"] == "SLEEPING"


def test_the_proxy_has_a_scrape_address_of_its_own_for_who_has_the_token(watched: Platform) -> None:
    text = scrape(watched, "/-/proxy/metrics", Authorization=f"Bearer {TOKEN}")
    assert 'vitrine_proxy_requests_total{space="admin/watched"' in text
    refused = httpx.get(
        f"http://127.0.0.1:{watched.port}/-/proxy/metrics", headers={"Host": f"localhost:{watched.port}", "Authorization": "Bearer no"}
    )
    assert refused.status_code == 404


def test_logs_are_lines_of_json_with_ids_and_without_secrets(watched: Platform) -> None:
    answer = watched.api("POST", "/api/repos/create", json={"name": "logged", "type": "model"})
    request_id = answer.headers["x-request-id"]
    end = time.monotonic() + 60
    asked: list[dict[str, object]] = []
    while not asked and time.monotonic() < end:  # the line follows the answer
        lines = []
        for file in (watched.data_dir / "logs" / "platform").glob("*.log"):
            text = file.read_text()
            assert watched.token not in text
            lines += [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
        asked = [line for line in lines if line.get("request_id") == request_id]
    assert [(line["event"], line["path"], line["status"]) for line in asked] == [("request", "/api/repos/create", 200)]
    ours = [line for line in lines if line.get("component") in ("api", "scheduler")]
    assert len(ours) > 3
    assert all({"at", "level", "logger", "event"} <= set(line) for line in ours)
