"""Keyset pages: newest first by `seq`, from one row after a cursor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from app import db
from app.db import Session
from app.errors import BadRequest

Row = TypeVar("Row")


class UnknownCursor(BadRequest):
    """The object named by 'after' is not in this list."""

    code = "invalid_value"
    param = "after"


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows, and whether more follow."""

    rows: Sequence[Row]
    has_more: bool


class Listing:
    """A list of rows in the order of `seq`, newest first, whose statements are built once.

    What differs from page to page are the values of the query's parameters. The rows are plain: no session tracks them.
    """

    def __init__(self, query: sa.Select[*tuple[Any, ...]], seq: sa.ColumnElement[int] | Any) -> None:
        self._newest = query.order_by(seq.desc()).limit(sa.bindparam("most"))
        self._further = self._newest.where(seq < sa.bindparam("after_seq"))

    def page(self, session: Session, limit: int, after_seq: int | None, **values: Any) -> Page[Any]:
        """One page. One row too many is read to know whether more follow."""
        if limit == 0:
            return Page([], has_more=False)
        if after_seq is None:
            rows = db.execute(session, self._newest, most=limit + 1, **values).all()
        else:
            rows = db.execute(session, self._further, most=limit + 1, after_seq=after_seq, **values).all()
        return Page(rows[:limit], has_more=len(rows) > limit)


def fetch(
    session: Session,
    query: sa.Select[Row],
    seq: sa.ColumnElement[int] | Any,
    *,
    limit: int,
    after_seq: int | None,
    ascending: bool = False,
) -> Page[Row]:
    """One page of `query` in the order of `seq`. One row too many is read to know whether more follow."""
    if limit == 0:
        return Page([], has_more=False)
    if after_seq is not None:
        query = query.where(seq > after_seq if ascending else seq < after_seq)
    query = query.order_by(seq.asc() if ascending else seq.desc()).limit(limit + 1)
    rows = session.scalars(query).all()
    return Page(rows[:limit], has_more=len(rows) > limit)
