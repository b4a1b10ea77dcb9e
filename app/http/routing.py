"""The route table, flat."""

from collections.abc import Iterable, Iterator
from typing import Any


def all_routes(routes: Iterable[Any]) -> Iterator[Any]:
    """Every route of a table, through the routers it includes."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from all_routes(route.original_router.routes)
        else:
            yield route
