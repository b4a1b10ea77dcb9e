"""Every moment that is told is a whole number of seconds of 64 bits: after 2038-01-19, too."""

import io
import json
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from live_server import Live
from openai import OpenAI

from app import db
from app.auth import service as auth
from app.auth.scopes import Scope
from app.webhooks import signing

YEARS = 30
LAST_OF_32_BITS = 2**31 - 1
LATEST = 4_102_444_800  # the year 2100
SECRET = signing.new_secret()


@pytest.fixture(scope="module")
def names(live: Live) -> dict[str, str]:
    """One of everything, all of it thirty years later than it was made."""
    form = {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = live.http.post("/v1/files", data=form, files={"file": ("a.jsonl", b'{"a": 1}\n')})
    upload = live.http.post(
        "/v1/uploads",
        json={"purpose": "fine-tune", "filename": "a.jsonl", "bytes": 9, "mime_type": "application/jsonl"},
    )
    endpoint = live.http.post(
        "/v1/webhook_endpoints",
        json={"name": "x", "url": "http://127.0.0.1:9/", "event_types": ["fine_tuning.job.succeeded"]},
    )
    body = {"model": "tiny-chat", "training_file": live.training_file}
    job = live.http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    live.append_steps(job, 3)
    model = live.publish(job, (2, 4))
    for reply in (file, upload, endpoint):
        assert reply.status_code == 200, reply.text
    with db.transaction() as session:
        admin = auth.create_key(session, organization="acme", scopes=[Scope.ADMIN], name="root").value
        _later(session)
    return {
        "file": file.json()["id"],
        "upload": upload.json()["id"],
        "endpoint": endpoint.json()["id"],
        "job": job,
        "model": model,
        "admin": admin,
    }


def _later(session: db.Session) -> None:
    session.execute(sa.text("ALTER TABLE audit_log DISABLE TRIGGER append_only"))
    for table in db.Base.metadata.sorted_tables:
        moments = [column.name for column in table.columns if isinstance(column.type, sa.DateTime)]
        changes = ", ".join(f"{name} = {name} + make_interval(years => {YEARS})" for name in moments)
        if changes:
            session.execute(sa.text(f"UPDATE {table.name} SET {changes}"))
    session.execute(sa.text("ALTER TABLE audit_log ENABLE TRIGGER append_only"))


def moments(told: Any) -> Iterator[tuple[str, int]]:
    """Every member of a reply that is a moment."""
    if isinstance(told, list):
        for one in told:
            yield from moments(one)
    elif isinstance(told, dict):
        for name, value in told.items():
            if name.endswith(("_at", "_time")) or name == "created":
                yield from [(name, value)] if value is not None else ()
            else:
                yield from moments(value)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/files/{file}", {"created_at", "expires_at"}),
        ("/v1/files", {"created_at", "expires_at"}),
        ("/v1/fine_tuning/jobs", {"created_at", "finished_at"}),
        ("/v1/fine_tuning/jobs/{job}", {"created_at", "finished_at"}),
        ("/v1/fine_tuning/jobs/{job}/events", {"created_at"}),
        ("/v1/fine_tuning/jobs/{job}/checkpoints", {"created_at"}),
        ("/v1/models/{model}", {"created"}),
        ("/v1/webhook_endpoints", {"created_at", "updated_at"}),
    ],
)
def test_what_a_project_is_told(live: Live, names: dict[str, str], path: str, expected: set[str]) -> None:
    told = dict(moments(live.http.get(path.format(**names)).json()))
    assert told.keys() >= expected
    assert {name: value for name, value in told.items() if not _is_late(value)} == {}


def test_what_an_upload_tells(live: Live, names: dict[str, str]) -> None:
    reply = live.http.post(f"/v1/uploads/{names['upload']}/cancel")
    assert reply.status_code == 200, reply.text
    told = dict(moments(reply.json()))
    assert told.keys() >= {"created_at", "expires_at"}
    assert all(_is_late(value) for value in told.values())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("projects", {"created_at"}),
        ("admin_api_keys", {"created_at", "last_used_at"}),
        ("audit_logs", {"effective_at"}),
        (f"audit_logs?effective_at[gt]={LAST_OF_32_BITS}", {"effective_at"}),
        (f"usage/fine_tuning?start_time={LAST_OF_32_BITS}&limit=1", {"start_time", "end_time"}),
    ],
)
def test_what_an_administrator_is_told(
    live: Live, names: dict[str, str], path: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of this process is as late as the rows: usage goes up to now."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + YEARS * 365 * 86400)
    reply = httpx.get(f"{live.url}/v1/organization/{path}", headers={"Authorization": f"Bearer {names['admin']}"})
    assert reply.status_code == 200, reply.text
    told = list(moments(reply.json()))
    assert {name for name, _ in told} >= expected
    assert max(value for _, value in told) > LAST_OF_32_BITS


def test_a_stream_of_events(live: Live, names: dict[str, str]) -> None:
    reply = live.http.get(f"/v1/fine_tuning/jobs/{names['job']}/events?stream=true")
    data = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
    assert data
    assert all(_is_late(json.loads(event)["created_at"]) for event in data)


def test_an_archive(live: Live, names: dict[str, str]) -> None:
    reply = live.http.get(f"/v1/fine_tuning/jobs/{names['job']}/adapter")
    with tarfile.open(fileobj=io.BytesIO(reply.content)) as archive:
        assert all(_is_late(int(member.mtime)) for member in archive.getmembers())


def test_the_signature_of_a_webhook(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's own client believes it, at that time."""
    late = LAST_OF_32_BITS + 86400
    body = json.dumps({"id": "evt_1", "created_at": late}).encode()
    headers = signing.headers([SECRET], webhook_id="wh_1", timestamp=late, body=body)
    monkeypatch.setattr(time, "time", lambda: late + 1.0)
    with OpenAI(api_key="none", base_url=live.url, webhook_secret=SECRET) as client:
        client.webhooks.verify_signature(body, headers)


def _is_late(value: int) -> bool:
    return isinstance(value, int) and LAST_OF_32_BITS < value < LATEST
