"""The ninety faults: which are tested here is in the tests' names; this says where the others are, and which are not.

tests/faults/test_table.py holds that every number has its place, and that what is named is there.
"""

# Tested by the ordinary suite: number → tests.
ELSEWHERE = {
    "F09": ["tests/http/test_once.py::test_race_of_one_key_makes_one_job"],
    "F21": ["benchmarks/claims.py::run"],
    "F43": [
        "tests/jobs/test_cancel_race.py::test_race_cancel_against_finish",
        "tests/webhooks/test_lanes.py::test_cancel_and_success_at_once_make_one_webhook",
    ],
    "F49": [
        "tests/engine/test_memory.py::test_out_of_memory_makes_chunks_smaller_and_keeps_the_step",
        "tests/engine/test_memory.py::test_a_job_that_needs_more_than_there_is_fails",
    ],
    "F53": ["tests/prepare/test_dataset.py::test_an_example_without_trained_tokens_left_is_dropped_and_named"],
    "F56": [
        "tests/engine/test_resume.py::test_a_state_of_another_version_is_refused",
        "tests/worker/test_runner.py::test_a_state_that_is_damaged_lets_the_job_begin_again",
    ],
    "F64": ["benchmarks/many_events.py::run"],
    "F80": ["tests/worker/test_sweeps.py::test_a_lease_that_ends_after_the_clock_was_set_back_is_cut"],
    "F82": [
        "tests/http/test_year_2056.py::test_what_a_project_is_told",
        "tests/http/test_year_2056.py::test_the_signature_of_a_webhook",
    ],
    "F83": ["tests/webhooks/test_deliverer.py::test_five_failures_and_then_success_is_one_delivery"],
    "F84": ["tests/webhooks/test_deliverer.py::test_a_receiver_that_never_answers"],
    "F85": ["tests/webhooks/test_deliverer.py::test_a_reply_that_is_lost_means_the_same_letter_again"],
    "F87": [
        "tests/webhooks/test_lanes.py::test_a_deleted_endpoint_ends_its_deliveries",
        "tests/webhooks/test_lanes.py::test_new_attempts_are_signed_with_the_new_secret_and_the_old_one_while_it_lasts",
    ],
    "F88": ["tests/webhooks/test_deliverer.py::test_dead_endpoints_delay_nobody"],
}

# What cannot happen to this stack.
WITHOUT = {
    "F11": "A ring is a hint that nothing depends on: no row says that it is to be sent. F13 and F14 lose rings.",
    "F19": "A ring carries no job: there is no stale one.",
    "F28": "Heart and training are processes of their own: the engine cannot hold the lock that the heartbeat needs.",
    "F50": "The kernel's killer of processes does to an engine what F39 does; both end in the same way.",
    "F52": "There is no loss scaling: training is in bfloat16 or float32, and what is not finite is F51.",
    "F62": "There is no SQLite: Postgres is the only database.",
    "F74": "Nothing depends on a listing but the garbage collector, which deletes nothing younger than a day.",
}

# What can happen and has no test yet, with what is known about it.
OPEN: dict[str, str] = {}
