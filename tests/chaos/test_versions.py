"""Two versions side by side: a migration that is cut short, an older worker or API beside newer ones, and the way back.

There is no older release to run, so this code is the older one: the test writes what a newer one would.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import db
from app.embedded.postgres import Postgres
from app.jobs import hyperparameters, states
from migrations import run as migrations
from tests.chaos import child, recorder
from tests.chaos.child import Point
from tests.chaos.client import Client
from tests.chaos.fake_engine import STEP_SECONDS
from tests.chaos.world import SLOW, World, lines, until
from tests.operating.test_migrations import schema
from worker import supervisor


@contextmanager
def empty_database(postgres: Postgres, name: str) -> Iterator[sa.Engine]:
    admin = db.create_engine(postgres.database_url("postgres")).execution_options(isolation_level="AUTOCOMMIT")
    engine = db.create_engine(postgres.database_url(name))
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE template0"))
        yield engine
        engine.dispose()
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def test_F65_a_migrator_is_killed_after_each_statement(postgres: Postgres, tmp_path: Path) -> None:
    """Half of a migration is never there, and whoever comes next goes on to the very same schema."""
    whole: dict[str | None, str] = {}
    with empty_database(postgres, "migrated_in_peace") as engine:
        whole[None] = schema(postgres, engine)
        while (found := migrations.revisions(engine))[0] != found[1]:
            migrations.upgrade(engine, "+1")
            whole[migrations.revisions(engine)[0]] = schema(postgres, engine)
    with empty_database(postgres, "migrated_with_kills") as engine:
        revision, kills, nth = None, 0, 1
        while _dies(postgres, engine, tmp_path, nth):
            kills += 1
            until(lambda: _strangers(engine) == 0, what="the dead migrator's session ends")
            before, revision = revision, migrations.revisions(engine)[0]
            assert schema(postgres, engine) == whole[revision], (revision, nth)
            nth = nth + 1 if revision == before else 1
        assert kills > 2 * len(whole), "it was killed in the middle of migrations"
        assert schema(postgres, engine) == whole[migrations.revisions(engine)[1]]
        migrations.drift(engine)


def _dies(postgres: Postgres, engine: sa.Engine, folder: Path, nth: int) -> bool:
    """Start a migrator that is to die after its nth statement; whether it had so many."""
    environment = {**os.environ, "TUNESMITH_DATABASE_URL": postgres.database_url(str(engine.url.database))}
    migrator = child.start("migrate", environment, log=folder / "log", points=[Point(child.STATEMENT, nth=nth)])
    migrator.join(60 * SLOW)
    assert migrator.exitcode in {0, -signal.SIGKILL}, (folder / "log").read_text()
    return migrator.exitcode != 0


def _strangers(engine: sa.Engine) -> int:
    """How many sessions of others the database has."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with engine.connect() as connection:
        return connection.scalar(sa.text(query)) or 0


NEWER_SCHEMA = """
    ALTER TABLE jobs ADD COLUMN novel jsonb;
    ALTER TABLE jobs ADD COLUMN novel_count integer NOT NULL DEFAULT 7;
    ALTER TABLE events ADD COLUMN novel text NOT NULL DEFAULT 'n';
    ALTER TABLE workers ADD COLUMN novel boolean NOT NULL DEFAULT false;
    ALTER TABLE tuned_models ADD COLUMN novel text;
    ALTER TABLE files ADD COLUMN novel bigint;
    CREATE TABLE novelties (id text PRIMARY KEY, job_id text REFERENCES jobs (id), at timestamptz DEFAULT now());
    CREATE INDEX ix_jobs_novel ON jobs (novel_count);
    UPDATE alembic_version SET version_num = '9999';
"""


def statements(world: World, text: str, **values: object) -> None:
    with world.engine.begin() as connection:
        for statement in text.split(";"):
            if statement.strip():
                connection.execute(sa.text(statement), values)


