"""Deliverers, real requests and real receivers: good ones, bad ones, dead ones; and deliverers that are killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from job_rows import add_project
from openai import OpenAI
from receivers import HOST, OK, Certificates, Receiver, receiving, status

from app.egress import Egress, open_egress
from app.webhooks import states
from tests.webhooks.rows import KEYS, add_endpoint, announce, attempts, deliveries, endpoint, let_pass, settings
from worker.deliverer import Deliverer

ROOT = Path(__file__).parent.parent.parent
CLIENT = OpenAI(api_key="sk-test", base_url="http://127.0.0.1:1")


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def delivering(egress: Egress | None = None, **changes: Any) -> Iterator[Deliverer]:
    deliverer = Deliverer(settings(**changes), egress=egress, jitter=lambda: 0.5)
    thread = threading.Thread(target=deliverer.run)
    thread.start()
    try:
        yield deliverer
    finally:
        deliverer.stop()
        thread.join()


@pytest.fixture
def project(scratch_database: sa.Engine) -> str:
    return add_project()


def statuses(endpoint_id: str) -> list[str]:
    return [one.status for one in deliveries(endpoint_id)]


def all_delivered(endpoint_id: str) -> Callable[[], bool]:
    return lambda: set(statuses(endpoint_id)) == {states.DELIVERED}


def one_attempt(project: str, answer: Any, **changes: Any) -> Any:
    """What is noted of a single attempt at a receiver that answers so."""
    with receiving(answer) as receiver:
        endpoint_id, _ = add_endpoint(project, receiver.url)
        announce(project)
        with delivering(**changes):
            until(lambda: endpoint(endpoint_id).failures + len([s for s in statuses(endpoint_id) if s != "pending"]))
    (delivery,) = deliveries(endpoint_id)
    (attempt,) = attempts(delivery.id)
    return attempt


def test_the_client_reads_what_arrives(project: str) -> None:
    with receiving() as receiver:
        endpoint_id, secret = add_endpoint(project, receiver.url)
        announce(project, 3)
        with delivering():
            until(all_delivered(endpoint_id))
    assert len(receiver.requests) == 3
    sent = {one.id: one for one in deliveries(endpoint_id)}
    for arrived in receiver.requests:
        event = CLIENT.webhooks.unwrap(arrived.body, arrived.headers, secret=secret)
        assert event.type == "fine_tuning.job.succeeded"
        assert sent[arrived.headers["webhook-id"]].body == arrived.body.decode()


def test_over_https_to_a_name(project: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    with receiving(tls=certificates.server(HOST)) as receiver:
        egress = replace(
            open_egress(settings(webhook_networks=["127.0.0.0/8"], webhook_authorities=certificates.path)),
            ports=frozenset({receiver.port}),
            resolve=lambda name, _: ["127.0.0.1"] if name == HOST else [],
        )
        endpoint_id, secret = add_endpoint(project, receiver.url)
        announce(project)
        with delivering(egress):
            until(all_delivered(endpoint_id))
    (arrived,) = receiver.requests
    CLIENT.webhooks.verify_signature(arrived.body.decode(), arrived.headers, secret=secret)


def test_a_name_is_judged_at_each_attempt(project: str) -> None:
    """DNS rebinding between registration and delivery, and between two attempts."""
    answers = iter([[], ["10.0.0.1"], ["169.254.169.254"]])
    egress = replace(open_egress(settings()), resolve=lambda *_: next(answers, ["10.0.0.1"]))
    endpoint_id, _ = add_endpoint(project, "https://rebinding.example/hook")
    announce(project)
    with delivering(egress):
        for failures in (1, 2, 3):
            until(lambda failures=failures: endpoint(endpoint_id).failures >= failures)  # type: ignore[misc]
            let_pass(endpoint_id, 3600)
    (delivery,) = deliveries(endpoint_id)
    errors = [one.error for one in attempts(delivery.id)]
    assert errors[:3] == ["name_not_resolved", "url_refused", "url_refused"]


@pytest.mark.parametrize("code", [301, 302, 307, 400, 404, 410, 429, 500, 503])
def test_what_is_not_2xx_is_a_failure(project: str, code: int) -> None:
    with receiving() as other:
        attempt = one_attempt(project, status(code, f"Location: {other.url}"))
        assert other.connections == 0
    assert (attempt.status_code, attempt.error) == (code, None)


def test_a_huge_answer_is_cut(project: str) -> None:
    def answer(connection: socket.socket, _: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"\0\xffx" * 100_000)

    attempt = one_attempt(project, answer)
    assert attempt.status_code == 200
    assert attempt.response_body == ("��x" * 1024)[:1024]


def test_a_receiver_that_never_answers(project: str) -> None:
    ended = threading.Event()
    attempt = one_attempt(project, lambda *_: ended.wait(30), webhook_seconds=0.3)
    ended.set()
    assert (attempt.status_code, attempt.error) == (None, "timeout")


def test_a_receiver_that_answers_nonsense(project: str) -> None:
    assert one_attempt(project, b"nonsense\r\n\r\n").error == "invalid_answer"


def test_five_failures_and_then_success_is_one_delivery(project: str) -> None:
    def answer(connection: socket.socket, before: int) -> None:
        connection.sendall(status(500) if before < 5 else OK)

    with receiving(answer) as receiver:
        endpoint_id, secret = add_endpoint(project, receiver.url)
        announce(project)
        with delivering():
            for count in range(1, 6):
                until(lambda count=count: endpoint(endpoint_id).failures >= count)  # type: ignore[misc]
                let_pass(endpoint_id, 3600)
            until(all_delivered(endpoint_id))
    (delivery,) = deliveries(endpoint_id)
    assert [one.status_code for one in attempts(delivery.id)] == [500] * 5 + [200]
    assert {(one.headers["webhook-id"], one.body) for one in receiver.requests} == {
        (delivery.id, delivery.body.encode())
    }
    for arrived in receiver.requests:
        CLIENT.webhooks.verify_signature(arrived.body.decode(), arrived.headers, secret=secret)


def test_a_reply_that_is_lost_means_the_same_letter_again(project: str) -> None:
    """The receiver took it, the answer never came."""
    with receiving(lambda connection, before: connection.sendall(OK) if before else None) as receiver:
        endpoint_id, _ = add_endpoint(project, receiver.url)
        announce(project)
        with delivering():
            until(lambda: endpoint(endpoint_id).failures == 1)
            let_pass(endpoint_id, 60)
            until(all_delivered(endpoint_id))
    one, two = receiver.requests
    assert one.body == two.body
    assert one.headers["webhook-id"] == two.headers["webhook-id"]


def test_dead_endpoints_delay_nobody(project: str) -> None:
    """More dead endpoints than lanes, each with a long queue, before the sound one's events come."""
    ended = threading.Event()
    with receiving(lambda *_: ended.wait(60)) as dead, receiving() as sound:
        for _ in range(6):
            add_endpoint(project, dead.url)
        announce(project, 20)
        with delivering(webhook_lanes=4, webhook_seconds=2.0):
            until(lambda: len(dead.requests) > 4)
            endpoint_id, _ = add_endpoint(other := add_project(), sound.url)
            announce(other, 50)
            until(all_delivered(endpoint_id))
            ended.set()
    assert len({one.headers["webhook-id"] for one in sound.requests}) == 50


