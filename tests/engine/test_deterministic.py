"""A `deterministic` job gives the same bytes alone, in company, and after any crash and resume."""

import hashlib
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine import tiny
from worker.engine import base_model, directories, resume
from worker.engine.base_model import Base
from worker.engine.company import Company
from worker.engine.job import Job
from worker.engine.resume import BadResume

STEPS = 8
SETTINGS: dict[str, Any] = {
    "deterministic": True, "lora_dropout": 0.2, "n_epochs": 2, "batch_size": 3, "resume_interval_seconds": 0.0,
    "eval_interval": 2,
}  # fmt: skip


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    torch.set_num_threads(1)
    directory = tiny.save_model(tmp_path_factory.mktemp("base"))
    return base_model.load(directory, key="a", name="a", dtype=request.param, device="cpu", linears=tiny.SPLIT, slots=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_dataset(tmp_path_factory.mktemp("data") / "train", tiny.counting_rows(12))


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_dataset(tmp_path_factory.mktemp("data") / "valid", tiny.counting_rows(5, seed=4))


def result(reports: tiny.Reports) -> tuple[str, dict[str, float], int]:
    """The adapter's sha256, the last metrics, and the tokens trained."""
    (finished,) = reports.of("finished")
    weights = (Path(finished["path"]) / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest(), finished["metrics"], finished["trained_tokens"]


def test_alone_and_in_company(base: Base, data: Path, held_out: Path, tmp_path: Path) -> None:
    alone = tiny.admitted(base, data, tmp_path / "alone", validation=held_out, **SETTINGS)
    expected = result(tiny.train(base, alone))
    others = [tiny.admitted(base, data, tmp_path / name, name=name, n_epochs=3, seed=9) for name in ("x", "y")]
    company = tiny.admitted(base, data, tmp_path / "company", validation=held_out, **SETTINGS)
    assert result(tiny.train(base, *others, company)) == expected


def test_the_same_request_gives_the_same_bytes_and_another_seed_does_not(
    base: Base, data: Path, tmp_path: Path
) -> None:
    found = [
        result(tiny.train(base, tiny.admitted(base, data, tmp_path / str(n), **(SETTINGS | {"seed": seed}))))
        for n, seed in enumerate((1, 1, 2))
    ]
    assert found[0] == found[1] != found[2]


def test_it_goes_on_with_the_threads_it_began_with(base: Base, data: Path, tmp_path: Path) -> None:
    first = tiny.admitted(base, data, tmp_path / "first", **SETTINGS)
    reports = tiny.train(base, first)
    state = reports.of("resume_state")[2]["path"]
    base.asked_threads, before = 2, base.threads
    try:
        second = tiny.admitted(base, data, tmp_path / "second", resume=state, **SETTINGS)
        assert second.threads == before
        assert result(tiny.train(base, second)) == result(reports)
    finally:
        base.asked_threads = None
        torch.set_num_threads(before)


class Death:
    """Kills this process, without a chance to tidy, at the n-th time it is asked."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run_until_death(base: Base, job: Job, at_step: int | None, at_sync: int | None, out: Path) -> None:
    """In a child: train, and die after a step was reported, or in the middle of writing something."""
    step, sync = Death(at_step or -1), Death(at_sync or -1)
    written = directories._sync

    def sync_or_die(path: Path) -> None:
        sync()
        written(path)

    directories._sync = sync_or_die
    reports = tiny.Reports()

    def report(kind: str, **fields: Any) -> None:
        reports(kind, **fields)
        if kind == "step":
            step()

    company = Company(base, report, lambda ended: None)
    company.join(job, "t")
    while company.members:
        company.turn()
    digest, metrics, tokens = result(reports)
    out.write_text(f"{digest} {sorted(metrics.items())} {tokens}")


def attempt(base: Base, data: Path, held_out: Path, folder: Path, **death: int | None) -> str | None:
    """One life of the job, from the newest resume state that is whole; what came of it, None if it died."""
    job = tiny.admitted(base, data, folder / "out", validation=held_out, **SETTINGS)
    base.bank.adapters[job.slot] = None
    states = sorted((folder / "out" / "resume").glob("step-*"))
    whole = [path for path in states if is_whole(path, job)]
    job = tiny.admitted(
        base, data, folder / "out", validation=held_out, resume=whole[-1] if whole else None, **SETTINGS
    )
    came_of_it = folder / "result"
    child = multiprocessing.get_context("fork").Process(
        target=run_until_death,
        args=(base, job, death.get("at_step"), death.get("at_sync"), came_of_it),
    )
    child.start()
    child.join(60)
    base.bank.adapters[job.slot] = None
    return came_of_it.read_text() if came_of_it.exists() else None


def is_whole(path: Path, job: Job) -> bool:
    try:
        resume.read(path, like=job.resume_state())
    except BadResume:
        return False
    return True


@pytest.fixture(scope="module")
def undisturbed(base: Base, data: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    came_of_it = attempt(base, data, held_out, tmp_path_factory.mktemp("undisturbed"))
    assert came_of_it is not None
    return came_of_it


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_after_any_step(
    base: Base, data: Path, held_out: Path, undisturbed: str, step: int, tmp_path: Path
) -> None:
    assert attempt(base, data, held_out, tmp_path, at_step=step) is None
    assert attempt(base, data, held_out, tmp_path) == undisturbed


# Every write syncs four files or folders: the resume state's three and its folder, the adapter's two and its folder.
@pytest.mark.parametrize("sync", range(1, 21))
def test_killed_in_the_middle_of_saving(
    base: Base, data: Path, held_out: Path, undisturbed: str, sync: int, tmp_path: Path
) -> None:
    assert attempt(base, data, held_out, tmp_path, at_sync=sync) is None
    assert attempt(base, data, held_out, tmp_path) == undisturbed


def test_killed_again_and_again(base: Base, data: Path, held_out: Path, undisturbed: str, tmp_path: Path) -> None:
    lives = [attempt(base, data, held_out, tmp_path, at_step=2) for _ in range(3)]
    assert lives == [None] * 3
    assert attempt(base, data, held_out, tmp_path) == undisturbed
