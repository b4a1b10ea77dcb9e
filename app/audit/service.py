"""Who changed what, and from where: one entry a change, in the transaction that makes it.

with db.transaction() as session:
    service.delete(session, caller.project_id, file_id)
    audit.record(session, caller, Action.FILE_DELETED, file_id)
"""

from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from app import db, ids
from app.audit.actions import Action
from app.audit.tables import AuditEntry
from app.db import Session

_RECORD = sa.insert(AuditEntry)
MOST_CHARACTERS = 256  # of what a client says of itself


@dataclass(frozen=True)
class Origin:
    """Where a change came from."""

    ip_address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None
    account: str | None = None  # of the operating system, on the command line


NOWHERE = Origin()


class Actor(Protocol):
    """Who makes a change: a caller with a project's key, one with an admin key, or the operator."""

    @property
    def organization_id(self) -> str: ...
    @property
    def project_id(self) -> str | None: ...
    @property
    def key_id(self) -> str | None: ...
    @property
    def origin(self) -> Origin: ...


@dataclass(frozen=True)
class Operator:
    """Whoever runs `tunesmith` commands beside the database."""

    organization_id: str
    origin: Origin
    project_id: str | None = None
    key_id: str | None = None


@dataclass(frozen=True)
class Clock:
    """Nobody: what happens in a project because its time has come."""

    organization_id: str
    project_id: str | None
    key_id: str | None = None
    origin: Origin = Origin(account="(tunesmith)")  # no account of a system is called so


def record(
    session: Session,
    actor: Actor,
    action: Action,
    target: str,
    *,
    project_id: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Add an entry to the caller's transaction. project_id: where the change was made, unless it is the actor's own.

    `details` never holds a secret, nor anything of a tenant's data.
    """
    origin = actor.origin
    db.execute(
        session,
        _RECORD,
        id=ids.new("audit_log-"),
        organization_id=actor.organization_id,
        project_id=project_id or actor.project_id,
        action=action.value,
        target=target,
        details=details or {},
        key_id=actor.key_id,
        account=_plain(origin.account),
        ip_address=_plain(origin.ip_address),
        user_agent=_plain(origin.user_agent),
        request_id=origin.request_id,
    )


def _plain(text: str | None) -> str | None:
    """What a client says of itself, short and without characters that would not print."""
    if text is None:
        return None
    return "".join(character for character in text if character.isprintable())[:MOST_CHARACTERS]
