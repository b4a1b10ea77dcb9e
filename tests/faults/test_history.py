"""The judge is judged: a whole run passes, and for each invariant there is a forged one that does not."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.chaos.history import (
    INVARIANTS,
    Artefact,
    Computed,
    Delivered,
    History,
    Recovery,
    Reply,
    Told,
    Version,
    violations,
)

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
JOB, OTHER = "ftjob-a", "ftjob-b"


def versions(*states: tuple[str, int, bool], tokens: int = 30, job: str = JOB) -> tuple[Version, ...]:
    rows = [Version(job, status, fence, leased, f"w{fence}" if leased else None) for status, fence, leased in states]
    return (*rows[:-1], replace(rows[-1], trained_tokens=tokens))


def told(*messages: str, steps: int = 3, job: str = JOB) -> tuple[Told, ...]:
    """Messages with the metrics of some steps before the last of them."""
    metrics = [Told(job, NOON, f"Step {step}", step=step, loss=1 / step) for step in range(1, steps + 1)]
    words = [Told(job, NOON, message) for message in messages]
    rows = [*words[:-1], *metrics, words[-1]]
    return tuple(replace(row, at=NOON + timedelta(seconds=n)) for n, row in enumerate(rows))


WENT = versions(
    ("validating_files", 0, False), ("validating_files", 1, True), ("queued", 1, False), ("running", 2, True),
    ("queued", 2, False), ("running", 3, True), ("succeeded", 3, False),
)  # fmt: skip
EVENTS = told(
    f"Created fine-tuning job: {JOB}",
    "Validating training file: file-a",
    "Files validated, moving job to queued state",
    "Fine-tuning job started",
    "The job lost its worker and was put back into the queue; it goes on from step 1",
    "Fine-tuning job resumed at step 1",
    f"Checkpoint created at step 3 with Snapshot ID: ft:{JOB}",
    f"New fine-tuned model created: ft:{JOB}",
    "The job has successfully completed",
)
STEPS = tuple(Computed(JOB, fence, step, 10, 1 / step) for fence, step in ((2, 1), (2, 2), (3, 2), (3, 3)))
HOOK = Delivered("whe_1", "wh_1", JOB, "fine_tuning.job.succeeded", b"{}", 500)
GOOD = History(
    accepted=(JOB,),
    versions=WENT,
    events=EVENTS,
    computed=STEPS,
    subscribed=("whe_1",),
    webhooks=(HOOK, replace(HOOK, answer=200)),
    artefacts=(Artefact(JOB, "final/", sha256="aa"), Artefact(JOB, "step_metrics.csv")),
    undisturbed={JOB: "aa"},
    replies=(
        Reply("create a", 503, retry_after=True, body='{"error": {}}'),
        Reply("create a", 200, JOB),
        Reply("create a", 200, JOB),
        Reply("create b", 400),
    ),
    counters=(("slots", 4, 4),),
    sightings=(("acme", "acme"),),
    logs="job.claimed",
    canaries=("sk-secret-canary",),
    recoveries=(Recovery("pick-up", 3.0, 5.0),),
)


def without(events: tuple[Told, ...], beginning: str) -> tuple[Told, ...]:
    return tuple(event for event in events if not event.message.startswith(beginning))


def test_a_whole_run_passes() -> None:
    assert violations(GOOD) == []
    assert violations(History()) == []


def test_a_cancelled_and_a_failed_job_pass() -> None:
    for status, word in (("cancelled", "The job was cancelled on the user's request"), ("failed", "It went wrong.")):
        run = History(
            accepted=(JOB,),
            versions=versions(("validating_files", 0, False), ("queued", 1, False), (status, 1, False), tokens=0),
            events=told(f"Created fine-tuning job: {JOB}", word, steps=0),
        )
        assert violations(run) == []


FORGED = {
    "I1 never ends": GOOD.but(versions=WENT[:-1], events=EVENTS[:-1], subscribed=()),
    "I1 no row": GOOD.but(accepted=(JOB, OTHER)),
    "I1 leaves its end": GOOD.but(versions=(*WENT, replace(WENT[4], fence=3), WENT[-1])),
    "I1 ends twice": GOOD.but(versions=(*WENT[:-1], replace(WENT[-1], status="cancelled"), WENT[-1])),
    "I2 no creation": GOOD.but(events=without(EVENTS, "Created")),
    "I2 no last event": GOOD.but(events=without(EVENTS, "The job has successfully")),
    "I2 told after the end": GOOD.but(events=(*EVENTS, Told(JOB, NOON + timedelta(1), "One more thing"))),
    "I2 told twice": GOOD.but(events=(*EVENTS[:5], EVENTS[3], *EVENTS[5:])),
    "I2 out of order": GOOD.but(events=(*EVENTS[:4], replace(EVENTS[4], at=NOON - timedelta(1)), *EVENTS[5:])),
    "I3 a step is missing": GOOD.but(events=without(EVENTS, "Step 2")),
    "I3 a step twice": GOOD.but(events=(*EVENTS[:-1], replace(EVENTS[-2], at=EVENTS[-1].at), EVENTS[-1])),
    "I3 it came out otherwise": GOOD.but(computed=(*STEPS[:2], replace(STEPS[2], loss=0.7), STEPS[3])),
    "I3 told otherwise": GOOD.but(events=tuple(replace(e, loss=0.1) if e.step == 3 else e for e in EVENTS)),
    "I3 tokens counted twice": GOOD.but(versions=(*WENT[:-1], replace(WENT[-1], trained_tokens=40))),
    "I4 never arrived": GOOD.but(webhooks=()),
    "I4 two webhooks": GOOD.but(webhooks=(HOOK, replace(HOOK, webhook_id="wh_2"))),
    "I4 another body": GOOD.but(webhooks=(HOOK, replace(HOOK, body=b"[]"))),
    "I4 another end": GOOD.but(webhooks=(replace(HOOK, kind="fine_tuning.job.failed"),)),
    "I4 sent again": GOOD.but(webhooks=(replace(HOOK, answer=200), HOOK)),
    "I5 no adapter": GOOD.but(artefacts=()),
    "I5 a damaged file": GOOD.but(artefacts=(*GOOD.artefacts, Artefact(JOB, "final/a.json", problems=("missing",)))),
    "I5 other bytes": GOOD.but(undisturbed={JOB: "bb"}),
    "I6 an old fence": GOOD.but(versions=(*WENT[:5], replace(WENT[5], fence=1), WENT[-1])),
    "I6 two workers": GOOD.but(versions=(*WENT[:6], replace(WENT[5], worker="w9"), WENT[-1])),
    "I6 written by nobody": GOOD.but(versions=(*WENT[:5], replace(WENT[4], resume_step=2), *WENT[5:])),
    "I6 succeeded by nobody": GOOD.but(versions=(*WENT[:5], replace(WENT[-1], trained_tokens=0, fence=2), WENT[-1])),
    "I7 made twice": GOOD.but(replies=(*GOOD.replies, Reply("create a", 200, OTHER))),
    "I8 an orphan": GOOD.but(orphans=("projects/p/jobs/j/1/final/",)),
    "I9 a slot too few": GOOD.but(counters=(("slots", 3, 4),)),
    "I10 a 500": GOOD.but(replies=(Reply("list", 500),)),
    "I10 no Retry-After": GOOD.but(replies=(Reply("list", 503),)),
    "I10 a traceback": GOOD.but(replies=(Reply("list", 400, body='File "/srv/app/main.py", line 3'),)),
    "I11 another's": GOOD.but(sightings=(("acme", "other"),)),
    "I11 a secret": GOOD.but(logs="authorised sk-secret-canary"),
    "I12 too slow": GOOD.but(recoveries=(Recovery("pick-up", 5.1, 5.0),)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_run_is_seen_through(name: str) -> None:
    found = violations(FORGED[name])
    assert any(problem.startswith(f"{name.split(maxsplit=1)[0]}: ") for problem in found), found


def test_each_invariant_can_fail() -> None:
    assert {name.split()[0] for name in FORGED} == set(INVARIANTS)
