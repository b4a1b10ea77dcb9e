"""The engine as the worker sees it: a child process, three pipes, and directories."""

import os
from pathlib import Path

import pytest

from tests.engine import tiny
from tests.engine.tiny import Client


def test_a_job_learns_and_reports_as_it_goes(tmp_path: Path) -> None:
    data = tiny.save_dataset(tmp_path / "data", tiny.counting_rows(24))
    held_out = tiny.save_dataset(tmp_path / "held-out", tiny.counting_rows(8, seed=1))
    with tiny.engine() as client:
        loaded = tiny.load_base(client, tiny.save_model(tmp_path / "base"), name="an/open-model")
        assert loaded["type"] == "base_loaded"
        settings = tiny.spec(n_epochs=3, eval_interval=4, learning_rate=0.03)
        admitted = tiny.admit(client, "ftjob-1", data, tmp_path / "out", validation=held_out, spec=settings)
        assert (admitted["step"], admitted["total_steps"]) == (0, 18)
        finished = client.until("finished", "ftjob-1")
    steps = client.of("step", "ftjob-1")
    assert [step["step"] for step in steps] == list(range(1, 19))
    assert steps[-1]["train_loss"] < 0.8 * steps[0]["train_loss"]
    assert steps[-1]["train_mean_token_accuracy"] > steps[0]["train_mean_token_accuracy"]
    assert steps[-1]["trained_tokens"] == finished["trained_tokens"] == sum(step["tokens"] for step in steps)
    assert [step["step"] for step in steps if "valid_loss" in step] == [4, 6, 8, 12, 16, 18]
    assert [step["step"] for step in steps if "full_valid_loss" in step] == [6, 12, 18]
    checkpoints = client.of("checkpoint", "ftjob-1")
    assert [(report["step"], report["epoch"]) for report in checkpoints] == [(6, 1), (12, 2), (18, 3)]
    assert checkpoints[-1]["path"] == finished["path"]
    assert sorted(file.name for file in Path(finished["path"]).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and a dataset."""
    folder = tmp_path_factory.mktemp("engine")
    return tiny.save_model(folder / "base"), tiny.save_dataset(folder / "data", tiny.counting_rows(16))


def adapter(finished: dict) -> bytes:
    return (Path(finished["path"]) / "adapter_model.safetensors").read_bytes()


def train(client: Client, job: str, data: Path, out: Path, **changes: object) -> bytes:
    """Train a job to its end, and return its adapter's bytes."""
    assert tiny.admit(client, job, data, out, **changes)["type"] == "admitted"
    return adapter(client.until("finished", job))


def test_a_seed_gives_the_same_bytes_and_another_seed_gives_others(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    with tiny.engine() as client:
        tiny.load_base(client, base)
        first = train(client, "a", data, tmp_path / "a", spec=tiny.spec(lora_dropout=0.1))
        again = train(client, "b", data, tmp_path / "b", spec=tiny.spec(lora_dropout=0.1))
        other = train(client, "c", data, tmp_path / "c", spec=tiny.spec(lora_dropout=0.1, seed=8))
    assert first == again
    assert first != other


def test_a_killed_engine_costs_nothing_after_a_resume(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    settings = tiny.spec(lora_dropout=0.1, resume_interval_seconds=0.0)
    with tiny.engine() as client:
        tiny.load_base(client, base)
        tiny.admit(client, "ftjob", data, tmp_path / "first", spec=settings)
        client.until("resume_state", "ftjob")
        state = client.until("resume_state", "ftjob")
        client.process.kill()
    with tiny.engine() as client:
        tiny.load_base(client, base)
        admitted = tiny.admit(client, "ftjob", data, tmp_path / "second", spec=settings, resume=state["path"])
        assert admitted["step"] == state["step"] == 2
        resumed = client.until("finished", "ftjob")
        undisturbed = train(client, "other", data, tmp_path / "third", spec=settings)
    assert adapter(resumed) == undisturbed
    assert resumed["trained_tokens"] == client.of("finished", "other")[0]["trained_tokens"]


def test_a_released_job_goes_on_where_it_was(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    settings = tiny.spec(n_epochs=60)
    with tiny.engine() as client:
        tiny.load_base(client, base, slots=1)
        tiny.admit(client, "ftjob", data, tmp_path / "first", spec=settings)
        client.until("step", "ftjob")
        released = client.ask("release", job="ftjob", save=True)
        assert (released["type"], released["step"]) == ("released", len(client.of("step", "ftjob")))
        tiny.admit(client, "ftjob", data, tmp_path / "second", spec=settings, resume=released["resume"])
        resumed = adapter(client.until("finished", "ftjob"))
        undisturbed = train(client, "other", data, tmp_path / "third", spec=settings)
    assert resumed == undisturbed


def test_a_save_answers_with_a_state_and_the_job_goes_on(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    with tiny.engine() as client:
        tiny.load_base(client, base)
        tiny.admit(client, "ftjob", data, tmp_path / "out", spec=tiny.spec(n_epochs=60))
        client.until("step", "ftjob")
        saved = client.ask("save", job="ftjob")
        written = (Path(saved["resume"]) / "state.safetensors").stat().st_mtime_ns
        assert client.until("finished", "ftjob")["step"] == 240
    assert (Path(saved["resume"]) / "state.safetensors").stat().st_mtime_ns == written


def test_a_release_without_a_state_frees_the_slot_at_once(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    with tiny.engine() as client:
        tiny.load_base(client, base, slots=1)
        tiny.admit(client, "ftjob", data, tmp_path / "first", spec=tiny.spec(n_epochs=500))
        refused = tiny.admit(client, "other", data, tmp_path / "second")
        assert (refused["type"], refused["code"]) == ("error", "no_slot")
        assert client.ask("release", job="ftjob", save=False)["resume"] is None
        assert tiny.admit(client, "other", data, tmp_path / "second")["type"] == "admitted"


def test_jobs_that_take_turns_give_the_adapters_of_each_alone(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    first, second = (
        tiny.spec(lora_dropout=0.1),
        tiny.spec(seed=8, lora_rank=2, lora_target_modules=["q_proj", "v_proj"]),
    )
    with tiny.engine() as client:
        tiny.load_base(client, base)
        alone = [
            train(client, "a", data, tmp_path / "a", spec=first),
            train(client, "b", data, tmp_path / "b", spec=second),
        ]
        # Both are asked for before either is admitted, so that neither is far ahead of the other.
        for request in [
            tiny.send_admit(client, "c", data, tmp_path / "c", spec=first),
            tiny.send_admit(client, "d", data, tmp_path / "d", spec=second),
        ]:
            assert client.reply_to(request)["type"] == "admitted"
        for job in ("c", "d"):
            if not client.of("finished", job):
                client.until("finished", job)
        together = [adapter(client.of("finished", job)[0]) for job in ("c", "d")]
    order = [report["job"] for report in client.reports if report["type"] == "step" and report["job"] in "cd"]
    assert order[:6] != sorted(order[:6]), "the jobs did not take turns"
    assert together == alone


def test_a_job_that_diverges_fails_alone(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    poison = tiny.save_dataset(tmp_path / "poison", tiny.counting_rows(16), weight=float(2.0**127))
    with tiny.engine() as client:
        tiny.load_base(client, base)
        alone = train(client, "a", data, tmp_path / "a")
        tiny.admit(client, "poisoned", poison, tmp_path / "b", spec=tiny.spec(learning_rate=1e30, max_grad_norm=0.0))
        beside = train(client, "c", data, tmp_path / "c")
        failed = client.of("failed", "poisoned")[0]
    assert (failed["code"], beside) == ("diverged", alone)


def test_early_stopping_ends_a_job_whose_validation_gets_worse(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    held_out = tiny.save_dataset(tmp_path / "held-out", tiny.random_rows([12] * 8))
    settings = tiny.spec(n_epochs=30, eval_interval=2, early_stopping_patience=2, learning_rate=0.05)
    with tiny.engine() as client:
        tiny.load_base(client, base)
        tiny.admit(client, "ftjob", data, tmp_path / "out", spec=settings, validation=held_out)
        finished = client.until("finished", "ftjob")
    losses = [step["valid_loss"] for step in client.of("step", "ftjob") if "valid_loss" in step]
    assert finished["step"] == 2 * len(losses) < 120
    assert min(losses[-2:]) >= min(losses[:-2])
    assert client.of("checkpoint", "ftjob")[-1]["path"] == finished["path"]


def test_an_adapter_is_trained_on(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    with tiny.engine() as client:
        tiny.load_base(client, base)
        tiny.admit(client, "first", data, tmp_path / "a", spec=tiny.spec(n_epochs=8))
        path = client.until("finished", "first")["path"]
        tiny.admit(client, "second", data, tmp_path / "b", adapter=path)
        client.until("finished", "second")
        other = tiny.admit(client, "third", data, tmp_path / "c", adapter=path, spec=tiny.spec(lora_rank=8))
    before, after = client.of("step", "first"), client.of("step", "second")
    assert after[0]["train_loss"] < 0.8 * before[0]["train_loss"]
    assert (other["type"], other["code"]) == ("error", "bad_adapter")


def test_bad_commands_get_an_error_and_the_engine_lives(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    with tiny.engine() as client:
        assert client.ask("dance")["code"] == "bad_command"
        client.write(b"{ this is not JSON")
        assert client.read()["code"] == "bad_command"
        assert "save.job is missing" in client.ask("save")["message"]
        assert tiny.admit(client, "a", data, tmp_path / "a")["code"] == "no_base"
        assert tiny.load_base(client, tmp_path)["code"] == "bad_base"
        assert tiny.load_base(client, base, linears=["qkv_proj"])["code"] == "bad_base"
        tiny.load_base(client, base)
        assert tiny.admit(client, "a", tmp_path, tmp_path / "a")["code"] == "bad_dataset"
        wrong = tiny.spec(lora_target_modules=["lm_head"])
        assert tiny.admit(client, "a", data, tmp_path / "a", spec=wrong)["code"] == "bad_spec"
        assert tiny.admit(client, "a", data, tmp_path / "a", spec=tiny.spec(n_epochs="2"))["code"] == "bad_command"
        assert client.ask("release", job="nobody", save=True)["code"] == "unknown_job"
        assert client.ask("ping")["type"] == "pong"
        client.send("shutdown")
        assert client.process.wait(timeout=10) == 0


def test_the_end_of_the_lifeline_ends_a_busy_engine(places: tuple[Path, Path], tmp_path: Path) -> None:
    base, data = places
    with tiny.engine() as client:
        tiny.load_base(client, base)
        tiny.admit(client, "ftjob", data, tmp_path / "out", spec=tiny.spec(n_epochs=500))
        client.until("step", "ftjob")
        os.close(client.lifeline)
        assert client.process.wait(timeout=30) == 1  # what the watch on the lifeline ends it with
        client.lifeline = os.open(os.devnull, os.O_RDONLY)
