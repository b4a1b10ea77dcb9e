"""The LoRA bank: K slots of adapters over one frozen base, read and trained from one packed stream.

y = x Wᵀ + s·(x Aᵀ) Bᵀ (Hu et al. 2021, arXiv 2106.09685). The base product runs once over everybody's tokens; each run
of rows then adds its own slot's low-rank term in place. Slices, never masks, keep jobs apart: a NaN of one job is not
multiplied into another's sum. Gradients go straight into the slot's fp32 buffer; the base gets none.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from worker.engine.frozen_linear import FrozenLinear

NO_ADAPTER = -1


@dataclass(frozen=True)
class Run:
    """Tokens start..stop of the stream belong to `slot`; NO_ADAPTER runs on the bare base.

    `draw` seeds the dropout of these tokens: it is a function of the job, the step and the chunk, so that a pass that
    is done again (after a crash, out of memory, or to save activations) drops the same.
    """

    slot: int
    start: int
    stop: int
    draw: int = 0


@dataclass(frozen=True)
class Site:
    """One linear's share of an adapter: views into the adapter's flat buffers. A (rank, in), B (out, rank)."""

    A: torch.Tensor
    B: torch.Tensor
    A_grad: torch.Tensor
    B_grad: torch.Tensor


@dataclass(frozen=True)
class Adapter:
    """One job's LoRA weights over all its linears, flat.

    `master` and `grad` are fp32 (parameters,); `compute` holds master's values in the dtype of the forward pass.
    """

    rank: int
    alpha: float
    dropout: float
    master: torch.Tensor
    grad: torch.Tensor
    compute: torch.Tensor
    sites: dict[str, Site]
    noise: torch.Generator

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def publish(self) -> None:
        """Round the masters into the weights that the forward pass reads."""
        self.compute.copy_(self.master)


@dataclass
class LoraBank:
    """The adapters in their slots, and which run of the present stream uses which.

    `anchor` is an empty leaf that asks for a gradient, so that autograd records the first layers too although neither
    their input nor the base weights do.
    """

    adapters: list[Adapter | None]
    device: torch.device
    dtype: torch.dtype
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    training: bool = False

    def __post_init__(self) -> None:
        self.anchor = torch.zeros(0, device=self.device, requires_grad=True)

    def free_slot(self) -> int | None:
        return next((slot for slot, adapter in enumerate(self.adapters) if adapter is None), None)

    def read(self, runs: tuple[Run, ...], *, training: bool) -> None:
        """Set who owns the tokens of the next pass; dropout is on only in training."""
        self.runs = runs
        self.training = training


def allocate(bank: LoraBank, *, rank: int, alpha: float, dropout: float, targets: list[str], seed: int) -> Adapter:
    """A fresh adapter on every linear whose last name is in `targets`: A uniform as in peft (kaiming, a = √5), B zero.

    Raises ValueError when a target is not among the base's linears.
    """
    names = [name for name in bank.shapes if name.rsplit(".", 1)[-1] in set(targets)]
    if unknown := set(targets) - {name.rsplit(".", 1)[-1] for name in names}:
        raise ValueError(f"the base has no linear called {', '.join(sorted(unknown))}")
    size = sum(rank * sum(bank.shapes[name]) for name in names)
    master, grad = (torch.zeros(size, device=bank.device) for _ in range(2))
    compute = torch.zeros(size, device=bank.device, dtype=bank.dtype)
    sites = _sites(bank, names, rank, compute, grad)
    adapter = Adapter(rank, alpha, dropout, master, grad, compute, sites, torch.Generator(bank.device))
    _initialise(adapter, bank, torch.Generator().manual_seed(seed))
    return adapter


def parameters(bank: LoraBank, rank: int, targets: list[str]) -> int:
    """How many parameters an adapter of this rank on these linears has."""
    return sum(rank * sum(shape) for name, shape in bank.shapes.items() if name.rsplit(".", 1)[-1] in set(targets))


def views(
    bank: LoraBank, names: list[str], rank: int, flat: torch.Tensor
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Cut a flat buffer into (A, B) per linear, in the order of the names."""
    cut, start = {}, 0
    for name in names:
        out, inner = bank.shapes[name]
        middle, stop = start + rank * inner, start + rank * (inner + out)
        cut[name] = (flat[start:middle].view(rank, inner), flat[middle:stop].view(out, rank))
        start = stop
    return cut


def _sites(bank: LoraBank, names: list[str], rank: int, compute: torch.Tensor, grad: torch.Tensor) -> dict[str, Site]:
    weights, grads = views(bank, names, rank, compute), views(bank, names, rank, grad)
    return {name: Site(*weights[name], *grads[name]) for name in names}


def _initialise(adapter: Adapter, bank: LoraBank, generator: torch.Generator) -> None:
    """Drawn on the CPU whatever the device, so that a seed means the same adapter everywhere."""
    for A, _ in views(bank, list(adapter.sites), adapter.rank, adapter.master).values():
        bound = 1 / math.sqrt(A.shape[1])
        A.copy_(torch.empty(A.shape).uniform_(-bound, bound, generator=generator))
    adapter.publish()


