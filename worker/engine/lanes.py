"""A pass on a CPU in two lanes: each has a part of the rows, and a thread that takes it through the whole model.

Threads inside each operation meet a thousand times a pass, lanes once. On two cores (AMX) a pass of 1,300 tokens takes
1.37 times as long with threads inside as in two lanes at 82 M parameters, and 1.2 to 1.4 times at 12.6 M. Lanes share
the base's weights, which nobody writes; each leaves its gradients in drafts of its own (`lora.Draft`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TypeVar

import torch

from worker.engine.batches import Part

LANES = 2
# With one lane fuller than this, the other core helps more inside the operations.
FULLEST = 0.7
# A row of so many tokens costs twice as much a token as a short one, for its attention (12.6 M parameters, AMX).
DEAR = 2048

T = TypeVar("T")


def deal(parts: Sequence[Part], lanes: int) -> list[list[Part]]:
    """The parts' rows in as many lanes as pay: the dearest first, each to the emptiest lane.

    Which lane has a row depends on nothing but the lengths.
    """
    rows = [
        (_cost(part.chunk.dataset.row_tokens(row)), number, row)
        for number, part in enumerate(parts)
        for row in part.chunk.rows
    ]
    filled, dealt = [0.0] * lanes, [set[tuple[int, int]]() for _ in range(lanes)]
    for cost, number, row in sorted(rows, key=lambda each: -each[0]):
        emptiest = filled.index(min(filled))
        filled[emptiest] += cost
        dealt[emptiest].add((number, row))
    if max(filled) > FULLEST * sum(filled):
        return [list(parts)]
    return [[cut for number, part in enumerate(parts) if (cut := _cut(part, number, mine))] for mine in dealt]


def _cost(tokens: int) -> float:
    return tokens * (1 + tokens / DEAR)


def _cut(part: Part, number: int, mine: set[tuple[int, int]]) -> Part | None:
    """What a lane has of a part, or None."""
    rows = tuple(row for row in part.chunk.rows if (number, row) in mine)
    if not rows:
        return None
    tokens = sum(map(part.chunk.dataset.row_tokens, rows))
    return replace(part, chunk=replace(part.chunk, rows=rows, tokens=tokens))


class Crew:
    """The threads of the lanes; the caller's own runs the first."""

    def __init__(self, lanes: int) -> None:
        self._others = ThreadPoolExecutor(max(1, lanes - 1), thread_name_prefix="lane")

    def run(self, tasks: Sequence[Callable[[], T]], threads: int) -> list[T]:
        """Each task on `threads` threads of its own, all at the same time; what the caller does next has them all.

        Raises what the first that failed raised, when none runs any more.
        """
        others = [self._others.submit(_on, threads, task) for task in tasks[1:]]
        try:
            first = _on(threads, tasks[0])
        finally:
            wait(others)
            set_threads(threads * len(tasks))
        return [first, *(other.result() for other in others)]


def _on(threads: int, task: Callable[[], T]) -> T:
    set_threads(threads)
    return task()


def set_threads(threads: int) -> None:
    """Let so many threads run what this thread calls; asking first is a hundred times as quick as setting."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
