"""What lies on a worker's disk is damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import db
from app.jobs import states
from app.models import catalog
from app.models.hashes import sha256_of
from app.workers.tables import Worker
from tests.chaos.fake_engine import STEP_SECONDS
from tests.chaos.world import World, lines, until
from worker.gpu import NOT_LOADED

REVISION = "c0ffee"
CATALOG = """
families: {llama: {linears: [q_proj], attention: [q_proj]}}
models:
  - {id: pulled, hub: org/pulled, family: llama, context_length: 512, learning_rate: 1.0e-3, licence: mit}
  - {id: tiny-chat, path: tiny-chat, family: llama, context_length: 512, learning_rate: 1.0e-3, licence: mit}
"""
WEIGHTS = "model.safetensors"


def pulled(world: World) -> Callable[[str], Path]:
    """Give the world a base model that was pulled; a function that makes a models folder, as a machine has one."""
    bundled = catalog.load(world.settings.catalog_path).find("tiny-chat")
    assert bundled is not None
    assert bundled.path is not None
    path = world.folder / "catalog" / "base_models.yaml"
    shutil.copytree(bundled.path, path.parent / "tiny-chat")
    path.write_text(CATALOG)

    def models_dir(name: str) -> Path:
        folder = world.folder / name
        weights = folder / "pulled" / REVISION
        shutil.copytree(bundled.path, weights)  # type: ignore[arg-type]
        files = {
            found.name: {"size": found.stat().st_size, "sha256": sha256_of(found)}
            for found in weights.iterdir()
            if found.is_file()
        }
        lock = {"pulled": {"source": "org/pulled", "revision": REVISION, "files": files}}
        catalog.lock_path(folder).write_text(json.dumps(lock))
        return folder

    whole = models_dir("whole")
    world.settings = world.settings.model_copy(update={"catalog_path": path, "models_dir": whole})
    world.environment |= {"TUNESMITH_CATALOG_PATH": str(path), "TUNESMITH_MODELS_DIR": str(whole)}
    world.models = catalog.load(path, catalog.lock_path(whole))
    return models_dir


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def beats(kind: str) -> list[object]:
    with db.reading() as session:
        return list(session.scalars(sa.select(Worker.last_seen).where(Worker.kind == kind)))


def several_looks() -> None:
    """Wait until the worker has beaten, and so looked for jobs, a few times more."""
    for _ in range(5):
        before = beats("gpu")
        until(lambda before=before: beats("gpu") != before)


def not_loaded(world: World) -> int:
    return world.said_all().count('"base.not_loaded"')


@pytest.mark.short
@pytest.mark.parametrize("by", ["mending", "another worker"])
def test_F55_a_base_model_is_damaged_after_its_pull(world: World, by: str) -> None:
    """Its jobs stay in the queue and say why; the worker serves other bases, until it is mended or another comes."""
    models_dir = pulled(world)
    damaged = models_dir("damaged")
    weights = damaged / "pulled" / REVISION / WEIGHTS
    job, again = world.queued(1, model="pulled")[0], world.queued(1)[0]
    flip(weights)
    pause = 1.0 if by == "mending" else 3600.0
    hurried = {"PAUSE_SECONDS": pause, "SMALL_FILE": 1000}  # so that the weights are none
    worker = world.spawn("gpu", models_dir=damaged, **hurried, **{STEP_SECONDS: 0.001})
    until(lambda: NOT_LOADED in [event.message for event in world.events(job)], what=world.logs())
    assert world.settle([again])[0].status == states.SUCCEEDED, "other bases are served"
    several_looks()
    waiting = world.job(job)
    assert (waiting.status, waiting.fence, waiting.attempts) == (states.QUEUED, 1, {})
    assert worker.is_alive()
    if by == "mending":
        until(lambda: not_loaded(world) > 2, what="it is looked at again")
        flip(weights)
    else:
        assert not_loaded(world) == 1
        world.rescue("gpu")
    world.check([job, again])
    assert [event.message for event in world.events(job)].count(NOT_LOADED) == 1
    assert world.job(job).attempts == {}


@pytest.mark.short
def test_F55_a_tokenizer_is_damaged_after_its_pull(world: World) -> None:
    """Where files are prepared: another worker prepares them, and the damaged one takes no more of that base."""
    models_dir = pulled(world)
    damaged = models_dir("damaged")
    flip(damaged / "pulled" / REVISION / "tokenizer.json")
    jobs = [world.create(lines(12), model="pulled") for _ in range(3)]
    world.spawn("cpu", models_dir=damaged, prepare_slots=1, PAUSE_SECONDS=3600)
    until(lambda: world.said("base.not_as_pulled"))
    bundled = world.create(lines(12))
    until(lambda: world.job(bundled).status == states.QUEUED)
    assert sum(world.job(job).attempts.get("total", 0) for job in jobs) == 1
    assert {world.job(job).status for job in jobs} == {states.VALIDATING}
    world.rescue()
    world.check([*jobs, bundled])
