"""An open loop: requests come when they are due, whatever has become of those before them."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import uvloop

from benchmarks.load import Exchange

LOOK_SECONDS = 0.002


@dataclass(frozen=True)
class Arrival:
    """A request. due: seconds after the first; seconds: from then to its reply; status: None if there was none."""

    due: float
    status: int | None
    seconds: float


class Caller(Exchange):
    """A connection that is used again once its request is answered."""

    def __init__(self, done: "Callable[[Caller, int | None], None]") -> None:
        super().__init__()
        self._done = done

    def answered(self, reply: bytes) -> None:
        self._done(self, int(reply[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self._done(self, None)


class Crowd:
    """Sends each request when it is due, over as many connections as that takes, up to a limit."""

    def __init__(self, ports: list[int], requests: Iterator[bytes], connections: int) -> None:
        self._ports, self._requests, self._limit = ports, requests, connections
        self._idle: list[Caller] = []
        self._asked: dict[Caller, float] = {}
        self._opened = 0
        self.found: list[Arrival] = []

    async def send(self, schedule: Iterable[float], patience: float) -> None:
        """patience: seconds to wait in the end for replies that are not there."""
        self._began = time.perf_counter()
        for due in schedule:
            while self._elapsed() < due:
                await asyncio.sleep(LOOK_SECONDS)
            await self._ask(due)
        over = self._elapsed() + patience
        while self._asked and self._elapsed() < over:
            await asyncio.sleep(LOOK_SECONDS)
        self.found += [Arrival(due, None, patience) for due in self._asked.values()]

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began

    async def _ask(self, due: float) -> None:
        if not self._idle and self._opened == self._limit:
            self.found.append(Arrival(due, None, 0.0))
            return
        caller = self._idle.pop() if self._idle else await self._open()
        self._asked[caller] = due
        caller.send(next(self._requests))

    async def _open(self) -> Caller:
        port = self._ports[self._opened % len(self._ports)]
        self._opened += 1
        _, caller = await asyncio.get_running_loop().create_connection(lambda: Caller(self._take), "127.0.0.1", port)
        return caller

    def _take(self, caller: Caller, status: int | None) -> None:
        """A reply is there, or (None) the connection is lost, with or without a request on it."""
        due = self._asked.pop(caller, None)
        if due is not None:
            self.found.append(Arrival(due, status, self._elapsed() - due))
        if status is not None:
            self._idle.append(caller)
        else:
            self._opened -= 1
            self._idle = [one for one in self._idle if one is not caller]


def schedule(phases: Iterable[tuple[float, float]]) -> Iterator[float]:
    """When requests are due that come at a rate (1/s) for some seconds, and then at the next."""
    began = 0.0
    for rate, seconds in phases:
        yield from (began + number / rate for number in range(int(rate * seconds)))
        began += seconds


def run(
    ports: Iterable[int], requests: Iterator[bytes], due: Iterable[float], *, connections: int, patience: float = 5.0
) -> list[Arrival]:
    """Send `requests`, which never end, and say what became of each, in the order in which they were due."""
    crowd = Crowd(list(ports), requests, connections)
    uvloop.run(crowd.send(due, patience))
    return sorted(crowd.found, key=lambda arrival: arrival.due)
