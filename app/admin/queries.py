"""The query parameters of an administrator's lists; lists of values come as `name[]=a&name[]=b` or as `name=a`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import Request

from app import ids
from app.admin.errors import InvalidQuery
from app.admin.usage import DAY, GROUPS, LAST, Question
from app.http import paging
from app.http.openapi import documented, query

MOST_VALUES = 100
MOST_DAYS = 31
COMPARISONS = ("gt", "gte", "lt", "lte")


@dataclass(frozen=True)
class AuditFilter:
    """Which entries are wanted; None for all. effective_at: comparison → moment."""

    project_ids: Sequence[str] | None
    event_types: Sequence[str] | None
    actor_ids: Sequence[str] | None
    resource_ids: Sequence[str] | None
    effective_at: dict[str, datetime]


async def audit_filter(request: Request) -> AuditFilter:
    """The filter of `GET …/audit_logs`. Raises InvalidQuery, InvalidPage."""
    bounds = {sign: _seconds(request, f"effective_at[{sign}]") for sign in COMPARISONS}
    return AuditFilter(
        project_ids=_values(request, "project_ids"),
        event_types=_values(request, "event_types"),
        actor_ids=_values(request, "actor_ids"),
        resource_ids=_values(request, "resource_ids"),
        effective_at={s: datetime.fromtimestamp(bound, UTC) for s, bound in bounds.items() if bound is not None},
    )


async def usage_question(request: Request) -> Question:
    """What `GET …/usage/fine_tuning` asks. Raises InvalidQuery, InvalidPage."""
    start = _seconds(request, "start_time")
    if start is None:
        raise InvalidQuery("'start_time' is required.", param="start_time")
    if paging.single(request, "bucket_width") not in ("1d", None):
        raise InvalidQuery("'bucket_width' must be '1d'.", param="bucket_width")
    group_by = frozenset(_values(request, "group_by") or ())
    if not group_by <= GROUPS.keys():
        raise InvalidQuery(f"'group_by' must be of {', '.join(GROUPS)}.", param="group_by")
    end = _seconds(request, "end_time")
    page = _page(request)
    now = int(time.time())
    return Question(
        start=start if page is None else max(start, page),
        end=min(end if end is not None else now + 1, now + DAY),
        group_by=group_by,
        project_ids=_values(request, "project_ids"),
        models=_values(request, "models"),
    )


def page_name(start: int) -> str:
    """The cursor of the page that begins at `start`."""
    return f"page_{start}"


def _page(request: Request) -> int | None:
    text = paging.single(request, "page")
    if text is None:
        return None
    return _number(text.removeprefix("page_"), "page")


def _seconds(request: Request, name: str) -> int | None:
    text = paging.single(request, name)
    return None if text is None else _number(text, name)


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= LAST):
        raise InvalidQuery(f"'{name}' must be a time in Unix seconds, at most {LAST}.", param=name)
    return int(text)


def _values(request: Request, name: str) -> list[str] | None:
    """The values of a parameter; those that name nothing anybody could have are dropped."""
    parameters = request.query_params
    values = [*parameters.getlist(name), *parameters.getlist(f"{name}[]")]
    if not values:
        return None
    if len(values) > MOST_VALUES:
        raise InvalidQuery(f"'{name}' may have {MOST_VALUES} values.", param=name)
    return [value for value in values if ids.is_plain(value)]


def _many(name: str, description: str, **items: object) -> dict[str, object]:
    return query(f"{name}[]", description, type="array", items={"type": "string", **items})


_TIME = {"type": "integer", "minimum": 0, "maximum": LAST}
documented(
    audit_filter,
    parameters=(
        _many("project_ids", "Only of these projects."),
        _many("event_types", "Only of these types."),
        _many("actor_ids", "Only by these keys."),
        _many("resource_ids", "Only on these objects."),
        *(query(f"effective_at[{sign}]", "Only in this time, in Unix seconds.", **_TIME) for sign in COMPARISONS),
    ),
    errors=(InvalidQuery,),
)
documented(
    usage_question,
    parameters=(
        query("start_time", "From when on, in Unix seconds.", **_TIME) | {"required": True},
        query("end_time", "Until when, in Unix seconds.", **_TIME),
        query("bucket_width", "The width of a bucket.", type="string", enum=["1d"], default="1d"),
        _many("group_by", "Sum for each of these.", enum=list(GROUPS)),
        _many("project_ids", "Only of these projects."),
        _many("models", "Only of these base models."),
        query("page", "The `next_page` of the page before.", type="string"),
    ),
    errors=(InvalidQuery,),
)
