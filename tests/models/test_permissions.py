"""Checkpoint permissions: whom they let in, what they allow, and what they do not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from live_server import Live
from openai import OpenAI

from app import db
from app.auth import service as auth
from app.auth.scopes import Scope


@dataclass
class Neighbour:
    """Another project of the same organisation."""

    project_id: str
    http: httpx.Client
    file: str


@pytest.fixture
def neighbour(live: Live) -> Iterator[Neighbour]:
    with db.transaction() as session:
        key = auth.create_key(session, organization="acme", project="second").value
        project_id = auth.authenticate(session, key).project_id
    with httpx.Client(base_url=live.url, headers={"Authorization": f"Bearer {key}"}) as client:
        line = b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'
        file = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": line * 10}).json()["id"]
        yield Neighbour(project_id, client, file)


@pytest.fixture
def model(live: Live) -> str:
    body = {"model": "tiny-chat", "training_file": live.training_file}
    return live.publish(live.http.post("/v1/fine_tuning/jobs", json=body).json()["id"])


def path(model: str) -> str:
    return f"/v1/fine_tuning/checkpoints/{model}/permissions"


def grant(live: Live, model: str, *project_ids: str) -> list[dict[str, Any]]:
    reply = live.http.post(path(model), json={"project_ids": list(project_ids)})
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]


def test_a_permission_lets_a_project_see_and_train_on_the_model(live: Live, neighbour: Neighbour, model: str) -> None:
    body = {"model": model, "training_file": neighbour.file}
    assert neighbour.http.post("/v1/fine_tuning/jobs", json=body).status_code == 400
    assert neighbour.http.get(f"/v1/models/{model}").status_code == 404
    (permission,) = grant(live, model, neighbour.project_id)
    assert permission["project_id"] == neighbour.project_id
    assert neighbour.http.get(f"/v1/models/{model}").json()["id"] == model
    assert model in [listed["id"] for listed in neighbour.http.get("/v1/models").json()["data"]]
    assert neighbour.http.post("/v1/fine_tuning/jobs", json=body).json()["model"] == model


def test_a_permission_allows_use_and_no_more(live: Live, neighbour: Neighbour, model: str) -> None:
    grant(live, model, neighbour.project_id)
    for method, where in [("DELETE", f"/v1/models/{model}"), ("GET", path(model)), ("POST", path(model))]:
        reply = neighbour.http.request(method, where, json={"project_ids": ["x"]} if method == "POST" else None)
        assert (reply.status_code, reply.json()["error"]["param"]) == (403, "model"), where
    assert live.http.get(f"/v1/models/{model}").status_code == 200


def test_a_revoked_permission_hides_the_model_again(live: Live, neighbour: Neighbour, model: str) -> None:
    (permission,) = grant(live, model, neighbour.project_id)
    gone = live.http.delete(f"{path(model)}/{permission['id']}")
    assert gone.json() == {"id": permission["id"], "object": "checkpoint.permission", "deleted": True}
    assert neighbour.http.get(f"/v1/models/{model}").status_code == 404
    assert live.http.delete(f"{path(model)}/{permission['id']}").status_code == 404


def test_granting_twice_is_granting_once(live: Live, neighbour: Neighbour, model: str) -> None:
    first = grant(live, model, neighbour.project_id, neighbour.project_id)
    assert len(first) == 1
    assert grant(live, model, neighbour.project_id) == first
    assert live.http.get(path(model)).json()["data"] == first


def test_pages_of_permissions(live: Live, neighbour: Neighbour, model: str) -> None:
    older, newer = grant(live, model, live.caller.project_id) + grant(live, model, neighbour.project_id)
    first = live.http.get(path(model), params={"limit": 1}).json()
    assert (first["data"], first["has_more"], first["last_id"]) == ([newer], True, newer["id"])
    rest = live.http.get(path(model), params={"limit": 1, "after": newer["id"]}).json()
    assert (rest["data"], rest["has_more"]) == ([older], False)
    assert live.http.get(path(model), params={"order": "ascending"}).json()["data"] == [older, newer]
    only = live.http.get(path(model), params={"project_id": neighbour.project_id}).json()
    assert only["data"] == [newer]
    assert live.http.get(path(model), params={"project_id": "proj_no"}).json()["first_id"] is None
    for query in ({"order": "asc"}, {"after": "cp_no"}, {"limit": "-1"}):
        assert live.http.get(path(model), params=query).status_code == 400, query


@pytest.mark.parametrize("projects", [[], ["proj_no"], ["\u0000"], "proj_no", None, [1], ["proj_no"] * 101])
def test_bad_project_ids(live: Live, model: str, projects: Any) -> None:
    reply = live.http.post(path(model), json={"project_ids": projects})
    assert reply.status_code == 400
    assert (reply.json()["error"]["param"] or "").startswith("project_ids") or projects == ["\u0000"]


def test_another_organisation_gets_nothing(live: Live, neighbour: Neighbour, model: str) -> None:
    with db.transaction() as session:
        theirs = auth.create_key(session, organization="other", project="third").value
        foreign = auth.authenticate(session, theirs).project_id
    reply = live.http.post(path(model), json={"project_ids": [neighbour.project_id, foreign]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "project_ids")
    assert live.http.get(path(model)).json()["data"] == []
    for method in ("GET", "POST"):
        body = {"project_ids": ["x"]} if method == "POST" else None
        known = live.stranger.request(method, path(model), json=body)
        random = live.stranger.request(method, path("ft:tiny-chat:x::00000000"), json=body)
        assert known.status_code == random.status_code == 404
        assert known.content.replace(model.encode(), b"ft:tiny-chat:x::00000000") == random.content


def admin_of(live: Live, organization: str) -> httpx.Client:
    with db.transaction() as session:
        key = auth.create_key(session, organization=organization, scopes=[Scope.ADMIN]).value
    return httpx.Client(base_url=live.url, headers={"Authorization": f"Bearer {key}"})


def test_an_administrator_governs_the_permissions_of_every_project(
    live: Live, neighbour: Neighbour, model: str
) -> None:
    with admin_of(live, "acme") as admin:
        made = admin.post(path(model), json={"project_ids": [neighbour.project_id]}).json()["data"]
        assert admin.get(path(model)).json()["data"] == made == live.http.get(path(model)).json()["data"]
        assert neighbour.http.get(f"/v1/models/{model}").status_code == 200
        assert admin.delete(f"{path(model)}/{made[0]['id']}").json()["deleted"]
        assert neighbour.http.get(f"/v1/models/{model}").status_code == 404
        assert admin.get(f"/v1/models/{model}").status_code == 403
        live.http.delete(f"/v1/models/{model}")
        assert admin.get(path(model)).status_code == 404


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_administrator_of_another_organisation_gets_nothing(
    live: Live, neighbour: Neighbour, model: str, method: str
) -> None:
    (permission,) = grant(live, model, neighbour.project_id)
    body = {"project_ids": [neighbour.project_id]} if method == "POST" else None
    with admin_of(live, "other") as admin:
        end = f"/{permission['id']}" if method == "DELETE" else ""
        known = admin.request(method, path(model) + end, json=body)
        random = admin.request(method, path("ft:tiny-chat:x::00000000") + end, json=body)
    assert known.status_code == random.status_code == 404
    assert known.content.replace(model.encode(), b"ft:tiny-chat:x::00000000") == random.content
    assert live.http.get(path(model)).json()["data"] == [permission]


def test_the_client(live: Live, neighbour: Neighbour, model: str) -> None:
    with OpenAI(base_url=f"{live.url}/v1", api_key=live.key, _strict_response_validation=True) as client:
        permissions = client.fine_tuning.checkpoints.permissions
        (made,) = permissions.create(model, project_ids=[neighbour.project_id])
        assert made.object == "checkpoint.permission"
        assert [row.id for row in permissions.list(model, limit=1)] == [made.id]
        assert permissions.delete(made.id, fine_tuned_model_checkpoint=model).deleted
