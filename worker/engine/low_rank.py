"""y = x Wᵀ + s·(x Aᵀ) Bᵀ over a packed stream of several jobs (LoRA: Hu et al. 2021, arXiv 2106.09685).

The base's product runs once over everybody's tokens; each run of rows then adds its own slot's low-rank term in place:
none of the fp32 copies of x and y that peft makes. Slices, never masks, keep jobs apart: a NaN of one job is not
multiplied into another's sum. The base gets no gradient; an adapter's goes into its draft.

Linears that read the same input are computed together when the first of them is called, with one product for all their
A on the way there and two on the way back, and no sum of their gradients by autograd. On a Zen 4 core, 160 tokens of
width 384 and rank 16, those products take 136 µs for q, k and v together and 250 µs apart.
"""

from typing import NamedTuple

import torch
from torch import nn

from worker.engine.frozen_linear import FrozenLinear
from worker.engine.lora import NO_ADAPTER, Adapter, LoraBank, Run, Site

# The names of linears that read the same input, where they have the same parent.
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def mask_seed(draw: int, number: int) -> int:
    """The seed of one linear's dropout in one row: neighbours in either argument are far apart (splitmix64)."""
    mixed = (draw + (number + 1) * 0x9E3779B97F4A7C15) & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & (2**64 - 1)
    return (mixed ^ (mixed >> 31)) >> 1


class LoraLinear(nn.Module):
    """Stands where the base model had a linear, and adds to it what the bank holds under this name."""

    def __init__(self, siblings: "Siblings", place: int) -> None:
        super().__init__()
        self.siblings = siblings
        self.place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, tokens, in) → (…, tokens, out), where tokens are those of the bank's present stream."""
        return self.siblings.output(x, self.place)


class Siblings(nn.Module):
    """Linears that read the same input, or one by itself."""

    def __init__(self, linears: dict[str, nn.Linear], bank: LoraBank) -> None:
        super().__init__()
        self.frozen = nn.ModuleList(FrozenLinear(linear) for linear in linears.values())
        self.bank = bank
        self.number = len(bank.siblings)
        bank.siblings.append(tuple(linears))
        bank.shapes |= {name: (linear.out_features, linear.in_features) for name, linear in linears.items()}

    def output(self, x: torch.Tensor, place: int) -> torch.Tensor:
        """What the linear in this place makes of x. The others' outputs wait until they are asked for the same x."""
        ahead = self.bank.reading.ahead
        known, outputs = ahead.pop(self.number, (None, {}))
        if known is not x or place not in outputs:
            layers = list(self.frozen)
            outputs = dict(enumerate(_LowRankSum.apply(x, self.bank.anchor, layers, self._terms(x))))
        output = outputs.pop(place)
        if outputs:
            ahead[self.number] = x, outputs
        return output

    def _terms(self, x: torch.Tensor) -> "list[tuple[int, _Term | None]]":
        """Each run's length, and what it adds; None for one without an adapter here."""
        terms: list[tuple[int, _Term | None]] = []
        reading = self.bank.reading
        for run in reading.runs:
            adapter = self.bank.adapters[run.slot] if run.slot != NO_ADAPTER else None
            site = adapter.drafts[reading.lane].sites.get(self.number) if adapter is not None else None
            term = None
            if adapter is not None and site is not None:
                dropping = reading.training and adapter.dropout > 0
                term = _Term(site, adapter.scale, self._mask(run, adapter, x) if dropping else None)
            terms.append((run.stop - run.start, term))
        return terms

    def _mask(self, run: Run, adapter: Adapter, x: torch.Tensor) -> torch.Tensor:
        keep = 1 - adapter.dropout
        mask = torch.empty((run.stop - run.start, x.shape[-1]), device=x.device, dtype=x.dtype)
        noise = adapter.drafts[self.bank.reading.lane].noise
        for rows, (_, draw) in zip(mask.split([tokens for tokens, _ in run.draws]), run.draws, strict=True):
            rows.bernoulli_(keep, generator=noise.manual_seed(mask_seed(draw, self.number)))
        return mask.div_(keep)


