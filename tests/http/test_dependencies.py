"""What a route depends on is found out on the event loop: FastAPI takes a thread for a function that is not async."""

import inspect
from collections.abc import Iterator
from typing import Any

from fastapi.dependencies.models import Dependant

from app.http.routing import all_routes
from app.main import create_app


def calls(dependant: Dependant) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from calls(dependency)


def is_async(call: Any) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)


def test_no_dependency_takes_a_thread() -> None:
    routes = [route for route in all_routes(create_app().routes) if hasattr(route, "dependant")]
    found = {call for route in routes for call in calls(route.dependant)}
    assert len(found) > 20
    blocking = {
        call for call in found if not inspect.iscoroutinefunction(call if inspect.isfunction(call) else call.__call__)
    }
    assert not blocking
