"""The LoRA bank: K slots of adapters over one frozen base, and how an adapter lies in memory.

An adapter is three flat buffers: fp32 masters, their fp32 gradient, and the weights that the passes read. Each lane of
a pass leaves its gradient in a fourth, of the passes' dtype, which is added to the fp32 one in a single call when the
pass is whole.
"""

import math
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

NO_ADAPTER = -1

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """Tokens start..stop of the stream belong to `slot`; NO_ADAPTER runs on the bare base.

    `draws` are each row's tokens and the seed of its dropout. This is a function of the job, the step and the row, so
    that a pass drops the same however the rows are arranged: in company, in lanes, and when it is done again (after a
    crash, out of memory, or to save activations).
    """

    slot: int
    start: int
    stop: int
    draws: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Site:
    """What an adapter has on siblings, linears that read the same input: views into its flat buffers.

    A (rank · members, in) is one product for all of them; B (out, rank) is each member's own. `members` are their
    places among the siblings. The drafts hold the last pass's gradients of one lane, before they are scaled.
    """

    members: tuple[int, ...]
    A: torch.Tensor
    B: tuple[torch.Tensor, ...]
    A_draft: torch.Tensor
    B_draft: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Draft:
    """One lane's own of an adapter: `gradient` (parameters,) of the dtype of the passes, the `sites` with their views
    into it, by the number of the siblings, and what dropout is drawn from."""

    gradient: torch.Tensor
    sites: dict[int, Site]
    noise: torch.Generator


