"""The metrics of every process of a stack that has trained a job, as Prometheus would read them."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import PORTS
from tests.e2e.stack import METRICS_PORT, METRICS_TOKEN, Up, train_a_little, until

TOKEN = {"Authorization": f"Bearer {METRICS_TOKEN}"}


def scraped() -> dict[str, float]:
    """The samples of all processes, those of one name and one set of labels added up: `name{label=value,…}` → value."""
    found: dict[str, float] = {}
    for port in range(METRICS_PORT, METRICS_PORT + PORTS):
        try:
            reply = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=TOKEN, timeout=10)
        except httpx.TransportError:
            continue
        if reply.status_code != 200:
            continue  # another stack's, or another program's
        for family in text_string_to_metric_families(reply.text):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                name = f"{sample.name}{{{labels}}}"
                found[name] = found.get(name, 0.0) + sample.value
    return found


@pytest.mark.xdist_group("e2e-s3")
def test_a_trained_job_is_in_the_metrics_of_every_process(s3_stack: Up) -> None:
    train_a_little(s3_stack)
    seen = scraped()
    assert seen["tunesmith_database_up{}"] == 1
    assert seen["tunesmith_workers{kind=cpu}"] == seen["tunesmith_workers{kind=gpu}"] == 1
    created = "tunesmith_http_requests_total{method=POST,route=/v1/fine_tuning/jobs,status=200}"
    at_least_one = (
        created,
        "tunesmith_claim_seconds_count{kind=cpu}",
        "tunesmith_claim_seconds_count{kind=gpu}",
        "tunesmith_job_wait_seconds_count{kind=gpu}",
        "tunesmith_step_seconds_count{}",
        "tunesmith_trained_tokens_total{}",
        "tunesmith_device_memory_bytes{of=used}",
        "tunesmith_device_memory_bytes{of=base}",
        "tunesmith_jobs_ended_total{cause=,status=succeeded}",
        "tunesmith_engine_starts_total{}",
        "tunesmith_sweeps_total{outcome=done}",
    )
    assert {name: seen.get(name) for name in at_least_one if not seen.get(name)} == {}
    assert seen["tunesmith_job_slots{kind=gpu}"] >= 1
    until(lambda: scraped()["tunesmith_jobs_held{kind=gpu}"] == 0)
