"""What happened in a run, and what must be true of it whatever was broken meanwhile: the invariants I1 to I12.

A `History` is plain data, so that the judge can be judged: tests/history forges histories that break each invariant.
`recorder.py` takes one from a real run.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

FINAL = ("succeeded", "failed", "cancelled")
LEASED = ("validating_files", "running", "pausing")
FIRST_EVENT = "Created fine-tuning job: "
LAST_EVENT = {
    "succeeded": "The job has successfully completed",
    "cancelled": "The job was cancelled on the user's request",
}
ONCE = (FIRST_EVENT, "Validating training file", "Files validated", "Fine-tuning job started", "Checkpoint created at",
        "New fine-tuned model created", *LAST_EVENT.values())  # fmt: skip
UNAVAILABLE = (503, 507)  # the only 5xx, with Retry-After
LEAKS = ("Traceback (most recent call last)", '.py", line', "/site-packages/", "psycopg.", "sqlalchemy.")


@dataclass(frozen=True)
class Version:
    """A job's row after a write; the database's own trigger took it."""

    job: str
    status: str
    fence: int
    leased: bool
    worker: str | None = None
    trained_tokens: int = 0
    resume_step: int = 0


@dataclass(frozen=True)
class Told:
    """An event, in the order of its place. step: of a metrics event."""

    job: str
    at: datetime
    message: str
    step: int | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Computed:
    """A step that an engine took: for which attempt, on how many tokens, with what loss."""

    job: str
    fence: int
    step: int
    tokens: int
    loss: float


@dataclass(frozen=True)
class Delivered:
    """A webhook that arrived. answer: the status it got, None if the reply was lost."""

    endpoint: str
    webhook_id: str
    job: str
    kind: str
    body: bytes
    answer: int | None


@dataclass(frozen=True)
class Artefact:
    """A folder or file that a row names. problems: missing, or with another hash than written down."""

    job: str
    name: str
    sha256: str | None = None  # of the adapter's weights
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What a client saw. intent: the same for a request and its retries. resource: what was created."""

    intent: str
    status: int
    resource: str | None = None
    retry_after: bool = False
    body: str = ""


@dataclass(frozen=True)
class Recovery:
    """Something that had to be well again within a time, or a rate that must stay under one."""

    what: str
    measured: float
    bound: float


@dataclass(frozen=True)
class History:
    """A run after it came to rest."""

    accepted: tuple[str, ...] = ()  # jobs that a client was told of
    versions: tuple[Version, ...] = ()
    events: tuple[Told, ...] = ()
    computed: tuple[Computed, ...] = ()
    subscribed: tuple[str, ...] = ()  # endpoints that want to be told of every end
    webhooks: tuple[Delivered, ...] = ()
    artefacts: tuple[Artefact, ...] = ()  # what rows name
    undisturbed: dict[str, str] = field(default_factory=dict)  # job → the weights' sha256 in a run without faults
    replies: tuple[Reply, ...] = ()
    orphans: tuple[str, ...] = ()  # objects past their grace that no row names
    counters: tuple[tuple[str, float, float], ...] = ()  # what it counts, as kept, as counted again
    sightings: tuple[tuple[str, str], ...] = ()  # a tenant, and whose thing it saw
    logs: str = ""
    canaries: tuple[str, ...] = ()
    recoveries: tuple[Recovery, ...] = ()

    def but(self, **changes: object) -> "History":
        return replace(self, **changes)  # type: ignore[arg-type]


def final_statuses(history: History) -> dict[str, str]:
    """The last status of each job."""
    return {version.job: version.status for version in history.versions}


def i1_every_job_ends_once(history: History) -> Iterator[str]:
    """Each accepted job reaches one final state and never leaves it."""
    by_job = _versions(history)
    for job in {*history.accepted, *by_job}:
        statuses = [version.status for version in by_job.get(job, ())]
        ends = [status for status in statuses if status in FINAL]
        if not ends:
            yield f"{job} did not end: {statuses[-1] if statuses else 'no row'}"
        elif len(set(ends)) > 1 or statuses[statuses.index(ends[0]) :] != ends:
            yield f"{job} left its end: {statuses}"


