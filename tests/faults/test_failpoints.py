"""Failpoints are for the tests: nothing that is shipped can arm one, and each has a name of its own."""

import ast
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app import failpoints
from tests.chaos.failpoints import Coverage, named

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


def ended(coverage: Coverage, status: int = pytest.ExitCode.OK, **asked: Any) -> int:
    """The exit status of a run of the fault suite; asked: what it was told on the command line."""
    options = SimpleNamespace(**{"markexpr": "short", **asked})
    arguments = options.__dict__.pop("args", ["tests/chaos"])
    config = SimpleNamespace(option=options, args=arguments, invocation_params=SimpleNamespace(dir=ROOT))
    session: Any = SimpleNamespace(config=config, exitstatus=status)
    coverage.pytest_sessionfinish(session)
    return session.exitstatus


@pytest.fixture
def coverage(tmp_path: Path) -> Coverage:
    """Of a run that came past all but one."""
    coverage = Coverage(tmp_path / "hits")
    coverage.hits.write_text("\n".join(sorted(named())[1:]))
    return coverage


@pytest.mark.parametrize("mark", ["short", "chaos"])
def test_a_run_of_a_whole_part_fails_if_it_missed_one(coverage: Coverage, mark: str) -> None:
    assert ended(coverage, markexpr=mark) == pytest.ExitCode.TESTS_FAILED
    assert coverage.missed == sorted(named())[:1]


def test_a_run_that_missed_none_is_well(coverage: Coverage) -> None:
    coverage.hits.write_text("\n".join(named()))
    assert ended(coverage) == pytest.ExitCode.OK


@pytest.mark.parametrize(
    "asked",
    [{"keyword": "F01"}, {"args": ["tests/chaos/test_api.py"]}, {"markexpr": "not chaos"}, {"lf": True}],
)
def test_who_runs_some_tests_is_told_of_those_only(coverage: Coverage, asked: dict[str, Any]) -> None:
    assert ended(coverage, **asked) == pytest.ExitCode.OK


def test_a_run_that_has_failed_is_not_judged_as_well(coverage: Coverage) -> None:
    assert ended(coverage, status=pytest.ExitCode.INTERRUPTED) == pytest.ExitCode.INTERRUPTED
    assert coverage.missed == []
