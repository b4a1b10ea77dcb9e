"""Webhooks of `tunesmith up` as it is by default: every end of a job arrives, signed, once."""

import io
import time
from pathlib import Path

import pytest
from openai import OpenAI
from receivers import receiving

from tests.e2e.stack import Up

SECONDS = 120


@pytest.mark.xdist_group("e2e-folder")
def test_every_end_of_a_job_arrives(folder_stack: Up, tickets: Path) -> None:
    client = OpenAI(base_url=folder_stack.base_url, api_key=folder_stack.api_key, _strict_response_validation=True)
    with client, receiving() as receiver:
        made = client.webhooks.create(
            name="e2e",
            url=receiver.url,
            event_types=["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"],
        )
        assert client.webhooks.test(made.id, event_type="fine_tuning.job.failed").status_code == 200
        receiver.requests.clear()
        with (tickets / "train.jsonl").open("rb") as source:
            good = client.files.create(file=source, purpose="fine-tune").id
        bad = client.files.create(file=("bad.jsonl", io.BytesIO(b'{"messages": []}\n')), purpose="fine-tune").id
        once = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
        ends = {
            client.fine_tuning.jobs.create(model="tiny-chat", training_file=file, method=once).id: end  # type: ignore[arg-type]
            for file, end in ((good, "succeeded"), (bad, "failed"))
        }
        cancelled = client.fine_tuning.jobs.create(model="tiny-chat", training_file=good)
        client.fine_tuning.jobs.cancel(cancelled.id)
        ends[cancelled.id] = "cancelled"
        deadline = time.monotonic() + SECONDS
        while len(receiver.requests) < len(ends):
            assert time.monotonic() < deadline, folder_stack.logs()
            time.sleep(0.05)
        events = [client.webhooks.unwrap(r.body, r.headers, secret=made.signing_secret) for r in receiver.requests]
        assert {event.data.id: event.type for event in events} == {  # type: ignore[union-attr]
            job: f"fine_tuning.job.{end}" for job, end in ends.items()
        }
        assert {job: client.fine_tuning.jobs.retrieve(job).status for job in ends} == ends
        client.webhooks.delete(made.id)
    keys = folder_stack.data_dir / "secret-keys"
    assert keys.stat().st_mode & 0o777 == 0o600
    logs = "".join(path.read_text(errors="replace") for path in (folder_stack.data_dir / "logs").iterdir())
    for secret in (made.signing_secret, made.signing_secret.removeprefix("whsec_"), keys.read_text().strip()):
        assert secret not in logs
    assert made.id in logs
