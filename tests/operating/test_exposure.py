"""A server that others could reach does not start without keys, with everybody's password, or with its metrics open."""

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import db
from app.auth import service as auth
from app.cli.servers import _usable_keys
from app.config import Settings
from app.exposure import UnsafeSettings, refuse_unsafe

OPEN = "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_what_only_this_machine_reaches_is_let_be(host: str) -> None:
    refuse_unsafe(Settings(host=host, redis_url="redis://:changeme@127.0.0.1/0", log_level="DEBUG"), keys=0)


def test_an_open_server_without_keys_is_refused() -> None:
    with pytest.raises(UnsafeSettings, match="tunesmith keys create"):
        refuse_unsafe(Settings(host=OPEN), keys=0)
    refuse_unsafe(Settings(host=OPEN), keys=1)


def test_a_database_that_does_not_answer_is_no_reason_to_refuse() -> None:
    refuse_unsafe(Settings(host=OPEN), keys=None)


def test_everything_that_is_unsafe_is_named_at_once() -> None:
    settings = Settings(host=OPEN, redis_url="redis://:changeme@127.0.0.1/0", metrics_port=9400, metrics_host=OPEN)
    with pytest.raises(UnsafeSettings) as refused:
        refuse_unsafe(settings, keys=0)
    for name in ("TUNESMITH_REDIS_URL", "TUNESMITH_METRICS_TOKEN", "keys create", "TUNESMITH_DEVELOPMENT"):
        assert name in str(refused.value)


def test_development_lets_it_all_through() -> None:
    refuse_unsafe(Settings(host=OPEN, redis_url="redis://:changeme@127.0.0.1/0", development=True), keys=0)


def test_only_keys_that_open_something_count(database: sa.Connection) -> None:
    assert _usable_keys() == 0
    with db.transaction() as session:
        auth.create_key(session)
    assert _usable_keys() == 1
    database.execute(sa.text("UPDATE api_keys SET expires_at = now() - interval '1 second'"))
    assert _usable_keys() == 0


def test_the_command_ends_before_it_listens(scratch_database: sa.Engine, tmp_path: Path) -> None:
    environment = {
        "TUNESMITH_DATABASE_URL": scratch_database.url.render_as_string(hide_password=False),
        "TUNESMITH_STORAGE_URL": f"file://{tmp_path}",
    }
    started = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "api", "--host", OPEN, "--port", "0"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert started.returncode == 1
    assert "tunesmith keys create" in started.stderr.splitlines()[-1]
