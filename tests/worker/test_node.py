"""The frame around a worker's jobs: what a heartbeat may conclude, and what it may not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from job_rows import add_job, add_project, job

from app import db, storage
from app.config import Settings
from app.jobs import claims, states
from app.jobs.tables import Job
from worker.node import Held, Node

LEASE = 30.0


@pytest.fixture
def node(tmp_path: Path) -> Node:
    settings = Settings(storage_url=f"file://{tmp_path}", lease_seconds=LEASE)

    def run(_job: Job, _held: Held) -> None:
        raise AssertionError("nothing is run here")

    return Node("cpu", settings, storage.open_store(settings), slots=4, device_group=None, take=lambda _: None, run=run)


def claim(node: Node) -> Held:
    with db.transaction() as session:
        taken = claims.claim_validating(session, worker_id=node.id, lease_seconds=LEASE)
    assert taken is not None
    return Held(taken.id, taken.fence)


def hold(node: Node) -> Held:
    held = claim(node)
    node.held[held.job_id] = held
    return held


def during_the_beat(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen between the heartbeat's UPDATE and the look at its reply."""
    real = claims.heartbeat

    def heartbeat(session: db.Session, *, held: dict[str, int], lease_seconds: float) -> dict[str, str]:
        statuses = real(session, held=held, lease_seconds=lease_seconds)
        happens()
        return statuses

    monkeypatch.setattr(claims, "heartbeat", heartbeat)


def test_a_job_claimed_during_a_beat_is_not_lost(
    database: sa.Connection, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = add_project()
    add_job(project, status=states.VALIDATING)
    first = hold(node)
    add_job(project, status=states.VALIDATING)
    during_the_beat(monkeypatch, lambda: hold(node))
    node._beat()
    assert len(node.held) == 2
    assert not any(held.lost.is_set() for held in node.held.values())
    assert not first.lost.is_set()


def test_a_job_the_worker_lost_sight_of_is_not_kept_alive(database: sa.Connection, node: Node) -> None:
    add_job(add_project(), status=states.VALIDATING)
    unseen = claim(node)
    before = job(unseen.job_id).lease_until
    node._beat()
    assert job(unseen.job_id).lease_until == before


def test_a_job_that_is_another_workers_is_lost(database: sa.Connection, node: Node) -> None:
    add_job(add_project(), status=states.VALIDATING)
    held = hold(node)
    with db.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == held.job_id).values(fence=held.fence + 1, worker_id="other"))
    node._beat()
    assert held.lost.is_set()
