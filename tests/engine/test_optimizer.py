"""The schedule, the clipping, and AdamW against its formula."""

import pytest
import torch

from tests.engine import tiny
from worker.engine.optimizer import adamw, clip, learning_rate
from worker.engine.protocol import Spec


def rates(**changes: object) -> list[float]:
    spec = Spec(**tiny.spec(learning_rate=1.0, **changes))
    return [round(learning_rate(spec, step, 10), 4) for step in range(10)]


def test_the_schedules() -> None:
    assert rates(lr_scheduler="constant", warmup_ratio=0.2) == [0.5, *[1.0] * 9]
    assert rates(lr_scheduler="linear", warmup_ratio=0.2)[1:] == [1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    cosine = rates(lr_scheduler="cosine", warmup_ratio=0.0)
    assert cosine[0] == 1.0
    assert cosine[5] == 0.5
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[-1] > 0
    assert rates(lr_scheduler="cosine", warmup_ratio=1.0)[-1] == 1.0


def test_clipping_tells_the_norm_from_before() -> None:
    grad = torch.tensor([3.0, 4.0])
    assert clip(grad, 10.0).item() == 5.0
    assert grad.tolist() == [3.0, 4.0]
    assert clip(grad, 0.0).item() == 5.0
    assert clip(grad, 1.0).item() == 5.0
    assert grad.tolist() == pytest.approx([0.6, 0.8], abs=1e-6)


def test_two_steps_of_adamw() -> None:
    master, grad = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.25])
    optimizer = adamw(master, grad, weight_decay=0.1)
    expected, m, v = master.double(), torch.zeros(2).double(), torch.zeros(2).double()
    for step in (1, 2):
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.step()
        m, v = 0.9 * m + 0.1 * grad.double(), 0.999 * v + 0.001 * grad.double() ** 2
        update = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * update
    torch.testing.assert_close(master.double(), expected, atol=1e-6, rtol=1e-6)
