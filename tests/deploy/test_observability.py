"""The dashboard and the alert rules ask for metrics, labels and values that there are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import metrics
from app.backlog import Backlog
from app.jobs import failures

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "tunesmith.json").read_text("utf-8"))
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8"))
NAME = re.compile(r"\b(?:tunesmith|process)_[a-z_]+")
PARTS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


def families() -> list[Any]:
    described = [family for collector in [Backlog(1.0)] for family in collector.describe()]
    return [*metrics.REGISTRY.collect(), *described]


def exists() -> set[str]:
    """Every name a query may use."""
    names = {family.name + part for family in families() for part in PARTS.get(family.type, ())}
    return names | {"tunesmith_database_up"}


def expressions() -> dict[str, str]:
    panels = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    }
    return panels | {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}


@pytest.mark.parametrize("title", expressions())
def test_every_metric_exists(title: str) -> None:
    used = set(NAME.findall(expressions()[title]))
    assert used
    assert used - exists() == set()


def test_a_metric_that_does_not_exist_would_be_found() -> None:
    assert "tunesmith_jobs_lost_total" not in exists()
    assert "tunesmith_step_seconds" not in exists(), "a histogram is asked for by its parts"


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    shown = {name for panel, text in expressions().items() for name in NAME.findall(text)}
    missing = {
        family.name
        for family in families()
        if family.name.startswith("tunesmith_")
        if not {family.name + part for part in PARTS[family.type]} & shown
    }
    assert missing == set()


def test_labels_exist() -> None:
    """What is grouped by is a label of the metrics in the expression, or comes from the scrape."""
    labels = {
        family.name: set(family._labelnames if hasattr(family, "_labelnames") else ())
        for family in Backlog(1.0).describe()
    }
    for name, metric in vars(metrics).items():
        if name.isupper() and hasattr(metric, "_labelnames"):
            labels[metric._name] = set(metric._labelnames)
    for title, text in expressions().items():
        used = {re.sub(r"_(bucket|total|sum|count)$", "", name) for name in NAME.findall(text)}
        known = {"le", "instance"}.union(*(labels.get(name, set()) for name in used))
        for group in re.findall(r"by \(([^)]*)\)", text):
            assert {label.strip() for label in group.split(",")} <= known, title


def test_causes_in_the_rules_are_causes() -> None:
    for cause in re.findall(r'cause=~"([^"]*)"', " ".join(expressions().values())):
        assert set(cause.split("|")) <= set(failures.TABLE)


def test_every_alert_is_explained_to_its_operator() -> None:
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    explained = re.findall(r"^### (Tunesmith\w+)$", text, re.MULTILINE)
    assert explained == [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]


def test_rules_are_complete() -> None:
    for group in RULES["groups"]:
        for rule in group["rules"]:
            assert set(rule) >= {"alert", "expr", "labels", "annotations"}, rule
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert rule["expr"].count("(") == rule["expr"].count(")")


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not mine & cells, panel["title"]
        cells |= mine
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
