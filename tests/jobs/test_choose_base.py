"""Which base an engine should hold: cases, and days of simulated arrivals."""

import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from app.jobs.claims import (
    BASE_DRAIN_SECONDS,
    BASE_SLICE_SECONDS,
    BASE_WAIT_SECONDS,
    Choice,
    GiveBack,
    Idle,
    Load,
    Queue,
    Residence,
    Serve,
    Yield,
    choose_base,
)

A, B = "a", "b"
SHORT = BASE_WAIT_SECONDS / 2
LONG = BASE_SLICE_SECONDS + BASE_WAIT_SECONDS


@pytest.mark.parametrize(
    ("residence", "queues", "choice"),
    [
        (Residence(None), [], Idle()),
        (Residence(None), [Queue(A, 1), Queue(B, 2)], Load(B)),
        (Residence(A, held=1), [], Idle()),
        (Residence(A, held=1), [Queue(A, 1)], Serve(A)),
        (Residence(A, held=1), [Queue(B, 0)], Load(B)),
        (Residence(A, held=1, running=2), [Queue(B, SHORT)], Serve(A)),
        (Residence(A, held=LONG), [Queue(A, LONG), Queue(B, SHORT)], Serve(A)),
        (Residence(A, held=1), [Queue(A, 1), Queue(B, LONG)], Serve(A)),
        (Residence(A, held=LONG), [Queue(A, LONG), Queue(B, LONG)], Load(B)),
        (Residence(A, held=LONG, running=1), [Queue(A, 1), Queue(B, LONG)], Yield()),
        (Residence(A, held=LONG, running=1, yielding=1), [Queue(B, LONG)], Yield()),
        (Residence(A, held=LONG, running=1, yielding=BASE_DRAIN_SECONDS), [Queue(B, LONG)], GiveBack()),
        (Residence(A, held=LONG), [Queue("c", LONG), Queue(B, LONG + 1)], Load(B)),
    ],
)
def test_the_choice(residence: Residence, queues: list[Queue], choice: Choice) -> None:
    assert choose_base(residence, queues) == choice


@dataclass
class Engine:
    """A simulated engine with slots, stepped once a second. Bases take a few seconds to load, jobs to end."""

    slots: int = 4
    loading: float = 5
    now: float = 0
    base: str | None = None
    since: float = 0
    busy_until: float = 0
    yielding: float | None = None
    running: list[tuple[float, str]] = field(default_factory=list)  # when it ends, its base
    waiting: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))  # since, length
    loads: list[tuple[float, bool]] = field(default_factory=list)  # when, and whether the old base had jobs waiting
    waited: list[float] = field(default_factory=list)

    def step(self) -> None:
        self.now += 1
        self.running = [job for job in self.running if job[0] > self.now]
        while self.now >= self.busy_until and len(self.running) < self.slots and self._act():
            pass

    def _act(self) -> bool:
        queues = [Queue(base, self.now - jobs[0][0]) for base, jobs in self.waiting.items() if jobs]
        yielding = None if self.yielding is None else self.now - self.yielding
        choice = choose_base(Residence(self.base, self.now - self.since, len(self.running), yielding), queues)
        if isinstance(choice, Yield | GiveBack):
            self.yielding = self.now if self.yielding is None else self.yielding
        else:
            self.yielding = None
        match choice:
            case Load(base):
                assert not self.running, "a base is never taken from under a job"
                self.loads.append((self.now, bool(self.base and self.waiting[self.base])))
                self.base, self.since, self.busy_until = base, self.now, self.now + self.loading
                return False
            case Serve(base):
                return self._start(base)
            case GiveBack():
                for end, base in self.running:
                    self.waiting[base].insert(0, (self.now, end - self.now))
                self.running = []
                return False
            case Idle():
                assert not queues
                return False
        return False

    def _start(self, base: str) -> bool:
        if not self.waiting[base]:
            return False
        arrived, length = self.waiting[base].pop(0)
        self.waited.append(self.now - arrived)
        self.running.append((self.now + length, base))
        return True


def simulate(seed: int, *, bases: int, arrivals: int, every: float, longest: float) -> Engine:
    """Random arrivals for some bases; returns the engine once every job has ended."""
    rng, engine = random.Random(seed), Engine()
    due, left = 0.0, arrivals
    while left or engine.running or any(engine.waiting.values()):
        while left and due <= engine.now:
            base = f"base-{min(int(rng.expovariate(1)), bases - 1)}"  # a few popular ones, some rare
            engine.waiting[base].append((engine.now, rng.uniform(1, longest)))
            due, left = due + rng.expovariate(1 / every), left - 1
        engine.step()
    return engine


@pytest.mark.parametrize("seed", range(5))
def test_thousands_of_arrivals_are_all_served_and_bases_do_not_thrash(seed: int) -> None:
    engine = simulate(seed, bases=3, arrivals=4000, every=6, longest=60)
    assert len(engine.waited) >= 4000
    forced = [when for when, left_work in engine.loads if left_work]
    assert forced, "busy enough that bases wait for one another"
    began = [when for when, _ in engine.loads]
    slices = [when - max(start for start in began if start < when) for when in forced]
    assert all(held >= BASE_SLICE_SECONDS for held in slices), "a base with work left keeps its slice"


@pytest.mark.parametrize("seed", range(5))
def test_no_base_starves_beside_a_busy_one(seed: int) -> None:
    """One base with endless work and one with a job now and then: the latter waits a slice and a drain at most."""
    rng, engine = random.Random(seed), Engine()
    rare: list[float] = []
    for second in range(40_000):
        while len(engine.waiting["busy"]) < 10:
            engine.waiting["busy"].append((engine.now, rng.uniform(5, 400)))
        if second % 3000 == 0:
            engine.waiting["rare"].append((engine.now, 5.0))
        before = len(engine.waiting["rare"])
        head = engine.waiting["rare"][0][0] if before else 0.0
        engine.step()
        if len(engine.waiting["rare"]) < before:
            rare.append(engine.now - head)
    assert len(rare) >= 12
    assert max(rare) <= BASE_SLICE_SECONDS + BASE_DRAIN_SECONDS + 2 * engine.loading + BASE_WAIT_SECONDS
