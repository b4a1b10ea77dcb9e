"""Who holds a job: workers that stand still, are cut off, hang, or are gone together."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerProcess

import pytest

from app import db
from app.jobs import claims, states
from tests.chaos.child import Point
from tests.chaos.fake_engine import FAULT, STEP_SECONDS
from tests.chaos.history import Recovery
from tests.chaos.world import CLOCKS, PICK_UP_SECONDS, SLOW, World, died, kill, lines, until
from tests.e2e.stack import alive, descendants
from tests.job_rows import BASE, add_jobs
from worker import sweeps
from worker.node import SURE

LONG = {"n_epochs": 40}  # 120 steps


def training(world: World, job: str, step: int = 3) -> None:
    until(lambda: world.job(job).furthest_step >= step, what=f"{world.job(job).status}\n{world.logs()}")


def family(process: ForkServerProcess, number: int) -> None:
    """Signal a worker and its engine."""
    for pid in (process.pid, *descendants(process.pid or 0)):
        os.kill(pid or 0, number)


def test_F22_two_workers_claim_one_job(world: World) -> None:
    """32 claimers and 100 jobs: each job is given once, under one fence."""
    add_jobs(world.caller.project_id, 100, base_key=BASE)

    def claim(number: int) -> list[tuple[str, int]]:
        taken = []
        while True:
            with db.transaction() as session:
                job = claims.claim_queued(
                    session, worker_id=f"w{number}", lease_seconds=60, base_key=BASE, alone=False
                )  # fmt: skip
            if job is None:
                return taken
            taken.append((job.id, job.fence))

    with ThreadPoolExecutor(16) as pool:
        taken = [one for some in pool.map(claim, range(32)) for one in some]
    assert len(taken) == len({job for job, _ in taken}) == 100
    assert {fence for _, fence in taken} == {1}


@pytest.mark.short
def test_F23_a_worker_stands_still_longer_than_its_lease(world: World) -> None:
    """Another goes on; the first wakes up, is told no, and leaves its engine empty."""
    (job,) = world.queued(1, **LONG)
    sleeper = world.spawn("gpu", CUDA_FAKE_STEP_SECONDS=0.05)
    training(world, job)
    fence = world.job(job).fence
    family(sleeper, signal.SIGSTOP)
    world.rescue("gpu")
    until(lambda: world.job(job).fence > fence)
    family(sleeper, signal.SIGCONT)
    log = world.folder / "gpu-0.log"
    until(lambda: "lease.lost" in log.read_text(), what=log.read_text())
    world.check([job])


@pytest.mark.short
def test_F24_a_worker_is_cut_off_from_the_database(world: World) -> None:
    """It lets go of the engine before its lease is over, by its own clock, while the proxy swallows all it says."""
    (job,) = world.queued(1, **LONG)
    world.spawn("gpu", CUDA_FAKE_STEP_SECONDS=0.1)
    training(world, job)
    world.database.cut()
    cut = time.monotonic()
    log = world.folder / "gpu-0.log"
    until(lambda: "lease.lost" in log.read_text(), what=log.read_text())
    late = Recovery("the engine is free", time.monotonic() - cut, SURE * CLOCKS["lease_seconds"] + 2.5 * SLOW)
    world.rescue("gpu")
    world.check([job], recoveries=(late,))


@pytest.mark.short
def test_F26_a_worker_claims_its_own_old_attempt(world: World) -> None:
    """Its lease is taken while its engine still has the job: the only worker there is takes it again."""
    (job,) = world.queued(1, **LONG)
    lonely = world.spawn("gpu", CUDA_FAKE_STEP_SECONDS=0.03)
    training(world, job)
    os.kill(lonely.pid or 0, signal.SIGSTOP)  # the engine trains on
    until(lambda: sweeps.expired_leases() == 1)
    os.kill(lonely.pid or 0, signal.SIGCONT)
    history = world.check([job])
    assert max(version.fence for version in history.versions) == 3
    assert not world.said("duplicate_job")
    assert "internal_error" not in world.job(job).attempts


@pytest.mark.short
def test_F27_the_engine_hangs_while_the_heart_beats(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The progress clock takes the job back, and an engine that does not answer is killed."""
    (job,) = world.queued(1, n_epochs=4)
    once = world.folder / "hung"
    order = f'{{"action": "hang", "step": 5, "once": "{once}"}}'
    world.spawn("gpu", step_budget_seconds=4 * SLOW, PASS_SECONDS=SLOW, **{FAULT: order})
    until(once.exists)
    sweeper = world.settings.model_copy(update={"step_budget_seconds": 4 * SLOW})
    until(lambda: sweeps.stalled_jobs(sweeper) or world.job(job).attempts.get("stalled"))
    world.check([job])
    assert world.job(job).attempts["stalled"] == 1


def test_F29_three_sweepers_at_once(world: World) -> None:
    (job,) = world.queued(1, n_epochs=4)
    died(world.spawn("gpu", Point("steps.stored")))
    until(lambda: _expired(world, job))
    with ThreadPoolExecutor(3) as pool:
        counts = list(pool.map(lambda _: sweeps.expired_leases(), range(3)))
    assert sum(counts) == 1
    assert world.job(job).attempts["worker_lost"] == 1
    world.rescue("gpu")
    world.check([job])


