"""The query parameters of lists. Unknown query parameters are ignored; these are checked."""

from collections.abc import Awaitable, Callable

from fastapi import Request

from app.errors import BadRequest
from app.http.openapi import documented, query


class InvalidPage(BadRequest):
    """A paging parameter is out of range."""

    code = "invalid_value"


def single(request: Request, name: str) -> str | None:
    """A query parameter that may be given once. Raises InvalidPage."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise InvalidPage(f"'{name}' is given twice.", param=name)
    return values[0] if values else None


def limit(*, default: int, most: int) -> Callable[[Request], Awaitable[int]]:
    """A dependency for `limit`: a whole number from 0 to `most`."""

    async def parse(request: Request) -> int:
        text = single(request, "limit")
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= most):
            raise InvalidPage(f"'limit' must be a whole number from 0 to {most}.", param="limit")
        return int(text)

    described = query("limit", "How many to return.", type="integer", minimum=0, maximum=most, default=default)
    return documented(parse, parameters=(described,), errors=(InvalidPage,))


async def after(request: Request) -> str | None:
    """The id after which a page begins."""
    return single(request, "after") or None


documented(
    after,
    parameters=(query("after", "The id after which the page begins.", type="string"),),
    errors=(InvalidPage,),
)


async def before(request: Request) -> str | None:
    """The id before which a page ends."""
    return single(request, "before") or None


documented(
    before,
    parameters=(query("before", "The id before which the page ends.", type="string"),),
    errors=(InvalidPage,),
)


def filtered(name: str, description: str) -> Callable[[Request], Awaitable[str | None]]:
    """A dependency for a parameter that narrows a list."""

    async def parse(request: Request) -> str | None:
        return single(request, name)

    return documented(parse, parameters=(query(name, description, type="string"),), errors=(InvalidPage,))


def flag(name: str, description: str) -> Callable[[Request], Awaitable[bool]]:
    """A dependency for a parameter that is true or false, and false if it is not there."""

    async def parse(request: Request) -> bool:
        text = single(request, name)
        if text not in ("true", "false", None):
            raise InvalidPage(f"'{name}' must be 'true' or 'false'.", param=name)
        return text == "true"

    return documented(
        parse, parameters=(query(name, description, type="boolean", default=False),), errors=(InvalidPage,)
    )


def _order(oldest_first: str, newest_first: str) -> Callable[[Request], Awaitable[bool]]:
    async def parse(request: Request) -> bool:
        order = single(request, "order")
        if order is None:
            order = newest_first
        if order not in (oldest_first, newest_first):
            raise InvalidPage(f"'order' must be '{oldest_first}' or '{newest_first}'.", param="order")
        return order == oldest_first

    words = [oldest_first, newest_first]
    described = query("order", "Oldest or newest first.", type="string", enum=words, default=newest_first)
    return documented(parse, parameters=(described,), errors=(InvalidPage,))


# Dependencies for `order`: whether it asks for the oldest first.
ascending = _order("asc", "desc")
spelled_out_order = _order("ascending", "descending")  # as checkpoint permissions have it


# A dependency for `stream`: whether events are wanted as they come instead of a page.
streamed = flag("stream", "Send events as they come.")


async def last_event_id(request: Request) -> str | None:
    """The id of the last event that the reader of a stream has seen."""
    return request.headers.get("last-event-id")


_LAST_SEEN = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The id of the last event that was seen: a stream goes on after it.",
    "schema": {"type": "string"},
}
documented(last_event_id, parameters=(_LAST_SEEN,))
