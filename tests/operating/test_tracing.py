"""One trace from the request that makes a job to the steps that train it; and nothing where traces are off."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from worker_bench import Bench, bench, lines

from app import db, tracing
from app.auth import service as auth
from app.config import Settings
from app.jobs import states
from app.main import create_app

__all__ = ["bench"]

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(None)


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def create_over_http(bench: Bench, http: httpx.Client, headers: dict[str, str]) -> str:
    asked = {
        "model": "tiny-chat",
        "training_file": bench.add_file(lines(12)),
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
    }
    reply = http.post("/v1/fine_tuning/jobs", json=asked, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()["id"]


def test_one_trace_spans_request_prepare_claim_and_step(
    bench: Bench, scratch_database: sa.Engine, spans: InMemorySpanExporter
) -> None:
    with db.transaction() as session:
        key = auth.create_key(session).value
    url = scratch_database.url.render_as_string(hide_password=False)
    api = create_app(Settings(**(bench.settings.model_dump() | {"database_url": url})))
    with TestClient(api, headers={"Authorization": f"Bearer {key}"}) as http:
        job_id = create_over_http(bench, http, {"traceparent": CLIENT})
    db.configure(scratch_database)
    bench.start("cpu", "gpu")
    bench.wait(job_id, states.SUCCEEDED)
    while bench.nodes:  # a span ends with what it is about
        bench.nodes.pop().stop()

    (request,) = named(spans, "POST /v1/fine_tuning/jobs")
    (prepare,) = named(spans, "prepare")
    (train,) = named(spans, "train")
    claims, steps = named(spans, "claim"), named(spans, "step")
    assert format(request.context.trace_id, "032x") == CLIENT.split("-")[1], "the client's own trace goes on"
    assert {span.context.trace_id for span in (prepare, train, *claims, *steps)} == {request.context.trace_id}
    assert {parent(span) for span in (prepare, train, *claims)} == {request.context.span_id}
    assert [(span.attributes or {})["kind"] for span in claims] == ["cpu", "gpu"]
    assert steps
    assert {parent(span) for span in steps} == {train.context.span_id}
    assert (steps[0].attributes or {})["step"] == 1
    assert (train.attributes or {})["job"] == job_id
    assert (request.attributes or {})["http.response.status_code"] == 200


def test_an_error_leaves_its_class_and_not_its_text(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="the user's own words"), tracing.span("prepare"):
        raise ValueError("the user's own words")
    (span,) = spans.get_finished_spans()
    assert (span.status.status_code.name, span.status.description) == ("ERROR", "ValueError")
    assert span.events == ()
    assert "words" not in span.to_json()


def test_what_has_passed_took_its_time(spans: InMemorySpanExporter) -> None:
    tracing.passed("step", 2.5, step=4)
    (span,) = spans.get_finished_spans()
    assert span.end_time - span.start_time == 2_500_000_000
    assert dict(span.attributes or {}) == {"step": 4}


def test_off_there_is_nothing_to_hand_on_and_no_package_is_loaded() -> None:
    script = """
import sys
from app import tracing
from app.config import Settings
tracing.configure(Settings(), "api")
with tracing.span("request") as span:
    assert span is None and tracing.here() is None
tracing.passed("step", 1.0)
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(RuntimeError, match=r"tunesmith\[otel\]"):
        tracing.configure(settings(), "api")


def test_spans_go_to_the_collector_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(tracing, "use", sent.append)
    tracing.configure(settings(), "worker-gpu")
    (provider,) = sent
    assert provider.resource.attributes["service.name"] == "tunesmith-worker-gpu"
    provider.shutdown()


def settings() -> Settings:
    return Settings(traces_url="http://127.0.0.1:1/v1/traces")
