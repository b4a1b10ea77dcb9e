"""F89 and F90: faults by the dice. A failure prints its seed; CHAOS_SEED runs that one again."""

import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess

import pytest

from app.embedded.postgres import Postgres
from tests.chaos import child, recorder
from tests.chaos.fake_engine import STEP_SECONDS
from tests.chaos.sink import Sink
from tests.chaos.test_ownership import family
from tests.chaos.world import OFTEN, SLOW, World, kill, lines, until
from tests.receivers import OK, receiving
from worker import supervisor

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
JOBS = int(os.environ.get("CHAOS_JOBS", "40"))
KILLS = int(os.environ.get("CHAOS_KILLS", "15"))
ENGINE = os.environ.get("CHAOS_ENGINE", "fake")
MODULES = {"fake": child.FAKE_ENGINE, "real": "worker.engine"}


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
    print(f"\nCHAOS_SEED={seed}")  # pytest shows it when the test fails
    return random.Random(seed)


class Company:
    """Two GPU workers and a CPU worker, of which any may be killed, and comes back."""

    def __init__(self, world: World, **environment: object) -> None:
        self.world, self.environment = world, environment
        self.members = {name: self._spawn(name) for name in ("cpu", "gpu-1", "gpu-2")}

    def _spawn(self, name: str) -> ForkServerProcess:
        return self.world.spawn(name.split("-", maxsplit=1)[0], engine=MODULES[ENGINE], **self.environment)

    def kill(self, name: str) -> None:
        kill(self.members[name])
        self.members[name] = self._spawn(name)


@pytest.mark.short
def test_F89_a_random_nemesis(world: World, postgres: Postgres, rng: random.Random) -> None:
    """Workers killed and stopped, the database cut, its sessions ended, replies to commits lost: all jobs end right."""
    seconds = min(SECONDS, 20) if os.environ.get("CHAOS_SHORT") else SECONDS
    jobs = [world.create(lines(12), n_epochs=rng.choice([2, 5, 10])) for _ in range(8)]
    company = Company(world, **{STEP_SECONDS: 0.02}, **OFTEN)

    def stand_still() -> None:
        worker = company.members[rng.choice(["gpu-1", "gpu-2"])]
        if worker.is_alive():
            family(worker, signal.SIGSTOP)
            time.sleep(rng.uniform(0.1, 4.0 * SLOW))
            family(worker, signal.SIGCONT)

    def cut() -> None:
        world.database.cut()
        time.sleep(rng.uniform(0.1, 2.0))
        world.database.mend()

    def lose_commits() -> None:
        world.database.swallow(lambda answer: b"COMMIT\0" in answer and rng.random() < 0.1)
        time.sleep(rng.uniform(0.1, 2.0))
        world.database.mend()

    nemesis: list[Callable[[], object]] = [
        lambda: company.kill(rng.choice(list(company.members))), stand_still, cut, lose_commits, world.kill_backends,
    ]  # fmt: skip
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        rng.choice(nemesis)()
        time.sleep(rng.uniform(0.1, 2.0))
    world.rescue()
    ended = {job.id: (job.status, job.error) for job in world.settle(jobs)}
    assert {status for status, _ in ended.values()} == {"succeeded"}, ended
    world.check(jobs)


@pytest.mark.timeout(1800)
def test_F90_everything_is_killed_in_random_order_while_tiny_jobs_run(
    world: World, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`deterministic` jobs: adapters equal in every bit to that of a quiet run, with the real engine too.

    Whoever trains delivers webhooks as well: each end is told under one id, however many who told it were killed.
    """
    if ENGINE == "real":
        monkeypatch.setattr(supervisor, "MODULE", "worker.engine")
    with receiving(OK) as receiver:
        sink = Sink(world, receiver)
        quiet, *jobs = world.queued(JOBS + 1, n_epochs=2, deterministic=True)
        world.rescue("gpu")
        until(lambda: world.job(quiet).finished_at)
        world.pause_nodes()
        company = Company(world, webhook_seconds=2, **{STEP_SECONDS: 0.02}, **OFTEN)
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.5, 3.0) * SLOW)
            company.kill(rng.choice(list(company.members)))
        world.settle([quiet, *jobs], seconds=600 * SLOW)
        sink.wait(120 * SLOW)
        expected = dict.fromkeys([quiet, *jobs], recorder.weights(world, quiet))
        told = sink.delivered()
        history = world.check(list(expected), undisturbed=expected, subscribed=(sink.endpoint,), webhooks=told)
    assert len({version.fence for version in history.versions}) > 2, "something was lost and went on"