def i2_events_are_whole(history: History) -> Iterator[str]:
    """Told in order, from the creation to the end, what happens once told once."""
    for job, status in final_statuses(history).items():
        told = [event for event in history.events if event.job == job]
        words = [event.message for event in told if event.step is None]
        if not words or not words[0].startswith(FIRST_EVENT):
            yield f"{job}: the first event is not its creation: {words[:1]}"
        if status in LAST_EVENT and LAST_EVENT[status] not in words[-1:]:
            yield f"{job}: the last event of a {status} job is {words[-1:]}"
        for message, times in Counter(words).items():
            if times > 1 and message.startswith(ONCE):
                yield f"{job}: told {times} times: {message}"
        if any(later.at < earlier.at for earlier, later in itertools.pairwise(told)):
            yield f"{job}: an event was told before the one in front of it"


def i3_each_step_counts_once(history: History) -> Iterator[str]:
    """Steps 1 to n, each once and in order; the same step is the same whenever it is taken; tokens add up."""
    computed: dict[tuple[str, int], Computed] = {}
    for one in history.computed:
        known = computed.setdefault((one.job, one.step), one)
        if (known.loss, known.tokens) != (one.loss, one.tokens):
            yield f"{one.job}: step {one.step} came out otherwise under fence {one.fence} than under {known.fence}"
    for job, status in final_statuses(history).items():
        steps = [event for event in history.events if event.job == job and event.step is not None]
        numbers = [event.step for event in steps]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"{job}: the steps told are {numbers}"
        for event in steps:
            one = computed.get((job, event.step or 0))
            if one is not None and event.loss is not None and event.loss != one.loss:
                yield f"{job}: step {event.step} was told with loss {event.loss} and computed with {one.loss}"
        mine = [one.tokens for (of, _), one in computed.items() if of == job]
        kept = _versions(history)[job][-1].trained_tokens
        if status == "succeeded" and mine and kept != sum(mine):
            yield f"{job}: {kept} trained tokens, its steps had {sum(mine)}"


def i4_each_end_is_delivered(history: History) -> Iterator[str]:
    """One webhook of a job's end for each endpoint; sent again only after a failure, with the same body."""
    arrived: dict[tuple[str, str], list[Delivered]] = defaultdict(list)
    for one in history.webhooks:
        arrived[one.endpoint, one.job].append(one)
    for endpoint in history.subscribed:
        for job, status in final_statuses(history).items():
            some = arrived[endpoint, job]
            if not some:
                yield f"{job}: its end never arrived at {endpoint}"
                continue
            if len({one.webhook_id for one in some}) > 1:
                yield f"{job}: told of its end with {len({one.webhook_id for one in some})} webhook ids"
            if len({one.body for one in some}) > 1:
                yield f"{job}: its webhook was sent with several bodies"
            if any(one.kind != f"fine_tuning.job.{status}" for one in some):
                yield f"{job} is {status} and was told as {some[0].kind}"
            if any(one.answer is not None and 200 <= one.answer < 300 for one in some[:-1]):
                yield f"{job}: its webhook was sent again after it had been taken"


def i5_models_are_whole_and_undisturbed(history: History) -> Iterator[str]:
    """A succeeded job has an adapter whose files are as written down, and the bytes of a run without faults."""
    by_job: dict[str, list[Artefact]] = defaultdict(list)
    for artefact in history.artefacts:
        by_job[artefact.job].append(artefact)
        yield from (f"{artefact.job}: {artefact.name}: {problem}" for problem in artefact.problems)
    for job, status in final_statuses(history).items():
        weights = [artefact.sha256 for artefact in by_job[job] if artefact.sha256 is not None]
        if status == "succeeded" and not weights:
            yield f"{job} succeeded without an adapter"
        expected = history.undisturbed.get(job)
        if status == "succeeded" and expected is not None and weights and weights[-1] != expected:
            yield f"{job}: the adapter is not that of an undisturbed run"


