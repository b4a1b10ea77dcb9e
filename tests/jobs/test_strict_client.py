"""OpenAI's own client in strict mode, which refuses every reply that is not in the documented shape."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest


@pytest.fixture
def client(live: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{live.url}/v1", api_key=live.key, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_a_job_from_create_to_cancel(client: openai.OpenAI, live: Any) -> None:
    job = client.fine_tuning.jobs.create(
        model="tiny-chat",
        training_file=live.training_file,
        validation_file=live.training_file,
        suffix=None,
        seed=None,
        integrations=None,
        metadata={"team": "strict"},
        hyperparameters={"n_epochs": "auto", "batch_size": "auto"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    )
    assert job.hyperparameters.n_epochs == 2
    assert job.method is not None
    assert job.method.supervised is not None
    assert client.fine_tuning.jobs.retrieve(job.id) == job
    assert [row.id for row in client.fine_tuning.jobs.list(extra_query={"metadata[team]": "strict"})] == [job.id]
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert (cancelled.status, cancelled.error) == ("cancelled", None)
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.fine_tuning.jobs.cancel(job.id)


def test_a_job_in_numbers(client: openai.OpenAI, live: Any) -> None:
    job = client.fine_tuning.jobs.create(model="tiny-chat", training_file=live.training_file)
    live.resolve(job.id)
    seen = client.fine_tuning.jobs.retrieve(job.id)

    numbers = (seen.hyperparameters.n_epochs, seen.hyperparameters.batch_size)
    assert numbers == (3, 1)
    assert seen.hyperparameters.learning_rate_multiplier == 1.0
    assert seen.method is not None
    settings = seen.method.to_dict()["supervised"]["hyperparameters"]
    assert (settings["lora_rank"], settings["lr_scheduler"]) == (16, "cosine")


def test_a_succeeded_job_with_its_checkpoints_and_model(client: openai.OpenAI, live: Any) -> None:
    job = client.fine_tuning.jobs.create(model="tiny-chat", training_file=live.training_file, suffix="strict")
    name = live.publish(job.id, steps=(2, 4, 6))
    done = client.fine_tuning.jobs.retrieve(job.id)

    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", name, 1234)
    assert done.finished_at is not None
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=2))
    assert [row.step_number for row in checkpoints] == [6, 4, 2]
    assert checkpoints[0].fine_tuned_model_checkpoint == name
    assert checkpoints[0].metrics.train_loss == 0.5
    assert client.models.retrieve(name).owned_by == live.organization_id
    assert client.models.delete(name).deleted
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve(name)
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


def test_a_failed_job_shows_its_error(client: openai.OpenAI, live: Any) -> None:
    job = client.fine_tuning.jobs.create(model="tiny-chat", training_file=live.training_file)
    live.fail(job.id)
    seen = client.fine_tuning.jobs.retrieve(job.id)
    assert seen.error is not None
    assert (seen.status, seen.error.code, seen.error.param) == ("failed", "invalid_training_file", "training_file")
    assert seen.hyperparameters.n_epochs == "auto"


def test_every_event_once_over_pages(client: openai.OpenAI, live: Any) -> None:
    job = client.fine_tuning.jobs.create(model="tiny-chat", training_file=live.training_file)
    live.append_steps(job.id, 7)
    seen = list(client.fine_tuning.jobs.list_events(job.id, limit=2))

    assert len({event.id for event in seen}) == len(seen) == 9
    assert [event.type for event in seen] == ["metrics"] * 7 + ["message"] * 2
    assert isinstance(seen[0].data, dict)
    assert list(client.fine_tuning.jobs.list_events(job.id, limit=0)) == []


def test_an_unknown_job_raises_with_its_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.fine_tuning.jobs.retrieve("ftjob-no")
    assert (raised.value.code, raised.value.param) == ("fine_tune_not_found", "fine_tune_id")
    assert raised.value.request_id is not None


def test_models_are_listed(client: openai.OpenAI, live: Any) -> None:
    job = client.fine_tuning.jobs.create(model="tiny-chat", training_file=live.training_file)
    name = live.publish(job.id)
    names = [model.id for model in client.models.list()]
    assert {"tiny-chat", name} <= set(names)
    assert "not-here" not in names


def multi(client: openai.OpenAI, _: Any) -> object:
    check = {"type": "string_check", "name": "a", "input": "x", "reference": "x", "operation": "eq"}
    grader: Any = {"type": "multi", "name": "m", "graders": {"a": check}, "calculate_output": "a"}
    return client.fine_tuning.alpha.graders.validate(grader=grader)


def paused(client: openai.OpenAI, live: Any) -> object:
    job = client.fine_tuning.jobs.create(model="tiny-chat", training_file=live.training_file)
    live.move(job.id, "paused")
    return client.fine_tuning.jobs.retrieve(job.id)


def evals(client: openai.OpenAI, _: Any) -> object:
    return client.files.create(file=b"{}\n", purpose="evals")


@pytest.mark.parametrize("call", [multi, paused, evals])
def test_what_strict_parsing_refuses_is_served_and_read_by_the_clients_default(
    call: Any, client: openai.OpenAI, live: Any
) -> None:
    """The whole list of docs/compatibility.md: what OpenAI documents and its client's types do not know."""
    with pytest.raises(openai.APIResponseValidationError) as refused:
        call(client, live)
    assert refused.value.status_code == 200
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=live.key) as loose:
        assert call(loose, live)
