"""Deliveries, endpoint by endpoint: who serves a lane, what is next on it, and what comes of an attempt.

Each endpoint is a lane of its own. One deliverer holds it at a time, under a lease and a fence; if that one dies, the
lease runs out and another goes on. A lane whose last attempt failed rests a little before the next, so that a dead
endpoint costs an attempt a minute and no more; the failed delivery itself waits by its own, longer schedule, and the
others go on meanwhile. Delivery is at least once: whoever dies between request and note leaves it to be sent again,
under the same webhook-id.
"""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from app.db import Session
from app.secrets import Vault
from app.webhooks import service, states
from app.webhooks.errors import SecretUnreadable
from app.webhooks.sending import SECRET_UNREADABLE, Letter, Outcome
from app.webhooks.tables import Attempt, Delivery, Endpoint

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 3 * 3600.0  # seconds between the attempts at one delivery; doubles
FIRST_REST, LONGEST_REST = 1.0, 60.0  # seconds a lane rests after a failure; doubles
GIVEN_UP_AFTER = timedelta(hours=72)
UNREADABLE = Outcome(error=SECRET_UNREADABLE, message=str(SecretUnreadable()))


@dataclass(frozen=True)
class Lane:
    """An endpoint in a deliverer's hands."""

    endpoint_id: str
    fence: int
    failing: bool  # its last attempt failed


@dataclass(frozen=True)
class Work:
    """One attempt, already counted. letter: None if it cannot be signed; pause: to the next, should this one fail."""

    delivery_id: str
    number: int
    letter: Letter | None
    pause: float


def claim(session: Session, *, limit: int, failing: bool, lease_seconds: float) -> list[Lane]:
    """Take some lanes on which something is due, those first that waited longest.

    failing: those whose last attempt failed, which are claimed apart so that they cannot crowd out the others.
    """
    now = sa.func.now()
    due = sa.exists().where(
        Delivery.endpoint_id == Endpoint.id, Delivery.status == states.PENDING, Delivery.due_at <= now
    )
    query = (
        sa.select(Endpoint)
        .where(
            Endpoint.failures > 0 if failing else Endpoint.failures == 0,
            sa.or_(Endpoint.lease_until.is_(None), Endpoint.lease_until < now),
            sa.or_(Endpoint.rests_until.is_(None), Endpoint.rests_until <= now),
            due,
        )
        .order_by(Endpoint.served_at.asc().nulls_first(), Endpoint.id)
        .limit(limit)
    )
    # Not FOR UPDATE: that would keep whoever announces an event waiting.
    endpoints = session.scalars(query.with_for_update(skip_locked=True, key_share=True)).all()
    for endpoint in endpoints:
        endpoint.fence += 1
        endpoint.lease_until = now + timedelta(seconds=lease_seconds)
        endpoint.served_at = now
    return [Lane(endpoint.id, endpoint.fence, failing) for endpoint in endpoints]


def next_work(session: Session, lane: Lane, vault: Vault, *, jitter: float) -> Work | None:
    """Count an attempt at what has been due longest; None if nothing is, or the lane is another's.

    The delivery is put off before it is tried: if nobody lives to say what came of it, it comes due again by itself.
    """
    endpoint = _locked(session, lane)
    if endpoint is None or endpoint.fence != lane.fence:
        return None
    waiting = sa.select(Delivery, sa.func.now()).where(
        Delivery.endpoint_id == endpoint.id, Delivery.status == states.PENDING, Delivery.due_at <= sa.func.now()
    )
    found = session.execute(waiting.order_by(Delivery.due_at, Delivery.seq).limit(1)).one_or_none()
    if found is None:
        return None
    delivery, now = found
    delivery.attempts += 1
    pause = pause_after(delivery.attempts, jitter)
    delivery.due_at = now + timedelta(seconds=pause)
    session.add(Attempt(delivery_id=delivery.id, number=delivery.attempts))
    letter = _letter(session, endpoint, delivery, int(now.timestamp()), vault)
    return Work(delivery.id, delivery.attempts, letter, pause)


