"""A POST that creates something, sent again because its reply was lost, gets the first reply and creates nothing.

What makes a repetition: the same `Idempotency-Key`; or, for a client that sends none but says that it tries again, the
same request. Each such request has a slot in one table, whose primary key decides who is first. The first holds the
slot under a lease while it works, and leaves its reply there in the transaction that creates; whoever comes meanwhile
is told to come back. What fails frees the slot. So a repetition is harmless, from any process and after any crash.
"""

import hashlib
import json
import os
import time
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from app import db, ids
from app.db import Base, Session
from app.errors import BadRequest, Conflict

LEASE = timedelta(seconds=60)  # renewed by `Attempt.beat`
BEAT_SECONDS = 10.0
KEPT_BY_KEY = timedelta(hours=24)
KEPT_BY_REQUEST = timedelta(minutes=15)
TIMESTAMP = sa.DateTime(timezone=True)


class StillRunning(Conflict):
    """The first request of this kind is still running; ask again for its reply."""

    code = "request_in_progress"
    should_retry = True
    retry_after = 1


class KeyReused(BadRequest):
    """This Idempotency-Key was used for another request."""

    code = "idempotency_key_reused"
    param = "Idempotency-Key"


class Replay(Exception):
    """The request was carried out before; `reply` is what was answered."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        super().__init__()


class IdempotencyRow(Base):
    __tablename__ = "idempotency"
    __table_args__ = (sa.Index("ix_idempotency_expiry", "expires_at"),)

    owner: Mapped[str] = mapped_column(primary_key=True)  # a project's id, for an administrator the organisation's
    slot: Mapped[str] = mapped_column(primary_key=True)  # the key, or the fingerprint of the request
    fingerprint: Mapped[str | None]  # None: the request is still arriving
    attempt: Mapped[str]  # whose slot it is
    lease_until: Mapped[datetime] = mapped_column(TIMESTAMP)
    reply: Mapped[bytes | None]  # None: still running
    sealed: Mapped[bool] = mapped_column(server_default=sa.false())  # under the API key of whoever asked
    expires_at: Mapped[datetime] = mapped_column(TIMESTAMP)


_LATER = sa.func.now() + sa.bindparam("lease", type_=sa.Interval())
_FORGOTTEN = sa.func.now() + sa.bindparam("kept", type_=sa.Interval())
_MINE = sa.and_(
    IdempotencyRow.owner == sa.bindparam("its_owner"),
    IdempotencyRow.slot == sa.bindparam("its_slot"),
    IdempotencyRow.attempt == sa.bindparam("its_attempt"),
)


def _taking() -> Any:
    """One statement decides: the slot is mine if it was free, out of date, or left by somebody who is gone."""
    values = {
        "fingerprint": sa.bindparam("its_fingerprint", type_=sa.String()),
        "attempt": sa.bindparam("its_attempt"),
        "lease_until": _LATER,
        "reply": None,
        "sealed": False,
        "expires_at": _FORGOTTEN,
    }
    free = sa.or_(
        sa.bindparam("replace", type_=sa.Boolean()),
        IdempotencyRow.expires_at <= sa.func.now(),
        sa.and_(IdempotencyRow.reply.is_(None), IdempotencyRow.lease_until < sa.func.now()),
    )
    new = insert(IdempotencyRow).values(owner=sa.bindparam("its_owner"), slot=sa.bindparam("its_slot"), **values)
    taking = new.on_conflict_do_update(index_elements=["owner", "slot"], set_=values, where=free)
    return taking.returning(IdempotencyRow.attempt)


_TAKE = _taking()
_KEEP = (
    sa.update(IdempotencyRow)
    .where(_MINE)
    .values(
        reply=sa.bindparam("the_reply", type_=sa.LargeBinary()),
        sealed=sa.bindparam("is_sealed", type_=sa.Boolean()),
        expires_at=_FORGOTTEN,
    )
    .returning(IdempotencyRow.slot)
)


class Attempt:
    """One request on its way. `identify` once it is known what it asks for, `keep` its reply, or `release` the slot."""

    def __init__(self, *, owner: str, route: str, key: str | None, is_retry: bool, secret: str | None) -> None:
        """secret: the API key, under which a reply is sealed that may be read by nobody else."""
        self._owner = owner
        self._route = route
        self._key = key
        self._is_retry = is_retry
        self._secret = secret
        self._id = ids.new("", 16)
        self._slot: str | None = None
        self._fingerprint: str | None = None
        self._earlier: IdempotencyRow | None = None
        self._beaten = time.monotonic()

    def open(self) -> None:
        """Take the slot of the key, if there is one, before the request has arrived. Raises StillRunning."""
        if self._key is not None:
            self._take(f"key {self._key}", replace=False)

    def identify(self, fields: Any) -> None:
        """Say what is asked for, as JSON has it. Raises StillRunning, KeyReused, and Replay if it was done before."""
        asked = json.dumps([self._route, fields], sort_keys=True, separators=(",", ":"))
        self._fingerprint = hashlib.sha256(asked.encode()).hexdigest()
        if self._key is None:
            # A first request is new, however much it looks like an earlier one; a retry is not.
            self._take(f"request {self._fingerprint}", replace=not self._is_retry)
        elif self._earlier is None:
            with db.transaction() as session:
                mine = sa.update(IdempotencyRow).where(_MINE).values(fingerprint=self._fingerprint)
                session.execute(mine, self._names())
        if self._earlier is not None:
            self._repeat(self._earlier)

    def beat(self) -> None:
        """Go on holding the slot."""
        if self._slot is None or time.monotonic() - self._beaten < BEAT_SECONDS:
            return
        self._beaten = time.monotonic()
        with db.transaction() as session:
            mine = sa.update(IdempotencyRow).where(_MINE).values(lease_until=sa.func.now() + LEASE)
            session.execute(mine, self._names())

    def keep(self, session: Session, reply: bytes) -> None:
        """Leave the reply, in the transaction that creates. Raises StillRunning if another attempt took over."""
        assert self._slot is not None
        found = db.execute(
            session,
            _KEEP,
            **self._names(),
            the_reply=reply if self._secret is None else _seal(reply, self._secret, self._slot),
            is_sealed=self._secret is not None,
            kept=KEPT_BY_REQUEST if self._key is None else KEPT_BY_KEY,
        ).scalar()
        if found is None and (self._key is not None or self._is_retry):
            raise StillRunning

    def release(self) -> None:
        """Free the slot of a request that failed, so that it may be tried again."""
        if self._slot is None or self._earlier is not None:
            return
        mine = sa.delete(IdempotencyRow).where(_MINE, IdempotencyRow.reply.is_(None))
        with db.transaction() as session:
            session.execute(mine, self._names())

    def _take(self, slot: str, *, replace: bool) -> None:
        self._slot = slot
        with db.transaction() as session:
            values = {"its_fingerprint": self._fingerprint, "lease": LEASE, "kept": KEPT_BY_KEY, "replace": replace}
            taken = db.execute(session, _TAKE, **self._names(), **values).scalar()
            if taken is None:
                self._earlier = session.get(IdempotencyRow, (self._owner, slot))
        if taken is None and (self._earlier is None or self._earlier.reply is None):
            self._slot = None
            raise StillRunning

    def _repeat(self, earlier: IdempotencyRow) -> None:
        assert earlier.reply is not None
        if earlier.fingerprint != self._fingerprint:
            raise KeyReused
        if not earlier.sealed:
            raise Replay(earlier.reply)
        if self._secret is None:
            raise KeyReused
        raise Replay(_open(earlier.reply, self._secret, earlier.slot))

    def _names(self) -> dict[str, str | None]:
        return {"its_owner": self._owner, "its_slot": self._slot, "its_attempt": self._id}


def sweep(session: Session) -> int:
    """Forget replies whose time is over; how many."""
    old = sa.delete(IdempotencyRow).where(IdempotencyRow.expires_at <= sa.func.now())
    return len(session.scalars(old.returning(IdempotencyRow.slot)).all())


def _seal(reply: bytes, secret: str, slot: str) -> bytes:
    """Encrypt a reply so that only whoever has the API key, which the database has not, can read it."""
    nonce = os.urandom(12)
    return nonce + _cipher(secret).encrypt(nonce, reply, slot.encode())


def _open(sealed: bytes, secret: str, slot: str) -> bytes:
    """The reply that was sealed. Raises KeyReused for another API key."""
    try:
        return _cipher(secret).decrypt(sealed[:12], sealed[12:], slot.encode())
    except InvalidTag:
        raise KeyReused from None


def _cipher(secret: str) -> AESGCM:
    return AESGCM(hashlib.sha256(b"tunesmith idempotency " + secret.encode()).digest())