def test_two_deliverers_send_each_letter_once(project: str) -> None:
    with receiving() as receiver:
        ids = [add_endpoint(project, receiver.url)[0] for _ in range(4)]
        announce(project, 25)
        with delivering(), delivering():
            for endpoint_id in ids:
                until(all_delivered(endpoint_id))
    sent = [one.headers["webhook-id"] for one in receiver.requests]
    assert len(sent) == len(set(sent)) == 100


def test_stopping_waits_for_the_request_under_way(project: str) -> None:
    stopping = threading.Event()

    def answer(connection: socket.socket, _: int) -> None:
        stopping.wait(30)
        connection.sendall(OK)

    with receiving(answer) as receiver:
        endpoint_id, _ = add_endpoint(project, receiver.url)
        announce(project, 5)
        with delivering(webhook_seconds=20) as deliverer:
            until(lambda: receiver.requests)
            stopper = threading.Thread(target=deliverer.stop)
            stopper.start()
            stopping.set()
            stopper.join()
            assert endpoint(endpoint_id).lease_until is None
            assert statuses(endpoint_id).count(states.DELIVERED) == len(receiver.requests)


@contextmanager
def process(database: str, receiver: Receiver) -> Iterator["subprocess.Popen[bytes]"]:
    """A deliverer in a process of its own."""
    script = (
        "from app import db; from app.config import Settings; from worker.deliverer import Deliverer;"
        "settings = Settings(); db.configure(db.create_engine(settings.database_url)); Deliverer(settings).run()"
    )
    environment = os.environ | {
        "TUNESMITH_DATABASE_URL": database,
        "TUNESMITH_SECRET_KEYS": KEYS,
        "TUNESMITH_WEBHOOK_LOOPBACK_HTTP": "1",
        "PYTHONPATH": str(ROOT),
    }
    child = subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=ROOT)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def test_a_deliverer_killed_between_request_and_note_is_followed_by_another(
    scratch_database: sa.Engine, project: str
) -> None:
    """At least once, with the same webhook-id; the attempt nobody could note stays visible."""
    killed = threading.Event()

    def answer(connection: socket.socket, before: int) -> None:
        if before == 0:
            killed.wait(60)
        connection.sendall(OK)

    with receiving(answer) as receiver:
        endpoint_id, _ = add_endpoint(project, receiver.url)
        announce(project)
        with process(scratch_database.url.render_as_string(hide_password=False), receiver) as child:
            until(lambda: receiver.requests)
            child.send_signal(signal.SIGKILL)
            child.wait()
            killed.set()
        with delivering():
            let_pass(endpoint_id, 60)  # the lease and the pause
            until(all_delivered(endpoint_id))
    one, two = receiver.requests
    assert (one.headers["webhook-id"], one.body) == (two.headers["webhook-id"], two.body)
    (delivery,) = deliveries(endpoint_id)
    assert [(a.number, a.status_code, a.error) for a in attempts(delivery.id)] == [(1, None, None), (2, 200, None)]
