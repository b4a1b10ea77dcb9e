"""Event types, and the body that tells of an event: its type, its time, and the id of the object it is about."""

import json
from typing import Literal, get_args

from app import ids

# What OpenAI's create call may name. Only those of fine-tuning ever happen here.
EventType = Literal[
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "eval.run.succeeded",
    "eval.run.failed",
    "eval.run.canceled",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "realtime.call.incoming",
    "video.completed",
    "video.failed",
    "agent.environment.ready",
    "agent.environment.failed",
    "agent.environment.suspended",
    "agent.environment.expired",
    "agent.session.created",
    "agent.session.action_required",
    "agent.session.in_progress",
    "agent.session.idle",
    "agent.session.failed",
    "safety.alert.created",
]
FINE_TUNING = tuple(name for name in get_args(EventType) if name.startswith("fine_tuning."))
_PREFIXES = {"fine_tuning": "ftjob-", "batch": "batch_", "response": "resp_", "eval": "evalrun_", "video": "video_"}


def new_event_id() -> str:
    return ids.new("evt_")


def new_webhook_id() -> str:
    return ids.new("wh_")


def body(event_id: str, event_type: str, created_at: int, object_id: str) -> str:
    """The JSON that receivers get. created_at: Unix seconds."""
    event = {
        "id": event_id,
        "object": "event",
        "created_at": created_at,
        "type": event_type,
        "data": {"id": object_id},
    }
    return json.dumps(event, separators=(",", ":"))


def sample_object_id(event_type: str) -> str:
    """An id that looks like those of an event type's objects, and names none."""
    return ids.new(_PREFIXES.get(event_type.split(".", maxsplit=1)[0], "obj_"))
