"""Failpoints are for the tests: nothing that is shipped can arm one, and each has a name of its own."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from app import failpoints
from tests.chaos.failpoints import named

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted(
    path for package in ("app", "worker", "migrations", "catalog") for path in (ROOT / package).rglob("*.py")
)


def test_nothing_happens_unless_one_is_armed() -> None:
    assert failpoints.armed is None
    failpoints.failpoint("anything")


def test_an_armed_one_is_told_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(failpoints, "armed", seen.append)
    failpoints.failpoint("job.claimed")
    assert seen == ["job.claimed"]


def test_nothing_that_is_shipped_arms_one() -> None:
    """Not by a name, an attribute, `setattr` or the import of the module's variable."""
    touching = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = {getattr(node, "attr", None), getattr(node, "id", None), getattr(node, "value", None)}
            if isinstance(node, ast.ImportFrom):
                names |= {alias.name for alias in node.names}
            if "armed" in {name for name in names if isinstance(name, str)}:
                touching.add(path.relative_to(ROOT).as_posix())
    assert touching == {"app/failpoints.py"}


def test_names_are_literals_and_used_once() -> None:
    names = named()
    assert len(names) > 15
    assert [name for name, times in Counter(names).items() if times > 1] == []
    assert all(name.count(".") == 1 for name in names)
