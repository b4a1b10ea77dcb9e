"""Requests a minute: a key's own share is counted, told in OpenAI's headers, and refused with a time to come back."""

import re

import httpx
import pytest
import sqlalchemy as sa
from live_server import Live

from app import db
from app.auth import service as auth
from app.auth.rates import RateLimits, _duration
from app.auth.tables import Project


def granted(limits: RateLimits, times: int, key: str = "key_a", own: int | None = None) -> int:
    allowances = [limits.take(key, own) for _ in range(times)]
    return sum(allowance is None or allowance.granted for allowance in allowances)


@pytest.mark.parametrize(("limit", "processes", "share"), [(10, 1, 10), (10, 2, 5), (10, 3, 4), (1, 8, 1), (7, 7, 1)])
def test_each_process_gives_out_its_share(limit: int, processes: int, share: int) -> None:
    assert granted(RateLimits(limit, processes=processes), limit + 1) == share


def test_keys_are_counted_apart() -> None:
    limits = RateLimits(3, processes=1)
    assert granted(limits, 5, "key_a") == granted(limits, 5, "key_b") == 3


def test_a_projects_own_limit_goes_before_the_servers() -> None:
    assert granted(RateLimits(3, processes=1), 9, own=5) == 5
    assert granted(RateLimits(3, processes=1), 9, own=0) == 9
    assert granted(RateLimits(0, processes=1), 9, own=5) == 5


def test_nothing_is_counted_without_a_limit() -> None:
    assert RateLimits(0, processes=1).take("key_a", None) is None


def test_what_is_told_is_for_all_processes_together() -> None:
    limits = RateLimits(10, processes=2)
    first = limits.take("key_a", None)
    assert first is not None
    assert (first.limit, first.remaining) == (10, 8)
    granted(limits, 9)
    last = limits.take("key_a", None)
    assert last is not None
    assert (last.granted, last.remaining) == (False, 0)
    assert 1 <= last.retry_after <= 60


def test_the_minute_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    limits = RateLimits(2, processes=1)
    assert granted(limits, 3) == 2
    now += 59
    assert granted(limits, 3) == 0
    now += 2
    assert granted(limits, 3) == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0ms"), (0.12, "120ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s"), (61, "1m1s")]
)
def test_durations_read_as_openais(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


def project_with(limit: int) -> str:
    """A key of a project of its own with a limit of its own."""
    with db.transaction() as session:
        issued = auth.create_key(session, organization="acme", project=f"limited-{limit}")
        session.execute(sa.update(Project).where(Project.id == issued.row.project_id).values(requests_per_minute=limit))
    return issued.value


def test_the_headers_count_down_and_the_last_reply_says_when_to_come_back(live: Live) -> None:
    headers = {"Authorization": f"Bearer {project_with(3)}"}
    replies = [httpx.get(f"{live.url}/v1/models", headers=headers) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["2", "1", "0", "0"]
    for reply in replies:
        assert reply.headers["x-ratelimit-limit-requests"] == "3"
        assert re.fullmatch(r"(\d+m)?\d+s|\d+ms", reply.headers["x-ratelimit-reset-requests"])
    refused = replies[-1]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}


def test_a_refused_request_changes_nothing(live: Live) -> None:
    key = project_with(1)
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{live.url}/v1/files", headers=headers).status_code == 200
    body = {"data": {"purpose": "user_data"}, "files": {"file": ("a.txt", b"hello")}}
    assert httpx.post(f"{live.url}/v1/files", headers=headers, **body).status_code == 429  # type: ignore[arg-type]


def test_replies_without_a_limit_have_no_such_headers(live: Live) -> None:
    assert not [name for name in live.http.get("/v1/models").headers if name.startswith("x-ratelimit")]
