"""The running application, and what must be the same after every request that is refused."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from live_server import Live, live

from app import db
from app.auth import service as auth
from app.auth.scopes import Scope
from app.tables import Base

__all__ = ["admin", "live", "nothing_kept"]

# A key's last use, and what a request under way holds until it ends.
UNCOUNTED = {"api_keys"}


def kept(live: Live) -> dict[str, Any]:
    """How many rows each table has, and every file below the object store, unfinished ones too."""
    with db.reading() as session:
        rows = {
            table.name: session.scalar(sa.select(sa.func.count()).select_from(table))
            for table in Base.metadata.sorted_tables
            if table.name not in UNCOUNTED
        }
    files = sorted(path.name for path in live.store.root.rglob("*") if path.is_file())  # type: ignore[attr-defined]
    return {**rows, "objects": files}


@pytest.fixture(scope="module")
def admin(live: Live) -> Iterator[httpx.Client]:
    """An administrator of the first project's organisation."""
    with db.transaction() as session:
        issued = auth.create_key(session, organization="acme", scopes=[Scope.ADMIN])
    with httpx.Client(base_url=live.url, headers={"Authorization": f"Bearer {issued.value}"}, timeout=60) as client:
        yield client


@pytest.fixture
def nothing_kept(live: Live) -> Iterator[None]:
    """Nothing is stored, wholly or by half."""
    before = kept(live)
    yield
    assert kept(live) == before
