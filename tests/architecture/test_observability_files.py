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


def test_prometheus_itself_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool (Debian: prometheus) is not installed")
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "rules", str(FOLDER / "alerts.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
