"""A job's events as they come: streamed where the server offers it, polled elsewhere."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import OpenAI, Stream
    from openai.types.fine_tuning import FineTuningJobEvent

POLL_SECONDS = 0.5
PAGE = 100  # events a request
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


def follow(client: "OpenAI", job_id: str) -> Iterator["FineTuningJobEvent"]:
    """Every event of a job in order, from its first to its last; ends when the job has."""
    last = None
    while (stream := _open(client, job_id, last)) is not None:
        for event in _until_cut(stream):
            last = event.id
            yield event
        if client.fine_tuning.jobs.retrieve(job_id).status in TERMINAL:
            break
    yield from _poll(client, job_id, last)


def _poll(client: "OpenAI", job_id: str, last: str | None) -> Iterator["FineTuningJobEvent"]:
    while True:
        # The job is read before its events: when it says that it has ended, its last events are there.
        status = client.fine_tuning.jobs.retrieve(job_id).status
        for event in _after(client, job_id, last):
            last = event.id
            yield event
        if status in TERMINAL:
            return
        time.sleep(POLL_SECONDS)


def _open(client: "OpenAI", job_id: str, last: str | None) -> "Stream[FineTuningJobEvent] | None":
    """A stream of the events after `last`; None from a server that answers with a page."""
    from openai import Stream
    from openai.types.fine_tuning import FineTuningJobEvent

    stream = client.get(
        f"/fine_tuning/jobs/{job_id}/events",
        cast_to=FineTuningJobEvent,
        options={"params": {"stream": "true"}, "headers": {"Last-Event-ID": last} if last else {}},
        stream=True,
        stream_cls=Stream[FineTuningJobEvent],
    )
    if stream.response.headers.get("content-type", "").startswith("text/event-stream"):
        return stream
    stream.close()
    return None


def _until_cut(stream: "Stream[FineTuningJobEvent]") -> Iterator["FineTuningJobEvent"]:
    """The events of a stream up to its end, or to where the connection broke off."""
    from openai import APIConnectionError

    try:
        yield from stream
    except APIConnectionError:
        time.sleep(POLL_SECONDS)
    finally:
        stream.close()


def _after(client: "OpenAI", job_id: str, last: str | None) -> list["FineTuningJobEvent"]:
    """The events newer than `last`, oldest first; all of them for None. The API lists the newest first."""
    fresh = []
    for event in client.fine_tuning.jobs.list_events(job_id, limit=PAGE):
        if event.id == last:
            break
        fresh.append(event)
    return fresh[::-1]
