"""The main job, end to end: everything real, through the official client, on a folder and on S3."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import BUCKET, ROOT, Journey, Up

STEPS = 60  # 60 rows, 4 at a time, 4 epochs
COLUMNS = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]


@pytest.mark.xdist_group("e2e-folder")
def test_newest_client_on_a_folder(journey: Journey, folder_stack: Up, tmp_path: Path) -> None:
    seen = journey(folder_stack, tmp_path / "adapter")
    assert not seen["client"].startswith("1.")
    check(seen, tmp_path / "adapter")


@pytest.mark.xdist_group("e2e-folder")
def test_older_client_on_a_folder(journey: Journey, folder_stack: Up, old_client: Path, tmp_path: Path) -> None:
    seen = journey(folder_stack, tmp_path / "adapter", client=old_client)
    assert seen["client"] == "1.109.1"
    check(seen, tmp_path / "adapter")


@pytest.mark.xdist_group("e2e-s3")
def test_newest_client_on_s3(journey: Journey, s3_stack: Up, s3_endpoint: str, tmp_path: Path) -> None:
    seen = journey(s3_stack, tmp_path / "adapter")
    check(seen, tmp_path / "adapter")
    keys = bucket_keys(s3_endpoint)
    assert keys
    assert all(key.startswith("some/prefix/projects/") for key in keys)
    assert not list((s3_stack.data_dir / "objects").iterdir())


@pytest.mark.xdist_group("e2e-s3")
def test_a_file_of_several_parts_on_s3(s3_stack: Up, tmp_path: Path) -> None:
    from openai import OpenAI

    line = json.dumps({"messages": [{"role": "user", "content": "x" * 4000}, {"role": "assistant", "content": "y"}]})
    path = tmp_path / "large.jsonl"
    path.write_text(f"{line}\n" * (20 * 1024 * 1024 // len(line)))
    with OpenAI(base_url=s3_stack.base_url, api_key=s3_stack.api_key) as client:
        with path.open("rb") as source:
            file = client.files.create(file=source, purpose="fine-tune")
        assert file.bytes == path.stat().st_size > 16 * 1024 * 1024
        assert client.files.content(file.id).content == path.read_bytes()
        client.files.delete(file.id)


def check(seen: dict[str, Any], adapter: Path) -> None:
    """What the issue asks of the journey, from what the script saw."""
    job = seen["job"]
    assert job["status"] == "succeeded", job["error"]
    assert seen["content_is_the_same"]
    assert seen["created"]["status"] == "validating_files"
    check_progress(seen["polls"])
    check_events(seen["events"])
    check_results(seen)
    check_adapter(adapter)
    assert job["id"] in seen["listed_jobs"]
    assert {"tiny-chat", job["fine_tuned_model"]} <= set(seen["models"])
    assert seen["deleted"] == {"id": job["fine_tuned_model"], "object": "model", "deleted": True}
    assert seen["after_delete"] == 404
    assert seen["file_deleted"]["deleted"] is True
    assert seen["file_after_delete"] == 404


def check_progress(polls: list[dict[str, Any]]) -> None:
    statuses = [poll["status"] for poll in polls]
    order = ["validating_files", "queued", "running", "succeeded"]
    assert statuses == sorted(statuses, key=order.index)
    running = [poll for poll in polls if poll["status"] == "running"]
    steps = [poll["step"] for poll in running]
    assert len(set(steps)) >= 2, steps
    assert steps == sorted(steps)
    assert any(poll["estimated_finish"] for poll in running)


def check_events(events: list[dict[str, Any]]) -> None:
    metrics = [event["data"] for event in events if event["type"] == "metrics"]
    assert [data["step"] for data in metrics] == list(range(1, STEPS + 1))
    assert {data["total_steps"] for data in metrics} == {STEPS}
    assert all(math.isfinite(data["train_loss"]) for data in metrics)
    early, late = (sum(data["train_loss"] for data in part) for part in (metrics[:10], metrics[-10:]))
    assert late < early / 2
    messages = [event["message"] for event in events]
    for words in ("Created fine-tuning job", "Validating training file", "Files validated", "Fine-tuning job started"):
        assert any(message.startswith(words) for message in messages), messages
    assert "successfully completed" in messages[-1]
    assert {event["level"] for event in events} == {"info"}


def check_results(seen: dict[str, Any]) -> None:
    job = seen["job"]
    steps = [point["step_number"] for point in seen["checkpoints"]]
    assert steps == [60, 45, 30]
    assert seen["checkpoints"][0]["fine_tuned_model_checkpoint"] == job["fine_tuned_model"]
    assert all("full_valid_loss" in point["metrics"] for point in seen["checkpoints"])
    (content,) = seen["csv"]
    rows = list(csv.DictReader(io.StringIO(content)))
    assert list(rows[0]) == COLUMNS
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    resolved = job["method"]["supervised"]["hyperparameters"]
    assert {name: resolved[name] for name in ("n_epochs", "batch_size", "learning_rate")} == {
        "n_epochs": 4,
        "batch_size": 4,
        "learning_rate": 0.002,
    }
    assert job["trained_tokens"] > 0
    assert job["seed"] == 11


def check_adapter(folder: Path) -> None:
    """The adapter loads in stock peft and changes what the model says."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "manifest.json"} <= names
    base = AutoModelForCausalLM.from_pretrained(ROOT / "catalog" / "tiny-chat", dtype=torch.float32)
    tokens = torch.arange(5, 25)[None]
    with torch.inference_mode():
        before = base(tokens).logits
        after = PeftModel.from_pretrained(base, folder)(tokens).logits
    assert after.isfinite().all()
    assert (after - before).abs().max() > 0.01


def bucket_keys(endpoint: str) -> list[str]:
    import boto3

    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="id", aws_secret_access_key="secret"
    )
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
    client.close()
    return keys