@dataclass(frozen=True)
class Adapter:
    """One job's LoRA weights over all its linears, flat.

    `master` and `grad` are fp32 (parameters,); `compute` is of the dtype of the passes. `names` are its linears,
    `drafts` are by lane.
    """

    rank: int
    alpha: float
    dropout: float
    master: torch.Tensor
    grad: torch.Tensor
    compute: torch.Tensor
    names: tuple[str, ...]
    drafts: tuple[Draft, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def publish(self) -> None:
        """Round the masters into the weights that the forward pass reads."""
        self.compute.copy_(self.master)

    def collect(self, lane: int = 0) -> None:
        """Add a lane's gradient of the last pass; both its halves lack the factor that the low-rank term has."""
        self.grad.add_(self.drafts[lane].gradient, alpha=self.scale)


class Reading(threading.local):
    """What a lane's thread passes through the model at present: which run of its stream uses which slot.

    `ahead` holds outputs of siblings that were computed and not yet asked for, with their input.
    """

    def __init__(self) -> None:
        self.lane = 0
        self.runs: tuple[Run, ...] = ()
        self.training = False
        self.ahead: dict[int, tuple[torch.Tensor, dict[int, torch.Tensor]]] = {}


@dataclass
class LoraBank:
    """The adapters in their slots, for passes of so many lanes, and what each of these reads.

    `siblings` are the names of linears that read the same input, and `shapes` their (out, in).
    `anchor` is an empty leaf that asks for a gradient, so that autograd records the first layers too although neither
    their input nor the base weights do.
    """

    adapters: list[Adapter | None]
    device: torch.device
    dtype: torch.dtype
    lanes: int = 1
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    siblings: list[tuple[str, ...]] = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        self.anchor = torch.zeros(0, device=self.device, requires_grad=True)

    def free_slot(self) -> int | None:
        return next((slot for slot, adapter in enumerate(self.adapters) if adapter is None), None)

    def read(self, runs: tuple[Run, ...], *, training: bool, lane: int = 0) -> None:
        """Set who owns the tokens that this thread passes next; dropout is on only in training, where a slot has one
        run."""
        slots = [run.slot for run in runs if run.slot != NO_ADAPTER]
        assert not training or len(set(slots)) == len(slots), "a slot's gradient would be that of its last run"
        self.reading.lane, self.reading.runs, self.reading.training = lane, runs, training
        self.reading.ahead.clear()  # of a pass that broke off

    def carried(self, forward: Callable[..., T]) -> Callable[..., T]:
        """The function, so that it reads what this thread reads now, whichever thread calls it and when.

        Autograd has threads of its own for the way back on a GPU.
        """
        reading = self.reading
        lane, runs, training = reading.lane, reading.runs, reading.training

        def call(*arguments: Any, **named: Any) -> T:
            self.read(runs, training=training, lane=lane)
            return forward(*arguments, **named)

        return call


def allocate(bank: LoraBank, *, rank: int, alpha: float, dropout: float, targets: list[str], seed: int) -> Adapter:
    """A fresh adapter on every linear whose last name is in `targets`: A uniform as in peft (kaiming, a = √5), B zero.

    Raises ValueError when a target is not among the base's linears.
    """
    names = tuple(name for name in bank.shapes if name.rsplit(".", 1)[-1] in set(targets))
    if unknown := set(targets) - {name.rsplit(".", 1)[-1] for name in names}:
        raise ValueError(f"the base has no linear called {', '.join(sorted(unknown))}")
    size = sum(rank * sum(bank.shapes[name]) for name in names)
    master, grad = (torch.zeros(size, device=bank.device) for _ in range(2))
    compute = torch.zeros(size, device=bank.device, dtype=bank.dtype)
    drafts = tuple(_draft(bank, names, rank, compute) for _ in range(bank.lanes))
    adapter = Adapter(rank, alpha, dropout, master, grad, compute, names, drafts)
    _initialise(adapter, bank, torch.Generator().manual_seed(seed))
    return adapter


def parameters(bank: LoraBank, rank: int, targets: list[str]) -> int:
    """How many parameters an adapter of this rank on these linears has."""
    return sum(rank * sum(shape) for name, shape in bank.shapes.items() if name.rsplit(".", 1)[-1] in set(targets))


def views(
    bank: LoraBank, names: Collection[str], rank: int, flat: torch.Tensor
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Cut a flat buffer into (A, B) per linear. The A of siblings lie side by side, and so do their B."""
    start = 0

    def take(rows: int, columns: int) -> torch.Tensor:
        nonlocal start
        start += rows * columns
        return flat[start - rows * columns : start].view(rows, columns)

    cut: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for siblings in bank.siblings:
        members = [name for name in siblings if name in names]
        every_a = [take(rank, bank.shapes[name][1]) for name in members]
        every_b = [take(bank.shapes[name][0], rank) for name in members]
        cut |= zip(members, zip(every_a, every_b, strict=True), strict=True)
    return cut


def _draft(bank: LoraBank, names: Collection[str], rank: int, compute: torch.Tensor) -> Draft:
    gradient = torch.zeros_like(compute)
    weights, drafts = (views(bank, names, rank, flat) for flat in (compute, gradient))
    sites = {}
    for number, siblings in enumerate(bank.siblings):
        members = {place: name for place, name in enumerate(siblings) if name in names}
        if members:
            (A, B), (A_draft, B_draft) = (_joined([of[name] for name in members.values()]) for of in (weights, drafts))
            sites[number] = Site(tuple(members), A, B, A_draft, B_draft)
    return Draft(gradient, sites, torch.Generator(bank.device))


def _joined(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The neighbouring A as one tensor, and each B."""
    first = pairs[0][0]
    rows, inner = len(pairs) * len(first), first.shape[1]
    return first.as_strided((rows, inner), (inner, 1)), tuple(B for _, B in pairs)


def _initialise(adapter: Adapter, bank: LoraBank, generator: torch.Generator) -> None:
    """Drawn on the CPU whatever the device, so that a seed means the same adapter everywhere."""
    cut = views(bank, adapter.names, adapter.rank, adapter.master)
    for A, _ in (cut[name] for name in adapter.names):
        bound = 1 / math.sqrt(A.shape[1])
        A.copy_(torch.empty(A.shape).uniform_(-bound, bound, generator=generator))
    adapter.publish()
