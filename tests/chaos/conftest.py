"""Everything here is the fault suite: `make chaos`, or `make chaos-short` for the part that takes seven minutes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import failpoints
from app.embedded.postgres import Postgres
from tests.chaos.world import World
from tests.chaos.world import world as new_world

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(scope="session")
def hits() -> Iterator[Path]:
    """The names of the failpoints that any process came past; `make` names a file that outlives this process."""
    path = Path(os.environ.get("CHAOS_HITS", "/tmp/tunesmith-chaos-hits"))
    path.unlink(missing_ok=True)
    path.touch()
    yield path
    path.unlink()


@pytest.fixture
def world(postgres: Postgres, tmp_path: Path, hits: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with new_world(postgres, tmp_path, hits, monkeypatch) as made:
        yield made
    failpoints.armed = None