def test_F66_older_workers_leave_what_a_newer_api_let_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a newer schema they do all they know; a setting or a method that they do not know waits for others."""
    statements(world, NEWER_SCHEMA)
    queued = world.queued(2, n_epochs=1)
    fresh = [world.create(lines(12), n_epochs=1) for _ in range(3)]
    novel_setting = "UPDATE jobs SET request = request || '{\"novel_setting\": 3}' WHERE id = ANY(:jobs)"
    statements(world, novel_setting, jobs=[queued[0], fresh[0]])
    statements(world, "UPDATE jobs SET method = 'novel_method' WHERE id = :job", job=fresh[1])
    beyond, known = [queued[0], *fresh[:2]], [queued[1], fresh[2]]
    world.spawn("cpu")
    world.spawn("gpu", **{STEP_SECONDS: 0.005})
    later = world.create(lines(12), n_epochs=1)
    known.append(later)
    ended = world.settle(known)
    assert {job.status for job in ended} == {states.SUCCEEDED}, world.logs()
    for job_id, status, fence in zip(
        beyond, (states.QUEUED, states.VALIDATING, states.VALIDATING), (1, 0, 0), strict=True
    ):
        job = world.job(job_id)
        assert (job.status, job.fence, job.attempts) == (status, fence, {}), "nobody has touched it"
    monkeypatch.setattr(hyperparameters, "KNOWN", (*hyperparameters.KNOWN, "novel_setting"))
    world.rescue()
    world.settle([queued[0], fresh[0]])
    world.check([*known, queued[0], fresh[0]])
    assert world.job(fresh[1]).fence == 0, "its method is still nobody's"


NEWER_ROWS = """
    INSERT INTO events (id, job_id, level, type, message, data)
    VALUES ('ftevent-novel', :job, 'novel', 'novel', 'Something new', '{"novel": {"a": [1]}}');
    UPDATE jobs SET phase = 'novel', attempts = attempts || '{"novel": 3}', resolved = resolved || '{"novel": 0.5}',
                    request = request || '{"novel": "auto"}', integrations = '[{"type": "novel", "novel": {"a": 1}}]'
    WHERE id = :job;
    UPDATE jobs SET error = '{"code": "novel", "message": "New.", "param": null, "novel": 1}' WHERE id = :failed;
    UPDATE checkpoints SET metrics = metrics || '{"novel": 0.5}' WHERE job_id = :job;
    UPDATE tuned_models SET source = 'novel' WHERE job_id = :job;
    INSERT INTO outbox (kind, payload) VALUES ('novel', '{"a": 1}');
    INSERT INTO workers (id, kind, host, slots, free_slots, version) VALUES ('wkr_novel', 'novel', 'h', 1, 1, '99.0')
"""


def test_F66_an_older_api_shows_what_newer_workers_wrote(world: World) -> None:
    """Every list and object is answered, and jobs go on to be created and trained beside it."""
    statements(world, NEWER_SCHEMA)
    job, failed = world.create(lines(12)), world.create(b'{"messages": []}\n')
    world.rescue()
    world.settle([job, failed])
    statements(world, NEWER_ROWS, job=job, failed=failed)
    client = Client(world)
    of_job = f"/v1/fine_tuning/jobs/{job}"
    for path in (
        "/readyz", "/v1/models", "/v1/files", "/v1/fine_tuning/jobs",
        of_job, f"{of_job}/events", f"{of_job}/checkpoints",
        f"/v1/fine_tuning/jobs/{failed}", f"/v1/fine_tuning/jobs/{failed}/events",
        f"/v1/models/{world.job(job).fine_tuned_model}", f"/v1/files/{world.job(job).result_file}/content",
    ):  # fmt: skip
        assert client.get(path).status_code == 200, (path, world.logs())
    told = client.get(f"{of_job}/events").json()["data"]
    assert [event["message"] for event in told if event["id"] == "ftevent-novel"] == ["Something new"]
    another = client.create_job(world.add_file(lines(12)))
    world.settle([another])
    with db.reading() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM outbox WHERE kind = 'novel'")) == 1, "left for the newer"
    statements(world, "DELETE FROM outbox WHERE kind = 'novel'")
    world.check([another])


@pytest.mark.timeout(900)
def test_F68_an_older_engine_finds_a_newer_resume_state(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a downgrade: the state is refused once and thrown away, an event says so, and the job begins again."""
    monkeypatch.setattr(supervisor, "MODULE", "worker.engine")
    (job,) = world.queued(1, n_epochs=20, deterministic=True)
    newer = world.spawn("gpu", engine="tests.chaos.newer_engine")
    until(lambda: world.job(job).resume_step > 3, seconds=120 * SLOW, what=world.logs())
    newer.terminate()
    newer.join(world.settings.drain_seconds)
    handed = world.job(job)
    assert (handed.status, handed.attempts) == (states.QUEUED, {}), world.logs()
    assert _version_of_state(world, handed.resume_prefix or "") == 4
    (quiet,) = world.queued(1, n_epochs=20, deterministic=True)
    world.rescue("gpu")
    world.settle([job, quiet])
    expected = dict.fromkeys([job, quiet], recorder.weights(world, quiet))
    told = [event.message for event in world.events(job)]
    assert told.count("The job lost its state and was put back into the queue; it goes on from step 0") == 1
    history = world.check([job, quiet], undisturbed=expected)
    attempts = world.job(job).attempts
    assert (attempts["bad_resume"], attempts["total"]) == (1, 1)
    fences = [version.fence for version in history.versions if version.job == job]
    assert max(fences) == 4, "prepared, trained by the newer, refused by the older, trained again"


def _version_of_state(world: World, prefix: str) -> int:
    return int(json.loads(b"".join(world.store.read(prefix + "state.json")))["version"])
