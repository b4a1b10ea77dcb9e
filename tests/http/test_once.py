"""A POST sent twice is carried out once: by key, by retry count, in races, after crashes, and never across tenants."""

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlparse

import httpx
import openai
import pytest
import sqlalchemy as sa
from live_server import Live

from app import db, idempotency, ids
from app.auth import service as auth
from app.auth.scopes import PROJECT_SCOPES
from app.idempotency import Attempt, IdempotencyRow, StillRunning
from worker import sweeps

JOBS = "/v1/fine_tuning/jobs"
LINE = b'{"prompt": "a", "completion": "b"}\n'
RETRY = {"x-stainless-retry-count": "1"}


def new_key() -> str:
    return ids.new("key ", 12)


def post(live: Live, headers: dict[str, str] | None = None, client: httpx.Client | None = None, **changes: Any) -> Any:
    body = {"model": "tiny-chat", "training_file": live.training_file} | changes
    return (client or live.http).post(JOBS, json=body, headers=headers or {})


def upload(live: Live, data: bytes, headers: dict[str, str], name: str = "t.jsonl") -> httpx.Response:
    return live.http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (name, data)}, headers=headers)


def code(reply: httpx.Response, status: int = 400) -> str:
    assert reply.status_code == status, reply.text
    return reply.json()["error"]["code"]


def jobs_named(live: Live, suffix: str) -> list[str]:
    jobs = live.http.get(JOBS, params={"limit": 1000}).json()["data"]
    return [job["id"] for job in jobs if job["user_provided_suffix"] == suffix]


def stored_files(live: Live) -> list[str]:
    return list(live.store.keys(f"projects/{live.caller.project_id}/files/"))


def change(**values: Any) -> None:
    with db.transaction() as session:
        session.execute(sa.update(IdempotencyRow).values(values))


def test_a_key_gives_the_first_reply_byte_for_byte(live: Live) -> None:
    key = {"Idempotency-Key": new_key()}
    first, second = post(live, key, suffix="once"), post(live, key, suffix="once")
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["content-type"] == "application/json"
    assert len(jobs_named(live, "once")) == 1


def test_the_same_request_may_be_spelled_otherwise(live: Live) -> None:
    key = {"Idempotency-Key": new_key(), "Content-Type": "application/json"}
    body = f'{{"model": "tiny-chat", "training_file": "{live.training_file}"}}'
    other = f'{{"training_file":"{live.training_file}", "seed": null, "model":"\\u0074iny-chat"}}'
    ids_ = {live.http.post(JOBS, content=text, headers=key).json()["id"] for text in (body, other)}
    assert len(ids_) == 1


def test_a_key_of_another_request_is_refused(live: Live) -> None:
    key = {"Idempotency-Key": new_key()}
    assert post(live, key).status_code == 200
    assert code(post(live, key, seed=1)) == "idempotency_key_reused"
    assert code(upload(live, LINE, key)) == "idempotency_key_reused"
    body = {"bytes": 5, "filename": "a", "mime_type": "x", "purpose": "user_data"}
    assert code(live.http.post("/v1/uploads", json=body, headers=key)) == "idempotency_key_reused"


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "é"])
def test_bad_keys(live: Live, key: str) -> None:
    reply = post(live, httpx.Headers([(b"Idempotency-Key", key.encode("latin-1"))]))  # type: ignore[arg-type]
    assert code(reply) == "invalid_idempotency_key"


