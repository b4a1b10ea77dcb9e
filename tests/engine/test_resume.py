"""Resume states: whole or refused."""

import json
from pathlib import Path

import pytest
import torch

from tests.engine import tiny
from worker.engine import resume
from worker.engine.protocol import Spec


def state(**changes: object) -> resume.State:
    tensors = {"master": torch.arange(4.0), "exp_avg": torch.ones(4)}
    return resume.State(tensors, {"step": 3}, resume.identity(Spec(**tiny.spec(**changes)), "data"), threads=2)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    resume.write(tmp_path / "step-000003", state())
    again = resume.read(tmp_path / "step-000003", like=state(resume_interval_seconds=1.0))
    assert (again.progress, again.threads) == ({"step": 3}, 2)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in state().tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "seal.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_torn_state_is_refused(file: str, damage: str, tmp_path: Path) -> None:
    resume.write(tmp_path / "state", state())
    path = tmp_path / "state" / file
    body = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(body[: len(body) // 2])
        case "changed":
            path.write_bytes(body[:-3] + bytes([body[-3] ^ 1]) + body[-2:])
    with pytest.raises(resume.BadResume):
        resume.read(tmp_path / "state", like=state())


def test_a_state_of_another_job_is_refused(tmp_path: Path) -> None:
    resume.write(tmp_path / "state", state())
    with pytest.raises(resume.BadResume, match="other settings"):
        resume.read(tmp_path / "state", like=state(seed=99))


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    resume.write(tmp_path / "state", state())
    body = json.loads((tmp_path / "state" / "state.json").read_text())
    (tmp_path / "state" / "state.json").write_text(json.dumps({**body, "version": 99}))
    (tmp_path / "state" / "seal.json").write_text("{}")
    with pytest.raises(resume.BadResume, match="version 99"):
        resume.read(tmp_path / "state", like=state())
