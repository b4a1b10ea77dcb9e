"""Every fault of the list has its place: a test, a test elsewhere, or words."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.chaos.faults import ELSEWHERE, OPEN, WITHOUT

ROOT = Path(__file__).parent.parent.parent
NUMBERS = [f"F{number:02}" for number in range(1, 91)]


@cache
def functions(path: Path) -> frozenset[str]:
    return frozenset(
        node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
    )


def numbers_here() -> set[str]:
    names = [name for path in (ROOT / "tests" / "chaos").glob("test_*.py") for name in functions(path)]
    return {number for name in names if name.startswith("test_") for number in re.findall(r"F\d\d", name)}


@pytest.mark.parametrize("number", NUMBERS)
def test_each_fault_has_one_place(number: str) -> None:
    places = [number in place for place in (numbers_here(), ELSEWHERE, WITHOUT, OPEN)]
    assert sum(places) == 1, f"{number}: here, elsewhere, without, open: {places}"


def test_no_other_numbers_are_named() -> None:
    assert numbers_here() | ELSEWHERE.keys() | WITHOUT.keys() | OPEN.keys() == set(NUMBERS)


@pytest.mark.parametrize("number", ELSEWHERE)
def test_what_is_named_is_there(number: str) -> None:
    for name in ELSEWHERE[number]:
        path, function = name.split("::")
        assert function in functions(ROOT / path), name


def test_the_page_tells_what_is_open() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    assert [number for number in OPEN if number not in page] == []
