"""Every change leaves an entry with who, from where, and the request; nothing else does; entries stay as they are."""

from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from live_server import Live

from app import db
from app.audit import service as audit
from app.audit.actions import Action
from app.audit.service import Operator, Origin
from app.audit.tables import AuditEntry
from app.auth import service as auth


def entries(target: str) -> list[AuditEntry]:
    with db.reading() as session:
        return list(session.scalars(sa.select(AuditEntry).where(AuditEntry.target == target).order_by(AuditEntry.seq)))


def actions(target: str) -> list[str]:
    return [entry.action for entry in entries(target)]


def count() -> int:
    with db.reading() as session:
        return session.scalars(sa.select(sa.func.count()).select_from(AuditEntry)).one()


def upload(live: Live) -> str:
    reply = live.http.post(
        "/v1/files", data={"purpose": "user_data"}, files={"file": ("a.txt", b"hello")}, headers={"User-Agent": "t/1"}
    )
    assert reply.status_code == 200
    (entry,) = entries(reply.json()["id"])
    assert entry.request_id == reply.headers["x-request-id"]
    return reply.json()["id"]


def new_job(live: Live) -> str:
    return live.http.post(
        "/v1/fine_tuning/jobs", json={"model": "tiny-chat", "training_file": live.training_file}
    ).json()["id"]


def test_an_entry_says_who_what_where_and_in_which_request(live: Live) -> None:
    file_id = upload(live)
    (entry,) = entries(file_id)
    assert entry.action == "file.created"
    assert (entry.organization_id, entry.project_id) == (live.organization_id, live.caller.project_id)
    assert entry.key_id == live.caller.key_id
    assert (entry.ip_address, entry.user_agent) == ("127.0.0.1", "t/1")
    assert entry.details == {"bytes": 5}
    live.http.delete(f"/v1/files/{file_id}")
    assert actions(file_id) == ["file.created", "file.deleted"]


def test_a_jobs_changes_are_written_down(live: Live) -> None:
    job_id = new_job(live)
    live.move(job_id, "queued")
    for change in ("pause", "resume", "cancel"):
        assert live.http.post(f"/v1/fine_tuning/jobs/{job_id}/{change}").status_code == 200
    words = ["created", "paused", "resumed", "cancelled"]
    assert actions(job_id) == [f"fine_tuning.job.{word}" for word in words]


def test_a_permission_is_written_down_when_it_changes_something(live: Live) -> None:
    with db.transaction() as session:
        key = auth.create_key(session, organization="acme", project="beside").value
        beside = auth.authenticate(session, key).project_id
    job_id = new_job(live)
    live.resolve(job_id)
    name = live.publish(job_id)
    path = f"/v1/fine_tuning/checkpoints/{name}/permissions"
    (granted,) = live.http.post(path, json={"project_ids": [beside]}).json()["data"]
    live.http.post(path, json={"project_ids": [beside, beside]})
    assert live.http.delete(f"{path}/{granted['id']}").status_code == 200
    assert live.http.delete(f"{path}/{granted['id']}").status_code == 404
    assert actions(granted["id"]) == ["checkpoint.permission.created", "checkpoint.permission.deleted"]
    expected = {"fine_tuned_model_checkpoint": name, "project_id": beside}
    assert [entry.details for entry in entries(granted["id"])] == [expected, expected]
    live.http.delete(f"/v1/models/{name}")
    assert actions(name) == ["model.deleted"]


def refused(live: Live) -> list[httpx.Response]:
    body: dict[str, Any] = {"model": "nothing", "training_file": live.training_file}
    return [
        live.http.post("/v1/fine_tuning/jobs", json=body),
        live.http.post("/v1/fine_tuning/jobs/ftjob-none/cancel"),
        live.http.delete("/v1/files/file-none"),
        live.http.delete("/v1/models/tiny-chat"),
        live.stranger.post(f"/v1/fine_tuning/jobs/{live.job}/cancel"),
        live.stranger.delete(f"/v1/files/{live.training_file}"),
    ]


def test_what_was_refused_or_only_read_leaves_no_entry(live: Live) -> None:
    before = count()
    assert {reply.status_code for reply in refused(live)} <= {400, 403, 404}
    for path in ("files", "models", "fine_tuning/jobs", f"fine_tuning/jobs/{live.job}/events"):
        assert live.http.get(f"/v1/{path}").status_code == 200
    assert count() == before


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_log SET target = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"],
)
def test_the_log_is_append_only(live: Live, statement: str) -> None:
    upload(live)
    before = count()
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), db.transaction() as session:
        session.execute(sa.text(statement))
    assert count() == before


def test_what_a_client_says_of_itself_is_cut_and_cleaned(live: Live) -> None:
    origin = Origin(ip_address="1.2.3.4", user_agent="a\x00b\x1b\ud800" + "x" * 1000, account="root")
    with db.transaction() as session:
        audit.record(session, Operator("org-x", origin), Action.KEY_CREATED, "key_x")
    (entry,) = entries("key_x")
    assert entry.user_agent == "ab" + "x" * 254
    assert (entry.key_id, entry.account) == (None, "root")
