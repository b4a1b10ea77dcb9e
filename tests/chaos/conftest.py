"""Everything here is the fault suite: `make chaos`, or `make chaos-short` for the part of about four minutes."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import failpoints
from app.embedded.postgres import Postgres
from tests.chaos.failpoints import Coverage
from tests.chaos.world import World
from tests.chaos.world import world as new_world

HERE = Path(__file__).parent
HITS = "chaos_hits"  # what xdist's workers are told under


def pytest_configure(config: pytest.Config) -> None:
    """The process that controls a run keeps the list of failpoints that any process of it came past."""
    if not hasattr(config, "workerinput"):
        folder = Path(tempfile.mkdtemp(prefix="tunesmith-chaos-"))
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        config.pluginmanager.register(Coverage(folder / "hits"), HITS)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """xdist starts a worker."""
    coverage = node.config.pluginmanager.get_plugin(HITS)  # type: ignore[attr-defined]
    node.workerinput[HITS] = str(coverage.hits)  # type: ignore[attr-defined]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(scope="session")
def hits(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each test adds the names of the failpoints that its processes came past."""
    coverage = pytestconfig.pluginmanager.get_plugin(HITS)
    if coverage is not None:
        return coverage.hits
    told = getattr(pytestconfig, "workerinput", {}).get(HITS)
    # Without a controlling process that has read this file, as when these are a few tests among others.
    return Path(told) if told else tmp_path_factory.mktemp("chaos") / "hits"


@pytest.fixture
def world(postgres: Postgres, tmp_path: Path, hits: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with new_world(postgres, tmp_path, monkeypatch) as made:
        yield made
    failpoints.armed = None
    with hits.open("a") as all_of_the_run:
        all_of_the_run.write(made.hits.read_text())
