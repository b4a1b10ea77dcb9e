"""The test of two tenants drives the whole route table."""

import re

from app.http.routing import all_routes
from app.main import PUBLIC_PATHS, create_app
from tests.tenancy.operations import FOR_ADMINS, FOR_TENANTS, PREFIXES


def test_every_route_is_driven_by_two_tenants() -> None:
    """Add a route that is missing here to tests/tenancy/operations.py: used on one's own things, it must succeed."""
    table = {
        f"{method} {route.path.replace(':path', '')}"
        for route in all_routes(create_app().routes)
        for method in route.methods
        if route.path not in PUBLIC_PATHS
    }
    assert table == FOR_TENANTS.keys() | FOR_ADMINS.keys()


def test_every_path_parameter_is_known() -> None:
    named = {name for route in FOR_TENANTS | FOR_ADMINS for name in re.findall(r"\{(\w+)", route)}
    assert named == PREFIXES.keys()