def test_two_keys_are_refused(live: Live) -> None:
    reply = live.http.post(JOBS, json={}, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    assert reply.status_code == 400


def test_a_key_is_another_one_in_another_project(live: Live) -> None:
    key = {"Idempotency-Key": new_key()}
    mine = post(live, key).json()
    theirs = post(live, key, client=live.stranger, training_file=live.strangers_file).json()
    assert mine["id"] != theirs["id"]
    assert post(live, key, client=live.stranger, training_file=live.strangers_file).json() == theirs


def test_a_retry_without_a_key_gets_the_first_object(live: Live) -> None:
    first = post(live, suffix="retried").json()
    for count in ("1", "2"):
        assert post(live, {"x-stainless-retry-count": count}, suffix="retried").json() == first
    assert post(live, RETRY, suffix="retried", seed=5).json()["id"] != first["id"]
    assert post(live, suffix="retried").json()["id"] != first["id"]


@pytest.mark.parametrize("count", ["0", "", "x", "-1", "²", "00"])
def test_what_is_not_a_retry_makes_another(live: Live, count: str) -> None:
    headers = httpx.Headers([(b"x-stainless-retry-count", count.encode())])
    made = {post(live, headers, suffix="not again").json()["id"] for _ in range(2)}  # type: ignore[arg-type]
    assert len(made) == 2


def test_a_retry_whose_first_request_never_came_is_carried_out(live: Live) -> None:
    first = post(live, RETRY, suffix="never came").json()
    assert post(live, RETRY, suffix="never came").json() == first


def test_a_retry_is_known_for_fifteen_minutes_and_a_key_for_a_day(live: Live) -> None:
    key = {"Idempotency-Key": new_key()}
    firsts = [post(live, suffix="late").json()["id"], post(live, key, suffix="late").json()["id"]]
    with db.reading() as session:
        ends = session.scalars(
            sa.select(IdempotencyRow.expires_at - sa.func.now()).order_by(IdempotencyRow.expires_at.desc())
        ).all()
    hours = [end.total_seconds() / 3600 for end in ends]
    assert 23.9 < hours[0] <= 24
    assert any(0.24 < hour <= 0.25 for hour in hours)
    change(expires_at=sa.func.now())
    again = [post(live, RETRY, suffix="late").json()["id"], post(live, key, suffix="late").json()["id"]]
    assert not set(firsts) & set(again)
    change(expires_at=sa.func.now())
    sweeps.sweep(live.app.state.settings, live.store)
    with db.reading() as session:
        assert session.scalars(sa.select(IdempotencyRow)).all() == []


def test_a_request_that_failed_may_be_tried_again_with_its_key(live: Live) -> None:
    key = {"Idempotency-Key": new_key()}
    assert post(live, key, model="nothing").status_code == 400
    assert post(live, key).status_code == 200


def test_while_the_first_is_running_the_second_is_told_to_wait(live: Live) -> None:
    """The first is an upload whose bytes are still on their way."""
    key = new_key()
    body = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n' + LINE + b"\r\n--b--\r\n"
    )
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.key}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", urlparse(live.url).port or 0), timeout=20) as first:
        first.sendall(head.encode() + body[:50])
        while True:  # until the server has begun
            with db.reading() as session:
                if session.get(IdempotencyRow, (live.caller.project_id, f"key {key}")):
                    break
        second = upload(live, LINE, {"Idempotency-Key": key})
        assert code(second, 409) == "request_in_progress"
        assert (second.headers["x-should-retry"], second.headers["retry-after"]) == ("true", "1")
        first.sendall(body[50:])
        answer = b"".join(iter(lambda: first.recv(65536), b""))
    third = upload(live, LINE, {"Idempotency-Key": key})
    assert third.status_code == 200
    assert answer.endswith(third.content)


def attempt(live: Live, key: str | None, *, is_retry: bool = False) -> Attempt:
    return Attempt(owner=live.caller.project_id, route=f"POST {JOBS}", key=key, is_retry=is_retry, secret=None)


def test_a_retry_without_a_key_waits_for_its_first_too(live: Live) -> None:
    fields = {"a": ids.new("")}
    first, retry = attempt(live, None), attempt(live, None, is_retry=True)
    first.identify(fields)
    with pytest.raises(StillRunning):
        retry.identify(fields)
    retry.release()
    with db.transaction() as session:
        first.keep(session, b"{}")
    with pytest.raises(idempotency.Replay):
        attempt(live, None, is_retry=True).identify(fields)


@pytest.mark.parametrize("key", ["key", None])
def test_whoever_is_gone_is_followed_and_may_not_come_back(live: Live, key: str | None) -> None:
    key = key and new_key()
    fields = {"a": ids.new("")}
    lost, next_ = (attempt(live, key, is_retry=True) for _ in range(2))
    lost.open()
    lost.identify(fields)
    change(lease_until=sa.func.now() - idempotency.LEASE)
    next_.open()
    next_.identify(fields)
    with pytest.raises(StillRunning), db.transaction() as session:
        lost.keep(session, b"lost")
    lost.release()
    with db.transaction() as session:
        next_.keep(session, b"{}")
    later = attempt(live, key, is_retry=True)
    later.open()
    with pytest.raises(idempotency.Replay) as found:
        later.identify(fields)
    assert found.value.reply == b"{}"


def test_a_slow_request_keeps_its_slot(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = attempt(live, new_key())
    slow.open()
    change(lease_until=sa.func.now() - idempotency.LEASE)
    monkeypatch.setattr(idempotency, "BEAT_SECONDS", 0.0)
    slow.beat()
    with pytest.raises(StillRunning):
        attempt(live, slow._key).open()
    slow.release()


def test_race_of_one_key_makes_one_job(live: Live) -> None:
    key = {"Idempotency-Key": new_key()}
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: post(live, key, suffix="race"), range(24)))
    assert {reply.status_code for reply in replies} <= {200, 409}
    assert len({reply.content for reply in replies if reply.status_code == 200}) == 1
    assert len(jobs_named(live, "race")) == 1


