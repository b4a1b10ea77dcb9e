"""Who calls: the dependency every route has, except those on the public list."""

import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from app import db
from app.auth import service
from app.auth.errors import InvalidKey, MismatchedOrganization, MismatchedProject, MissingKey
from app.auth.service import Caller
from app.errors import Unauthorized

__all__ = ["Caller", "CurrentCaller", "KeyCache", "current_caller", "still_works"]

MAX_HEADER_BYTES = 256


class KeyCache:
    """Callers by key for a few seconds, so that a revoked key stops working within that time.

    Reads and writes of one dict entry are atomic, so request threads may share it.
    """

    SECONDS = 5.0
    LARGEST = 10_000

    def __init__(self) -> None:
        self._callers: dict[str, tuple[float, Caller]] = {}

    def caller(self, key: str) -> Caller:
        """The caller of a key. Raises InvalidKey."""
        known = self._callers.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        with db.transaction() as session:
            caller = service.authenticate(session, key)
        if len(self._callers) >= self.LARGEST:
            self._callers.clear()
        self._callers[key] = (time.monotonic() + self.SECONDS, caller)
        return caller


def current_caller(request: Request) -> Caller:
    """The caller of this request. Raises Unauthorized."""
    caller = request.app.state.keys.caller(_presented(request))
    request.state.organization_id = caller.organization_id
    # These headers may narrow what a key is used for; they never widen it.
    if request.headers.get("openai-organization", caller.organization_id) != caller.organization_id:
        raise MismatchedOrganization
    if request.headers.get("openai-project", caller.project_id) != caller.project_id:
        raise MismatchedProject
    return caller


def still_works(request: Request) -> Callable[[], bool]:
    """Whether the key of a long request has not been revoked meanwhile; asked again and again."""
    keys, key = request.app.state.keys, _presented(request)

    def look() -> bool:
        try:
            keys.caller(key)
        except Unauthorized:
            return False
        return True

    return look


CurrentCaller = Annotated[Caller, Depends(current_caller)]


def _presented(request: Request) -> str:
    headers = request.headers.getlist("authorization")
    if not headers:
        raise MissingKey
    scheme, _, key = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer" or len(headers[0]) > MAX_HEADER_BYTES or not key.isascii():
        raise InvalidKey
    return key
