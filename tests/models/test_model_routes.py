"""`/v1/models` over HTTP: names in every encoding, whose they are, and what deleting does."""

from typing import Any

import pytest


def publish(live: Any) -> str:
    reply = live.http.post(
        "/v1/fine_tuning/jobs", json={"model": "tiny-chat", "training_file": live.training_file, "suffix": "x"}
    )
    return live.publish(reply.json()["id"])


def test_a_base_model(live: Any) -> None:
    model = live.http.get("/v1/models/tiny-chat").json()
    assert model == {"id": "tiny-chat", "object": "model", "created": 0, "owned_by": "system"}


def test_an_alias_reads_as_its_model(live: Any) -> None:
    assert live.http.get("/v1/models/gpt-4o-mini-2024-07-18").json()["id"] == "tiny-chat"


@pytest.mark.parametrize("colon", [":", "%3A", "%3a"])
def test_a_tuned_model_by_its_name(colon: str, live: Any) -> None:
    name = publish(live)
    model = live.http.get(f"/v1/models/{name.replace(':', colon)}").json()
    assert isinstance(model.pop("created"), int)
    assert model == {"id": name, "object": "model", "owned_by": live.organization_id}


UNKNOWN = ["gpt-9", "ft:tiny-chat:a::00000000", "a%2Fb", "a/b", "%00", "ft:%00", "%C3%A9", "%ff", "a b", "x" * 5000]


@pytest.mark.parametrize(
    ("method", "name"),
    [("GET", "not-here"), *((method, name) for method in ("GET", "DELETE") for name in UNKNOWN)],
    ids=lambda value: value[:30],
)
def test_unknown_models(method: str, name: str, live: Any) -> None:
    reply = live.http.request(method, f"/v1/models/{name}")
    assert reply.status_code == 404
    assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize("name", ["tiny-chat", "not-here", "gpt-4o-mini-2024-07-18"])
def test_base_models_cannot_be_deleted(name: str, live: Any) -> None:
    reply = live.http.delete(f"/v1/models/{name}")
    assert reply.status_code == 403
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_delete_and_gone(live: Any) -> None:
    name = publish(live)
    assert live.http.delete(f"/v1/models/{name}").json() == {"id": name, "object": "model", "deleted": True}
    assert live.http.delete(f"/v1/models/{name}").status_code == 404
    assert live.http.get(f"/v1/models/{name}").status_code == 404
    assert name not in [model["id"] for model in live.http.get("/v1/models").json()["data"]]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_another_projects_model_reads_like_an_unknown_one(method: str, live: Any) -> None:
    name = publish(live)
    nobodys = "ft:tiny-chat:nobody:x:00000000"
    theirs = live.stranger.request(method, f"/v1/models/{name}")
    random = live.stranger.request(method, f"/v1/models/{nobodys}")
    assert theirs.status_code == random.status_code == 404
    assert theirs.content.replace(name.encode(), nobodys.encode()) == random.content
    assert live.http.get(f"/v1/models/{name}").status_code == 200
    assert name not in [model["id"] for model in live.stranger.get("/v1/models").json()["data"]]


def test_the_list_has_no_paging(live: Any) -> None:
    assert live.http.get("/v1/models").json().keys() == {"object", "data"}
