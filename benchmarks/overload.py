"""Three times what two API processes can answer, for a minute: who is served, who is refused, and how it ends.

The load is nine polls, two lists and one new job of twelve requests. Its peak comes from a closed loop. The overload
comes as from clients that wait for nobody, each on a connection of its own. Everything shares the machine's cores.
"""

import itertools
import statistics
from contextlib import ExitStack

from app.config import MOST_REQUESTS_PER_MINUTE
from benchmarks import api_speed, arrivals
from benchmarks.arrivals import Arrival
from benchmarks.figures import show

JOBS = 10_000
TIMES, MINUTE, AFTER = 3.0, 60.0, 15.0  # seconds of the overload, and of half the peak after it
CONNECTIONS = 1_000
PATIENCE = 1.0  # seconds after which a reply comes too late to count
CALM, WINDOW = 0.150, 0.5  # it is over when 99 of 100 that come within WINDOW are answered within CALM
MIX = ["GET job"] * 9 + ["GET 20 jobs"] * 2 + ["POST job"]
UNLIMITED = {"requests_per_minute": MOST_REQUESTS_PER_MINUTE}


def run() -> None:
    with ExitStack() as stack:
        site = api_speed.open_site(stack, JOBS, **UNLIMITED)
        site.requests["mix"] = (next(site.requests[kind]) for kind in itertools.cycle(MIX))
        site.load("mix", 2.0)  # warm
        peak = [site.load("mix").rate for _ in range(3)]
        show("peak, 64 connections", peak, "/s")
        rate = statistics.median(peak)
        due = arrivals.schedule([(TIMES * rate, MINUTE), (rate / 2, AFTER)])
        _report(rate, arrivals.run(site.ports, site.requests["mix"], due, connections=CONNECTIONS))


def _report(peak: float, found: list[Arrival]) -> None:
    during = [one for one in found if one.due < MINUTE]
    served = [one.seconds for one in during if one.status == 200]
    refused = sum(one.status == 503 for one in during)
    late = sum(seconds > PATIENCE for seconds in served)
    print(f"  of {len(during)} requests {len(served)} were served, {late} of them late, {refused} refused;")
    print(f"  {sum(one.status is None for one in during)} found no connection or no reply")
    show("goodput, of the peak (≥ 0.8)", [(len(served) - late) / MINUTE / peak], "×")
    show("99 of 100 served within", _within(during, 200), "ms")
    show("99 of 100 refused within (≤ 100)", _within(during, 503), "ms")
    show("over after (≤ 5)", [_recovery([one for one in found if one.due >= MINUTE])], "s")


def _within(found: list[Arrival], status: int) -> list[float]:
    """ms, for each ten seconds of the overload."""
    spans = [
        [one.seconds for one in found if one.due // 10 == n and one.status == status] for n in range(int(MINUTE) // 10)
    ]
    return [1000 * statistics.quantiles(span, n=100)[98] for span in spans]


def _recovery(after: list[Arrival]) -> float:
    """Seconds from the end of the overload to the first window in which all is well."""
    for number in itertools.count():
        window = [one for one in after if number <= (one.due - MINUTE) / WINDOW < number + 1]
        if not window:
            return AFTER
        if sum(one.status == 200 and one.seconds <= CALM for one in window) >= 0.99 * len(window):
            return number * WINDOW
    raise AssertionError
