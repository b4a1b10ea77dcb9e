"""The life of a fine-tuning job. This file imports nothing and decides nothing: it is the table others obey.

validating_files ─► queued ─► running ─► succeeded
       │              │ ▲        │ ├────► failed
       ▼              │ └ paused ◄─ pausing
     failed           ▼
                  cancelled   from any state that is not final

validating_files  Created by `POST /fine_tuning/jobs`. `worker cpu` holds it under a lease while it prepares the data.
                  If that worker dies, a sweep clears the lease and another worker claims it.
queued            Prepared; waits for `worker gpu`. Holds no lease, so nobody has to clean up.
running           Held by one `worker gpu` under a lease and a fence. If that worker dies, a sweep moves the job back to
                  queued, to be resumed from its last resume state.
pausing           Asked to pause while running; its worker saves a resume state and moves it to paused. If that worker
                  dies, a sweep moves it to paused: its last resume state stands.
paused            Holds nothing; the user's resume moves it to queued.
succeeded         Moved by the worker that holds it, in the transaction that publishes the model. Final.
failed            Moved by the worker that holds it, or by a sweep that gives up. Final; `error` says why.
cancelled         Moved by the user's cancel, at once. Final; a worker that still holds it loses its fence.
"""

VALIDATING = "validating_files"
QUEUED = "queued"
RUNNING = "running"
PAUSING = "pausing"
PAUSED = "paused"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"

ALL = (VALIDATING, QUEUED, RUNNING, PAUSING, PAUSED, SUCCEEDED, FAILED, CANCELLED)
FINAL = (SUCCEEDED, FAILED, CANCELLED)
LEASED = (VALIDATING, RUNNING, PAUSING)  # a worker may hold these

# (from, to) → who moves it.
MOVES = {
    (VALIDATING, QUEUED): "worker cpu",
    (VALIDATING, FAILED): "worker cpu, or a sweep",
    (VALIDATING, CANCELLED): "user",
    (QUEUED, RUNNING): "worker gpu",
    (QUEUED, FAILED): "a sweep: no capacity",
    (QUEUED, PAUSED): "user",
    (QUEUED, CANCELLED): "user",
    (RUNNING, QUEUED): "worker gpu on drain, or a sweep",
    (RUNNING, PAUSING): "user",
    (RUNNING, SUCCEEDED): "worker gpu",
    (RUNNING, FAILED): "worker gpu, or a sweep",
    (RUNNING, CANCELLED): "user",
    (PAUSING, PAUSED): "worker gpu, or a sweep",
    (PAUSING, SUCCEEDED): "worker gpu: it was done before it saw the pause",
    (PAUSING, FAILED): "worker gpu, or a sweep",
    (PAUSING, CANCELLED): "user",
    (PAUSED, QUEUED): "user",
    (PAUSED, CANCELLED): "user",
}


def sources(target: str) -> tuple[str, ...]:
    """The statuses from which a job may move to `target`."""
    return tuple(source for source, to in MOVES if to == target)
