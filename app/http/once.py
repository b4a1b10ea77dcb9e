"""The dependency of a POST that creates something: sent twice, it is carried out once (app/idempotency.py).

    def create(caller: Writer, body: JobBody, once: Once) -> JSONResponse:
        with once.attempt(caller, body) as attempt, db.transaction() as session:
            job = service.create(session, …)
            return attempt.reply(session, schemas.job(job))

With `secret=True` the reply is kept sealed, for what is shown once and must not be readable at rest.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app import idempotency
from app.db import Session
from app.errors import BadRequest
from app.http.openapi import documented
from app.http.replies import JSONResponse
from app.idempotency import StillRunning

MAX_KEY = 255


class InvalidKey(BadRequest):
    """An Idempotency-Key has 1 to 255 printable ASCII characters."""

    code = "invalid_idempotency_key"
    param = "Idempotency-Key"


class Asker(Protocol):
    """Who makes a request."""

    @property
    def organization_id(self) -> str: ...
    @property
    def project_id(self) -> str | None: ...


class Attempt(idempotency.Attempt):
    """One request on its way."""

    def reply(self, session: Session, body: Mapping[str, Any]) -> JSONResponse:
        """The reply, which is kept for repetitions if the transaction commits. Raises StillRunning."""
        reply = JSONResponse(body)
        self.keep(session, bytes(reply.body))
        return reply


class _Once:
    def __init__(self, request: Request) -> None:
        self._route = f"{request.method} {request.url.path}"
        self._key = _key(request)
        self._is_retry = _is_retry(request.headers.get("x-stainless-retry-count", ""))
        self._credentials = request.headers.get("authorization", "")

    @contextmanager
    def attempt(self, caller: Asker, body: BaseModel | None = None, *, secret: bool = False) -> Iterator[Attempt]:
        """For a request that has arrived. Raises StillRunning, KeyReused, and Replay if it was carried out before."""
        attempt = self._new(caller, secret=secret)
        try:
            attempt.open()
            attempt.identify(body.model_dump(mode="json") if body is not None else None)
            yield attempt
        except BaseException:
            attempt.release()
            raise

    @asynccontextmanager
    async def arriving(self, caller: Asker) -> AsyncIterator[Attempt]:
        """For a request whose body is still on its way; `identify` is called when it is there. Raises StillRunning."""
        attempt = self._new(caller, secret=False)
        try:
            await run_in_threadpool(attempt.open)
            yield attempt
        except BaseException:
            await run_in_threadpool(attempt.release)
            raise

    def _new(self, caller: Asker, *, secret: bool) -> Attempt:
        return Attempt(
            owner=caller.project_id or caller.organization_id,
            route=self._route,
            key=self._key,
            is_retry=self._is_retry,
            secret=self._credentials if secret else None,
        )


async def _once(request: Request) -> _Once:
    return _Once(request)


_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A request repeated with the same key gets the first reply and creates nothing.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
}
documented(_once, parameters=(_HEADER,), errors=(InvalidKey, StillRunning))

Once = Annotated[_Once, Depends(_once)]


def _is_retry(count: str) -> bool:
    """Whether a client says that it has sent this request before. What is no number says nothing."""
    return count.isascii() and count.isdigit() and count.strip("0") != ""


def _key(request: Request) -> str | None:
    """Raises InvalidKey."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not 0 < len(keys[0]) <= MAX_KEY or not (keys[0].isascii() and keys[0].isprintable()):
        raise InvalidKey
    return keys[0]
