"""The frame around a worker's jobs: what a heartbeat may conclude, and what it may not."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from job_rows import add_job, add_project, job

from app import db, storage
from app.config import Settings
from app.jobs import claims, states
from app.jobs.tables import Job
from app.workers import service as workers
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
    return Held(taken.id, taken.fence, until=time.monotonic() + LEASE)


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
    assert not any(held.lost for held in node.held.values())
    assert not first.lost


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
    assert held.lost


def test_a_job_claimed_again_by_its_own_worker_waits_until_the_earlier_run_has_cleared_up(node: Node) -> None:
    """It was lost while the process stood still: its engine, for one, still has it."""
    running, look, order = threading.Event(), threading.Event(), []
    jobs = [Job(id="ftjob-1", fence=1), Job(id="ftjob-1", fence=2)]
    seen: dict[int, Held] = {}

    def run(job: Job, held: Held) -> None:
        seen[job.fence] = held
        if job.fence == 1:
            running.set()
            while not held.lost:
                time.sleep(0.001)
        else:
            assert look.wait(10)
        order.append(job.fence)

    node._take, node._run = lambda _: jobs.pop(0), run
    node._start_one()
    assert running.wait(10)
    node._start_one()
    assert node.running == 1, "they share one slot"
    second = node.held["ftjob-1"]
    look.set()
    assert second.ended.wait(10)
    assert order == [1, 2]
    assert seen[1].lost
    assert not seen[2].lost
    assert node.running == 0


def test_a_heart_goes_on_beating_whatever_happens(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    troubles: list[Exception] = [sa.exc.InternalError("UPDATE", {}, Exception("read-only")), RuntimeError("a fault")]

    def beat() -> None:
        if troubles:
            raise troubles.pop(0)
        node._ended.set()

    monkeypatch.setattr(node, "_beat", beat)
    node.settings.heartbeat_seconds = 0.001
    thread = threading.Thread(target=node._heartbeat_loop, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_a_worker_that_was_forgotten_registers_again(database: sa.Connection, node: Node) -> None:
    node._beat()
    with db.reading() as session:
        assert [worker.id for worker in workers.living(session, 60)] == [node.id]


def test_a_worker_without_room_on_its_disk_claims_nothing(node: Node, tmp_path: Path) -> None:
    node.settings.scratch_dir = tmp_path
    assert node._may_claim()
    node.settings.min_free_bytes = 2**62
    assert not node._may_claim()
