"""The Makefile says each thing once, and says what its targets are for."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Makefile").read_text("utf-8")
TARGETS = re.search(r"^\.PHONY: (.*)$", TEXT, re.MULTILINE)[1].split()  # type: ignore[index]


@pytest.mark.parametrize("target", TARGETS)
def test_make_has_nothing_to_complain_of(target: str) -> None:
    """A rule that is there twice, or that waits for itself, is told on stderr."""
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_every_target_says_what_it_is_for() -> None:
    explained = re.findall(r"^([a-z-]+):.*## .", TEXT, re.MULTILINE)
    assert sorted(explained) == sorted(TARGETS)
