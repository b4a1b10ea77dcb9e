"""Projects, keys and limits through the administrator's routes, and what they let in and refuse."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from live_server import Live
from openai import OpenAI

from app.auth.scopes import PROJECT_SCOPES

ORGANIZATION = "/v1/organization"
NewProject = Callable[[], str]


def error(reply: httpx.Response) -> dict[str, Any]:
    return reply.json()["error"]


def new_key(admin: httpx.Client, project: str, **body: Any) -> dict[str, Any]:
    reply = admin.post(f"{ORGANIZATION}/projects/{project}/api_keys", json={"name": "ci", **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def status(live: Live, key: str, path: str = "/v1/files") -> int:
    return httpx.get(live.url + path, headers={"Authorization": f"Bearer {key}"}).status_code


def wait_until_refused(live: Live, key: str) -> None:
    """A key may work for as long as the cache keeps it."""
    deadline = time.monotonic() + 30
    while status(live, key) != 401:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def forgetful(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key is cached."""
    monkeypatch.setattr("app.auth.deps.KeyCache.SECONDS", 0.0)
    live.app.state.keys._callers.clear()


def test_openais_client_in_strict_mode(live: Live, admin: httpx.Client) -> None:
    key = admin.headers["Authorization"].removeprefix("Bearer ")
    with OpenAI(
        base_url=f"{live.url}/v1", api_key=key, admin_api_key=key, max_retries=0, _strict_response_validation=True
    ) as openai:
        organization = openai.admin.organization
        project = organization.projects.create(name="strict")
        assert organization.projects.retrieve(project.id).status == "active"
        assert organization.projects.update(project.id, name="stricter").name == "stricter"
        assert project.id in [row.id for row in organization.projects.list(limit=2)]
        body = {"name": "ci", "scopes": ["files:read"]}
        made: Any = openai.post(f"/organization/projects/{project.id}/api_keys", cast_to=object, body=body)
        keys = organization.projects.api_keys
        assert [row.id for row in keys.list(project.id)] == [made["id"]]
        assert keys.retrieve(made["id"], project_id=project.id).redacted_value != made["value"]
        keys.update(made["id"], project_id=project.id, scopes=["jobs:read"], expires_in_seconds=3600)
        assert keys.delete(made["id"], project_id=project.id).deleted
        root = organization.admin_api_keys.create(name="second", expires_in_seconds=600)
        assert root.id in [row.id for row in organization.admin_api_keys.list(order="asc")]
        assert organization.admin_api_keys.retrieve(root.id).name == "second"
        assert organization.admin_api_keys.delete(root.id).deleted
        assert organization.projects.archive(project.id).status == "archived"
        assert project.id not in [row.id for row in organization.projects.list()]
        assert project.id in [row.id for row in organization.projects.list(include_archived=True)]
        seen = [entry.type for entry in organization.audit_logs.list(resource_ids=[project.id])]
        assert seen == ["project.archived", "project.updated", "project.created"]


def test_a_new_key_opens_its_project_with_its_scopes(live: Live, admin: httpx.Client, new_project: NewProject) -> None:
    reader = new_key(admin, new_project(), scopes=["files:read"])
    assert reader["scopes"] == ["files:read"]
    assert status(live, reader["value"]) == 200
    assert status(live, reader["value"], "/v1/models") == 403
    whole = new_key(admin, new_project())
    assert whole["scopes"] == sorted(PROJECT_SCOPES)
    listed = admin.get(f"{ORGANIZATION}/projects/{reader['owner']['service_account']['id']}/api_keys")
    assert listed.status_code == 404


@pytest.mark.usefixtures("forgetful")
def test_changing_and_revoking_a_key(live: Live, admin: httpx.Client, new_project: NewProject) -> None:
    project = new_project()
    key = new_key(admin, project, scopes=["files:read"])
    path = f"{ORGANIZATION}/projects/{project}/api_keys/{key['id']}"
    changed = admin.post(path, json={"scopes": ["jobs:read"], "expires_in_seconds": 60}).json()
    assert changed["scopes"] == ["jobs:read"]
    assert 0 < changed["expires_at"] - changed["created_at"] <= 120
    assert status(live, key["value"]) == 403
    assert admin.post(path, json={"scopes": []}).json()["scopes"] == sorted(PROJECT_SCOPES)
    assert admin.delete(path).json() == {
        "id": key["id"],
        "object": "organization.project.api_key.deleted",
        "deleted": True,
    }
    assert status(live, key["value"]) == 401
    assert admin.get(path).status_code == admin.delete(path).status_code == 404


def test_the_key_is_in_no_reply_but_the_first(live: Live, admin: httpx.Client, new_project: NewProject) -> None:
    project = new_project()
    key = new_key(admin, project)
    root = admin.post(f"{ORGANIZATION}/admin_api_keys", json={"name": "x"}).json()
    pages = [
        admin.get(f"{ORGANIZATION}/{path}").text
        for path in (f"projects/{project}/api_keys", f"projects/{project}/api_keys/{key['id']}", "admin_api_keys",
                     f"admin_api_keys/{root['id']}", "audit_logs?limit=100")
    ]  # fmt: skip
    for secret in (key["value"].split("_")[2], root["value"].split("_")[2]):
        assert not [page for page in pages if secret in page]


