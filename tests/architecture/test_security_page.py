"""docs/security.md says nothing that is not there: files, tests and settings it names, and a test for every threat."""

import ast
import re
from pathlib import Path

import pytest

from app.config import Settings

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
THREATS = PAGE.split("## Threats")[1].split("\n## ")[0]
NAMED = sorted(set(re.findall(r"`((?:app|worker|tests)/[\w./-]+(?:::\w+)?)`", PAGE)))
ROWS = [line for line in THREATS.splitlines() if line.startswith("| ") and not line.startswith("| threat ")]


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_is_there(name: str) -> None:
    path, _, function = name.partition("::")
    assert (ROOT / path).is_file()
    if function:
        assert function in functions(ROOT / path)
    if path.startswith("tests/"):
        assert any(found.startswith("test_") for found in functions(ROOT / path))


def test_every_threat_has_a_test() -> None:
    assert len(ROWS) > 25
    for row in ROWS:
        threat, stops, held, *rest = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert threat, row
        assert stops, row
        assert rest == [], row
        assert re.search(r"`tests/[\w/]+\.py", held), f"no test holds: {threat}"


def test_settings_that_are_named_exist() -> None:
    named = set(re.findall(r"TUNESMITH_([A-Z_]+)", PAGE))
    assert "ENGINE_ISOLATION" in named
    assert {name for name in named if name.lower() not in Settings.model_fields} == set()


def test_links_lead_somewhere() -> None:
    for page in ("docs/security.md", "SECURITY.md"):
        text = (ROOT / page).read_text("utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert ((ROOT / page).parent / target).is_file(), f"{page}: {target}"
    assert "docs/security.md" in (ROOT / "README.md").read_text("utf-8")
