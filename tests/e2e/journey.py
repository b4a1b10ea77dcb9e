"""The main job through OpenAI's client, as a user's script does it; prints what it saw as JSON.

A program and no test module: it runs once with each version of the client. Arguments: the folder with train.jsonl and
valid.jsonl, and the folder for the adapter.
"""

import json
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import openai

HYPERPARAMETERS = {"n_epochs": 4, "batch_size": 4, "learning_rate": 0.002}


def main(data: Path, out: Path) -> dict[str, Any]:
    client = openai.OpenAI()
    seen: dict[str, Any] = {"client": openai.__version__}
    files = [upload(client, data / name) for name in ("train.jsonl", "valid.jsonl")]
    seen["files"] = [file.to_dict() for file in files]
    seen["content_is_the_same"] = client.files.content(files[0].id).content == (data / "train.jsonl").read_bytes()
    job = client.fine_tuning.jobs.create(
        model="tiny-chat",
        training_file=files[0].id,
        validation_file=files[1].id,
        suffix="e2e",
        seed=11,
        method={"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}},  # type: ignore[arg-type]
    )
    seen["created"] = job.to_dict()
    seen["polls"], job = poll(client, job.id)
    seen["job"] = job.to_dict()
    seen["events"] = [event.to_dict() for event in client.fine_tuning.jobs.list_events(job.id, limit=10)][::-1]
    seen["checkpoints"] = [point.to_dict() for point in client.fine_tuning.jobs.checkpoints.list(job.id)]
    seen["csv"] = [client.files.content(name).text for name in job.result_files]
    seen["listed_jobs"] = [listed.id for listed in client.fine_tuning.jobs.list()]
    seen["models"] = [model.id for model in client.models.list()]
    if job.fine_tuned_model:
        unpack(client, job.id, out)
        seen["deleted"] = client.models.delete(job.fine_tuned_model).to_dict()
        seen["after_delete"] = status_of(lambda: client.models.retrieve(job.fine_tuned_model or ""))
    seen["file_deleted"] = client.files.delete(files[0].id).to_dict()
    seen["file_after_delete"] = status_of(lambda: client.files.retrieve(files[0].id))
    return seen


def upload(client: openai.OpenAI, path: Path) -> Any:
    with path.open("rb") as source:
        return client.files.create(file=source, purpose="fine-tune")


def poll(client: openai.OpenAI, job_id: str) -> tuple[list[dict[str, Any]], Any]:
    """Watch a job to its end: what each look showed, and the finished job."""
    looks: list[dict[str, Any]] = []
    deadline = time.monotonic() + 200
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        newest = client.fine_tuning.jobs.list_events(job_id, limit=5).data
        steps = [event.data["step"] for event in newest if event.type == "metrics" and isinstance(event.data, dict)]
        looks.append({"status": job.status, "estimated_finish": job.estimated_finish, "step": max(steps, default=0)})
        if job.status in ("succeeded", "failed", "cancelled"):
            return looks, job
        assert time.monotonic() < deadline, looks[-1]
        time.sleep(0.05)


def unpack(client: openai.OpenAI, job_id: str, out: Path) -> None:
    reply = client.get(f"/fine_tuning/jobs/{job_id}/adapter", cast_to=openai.HttpxBinaryResponseContent)
    with tarfile.open(fileobj=BytesIO(reply.content)) as archive:
        archive.extractall(out)


def status_of(call: Any) -> int:
    try:
        call()
    except openai.APIStatusError as error:
        return error.status_code
    return 200


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
