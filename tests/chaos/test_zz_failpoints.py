"""Last of all: every failpoint was come past. One that no test reaches says nothing about its place."""

from pathlib import Path

import pytest

from tests.chaos.failpoints import named

FEWEST = 40  # tests of a run that may be judged: who runs one test alone wants to hear of that one


@pytest.mark.short
def test_every_failpoint_was_hit(hits: Path, request: pytest.FixtureRequest) -> None:
    if len(request.session.items) < FEWEST:
        pytest.skip("not the whole suite")
    assert set(named()) - set(hits.read_text().split()) == set()
