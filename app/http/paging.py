"""The query parameters of lists. Unknown query parameters are ignored; these are checked."""

from collections.abc import Callable

from fastapi import Request

from app.errors import BadRequest
from app.http.openapi import documented, query


class InvalidPage(BadRequest):
    """A paging parameter is out of range."""

    code = "invalid_value"


def limit(*, default: int, most: int) -> Callable[[Request], int]:
    """A dependency for `limit`: a whole number from 0 to `most`."""

    def parse(request: Request) -> int:
        text = request.query_params.get("limit")
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= most):
            raise InvalidPage(f"'limit' must be a whole number from 0 to {most}.", param="limit")
        return int(text)

    described = query("limit", "How many to return.", type="integer", minimum=0, maximum=most, default=default)
    return documented(parse, parameters=(described,), errors=(InvalidPage,))


def after(request: Request) -> str | None:
    """The id after which a page begins."""
    return request.query_params.get("after") or None


documented(after, parameters=(query("after", "The id after which the page begins.", type="string"),))


def ascending(request: Request) -> bool:
    """Whether `order` asks for the oldest first."""
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidPage("'order' must be 'asc' or 'desc'.", param="order")
    return order == "asc"


documented(
    ascending,
    parameters=(query("order", "Oldest or newest first.", type="string", enum=["asc", "desc"], default="desc"),),
    errors=(InvalidPage,),
)
