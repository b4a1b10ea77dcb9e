"""A request's body as it arrives: not encoded, and not too slowly."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request

from app.errors import AppError, BadRequest

SLOWEST = 4096  # bytes a second


class InvalidContentType(BadRequest):
    """The body is sent as something that this path does not take."""

    code = "invalid_content_type"


class UnsupportedEncoding(BadRequest):
    """A body is sent as it is: Content-Encoding is not supported."""

    code = "invalid_content_encoding"


class BodyTimeout(AppError):
    """The body of the request did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """The pieces of the body. They may take `body_seconds` together, and a second more for each 4 KiB that came.

    Raises UnsupportedEncoding, BodyTimeout, ClientDisconnect.
    """
    if any(coding.lower() != "identity" for coding in request.headers.getlist("content-encoding")):
        raise UnsupportedEncoding
    loop = asyncio.get_running_loop()
    deadline = loop.time() + request.app.state.settings.body_seconds
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise BodyTimeout from None
        deadline += len(chunk) / SLOWEST
        yield chunk


def told_length(request: Request) -> int:
    """What the request says of its length; 0 if it says nothing."""
    told = request.headers.get("content-length", "")
    return int(told) if told.isascii() and told.isdigit() else 0
