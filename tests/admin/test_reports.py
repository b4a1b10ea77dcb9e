"""The audit log and the usage as an administrator reads them."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from job_rows import add_job, add_project
from live_server import Live

from app import db
from app.admin import usage
from app.admin.usage import DAY, Question
from app.auth.tables import Project
from app.jobs import states

LOG = "/v1/organization/audit_logs"
USAGE = "/v1/organization/usage/fine_tuning"


def changed(live: Live, times: int = 1) -> list[str]:
    """Make some changes; the ids of what was changed, newest first."""
    made = []
    for _ in range(times):
        body = {"model": "tiny-chat", "training_file": live.training_file}
        made.append(live.http.post("/v1/fine_tuning/jobs", json=body).json()["id"])
    return made[::-1]


def targets(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [entry[entry["type"]]["id"] for entry in reply.json()["data"]]


def test_an_entry_names_actor_place_and_change(live: Live, admin: httpx.Client) -> None:
    (job,) = changed(live)
    (entry,) = admin.get(LOG, params={"resource_ids[]": job}).json()["data"]
    assert entry["type"] == "fine_tuning.job.created"
    assert entry["fine_tuning.job.created"] == {"id": job, "data": {"model": "tiny-chat"}}
    assert entry["project"] == {"id": live.caller.project_id, "name": "default"}
    assert entry["actor"]["api_key"]["id"] == live.caller.key_id
    assert entry["actor"]["ip_address"] == "127.0.0.1"
    assert entry["request_id"].startswith("req_")
    assert abs(entry["effective_at"] - time.time()) < 60


def test_pages_go_both_ways(live: Live, admin: httpx.Client) -> None:
    made = changed(live, 4)
    first = admin.get(LOG, params={"limit": 2}).json()
    assert targets(admin.get(LOG, params={"limit": 2})) == made[:2]
    assert targets(admin.get(LOG, params={"limit": 2, "after": first["last_id"]})) == made[2:]
    oldest = admin.get(LOG, params={"limit": 1, "after": first["last_id"]}).json()["last_id"]
    back = admin.get(LOG, params={"limit": 1, "before": oldest})
    assert targets(back) == [made[1]]
    assert back.json()["has_more"]
    assert admin.get(LOG, params={"after": "audit_log-none"}).status_code == 400


def test_filters(live: Live, admin: httpx.Client) -> None:
    (job,) = changed(live)
    live.http.post(f"/v1/fine_tuning/jobs/{job}/cancel")
    ours: dict[str, Any] = {"resource_ids[]": job}
    for more, count in (
        ({}, 2),
        ({"event_types[]": "fine_tuning.job.cancelled"}, 1),
        ({"event_types": ["fine_tuning.job.cancelled", "fine_tuning.job.created"]}, 2),
        ({"event_types[]": "file.created"}, 0),
        ({"actor_ids[]": live.caller.key_id}, 2),
        ({"actor_ids[]": "key_none"}, 0),
        ({"project_ids[]": live.caller.project_id}, 2),
        ({"project_ids[]": ["proj_none", "\x00"]}, 0),
        ({"effective_at[gte]": int(time.time()) - 60, "effective_at[lt]": int(time.time()) + 60}, 2),
        ({"effective_at[gt]": int(time.time()) + 60}, 0),
        ({"effective_at[lte]": 0}, 0),
    ):
        reply = admin.get(LOG, params=ours | more)
        assert len(targets(reply)) == count, more


@pytest.mark.parametrize(
    ("path", "params", "param"),
    [
        (LOG, {"limit": 101}, "limit"),
        (LOG, {"effective_at[gt]": "x"}, "effective_at[gt]"),
        (LOG, {"effective_at[gt]": 10**30}, "effective_at[gt]"),
        (LOG, {"effective_at[lt]": -1}, "effective_at[lt]"),
        (LOG, {"project_ids[]": ["p"] * 101}, "project_ids"),
        (USAGE, {}, "start_time"),
        (USAGE, {"start_time": 4_102_444_801}, "start_time"),
        (USAGE, {"start_time": "²"}, "start_time"),
        (USAGE, {"start_time": 0, "end_time": 10**18}, "end_time"),
        (USAGE, {"start_time": 0, "bucket_width": "1h"}, "bucket_width"),
        (USAGE, {"start_time": 0, "group_by[]": "user_id"}, "group_by"),
        (USAGE, {"start_time": 0, "limit": 32}, "limit"),
        (USAGE, {"start_time": 0, "page": "page_x"}, "page"),
    ],
)
def test_bad_parameters(admin: httpx.Client, path: str, params: dict[str, Any], param: str) -> None:
    reply = admin.get(path, params=params)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_usage_over_http(live: Live, admin: httpx.Client, other_admin: httpx.Client) -> None:
    (job,) = changed(live)
    live.resolve(job)
    live.publish(job)
    today = int(time.time()) // DAY * DAY
    params = {"start_time": today - DAY, "group_by[]": ["project_id", "model"]}
    page = admin.get(USAGE, params=params).json()
    assert (page["object"], page["has_more"], page["next_page"]) == ("page", False, None)
    assert [bucket["start_time"] for bucket in page["data"]][:2] == [today - DAY, today]
    results = [result for bucket in page["data"] for result in bucket["results"]]
    (result,) = [row for row in results if row["num_succeeded_jobs"]]
    assert (result["project_id"], result["model"]) == (live.caller.project_id, "tiny-chat")
    assert result["trained_tokens"] == 1234
    theirs = other_admin.get(USAGE, params=params).json()
    assert [bucket["results"] for bucket in theirs["data"]] == [[]] * len(theirs["data"])


def organization_of(project: str) -> str:
    with db.reading() as session:
        return session.get_one(Project, project).organization_id


def ask(project: str, question: Question, days: int = 31) -> tuple[list[usage.Bucket], int | None]:
    with db.reading() as session:
        return usage.by_day(session, organization_of(project), question, days)


START = int(datetime(2026, 2, 27, tzinfo=UTC).timestamp())


def ended(project: str, moment: datetime, tokens: int | None, **more: Any) -> None:
    add_job(project, **{"status": states.SUCCEEDED, "finished_at": moment, "trained_tokens": tokens} | more)


def test_days_end_at_midnight_utc_and_months_do_not_matter(live: Live) -> None:
    project = add_project()
    midnight = datetime.fromtimestamp(START, UTC)
    ended(project, midnight - timedelta(microseconds=1), 1)
    ended(project, midnight, 10)
    ended(project, midnight + timedelta(days=1, microseconds=-1), 100)
    ended(project, midnight + timedelta(days=2), 1000, status=states.CANCELLED)
    ended(project, midnight + timedelta(days=2), None, status=states.FAILED)
    add_job(project, planned_tokens=7, trained_tokens=7, status=states.RUNNING)
    buckets, more = ask(project, Question(START, START + 4 * DAY))
    assert [(bucket.start - START) // DAY for bucket in buckets] == [0, 1, 2, 3]
    assert [[use.trained_tokens for use in bucket.uses] for bucket in buckets] == [[110], [], [1000], []]
    assert [(use.num_jobs, use.num_succeeded_jobs) for use in buckets[2].uses] == [(2, 0)]
    assert more is None


def test_pages_of_days_hold_every_job_once(live: Live) -> None:
    project = add_project()
    for day in range(5):
        ended(project, datetime.fromtimestamp(START + day * DAY + 5, UTC), 10**day)
    first, more = ask(project, Question(START + 5, START + 4 * DAY + 6), days=2)
    assert more == START + 2 * DAY
    second, last = ask(project, Question(more, START + 4 * DAY + 6), days=3)
    assert last is None
    assert [use.trained_tokens for bucket in [*first, *second] for use in bucket.uses] == [1, 10, 100, 1000, 10_000]
    assert ask(project, Question(START + 6, START + DAY))[0][0].uses == []
    assert ask(project, Question(START, START)) == ([], None)


def test_groups_and_filters(live: Live) -> None:
    project = add_project()
    moment = datetime.fromtimestamp(START, UTC)
    for model, tokens in (("a", 1), ("a", 2), ("b", 2**62), ("b", 2**62), ("b", 2**62)):
        ended(project, moment, tokens, base_model=model)
    whole = Question(START, START + DAY, group_by=frozenset({"model"}))
    assert [(use.model, use.trained_tokens) for use in ask(project, whole)[0][0].uses] == [("a", 3), ("b", 3 * 2**62)]
    only = Question(START, START + DAY, models=["a"])
    assert [(use.project_id, use.model, use.num_jobs) for use in ask(project, only)[0][0].uses] == [(None, None, 2)]
    none = Question(START, START + DAY, project_ids=[add_project()])
    assert ask(project, none)[0][0].uses == []
