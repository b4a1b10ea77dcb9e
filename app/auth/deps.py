"""Who calls, and whether they may: the one dependency that lets a request in.

A route says which scope it needs in its signature, and gets the caller:

    Reader = Annotated[Caller, requires(Scope.FILES_READ)]

    def retrieve(file_id: str, caller: Reader) -> JSONResponse: ...

A route that asks for no scope and is not on the public list keeps the application from starting.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from app import db
from app.audit.service import Origin
from app.auth import service
from app.auth.errors import InvalidKey, MismatchedOrganization, MismatchedProject, MissingKey, MissingScope, RateLimited
from app.auth.rates import FailedLogins
from app.auth.scopes import Scope
from app.auth.service import Admin, Caller
from app.errors import Unauthorized
from app.http.openapi import Documentation
from app.http.routing import all_routes

__all__ = ["Caller", "CurrentAdmin", "KeyCache", "check_guarded", "requires", "scopes_of", "still_works"]

MAX_HEADER_BYTES = 256


@dataclass
class _Known:
    """Whom a key stood for. ends: when that is forgotten; renew: when it is asked again (`ends`: somebody does)."""

    caller: Caller | Admin
    renew: float
    ends: float


class KeyCache:
    """Callers by key for a few seconds, so that a revoked key stops working within that time.

    One request asks again ahead of it, while the others go on: else all that come at that moment would wait for a
    thread twice. Reads and writes of one dict entry are atomic, so request threads may share it.
    """

    SECONDS = 5.0
    RENEW = 0.6  # of that time
    LARGEST = 10_000

    def __init__(self, failures: FailedLogins | None = None) -> None:
        self._failures = failures or FailedLogins(0, processes=1)
        self._callers: dict[str, _Known] = {}

    def known(self, key: str) -> Caller | Admin | None:
        """Whom a key stands for, if that was asked a moment ago. None for the one who is to ask again."""
        known, now = self._callers.get(key), time.monotonic()
        if known is None or known.ends <= now:
            return None
        if known.renew <= now and known.renew < known.ends:
            known.renew = known.ends
            return None
        return known.caller

    def caller(self, key: str, address: str = "") -> Caller | Admin:
        """Whom a key stands for. Raises InvalidKey, and TooManyFailures for keys that were not seen to work lately."""
        known = self._callers.get(key)
        if known is not None and time.monotonic() < known.renew < known.ends:
            return known.caller  # somebody asked while this request waited for a thread
        if key not in self._callers:  # so that a neighbour's wrong keys lock nobody out who is at work
            self._failures.check(address)
        try:
            with db.transaction() as session:
                caller = service.authenticate(session, key)
        except InvalidKey:
            self._callers.pop(key, None)
            self._failures.count(address)
            raise
        if len(self._callers) >= self.LARGEST:
            self._callers.clear()
        now = time.monotonic()
        self._callers[key] = _Known(caller, now + self.RENEW * self.SECONDS, now + self.SECONDS)
        return caller


@dataclass(frozen=True)
class Door:
    """Lets in whoever has one scope, as often as their key may ask. Raises Unauthorized, RateLimited, MissingScope."""

    scope: Scope
    or_admin: bool = False

    @property
    def openapi_documentation(self) -> Documentation:
        return Documentation(errors=(MissingKey, RateLimited, MissingScope), scopes=self._scopes)

    @property
    def _scopes(self) -> tuple[Scope, ...]:
        return (self.scope, Scope.ADMIN) if self.or_admin else (self.scope,)

    async def __call__(self, request: Request) -> Caller | Admin:
        keys: KeyCache = request.app.state.keys
        key = _presented(request)
        caller = keys.known(key)
        if caller is None:
            caller = await run_in_threadpool(keys.caller, key, _address(request))
        request.state.organization_id = caller.organization_id
        # These headers may narrow what a key is used for; they never widen it.
        if any(told != caller.organization_id for told in request.headers.getlist("openai-organization")):
            raise MismatchedOrganization
        if any(told != caller.project_id for told in request.headers.getlist("openai-project")):
            raise MismatchedProject
        allowance = request.app.state.rates.take(caller.key_id, caller.requests_per_minute)
        request.state.allowance = allowance
        if allowance is not None and not allowance.granted:
            raise RateLimited(allowance.limit, allowance.retry_after)
        if caller.scopes.isdisjoint(self._scopes):
            raise MissingScope(self.scope)
        return replace(caller, origin=_origin(request))


def requires(scope: Scope, *, or_admin: bool = False) -> Any:
    """The dependency of a route on a scope; its value is the Caller, with the scope `admin` the Admin.

    or_admin: the organisation's admin keys are let in as well.
    """
    return Depends(Door(scope, or_admin))


CurrentAdmin = Annotated[Admin, requires(Scope.ADMIN)]


def scopes_of(route: APIRoute) -> list[Scope]:
    """The scopes a route asks for."""
    return [call.scope for call in _calls(route.dependant) if isinstance(call, Door)]


def check_guarded(app: FastAPI, public: frozenset[str]) -> None:
    """Raise unless every route is in `public` or asks for exactly one scope: what is not let in is kept out."""
    for route in all_routes(app.routes):
        path = getattr(route, "path", repr(route))
        if path not in public and not (isinstance(route, APIRoute) and len(scopes_of(route)) == 1):
            raise RuntimeError(f"{path} must ask for one scope with `requires`, or stand on the public list")


def still_works(request: Request, scope: Scope) -> Callable[[], bool]:
    """Whether the key of a long request still has its scope, and was not revoked; asked again and again."""
    keys, key = request.app.state.keys, _presented(request)

    def look() -> bool:
        try:
            return scope in keys.caller(key).scopes
        except Unauthorized:
            return False

    return look


def _calls(dependant: Dependant) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _origin(request: Request) -> Origin:
    return Origin(
        ip_address=_address(request) or None,
        user_agent=request.headers.get("user-agent"),
        request_id=request.state.request_id,
    )


def _presented(request: Request) -> str:
    headers = request.headers.getlist("authorization")
    if not headers:
        raise MissingKey
    scheme, _, key = headers[0].strip().partition(" ")
    key = key.strip()
    if len(headers) > 1 or scheme.lower() != "bearer" or len(headers[0]) > MAX_HEADER_BYTES or not key.isascii():
        raise InvalidKey
    return key
