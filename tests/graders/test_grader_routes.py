"""`/v1/fine_tuning/alpha/graders` on the wire."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from live_server import Live

from app.slots import Slots, TooManyAtOnce
from tests.graders.judge import Judge, completion, failure

CHECK = {
    "type": "string_check",
    "name": "check",
    "input": "{{sample.output_text}}",
    "reference": "{{item.label}}",
    "operation": "eq",
}
SIMILAR = {
    "type": "text_similarity",
    "name": "similar",
    "input": "a",
    "reference": "a b",
    "evaluation_metric": "rouge_1",
}
PYTHON = {"type": "python", "name": "python", "source": "def grade(sample, item):\n    return 0.5"}
SCORE = {"type": "score_model", "name": "score", "model": "gpt-4o-mini", "input": [{"role": "user", "content": "x"}]}
LABEL = {
    "type": "label_model", "name": "label", "model": "gpt-4o-mini", "input": [{"role": "user", "content": "x"}],
    "labels": ["good", "bad"], "passing_labels": ["good"],
}  # fmt: skip
MULTI = {"type": "multi", "name": "multi", "graders": {"a": CHECK, "b": SIMILAR}, "calculate_output": "a + b"}

NO_ERRORS = {
    "formula_parse_error": False,
    "sample_parse_error": False,
    "truncated_observation_error": False,
    "unresponsive_reward_error": False,
    "invalid_variable_error": False,
    "other_error": False,
    "python_grader_server_error": False,
    "python_grader_server_error_type": None,
    "python_grader_runtime_error": False,
    "python_grader_runtime_error_details": None,
    "model_grader_server_error": False,
    "model_grader_refusal_error": False,
    "model_grader_parse_error": False,
    "model_grader_server_error_details": None,
}


def validate(live: Live, grader: Any) -> httpx.Response:
    return live.http.post("/v1/fine_tuning/alpha/graders/validate", json={"grader": grader})


def run(live: Live, grader: Any, sample: str = "yes", **more: Any) -> httpx.Response:
    body = {"grader": grader, "model_sample": sample, "item": {"label": "yes"}} | more
    return live.http.post("/v1/fine_tuning/alpha/graders/run", json=body)


def test_the_whole_reply_of_a_run(live: Live) -> None:
    body = run(live, CHECK).json()
    assert body["metadata"].pop("execution_time") >= 0
    assert body == {
        "reward": 1.0,
        "metadata": {
            "name": "check",
            "type": "string_check",
            "errors": NO_ERRORS,
            "scores": {},
            "token_usage": None,
            "sampled_model_name": None,
        },
        "sub_rewards": {},
        "model_grader_token_usage_per_model": {},
    }


def test_the_whole_reply_of_a_multi_run(grading: Live, judge: Judge) -> None:
    judge.answers(completion({"steps": [], "result": 0.25}))
    grader = {**MULTI, "graders": {"a": CHECK, "b": SCORE, "c": PYTHON}, "calculate_output": "a + b + c + 1 / 0"}
    body = run(grading, grader).json()
    assert body["metadata"].pop("execution_time") > 0
    assert body == {
        "reward": 0.0,
        "metadata": {
            "name": "multi",
            "type": "multi",
            "errors": {**NO_ERRORS, "formula_parse_error": True},
            "scores": {"a": 1.0, "b": 0.25, "c": 0.5},
            "token_usage": 100,
            "sampled_model_name": "judge-7b",
        },
        "sub_rewards": {"a": 1.0, "b": 0.25, "c": 0.5},
        "model_grader_token_usage_per_model": {
            "judge-7b": {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100, "cached_tokens": 0}
        },
    }


@pytest.mark.parametrize(
    ("grader", "sample", "answer", "errors"),
    [
        (CHECK | {"input": "{{item.no}}"}, "x", None, {"invalid_variable_error": True}),
        (CHECK | {"input": "{{sample.output_json.a}}"}, "x", None, {"sample_parse_error": True}),
        (CHECK | {"input": "{{sample.output_text}}" * 9}, "x" * 200_000, None, {"truncated_observation_error": True}),
        (MULTI | {"calculate_output": "a b"}, "x", None, {"formula_parse_error": True}),
        (
            PYTHON | {"source": "def grade(sample, item): return None"}, "x", None,
            {
                "python_grader_runtime_error": True,
                "python_grader_runtime_error_details": "grade returned NoneType, not a float.",
            },
        ),
        (SCORE, "x", completion(None, refusal="no"), {"model_grader_refusal_error": True}),
        (SCORE, "x", completion("x"), {"model_grader_parse_error": True}),
        (
            SCORE, "x", failure(401),
            {
                "model_grader_server_error": True,
                "model_grader_server_error_details": "The grader model's endpoint answered 401.",
            },
        ),
        (
            SCORE | {"input": [{"role": "user", "content": {"type": "input_image", "image_url": "{{item.label}}"}}]},
            "x", None,
            {"other_error": True},
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_while_grading_is_a_reply(
    grading: Live, judge: Judge, grader: Any, sample: str, answer: Any, errors: dict[str, Any]
) -> None:
    if answer is not None:
        judge.answers(answer)
    reply = run(grading, grader, sample)
    assert reply.status_code == 200, reply.text
    assert reply.json()["reward"] == 0
    assert reply.json()["metadata"]["errors"] == NO_ERRORS | errors


@pytest.mark.parametrize(
    "grader",
    [
        CHECK,
        SIMILAR | {"pass_threshold": 0.5},
        PYTHON | {"image_tag": "2025-05-08"},
        SCORE
        | {"range": [0.0, 5.0], "sampling_params": {"seed": 1, "max_completions_tokens": 9}, "pass_threshold": None},
        MULTI,
        MULTI | {"graders": [CHECK, SIMILAR], "calculate_output": "check + similar"},
        MULTI | {"graders": CHECK, "calculate_output": "check"},
        MULTI | {"graders": {"a": LABEL, "type": CHECK}, "calculate_output": "a * type"},
    ],
)
def test_a_grader_is_validated_as_it_was_sent(grading: Live, grader: Any) -> None:
    assert validate(grading, grader).json() == {"grader": grader}


def test_a_missing_name_is_given(live: Live) -> None:
    nameless = {name: value for name, value in CHECK.items() if name != "name"}
    assert validate(live, nameless).json() == {"grader": nameless | {"name": "string_check"}}
    assert validate(live, nameless | {"name": None}).json() == {"grader": nameless | {"name": "string_check"}}
    assert run(live, nameless).json()["metadata"]["name"] == "string_check"


def test_another_spelling_of_ne(live: Live) -> None:
    assert validate(live, CHECK | {"operation": "neq"}).json()["grader"]["operation"] == "ne"
    assert run(live, CHECK | {"operation": "neq"}).json()["reward"] == 0


def without(grader: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in grader.items() if key != name}


def nested(depth: int) -> dict[str, Any]:
    grader: dict[str, Any] = CHECK
    for _ in range(depth):
        grader = MULTI | {"graders": {"a": grader}, "calculate_output": "a"}
    return grader


def asking(content: Any) -> dict[str, Any]:
    return SCORE | {"input": [{"role": "user", "content": content}]}


BAD_GRADERS: dict[str, tuple[Any, str, str]] = {
    "missing": (None, "grader", "invalid_type"),
    "text": ("x", "grader", "invalid_type"),
    "number": (1, "grader", "invalid_type"),
    "list": ([CHECK], "grader", "invalid_type"),
    "empty": ({}, "grader.type", "missing_required_parameter"),
    "type null": ({"type": None}, "grader.type", "invalid_type"),
    "type unknown": ({"type": "regex"}, "grader.type", "invalid_value"),
    "type object": ({"type": {}}, "grader.type", "invalid_type"),
    "label model at the top": (LABEL, "grader.type", "invalid_value"),
    "member unknown": (CHECK | {"threshold": 1}, "grader.threshold", "unknown_parameter"),
    "environment": (PYTHON | {"env": {"LD_PRELOAD": "x"}}, "grader.env", "unknown_parameter"),  # F81
    "template settings": (CHECK | {"chat_template": "x"}, "grader.chat_template", "unknown_parameter"),  # F57
    "name number": (CHECK | {"name": 1}, "grader.name", "invalid_type"),
    "name long": (CHECK | {"name": "n" * 257}, "grader.name", "string_above_max_length"),
    "input missing": (without(CHECK, "input"), "grader.input", "missing_required_parameter"),
    "input null": (CHECK | {"input": None}, "grader.input", "invalid_type"),
    "input list": (CHECK | {"input": ["x"]}, "grader.input", "invalid_type"),
    "reference missing": (without(CHECK, "reference"), "grader.reference", "missing_required_parameter"),
    "operation unknown": (CHECK | {"operation": "regex"}, "grader.operation", "invalid_value"),
    "operation null": (CHECK | {"operation": None}, "grader.operation", "invalid_type"),
    "template of another namespace": (CHECK | {"input": "{{ user.x }}"}, "grader.input", "invalid_value"),
    "template with code": (CHECK | {"reference": "{{ ''.__class__.__mro__ }}"}, "grader.reference", "invalid_value"),
    "template of an unknown variable": (CHECK | {"input": "{{ sample.x }}"}, "grader.input", "invalid_value"),
    "metric cosine": (SIMILAR | {"evaluation_metric": "cosine"}, "grader.evaluation_metric", "invalid_value"),
    "metric unknown": (SIMILAR | {"evaluation_metric": "rouge_6"}, "grader.evaluation_metric", "invalid_value"),
    "threshold text": (SIMILAR | {"pass_threshold": "1"}, "grader.pass_threshold", "invalid_type"),
    "source missing": (without(PYTHON, "source"), "grader.source", "missing_required_parameter"),
    "source of 257 KiB": (PYTHON | {"source": "#" * (257 * 1024)}, "grader.source", "invalid_value"),  # F65
    "source of 256 KiB": (PYTHON | {"source": "#" * (256 * 1024)}, "grader.source", "invalid_value"),
    "source of 256 KiB in two bytes each": (PYTHON | {"source": "é" * (128 * 1024)}, "grader.source", "invalid_value"),
    "source without grade": (PYTHON | {"source": "def score(s, i): return 1.0"}, "grader.source", "invalid_value"),
    "source of one argument": (PYTHON | {"source": "def grade(sample): return 1.0"}, "grader.source", "invalid_value"),
    "source with an error": (PYTHON | {"source": "def grade(sample, item) return"}, "grader.source", "invalid_value"),
    "source that fails": (PYTHON | {"source": "1 / 0"}, "grader.source", "invalid_value"),
    "source that kills": (PYTHON | {"source": "import os; os._exit(0)"}, "grader.source", "invalid_value"),
    "image tag number": (PYTHON | {"image_tag": 20250508}, "grader.image_tag", "invalid_type"),
    "model missing": (without(SCORE, "model"), "grader.model", "missing_required_parameter"),
    "model empty": (SCORE | {"model": ""}, "grader.model", "string_below_min_length"),
    "model not allowed": (SCORE | {"model": "gpt-5"}, "grader.model", "model_not_available"),
    "model address": (SCORE | {"base_url": "http://169.254.169.254"}, "grader.base_url", "unknown_parameter"),
    "messages missing": (without(SCORE, "input"), "grader.input", "missing_required_parameter"),
    "messages empty": (SCORE | {"input": []}, "grader.input", "array_below_min_length"),
    "messages text": (SCORE | {"input": "x"}, "grader.input", "invalid_type"),
    "messages many": (
        SCORE | {"input": [{"role": "user", "content": "x"}] * 65},
        "grader.input", "array_above_max_length",
    ),
    "role tool": (SCORE | {"input": [{"role": "tool", "content": "x"}]}, "grader.input.[0].role", "invalid_value"),
    "content missing": (
        SCORE | {"input": [{"role": "user"}]}, "grader.input.[0].content", "missing_required_parameter",
    ),
    "content null": (asking(None), "grader.input.[0].content", "invalid_type"),
    "content number": (asking(1), "grader.input.[0].content", "invalid_type"),
    "content empty": (asking([]), "grader.input.[0].content", "array_below_min_length"),
    "content many": (asking(["x"] * 65), "grader.input.[0].content", "array_above_max_length"),
    "part of no type": (asking([{"text": "x"}]), "grader.input.[0].content.[0].type", "missing_required_parameter"),
    "part unknown": (asking({"type": "input_file"}), "grader.input.[0].content.type", "invalid_value"),
    "part without text": (
        asking({"type": "input_text"}), "grader.input.[0].content.text", "missing_required_parameter",
    ),
    "part template": (asking(["x", "{{ x }}"]), "grader.input.[0].content", "invalid_value"),
    "image address": (
        asking({"type": "input_image", "image_url": "http://169.254.169.254/latest"}),
        "grader.input.[0].content.image_url", "invalid_value",
    ),
    "image file": (
        asking({"type": "input_image", "image_url": "data:,", "file_id": "file-1"}),
        "grader.input.[0].content.file_id", "invalid_value",
    ),
    "audio format": (
        asking({"type": "input_audio", "input_audio": {"data": "x", "format": "flac"}}),
        "grader.input.[0].content.input_audio.format", "invalid_value",
    ),
    "range of one": (SCORE | {"range": [1]}, "grader.range", "array_below_min_length"),
    "range of three": (SCORE | {"range": [1, 2, 3]}, "grader.range", "array_above_max_length"),
    "range falling": (SCORE | {"range": [1, 0]}, "grader.range", "invalid_value"),
    "range empty": (SCORE | {"range": [1, 1]}, "grader.range", "invalid_value"),
    "range text": (SCORE | {"range": ["0", "1"]}, "grader.range.[0]", "invalid_type"),
    "sampling unknown": (SCORE | {"sampling_params": {"n": 2}}, "grader.sampling_params.n", "unknown_parameter"),
    "tokens 0": (
        SCORE | {"sampling_params": {"max_completions_tokens": 0}},
        "grader.sampling_params.max_completions_tokens", "integer_below_min_value",
    ),
    "tokens text": (
        SCORE | {"sampling_params": {"max_completions_tokens": "9"}},
        "grader.sampling_params.max_completions_tokens", "invalid_type",
    ),
    "top_p 2": (SCORE | {"sampling_params": {"top_p": 2}}, "grader.sampling_params.top_p", "decimal_above_max_value"),
    "seed true": (SCORE | {"sampling_params": {"seed": True}}, "grader.sampling_params.seed", "invalid_type"),
    "effort unknown": (
        SCORE | {"sampling_params": {"reasoning_effort": "huge"}},
        "grader.sampling_params.reasoning_effort", "invalid_value",
    ),
    "labels missing": (
        MULTI | {"graders": {"a": without(LABEL, "labels")}, "calculate_output": "a"},
        "grader.graders.a.labels", "missing_required_parameter",
    ),
    "labels empty": (
        MULTI | {"graders": {"a": LABEL | {"labels": []}}, "calculate_output": "a"},
        "grader.graders.a.labels", "array_below_min_length",
    ),
    "passing label unknown": (
        MULTI | {"graders": {"a": LABEL | {"passing_labels": ["ugly"]}}, "calculate_output": "a"},
        "grader.graders.a.passing_labels", "invalid_value",
    ),
    "graders missing": (without(MULTI, "graders"), "grader.graders", "missing_required_parameter"),
    "graders null": (MULTI | {"graders": None}, "grader.graders", "invalid_type"),
    "graders text": (MULTI | {"graders": "x"}, "grader.graders", "invalid_type"),
    "graders empty map": (MULTI | {"graders": {}}, "grader.graders", "object_below_min_properties"),
    "graders empty list": (MULTI | {"graders": []}, "grader.graders", "array_below_min_length"),
    "graders many": (
        MULTI | {"graders": {f"k{n}": CHECK for n in range(33)}},
        "grader.graders", "object_above_max_properties",
    ),
    "graders of one name": (MULTI | {"graders": [CHECK, CHECK]}, "grader.graders", "invalid_value"),
    "graders without names": (MULTI | {"graders": [without(CHECK, "name")]}, "grader.graders", "invalid_value"),
    "graders of one without a name": (MULTI | {"graders": without(CHECK, "name")}, "grader.graders", "invalid_value"),
    "member bad in a map": (
        MULTI | {"graders": {"a": CHECK | {"input": 1}}}, "grader.graders.a.input", "invalid_type",
    ),
    "member bad in a list": (
        MULTI | {"graders": [CHECK, SIMILAR | {"input": 1}]}, "grader.graders.[1].input", "invalid_type",
    ),
    "member null": (MULTI | {"graders": {"a": None}}, "grader.graders.a", "invalid_type"),
    "member of a model not allowed": (
        MULTI | {"graders": {"a": SCORE | {"model": "gpt-5"}}, "calculate_output": "a"},
        "grader.graders.a.model", "model_not_available",
    ),
    "multi in multi": (nested(2), "grader.graders.a.type", "invalid_value"),
    "multi 20 deep": (nested(20), "grader.graders.a.type", "invalid_value"),  # F79
    "formula missing": (without(MULTI, "calculate_output"), "grader.calculate_output", "missing_required_parameter"),
    "formula null": (MULTI | {"calculate_output": None}, "grader.calculate_output", "invalid_type"),
    "formula empty": (MULTI | {"calculate_output": ""}, "grader.calculate_output", "invalid_value"),
    "formula of an unknown name": (MULTI | {"calculate_output": "a + c"}, "grader.calculate_output", "invalid_value"),
    "formula of code": (MULTI | {"calculate_output": "__import__('os')"}, "grader.calculate_output", "invalid_value"),
    "formula deep": (MULTI | {"calculate_output": "-" * 99 + "a"}, "grader.calculate_output", "invalid_value"),
    "formula long": (MULTI | {"calculate_output": "a" + "+a" * 5000}, "grader.calculate_output", "invalid_value"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_GRADERS)
def test_graders_that_are_refused(grading: Live, case: str) -> None:
    grader, param, code = BAD_GRADERS[case]
    reply = validate(grading, grader)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert 0 < len(error["message"]) <= 512


@pytest.mark.parametrize("case", BAD_GRADERS)
def test_a_run_never_crashes_on_them(grading: Live, case: str) -> None:
    """What depends on values is told in the reply, the rest refused."""
    reply = run(grading, BAD_GRADERS[case][0])
    assert reply.status_code in {200, 400}, reply.text
    if reply.status_code == 200:
        assert reply.json()["reward"] == 0
        assert True in reply.json()["metadata"]["errors"].values()


BAD_BODIES: dict[str, tuple[bytes, str | None]] = {
    "empty": (b"", None),
    "list": (b"[]", None),
    "no grader": (b'{"model_sample": "x"}', "grader"),
    "no sample": (b'{"grader": {"type": "python", "source": "x"}}', "model_sample"),
    "sample null": (b'{"model_sample": null, "grader": {"type": "python", "source": "x"}}', "model_sample"),
    "sample number": (b'{"model_sample": 1, "grader": {"type": "python", "source": "x"}}', "model_sample"),
    "item text": (b'{"model_sample": "", "item": "x", "grader": {"type": "python", "source": "x"}}', "item"),
    "item list": (b'{"model_sample": "", "item": [], "grader": {"type": "python", "source": "x"}}', "item"),
    "item number NaN": (b'{"model_sample": "", "item": {"a": NaN}, "grader": {}}', None),
    "item deep": (b'{"model_sample": "", "item": ' + b'{"a":' * 70 + b"1" + b"}" * 70 + b', "grader": {}}', None),
    "surrogate": (b'{"model_sample": "\\ud800", "grader": {}}', None),
    "unknown": (b'{"model_sample": "", "reference": 1, "grader": {"type": "python", "source": "x"}}', "reference"),
    "key twice": (b'{"model_sample": "", "model_sample": "", "grader": {}}', None),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bodies_that_are_refused(live: Live, case: str) -> None:
    data, param = BAD_BODIES[case]
    reply = live.http.post(
        "/v1/fine_tuning/alpha/graders/run", content=data, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


def test_an_item_may_be_left_out_or_null(live: Live) -> None:
    grader = CHECK | {"reference": "yes"}
    assert run(live, grader, item=None).json()["reward"] == 1
    body = {"grader": grader, "model_sample": "yes"}
    assert live.http.post("/v1/fine_tuning/alpha/graders/run", json=body).json()["reward"] == 1


@pytest.mark.parametrize("call", [validate, run])
@pytest.mark.parametrize(
    ("grader", "param", "words"),
    [
        (PYTHON, "grader.type", "switched off"),
        (MULTI | {"graders": {"a": PYTHON}, "calculate_output": "a"}, "grader.graders.a.type", "switched off"),
        (SCORE, "grader.type", "No grader model is configured"),
        (MULTI | {"graders": [LABEL], "calculate_output": "label"}, "grader.graders.[0].type", "No grader model"),
    ],
)
def test_what_an_operator_has_to_turn_on(
    live: Live, call: Callable[[Live, Any], httpx.Response], grader: Any, param: str, words: str
) -> None:
    """By default no code of tenants is run and no other server is asked."""
    reply = call(live, grader)
    assert reply.status_code == 400
    assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == (param, "invalid_value")
    assert words in reply.json()["error"]["message"]


def test_python_where_it_cannot_be_isolated_is_refused(grading: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.graders.sandbox.syscalls.supported", lambda: False)
    for reply in (validate(grading, PYTHON), run(grading, PYTHON)):
        assert reply.status_code == 400
        assert reply.json()["error"]["message"] == (
            "Python graders cannot be isolated on this server, so none is run: it needs Linux on x86-64 or arm64."
        )


def test_a_sandbox_out_of_order_is_a_503(grading: Live) -> None:
    grading.app.state.graders.means.sandbox.interpreter = "/nonexistent/python"
    for reply in (validate(grading, PYTHON), run(grading, PYTHON)):
        assert reply.status_code == 503


def test_slots() -> None:
    slots = Slots(most=3, most_per_project=2)
    with slots.taken("a"), slots.taken("a"):
        with pytest.raises(TooManyAtOnce), slots.taken("a"):
            pass
        with slots.taken("b"), pytest.raises(TooManyAtOnce), slots.taken("c"):
            pass
        with pytest.raises(ZeroDivisionError), slots.taken("b"):
            raise ZeroDivisionError
        with slots.taken("c"):
            pass
    with slots.taken("a"), slots.taken("a"):
        pass


def test_runs_beyond_the_bound_are_refused_and_nothing_else_waits(grading: Live, judge: Judge) -> None:
    """Two slow runs fill the project's share: a third is told to come back, and every other route still answers."""
    asked, answer = threading.Semaphore(0), threading.Event()

    def slowly(_: dict[str, Any]) -> tuple[int, bytes]:
        asked.release()
        assert answer.wait(60)
        return completion({"steps": [], "result": 1})

    judge.answer = slowly
    rewards: list[float] = []
    threads = [threading.Thread(target=lambda: rewards.append(run(grading, SCORE).json()["reward"])) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert asked.acquire(timeout=30)
        refused = run(grading, CHECK)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert grading.http.get("/v1/models").status_code == 200
        stranger = grading.stranger.post(
            "/v1/fine_tuning/alpha/graders/run", json={"grader": CHECK, "model_sample": "x", "item": {"label": "x"}}
        )
        assert stranger.status_code == 200
    finally:
        answer.set()
        for thread in threads:
            thread.join()
    assert rewards == [1, 1]
    assert run(grading, CHECK).status_code == 200


@pytest.fixture(params=[True, False], ids=["strict", "loose"])
def client(grading: Live, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    """OpenAI's own client; in strict mode it refuses every reply that is not in the documented shape."""
    with openai.OpenAI(
        base_url=f"{grading.url}/v1", api_key=grading.key, max_retries=0, _strict_response_validation=request.param
    ) as client:
        yield client


@pytest.mark.parametrize("grader", [CHECK, SIMILAR, PYTHON, SCORE, MULTI], ids=lambda grader: grader["type"])
def test_the_client_reads_every_run(client: openai.OpenAI, grader: Any) -> None:
    result = client.fine_tuning.alpha.graders.run(grader=grader, model_sample="yes", item={"label": "yes"})
    assert result.reward > 0
    assert result.metadata.type == grader["type"]
    assert result.metadata.errors.api_model_grader_parse_error is False
    assert result.metadata.errors.python_grader_runtime_error_details is None
    assert result.metadata.token_usage == (100 if grader is SCORE else None)
    assert set(result.sub_rewards) == ({"a", "b"} if grader is MULTI else set())


def test_the_client_reads_a_run_that_failed(client: openai.OpenAI) -> None:
    source = "def grade(sample, item):\n    return item['missing']"
    result = client.fine_tuning.alpha.graders.run(grader={**PYTHON, "source": source}, model_sample="x")  # type: ignore[arg-type]
    assert result.reward == 0
    assert result.metadata.errors.python_grader_runtime_error
    assert result.metadata.errors.python_grader_runtime_error_details == "KeyError: 'missing' (line 2)"


@pytest.mark.parametrize(
    "grader",
    [CHECK, SIMILAR, PYTHON, SCORE, MULTI | {"graders": CHECK, "calculate_output": "check"}],
    ids=lambda grader: grader["type"],
)
def test_the_client_reads_every_validation(client: openai.OpenAI, grader: Any) -> None:
    """Maps and lists of graders are left out: they come back as they were sent, which strict mode refuses."""
    validated = client.fine_tuning.alpha.graders.validate(grader=grader).grader
    assert validated is not None
    assert (validated.type, validated.name) == (grader["type"], grader["name"])


def test_the_client_raises_what_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.fine_tuning.alpha.graders.validate(grader={**CHECK, "operation": "regex"})  # type: ignore[arg-type]
    assert (raised.value.code, raised.value.param) == ("invalid_value", "grader.operation")
