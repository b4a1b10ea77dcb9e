"""Traces by OpenTelemetry, from a request to the training steps of the job it made. Off unless `traces_url` is set.

A job's row keeps the `traceparent` of its request, so that whoever works on it later, on whatever machine, goes on with
the same trace. Spans carry ids, kinds and numbers: never a name, a key or a piece of data, nor an error's text.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from app.config import Settings

_tracer: Any = None  # opentelemetry.trace.Tracer; None: off


def configure(settings: Settings, process: str) -> None:
    """Send spans to the collector that the settings name, if they do. Raises RuntimeError without the extra `otel`."""
    if settings.traces_url is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError:
        raise RuntimeError("TUNESMITH_TRACES_URL needs more packages: pip install 'tunesmith[otel]'") from None
    about = {"service.name": f"tunesmith-{process}", "service.version": metadata.version("tunesmith")}
    sampler = ParentBased(TraceIdRatioBased(settings.traces_ratio))
    provider = TracerProvider(resource=Resource.create(about), sampler=sampler)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=str(settings.traces_url))))
    use(provider)


def use(provider: Any) -> None:
    """Hand spans to this tracer provider; None turns traces off."""
    global _tracer  # noqa: PLW0603 - one for the process, like a logger
    _tracer = provider.get_tracer("tunesmith") if provider is not None else None


@contextmanager
def span(name: str, *, parent: str | None = None, **attributes: Any) -> Iterator[Any]:
    """A span for the block; None where traces are off. parent: a traceparent, else it is the span around this one."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import Status, StatusCode

    with _tracer.start_as_current_span(
        name, context=_context(parent), attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def passed(name: str, seconds: float, *, parent: str | None = None, **attributes: Any) -> None:
    """Note what took so many seconds and has ended now."""
    if _tracer is None:
        return
    end = time.time_ns()
    start = end - int(seconds * 1e9)
    _tracer.start_span(name, context=_context(parent), attributes=attributes, start_time=start).end(end)


def here() -> str | None:
    """The traceparent to hand on; None where traces are off or this one is not kept."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def _context(parent: str | None) -> Any:
    """The context of a traceparent; None, which is the present one, for none."""
    if parent is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent})
