"""Workers killed at each step of the protocol: their jobs end as if nothing had happened."""

import time

import pytest

from app.jobs import states
from tests.chaos.child import Point
from tests.chaos.history import Recovery
from tests.chaos.world import OFTEN, PICK_UP_SECONDS, World, died, lines, until

EPOCHS = 4  # of three steps each


def killed_and_rescued(world: World, point: Point) -> None:
    """Let a GPU worker die at a point, and another one go on; judge the run."""
    (job,) = world.queued(1, n_epochs=EPOCHS)
    died(world.spawn("gpu", point, **OFTEN))
    fence, at = world.job(job).fence, time.monotonic()
    world.rescue("gpu")
    if world.job(job).status not in states.FINAL:
        until(lambda: world.job(job).fence > fence, 2 * PICK_UP_SECONDS)
    world.check([job], recoveries=(Recovery("pick-up", time.monotonic() - at, PICK_UP_SECONDS),))


@pytest.mark.short
@pytest.mark.parametrize("point", ["job.claimed", "job.fetched", "job.admitted"])
def test_F30_while_a_job_is_fetched(world: World, point: str) -> None:
    killed_and_rescued(world, Point(point))


@pytest.mark.short
@pytest.mark.parametrize("point", ["job.claimed", "file.fetched", "prepared.uploaded", "job.queued"])
def test_F31_while_files_are_prepared(world: World, point: str) -> None:
    job = world.create(lines(12))
    died(world.spawn("cpu", Point(point)))
    world.rescue()
    world.check([job])


@pytest.mark.short
@pytest.mark.parametrize("nth", [1, 3])
def test_F32_between_two_steps(world: World, nth: int) -> None:
    killed_and_rescued(world, Point("steps.stored", nth=nth))


@pytest.mark.parametrize("nth", range(1, 8))
def test_F33_after_each_file_of_a_checkpoint_or_state(world: World, nth: int) -> None:
    killed_and_rescued(world, Point("artefact.stored", nth=nth))


@pytest.mark.short
@pytest.mark.parametrize("point", ["checkpoint.uploaded", "state.uploaded"])
def test_F34_after_the_upload_before_the_pointer(world: World, point: str) -> None:
    killed_and_rescued(world, Point(point))


@pytest.mark.short
@pytest.mark.parametrize("point", ["checkpoint.published", "state.published"])
def test_F35_after_the_pointer_which_its_event_came_with(world: World, point: str) -> None:
    killed_and_rescued(world, Point(point))


@pytest.mark.short
@pytest.mark.parametrize("point", ["adapter.uploaded", "result.stored", "job.finishing"])
def test_F36_while_the_model_is_exported(world: World, point: str) -> None:
    killed_and_rescued(world, Point(point))


@pytest.mark.short
def test_F37_after_the_end_was_committed(world: World) -> None:
    killed_and_rescued(world, Point("job.succeeded"))