class _Term(NamedTuple):
    """One run's low-rank term; `mask` (tokens, in) is the dropout multiplier of its input, the same for siblings.

    A tuple: with eight runs there are 300 terms a pass, and a dataclass takes four times as long to make.
    """

    site: Site
    scale: float
    mask: torch.Tensor | None

    def parts(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(tokens, rank · members) → each member's (tokens, rank)."""
        return hidden.chunk(len(self.site.members), 1)


class _LowRankSum(torch.autograd.Function):
    """Siblings' base outputs plus every run's low-rank terms."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: torch.Tensor,
        anchor: torch.Tensor,
        layers: list[FrozenLinear],
        terms: "list[tuple[int, _Term | None]]",
    ) -> tuple[torch.Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])
        outputs = [layer(flat) for layer in layers]
        lengths = [length for length, _ in terms]
        into = [output.split(lengths) for output in outputs]
        hidden, masks = [], []
        for run, ((_, term), rows) in enumerate(zip(terms, flat.split(lengths), strict=True)):
            if term is None:
                continue
            h = (rows if term.mask is None else rows * term.mask) @ term.site.A.T
            for place, B, part in zip(term.site.members, term.site.B, term.parts(h), strict=True):
                into[place][run].addmm_(part, B.T, alpha=term.scale)
            hidden.append(h)
            masks.append(term.mask)
        # Autograd may only hold tensors that it was handed, so masks go with them.
        ctx.layers, ctx.terms = layers, [(n, term and term._replace(mask=None)) for n, term in terms]  # type: ignore[attr-defined]
        ctx.save_for_backward(flat, *hidden, *masks)  # type: ignore[arg-type]
        return tuple(output.view(*x.shape[:-1], -1) for output in outputs)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, *saved = ctx.saved_tensors  # type: ignore[attr-defined]
        kept = iter(zip(saved[: len(saved) // 2], saved[len(saved) // 2 :], strict=True))
        dys = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        dx = _grad_input(ctx.layers, dys) if ctx.needs_input_grad[0] else None  # type: ignore[attr-defined]
        lengths = [length for length, _ in ctx.terms]  # type: ignore[attr-defined]
        into = dx.split(lengths) if dx is not None else [None] * len(lengths)
        of = [dy.split(lengths) for dy in dys]
        for run, ((_, term), x, target) in enumerate(zip(ctx.terms, flat.split(lengths), into, strict=True)):  # type: ignore[attr-defined]
            if term is not None:
                h, mask = next(kept)
                _term_backward(term, mask, x, h, [of[place][run] for place in term.site.members], target)
        return None if dx is None else dx.view(*grads[0].shape[:-1], -1), None, None, None


def _grad_input(layers: list[FrozenLinear], dys: list[torch.Tensor]) -> torch.Tensor:
    """Σ dY W over the siblings."""
    dx = layers[0].grad_input(dys[0])
    for layer, dy in zip(layers[1:], dys[1:], strict=True):
        layer.add_grad_input(dy, dx)
    return dx


def _term_backward(
    term: _Term,
    mask: torch.Tensor | None,
    x: torch.Tensor,
    h: torch.Tensor,
    dys: list[torch.Tensor],
    dx: torch.Tensor | None,
) -> None:
    """The rank-sized product first: dH = dY B, then dA = dHᵀ X and dB = dYᵀ H without s, and dX += s·dH A."""
    site = term.site
    parts = [dy @ B for dy, B in zip(dys, site.B, strict=True)]
    dh = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    for dy, part, draft in zip(dys, term.parts(h), site.B_draft, strict=True):
        torch.mm(dy.T, part, out=draft)
    torch.mm(dh.T, x if mask is None else x * mask, out=site.A_draft)
    if dx is None:
        return
    if mask is None:
        dx.addmm_(dh, site.A, alpha=term.scale)
    else:
        dx.addcmul_(dh @ site.A, mask, value=term.scale)
