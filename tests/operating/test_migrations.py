"""Migrations while others use the database: additive, never in anybody's way, up and down and up again."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from app.embedded.postgres import Postgres, binary
from migrations import run as migrations

LAST_BEFORE_A_RELEASE = "0007"  # nobody runs an older schema, so what came before need not be additive
LATEST = "0008"


def later_revisions() -> list[str]:
    script = ScriptDirectory(str(migrations.HERE))
    return [revision.revision for revision in script.walk_revisions() if revision.revision > LAST_BEFORE_A_RELEASE]


def breaks(statement: str, made: set[str]) -> str:
    """Why a statement must not run beside programs of the version before; empty if it may.

    made: the tables that are new.
    """
    text = " ".join(statement.split()).upper()
    table = re.match(r"(?:ALTER TABLE|CREATE (?:UNIQUE )?INDEX (?:CONCURRENTLY )?\S+ ON) (\S+)", text)
    if table and table[1] in made:
        return ""
    rules = {
        r"DROP (TABLE|COLUMN)|^ALTER TABLE .* DROP (COLUMN|CONSTRAINT)": "others still use what is dropped",
        r"\bRENAME\b": "others know the old name",
        r"ALTER COLUMN .* TYPE ": "the table is written anew under a lock",
        r"SET NOT NULL": "others may still write NULL",
        r"ADD COLUMN (?!.*(DEFAULT|IDENTITY)).*NOT NULL": "others do not fill the new column",
        r"^CREATE (UNIQUE )?INDEX (?!CONCURRENTLY)": "writers wait until the index is built",
        r"ADD CONSTRAINT (?!.*NOT VALID)": "the table is read under a lock",
        r"^(UPDATE|DELETE FROM) (?!ALEMBIC_VERSION)": "rows are locked until the migration ends",
    }
    return next((why for rule, why in rules.items() if re.search(rule, text)), "")


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("ALTER TABLE jobs ADD COLUMN trace VARCHAR", True),
        ("ALTER TABLE jobs ADD COLUMN n INTEGER DEFAULT 0 NOT NULL", True),
        ("ALTER TABLE jobs ADD COLUMN n INTEGER NOT NULL", False),
        ("ALTER TABLE jobs DROP COLUMN seed", False),
        ("ALTER TABLE jobs RENAME COLUMN seed TO grain", False),
        ("ALTER TABLE jobs ALTER COLUMN seed TYPE BIGINT", False),
        ("ALTER TABLE jobs ALTER COLUMN suffix SET NOT NULL", False),
        ("CREATE INDEX ix ON jobs (seed)", False),
        ("CREATE INDEX CONCURRENTLY ix ON jobs (seed)", True),
        ("ALTER TABLE jobs ADD CONSTRAINT c CHECK (seed > 0)", False),
        ("ALTER TABLE jobs ADD CONSTRAINT c CHECK (seed > 0) NOT VALID", True),
        ("UPDATE jobs SET seed = 0", False),
        ("CREATE TABLE made (id TEXT)", True),
        ("CREATE INDEX ix_made ON made (id)", True),
        ("DROP TABLE jobs", False),
    ],
)
def test_what_counts_as_additive(statement: str, allowed: bool) -> None:
    assert (breaks(statement, {"MADE"}) == "") is allowed


@pytest.fixture
def statements(scratch_database: sa.Engine) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sa.event.listen(scratch_database, "before_cursor_execute", note)
    yield seen
    sa.event.remove(scratch_database, "before_cursor_execute", note)


@pytest.mark.parametrize("revision", later_revisions())
def test_a_migration_is_additive(scratch_database: sa.Engine, statements: list[str], revision: str) -> None:
    before = f"{int(revision) - 1:04}"
    migrations.downgrade(scratch_database, before)
    statements.clear()
    migrations.upgrade(scratch_database, revision)
    made = {name.upper() for s in statements for name in re.findall(r"CREATE TABLE (\S+)", s)}
    assert len(statements) > 3, "the migration did something"
    assert {s: why for s in statements if (why := breaks(s, made))} == {}


def schema(postgres: Postgres, engine: sa.Engine) -> str:
    """The whole schema in SQL, constraints, indexes and functions included."""
    ask = [binary("pg_dump"), "--schema-only", "--no-owner", "-h", str(postgres.sockets), "-U", "tunesmith"]
    dump = subprocess.run([*ask, str(engine.url.database)], capture_output=True, text=True, check=True).stdout
    return re.sub(r"^\\(un)?restrict .*$", "", dump, flags=re.MULTILINE)  # a random word, new in every dump


def test_every_step_up_can_be_taken_back_and_gives_the_same_again(
    postgres: Postgres, scratch_database: sa.Engine
) -> None:
    newest = int(LATEST)
    migrations.downgrade(scratch_database, "0001")
    for number in range(2, newest + 1):
        below = schema(postgres, scratch_database)
        migrations.upgrade(scratch_database, f"{number:04}")
        above = schema(postgres, scratch_database)
        assert above != below
        migrations.downgrade(scratch_database, f"{number - 1:04}")
        assert schema(postgres, scratch_database) == below, number
        migrations.upgrade(scratch_database, f"{number:04}")
        assert schema(postgres, scratch_database) == above, number
    assert migrations.revisions(scratch_database) == (LATEST, LATEST)
    migrations.drift(scratch_database)


def test_drift_is_noticed(scratch_database: sa.Engine) -> None:
    with scratch_database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE jobs ALTER COLUMN suffix SET NOT NULL"))
    with pytest.raises(Exception, match="modify_nullable"):
        migrations.drift(scratch_database)


def test_race_a_migration_waits_for_a_long_reader_and_nobody_waits_for_it(
    scratch_database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations.downgrade(scratch_database, "0007")
    gave_up = threading.Event()
    monkeypatch.setattr(migrations.log, "warning", lambda *_, **__: gave_up.set())
    monkeypatch.setattr(migrations, "PAUSE_SECONDS", 0.05)
    done = threading.Thread(target=migrations.upgrade, args=(scratch_database,))
    with scratch_database.connect() as reader, reader.begin():
        reader.execute(sa.text("SELECT count(*) FROM jobs"))  # holds the table until the transaction ends
        done.start()
        assert gave_up.wait(60), "it does not wait for ever while others queue behind it"
        with scratch_database.begin() as writer:
            writer.execute(sa.text("SET LOCAL lock_timeout = '60s'"))
            writer.execute(sa.text("UPDATE jobs SET seed = seed"))
        assert migrations.revisions(scratch_database)[0] == "0007"
    done.join(60)
    assert migrations.revisions(scratch_database)[0] == LATEST


def test_a_lock_that_is_never_to_be_had_is_an_error(scratch_database: sa.Engine) -> None:
    migrations.downgrade(scratch_database, "0007")
    with scratch_database.connect() as reader, reader.begin():
        reader.execute(sa.text("SELECT count(*) FROM jobs"))
        with pytest.raises(sa.exc.OperationalError) as error:
            migrations.upgrade(scratch_database, patience_seconds=0)
    assert isinstance(error.value.orig, psycopg.errors.LockNotAvailable)
    migrations.upgrade(scratch_database)
    with scratch_database.begin() as connection:
        assert connection.scalar(sa.text("SHOW lock_timeout")) == "0", "and nothing of it stays with the connection"


def test_a_version_that_came_back_leaves_the_newer_schema_as_it_is(scratch_database: sa.Engine) -> None:
    with scratch_database.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    environment = {"TUNESMITH_DATABASE_URL": scratch_database.url.render_as_string(hide_password=False)}
    migrate = [sys.executable, "-m", "app.cli.main", "migrate"]
    done = subprocess.run(migrate, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "newer" in done.stdout
    assert migrations.revisions(scratch_database) == ("9999", LATEST)


def test_race_two_machines_migrate_at_once(scratch_database: sa.Engine) -> None:
    migrations.downgrade(scratch_database, "base")
    environment = {"TUNESMITH_DATABASE_URL": scratch_database.url.render_as_string(hide_password=False)}
    migrate = [sys.executable, "-m", "app.cli.main", "migrate"]
    machines = [subprocess.Popen(migrate, env=environment, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [machine.wait(120) for machine in machines] == [0, 0, 0]
    migrations.drift(scratch_database)