def _expired(world: World, job: str) -> bool:
    import sqlalchemy as sa

    with db.reading() as session:
        found = session.scalar(sa.text("SELECT lease_until < now() FROM jobs WHERE id = :job"), {"job": job})
    return bool(found)


@pytest.mark.short
def test_F38_the_worker_is_killed_and_its_engine_lives(world: World) -> None:
    """It does not, for long."""
    (job,) = world.queued(1, **LONG)
    worker = world.spawn("gpu", CUDA_FAKE_STEP_SECONDS=0.05)
    training(world, job)
    (engine,) = descendants(worker.pid or 0)
    os.kill(worker.pid or 0, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: not alive(engine), seconds=10 * SLOW)
    orphan = Recovery("the engine ends", time.monotonic() - killed, 1.0 * SLOW)
    world.rescue("gpu")
    world.check([job], recoveries=(orphan,))


@pytest.mark.short
def test_F39_the_engine_is_killed_and_its_worker_lives(world: World) -> None:
    (job,) = world.queued(1, **LONG)
    worker = world.spawn("gpu", CUDA_FAKE_STEP_SECONDS=0.1)  # or the worker first stores what came before the kill
    training(world, job)
    (engine,) = descendants(worker.pid or 0)
    os.kill(engine, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: world.job(job).attempts.get("total"), seconds=20 * SLOW)
    requeued = Recovery("requeued", time.monotonic() - killed, 1.0 * SLOW)
    world.check([job], recoveries=(requeued,))


@pytest.mark.short
def test_F40_everything_is_killed_and_its_disk_is_gone(world: World) -> None:
    """As when a host is started anew with an empty disk."""
    jobs = world.queued(3, n_epochs=10)
    workers = [world.spawn("gpu", CUDA_FAKE_STEP_SECONDS=0.05), world.spawn("cpu")]
    late = world.create(lines(12))
    training(world, jobs[0])
    for worker in workers:
        kill(worker)
    scratch = world.settings.scratch_dir.with_name("scratch-of-processes")
    scratch.rename(scratch.with_name("thrown-away"))
    world.rescue()
    world.check([*jobs, late])


def test_F41_a_job_that_kills_every_worker_is_given_up(world: World) -> None:
    """Three deaths at the same step, and not one more."""
    (job,) = world.queued(1, n_epochs=4)
    for _ in range(3):
        died(world.spawn("gpu", Point("job.admitted")))
        until(lambda: sweeps.expired_leases() == 1)
    history = world.check([job], status=states.FAILED)
    error = world.job(job).error
    assert error is not None
    assert error["code"] == "worker_lost"
    assert max(version.fence for version in history.versions) == 1 + 3


@pytest.mark.short
def test_F81_the_whole_box_sleeps(world: World) -> None:
    """Every worker stands still for longer than a lease, and all wake up at once."""
    (job,) = world.queued(1, **LONG)
    sleepers = [world.spawn("gpu", **{STEP_SECONDS: 0.05}) for _ in range(2)]
    training(world, job)
    for sleeper in sleepers:
        family(sleeper, signal.SIGSTOP)
    until(lambda: _expired(world, job))
    for sleeper in sleepers:
        family(sleeper, signal.SIGCONT)
    world.check([job])


@pytest.mark.short
def test_a_worker_that_is_asked_to_stop_saves_and_hands_back(world: World) -> None:
    """SIGTERM: a state at the next step, no attempt counted, and gone within the grace."""
    (job,) = world.queued(1, **LONG)
    worker = world.spawn("gpu", CUDA_FAKE_STEP_SECONDS=0.05)
    training(world, job)
    os.kill(worker.pid or 0, signal.SIGTERM)
    asked = time.monotonic()
    worker.join(world.settings.drain_seconds)
    assert worker.exitcode == 0, world.logs()
    left = Recovery("stopped", time.monotonic() - asked, world.settings.drain_seconds / 2)
    handed = world.job(job)
    assert (handed.status, handed.attempts) == (states.QUEUED, {})
    assert handed.resume_step == handed.furthest_step > 0
    world.rescue("gpu")
    world.check([job], recoveries=(left, Recovery("pick-up", 0, PICK_UP_SECONDS)))


@pytest.mark.short
@pytest.mark.parametrize("point", ["job.released", "job.handed_back"])
def test_F32_killed_while_it_hands_back(world: World, point: str) -> None:
    (job,) = world.queued(1, **LONG)
    worker = world.spawn("gpu", Point(point), CUDA_FAKE_STEP_SECONDS=0.05)
    training(world, job)
    os.kill(worker.pid or 0, signal.SIGTERM)
    died(worker)
    world.rescue("gpu")
    world.check([job])


@pytest.mark.short
def test_F29_killed_while_it_sweeps(world: World) -> None:
    """A sweeper that dies in the middle of taking a job back has done nothing."""
    (job,) = world.queued(1, n_epochs=4)
    died(world.spawn("gpu", Point("steps.stored")))
    died(world.spawn("cpu", Point("job.taking_back")))
    world.rescue("gpu")
    world.check([job])
    assert world.job(job).attempts["worker_lost"] == 1
