"""Every Prometheus metric of the API and the workers, and the port of the operator's own that shows them.

Labels carry route templates, kinds, causes and project ids: never a name, a key or a piece of data.
"""

import hmac
import logging
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.registry import Collector

from app.config import Settings

log = logging.getLogger(__name__)

PORTS = 16  # processes of one machine share it by taking the next free port
READ_SECONDS = 10.0  # what a scraper may take to send its request

REGISTRY = CollectorRegistry()
PlatformCollector(registry=REGISTRY)
ProcessCollector(registry=REGISTRY)

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 6 * 3600.0)

# The API.
REQUESTS = Counter("tunesmith_http_requests", "Requests", ["method", "route", "status"], registry=REGISTRY)
REQUEST_SECONDS = Histogram(
    "tunesmith_http_request_seconds", "From a request to the end of its reply", ["method", "route"],
    buckets=(*FAST, 30.0, 60.0), registry=REGISTRY,
)  # fmt: skip
REQUESTS_OPEN = Gauge("tunesmith_http_requests_open", "Requests in progress, streams among them", registry=REGISTRY)

# Workers of both kinds.
CLAIM_SECONDS = Histogram(
    "tunesmith_claim_seconds", "What finding and taking a job took", ["kind"], buckets=FAST, registry=REGISTRY
)
WAIT_SECONDS = Histogram(
    "tunesmith_job_wait_seconds", "From a job's being ready to its claim", ["kind"], buckets=SLOW, registry=REGISTRY
)
JOBS_HELD = Gauge("tunesmith_jobs_held", "Jobs in this worker's hands", ["kind"], registry=REGISTRY)
JOB_SLOTS = Gauge("tunesmith_job_slots", "Jobs this worker can hold", ["kind"], registry=REGISTRY)
LEASES_LOST = Counter(
    "tunesmith_leases_lost", "Jobs given up: cancelled or taken back (gone), or not to be renewed (unreachable)",
    ["kind", "reason"], registry=REGISTRY,
)  # fmt: skip
JOBS_ENDED = Counter(
    "tunesmith_jobs_ended", "Jobs that this process brought to an end", ["status", "cause"], registry=REGISTRY
)
JOBS_TAKEN_BACK = Counter(
    "tunesmith_jobs_taken_back", "Jobs put back to be tried again, by cause", ["cause"], registry=REGISTRY
)
SWEEPS = Counter("tunesmith_sweeps", "Rounds of sweeping", ["outcome"], registry=REGISTRY)
SWEEP_SECONDS = Histogram("tunesmith_sweep_seconds", "One round of sweeping", buckets=FAST, registry=REGISTRY)
BASES_NOT_LOADED = Counter(
    "tunesmith_bases_not_loaded", "Base models that this worker could not load: damaged, or its engine would not",
    ["kind"], registry=REGISTRY,
)  # fmt: skip
OUTBOX_FAILURES = Counter(
    "tunesmith_outbox_failures", "Promised side effects that failed and are tried again", ["kind"], registry=REGISTRY
)
WEBHOOK_ATTEMPTS = Counter(
    "tunesmith_webhook_attempts", "Requests to tenants' endpoints", ["outcome"], registry=REGISTRY
)

# GPU workers.
STEP_SECONDS = Histogram("tunesmith_step_seconds", "One optimizer step of one job", buckets=FAST, registry=REGISTRY)
TRAINED_TOKENS = Counter("tunesmith_trained_tokens", "Tokens trained; its rate is tokens/s", registry=REGISTRY)
DEVICE_BYTES = Gauge(
    "tunesmith_device_memory_bytes", "Memory in use by the engine (used), and by its resident base alone (base)",
    ["of"], registry=REGISTRY,
)  # fmt: skip
ENGINE_STARTS = Counter("tunesmith_engine_starts", "Engine children started", registry=REGISTRY)
ENGINE_CRASHES = Counter("tunesmith_engine_crashes", "Engine children that ended unasked", registry=REGISTRY)


class Server:
    """`/metrics`, and `/healthz` for whoever restarts dead processes, on a port of their own."""

    def __init__(self, settings: Settings, alive: Callable[[], bool], collectors: Iterable[Collector] = ()) -> None:
        """alive: whether this process is well. collectors: what is looked up when it is asked for."""
        for collector in collectors:
            REGISTRY.register(collector)
        self._collectors = tuple(collectors)
        self._token = settings.metrics_token.get_secret_value() if settings.metrics_token else None
        self._alive = alive
        self._metrics = make_wsgi_app(REGISTRY)
        self._server = _listen(settings.metrics_host, settings.metrics_port, self._answer)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        log.info("metrics.listening", extra={"host": settings.metrics_host, "port": self.port})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for collector in self._collectors:
            REGISTRY.unregister(collector)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/healthz":
            well = self._alive()
            start_response("200 OK" if well else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"ok\n" if well else b"a thread of this process has died\n"]
        if path != "/metrics":
            start_response("404 Not Found", [])
            return []
        if not self._knows(environ.get("HTTP_AUTHORIZATION", "")):
            start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer")])
            return []
        return self._metrics(environ, start_response)

    def _knows(self, header: str) -> bool:
        return self._token is None or hmac.compare_digest(header.encode(), f"Bearer {self._token}".encode())


def serve(settings: Settings, *, alive: Callable[[], bool], collectors: Iterable[Collector] = ()) -> Server | None:
    """Show this process's metrics, if the settings name a port. Raises OSError."""
    return Server(settings, alive, collectors) if settings.metrics_port else None


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = READ_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is wsgiref's
        """A scrape every few seconds is not worth a line."""


def _listen(host: str, first: int, application: Any) -> WSGIServer:
    """A server on the first free port from `first` on. Raises OSError if PORTS of them are taken."""
    for port in range(first, first + PORTS):
        try:
            return make_server(host, port, application, _Server, _Handler)
        except OSError as error:
            last = error
    raise OSError(last.errno, f"metrics: no free port from {first} to {first + PORTS - 1}: {last.strerror}")
