"""Packed attention against a dense mask and autograd: every segment by itself, windows, soft caps, grouped heads."""

import itertools

import pytest
import torch
from torch import nn

from worker.engine.attention import Segments, packed_attention

LENGTHS = (1, 7, 128, 129, 300)


def segments(lengths: tuple[int, ...]) -> Segments:
    edges = [0, *itertools.accumulate(lengths)]
    return Segments(tuple(itertools.pairwise(edges)), torch.tensor(edges, dtype=torch.int32), max(lengths))


def dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, window: int | None, softcap: float | None
) -> torch.Tensor:
    """(heads, tokens, dim) with the mask written out."""
    groups = q.shape[0] // k.shape[0]
    scores = q @ k.repeat_interleave(groups, 0).transpose(1, 2) * scaling
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    owner = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    place = torch.arange(len(owner))
    seen = (owner[:, None] == owner[None]) & (place[:, None] >= place[None])
    if window is not None:
        seen &= place[:, None] - place[None] < window
    return torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ v.repeat_interleave(groups, 0)


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 1, 50, 128, 200, 5000])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)], ids=["own-keys", "grouped"])
def test_output_and_gradients_are_those_of_a_dense_mask(
    heads: tuple[int, int], window: int | None, softcap: float | None
) -> None:
    torch.manual_seed(0)
    tokens, dim = sum(LENGTHS), 8
    ours = [torch.randn(1, n, tokens, dim, requires_grad=True) for n in (heads[0], heads[1], heads[1])]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    out, _ = packed_attention(
        nn.Identity(), *ours, None, scaling=0.4, segments=segments(LENGTHS), sliding_window=window, softcap=softcap
    )
    expected = dense(*(x[0] for x in theirs), 0.4, window, softcap).transpose(0, 1)
    torch.testing.assert_close(out[0], expected, atol=2e-6, rtol=1e-5)
    weight = torch.randn_like(expected)
    (out[0] * weight).sum().backward()
    (expected * weight).sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-4)


def test_a_segment_does_not_feel_what_is_in_the_others() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, sum(LENGTHS), 8) for _ in range(3))
    results = []
    for poison in (0.0, float("nan")):
        poisoned = [x.clone() for x in (q, k, v)]
        for x in poisoned:
            x[:, :, 8:136] += poison
        results.append(packed_attention(nn.Identity(), *poisoned, None, scaling=0.4, segments=segments(LENGTHS))[0][0])
    clean, dirty = results
    assert dirty[8:136].isnan().all()
    assert torch.equal(clean[:8], dirty[:8])
    assert torch.equal(clean[136:], dirty[136:])
