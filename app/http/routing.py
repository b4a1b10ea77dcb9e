"""The route table, flat."""

import re
from collections.abc import Iterable, Iterator
from typing import Any


def all_routes(routes: Iterable[Any]) -> Iterator[Any]:
    """Every route of a table, through the routers it includes."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from all_routes(route.original_router.routes)
        else:
            yield route


def match_to_the_end(routes: Iterable[Any]) -> None:
    """Let no route take a path with a line feed at its end, before which Starlette's `$` matches as well."""
    for route in all_routes(routes):
        route.path_regex = re.compile(route.path_regex.pattern.replace("$", r"\Z"))
