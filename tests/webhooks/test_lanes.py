"""Lanes without a network: who may serve them, what is next, and when a delivery waits, ends or is given up."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from job_rows import add_job, add_project

from app import db, secrets
from app.jobs import states as jobs
from app.jobs import transitions
from app.secrets import Vault
from app.webhooks import lanes, service
from app.webhooks.errors import TooManyEndpoints
from app.webhooks.lanes import Lane, Work
from app.webhooks.schemas import EndpointRequest
from app.webhooks.sending import Outcome
from app.webhooks.tables import Endpoint
from tests.webhooks.rows import (
    KEYS,
    SUCCEEDED,
    VAULT,
    add_endpoint,
    announce,
    attempts,
    deliveries,
    endpoint,
    let_pass,
    seconds,
)

OK = Outcome(status=200, body="ok", seconds=0.01)
FAILED = Outcome(status=500, body="", seconds=0.01)
HOUR = 3600.0


def claim(*, limit: int = 10, failing: bool = False) -> list[Lane]:
    with db.transaction() as session:
        return lanes.claim(session, limit=limit, failing=failing, lease_seconds=30)


def begin(lane: Lane, vault: Vault = VAULT) -> Work | None:
    with db.transaction() as session:
        return lanes.next_work(session, lane, vault, jitter=0.5)


def record(lane: Lane, work: Work, outcome: Outcome) -> bool:
    with db.transaction() as session:
        return lanes.record(session, lane, work, outcome)


def release(lane: Lane) -> None:
    with db.transaction() as session:
        lanes.release(session, lane)


def attempt(outcome: Outcome, *, failing: bool = False) -> Work:
    """Claim the one lane there is, try its first delivery, and let it go."""
    (lane,) = claim(failing=failing)
    work = begin(lane)
    assert work is not None
    record(lane, work, outcome)
    release(lane)
    return work


@pytest.fixture
def project(database: sa.Connection) -> str:
    return add_project()


def test_an_event_goes_to_the_endpoints_of_its_project_that_asked_for_it(project: str) -> None:
    wanted, _ = add_endpoint(project)
    also, _ = add_endpoint(project, "https://1.1.1.1", "batch.failed", SUCCEEDED)
    others = [add_endpoint(project, "https://1.1.1.1", "fine_tuning.job.failed")[0], add_endpoint(add_project())[0]]
    announce(project)
    assert [len(deliveries(one)) for one in (wanted, also, *others)] == [1, 1, 0, 0]
    (one,), (two,) = deliveries(wanted), deliveries(also)
    assert one.id != two.id
    assert one.id.startswith("wh_")
    assert (one.event_id, one.body) == (two.event_id, two.body)
    body = json.loads(one.body)
    assert body == {
        "id": one.event_id, "object": "event", "created_at": int(one.created_at.timestamp()), "type": SUCCEEDED,
        "data": {"id": "ftjob-0"},
    }  # fmt: skip


@pytest.mark.parametrize("target", jobs.FINAL)
def test_the_end_of_a_job_and_its_webhook_are_one_transaction(project: str, target: str) -> None:
    wanted, _ = add_endpoint(project, "https://1.1.1.1", f"fine_tuning.job.{target}")
    job_id = add_job(project, status=jobs.RUNNING)
    with db.transaction() as session:
        transitions.move(session, job_id, target, note=None)
        session.rollback()
    assert deliveries(wanted) == []
    for _ in range(2):
        with db.transaction() as session:
            transitions.move(session, job_id, target, note=None)
    (delivery,) = deliveries(wanted)
    assert json.loads(delivery.body)["data"] == {"id": job_id}


@pytest.mark.parametrize("target", [jobs.QUEUED, jobs.PAUSING])
def test_what_is_not_the_end_is_not_told(project: str, target: str) -> None:
    wanted, _ = add_endpoint(project, "https://1.1.1.1", *(f"fine_tuning.job.{name}" for name in jobs.FINAL))
    job_id = add_job(project, status=jobs.RUNNING)
    with db.transaction() as session:
        assert transitions.move(session, job_id, target, note=None) is not None
    assert deliveries(wanted) == []


def test_a_delivery_that_arrives_is_over(project: str) -> None:
    endpoint_id, _ = add_endpoint(project)
    announce(project)
    work = attempt(OK)
    (delivery,) = deliveries(endpoint_id)
    assert (delivery.status, delivery.attempts, delivery.ended_at is None) == ("delivered", 1, False)
    (tried,) = attempts(work.delivery_id)
    assert (tried.number, tried.status_code, tried.error, tried.response_body) == (1, 200, None, "ok")
    let_pass(endpoint_id, 100 * HOUR)
    assert claim() == []


def test_a_lane_is_one_deliverers_until_it_is_let_go_or_the_lease_ends(project: str) -> None:
    endpoint_id, _ = add_endpoint(project)
    announce(project, 3)
    (first,) = claim()
    assert claim() == []
    let_pass(endpoint_id, 31)
    (second,) = claim()
    assert (second.endpoint_id, second.fence) == (endpoint_id, first.fence + 1)
    assert begin(first) is None
    assert begin(second) is not None
    release(first)
    assert claim() == [], "only the holder lets go"
    release(second)
    assert len(claim()) == 1


def test_deliveries_go_in_the_order_of_their_events(project: str) -> None:
    endpoint_id, _ = add_endpoint(project)
    for _ in range(3):
        announce(project)
        let_pass(endpoint_id, 1)
    (lane,) = claim()
    order = []
    while (work := begin(lane)) is not None:
        order.append(work.delivery_id)
        record(lane, work, OK)
    assert order == [one.id for one in deliveries(endpoint_id)]


def test_what_fails_waits_and_lets_the_others_go_on(project: str) -> None:
    endpoint_id, _ = add_endpoint(project)
    announce(project)
    let_pass(endpoint_id, 1)
    announce(project)
    failed = attempt(FAILED)
    assert claim() == claim(failing=True) == [], "the lane rests"
    let_pass(endpoint_id, 1)
    assert claim() == [], "it is not among the sound ones"
    delivered = attempt(OK, failing=True)
    assert delivered.delivery_id != failed.delivery_id
    assert endpoint(endpoint_id).failures == 0
    assert claim() == [], "the first is not due yet"
    let_pass(endpoint_id, 4)
    again = attempt(OK)
    assert (again.delivery_id, again.number) == (failed.delivery_id, 2)
    assert [one.status_code for one in attempts(failed.delivery_id)] == [500, 200]


def test_a_delivery_is_given_up_after_72_hours_and_not_before(project: str) -> None:
    endpoint_id, _ = add_endpoint(project)
    announce(project)
    times, failing = [0.0], False
    for _ in range(100):
        (delivery,) = deliveries(endpoint_id)
        if delivery.status != "pending":
            break
        attempt(FAILED, failing=failing)
        (delivery,) = deliveries(endpoint_id)
        failing = True
        wait = max((delivery.due_at - delivery.created_at).total_seconds() - times[-1], 61)
        let_pass(endpoint_id, wait + 0.5)
        times.append(times[-1] + wait + 0.5)
    assert delivery.status == "given_up"
    assert len(attempts(delivery.id)) == delivery.attempts
    assert 68 * HOUR < times[-2] <= 72 * HOUR
    assert 25 < delivery.attempts < 60
    announce(project)
    let_pass(endpoint_id, 61)
    attempt(OK, failing=True)
    assert [one.status for one in deliveries(endpoint_id)] == ["given_up", "delivered"]


@pytest.mark.parametrize(
    ("asked", "rest", "wait"),
    [
        (None, 1, 5), ("3", 3, 5), ("30", 30, 30), ("100", 60, 100), ("1000000000", 1, 5), ("999999999", 60, 3 * HOUR),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 1, 5), ("-1", 1, 5), ("1.5", 1, 5), ("٣", 1, 5), ("", 1, 5),
    ],
)  # fmt: skip
def test_retry_after_is_heard_within_bounds(project: str, asked: str | None, rest: float, wait: float) -> None:
    endpoint_id, _ = add_endpoint(project)
    announce(project)
    attempt(Outcome(status=429, retry_after=asked))
    with db.reading() as session:
        now = session.scalars(sa.select(sa.func.now())).one()
    (delivery,) = deliveries(endpoint_id)
    rests_until = endpoint(endpoint_id).rests_until
    assert rests_until is not None
    assert rest - 1 < (rests_until - now).total_seconds() <= rest
    assert wait - 1 < (delivery.due_at - now).total_seconds() <= wait


def test_pauses_double_up_to_three_hours_and_are_spread() -> None:
    middle = [lanes.pause_after(n, 0.5) for n in range(1, 40)]
    assert middle[:4] == [5, 10, 20, 40]
    assert middle[-1] == max(middle) == 3 * HOUR
    assert (lanes.pause_after(1, 0.0), lanes.pause_after(1, 1.0)) == (3.75, 6.25)
    assert lanes.pause_after(10**6, 0.5) == 3 * HOUR


def test_rests_double_up_to_a_minute() -> None:
    assert [lanes.rest_after(n, FAILED) for n in (1, 2, 3, 7, 10**6)] == [1, 2, 4, 60, 60]


def test_sound_endpoints_take_turns(project: str) -> None:
    ids = [add_endpoint(project)[0] for _ in range(3)]
    announce(project, 2)
    turns = []
    for _ in range(6):
        (lane,) = claim(limit=1)
        turns.append(lane.endpoint_id)
        work = begin(lane)
        assert work is not None
        record(lane, work, OK)
        release(lane)
        with db.transaction() as session:  # now() stands still within the test's own transaction
            session.execute(sa.update(Endpoint).values(served_at=Endpoint.served_at - seconds(1)))
    assert set(turns[:3]) == set(turns[3:]) == set(ids)


def test_a_new_url_is_tried_at_once(project: str) -> None:
    endpoint_id, _ = add_endpoint(project)
    announce(project, 2)
    attempt(FAILED)
    with db.transaction() as session:
        service.update(session, project, endpoint_id, {"url": "https://8.8.8.8"})
    work = attempt(OK)
    assert work.letter is not None
    assert work.letter.url == "https://8.8.8.8"


def test_what_was_delivered_counts_even_if_the_lane_was_lost(project: str) -> None:
    endpoint_id, _ = add_endpoint(project)
    announce(project)
    (slow,) = claim()
    work = begin(slow)
    assert work is not None
    let_pass(endpoint_id, 31)
    (quick,) = claim()
    assert record(slow, work, OK) is False
    assert begin(quick) is None
    assert deliveries(endpoint_id)[0].status == "delivered"
    assert endpoint(endpoint_id).fence == quick.fence


def test_a_failure_on_a_lost_lane_changes_nothing_but_the_attempt(project: str) -> None:
    endpoint_id, _ = add_endpoint(project)
    announce(project)
    (slow,) = claim()
    work = begin(slow)
    assert work is not None
    let_pass(endpoint_id, 31)
    claim()
    before = deliveries(endpoint_id)[0].due_at
    assert record(slow, work, FAILED) is False
    assert endpoint(endpoint_id).failures == 0
    assert deliveries(endpoint_id)[0].due_at == before
    assert attempts(work.delivery_id)[0].status_code == 500


def test_a_deleted_endpoint_ends_its_deliveries(project: str) -> None:
    endpoint_id, _ = add_endpoint(project)
    announce(project, 2)
    (lane,) = claim()
    work = begin(lane)
    assert work is not None
    with db.transaction() as session:
        service.delete(session, project, endpoint_id)
    assert record(lane, work, OK) is False
    assert begin(lane) is None
    release(lane)
    assert deliveries(endpoint_id) == attempts(work.delivery_id) == []


def test_new_attempts_are_signed_with_the_new_secret_and_the_old_one_while_it_lasts(project: str) -> None:
    endpoint_id, old = add_endpoint(project)
    announce(project)
    assert letter_of(attempt(FAILED)) == [old]
    with db.transaction() as session:
        _, new = service.rotate_secret(session, project, endpoint_id, vault=VAULT, keep_old=True)
    let_pass(endpoint_id, 61)
    assert letter_of(attempt(FAILED, failing=True)) == [new, old]
    with db.transaction() as session:
        _, newest = service.rotate_secret(session, project, endpoint_id, vault=VAULT, keep_old=False)
    let_pass(endpoint_id, 61)
    assert letter_of(attempt(FAILED, failing=True)) == [newest]


def letter_of(work: Work) -> list[str]:
    assert work.letter is not None
    return list(work.letter.secrets)


def test_a_secret_that_cannot_be_read_is_a_failed_attempt(project: str) -> None:
    add_endpoint(project)
    announce(project)
    (lane,) = claim()
    work = begin(lane, Vault(secrets.new_key()))
    assert work is not None
    assert work.letter is None
    assert record(lane, work, lanes.UNREADABLE) is False
    (tried,) = attempts(work.delivery_id)
    assert (tried.error, tried.status_code) == ("secret_unreadable", None)


def test_secrets_are_sealed_again_under_a_new_key(project: str) -> None:
    endpoint_id, old = add_endpoint(project)
    with db.transaction() as session:
        _, new = service.rotate_secret(session, project, endpoint_id, vault=VAULT, keep_old=True)
    key = secrets.new_key()
    for expected in (1, 0):
        with db.transaction() as session:
            assert service.sweep_reseal(session, Vault(f"{key},{KEYS}")) == expected
    with db.reading() as session:
        assert service.secrets(session, endpoint(endpoint_id), Vault(key)) == [new, old]


def test_what_ended_long_ago_is_forgotten(project: str) -> None:
    endpoint_id, _ = add_endpoint(project)
    announce(project, 2)
    work = attempt(OK)
    for older_than, gone in ((HOUR, 0), (0.5 * HOUR, 1), (0, 0)):
        with db.transaction() as session:
            assert lanes.sweep_ended(session, older_than=older_than) == gone
        let_pass(endpoint_id, 0.6 * HOUR)
    assert attempts(work.delivery_id) == []
    assert [one.status for one in deliveries(endpoint_id)] == ["pending"]


def test_many_deliverers_take_each_lane_once(scratch_database: sa.Engine) -> None:
    project = add_project()
    ids = {add_endpoint(project)[0] for _ in range(20)}
    announce(project)
    with ThreadPoolExecutor(8) as pool:
        taken = [lane for claimed in pool.map(lambda _: claim(limit=4), range(16)) for lane in claimed]
    assert sorted(lane.endpoint_id for lane in taken) == sorted(ids)
    assert {lane.fence for lane in taken} == {1}


def test_cancel_and_success_at_once_make_one_webhook(scratch_database: sa.Engine) -> None:
    project = add_project()
    endpoint_id, _ = add_endpoint(project, "https://1.1.1.1", *(f"fine_tuning.job.{name}" for name in jobs.FINAL))
    ids = [add_job(project, status=jobs.RUNNING) for _ in range(20)]

    def end(pair: tuple[str, str]) -> Any:
        with db.transaction() as session:
            return transitions.move(session, pair[0], pair[1], note=None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, [(job_id, target) for job_id in ids for target in jobs.FINAL]))
    assert sorted(json.loads(one.body)["data"]["id"] for one in deliveries(endpoint_id)) == sorted(ids)


def test_deleting_an_endpoint_while_jobs_end_loses_no_job(scratch_database: sa.Engine) -> None:
    """A promise to an endpoint that is deleted beside it must not undo the end of a job."""
    project = add_project()
    for _ in range(10):
        endpoint_id, _ = add_endpoint(project)
        job_id = add_job(project, status=jobs.RUNNING)
        with ThreadPoolExecutor(2) as pool:
            ended = pool.submit(_succeed, job_id)
            gone = pool.submit(_delete, project, endpoint_id)
            assert ended.result() is not None
            gone.result()


def _succeed(job_id: str) -> Any:
    with db.transaction() as session:
        return transitions.move(session, job_id, jobs.SUCCEEDED, note=None)


def _delete(project: str, endpoint_id: str) -> None:
    with db.transaction() as session:
        service.delete(session, project, endpoint_id)


def test_the_last_place_of_a_project_is_taken_once(scratch_database: sa.Engine) -> None:
    project = add_project()
    request = EndpointRequest(name="x", url="https://1.1.1.1", event_types=[SUCCEEDED])

    def create(_: int) -> bool:
        try:
            with db.transaction() as session:
                service.create(session, project, request, vault=VAULT, most=3)
        except TooManyEndpoints:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 3
