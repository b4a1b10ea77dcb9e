"""Around every request: its id, its time, the headers of every reply, the access log, and the last catch."""

import logging
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import ids, logs, metrics, tracing
from app.errors import AppError
from app.http.errors import render

log = logging.getLogger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # any other is the client's invention
API_VERSION = "2020-10-01"  # what OpenAI's own replies carry


class InternalError(AppError):
    """The server had an error while processing your request."""


class RequestMiddleware:
    """Pure ASGI, so that streams pass through untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = ids.request_id()
        with (
            logs.bound(request=state["request_id"]),
            metrics.REQUESTS_OPEN.track_inprogress(),
            tracing.span("request", parent=_traceparent(scope), request=state["request_id"]) as span,
        ):
            await self._answer(scope, receive, send, state, span)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, state: MutableMapping[str, Any], span: Any
    ) -> None:
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_headers(state, time.perf_counter() - started)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("request.failed", extra={"path": scope["path"]})
            if status:
                raise  # the reply has begun: breaking it off is all that is left
            await render(InternalError())(scope, receive, send_with_headers)
        finally:
            _record(scope, status, time.perf_counter() - started, span)


def _traceparent(scope: Scope) -> str | None:
    """The trace that the client is in, if it says so."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)


def _headers(state: MutableMapping[str, Any], seconds: float) -> list[tuple[bytes, bytes]]:
    values = {
        "x-request-id": state["request_id"],
        "openai-version": API_VERSION,
        "openai-processing-ms": str(round(seconds * 1000)),
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",  # replies are one caller's own
    }
    if "organization_id" in state:
        values["openai-organization"] = state["organization_id"]
    if state.get("allowance") is not None:
        values |= state["allowance"].headers()
    return [(name.encode(), value.encode()) for name, value in values.items()]


def _record(scope: Scope, status: int, seconds: float, span: Any) -> None:
    """One line in the log, the metrics, and the span. A route's template stands for all paths that it matches."""
    route = getattr(scope.get("route"), "path", "none")
    method = scope["method"] if scope["method"] in METHODS else "other"
    metrics.REQUESTS.labels(method, route, status).inc()
    metrics.REQUEST_SECONDS.labels(method, route).observe(seconds)
    if span is not None:
        span.update_name(f"{method} {route}")
        span.set_attribute("http.response.status_code", status)
    fields = {"method": scope["method"], "path": scope["path"], "status": status}
    log.info("request", extra={**fields, "ms": round(seconds * 1000, 1)})
