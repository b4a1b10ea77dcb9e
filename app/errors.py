"""Errors a caller can see, as classes: the family gives the HTTP status, the class the code, the docstring the message.

AppError
├── BadRequest 400
├── Unauthorized 401
├── Forbidden 403
├── NotFound 404
├── MethodNotAllowed 405
├── Conflict 409
├── Gone 410
├── TooLarge 413
├── TooManyRequests 429
└── Unavailable 503

Features subclass a family in their own `errors.py`. Nothing here knows of HTTP libraries: `app.http.errors` renders.
"""

from typing import ClassVar

MOST_QUOTED = 100


def quoted(text: str) -> str:
    """What a message repeats of a client's words."""
    return text if len(text) <= MOST_QUOTED else text[: MOST_QUOTED - 1] + "…"


class AppError(Exception):
    """The request could not be served."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None  # seconds, in Retry-After
    should_retry: ClassVar[bool | None] = None  # what clients are told in x-should-retry; None: the status says it

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.param = param if param is not None else type(self).param
        super().__init__(self.message)


class BadRequest(AppError):
    """The request is not valid."""

    status = 400
    type = "invalid_request_error"
    should_retry = False


class Unauthorized(AppError):
    """Authentication is required."""

    status = 401
    type = "invalid_request_error"
    should_retry = False
    code = "invalid_api_key"


class Forbidden(AppError):
    """This key may not do that."""

    status = 403
    type = "invalid_request_error"
    should_retry = False


class NotFound(AppError):
    """There is no such object."""

    status = 404
    type = "invalid_request_error"
    should_retry = False


class MethodNotAllowed(AppError):
    """This method is not allowed on this path."""

    status = 405
    type = "invalid_request_error"
    should_retry = False


class Conflict(AppError):
    """Another request stands in the way."""

    status = 409
    type = "invalid_request_error"


class Gone(AppError):
    """The object has expired."""

    status = 410
    type = "invalid_request_error"
    should_retry = False


class TooLarge(AppError):
    """The body is larger than this server accepts."""

    status = 413
    type = "invalid_request_error"
    should_retry = False


class TooManyRequests(AppError):
    """Too many requests."""

    status = 429
    type = "invalid_request_error"
    code = "rate_limit_exceeded"
    retry_after = 1


class Unavailable(AppError):
    """The service cannot answer now; try again."""

    status = 503
    type = "service_unavailable_error"
    retry_after = 1


class StorageFull(Unavailable):
    """There is no room to store this; try again later."""

    code = "storage_full"
    retry_after = 30
