"""Imports every feature's tables, so that `Base.metadata` is whole."""

from app import idempotency, outbox
from app.audit import tables as audit
from app.auth import tables as auth
from app.db import Base
from app.events import tables as events
from app.files import tables as files
from app.jobs import tables as jobs
from app.models import tables as models
from app.uploads import tables as uploads
from app.webhooks import tables as webhooks
from app.workers import tables as workers

__all__ = [
    "Base",
    "audit",
    "auth",
    "events",
    "files",
    "idempotency",
    "jobs",
    "models",
    "outbox",
    "uploads",
    "webhooks",
    "workers",
]