def test_race_of_retries_makes_one_job(live: Live) -> None:
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: post(live, RETRY, suffix="race of retries"), range(24)))
    assert {reply.status_code for reply in replies} <= {200, 409}
    assert len(jobs_named(live, "race of retries")) == 1


def test_equal_first_requests_are_as_many_jobs(live: Live) -> None:
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: post(live, suffix="equal"), range(24)))
    assert {reply.status_code for reply in replies} == {200}
    assert len(jobs_named(live, "equal")) == 24


@pytest.mark.parametrize("by_key", [True, False])
def test_a_file_sent_again_is_kept_once(live: Live, by_key: bool) -> None:
    data = LINE + f'{{"prompt": "{ids.new("")}", "completion": "b"}}\n'.encode()
    key = {"Idempotency-Key": new_key()} if by_key else {}
    first = upload(live, data, key)
    before = stored_files(live)
    assert upload(live, data, key | RETRY).content == first.content
    assert stored_files(live) == before
    changed = upload(live, data + LINE, key | RETRY)
    renamed = upload(live, data, key | RETRY, name="other.jsonl")
    if by_key:
        assert code(changed) == code(renamed) == "idempotency_key_reused"
        assert stored_files(live) == before
    else:
        assert len({reply.json()["id"] for reply in (first, changed, renamed)}) == 3


def test_an_upload_in_parts_with_every_request_sent_twice(live: Live) -> None:
    body = {"bytes": len(LINE), "filename": ids.new(""), "mime_type": "x", "purpose": "user_data"}

    def twice(path: str, **request: Any) -> Any:
        first = live.http.post(path, **request)
        again = live.http.post(path, **request, headers=RETRY)
        assert first.status_code == 200, first.text
        assert first.content == again.content
        return first.json()

    made = twice("/v1/uploads", json=body)
    part = twice(f"/v1/uploads/{made['id']}/parts", files={"data": LINE})
    done = twice(f"/v1/uploads/{made['id']}/complete", json={"part_ids": [part["id"]]})
    assert live.http.get(f"/v1/files/{done['file']['id']}").status_code == 200


def test_a_reply_with_a_secret_is_kept_where_nobody_else_can_read_it(live: Live) -> None:
    key = {"Idempotency-Key": new_key()}
    body = {"name": "once", "url": "http://127.0.0.1:9/x", "event_types": ["fine_tuning.job.failed"]}
    first = live.http.post("/v1/webhook_endpoints", json=body, headers=key)
    assert first.status_code == 200, first.text
    assert live.http.post("/v1/webhook_endpoints", json=body, headers=key).content == first.content
    with db.reading() as session:
        kept = session.scalars(sa.select(IdempotencyRow).where(IdempotencyRow.sealed)).all()
    assert kept
    assert all(b"whsec" not in (row.reply or b"") for row in kept)
    with db.transaction() as session:
        other = auth.create_key(session, organization="acme", scopes=list(PROJECT_SCOPES)).value
    headers = key | {"Authorization": f"Bearer {other}"}
    assert code(live.http.post("/v1/webhook_endpoints", json=body, headers=headers)) == "idempotency_key_reused"


class LosesReplies(httpx.HTTPTransport):
    """Each request arrives, and its first reply is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        reply = super().handle_request(request)
        if request.headers["x-stainless-retry-count"] == "0" and request.method == "POST":
            reply.read()
            self.lost += 1
            raise httpx.ReadError("the reply was lost", request=request)
        return reply


def test_the_official_client_loses_every_first_reply(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    transport = LosesReplies()
    with openai.OpenAI(
        base_url=f"{live.url}/v1", api_key=live.key, http_client=httpx.Client(transport=transport)
    ) as client:
        before = len(client.files.list().data)
        file = client.files.create(file=("lost.jsonl", LINE * 3), purpose="fine-tune")
        assert len(client.files.list().data) == before + 1
        job = client.fine_tuning.jobs.create(model="tiny-chat", training_file=file.id, suffix="lost reply")
    assert jobs_named(live, "lost reply") == [job.id]
    assert transport.lost == 2


def test_what_a_retry_cannot_heal_says_so(live: Live) -> None:
    for reply in (
        post(live, model=1),
        live.http.get(f"{JOBS}/ftjob-nothing"),
        live.http.put(JOBS),
        httpx.post(f"{live.url}{JOBS}", json={}),
    ):
        assert 400 <= reply.status_code < 500
        assert reply.headers["x-should-retry"] == "false"
