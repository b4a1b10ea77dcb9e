"""What nobody names is deleted when it is old; what somebody names, is young or is another's stays."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from job_rows import add_job, add_project
from object_stores import s3_settings, store

from app import db, ids, storage
from app.config import Settings
from app.files import service as files
from app.files.tables import File
from app.jobs import states
from app.jobs.tables import Job
from app.models.tables import TunedModel
from app.storage import Store
from app.uploads.tables import Upload
from worker import garbage

__all__ = ["s3_settings", "store"]

SETTINGS = Settings(orphan_grace_seconds=3600)
LATER = timedelta(hours=2)


@pytest.fixture
def project(database: sa.Connection) -> str:
    return add_project()


def put(store: Store, *keys: str) -> None:
    for key in keys:
        with store.writing(key) as target:
            target.write(b"x")


def collect(store: Store, after: timedelta = LATER) -> int:
    return garbage.collect(SETTINGS, store, datetime.now(UTC) + after)


def add_file(project: str) -> str:
    file_id = ids.new("file-")
    with db.transaction() as session:
        session.add(
            File(
                id=file_id, project_id=project, purpose="fine-tune", filename="a", bytes=1, sha256="0" * 64,
                object_key=files.object_key(project, file_id),
            )
        )  # fmt: skip
    return file_id


def change(row: type[Job] | type[File], row_id: str, **values: object) -> None:
    with db.transaction() as session:
        session.execute(sa.update(row).where(row.id == row_id).values(values))


def test_a_file_stays_as_long_as_its_row(project: str, store: Store) -> None:
    kept, lost = files.object_key(project, add_file(project)), files.object_key(project, "file-lost")
    put(store, kept, lost)
    assert collect(store, timedelta(minutes=59)) == 0
    assert collect(store) == 1
    assert list(store.keys("")) == [kept]


def test_what_a_killed_attempt_left_of_a_job_goes(project: str, store: Store) -> None:
    job_id = add_job(project, status=states.RUNNING, fence=2)
    old, new = (f"projects/{project}/jobs/{job_id}/{fence}" for fence in (1, 2))
    change(Job, job_id, resume_prefix=f"{new}/resume/step-000009/")
    with db.transaction() as session:
        session.add(
            TunedModel(
                id="model_a", project_id=project, name="ft:a", source="checkpoint", job_id=job_id, base_model="b",
                base_key="b", object_prefix=f"{old}/checkpoints/step-000004/", manifest_sha256="0",
            )
        )  # fmt: skip
    named = [
        f"{old}/checkpoints/step-000004/adapter", f"{old}/checkpoints/step-000004/manifest.json",
        f"{new}/resume/step-000009/state",
    ]  # fmt: skip
    unnamed = [
        f"{old}/checkpoints/step-000008/adapter", f"{old}/checkpoints/step-00000/adapter", f"{old}/final/adapter",
        f"{old}/resume/step-000004/state", f"{new}/resume/step-00000/state", f"{old}/step_metrics.csv",
    ]  # fmt: skip
    put(store, *named, *unnamed)
    assert collect(store) == len(unnamed)
    assert sorted(store.keys("")) == sorted(named)
    change(Job, job_id, status=states.CANCELLED, finished_at=sa.func.now())
    assert collect(store) == 1
    assert sorted(store.keys("")) == sorted(named[:2]), "nobody resumes a job that is over"


def test_prepared_data_stays_while_a_job_may_want_it(project: str, store: Store) -> None:
    training, validation = add_file(project), add_file(project)
    one, two, three = (f"projects/{project}/prepared/{name}/" for name in "abc")
    job_id = add_job(project, training_file=training, validation_file=validation, prepared_key=one, validation_key=two)
    put(store, *(files.object_key(project, file_id) for file_id in (training, validation)))
    prepared = [f"{prefix}{name}" for prefix in (one, two, three) for name in ("data.safetensors", "manifest.json")]
    put(store, *prepared)
    busy = add_job(project, status=states.VALIDATING)
    assert collect(store) == 0, "a job that is being prepared may be about to name it"
    change(Job, busy, status=states.QUEUED)
    assert collect(store) == 2
    for file_id in (training, validation):
        change(File, file_id, deleted_at=sa.func.now())
    assert collect(store) == 0, "the job is still to be trained"
    change(Job, job_id, status=states.SUCCEEDED, finished_at=sa.func.now())
    change(File, training, deleted_at=None)
    assert collect(store) == 2
    assert list(store.keys(f"projects/{project}/prepared/")) == prepared[:2], "another job may be made with the file"


def test_parts_stay_while_their_upload_is_open(project: str, store: Store) -> None:
    with db.transaction() as session:
        for upload_id, ended in (("upload_a", None), ("upload_b", sa.func.now())):
            session.add(
                Upload(
                    id=upload_id, project_id=project, status="pending" if ended is None else "expired", bytes=1,
                    filename="a", purpose="fine-tune", mime_type="a", expires_at=sa.func.now(), ended_at=ended,
                )
            )  # fmt: skip
    keys = [f"projects/{project}/uploads/upload_{name}/part_{name}" for name in "abc"]
    put(store, *keys)
    assert collect(store) == 2
    assert list(store.keys("")) == keys[:1]


def test_what_is_not_ours_is_left_alone(project: str, store: Store) -> None:
    keys = ["projects/proj_unknown/files/file-a", f"projects/{project}/notes/a", f"projects/{project}/a", "other/a/b/c"]
    put(store, *keys)
    assert collect(store) == 0
    assert sorted(store.keys("")) == sorted(keys)


def test_a_folder_is_as_young_as_its_newest_object(project: str, tmp_path: Path) -> None:
    store = storage.open_store(Settings(storage_url=f"file://{tmp_path}/objects"))
    folder = f"projects/{project}/jobs/ftjob-a/1/final"
    put(store, f"{folder}/adapter", f"{folder}/manifest.json")
    old = (datetime.now(UTC) - LATER).timestamp()
    os.utime(tmp_path / "objects" / folder / "adapter", (old, old))
    assert collect(store, timedelta(0)) == 0
    assert collect(store) == 2


def test_what_a_killed_writer_left_goes(project: str, tmp_path: Path) -> None:
    store = storage.open_store(Settings(storage_url=f"file://{tmp_path}/objects"))
    kept = files.object_key(project, add_file(project))
    put(store, kept)
    partial = (tmp_path / "objects" / kept).parent / f"{storage.PARTIAL}abc"
    partial.write_bytes(b"half")
    assert list(store.keys("")) == [kept]
    assert collect(store, timedelta(0)) == 0
    assert collect(store) == 1
    assert not partial.exists()
    assert list(store.keys("")) == [kept]
