"""What the doctor says of a deployment that is well, and of each thing that can be wrong with one."""

import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from live_server import write_catalog
from typer.testing import CliRunner

from app import db, doctor
from app.auth import service as auth
from app.auth.tables import Project
from app.cli.main import app
from app.config import Settings
from app.doctor import Finding
from app.embedded.redis import Redis
from app.secrets import Vault, new_key
from app.webhooks import service as webhooks
from app.webhooks.schemas import EndpointRequest
from app.workers import service as workers
from app.workers.service import Condition
from migrations import run as migrations

BASE = "tiny-chat@local:none:auto"


@pytest.fixture
def settings(scratch_database: sa.Engine, tmp_path: Path) -> Settings:
    """A deployment that is well, but for Redis."""
    with db.transaction() as session:
        auth.create_key(session)
        for kind in (workers.CPU, workers.GPU):
            workers.register(session, f"wkr_{kind}", kind=kind, host="here", device_group=None, slots=4)
        workers.beat(session, "wkr_gpu", Condition(BASE, 3, draining=False))
    path = write_catalog(tmp_path)
    (tmp_path / "tiny-chat" / "model.safetensors").write_bytes(b"")
    return Settings(
        database_url=scratch_database.url.render_as_string(hide_password=False),
        storage_url=f"file://{tmp_path}/objects",
        catalog_path=path,
        models_dir=tmp_path / "models",
        scratch_dir=tmp_path / "scratch",
    )


@pytest.fixture(autouse=True)
def bound_again(scratch_database: sa.Engine) -> Iterator[None]:
    """The doctor binds `app.db` to what it examines."""
    yield
    db.configure(scratch_database)


def changed(settings: Settings, **changes: Any) -> Settings:
    return Settings(**(settings.model_dump() | changes))


def failures(found: list[Finding]) -> list[str]:
    return [finding.check for finding in found if finding.state == "fail"]


def the(found: list[Finding], check: str) -> Finding:
    """The worst finding of a check."""
    return max((f for f in found if f.check == check), key=lambda finding: ["ok", "warn", "fail"].index(finding.state))


def test_a_deployment_that_is_well(settings: Settings) -> None:
    found = doctor.examine(settings)
    assert failures(found) == []
    assert [finding for finding in found if finding.state != "ok" and not finding.fix] == []
    assert any(BASE in finding.message and "3 of 4 slots" in finding.message for finding in found)
    assert "tiny-chat" in the(found, "catalogue").message
    assert list((Path(settings.storage_url.removeprefix("file://"))).rglob("*")) == [], "nothing is left behind"


def test_no_database(settings: Settings) -> None:
    found = doctor.examine(changed(settings, database_url="postgresql+psycopg://nobody@127.0.0.1:1/none"))
    assert failures(found) == ["postgres"]
    assert "TUNESMITH_DATABASE_URL" in the(found, "postgres").fix
    assert the(found, "objects").state == "ok", "the rest is looked at all the same"


def test_a_schema_that_is_behind(settings: Settings, scratch_database: sa.Engine) -> None:
    migrations.downgrade(scratch_database, "0001")
    found = doctor.examine(settings)
    assert failures(found) == ["postgres"]
    assert "tunesmith migrate" in the(found, "postgres").fix


def test_a_url_that_is_none(settings: Settings) -> None:
    found = doctor.examine(changed(settings, database_url="localhost:5432"))
    assert failures(found) == ["postgres"]
    assert "postgresql+psycopg://" in the(found, "postgres").fix


def test_wrong_credentials(settings: Settings) -> None:
    url = sa.make_url(settings.database_url)
    wrong = changed(settings, database_url=url.set(username="stranger").render_as_string(hide_password=False))
    found = doctor.examine(wrong)
    assert failures(found) == ["postgres"]
    assert "stranger" in the(found, "postgres").message
    assert "user, password" in the(found, "postgres").fix


def test_a_user_that_may_not_read_the_tables(settings: Settings, scratch_database: sa.Engine) -> None:
    role = f"guest_{secrets.token_hex(4)}"
    with scratch_database.begin() as connection:
        connection.execute(sa.text(f"CREATE ROLE {role} LOGIN"))
    url = sa.make_url(settings.database_url).set(username=role)
    found = doctor.examine(changed(settings, database_url=url.render_as_string(hide_password=False)))
    with scratch_database.begin() as connection:
        connection.execute(sa.text(f"DROP ROLE {role}"))
    assert failures(found) == ["postgres"]
    assert "permission denied" in the(found, "postgres").message
    assert "own the tables" in the(found, "postgres").fix


def test_a_schema_newer_than_the_program(settings: Settings, scratch_database: sa.Engine) -> None:
    with scratch_database.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    found = doctor.examine(settings)
    assert failures(found) == []
    assert "newer than this program's" in the(found, "postgres").message


def test_an_empty_database(settings: Settings, scratch_database: sa.Engine) -> None:
    migrations.downgrade(scratch_database, "base")
    found = doctor.examine(settings)
    assert failures(found) == ["postgres"]
    assert "tunesmith migrate" in the(found, "postgres").fix


