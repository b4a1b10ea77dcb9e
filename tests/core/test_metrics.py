"""The operator's port: what it shows, to whom, and what waits by project."""

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from job_rows import add_job, add_jobs, add_project
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from app import db, metrics, outbox
from app.backlog import Backlog
from app.config import Settings
from app.jobs import states
from app.workers import service as workers

LEASE = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return min(listener.getsockname()[1], 60000)


def get(server: metrics.Server, path: str, **headers: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return reply.read().decode()


def status(server: metrics.Server, path: str, **headers: str) -> int:
    try:
        get(server, path, **headers)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    return 200


@pytest.fixture
def server() -> Iterator[metrics.Server]:
    shown = metrics.serve(Settings(metrics_port=free_port()), alive=lambda: True)
    assert shown is not None
    yield shown
    shown.close()


def test_nothing_listens_unless_a_port_is_set() -> None:
    assert metrics.serve(Settings(), alive=lambda: True) is None


def test_metrics_are_in_the_text_format(server: metrics.Server) -> None:
    metrics.TRAINED_TOKENS.inc(0)
    families = {family.name: family for family in text_string_to_metric_families(get(server, "/metrics"))}
    assert families["tunesmith_trained_tokens"].type == "counter"
    assert families["tunesmith_step_seconds"].type == "histogram"
    assert "process_resident_memory_bytes" in families


def test_several_processes_of_one_machine_take_ports_in_turn(server: metrics.Server) -> None:
    second = metrics.serve(Settings(metrics_port=server.port), alive=lambda: True)
    assert second is not None
    try:
        assert server.port < second.port < server.port + metrics.PORTS
        assert "tunesmith_trained_tokens_total" in get(second, "/metrics")
    finally:
        second.close()


def test_nothing_else_is_there(server: metrics.Server) -> None:
    assert status(server, "/") == 404
    assert status(server, "/v1/files") == 404


def test_a_token_is_asked_for_where_one_is_set() -> None:
    settings = Settings(metrics_port=free_port(), metrics_token=SecretStr("s3same"))
    server = metrics.serve(settings, alive=lambda: True)
    assert server is not None
    try:
        assert status(server, "/metrics") == 401
        assert status(server, "/metrics", Authorization="Bearer s3sam") == 401
        assert status(server, "/metrics", Authorization="Bearer s3same") == 200
        assert status(server, "/healthz") == 200, "a probe has no token"
    finally:
        server.close()


def test_health_says_when_a_thread_has_died() -> None:
    well = True
    server = metrics.serve(Settings(metrics_port=free_port()), alive=lambda: well)
    assert server is not None
    try:
        assert status(server, "/healthz") == 200
        well = False
        assert status(server, "/healthz") == 503
    finally:
        server.close()


def shown(backlog: Backlog) -> dict[tuple[str, ...], float]:
    """Every sample: its name and its labels' values → its value."""
    samples = [sample for family in backlog.collect() for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_what_waits_is_counted_by_project(database: sa.Connection) -> None:
    one, other = add_project("one"), add_project("other")
    add_jobs(one, 3, queued_at=datetime.now(UTC) - timedelta(seconds=90))
    add_job(one, status=states.VALIDATING)
    add_job(other, status=states.VALIDATING, lease_until=datetime.now(UTC), worker_id="w")  # in hand: does not wait
    add_job(other, queued_at=datetime.now(UTC))
    with db.transaction() as session:
        outbox.put(session, outbox.DELETE_OBJECT, {"key": "k"})
        workers.register(session, "wkr_1", kind="cpu", host="h", device_group=None, slots=1)
    seen = shown(Backlog(LEASE))
    assert seen["tunesmith_database_up",] == 1
    assert seen["tunesmith_jobs_waiting", "queued", one] == 3
    assert seen["tunesmith_jobs_waiting", "validating_files", one] == 1
    assert seen["tunesmith_jobs_waiting", "queued", other] == 1
    assert ("tunesmith_jobs_waiting", "validating_files", other) not in seen
    assert 60 < seen["tunesmith_jobs_oldest_seconds", "queued", one] < 600
    assert seen["tunesmith_outbox_waiting", outbox.DELETE_OBJECT] == 1
    assert seen["tunesmith_outbox_lag_seconds", outbox.DELETE_OBJECT] >= 0
    assert (seen["tunesmith_workers", "cpu"], seen["tunesmith_workers", "gpu"]) == (1, 0)


def test_scrapers_share_one_look(database: sa.Connection) -> None:
    backlog, project = Backlog(LEASE), add_project()
    before = shown(backlog)
    add_job(project)
    assert shown(backlog) == before


def test_without_a_database_the_rest_is_still_shown() -> None:
    db.configure(db.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    assert shown(Backlog(LEASE)) == {("tunesmith_database_up",): 0.0}
