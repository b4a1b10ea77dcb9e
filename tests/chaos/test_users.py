"""Users who cancel, pause and delete at the wrong moment."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app import db
from app.files import service as files
from app.jobs import claims, states
from app.jobs import service as jobs
from app.jobs.errors import JobCannotPause
from tests.chaos.child import Point
from tests.chaos.fake_engine import FAULT, STEP_SECONDS
from tests.chaos.test_ownership import LONG, training
from tests.chaos.world import OFTEN, World, lines, until
from tests.job_rows import BASE, add_jobs


def cancel(world: World, job: str) -> None:
    with db.transaction() as session:
        jobs.cancel(session, world.caller.project_id, job)


@pytest.mark.short
def test_F42_cancelled_and_claimed_at_once(world: World) -> None:
    """It is cancelled, whoever was first; a claimer that was first is told so by its heart."""
    both_start = threading.Barrier(2)

    def claim() -> int | None:
        both_start.wait(30)
        with db.transaction() as session:
            taken = claims.claim_queued(session, worker_id="w", lease_seconds=60, base_key=BASE, alone=False)
        return taken.fence if taken is not None else None

    with ThreadPoolExecutor(1) as pool:
        for _ in range(100):
            (job,) = add_jobs(world.caller.project_id, 1, base_key=BASE)
            claimed = pool.submit(claim)
            both_start.wait(30)
            cancel(world, job)
            fence = claimed.result(60)
            ended = world.job(job)
            assert (ended.status, ended.lease_until, ended.worker_id) == (states.CANCELLED, None, None)
            if fence is not None:
                with db.transaction() as session:
                    assert claims.heartbeat(session, held={job: fence}, lease_seconds=60) == {}


@pytest.mark.short
def test_F44_cancelled_while_its_worker_is_cut_off(world: World) -> None:
    (job,) = world.queued(1, **LONG)
    world.spawn("gpu", **{STEP_SECONDS: 0.05})
    training(world, job)
    world.database.cut()
    cancel(world, job)
    log = world.folder / "gpu-0.log"
    until(lambda: "lease.lost" in log.read_text())
    world.database.mend()
    history = world.check([job], status=states.CANCELLED)
    assert [artefact for artefact in history.artefacts if artefact.sha256] == []


@pytest.mark.short
@pytest.mark.parametrize("point", ["adapter.uploaded", "checkpoint.uploaded", "state.uploaded"])
def test_F45_cancelled_while_something_is_uploaded(world: World, point: str) -> None:
    """Nothing of it can be seen, and nothing is left in the store."""
    (job,) = world.queued(1, n_epochs=4)
    world.spawn("gpu", Point(point, "2"), **{STEP_SECONDS: 0.02}, **OFTEN)
    until(lambda: point in world.hits.read_text().split())
    cancel(world, job)
    worker = world.processes[0]
    history = world.settle([job])
    until(lambda: world.said("job.lost"), what=world.logs())
    assert worker.is_alive()
    assert history[0].fine_tuned_model is None
    world.check([job], status=states.CANCELLED)


def test_F46_paused_and_resumed_up_to_twenty_times(world: World) -> None:
    """At random steps, until it is done; what comes out is what comes out of a run in one go."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    (job,) = world.queued(1, n_epochs=50)
    world.spawn("gpu", **{STEP_SECONDS: 0.1})
    pauses = 0
    for _ in range(20):
        target = min(world.job(job).furthest_step + rng.randrange(1, 6), 140)
        until(lambda target=target: world.job(job).furthest_step >= target)
        try:
            with db.transaction() as session:
                jobs.pause(session, world.caller.project_id, job)
        except JobCannotPause:
            break
        until(lambda: world.job(job).status in {states.PAUSED, states.SUCCEEDED})
        if world.job(job).status == states.SUCCEEDED:
            break  # it was done before it saw that it should pause
        pauses += 1
        with db.transaction() as session:
            jobs.resume(session, world.caller.project_id, job)
    world.check([job])
    assert pauses > 2
    assert world.job(job).attempts == {}


@pytest.mark.short
def test_F47_its_file_is_deleted_while_it_trains(world: World) -> None:
    """The job has what it needs; the file's bytes go when it is over."""
    (job,) = world.queued(1, **LONG)
    world.spawn("gpu", **{STEP_SECONDS: 0.05})
    training(world, job)
    with db.transaction() as session:
        files.delete(session, world.caller.project_id, world.job(job).training_file)
    world.check([job])


@pytest.mark.short
@pytest.mark.parametrize(("code", "becomes"), [("out_of_memory", "out_of_memory"), ("diverged", "training_diverged")])
def test_F48_F51_training_that_cannot_go_on_fails_with_its_code(world: World, code: str, becomes: str) -> None:
    """What the user causes is not tried again, a full memory once; checkpoints from before stay."""
    (job,) = world.queued(1, n_epochs=4)
    world.spawn("gpu", **{FAULT: f'{{"action": "fail", "step": 8, "code": "{code}"}}'})
    history = world.check([job], status=states.FAILED)
    error = world.job(job).error
    assert error is not None
    assert error["code"] == becomes
    assert world.job(job).attempts["total"] == (1 if code == "diverged" else 2)
    assert len([one for one in history.artefacts if "checkpoints/" in one.name]) == 2


@pytest.mark.short
def test_F54_a_device_that_fails_kills_the_engine_and_not_the_job(world: World) -> None:
    (job,) = world.queued(1, n_epochs=4)
    once = world.folder / "fell-off"
    world.spawn("gpu", **{FAULT: f'{{"action": "kill", "step": 5, "once": "{once}"}}'})
    world.check([job])
    assert once.exists()


@pytest.mark.short
def test_F12_killed_between_a_deletion_and_its_note(world: World) -> None:
    """Deleted twice is deleted; the row comes due again."""
    job = world.create(lines(12))
    world.rescue()
    world.settle([job])
    world.pause_nodes()
    for point in ("deletion.claimed", "deletion.done"):
        file_id = world.add_file(b"{}")
        with db.transaction() as session:
            files.delete(session, world.caller.project_id, file_id)
        dying = world.spawn("cpu", Point(point))
        dying.join(60)
        assert dying.exitcode == -9
    from worker import sweeps

    with db.transaction() as session:
        import sqlalchemy as sa

        session.execute(sa.text("UPDATE outbox SET due_at = now()"))
    sweeps.due_outbox(world.store)
    with db.reading() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM outbox")) == 0
    world.check([job])
