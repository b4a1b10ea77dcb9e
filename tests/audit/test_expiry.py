"""What ends because its time has come stands in its organisation's audit log too."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from job_rows import add_project

from app import db, ids
from app.admin import schemas
from app.audit.tables import AuditEntry
from app.auth.tables import Project
from app.files.tables import File
from app.uploads.tables import Upload
from worker import sweeps

PAST = datetime.now(UTC) - timedelta(seconds=1)


def add_file(project_id: str, expires_at: datetime | None) -> str:
    file_id = ids.new("file-")
    with db.transaction() as session:
        session.add(
            File(
                id=file_id, project_id=project_id, purpose="fine-tune", filename="a.jsonl", bytes=1, sha256="0" * 64,
                object_key=f"projects/{project_id}/files/{file_id}", expires_at=expires_at,
            )
        )  # fmt: skip
    return file_id


def add_upload(project_id: str) -> str:
    upload_id = ids.new("upload_")
    with db.transaction() as session:
        session.add(
            Upload(
                id=upload_id, project_id=project_id, purpose="fine-tune", filename="a.jsonl", bytes=1,
                mime_type="text/plain", expires_at=PAST,
            )
        )  # fmt: skip
    return upload_id


@pytest.mark.usefixtures("database")
def test_an_expired_file_and_upload_leave_entries_once() -> None:
    project_id = add_project()
    gone, upload = add_file(project_id, PAST), add_upload(project_id)
    add_file(project_id, None)
    for _ in range(2):
        with db.transaction() as session:
            sweeps._expire(session)
    with db.reading() as session:
        entries = session.scalars(sa.select(AuditEntry).where(AuditEntry.project_id == project_id)).all()
        organization_id = session.get_one(Project, project_id).organization_id
        deleted = session.get_one(File, gone).deleted_at
    assert sorted((entry.action, entry.target) for entry in entries) == [
        ("file.expired", gone),
        ("upload.expired", upload),
    ]
    assert {entry.organization_id for entry in entries} == {organization_id}
    assert deleted is not None
    assert schemas._actor(entries[0])["session"]["user"]["id"] == "(tunesmith)"