def record(session: Session, lane: Lane, work: Work, outcome: Outcome) -> bool:
    """Note what came of an attempt; whether the lane may go on at once.

    Locks endpoint, delivery and attempt in the order in which deleting an endpoint does.
    """
    endpoint = _locked(session, lane)
    if endpoint is None:
        return False  # deleted meanwhile, with all that was to be delivered
    mine = endpoint.fence == lane.fence
    if outcome.delivered:
        _end(session, work.delivery_id)  # it has arrived, whoever holds the lane by now
    elif mine:
        _put_off(session, work, outcome)
    _note(session, work, outcome)
    if mine and outcome.delivered and endpoint.failures:
        endpoint.failures, endpoint.rests_until = 0, None
    elif mine and not outcome.delivered:
        endpoint.failures += 1
        endpoint.rests_until = sa.func.now() + timedelta(seconds=rest_after(endpoint.failures, outcome))
    return mine and outcome.delivered


def release(session: Session, lane: Lane) -> None:
    """Let a lane go, for whoever comes next."""
    mine = sa.update(Endpoint).where(Endpoint.id == lane.endpoint_id, Endpoint.fence == lane.fence)
    session.execute(mine.values(lease_until=None))


def sweep_ended(session: Session, *, older_than: float, limit: int = 1000) -> int:
    """Forget deliveries that ended so many seconds ago, with their attempts; how many."""
    old = Delivery.ended_at < sa.func.now() - timedelta(seconds=older_than)
    chosen = sa.select(Delivery.id).where(old).limit(limit).with_for_update(skip_locked=True)
    gone = sa.delete(Delivery).where(Delivery.id.in_(session.scalars(chosen).all())).returning(Delivery.id)
    return len(session.scalars(gone).all())


def pause_after(attempts: int, jitter: float) -> float:
    """Seconds from one attempt at a delivery to the next: doubling, spread by a quarter. jitter: from 0 to 1."""
    pause = min(FIRST_PAUSE * 2 ** min(attempts - 1, 30), LONGEST_PAUSE)
    return pause * (0.75 + 0.5 * jitter)


def rest_after(failures: int, outcome: Outcome) -> float:
    """Seconds a lane rests after so many failures in a row; longer, within bounds, if the endpoint asks for it."""
    rest = FIRST_REST * 2 ** min(failures - 1, 30)
    return min(max(rest, _asked(outcome)), LONGEST_REST)


def _asked(outcome: Outcome) -> float:
    """What `Retry-After` asks for, in seconds; dates are not read."""
    text = outcome.retry_after or ""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


def _locked(session: Session, lane: Lane) -> Endpoint | None:
    return session.scalar(sa.select(Endpoint).where(Endpoint.id == lane.endpoint_id).with_for_update(key_share=True))


def _letter(session: Session, endpoint: Endpoint, delivery: Delivery, now: int, vault: Vault) -> Letter | None:
    try:
        secrets = service.secrets(session, endpoint, vault)
    except SecretUnreadable:
        return None
    return Letter(endpoint.url, secrets, delivery.id, now, delivery.body.encode())


def _note(session: Session, work: Work, outcome: Outcome) -> None:
    """Write the outcome on the attempt."""
    session.execute(
        sa.update(Attempt)
        .where(Attempt.delivery_id == work.delivery_id, Attempt.number == work.number)
        .values(
            seconds=outcome.seconds,
            status_code=outcome.status,
            error=outcome.error,
            error_message=outcome.message,
            response_body=outcome.body,
        )
    )


def _put_off(session: Session, work: Work, outcome: Outcome) -> None:
    """Let a delivery wait for its next attempt, or give it up if that would come too late."""
    wait = timedelta(seconds=max(work.pause, min(_asked(outcome), LONGEST_PAUSE)))
    delivery = sa.update(Delivery).where(Delivery.id == work.delivery_id, Delivery.status == states.PENDING)
    in_time = Delivery.created_at + GIVEN_UP_AFTER > sa.func.now() + wait
    session.execute(delivery.where(in_time).values(due_at=sa.func.now() + wait))
    session.execute(delivery.where(~in_time).values(status=states.GIVEN_UP, ended_at=sa.func.now()))


def _end(session: Session, delivery_id: str) -> None:
    pending = sa.update(Delivery).where(Delivery.id == delivery_id, Delivery.status == states.PENDING)
    session.execute(pending.values(status=states.DELIVERED, ended_at=sa.func.now()))
