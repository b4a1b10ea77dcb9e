"""The numbered rows of bad input, complete: each stands in a table here, in another test, or has a reason.

A transport, keys and headers; B forms and uploads; C lines; D job bodies; E ids, lists, life and administration;
F addresses, artefacts, templates and graders. The rows without a number are ours too.
"""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LAST = {"A": 75, "B": 81, "C": 83, "D": 79, "E": 79, "F": 81}
ROWS = [f"{group}{number:02}" for group, last in LAST.items() for number in range(1, last + 1, 2)]

TRANSPORT = "bad_input/test_transport.py"

# Rows that other tests hold: the file, and what it must say.
ELSEWHERE: dict[str, tuple[str, str]] = {
    "A01": ("http/test_envelope.py", "test_every_route_that_is_not_public_wants_a_key"),
    "A03": (TRANSPORT, '"scheme and a space"'),
    "A05": (TRANSPORT, '"lower-case scheme"'),
    "A07": (TRANSPORT, '"tab after"'),
    "A09": ("http/test_envelope.py", "test_headers_that_are_no_key"),
    "A11": (TRANSPORT, '"one letter changed"'),
    "A13": ("admin/test_admin_routes.py", "wait_until_refused"),
    "A19": (TRANSPORT, '"bytes": ("Bearer'),
    "A21": (TRANSPORT, '"sql": ("Bearer'),
    "A23": (TRANSPORT, "test_tenants_in_headers"),
    "A25": (TRANSPORT, '"another address told"'),
    "A29": (TRANSPORT, '"no host"'),
    "A31": (TRANSPORT, '"no slash"'),
    "A33": (TRANSPORT, '"two lengths"'),
    "A35": (TRANSPORT, '"a length that is too large"'),
    "A37": (TRANSPORT, '"more than the length"'),
    "A39": (TRANSPORT, "test_a_mebibyte_in_chunks_of_one_byte"),
    "A41": (TRANSPORT, '"a coding that is unknown"'),
    "A43": (TRANSPORT, '"expectation of something too large"'),
    "A45": (TRANSPORT, '"long headers"'),
    "A47": (TRANSPORT, '"a space in a header\'s name"'),
    "A49": (TRANSPORT, '"a folded header"'),
    "A51": (TRANSPORT, "test_a_body_that_comes_too_slowly"),
    "A53": (TRANSPORT, "test_many_requests_at_once_on_one_connection"),
    "A55": (TRANSPORT, '"trace"'),
    "A57": (TRANSPORT, '"options"'),
    "A59": (TRANSPORT, "test_methods_that_a_route_has_not"),
    "A61": (TRANSPORT, '"double slashes"'),
    "A63": (TRANSPORT, '"accepts xml"'),
    "A65": (TRANSPORT, '"absent": ([]'),
    "A67": (TRANSPORT, '"utf-16": (["application/json'),
    "A69": (TRANSPORT, '"nonsense parameters"'),
    "A71": ("http/test_once.py", "test_bad_keys"),
    "A73": ("http/test_once.py", "test_a_key_of_another_request_is_refused"),
    "A75": ("jobs/test_event_stream.py", "test_streams_of_one_key_are_limited"),
    "B77": ("uploads/test_upload_routes.py", "test_race_of_complete_and_cancel_has_one_winner"),
    "C47": ("prepare/test_template.py", "special token"),
    "C73": ("prepare/test_dataset.py", "test_truncation_is_counted_and_named"),
    "D71": ("jobs/test_quotas.py", "QuotaExceeded"),
    "D73": ("jobs/test_quotas.py", "test_race_for_the_last_waiting_place"),
    "D77": ("http/test_once.py", "test_equal_first_requests_are_as_many_jobs"),
    "D79": ("http/test_once.py", "test_a_retry_without_a_key_gets_the_first_object"),
    "E31": (TRANSPORT, '"a long query"'),
    "E43": ("jobs/test_job_routes.py", "test_unknown_jobs_are_all_alike"),
    "E69": (TRANSPORT, "/v1/chat/completions"),
    "E79": ("admin/test_admin_routes.py", "archive"),
    "F09": ("core/test_egress.py", "test_a_name_that_leads_inside_is_refused_if_only_one_address_does"),
    "F11": ("core/test_egress.py", "test_redirects_are_answers_and_not_followed"),
    "F23": ("core/test_egress.py", "test_a_huge_answer_is_read_in_part"),
    "F25": ("core/test_egress.py", "test_an_old_version_of_tls_fails"),
    "F27": ("webhooks/test_lanes.py", "test_retry_after_is_heard_within_bounds"),
    "F29": ("webhooks/test_webhook_routes.py", "test_a_project_has_so_many_endpoints_and_no_more"),
    "F31": ("webhooks/test_signing.py", "test_an_old_or_early_letter_is_refused_by_the_client"),
    "F33": ("webhooks/test_signing.py", "test_the_body_tells_no_more_than_where_to_look"),
    "F45": ("catalog/test_pull.py", "test_remote_code_is_refused"),
    "F51": ("prepare/test_template.py", "test_a_template_cannot_reach_out_of_its_sandbox"),
    "F55": ("prepare/test_template.py", "test_a_template_without_the_assistants_words_is_refused"),
    "F67": ("graders/test_jailbreak.py", "test_a_fork_bomb"),
    "F69": ("graders/test_jailbreak.py", "test_disk"),
    "F71": ("graders/test_jailbreak.py", "test_what_cannot_be_seen"),
    "F73": ("graders/test_jailbreak.py", "test_endless_printing"),
    "F75": ("graders/test_jailbreak.py", "test_nothing_is_left_behind"),
}

# Rows that do not apply.
NOT_HERE = {
    "A15": "a project that is archived keeps its rows and has no keys that work: A13",
    "A27": "no list of allowed hosts: nothing that is answered depends on Host",
    "C67": "preference data is not trained on: such a job is refused, such a line has no messages",
    "C69": "as C67",
    "C71": "as C67",
    "C77": "each file is judged by itself; the two formats may differ",
    "D75": "nothing is estimated at creation: epochs are at most 50, and tokens are counted when they are trained",
    "E33": "lists go by keyset pages over a sequence: core and job tests; the rate is a benchmark",
    "E35": "a benchmark",
    "E65": "no presigned addresses: bytes pass through the API",
    "F35": "adapters and weights cannot be uploaded: nothing of the kind is parsed",
    "F37": "as F35",
    "F39": "as F35",
    "F41": "as F35",
    "F43": "as F35",
    "F47": "configurations come from the operator's catalogue, pinned and hashed",
    "F49": "as F47",
    "F53": "as F47",
    "F59": "no archives are unpacked",
    "F61": "base models cannot be uploaded",
}

IN_TABLES = set(
    re.findall(
        r"""(?:"|'|f"|def test_|_)([a-fA-F]\d\d)(?=[ _"'])""",
        "".join(path.read_text() for path in TESTS.glob("bad_input/test_*.py") if path.name != Path(__file__).name),
    )
)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_somewhere(row: str) -> None:
    here = {name.upper() for name in IN_TABLES}
    assert row in here | ELSEWHERE.keys() | NOT_HERE.keys()
    assert not NOT_HERE.keys() & (here | ELSEWHERE.keys())


@pytest.mark.parametrize(("file", "words"), ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_what_other_tests_hold_is_there(file: str, words: str) -> None:
    assert words in (TESTS / file).read_text()
