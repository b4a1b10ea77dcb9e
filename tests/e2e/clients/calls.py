"""Every call of OpenAI's Python client for fine-tuning, made against a running server; prints which, as JSON.

A program and no test module: it runs once with each version of the client, and in each of its MODES. Arguments: the
mode, and the folder with train.jsonl and valid.jsonl. OPENAI_BASE_URL and OPENAI_API_KEY say where; OTHER_API_KEY and
OTHER_PROJECT_ID name a second project of the same organisation.
"""

import asyncio
import hashlib
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
from openai._resource import AsyncAPIResource, SyncAPIResource

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from receivers import receiving

MODES = ("loose", "strict", "async", "raw")  # raw: through with_raw_response
OURS = ("files", "uploads", "fine_tuning", "models", "webhooks")
STRING_CHECK = {
    "type": "string_check",
    "name": "same",
    "input": "{{ sample.output_text }}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
LOOP = asyncio.new_event_loop()


class Recorder:
    """A client that remembers which calls were answered; those of an asynchronous one are waited for."""

    def __init__(self, target: Any, mode: str, answered: set[str], path: str = "") -> None:
        self._target, self._mode, self._answered, self._path = target, mode, answered, path

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        path = f"{self._path}.{name}".lstrip(".")
        if isinstance(found, SyncAPIResource | AsyncAPIResource):
            return Recorder(found, self._mode, self._answered, path)
        return self._remembered(found, path, name) if callable(found) else found

    def _remembered(self, method: Callable[..., Any], path: str, name: str) -> Callable[..., Any]:
        raw = getattr(self._target.with_raw_response, name, None) if self._mode == "raw" else None

        def call(*arguments: Any, **named: Any) -> Any:
            try:
                result = waited((raw or method)(*arguments, **named))
                result = result.parse() if raw else result
            except openai.APIResponseValidationError:
                self._answered.add(path)
                raise
            self._answered.add(path)
            return result

        return call


def waited(value: Any) -> Any:
    """A value, or what an awaitable comes to."""

    async def wait(awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    return LOOP.run_until_complete(wait(value)) if inspect.isawaitable(value) else value


def every(page: Any) -> list[Any]:
    """The items of a page and of those that follow it."""

    async def collect() -> list[Any]:
        return [item async for item in page]

    return LOOP.run_until_complete(collect()) if hasattr(page, "__aiter__") else list(page)


def methods(resource: Any, path: str) -> Iterator[str]:
    """The names of all calls that a part of the client offers."""
    for name in dir(type(resource)):
        if name.startswith(("_", "with_")):
            continue
        found = getattr(resource, name)
        if isinstance(found, SyncAPIResource | AsyncAPIResource):
            yield from methods(found, f"{path}.{name}")
        elif callable(found):
            yield f"{path}.{name}"


def check_headers(headers: Any) -> None:
    """What every reply carries."""
    assert re.fullmatch(r"req_[0-9a-f]{32}", headers["x-request-id"]), headers
    assert headers["openai-version"] == "2020-10-01"
    assert headers["openai-organization"].startswith("org-")
    assert headers["openai-processing-ms"].isdigit()


def connect(mode: str, **options: Any) -> Any:
    """A client of the mode, that looks at the headers of every reply."""

    async def check_later(response: Any) -> None:
        check_headers(response.headers)

    if mode == "async":
        hooks = {"response": [check_later]}
        return openai.AsyncOpenAI(http_client=openai.DefaultAsyncHttpxClient(event_hooks=hooks), **options)
    hooks = {"response": [lambda response: check_headers(response.headers)]}
    return openai.OpenAI(
        http_client=openai.DefaultHttpxClient(event_hooks=hooks),
        _strict_response_validation=mode == "strict",
        **options,
    )


def refused(kind: type[openai.APIStatusError], call: Callable[[], Any]) -> openai.APIStatusError:
    """The error with which a call is refused."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError("it was not refused")


def files(c: Any, path: Path) -> str:
    """A training file's id, after everything else that can be done with files."""
    lives = {"anchor": "created_at", "seconds": 3600}
    made = c.files.create(file=path, purpose="fine-tune", expires_after=lives)
    assert (made.filename, made.status, made.purpose) == ("train.jsonl", "processed", "fine-tune")
    assert made.expires_at == made.created_at + 3600
    bare = c.files.create(file=path.read_bytes(), purpose="user_data")
    assert (bare.filename, bare.expires_at) == ("upload", None)
    assert c.files.retrieve(made.id) == made
    newest = [file.id for file in every(c.files.list(limit=3))]
    oldest = [file.id for file in every(c.files.list(limit=2, order="asc"))]
    assert newest == oldest[::-1]
    assert newest.index(bare.id) < newest.index(made.id)
    assert bare.id not in [file.id for file in every(c.files.list(purpose="fine-tune"))]
    assert c.files.content(made.id).content == path.read_bytes()
    assert c.files.retrieve_content(made.id) == path.read_text("utf-8")
    assert c.files.wait_for_processing(made.id).id == made.id
    assert c.files.delete(bare.id).deleted
    error = refused(openai.NotFoundError, lambda: c.files.retrieve(bare.id))
    assert (error.type, error.param, error.code) == ("invalid_request_error", "id", None)
    return made.id


def uploads(c: Any, path: Path) -> str:
    """The id of a file that came in parts."""
    content = path.read_bytes()
    about = {"bytes": len(content), "filename": "parts.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    pieces = content[: len(content) // 2], content[len(content) // 2 :]
    upload = c.uploads.create(**about)
    assert (upload.status, upload.expires_at - upload.created_at) == ("pending", 3600)
    last, first = (c.uploads.parts.create(upload.id, data=piece).id for piece in pieces[::-1])
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    done = c.uploads.complete(upload.id, part_ids=[first, last], md5=md5)
    assert (done.status, done.file.bytes, done.file.filename) == ("completed", len(content), "parts.jsonl")
    assert c.uploads.cancel(c.uploads.create(**about).id).status == "cancelled"
    named = {"filename": "chunks.jsonl", "bytes": len(content), "mime_type": "text/jsonl", "purpose": "fine-tune"}
    chunked = c.uploads.upload_file_chunked(file=content, part_size=1000, **named)
    assert c.files.content(chunked.file.id).content == content
    return done.file.id


def new_job(c: Any, training: str, validation: str, *, epochs: int, batch: int) -> Any:
    return c.fine_tuning.jobs.create(
        model="tiny-chat",
        training_file=training,
        validation_file=validation,
        suffix="Every Call",
        seed=7,
        integrations=None,
        metadata={"epochs": str(epochs), "by": training},
        hyperparameters={"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": batch}}},
    )


def reach(c: Any, job: str, *statuses: str) -> Any:
    """A job as soon as it has one of these statuses."""
    deadline = time.monotonic() + 120
    while True:
        seen = c.fine_tuning.jobs.retrieve(job)
        if seen.status in statuses:
            return seen
        assert time.monotonic() < deadline, seen
        assert seen.status not in ("succeeded", "failed", "cancelled"), seen
        time.sleep(0.05)


def finished(c: Any, job: Any) -> str:
    """The model of a job, after a look at all that a job leaves behind."""
    done = reach(c, job.id, "succeeded")
    assert re.fullmatch(r"ft:tiny-chat:[^:]+:every-call:[a-z0-9]{8}", done.fine_tuned_model), done
    assert [row.id for row in every(c.fine_tuning.jobs.list(limit=1, metadata=job.metadata))] == [job.id]
    events = every(c.fine_tuning.jobs.list_events(job.id, limit=3))
    assert len({event.id for event in events}) == len(events)
    assert events[-1].message == f"Created fine-tuning job: {job.id}"
    assert events[0].message == "The job has successfully completed"
    points = every(c.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [point.step_number for point in points] == [4, 2]
    assert points[0].fine_tuned_model_checkpoint == done.fine_tuned_model
    assert points[1].fine_tuned_model_checkpoint.endswith(":ckpt-step-2")
    assert points[1].metrics.full_valid_loss > 0
    header = c.files.content(done.result_files[0]).text.splitlines()[0]
    assert header == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    return points[1].fine_tuned_model_checkpoint


def stop(c: Any, patient: Any, job: str) -> None:
    """Pause a job that runs. `patient` knows every status."""
    reach(patient, job, "running")
    tolerated(lambda: c.fine_tuning.jobs.pause(job), "pausing", "paused")


def go_on(c: Any, patient: Any, job: str) -> None:
    """Let a paused job go on, and cancel it."""
    reach(patient, job, "paused")
    assert c.fine_tuning.jobs.resume(job).status == "queued"
    cancelled = c.fine_tuning.jobs.cancel(job)
    assert (cancelled.status, cancelled.error, cancelled.fine_tuned_model) == ("cancelled", None, None)
    refused(openai.BadRequestError, lambda: c.fine_tuning.jobs.cancel(job))


def tolerated(call: Callable[[], Any], *statuses: str) -> None:
    """Make a call whose reply has a status that the client's types do not know: strict parsing refuses it."""
    try:
        status = call().status
    except openai.APIResponseValidationError as error:
        status = error.body["status"]
    assert status in statuses


def permissions(c: Any, mode: str, checkpoint: str, training: str) -> None:
    """Share a checkpoint with another project, train on it there, and take it back."""
    shared = c.fine_tuning.checkpoints.permissions
    other = Recorder(connect(mode, api_key=os.environ["OTHER_API_KEY"]), mode, set())
    project = os.environ["OTHER_PROJECT_ID"]
    refused(openai.NotFoundError, lambda: other.models.retrieve(checkpoint))
    (granted,) = every(shared.create(checkpoint, project_ids=[project]))
    assert granted.project_id == project
    if hasattr(shared, "list"):  # older clients have only the deprecated call
        assert [row.id for row in every(shared.list(checkpoint, order="ascending", limit=1))] == [granted.id]
    assert [row.id for row in shared.retrieve(checkpoint, project_id=project).data] == [granted.id]
    assert other.models.retrieve(checkpoint).id == checkpoint
    assert checkpoint in [model.id for model in every(other.models.list())]
    theirs = other.files.create(file=c.files.content(training).content, purpose="fine-tune")
    job = other.fine_tuning.jobs.create(model=checkpoint, training_file=theirs.id)
    assert job.model == checkpoint
    other.fine_tuning.jobs.cancel(job.id)
    assert shared.delete(granted.id, fine_tuned_model_checkpoint=checkpoint).deleted
    refused(openai.NotFoundError, lambda: other.models.retrieve(checkpoint))


def graders(c: Any) -> None:
    alpha = c.fine_tuning.alpha.graders
    assert alpha.validate(grader=STRING_CHECK).grader.operation == "eq"
    graded = alpha.run(grader=STRING_CHECK, model_sample="yes", item={"answer": "yes"})
    assert (graded.reward, graded.metadata.name, graded.metadata.errors.other_error) == (1.0, "same", False)


def models(c: Any, model: str) -> None:
    assert {"tiny-chat", model} <= {row.id for row in every(c.models.list())}
    assert c.models.retrieve("tiny-chat").owned_by == "system"
    assert c.models.delete(model).deleted
    error = refused(openai.NotFoundError, lambda: c.models.retrieve(model))
    assert (error.param, error.code) == ("model", "model_not_found")


def webhooks(c: Any, client: Any) -> None:
    """Manage an endpoint, and read what arrives there. Older clients only read."""
    with receiving() as receiver:
        wanted = {"name": "every", "url": receiver.url, "event_types": ["fine_tuning.job.failed"]}
        if hasattr(c.webhooks, "create"):
            endpoint = manage(c, wanted)
        else:
            endpoint = type("Endpoint", (), client.post("/webhook_endpoints", body=wanted, cast_to=object))
        path = f"/webhook_endpoints/{endpoint.id}"
        test = {"event_type": "fine_tuning.job.succeeded"}
        assert waited(client.post(f"{path}/test", body=test, cast_to=object))["success"]
        arrived = receiver.requests[-1]
        secret = endpoint.signing_secret
        c.webhooks.verify_signature(arrived.body, arrived.headers, secret=secret)
        event = c.webhooks.unwrap(arrived.body, arrived.headers, secret=secret)
        assert event.type == "fine_tuning.job.succeeded"
        waited(client.delete(path, cast_to=object))


def manage(c: Any, wanted: dict[str, Any]) -> Any:
    made = c.webhooks.create(**wanted)
    assert c.webhooks.retrieve(made.id).name == "every"
    assert c.webhooks.update(made.id, name="all").name == "all"
    assert made.id in [row.id for row in every(c.webhooks.list(limit=1))]
    assert c.webhooks.test(made.id, event_type="fine_tuning.job.failed").status_code == 200
    assert "fine_tuning.job.failed" in c.webhooks.event_types.list().data
    spare = c.webhooks.create(**wanted)
    assert c.webhooks.delete(spare.id).deleted
    return c.webhooks.rotate_secret(made.id)


def main(mode: str, data: Path) -> dict[str, Any]:
    assert mode in MODES
    answered: set[str] = set()
    client = connect(mode)
    c, patient = Recorder(client, mode, answered), Recorder(connect("loose"), "loose", set())
    training, validation = files(c, data / "train.jsonl"), uploads(c, data / "valid.jsonl")
    long_job = new_job(c, training, validation, epochs=50, batch=1)
    job = new_job(c, validation, validation, epochs=2, batch=5)
    graders(c)
    webhooks(c, client)
    stop(c, patient, long_job.id)
    checkpoint = finished(c, job)
    permissions(c, mode, checkpoint, training)
    go_on(c, patient, long_job.id)
    models(c, checkpoint)
    offered = sorted(name for part in OURS for name in methods(getattr(client, part), part))
    return {"version": openai.__version__, "offered": offered, "answered": sorted(answered)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
