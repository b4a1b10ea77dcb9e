"""Managing webhook endpoints, through HTTP and through OpenAI's own client in strict mode."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from live_server import Live
from openai import BadRequestError, NotFoundError, OpenAI
from receivers import OK, receiving, status

from app import db, secrets
from app.audit.tables import AuditEntry
from app.secrets import Vault
from app.slots import Slots
from app.webhooks import lanes
from app.webhooks.events import EventType
from app.webhooks.tables import Endpoint
from tests.webhooks.rows import let_pass
from worker.deliverer import Deliverer

PATH = "/v1/webhook_endpoints"
PUBLIC = "https://93.184.216.34/hook"
NAMES = {"inside.example": ["10.0.0.1"], "mixed.example": ["93.184.216.34", "127.0.0.1"], "out.example": ["1.1.1.1"]}


@pytest.fixture(autouse=True)
def _names(live: Live) -> Iterator[None]:
    """No test asks a real name server."""
    before = live.app.state.webhooks
    egress = replace(before.egress, resolve=lambda name, _: NAMES.get(name, []))
    live.app.state.webhooks = replace(before, egress=egress)
    yield
    live.app.state.webhooks = before


@pytest.fixture
def client(live: Live) -> OpenAI:
    return OpenAI(api_key=live.key, base_url=f"{live.url}/v1", max_retries=0, _strict_response_validation=True)


def body(**changes: Any) -> dict[str, Any]:
    return {"name": "ci", "url": PUBLIC, "event_types": ["fine_tuning.job.succeeded"]} | changes


def create(live: Live, **changes: Any) -> dict[str, Any]:
    reply = live.http.post(PATH, json=body(**changes))
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(reply: Any, param: str | None, code: str | None = "invalid_value") -> None:
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code), error


def actions(target: str) -> list[str]:
    with db.reading() as session:
        query = sa.select(AuditEntry.action).where(AuditEntry.target == target).order_by(AuditEntry.seq)
        return list(session.scalars(query))


def test_every_call_of_the_client_in_strict_mode(client: OpenAI) -> None:
    with receiving() as receiver:
        made = client.webhooks.create(
            name="ci", url=receiver.url, event_types=["fine_tuning.job.failed", "batch.completed"]
        )
        assert made.id.startswith("whe_")
        assert made.signing_secret.startswith("whsec_")
        assert made.event_types == ["fine_tuning.job.failed", "batch.completed"]
        assert made.created_at == made.updated_at
        found = client.webhooks.retrieve(made.id)
        assert "signing_secret" not in found.to_dict()
        assert (found.signing_secret_hint or "")[-4:] == made.signing_secret[-5:-1]
        changed = client.webhooks.update(made.id, name="cd", event_types=["fine_tuning.job.succeeded"])
        assert (changed.name, changed.url, changed.event_types) == ("cd", receiver.url, ["fine_tuning.job.succeeded"])
        rotated = client.webhooks.rotate_secret(made.id)
        assert rotated.signing_secret != made.signing_secret
        result = client.webhooks.test(made.id, event_type="fine_tuning.job.succeeded")
        assert (result.status_code, result.success, result.webhook_endpoint_id) == (200, True, made.id)
        assert [one.id for one in client.webhooks.list()] == [made.id]
        assert client.webhooks.event_types.list().data == [
            "fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled",
        ]  # fmt: skip
        gone = client.webhooks.delete(made.id)
        assert (gone.id, gone.deleted, gone.object) == (made.id, True, "webhook_endpoint.deleted")
        with pytest.raises(NotFoundError):
            client.webhooks.retrieve(made.id)


def test_a_test_is_a_real_signed_delivery(client: OpenAI) -> None:
    with receiving() as receiver:
        made = client.webhooks.create(name="ci", url=receiver.url, event_types=["fine_tuning.job.failed"])
        client.webhooks.test(made.id, event_type="fine_tuning.job.cancelled")
    (arrived,) = receiver.requests
    assert arrived.headers["content-type"] == "application/json"
    assert arrived.headers["webhook-id"].startswith("wh_")
    event = client.webhooks.unwrap(arrived.body, arrived.headers, secret=made.signing_secret)
    assert event.type == "fine_tuning.job.cancelled"
    assert event.id.startswith("evt_")
    assert event.data.id.startswith("ftjob-")
    assert actions(made.id) == ["webhook_endpoint.created", "webhook_endpoint.tested"]


@pytest.mark.parametrize("code", [302, 404, 500])
def test_a_test_reports_whatever_the_endpoint_answers(client: OpenAI, code: int) -> None:
    with receiving(status(code, "Location: https://1.1.1.1/")) as receiver:
        made = client.webhooks.create(name="ci", url=receiver.url, event_types=["batch.failed"])
        assert client.webhooks.test(made.id, event_type="batch.failed").status_code == code


def test_a_test_that_nobody_answers(client: OpenAI) -> None:
    with receiving() as receiver:
        made = client.webhooks.create(name="ci", url=receiver.url, event_types=["batch.failed"])
    with pytest.raises(BadRequestError) as caught:
        client.webhooks.test(made.id, event_type="batch.failed")
    assert caught.value.code == "webhook_endpoint_unreachable"


def test_tests_hold_a_bounded_number_of_threads(live: Live) -> None:
    made = create(live)
    live.app.state.webhooks = replace(live.app.state.webhooks, slots=Slots(8, 0))
    reply = live.http.post(f"{PATH}/{made['id']}/test", json={"event_type": "batch.failed"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def test_rotation_leaves_the_old_secret_signing_for_a_day_if_asked(client: OpenAI) -> None:
    with receiving() as receiver:
        made = client.webhooks.create(name="ci", url=receiver.url, event_types=["batch.failed"])
        kept = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        client.webhooks.test(made.id, event_type="fine_tuning.job.failed")
        with db.transaction() as session:
            past = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, 1)
            session.execute(sa.update(Endpoint).where(Endpoint.id == made.id).values(old_secret_until=past))
        client.webhooks.test(made.id, event_type="fine_tuning.job.failed")
        new = client.webhooks.rotate_secret(made.id)
        client.webhooks.test(made.id, event_type="fine_tuning.job.failed")
    both, late, last = receiver.requests
    assert proves(client, both, kept.signing_secret)
    assert proves(client, both, made.signing_secret)
    assert proves(client, late, kept.signing_secret)
    assert not proves(client, late, made.signing_secret)
    assert proves(client, last, new.signing_secret)
    assert not proves(client, last, kept.signing_secret)


def proves(client: OpenAI, arrived: Any, secret: str) -> bool:
    try:
        client.webhooks.verify_signature(arrived.body, arrived.headers, secret=secret)
    except ValueError:
        return False
    return True


def test_rotation_takes_no_body(live: Live) -> None:
    made = create(live)
    reply = live.http.post(f"{PATH}/{made['id']}/rotate_secret")
    assert reply.status_code == 200
    assert reply.json()["signing_secret"] != made["signing_secret"]


def test_secrets_are_sealed_at_rest(live: Live) -> None:
    made = create(live)
    with db.reading() as session:
        (row,) = session.execute(sa.text("SELECT w::text FROM webhook_endpoints w")).scalars()
    assert made["signing_secret"].removeprefix("whsec_") not in row
    assert made["signing_secret_hint"] in row


def test_a_secret_that_cannot_be_read_says_so(live: Live) -> None:
    made = create(live)
    live.app.state.webhooks = replace(live.app.state.webhooks, vault=Vault(secrets.new_key()))
    reply = live.http.post(f"{PATH}/{made['id']}/test", json={"event_type": "batch.failed"})
    refused(reply, None, None)
    assert "rotate" in reply.json()["error"]["message"]
    assert live.http.post(f"{PATH}/{made['id']}/rotate_secret").status_code == 200


def test_without_keys_no_endpoint_is_made(live: Live) -> None:
    live.app.state.webhooks = replace(live.app.state.webhooks, vault=Vault(""))
    refused(live.http.post(PATH, json=body()), None, None)
    assert live.http.get(PATH).json()["data"] == []


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"url": None}, "url", "invalid_type"),
        ({"url": 1}, "url", "invalid_type"),
        ({"url": ""}, "url", "string_below_min_length"),
        ({"url": "not a url"}, "url", "invalid_value"),
        ({"url": "ftp://example.com"}, "url", "invalid_value"),
        ({"url": "javascript:alert(1)"}, "url", "invalid_value"),
        ({"url": "http://93.184.216.34/hook"}, "url", "invalid_value"),
        ({"url": "https://10.0.0.1/"}, "url", "invalid_value"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url", "invalid_value"),
        ({"url": "https://[::ffff:127.0.0.1]/"}, "url", "invalid_value"),
        ({"url": "https://2130706433/"}, "url", "invalid_value"),
        ({"url": "https://user:pass@93.184.216.34/"}, "url", "invalid_value"),
        ({"url": "https://93.184.216.34:6379/"}, "url", "invalid_value"),
        ({"url": "https://93.184.216.34/#x"}, "url", "invalid_value"),
        ({"url": "https://inside.example/"}, "url", "invalid_value"),
        ({"url": "https://mixed.example/"}, "url", "invalid_value"),
        ({"url": "https://out.example/" + "a" * 2100}, "url", "string_above_max_length"),
        ({"name": ""}, "name", "string_below_min_length"),
        ({"name": "n" * 257}, "name", "string_above_max_length"),
        ({"name": None}, "name", "invalid_type"),
        ({"event_types": []}, "event_types", "array_below_min_length"),
        ({"event_types": None}, "event_types", "invalid_type"),
        ({"event_types": "batch.completed"}, "event_types", "invalid_type"),
        ({"event_types": ["batch.completed", "batch.canceled"]}, "event_types.[1]", "invalid_value"),
        ({"event_types": [1]}, "event_types.[0]", "invalid_type"),
        ({"signing_secret": "whsec_mine"}, "signing_secret", "unknown_parameter"),
        ({"id": "whe_mine"}, "id", "unknown_parameter"),
    ],
)  # fmt: skip
def test_what_makes_no_endpoint(live: Live, changes: dict[str, Any], param: str, code: str) -> None:
    refused(live.http.post(PATH, json=body(**changes)), param, code)
    made = create(live)
    if code != "unknown_parameter" or "id" not in changes:
        refused(live.http.post(f"{PATH}/{made['id']}", json=changes), param, code)
    assert live.http.get(f"{PATH}/{made['id']}").json() == {k: v for k, v in made.items() if k != "signing_secret"}


@pytest.mark.parametrize("missing", ["name", "url", "event_types"])
def test_what_must_be_there(live: Live, missing: str) -> None:
    sent = body()
    del sent[missing]
    refused(live.http.post(PATH, json=sent), missing, "missing_required_parameter")


def test_this_server_is_no_receiver(live: Live) -> None:
    refused(live.http.post(PATH, json=body(url=f"{live.url}/v1/fine_tuning/jobs")), "url")


def test_names_that_are_unknown_yet_are_taken(live: Live) -> None:
    for url in ("https://new.example/hook", "https://out.example"):
        assert create(live, url=url)["url"] == url


def test_every_event_type_of_openais_may_be_named_once(live: Live) -> None:
    names = list(get_args(EventType))
    assert len(names) == 27
    assert create(live, event_types=[*names, names[0]])["event_types"] == names


def test_a_project_has_so_many_endpoints_and_no_more(live: Live) -> None:
    made = [create(live)["id"] for _ in range(10)]
    refused(live.http.post(PATH, json=body()), None, "webhook_endpoint_limit_exceeded")
    assert live.stranger.post(PATH, json=body()).status_code == 200
    assert live.http.delete(f"{PATH}/{made[0]}").status_code == 200
    create(live)


def test_the_time_of_the_last_change(live: Live) -> None:
    made = create(live)
    with db.transaction() as session:
        past = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 1)
        session.execute(sa.update(Endpoint).values(created_at=past, updated_at=past))
    before = live.http.get(f"{PATH}/{made['id']}").json()
    for unchanged in ({}, {"name": "ci"}, body()):
        assert live.http.post(f"{PATH}/{made['id']}", json=unchanged).json() == before
    after = live.http.post(f"{PATH}/{made['id']}", json={"name": "other"}).json()
    assert after["created_at"] == before["created_at"]
    assert before["updated_at"] + 3000 < after["updated_at"] <= time.time() + 1
    assert actions(made["id"])[0] == "webhook_endpoint.created"


def test_pages_newest_first(live: Live) -> None:
    made = [create(live, name=f"n{i}")["id"] for i in range(5)]
    first = live.http.get(PATH, params={"limit": 2}).json()
    assert [one["id"] for one in first["data"]] == made[:2:-1]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (made[4], made[3], True)
    rest = live.http.get(PATH, params={"limit": 10, "after": made[3]}).json()
    assert [one["id"] for one in rest["data"]] == made[2::-1]
    assert rest["has_more"] is False
    empty = live.http.get(PATH, params={"limit": 0}).json()
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)
    refused(live.http.get(PATH, params={"after": "whe_nothing"}), "after")


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("GET", "", None), ("POST", "", {"name": "x"}), ("DELETE", "", None), ("POST", "/rotate_secret", None),
        ("POST", "/test", {"event_type": "batch.failed"}),
        ("GET", "/deliveries", None), ("GET", "/deliveries/wh_a", None),
    ],
)  # fmt: skip
def test_another_projects_endpoint_is_as_one_that_never_was(
    live: Live, method: str, path: str, sent: dict[str, Any] | None
) -> None:
    made = create(live)
    for endpoint_id in (made["id"], "whe_nothing", "whe_%00", "%F0%9F%92%A9"):
        reply = live.stranger.request(method, f"{PATH}/{endpoint_id}{path}", json=sent)
        assert reply.status_code == 404, reply.text
        error = reply.json()["error"]
        assert (error["param"], error["code"]) == ("webhook_endpoint_id", None)
    assert live.stranger.get(PATH).json()["data"] == []
    refused(live.stranger.get(PATH, params={"after": made["id"]}), "after")
    assert live.http.get(f"{PATH}/{made['id']}").status_code == 200
    assert actions(made["id"]) == ["webhook_endpoint.created"]


def test_what_was_rotated_updated_and_deleted_is_audited(live: Live) -> None:
    made = create(live)
    live.http.post(f"{PATH}/{made['id']}", json={"name": "x"})
    live.http.post(f"{PATH}/{made['id']}/rotate_secret", json={})
    live.http.delete(f"{PATH}/{made['id']}")
    names = ["created", "updated", "secret_rotated", "deleted"]
    assert actions(made["id"]) == [f"webhook_endpoint.{name}" for name in names]


def test_the_end_of_a_job_arrives_and_every_attempt_can_be_seen(live: Live, client: OpenAI) -> None:
    answers = iter([status(503), OK])
    with receiving(lambda connection, _: connection.sendall(next(answers))) as receiver:
        types = ["fine_tuning.job.succeeded", "fine_tuning.job.cancelled"]
        made = create(live, url=receiver.url, event_types=types)
        job = client.fine_tuning.jobs.create(model="tiny-chat", training_file=live.training_file)
        client.fine_tuning.jobs.cancel(job.id)
        path = f"{PATH}/{made['id']}/deliveries"
        (waiting,) = live.http.get(path).json()["data"]
        assert (waiting["status"], waiting["attempt_count"], waiting["ended_at"]) == ("pending", 0, None)
        assert waiting["event_type"] == "fine_tuning.job.cancelled"
        deliverer = Deliverer(live.app.state.settings)
        for failing in (False, True):
            with db.transaction() as session:
                (lane,) = lanes.claim(session, limit=9, failing=failing, lease_seconds=30)
            deliverer.serve(lane)
            let_pass(made["id"], 60)
    event = client.webhooks.unwrap(
        receiver.requests[1].body, receiver.requests[1].headers, secret=made["signing_secret"]
    )
    assert event.data.id == job.id
    seen = live.http.get(f"{path}/{waiting['id']}").json()
    assert (seen["status"], seen["attempt_count"], seen["next_attempt_at"]) == ("delivered", 2, None)
    assert seen["event_id"] == event.id
    assert [(one["number"], one["status_code"], one["error"]) for one in seen["attempts"]] == [
        (1, 503, None), (2, 200, None),
    ]  # fmt: skip
    assert seen["attempts"][1]["response_body"] == "ok"
    assert seen["attempts"][1]["duration_ms"] >= 0
    assert live.stranger.get(f"{path}/{waiting['id']}").status_code == 404
    assert live.http.get(f"{path}/wh_nothing").json()["error"]["param"] == "delivery_id"
    assert live.http.get(path, params={"after": waiting["id"]}).json()["data"] == []
