"""The head's loss against cross entropy on all logits."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from worker.engine import loss
from worker.engine.loss import Head, weighted_nll

TOKENS, HIDDEN, WORDS = 40, 8, 30


@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("biased", [False, True])
def test_loss_and_gradient_are_those_of_cross_entropy(
    biased: bool, scale: float, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK", {"cpu": 7})
    torch.manual_seed(0)
    head = Head(torch.randn(WORDS, HIDDEN), torch.randn(WORDS) if biased else None, scale, softcap)
    hidden = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    other = hidden.detach().clone().requires_grad_()
    positions = torch.randperm(TOKENS)[:23].sort().values
    targets, coefficients = torch.randint(0, WORDS, (23,)), torch.rand(23)
    ours = weighted_nll(head, hidden, positions, targets, coefficients)
    scores = functional.linear(other, head.weight, head.bias) * scale
    scores = scores if softcap is None else (scores / softcap).tanh() * softcap
    nll = functional.cross_entropy(scores[positions], targets, reduction="none")
    torch.testing.assert_close(ours.nll, nll.detach())
    torch.testing.assert_close(ours.total, (nll * coefficients).sum())
    assert torch.equal(ours.correct, scores[positions].argmax(-1) == targets)
    (3 * ours.total).backward()
    (3 * (nll * coefficients).sum()).backward()
    torch.testing.assert_close(hidden.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_positions_without_weight_never_meet_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(loss, "linear", lambda x, *rest: seen.append(len(x)) or functional.linear(x, *rest))
    head = Head(torch.randn(WORDS, HIDDEN), None, 1.0, None)
    weighted_nll(head, torch.randn(TOKENS, HIDDEN), torch.tensor([3, 9]), torch.tensor([1, 2]), torch.ones(2))
    assert seen == [2]


def test_positions_are_filled_up_and_come_to_the_same() -> None:
    """Filling reads the first position again: a poisoned one must not reach the others either."""
    head = Head(torch.randn(WORDS, HIDDEN), None, 1.0, None)
    positions, targets, coefficients = torch.tensor([5, 2, 9]), torch.tensor([1, 4, 2]), torch.tensor([0.5, 1.0, 2.0])
    for poison in (0.0, float("nan")):
        found = []
        for align in (1, 16):
            hidden = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
            hidden[5] += poison
            hidden.requires_grad_()
            losses = weighted_nll(replace(head, align=align), hidden, positions, targets, coefficients)
            losses.total.backward()
            found.append((losses.nll, losses.correct, hidden.grad))
        torch.testing.assert_close(found[1], found[0], equal_nan=True)
        assert found[0][0][1:].isfinite().all()
        assert found[0][2][[2, 9]].isfinite().all()