def i6_no_stale_write(history: History) -> Iterator[str]:
    """Fences only rise; under one fence there is one worker; who holds no lease changes nothing of the training."""
    for job, versions in _versions(history).items():
        workers: dict[int, set[str]] = defaultdict(set)
        for before, after in itertools.pairwise(versions):
            if after.fence < before.fence:
                yield f"{job}: a write under fence {after.fence} after {before.fence}"
            if after.worker is not None:
                workers[after.fence].add(after.worker)
            same = (after.trained_tokens, after.resume_step) == (before.trained_tokens, before.resume_step)
            begun_again = after.resume_step == 0 and before.leased
            if not same and not before.leased and not begun_again:
                yield f"{job}: its training was written while nobody held it"
            if after.status == "succeeded" and before.status != "succeeded" and not before.leased:
                yield f"{job} succeeded while nobody held it"
        yield from (
            f"{job}: fence {fence} was given to {sorted(who)}" for fence, who in workers.items() if len(who) > 1
        )


def i7_retries_create_once(history: History) -> Iterator[str]:
    """A request and its retries made one thing."""
    made: dict[str, set[str]] = defaultdict(set)
    for reply in history.replies:
        if reply.resource is not None:
            made[reply.intent].add(reply.resource)
    yield from (f"{intent} made {sorted(ids)}" for intent, ids in made.items() if len(ids) > 1)


def i8_objects_and_rows_agree(history: History) -> Iterator[str]:
    """No object without a row past its grace; what a row names is judged under I5."""
    yield from (f"nobody names {key}" for key in history.orphans)


def i9_counters_are_right(history: History) -> Iterator[str]:
    """What is counted along the way equals what counting again gives."""
    yield from (f"{what} is {kept}, counted again {again}" for what, kept, again in history.counters if kept != again)


def i10_errors_are_honest(history: History) -> Iterator[str]:
    """No 5xx but the listed ones, each with Retry-After; no trace of our insides in a body."""
    for reply in history.replies:
        if reply.status >= 500 and reply.status not in UNAVAILABLE:
            yield f"{reply.intent} was answered with {reply.status}"
        elif reply.status >= 500 and not reply.retry_after:
            yield f"{reply.intent}: a {reply.status} without Retry-After"
        yield from (f"{reply.intent}: {leak!r} in a body" for leak in LEAKS if leak in reply.body)


def i11_nothing_leaks(history: History) -> Iterator[str]:
    """Nothing of a tenant before another's eyes, no secret in a log."""
    yield from (f"{who} saw what is {whose}'s" for who, whose in history.sightings if who != whose)
    yield from (f"a secret is in the logs: {canary[:8]}…" for canary in history.canaries if canary in history.logs)


def i12_recovery_is_quick(history: History) -> Iterator[str]:
    """Well again within the bound; no busy loop meanwhile."""
    for one in history.recoveries:
        if one.measured > one.bound:
            yield f"{one.what}: {one.measured:.2f}, at most {one.bound:.2f}"


Invariant = Callable[[History], Iterator[str]]
INVARIANTS: dict[str, Invariant] = {
    "I1": i1_every_job_ends_once,
    "I2": i2_events_are_whole,
    "I3": i3_each_step_counts_once,
    "I4": i4_each_end_is_delivered,
    "I5": i5_models_are_whole_and_undisturbed,
    "I6": i6_no_stale_write,
    "I7": i7_retries_create_once,
    "I8": i8_objects_and_rows_agree,
    "I9": i9_counters_are_right,
    "I10": i10_errors_are_honest,
    "I11": i11_nothing_leaks,
    "I12": i12_recovery_is_quick,
}


def violations(history: History) -> list[str]:
    """What is wrong with a run; empty if nothing is."""
    return [f"{name}: {problem}" for name, judge in INVARIANTS.items() for problem in judge(history)]


def _versions(history: History) -> dict[str, Sequence[Version]]:
    by_job: dict[str, list[Version]] = defaultdict(list)
    for version in history.versions:
        by_job[version.job].append(version)
    return dict(by_job)
