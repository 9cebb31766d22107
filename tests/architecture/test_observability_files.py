"""Dashboards, alert rules and the documented table name metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from control_plane.telemetry.metrics import METRICS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "observability"
KNOWN = {metric.name: metric for metric in METRICS}
_USE = re.compile(r"(vitrine_[a-z_]+)(?:\{([^}]*)\})?")


def expressions() -> Iterator[tuple[str, str]]:
    for file in sorted(FOLDER.glob("grafana-*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.name}: {panel['title']}", target["expr"]
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alerts.yaml: {rule['alert']}", rule["expr"]


def family(name: str) -> str:
    plain = re.sub(r"_(bucket|sum|count)$", "", name)
    return plain if plain in KNOWN and KNOWN[plain].kind == "histogram" else name


def test_every_metric_in_dashboards_and_alerts_exists_with_its_labels() -> None:
    found = list(expressions())
    assert len(found) > 30
    for where, expression in found:
        used = _USE.findall(expression)
        assert used, where
        for name, matchers in used:
            assert family(name) in KNOWN, (where, name)
            labels = set(re.findall(r"([a-z_]+)=", matchers))
            assert labels <= set(KNOWN[family(name)].labels), (where, name, labels)
        names = {family(name) for name, _ in used}
        grouped = {label.strip() for inner in re.findall(r"by \(([^)]*)\)", expression) for label in inner.split(",")} - {"le"}
        assert grouped <= {label for name in names for label in KNOWN[name].labels}, (where, grouped)


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["for"], rule["alert"]
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert len(rule["annotations"]["summary"]) > 10
            assert len(rule["annotations"]["description"]) > 20


def test_the_documented_table_is_the_declared_one() -> None:
    text = (ROOT / "control_plane" / "telemetry" / "README.md").read_text()
    rows = re.findall(r"^\| `(vitrine_\w+)` \| (\w+) \| ([^|]+) \| (\w+) \| (.+) \|$", text, re.MULTILINE)
    assert rows == [(m.name, m.kind, ", ".join(m.labels) or "–", m.process, m.words) for m in METRICS]


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool (Debian: prometheus) is not installed")
        pytest.skip("promtool is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_itself_takes_the_rules() -> None:
    promtool("check", "rules", str(FOLDER / "alerts.yaml"))


# Eight hours of a platform, a sample a minute: series → how it goes on (`start+step x count`).
_WELL = {
    'vitrine_up{component="scheduler"}': "1x480",
    "vitrine_spaces": "3x480",
    "vitrine_build_queue_age_seconds": "5x480",
    'vitrine_build_seconds_count{outcome="succeeded"}': "0+1x480",
    'vitrine_build_seconds_count{outcome="failed"}': "0x480",
    'vitrine_reconcile_lag_seconds_bucket{le="1.0"}': "0+60x480",
    'vitrine_reconcile_lag_seconds_bucket{le="10.0"}': "0+60x480",
    'vitrine_reconcile_lag_seconds_bucket{le="+Inf"}': "0+60x480",
    'vitrine_wake_seconds_bucket{le="10.0"}': "0+6x480",
    'vitrine_wake_seconds_bucket{le="300.0"}': "0+6x480",
    'vitrine_wake_seconds_bucket{le="+Inf"}': "0+6x480",
    'vitrine_pool_units{pool="p",hardware="t4-small",state="queued"}': "0x480",
    'vitrine_pool_units{pool="p",hardware="t4-small",state="free"}': "1x480",
    'vitrine_proxy_requests_total{class="2xx"}': "0+600x480",
    'vitrine_proxy_errors_total{code="APP_GONE"}': "0+1x480",
    'vitrine_http_request_seconds_count{status="2xx"}': "0+600x480",
    'vitrine_http_request_seconds_count{status="5xx"}': "0+1x480",
    'vitrine_database_seconds_bucket{kind="wait",le="0.1"}': "0+60x480",
    'vitrine_database_seconds_bucket{kind="wait",le="10.0"}': "0+60x480",
    'vitrine_database_seconds_bucket{kind="wait",le="+Inf"}': "0+60x480",
    "vitrine_maintenance": "0x480",
}
_ILL = {
    'vitrine_up{component="scheduler"}': "0x480",
    "vitrine_spaces": "_x480",
    "vitrine_build_queue_age_seconds": "700x480",
    'vitrine_build_seconds_count{outcome="failed"}': "0+2x480",
    'vitrine_reconcile_lag_seconds_bucket{le="1.0"}': "0x480",
    'vitrine_wake_seconds_bucket{le="10.0"}': "0x480",
    'vitrine_pool_units{pool="p",hardware="t4-small",state="queued"}': "2x480",
    'vitrine_pool_units{pool="p",hardware="t4-small",state="free"}': "0x480",
    'vitrine_proxy_errors_total{code="APP_GONE"}': "0+60x480",
    'vitrine_http_request_seconds_count{status="5xx"}': "0+60x480",
    'vitrine_database_seconds_bucket{kind="wait",le="0.1"}': "0x480",
    "vitrine_maintenance": "1x480",
}


def test_every_alert_fires_when_it_should_and_none_on_a_platform_that_is_well(tmp_path: Path) -> None:
    """Prometheus itself works the rules out over eight hours of a good and of a bad day."""
    alerts = [rule["alert"] for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]

    def day(series: dict[str, str], fires: list[str]) -> dict[str, object]:
        wanted = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(fires)]
        firing = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "7h30m"}
        inputs = [{"series": name, "values": values} for name, values in series.items()]
        return {"interval": "1m", "input_series": inputs, "promql_expr_test": [{**firing, "exp_samples": wanted}]}

    file = tmp_path / "days.yaml"
    days = [day(_WELL, []), day({**_WELL, **_ILL}, alerts)]
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yaml")], "evaluation_interval": "1m", "tests": days}))
    promtool("test", "rules", str(file))
