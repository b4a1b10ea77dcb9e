"""Why a job may fail: one table from cause to the public error, and how often each cause is forgiven.

A job's `attempts` counts by cause. What the user caused is never tried again; what a machine caused is, within bounds.
A lost worker costs nothing while the furthest step grows, up to a cap.
"""

from dataclasses import dataclass
from typing import Any

# What the user's data or settings cause.
INVALID_FILE = "invalid_file"
BAD_DATASET = "bad_dataset"
BAD_SPEC = "bad_spec"
BAD_ADAPTER = "bad_adapter"
DIVERGED = "diverged"
QUOTA_EXCEEDED = "quota_exceeded"
# What machines cause.
OUT_OF_MEMORY = "out_of_memory"
WORKER_LOST = "worker_lost"
ENGINE_CRASHED = "engine_crashed"
STALLED = "stalled"
STORAGE_UNAVAILABLE = "storage_unavailable"
BASE_UNAVAILABLE = "base_unavailable"
BAD_RESUME = "bad_resume"
NO_CAPACITY = "no_capacity"
INTERNAL_ERROR = "internal_error"

MAX_LOSSES = 20  # even with progress in between
SINCE_STEP = "since_step"  # attempts also remembers the furthest step at the last loss


@dataclass(frozen=True)
class Failure:
    """code and message: what the user sees. tries: how many times the cause may strike before the job fails.

    interrupted: how the event begins that tells of another try.
    """

    code: str
    message: str
    tries: int
    forgiven_by_progress: bool = False  # the count starts again when the furthest step has grown
    interrupted: str = "The job lost its worker"


TABLE = {
    INVALID_FILE: Failure("invalid_training_file", "The training file cannot be used.", 1),
    BAD_DATASET: Failure("invalid_training_file", "The prepared dataset cannot be trained with.", 1),
    BAD_SPEC: Failure("invalid_hyperparameters", "The hyperparameters do not fit this base model.", 1),
    BAD_ADAPTER: Failure("invalid_model", "The model to train on from does not fit its base model.", 1),
    DIVERGED: Failure("training_diverged", "The loss became infinite or not a number; lower the learning rate.", 1),
    QUOTA_EXCEEDED: Failure(
        "insufficient_quota", "The project's training tokens for this month do not cover this job.", 1
    ),
    OUT_OF_MEMORY: Failure(
        "out_of_memory", "The job needs more memory than its device has.", 2, interrupted="The job ran out of memory"
    ),
    WORKER_LOST: Failure("worker_lost", "The workers training this job were lost repeatedly.", 3, True),
    ENGINE_CRASHED: Failure("engine_crashed", "Training this job crashed the engine repeatedly.", 3, True),
    STALLED: Failure(
        "training_stalled", "The job made no progress within its time budget.", 2, True, "The job made no progress"
    ),
    STORAGE_UNAVAILABLE: Failure(
        "storage_unavailable",
        "The object store could not be reached.",
        20,
        interrupted="The job could not reach its storage",
    ),
    BASE_UNAVAILABLE: Failure(
        "base_unavailable",
        "The base model could not be loaded on any worker.",
        20,
        interrupted="The job found no base model",
    ),
    # What is saved was written by another version, or is damaged: the job begins again.
    BAD_RESUME: Failure(
        "resume_failed", "The job could not go on from its last saved state.", 3, interrupted="The job lost its state"
    ),
    NO_CAPACITY: Failure("no_capacity", "No worker that could train this base model was there for too long.", 1),
    INTERNAL_ERROR: Failure(
        "internal_error", "An internal error occurred.", 2, interrupted="The job met an internal error"
    ),
}

# What the engine calls a failure → our cause.
ENGINE_CODES = {
    "bad_adapter": BAD_ADAPTER,
    "bad_base": BASE_UNAVAILABLE,
    "bad_dataset": BAD_DATASET,
    "bad_resume": BAD_RESUME,
    "bad_spec": BAD_SPEC,
    "disk_full": STORAGE_UNAVAILABLE,
    "diverged": DIVERGED,
    "no_base": INTERNAL_ERROR,
    "no_room": OUT_OF_MEMORY,
    "no_slot": INTERNAL_ERROR,
    "duplicate_job": INTERNAL_ERROR,
    "unknown_job": INTERNAL_ERROR,
    "bad_command": INTERNAL_ERROR,
    "busy": INTERNAL_ERROR,
    "internal_error": INTERNAL_ERROR,
    "out_of_memory": OUT_OF_MEMORY,
}


@dataclass(frozen=True)
class Verdict:
    """What becomes of a job after a failure: tried again, or failed; and its counts."""

    retry: bool
    attempts: dict[str, int]


def judge(cause: str, attempts: dict[str, int], furthest_step: int, *, charged: bool = True) -> Verdict:
    """Count one more failure by `cause` and say whether the job may go on.

    charged: False if the job was in company and may be innocent; it counts in the total alone.
    """
    failure = TABLE[cause]
    grown = furthest_step > attempts.get(SINCE_STEP, 0)
    before = 0 if failure.forgiven_by_progress and grown else attempts.get(cause, 0)
    total = attempts.get("total", 0) + 1
    count = before + 1 if charged else before
    counted = {**attempts, cause: count, "total": total, SINCE_STEP: furthest_step}
    return Verdict(count < failure.tries and total < MAX_LOSSES, counted)


def public_error(cause: str, message: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The job's `error` object."""
    failure = TABLE[cause]
    return {"code": failure.code, "message": message or failure.message, "param": param}