@pytest.mark.usefixtures("forgetful")
def test_an_archived_project_is_closed(live: Live, admin: httpx.Client, new_project: NewProject) -> None:
    project = new_project()
    key = new_key(admin, project)
    path = f"{ORGANIZATION}/projects/{project}"
    assert admin.post(f"{path}/archive").json()["status"] == "archived"
    assert status(live, key["value"]) == 401
    for changed, body in (
        (path, {"name": "x"}),
        (f"{path}/archive", None),
        (f"{path}/limits", {}),
        (f"{path}/api_keys", {"name": "x"}),
    ):
        assert admin.post(changed, json=body).status_code == 400
    assert admin.get(path).json()["archived_at"] is not None


def test_a_name_is_taken_once(admin: httpx.Client, new_project: NewProject) -> None:
    name = admin.get(f"{ORGANIZATION}/projects/{new_project()}").json()["name"]
    assert error(admin.post(f"{ORGANIZATION}/projects", json={"name": name}))["param"] == "name"
    assert error(admin.post(f"{ORGANIZATION}/projects/{new_project()}", json={"name": name}))["param"] == "name"


def test_race_for_a_name(admin: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(
            pool.map(lambda _: admin.post(f"{ORGANIZATION}/projects", json={"name": "raced"}).status_code, range(8))
        )
    assert sorted(replies) == [200] + [400] * 7


def test_pages(admin: httpx.Client, new_project: NewProject) -> None:
    made = [new_project() for _ in range(3)][::-1]
    first = admin.get(f"{ORGANIZATION}/projects", params={"limit": 2}).json()
    assert [row["id"] for row in first["data"]] == made[:2]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (made[0], made[1], True)
    second = admin.get(f"{ORGANIZATION}/projects", params={"limit": 1, "after": made[1]}).json()
    assert [row["id"] for row in second["data"]] == made[2:]
    assert error(admin.get(f"{ORGANIZATION}/projects", params={"after": "proj_none"}))["param"] == "after"


BIG = 2**63
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("projects", {}, "name"),
    ("projects", {"name": ""}, "name"),
    ("projects", {"name": "a\nb"}, "name"),
    ("projects", {"name": " a"}, "name"),
    ("projects", {"name": "x" * 257}, "name"),
    ("projects", {"name": 5}, "name"),
    ("projects", {"name": "x", "geography": "EU"}, "geography"),
    ("admin_api_keys", {"name": "x", "expires_in_seconds": 59}, "expires_in_seconds"),
    ("admin_api_keys", {"name": "x", "expires_in_seconds": BIG - 1}, "expires_in_seconds"),
    ("admin_api_keys", {"name": "x", "expires_in_seconds": 60.5}, "expires_in_seconds"),
    ("admin_api_keys", {"name": "a\u202eb"}, "name"),
    ("P/api_keys", {"name": "x", "scopes": ["admin"]}, "scopes"),
    ("P/api_keys", {"name": "x", "scopes": ["files"]}, "scopes"),
    ("P/api_keys", {"name": "x", "scopes": ["x"] * 33}, "scopes"),
    ("P/limits", {"requests_per_minute": -1}, "requests_per_minute"),
    ("P/limits", {"requests_per_minute": 200_001}, "requests_per_minute"),
    ("P/limits", {"quota_running_jobs": 2**31}, "quota_running_jobs"),
    ("P/limits", {"quota_storage_bytes": -1}, "quota_storage_bytes"),
    ("P/limits", {"quota_storage_bytes": True}, "quota_storage_bytes"),
    ("P/limits", {"quota_monthly_tokens": 1e3}, "quota_monthly_tokens"),
    ("P/limits", {"other": 1}, "other"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD, ids=range(len(BAD)))
def test_bad_bodies(admin: httpx.Client, new_project: NewProject, path: str, body: Any, param: str) -> None:
    before = admin.get(f"{ORGANIZATION}/audit_logs").json()["first_id"]
    whole = path.replace("P", f"projects/{new_project()}")
    reply = admin.post(f"{ORGANIZATION}/{whole}", json=body)
    assert reply.status_code == 400
    assert error(reply)["param"] == param
    newest = admin.get(f"{ORGANIZATION}/audit_logs").json()["data"][0]
    assert newest["id"] == before or newest["type"] == "project.created"


def test_a_number_beyond_a_bigint_is_no_crash(admin: httpx.Client, new_project: NewProject) -> None:
    body = f'{{"quota_storage_bytes": {BIG}}}'
    reply = admin.post(
        f"{ORGANIZATION}/projects/{new_project()}/limits", content=body, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 400
    path = f"{ORGANIZATION}/projects/{new_project()}/limits"
    reply = admin.post(path, json={"quota_storage_bytes": BIG - 1, "quota_monthly_tokens": BIG - 1})
    assert reply.json()["own"]["quota_storage_bytes"] == BIG - 1


def test_limits_are_the_servers_until_the_project_has_its_own(
    live: Live, admin: httpx.Client, new_project: NewProject
) -> None:
    path = f"{ORGANIZATION}/projects/{new_project()}/limits"
    before = admin.get(path).json()
    assert before["own"] == dict.fromkeys(before["own"])
    assert before["effective"]["quota_waiting_jobs"] == live.app.state.settings.quota_waiting_jobs
    after = admin.post(path, json={"quota_waiting_jobs": 0, "quota_running_jobs": 2}).json()
    assert after["own"] | {"quota_waiting_jobs": 0, "quota_running_jobs": 2} == after["own"]
    assert after["effective"]["quota_waiting_jobs"] == 0
    back = admin.post(path, json={"quota_waiting_jobs": None}).json()
    assert back["effective"]["quota_waiting_jobs"] == live.app.state.settings.quota_waiting_jobs
    assert back["own"]["quota_running_jobs"] == 2


def test_limits_bound_the_project_and_show_what_is_used(
    live: Live, admin: httpx.Client, new_project: NewProject
) -> None:
    project = new_project()
    key = new_key(admin, project)["value"]
    path = f"{ORGANIZATION}/projects/{project}/limits"
    admin.post(path, json={"quota_storage_bytes": 8, "quota_waiting_jobs": 1})
    with httpx.Client(base_url=live.url, headers={"Authorization": f"Bearer {key}"}) as http:
        stored = [
            http.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", b"12345")}) for _ in range(2)
        ]
        assert [reply.status_code for reply in stored] == [200, 429]
        assert error(stored[1])["code"] == error(stored[1])["type"] == "insufficient_quota"
        assert stored[1].headers["x-should-retry"] == "false"
        assert int(stored[1].headers["retry-after"]) >= 1
        assert len(http.get("/v1/files").json()["data"]) == 1
        assert len(list(live.store.keys(f"projects/{project}/"))) == 1
        admin.post(path, json={"quota_storage_bytes": 0})
        line = b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'
        file = http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": line}).json()["id"]
        body = {"model": "tiny-chat", "training_file": file}
        made = [http.post("/v1/fine_tuning/jobs", json=body) for _ in range(2)]
        assert [reply.status_code for reply in made] == [200, 429]
        assert error(made[1])["code"] == "rate_limit_exceeded"
        assert made[1].headers["x-should-retry"] == "false"
    assert admin.get(path).json()["used"] == {
        "storage_bytes": 5 + len(line),
        "running_jobs": 0,
        "waiting_jobs": 1,
        "monthly_tokens": 0,
    }


def routes_with(project: str, key: str, root: str) -> list[tuple[str, str, dict[str, Any] | None]]:
    """Every route that names something of an organisation's."""
    one = f"{ORGANIZATION}/projects/{project}"
    return [
        ("GET", one, None),
        ("POST", one, {"name": "stolen"}),
        ("POST", f"{one}/archive", None),
        ("GET", f"{one}/limits", None),
        ("POST", f"{one}/limits", {"quota_waiting_jobs": 1}),
        ("GET", f"{one}/api_keys", None),
        ("POST", f"{one}/api_keys", {"name": "stolen"}),
        ("GET", f"{one}/api_keys/{key}", None),
        ("POST", f"{one}/api_keys/{key}", {"scopes": []}),
        ("DELETE", f"{one}/api_keys/{key}", None),
        ("GET", f"{ORGANIZATION}/admin_api_keys/{root}", None),
        ("DELETE", f"{ORGANIZATION}/admin_api_keys/{root}", None),
    ]


def test_another_organisations_ids_answer_as_random_ones(
    admin: httpx.Client, other_admin: httpx.Client, new_project: NewProject
) -> None:
    project = new_project()
    key = new_key(admin, project)["id"]
    root = admin.post(f"{ORGANIZATION}/admin_api_keys", json={"name": "x"}).json()["id"]
    random = ("proj_" + "x" * (len(project) - 5), "key_" + "x" * (len(key) - 4), "key_" + "y" * (len(root) - 4))
    pairs = zip(routes_with(project, key, root), routes_with(*random), strict=True)
    for (method, foreign, body), (_, unknown, _) in pairs:
        replies = [other_admin.request(method, path, json=body) for path in (foreign, unknown)]
        assert [reply.status_code for reply in replies] == [404, 404], foreign
        texts = [reply.text for reply in replies]
        for theirs, nobodys in zip((project, key, root), random, strict=True):
            texts[0] = texts[0].replace(theirs, nobodys)
        assert texts[0] == texts[1]
    for path in ("projects", "admin_api_keys", "audit_logs"):
        text = other_admin.get(f"{ORGANIZATION}/{path}", params={"limit": 100}).text
        assert not [ours for ours in (project, key, root) if ours in text]
        assert other_admin.get(f"{ORGANIZATION}/{path}", params={"after": project}).status_code == 400
