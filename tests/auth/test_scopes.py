"""Default-deny: every route asks for one scope or stands on the public list, and a key without the scope is refused."""

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from live_server import Live

from app import db
from app.auth import service as auth
from app.auth.deps import check_guarded, scopes_of
from app.auth.scopes import PROJECT_SCOPES, Scope
from app.http.routing import all_routes
from app.main import PUBLIC_PATHS, create_app

PUBLIC = {"/healthz", "/readyz", "/openapi.json"}
GUARDED: list[tuple[str, str, Scope]] = [
    (method, route.path, scope)
    for route in all_routes(create_app().routes)
    if isinstance(route, APIRoute) and route.path not in PUBLIC_PATHS
    for method in sorted(route.methods)
    for scope in scopes_of(route)
]
READING = {"GET", "HEAD"}
# What OpenAI keeps for administrators, and the project that owns the checkpoint may do as well here.
FOR_BOTH = re.compile(r"/v1/fine_tuning/checkpoints/\{model:path\}/permissions")


def new_key(*scopes: Scope) -> str:
    with db.transaction() as session:
        return auth.create_key(session, organization="acme", scopes=scopes).value


@pytest.fixture(scope="module")
def keys_without(live: Live) -> dict[Scope, str]:
    """For each scope a key that has all others."""
    without = {scope: new_key(*(PROJECT_SCOPES - {scope})) for scope in PROJECT_SCOPES}
    return without | {Scope.ADMIN: new_key(*PROJECT_SCOPES)}


@pytest.fixture(scope="module")
def admin_key(live: Live) -> str:
    return new_key(Scope.ADMIN)


def send(live: Live, method: str, path: str, key: str) -> httpx.Response:
    url = live.url + re.sub(r"\{[^}]*\}", "x", path)
    return httpx.request(method, url, headers={"Authorization": f"Bearer {key}"})


def test_every_route_is_public_by_name_or_asks_for_exactly_one_scope() -> None:
    """The walk itself: whatever is in the table, mounts and plain routes included, is one or the other."""
    assert PUBLIC_PATHS == PUBLIC, "a longer public list is a decision, not an accident"
    guarded = 0
    for route in all_routes(create_app().routes):
        if route.path in PUBLIC:
            continue
        assert isinstance(route, APIRoute), f"{route} is not one whose scope could be known"
        assert len(scopes_of(route)) == 1, f"{route.path} asks for {scopes_of(route)}"
        guarded += 1
    assert guarded > 20


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
def test_a_key_without_the_scope_is_refused(
    live: Live, keys_without: dict[Scope, str], method: str, path: str, scope: Scope
) -> None:
    reply = send(live, method, path, keys_without[scope])
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "missing_scope"
    assert str(scope) in reply.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path", "scope"), [route for route in GUARDED if route[2] is not Scope.ADMIN])
def test_an_admin_key_opens_no_projects_route(live: Live, admin_key: str, method: str, path: str, scope: Scope) -> None:
    assert (send(live, method, path, admin_key).status_code == 403) != bool(FOR_BOTH.match(path))


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
def test_what_changes_something_asks_for_more_than_reading(method: str, path: str, scope: Scope) -> None:
    if method not in READING:
        assert not scope.endswith(":read")
    elif scope is not Scope.ADMIN:
        assert scope.endswith(":read")


def test_a_key_with_one_scope_is_let_in_there(live: Live) -> None:
    key = new_key(Scope.MODELS_READ)
    assert send(live, "GET", "/v1/models", key).status_code == 200
    assert send(live, "GET", "/v1/files", key).status_code == 403


def unguarded() -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/open")
    def route() -> None: ...

    return app


def mounted() -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.mount("/inside", FastAPI())
    return app


@pytest.mark.parametrize("build", [unguarded, mounted])
def test_an_application_with_an_unguarded_route_does_not_start(build: Any) -> None:
    with pytest.raises(RuntimeError, match="scope"):
        check_guarded(build(), frozenset())
    check_guarded(build(), frozenset({"/open", "/inside"}))
