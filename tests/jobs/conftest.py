"""Two callers of two organisations, and files of theirs, in the rolled-back database."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from live_server import live, write_catalog

from app import db, ids
from app.auth.service import Caller
from app.auth.tables import Organization, Project
from app.config import Settings
from app.files.tables import File
from app.models import catalog as catalogs

__all__ = ["live"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(models_dir=tmp_path / "models")


@pytest.fixture
def catalog(tmp_path: Path) -> catalogs.Catalog:
    return catalogs.load(write_catalog(tmp_path))


@pytest.fixture
def entry(catalog: catalogs.Catalog) -> catalogs.CatalogEntry:
    return catalog.entries[0]


@pytest.fixture
def caller(database: sa.Connection) -> Caller:
    return _new_caller("acme")


@pytest.fixture
def stranger(database: sa.Connection) -> Caller:
    return _new_caller("other")


@pytest.fixture
def new_file(caller: Caller) -> Callable[..., str]:
    """Adds a file row, the caller's own unless said otherwise, and gives its id."""

    def new_file(purpose: str = "fine-tune", project_id: str = caller.project_id) -> str:
        with db.transaction() as session:
            file = File(
                id=ids.new("file-"),
                project_id=project_id,
                purpose=purpose,
                filename="train.jsonl",
                bytes=1,
                sha256="0",
                object_key="k",
            )
            session.add(file)
        return file.id

    return new_file


@pytest.fixture
def training_file(new_file: Callable[..., str]) -> str:
    return new_file()


def _new_caller(slug: str) -> Caller:
    with db.transaction() as session:
        organization = Organization(id=ids.new("org-"), slug=slug)
        session.add(organization)
        session.flush()
        project = Project(id=ids.new("proj_"), organization_id=organization.id, name="default")
        session.add(project)
    return Caller(
        organization_id=organization.id, organization_slug=slug, project_id=project.id, key_id=ids.new("key_")
    )
