"""API keys: made once, kept as a hash, looked up by their public part.

A key is `sk-ts_<8 public>_<32 secret>_<6 checksum>`. The prefix lets scanners find leaked keys; the checksum refuses
typing errors without a look at the database; 32 random letters and digits are 190 bits, which a fast hash protects.
"""

import hashlib
import hmac
import zlib
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app import ids
from app.auth.errors import InvalidKey
from app.auth.tables import ApiKey, Organization, Project
from app.db import Session

PREFIX = "sk-ts"
LAST_USED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True)
class Caller:
    """Who asks: everything a request may touch hangs on `project_id`."""

    organization_id: str
    organization_slug: str
    project_id: str
    key_id: str


def create_key(session: Session, *, project: str = "default", organization: str = "default", name: str = "") -> str:
    """A new key for a project, which is made if it is not there. The key is returned here and never again."""
    project_id = _project(session, _organization(session, organization), project)
    public, secret = ids.new("", 8), ids.new("", 32)
    key = f"{PREFIX}_{public}_{secret}_{_checksum(public + secret)}"
    session.add(
        ApiKey(
            id=ids.new("key_"),
            project_id=project_id,
            name=name,
            public_id=public,
            secret_sha256=_digest(key),
            last_four=key[-4:],
        )
    )
    session.flush()
    return key


def authenticate(session: Session, presented: str) -> Caller:
    """The caller that a key stands for. Raises InvalidKey, for every reason alike."""
    parts = presented.split("_")
    if len(parts) != 4 or parts[0] != PREFIX or parts[3] != _checksum(parts[1] + parts[2]):
        raise InvalidKey
    query = (
        sa.select(ApiKey, Organization.id, Organization.slug)
        .join(Project, Project.id == ApiKey.project_id)
        .join(Organization, Organization.id == Project.organization_id)
        .where(ApiKey.public_id == parts[1], ApiKey.revoked_at.is_(None))
        .where(sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > sa.func.now()))
    )
    found = session.execute(query).one_or_none()
    # Without a row the comparison runs against nothing that could match, so that both take the same time.
    kept = found[0].secret_sha256 if found else bytes(32)
    if not hmac.compare_digest(kept, _digest(presented)) or found is None:
        raise InvalidKey
    key, organization_id, slug = found
    _touch(session, key)
    return Caller(organization_id, slug, key.project_id, key.id)


def _touch(session: Session, key: ApiKey) -> None:
    stale = sa.or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < sa.func.now() - LAST_USED_EVERY)
    session.execute(sa.update(ApiKey).where(ApiKey.id == key.id, stale).values(last_used_at=sa.func.now()))


def _organization(session: Session, slug: str) -> str:
    new = insert(Organization).values(id=ids.new("org-"), slug=slug).on_conflict_do_nothing(index_elements=["slug"])
    session.execute(new)
    return session.scalars(sa.select(Organization.id).where(Organization.slug == slug)).one()


def _project(session: Session, organization_id: str, name: str) -> str:
    new = insert(Project).values(id=ids.new("proj_"), organization_id=organization_id, name=name)
    session.execute(new.on_conflict_do_nothing(index_elements=["organization_id", "name"]))
    query = sa.select(Project.id).where(Project.organization_id == organization_id, Project.name == name)
    return session.scalars(query).one()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _checksum(text: str) -> str:
    """CRC-32 in six letters and digits."""
    number = zlib.crc32(text.encode())
    digits = []
    for _ in range(6):
        number, digit = divmod(number, len(ids.ALPHABET))
        digits.append(ids.ALPHABET[digit])
    return "".join(digits)