def test_few_connections_left(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MANY_CONNECTIONS", 0.0)
    assert "max_connections" in the(doctor.examine(settings), "postgres").fix


def test_clocks_that_differ(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    found = the(doctor.examine(settings), "clock")
    assert found.state == "warn"
    assert "+3600." in found.message
    assert "NTP" in found.fix


def test_keys_that_do_not_open_what_was_sealed(settings: Settings) -> None:
    ours, other = new_key(), new_key()
    with db.transaction() as session:
        request = EndpointRequest(name="n", url="https://example.com", event_types=["fine_tuning.job.succeeded"])
        project = session.scalars(sa.select(Project.id)).first() or ""
        webhooks.create(session, project, request, vault=Vault(ours), most=1)
    assert the(doctor.examine(changed(settings, secret_keys=f"{other},{ours}")), "secrets").state == "ok"
    lost = the(doctor.examine(changed(settings, secret_keys=other)), "secrets")
    assert (lost.state, lost.message) == ("fail", "1 of 1 webhook secrets cannot be opened")
    assert "TUNESMITH_SECRET_KEYS" in lost.fix


def test_no_keys_and_no_workers(settings: Settings, scratch_database: sa.Engine) -> None:
    with scratch_database.begin() as connection:
        connection.execute(sa.text("UPDATE api_keys SET revoked_at = now()"))
        connection.execute(sa.text("UPDATE workers SET last_seen = now() - interval '1 hour'"))
    found = doctor.examine(settings)
    assert failures(found) == ["keys", "workers", "workers"]
    assert "tunesmith keys create" in the(found, "keys").fix
    assert {f.fix for f in found if f.check == "workers"} == {
        "start `tunesmith worker cpu`",
        "start `tunesmith worker gpu`",
    }


def test_a_store_that_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert failures(doctor.examine(changed(settings, storage_url=f"file://{tmp_path}/file"))) == ["objects"]


def test_a_store_that_keeps_what_is_deleted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.storage.FolderStore.delete", lambda self, key: None)
    assert "deleting" in the(doctor.examine(settings), "objects").message


def test_a_redis_that_is_gone_only_slows_down(settings: Settings) -> None:
    found = doctor.examine(changed(settings, redis_url="redis://127.0.0.1:1/0"))
    assert failures(found) == []
    assert the(found, "redis").state == "warn"


def test_a_redis_that_wants_another_password(settings: Settings) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's are closed to the servers' user, and too long for a socket
    folder.chmod(0o711)
    server = Redis(folder)
    server.start()
    try:
        well = changed(settings, redis_url=server.url)
        assert the(doctor.examine(well), "redis").state == "ok"
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", "s3same")
        found = the(doctor.examine(well), "redis")
        assert found.state == "warn"
        assert "authenticated" in found.message
        assert "password" in found.fix
    finally:
        server.stop()
        shutil.rmtree(folder)


def test_a_base_model_without_its_weights(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "tiny-chat" / "model.safetensors").unlink()
    assert "catalog pull tiny-chat" in the(doctor.examine(settings), "catalogue").fix


def test_a_full_disk(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 1 << 62)
    assert the(doctor.examine(settings), "disk").state == "warn"


def test_a_key_file_that_others_may_read(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    path.write_text("sk-…")
    path.chmod(0o644)
    assert the(doctor.examine(settings, (path,)), "files").fix == f"chmod 600 {path}"
    path.chmod(0o600)
    assert the(doctor.examine(settings, (path,)), "files").state == "ok"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"metrics_port": 9400, "metrics_host": "0.0.0.0"}, "TUNESMITH_METRICS_TOKEN"),
        ({"host": "0.0.0.0", "s3_secret_access_key": "tunesmith-secret"}, "TUNESMITH_S3_SECRET_ACCESS_KEY"),
        ({"host": "0.0.0.0", "redis_url": "redis://:changeme@127.0.0.1:1/0"}, "TUNESMITH_REDIS_URL"),
        ({"host": "::", "log_level": "DEBUG"}, "TUNESMITH_LOG_LEVEL"),
    ],
)
def test_settings_that_must_not_meet_the_network(settings: Settings, changes: dict[str, Any], named: str) -> None:
    found = the(doctor.examine(changed(settings, **changes)), "settings")
    assert found.state == "fail"
    assert named in found.message + found.fix


def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("database_url", "storage_url", "catalog_path", "models_dir", "scratch_dir"):
        monkeypatch.setenv(f"TUNESMITH_{name.upper()}", str(getattr(settings, name)))


def test_the_command_says_so_by_its_status(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(settings, monkeypatch)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0].split() == ["STATE", "CHECK", "FOUND"]
    monkeypatch.setenv("TUNESMITH_STORAGE_URL", "s3://bucket")
    monkeypatch.setenv("TUNESMITH_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TUNESMITH_S3_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("TUNESMITH_S3_SECRET_ACCESS_KEY", "secret")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    assert [f["check"] for f in json.loads(result.stdout) if f["state"] == "fail"] == ["objects"]


def test_a_folder_that_is_no_data_directory(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--data-dir", str(tmp_path)])
    assert "is not the data directory" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
