"""The one envelope: every error of every kind leaves as OpenAI's clients expect it."""

import logging
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from psycopg.errors import DiskFull, ReadOnlySqlTransaction
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.errors import AppError, BadRequest, MethodNotAllowed, NotFound, StorageFull, Unavailable, quoted
from app.http.replies import JSONResponse
from app.http.routing import all_routes
from app.idempotency import Replay
from app.storage import StoreFull, StoreUnavailable

log = logging.getLogger(__name__)

_UNREAD = (408, 413)  # answered before the body was read: what is still on its way must not be taken for a request


def render(error: AppError) -> JSONResponse:
    """An error as its reply."""
    message, param = _bounded(error.message, 512), _bounded(error.param, 128)
    body = {"message": message, "type": error.type, "param": param, "code": error.code}
    headers = {}
    if error.status in _UNREAD:
        headers["Connection"] = "close"
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.should_retry is not None:
        headers["x-should-retry"] = str(error.should_retry).lower()
    return JSONResponse({"error": body}, status_code=error.status, headers=headers)


def install(app: FastAPI) -> None:
    """Register a handler for every kind of error a request can end in. The rest is the middleware's.

    They are `async`: others would wait for a thread, behind the very requests that a full pool keeps waiting.
    """
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(Replay, _replay)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(sa.exc.InternalError, _refused_write)
    for kind in (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError, StoreUnavailable):
        app.add_exception_handler(kind, _unavailable)


def _bounded(text: str | None, most: int) -> str | None:
    """What may repeat a client's words: printable, and short."""
    if text is None:
        return None
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


async def _app_error(_: Request, error: Any) -> JSONResponse:
    return render(error)


async def _replay(_: Request, replay: Any) -> Response:
    return Response(replay.reply, media_type="application/json", headers={"Idempotent-Replayed": "true"})


async def _http_exception(request: Request, error: Any) -> JSONResponse:
    if error.status_code == 404:
        return render(NotFound(f"Invalid URL ({request.method} {quoted(request.url.path)})"))
    if error.status_code == 405:
        reply = render(MethodNotAllowed(f"Not allowed to {request.method} on {quoted(request.url.path)}."))
        reply.headers["Allow"] = ", ".join(sorted(_allowed(request)))
        return reply
    return render(BadRequest(str(error.detail)))


def _allowed(request: Request) -> set[str]:
    """The methods of every route on this path; of Starlette one would hear those of the first."""
    routes = (route for route in all_routes(request.app.routes) if route.path_regex.match(request.scope["path"]))
    return {method for route in routes for method in route.methods}


async def _validation_error(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    return render(BadRequest(str(first["msg"]), param=str(first["loc"][-1])))


async def _refused_write(request: Request, error: Any) -> Response:
    """A server that takes nothing but reads, as after a failover. Any other internal error is ours."""
    if isinstance(error.orig, ReadOnlySqlTransaction):
        return await _unavailable(request, error)
    raise error


async def _unavailable(_: Request, error: Any) -> JSONResponse:
    cause = getattr(error, "orig", error)
    log.warning("request.unavailable", extra={"reason": type(cause).__name__})
    return render(StorageFull() if isinstance(cause, DiskFull | StoreFull) else Unavailable())


async def _disconnected(_: Request, error: Any) -> JSONResponse:
    """Nobody is there to read it; the reply only ends the request."""
    return render(BadRequest("The client closed the connection."))