def mask_seed(draw: int, number: int) -> int:
    """The seed of one linear's dropout in one run: neighbours in either argument are far apart (splitmix64)."""
    mixed = (draw + (number + 1) * 0x9E3779B97F4A7C15) & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & (2**64 - 1)
    return (mixed ^ (mixed >> 31)) >> 1


class LoraLinear(nn.Module):
    """Stands where the base model had a linear, and adds to it what the bank holds under this name."""

    def __init__(self, name: str, linear: nn.Linear, bank: LoraBank) -> None:
        super().__init__()
        self.name = name
        self.number = len(bank.shapes)
        self.frozen = FrozenLinear(linear)
        self.bank = bank
        bank.shapes[name] = (self.frozen.out_features, self.frozen.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, tokens, in) → (…, tokens, out), where tokens are those of the bank's present stream."""
        return _LowRankSum.apply(x, self.bank.anchor, self.frozen, self._terms(x))

    def _terms(self, x: torch.Tensor) -> "list[tuple[int, _Term | None]]":
        """Each run's length, and what it adds; None for one without an adapter here."""
        terms: list[tuple[int, _Term | None]] = []
        for run in self.bank.runs:
            adapter = self.bank.adapters[run.slot] if run.slot != NO_ADAPTER else None
            site = adapter.sites.get(self.name) if adapter is not None else None
            term = None
            if adapter is not None and site is not None:
                dropping = self.bank.training and adapter.dropout > 0
                term = _Term(site, adapter.scale, self._mask(run, adapter, x) if dropping else None)
            terms.append((run.stop - run.start, term))
        return terms

    def _mask(self, run: Run, adapter: Adapter, x: torch.Tensor) -> torch.Tensor:
        keep = 1 - adapter.dropout
        mask = torch.empty((run.stop - run.start, x.shape[-1]), device=x.device, dtype=x.dtype)
        adapter.noise.manual_seed(mask_seed(run.draw, self.number))
        return mask.bernoulli_(keep, generator=adapter.noise).div_(keep)


class _Term(NamedTuple):
    """One run's low-rank term; `mask` (tokens, in) is the dropout multiplier of its input.

    A tuple: with eight runs there are 300 terms a pass, and a dataclass takes four times as long to make.
    """

    site: Site
    scale: float
    mask: torch.Tensor | None


class _LowRankSum(torch.autograd.Function):
    """Base output plus every run's low-rank term, each added in place: no fp32 copies of x or y as peft makes."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: torch.Tensor,
        anchor: torch.Tensor,
        frozen: FrozenLinear,
        runs: "list[tuple[int, _Term | None]]",
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = frozen(flat)
        lengths = [length for length, _ in runs]
        hidden, masks = [], []
        for (_, term), rows, out in zip(runs, flat.split(lengths), y.split(lengths), strict=True):
            if term is None:
                continue
            h = (rows if term.mask is None else rows * term.mask) @ term.site.A.T
            out.addmm_(h, term.site.B.T, alpha=term.scale)
            hidden.append(h)
            masks.append(term.mask)
        # Autograd may only hold tensors that it was handed, so masks go with them.
        ctx.frozen, ctx.runs = frozen, [(n, term and term._replace(mask=None)) for n, term in runs]  # type: ignore[attr-defined]
        ctx.save_for_backward(flat, *hidden, *masks)  # type: ignore[arg-type]
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, *saved = ctx.saved_tensors  # type: ignore[attr-defined]
        kept = iter(zip(saved[: len(saved) // 2], saved[len(saved) // 2 :], strict=True))
        dy = grad.reshape(-1, grad.shape[-1])
        wanted = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        dx = ctx.frozen.grad_input(dy) if wanted else None  # type: ignore[attr-defined]
        lengths = [length for length, _ in ctx.runs]  # type: ignore[attr-defined]
        into = dx.split(lengths) if dx is not None else [None] * len(lengths)
        for (_, term), x, d, target in zip(ctx.runs, flat.split(lengths), dy.split(lengths), into, strict=True):  # type: ignore[attr-defined]
            if term is not None:
                h, mask = next(kept)
                _term_backward(term, mask, x, h, d, target)
        return None if dx is None else dx.view(*grad.shape[:-1], -1), None, None, None


def _term_backward(
    term: _Term,
    mask: torch.Tensor | None,
    x: torch.Tensor,
    h: torch.Tensor,
    dy: torch.Tensor,
    dx: torch.Tensor | None,
) -> None:
    """The rank-sized product first: dH = s·dY B, then dA = dHᵀ X, dB = s·dYᵀ H, dX += dH A."""
    site = term.site
    dh = (dy @ site.B).mul_(term.scale)
    site.B_grad.add_(dy.T @ h, alpha=term.scale)
    site.A_grad.add_(dh.T @ (x if mask is None else x * mask))
    if dx is None:
        return
    if mask is None:
        dx.addmm_(dh, site.A)
    else:
        dx.addcmul_(dh @ site.A, mask)
