"""How much memory a pass takes, how many tokens it may have, and what gives when it took too much all the same.

A pass keeps, for its way back, so many bytes a token and so many a pair of tokens that attend to each other. Both are
measured on the base itself when it is loaded, with two small passes (`measure`), so nothing has to be known of its
family. An adapter keeps 16 bytes a parameter in fp32 (master, gradient, two moments), a copy to compute with, and
a gradient of each lane.
"""

import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

SHARE_OF_FREE = 0.9  # of the free memory that a pass may be predicted to take
# What allocators lose: a pass of 82 M parameters took 1.15 to 1.4 times its tensors' bytes (benchmarks/memory.py).
SLACK = 1.25
# Out of memory: what part of the tokens a pass may still have, and whether activations are computed twice rather than
# kept. Each level is taken once; after the last a pass is a single row.
LEVELS = ((1.0, False), (0.5, False), (0.25, False), (0.25, True), (0.0, True))
STATE_BYTES = 16  # a parameter: fp32 master, gradient and two moments


class TooMuch(Exception):
    """A pass took more memory than there is: the step it was for begins again, in smaller chunks."""


@dataclass(frozen=True)
class Cost:
    """What a base's passes take, in bytes: kept for the way back a token and a pair of tokens, and at work at most."""

    token: float
    pair: float
    working_token: float
    working: float

    def of(self, lengths: list[int], *, checkpointing: bool = False, layers: int = 1) -> int:
        """The bytes of a pass over rows of these lengths. With checkpointing one layer's activations exist at once."""
        tokens, pairs = sum(lengths), sum(length**2 for length in lengths)
        kept = self.token * tokens + self.pair * pairs
        return int(SLACK * ((kept / layers if checkpointing else kept) + self.working_token * tokens + self.working))


class Memory:
    """The limit on a pass's tokens.

    `fixed` is the limit for `deterministic` jobs, whose shapes depend on nothing but the base and its device.
    """

    def __init__(self, fixed: int) -> None:
        self.fixed = fixed
        self._most = fixed  # tokens that fit, by prediction
        self._members = 0
        self._level = 0

    def fit(self, cost: Cost, free: int, longest: int) -> None:
        """Set the limit so that a pass is predicted to fit into `free` bytes, with rows of at most `longest` tokens."""
        tokens = self.fixed
        while tokens > 1 and cost.of(rows_of(tokens, longest)) > SHARE_OF_FREE * free:
            tokens //= 2
        self._most = tokens

    @property
    def limit(self) -> int:
        """Tokens in one pass. A single row may be longer."""
        return max(1, int(self._most * LEVELS[self._level][0]))

    @property
    def chunk_limit(self) -> int:
        """Tokens in one chunk: half a pass, where there is company."""
        return self.limit if self._members < 2 else max(1, self.limit // 2)

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed twice rather than kept."""
        return LEVELS[self._level][1]

    def share(self, members: int) -> None:
        """Say how many jobs there are."""
        self._members = members

    def step_down(self, *, alone: bool) -> str | None:
        """Take the next level after a pass took too much; in words, or None if there is none.

        alone: for a deterministic job, whose shapes must not change, only the levels that save activations count.
        """
        for level in range(self._level + 1, len(LEVELS)):
            if not alone or LEVELS[level][1] > self.checkpointing:
                self._level = level
                saving = ", and activations are computed twice rather than kept" if self.checkpointing else ""
                return f"The device ran out of memory; passes of at most {self.limit} tokens from now on{saving}"
        return None

    def relax(self) -> None:
        """Nobody trains any more: the next may try with all of it again."""
        self._level = 0


def measure(kept: Callable[[list[int]], int], *, hidden: int, widest: int, logits: int, size: int) -> Cost:
    """The cost of a base's passes.

    kept: runs a pass over rows of the given lengths and tells the bytes it kept. hidden, widest: the sizes of a token's
    hidden state and of its widest layer; logits: how many exist at once, in all lanes; size: bytes of a number in the
    model's dtype.
    """
    short, long = [64] * 4, [256]
    small, large = kept(short), kept(long)
    pair = max(0.0, (large - small) / (sum(n**2 for n in long) - sum(n**2 for n in short)))
    token = (small - pair * sum(n**2 for n in short)) / sum(short)
    # On the way back a layer's gradients stand beside its activations; logits, their softmax and its gradient in fp32.
    return Cost(token, pair, working_token=size * (4 * hidden + 4 * widest), working=3 * 4 * logits)


def kept_bytes(forward: Callable[[], object], apart_from: set[int]) -> int:
    """The bytes of the tensors that autograd keeps for the way back from `forward`, storages in `apart_from` aside."""
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in apart_from:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()
    del result
    return sum(seen.values())


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on a device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_meminfo(), _cgroup())


def peak_bytes(device: torch.device) -> int:
    """The most that was in use: on a GPU by the allocator's count, on a CPU by the process (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def used_bytes(device: torch.device) -> int:
    """What is in use now, counted as in `peak_bytes`."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def rows_of(tokens: int, longest: int) -> list[int]:
    """Rows as long as they may be that have so many tokens together: the dearest way to fill a pass."""
    whole, rest = divmod(tokens, longest)
    return [longest] * whole + [rest] * (rest > 0)


def _meminfo() -> int:
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _cgroup() -> int:
    """What the container may still take, if it is in one that says so."""
    folder = Path("/sys/fs/cgroup")
    try:
        most = (folder / "memory.max").read_text().strip()
        return int(most) - int((folder / "memory.current").read_text()) if most != "max" else 2**62
    except (OSError, ValueError):
        return 2**62
