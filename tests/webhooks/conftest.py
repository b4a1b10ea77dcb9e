"""Receivers, and the running application, whose webhooks may go to plain-http receivers on this machine."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from live_server import live

from app import db
from app.webhooks.tables import Endpoint

__all__ = ["live"]


@pytest.fixture(autouse=True)
def _no_endpoints_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test of a live application starts with its project's places free."""
    yield
    if "live" in request.fixturenames:
        with db.transaction() as session:
            session.execute(sa.delete(Endpoint))
