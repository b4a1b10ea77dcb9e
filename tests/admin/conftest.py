"""The running application, and administrators of its two organisations."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from live_server import Live, live

from app import db, ids
from app.auth import service as auth
from app.auth.scopes import Scope

__all__ = ["live"]


def admin_key(organization: str) -> str:
    with db.transaction() as session:
        return auth.create_key(session, organization=organization, scopes=[Scope.ADMIN], name="root").value


def client(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
def admin(live: Live) -> Iterator[httpx.Client]:
    with client(live.url, admin_key("acme")) as http:
        yield http


@pytest.fixture
def other_admin(live: Live) -> Iterator[httpx.Client]:
    with client(live.url, admin_key("other")) as http:
        yield http


@pytest.fixture
def new_project(admin: httpx.Client) -> Callable[[], str]:
    """Makes a project and gives its id."""

    def new_project() -> str:
        reply = admin.post("/v1/organization/projects", json={"name": ids.new("p")})
        assert reply.status_code == 200, reply.text
        return reply.json()["id"]

    return new_project
