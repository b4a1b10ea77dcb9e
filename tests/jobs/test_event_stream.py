"""Following a job's events as they come: in order, each once, from where the client left off, to the job's end."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from live_server import Live
from openai import OpenAI, Stream
from openai.types.fine_tuning import FineTuningJobEvent

from app import db
from app.auth import service as auth
from app.auth.deps import KeyCache
from app.auth.tables import ApiKey
from app.jobs import event_stream


def new_job(live: Live) -> str:
    body = {"model": "tiny-chat", "training_file": live.training_file}
    job: str = live.http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    return job


@contextmanager
def opened(http: httpx.Client, job: str, **headers: str) -> Iterator[httpx.Response]:
    path = f"/v1/fine_tuning/jobs/{job}/events"
    with http.stream("GET", path, params={"stream": "true"}, headers=headers, timeout=30) as reply:
        yield reply


def messages(reply: httpx.Response) -> Iterator[tuple[str, Any]]:
    """The id and the data of each message; the end of the stream is ("", "[DONE]")."""
    assert reply.status_code == 200, reply.read()
    assert reply.headers["content-type"].startswith("text/event-stream")
    event_id = ""
    for line in reply.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            event_id = value
        elif name == "data":
            yield event_id, value if value == "[DONE]" else json.loads(value)
            event_id = ""


def test_a_stream_tells_everything_once_and_ends_with_the_job(live: Live) -> None:
    job = new_job(live)
    with opened(live.http, job) as reply:
        told = messages(reply)
        assert [next(told)[1]["message"].split(":")[0] for _ in range(2)] == [
            "Created fine-tuning job",
            "Validating training file",
        ]
        live.append_steps(job, 3)
        steps = [next(told)[1] for _ in range(3)]
        assert [step["data"]["step"] for step in steps] == [1, 2, 3]
        assert live.http.post(f"/v1/fine_tuning/jobs/{job}/cancel").status_code == 200
        event_id, last = next(told)
        assert "cancelled" in last["message"]
        assert event_id == last["id"]
        assert list(told) == [("", "[DONE]")]
    listed = live.http.get(f"/v1/fine_tuning/jobs/{job}/events").json()["data"]
    assert last == listed[0]


def test_a_stream_goes_on_after_the_last_event_seen(live: Live) -> None:
    job = new_job(live)
    live.append_steps(job, 2)
    live.fail(job)
    newest_first = live.http.get(f"/v1/fine_tuning/jobs/{job}/events").json()["data"]
    with opened(live.http, job, **{"Last-Event-ID": newest_first[-2]["id"]}) as reply:
        told = [event for _, event in messages(reply)]
    assert told == [*newest_first[:-2][::-1], "[DONE]"]


def test_a_stream_may_begin_after_an_event(live: Live) -> None:
    """A client that cannot send headers says it in the query; what it has seen since goes before that."""
    job = new_job(live)
    live.append_steps(job, 2)
    live.fail(job)
    path = f"/v1/fine_tuning/jobs/{job}/events"
    newest_first = [event["id"] for event in live.http.get(path).json()["data"]]
    begun = {"stream": "true", "after": newest_first[-1]}
    for headers, seen in [({}, -1), ({"Last-Event-ID": newest_first[-3]}, -3)]:
        with live.http.stream("GET", path, params=begun, headers=headers, timeout=30) as reply:
            told = [event_id for event_id, _ in messages(reply)]
        assert told == [*newest_first[:seen][::-1], ""]


def test_many_events_come_whole(live: Live) -> None:
    job = new_job(live)
    live.append_steps(job, event_stream.MOST_AT_ONCE + 7)
    live.fail(job)
    with opened(live.http, job) as reply:
        told = list(messages(reply))
    assert len({event_id for event_id, _ in told}) == len(told) >= event_stream.MOST_AT_ONCE + 7 + 3


def test_the_clients_own_stream_reads_it(live: Live) -> None:
    job = new_job(live)
    live.fail(job)
    with OpenAI(base_url=f"{live.url}/v1", api_key=live.key) as client:
        events = list(
            client.get(
                f"/fine_tuning/jobs/{job}/events",
                cast_to=FineTuningJobEvent,
                options={"params": {"stream": "true"}},
                stream=True,
                stream_cls=Stream[FineTuningJobEvent],
            )
        )
    assert [event.object for event in events] == ["fine_tuning.job.event"] * len(events)
    assert [event.id for event in events] == [
        event["id"] for event in live.http.get(f"/v1/fine_tuning/jobs/{job}/events").json()["data"]
    ][::-1]


@pytest.mark.parametrize(
    ("query", "headers", "param"),
    [
        ({"stream": "yes"}, {}, "stream"),
        ({"stream": ""}, {}, "stream"),
        ({"stream": "true"}, {"Last-Event-ID": "ftevent-no"}, "after"),
        ({"stream": "true"}, {"Last-Event-ID": "x" * 300}, "after"),
        ({"stream": "true", "after": "ftevent-no"}, {}, "after"),
    ],
)
def test_what_cannot_be_followed(live: Live, query: dict[str, str], headers: dict[str, str], param: str) -> None:
    reply = live.http.get(f"/v1/fine_tuning/jobs/{live.job}/events", params=query, headers=headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_another_projects_job_cannot_be_followed(live: Live) -> None:
    replies = []
    for job in (live.job, "ftjob-no"):
        with opened(live.stranger, job) as reply:
            replies.append((reply.status_code, reply.read().replace(job.encode(), b"")))
    assert replies[0] == replies[1]
    assert replies[0][0] == 404


def test_streams_of_one_key_are_limited(live: Live) -> None:
    with httpx.Client(base_url=live.url, headers=live.http.headers) as http:
        with ExitStack() as stack:
            told = [messages(stack.enter_context(opened(http, live.job))) for _ in range(4)]
            assert all(next(stream) for stream in told)
            with opened(http, live.job) as refused:
                assert refused.status_code == 429
                assert refused.headers["retry-after"] == "1"
                assert json.loads(refused.read())["error"]["code"] == "rate_limit_exceeded"
        deadline = time.monotonic() + 20
        while (status := _status(http, live.job)) == 429:
            assert time.monotonic() < deadline, "closed streams still count"
        assert status == 200


def _status(http: httpx.Client, job: str) -> int:
    with opened(http, job) as reply:
        return reply.status_code


def test_a_silent_stream_says_that_it_lives(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PING_SECONDS", 0.05)
    with opened(live.http, live.job) as reply:
        assert next(line for line in reply.iter_lines() if line.startswith(":")) == ": still here"


@pytest.mark.parametrize(
    "change",
    [{"revoked_at": sa.func.now()}, {"expires_at": sa.func.now()}, {"scopes": ["files:read"]}],
    ids=["revoked", "expired", "without the scope"],
)
def test_a_key_that_no_longer_may_ends_its_streams(
    live: Live, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    monkeypatch.setattr(event_stream, "PING_SECONDS", 0.05)
    monkeypatch.setattr(KeyCache, "SECONDS", 0.0)
    with db.transaction() as session:
        key = auth.create_key(session, organization="acme").value
    with httpx.Client(base_url=live.url, headers={"Authorization": f"Bearer {key}"}) as http:
        with opened(http, live.job) as reply:
            lines = reply.iter_lines()
            next(lines)
            with db.transaction() as session:
                mine = ApiKey.public_id == key.split("_")[1]
                session.execute(sa.update(ApiKey).where(mine).values(change))
            assert "[DONE]" not in "".join(lines)
