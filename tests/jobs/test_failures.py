"""Every cause has a code, a message and a number of tries, and counts by itself."""

import re

import pytest

from app.jobs import failures
from app.jobs.failures import ENGINE_CODES, MAX_LOSSES, TABLE, judge

CAUSES = {
    value
    for name, value in vars(failures).items()
    if name.isupper() and isinstance(value, str) and value != failures.SINCE_STEP
}


def losses(cause: str, steps: list[int]) -> list[bool]:
    """Whether a job that is struck at these furthest steps may go on, each time."""
    attempts: dict[str, int] = {}
    verdicts = []
    for step in steps:
        verdict = judge(cause, attempts, step)
        verdicts.append(verdict.retry)
        attempts = verdict.attempts
    return verdicts


def test_every_cause_stands_in_the_table() -> None:
    assert set(TABLE) == CAUSES


def test_every_code_and_message_is_for_users() -> None:
    for failure in TABLE.values():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", failure.code)
        assert re.fullmatch(r"[A-Z][^.]+\.", failure.message)
        assert failure.tries >= 1


def test_every_code_of_the_engine_has_a_cause() -> None:
    from worker.engine.server import CODES

    assert set(CODES.values()) <= set(ENGINE_CODES)
    assert set(ENGINE_CODES.values()) <= set(TABLE)


@pytest.mark.parametrize("cause", ["invalid_file", "bad_dataset", "bad_spec", "bad_adapter", "diverged", "no_capacity"])
def test_what_the_user_caused_is_never_tried_again(cause: str) -> None:
    assert losses(cause, [0]) == [False]


def test_a_lost_worker_is_forgiven_three_times_without_progress() -> None:
    assert losses(failures.WORKER_LOST, [0, 0, 0]) == [True, True, False]
    assert losses(failures.WORKER_LOST, [5, 5, 5]) == [True, True, False]


def test_a_lost_worker_costs_nothing_while_the_job_gets_further() -> None:
    verdicts = losses(failures.WORKER_LOST, list(range(MAX_LOSSES)))
    assert verdicts == [True] * (MAX_LOSSES - 1) + [False]


def test_causes_count_apart() -> None:
    attempts = judge(failures.WORKER_LOST, {}, 0).attempts
    verdict = judge(failures.ENGINE_CRASHED, attempts, 0)
    assert (verdict.attempts["worker_lost"], verdict.attempts["engine_crashed"]) == (1, 1)


def test_a_message_of_its_own_keeps_the_code() -> None:
    error = failures.public_error(failures.DIVERGED, "step 3", "training_file")
    assert error == {"code": "training_diverged", "message": "step 3", "param": "training_file"}
