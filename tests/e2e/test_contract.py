"""What the contract says of trained models and their jobs, on `tunesmith up` as it is by default."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.e2e.stack import Project, Up, until

pytestmark = pytest.mark.xdist_group("e2e-folder")

SECONDS = 180
# As a job of 3 epochs over 60 rows tells of itself, "n" for names and numbers.
STORY = [
    "Created fine-tuning job: n",
    "Validating training file: n and validation file: n",
    "Files validated, moving job to queued state",
    "Fine-tuning job started",
    *["Step n: training loss=n"] * 3,
    "Step n: training loss=n, validation loss=n, full validation loss=n",
    "Checkpoint created at step n with Snapshot ID: n",
    *["Step n: training loss=n"] * 3,
    "Step n: training loss=n, validation loss=n, full validation loss=n",
    "Checkpoint created at step n with Snapshot ID: n",
    *["Step n: training loss=n"] * 3,
    "Step n: training loss=n, validation loss=n, full validation loss=n",
    "Checkpoint created at step n with Snapshot ID: n",
    "New fine-tuned model created: n",
    "The job has successfully completed",
]


@contextmanager
def connected(up: Up, key: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=up.base_url, api_key=key, _strict_response_validation=True) as client:
        yield client


def upload(client: OpenAI, path: Path) -> str:
    with path.open("rb") as source:
        return client.files.create(file=source, purpose="fine-tune").id


def train(up: Up, client: OpenAI, model: str, training: str, validation: str, **more: Any) -> Any:
    """A job of 3 epochs of 4 steps, when it has ended."""
    settings = {"n_epochs": 3, "batch_size": 15, "learning_rate": 0.002}
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": settings}}
    job = client.fine_tuning.jobs.create(
        model=model, training_file=training, validation_file=validation, method=method, seed=3, **more
    )
    deadline = time.monotonic() + SECONDS
    while job.status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, up.logs()
        time.sleep(0.05)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job.error
    return job


def story(client: OpenAI, job: str) -> list[str]:
    """A job's messages, oldest first, with one letter for every name and number."""
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job)][::-1]
    return [re.sub(r"(file|ftjob)-\w+|ft:\S+|\d[\d./]*", "n", message) for message in messages]


def first_loss(client: OpenAI, job: str) -> float:
    data = [event.data for event in client.fine_tuning.jobs.list_events(job) if event.type == "metrics"][-1]
    assert isinstance(data, dict)
    assert data["step"] == 1
    loss: float = data["train_loss"]
    return loss


def test_training_goes_on_in_another_project_from_a_shared_checkpoint(
    folder_stack: Up, second_project: Project, tickets: Path
) -> None:
    with (
        connected(folder_stack, folder_stack.api_key) as ours,
        connected(folder_stack, second_project.api_key) as theirs,
    ):
        wandb: Any = [{"type": "wandb", "wandb": {"project": "e2e", "tags": ["nightly"]}}]
        files = [upload(ours, tickets / name) for name in ("train.jsonl", "valid.jsonl")]
        job = train(folder_stack, ours, "tiny-chat", *files, suffix="first", integrations=wandb)
        assert story(ours, job.id) == STORY
        assert job.integrations[0].wandb.project == "e2e"
        until(lambda: is_logged(folder_stack, job.id))  # W&B has a thread of its own, which a job does not wait for
        checkpoint = ours.fine_tuning.jobs.checkpoints.list(job.id).data[1].fine_tuned_model_checkpoint
        assert checkpoint.endswith(":ckpt-step-8")

        permissions = ours.fine_tuning.checkpoints.permissions
        (permission,) = permissions.create(checkpoint, project_ids=[second_project.id]).data
        copies = [upload(theirs, tickets / name) for name in ("train.jsonl", "valid.jsonl")]
        more = train(folder_stack, theirs, checkpoint, *copies, suffix="second")
        assert more.model == checkpoint
        assert more.fine_tuned_model.startswith("ft:tiny-chat:default:second:")
        assert first_loss(theirs, more.id) < 0.8 * first_loss(ours, job.id)  # the same rows, by the same seed
        assert not is_logged(folder_stack, more.id)

        permissions.delete(permission.id, fine_tuned_model_checkpoint=checkpoint)
        with pytest.raises(openai.NotFoundError):
            theirs.models.retrieve(checkpoint)
        with pytest.raises(openai.BadRequestError) as refused:
            theirs.fine_tuning.jobs.create(model=checkpoint, training_file=copies[0])
        assert (refused.value.param, refused.value.code) == ("model", "model_not_available")
        assert theirs.models.retrieve(more.fine_tuned_model).id == more.fine_tuned_model
        with pytest.raises(openai.NotFoundError):
            ours.models.retrieve(more.fine_tuned_model)


def is_logged(up: Up, job: str) -> bool:
    """Whether W&B has an offline run of this job, to be synchronised later."""
    return any(path.name.endswith(job) for path in (up.data_dir / "wandb").glob("wandb/offline-run-*"))
