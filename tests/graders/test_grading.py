"""From a grader and an observation to a reward: the core that needs no HTTP."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter

from app.graders import grading, templating
from app.graders.definitions import Grader
from app.graders.endpoint import Endpoint, Usage
from app.graders.grading import Grade, Means
from app.graders.sandbox import Limits, Sandbox
from tests.graders.judge import Judge, completion, failure

PARSE = TypeAdapter(Grader)
ITEM = {"answer": "Paris", "nested": {"list": [1, 2]}, "big": "x" * 200_000}


@pytest.fixture
def means(judge: Judge) -> Iterator[Means]:
    endpoint = Endpoint(judge.url, None, {"m": "judge-7b", "n": "other"}, 20, sleep=lambda _: None)
    yield Means(60, Sandbox(Limits(seconds=60)), endpoint)
    endpoint.close()


def grade(grader: dict[str, Any], sample: str = "Paris", means: Means = Means(60)) -> Grade:  # noqa: B008 - frozen
    return grading.grade(PARSE.validate_python(grader), templating.observe(sample, ITEM), means)


def check(
    operation: str = "eq", text: str = "{{ sample.output_text }}", reference: str = "{{ item.answer }}"
) -> dict[str, Any]:
    return {"type": "string_check", "name": "check", "operation": operation, "input": text, "reference": reference}


def multi(formula: str, **graders: dict[str, Any]) -> dict[str, Any]:
    return {"type": "multi", "graders": graders, "calculate_output": formula}


PYTHON = {"type": "python", "source": "def grade(sample, item): return len(sample['output_text']) / 10"}
SCORE = {"type": "score_model", "model": "m", "input": [{"role": "user", "content": "x"}]}
LABEL = {
    "type": "label_model", "model": "n", "input": [{"role": "user", "content": "x"}],
    "labels": ["good", "bad"], "passing_labels": ["good"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("operation", "text", "reference", "reward"),
    [
        ("eq", "Paris", "Paris", 1), ("eq", "paris", "Paris", 0), ("eq", "Paris ", "Paris", 0),
        ("ne", "Paris", "Paris", 0), ("ne", "paris", "Paris", 1), ("neq", "x", "Paris", 1),
        ("neq", "Paris", "Paris", 0),
        ("like", "in Paris, France", "Paris", 1), ("like", "in paris", "Paris", 0), ("like", "Par", "Paris", 0),
        ("ilike", "in PARIS", "Paris", 1), ("ilike", "STRASSE", "straße", 1), ("ilike", "Rome", "Paris", 0),
        ("like", "100%", "%", 1), ("like", "anything", "%", 0), ("like", "x", "", 1),
    ],
)  # fmt: skip
def test_string_check(operation: str, text: str, reference: str, reward: float) -> None:
    assert grade(check(operation, text, reference)).reward == reward


def test_text_similarity() -> None:
    grader = {
        "type": "text_similarity",
        "input": "{{sample.output_text}}",
        "reference": "the cat",
        "pass_threshold": 0.9,
    }
    found = grade({**grader, "evaluation_metric": "rouge_1"}, "the dog")
    assert (found.reward, found.errors) == (0.5, {})


def test_the_grade_of_a_single_grader_has_no_parts() -> None:
    found = grade(check())
    assert (found.reward, found.errors, found.sub_rewards, found.usage, found.models) == (1, {}, {}, {}, ())
    assert found.seconds >= 0


@pytest.mark.parametrize(
    ("grader", "sample", "flags"),
    [
        (check(text="{{ item.missing }}"), "x", {"invalid_variable_error"}),
        (check(text="{{ item.__class__ }}"), "x", {"invalid_variable_error"}),
        (check(text="{{ user.x }}"), "x", {"invalid_variable_error"}),
        (check(text="{{ sample.output_json.a }}"), "no JSON", {"sample_parse_error"}),
        (check(text="{{ sample.output_json.a }}"), '{"b": 1}', {"invalid_variable_error"}),
        (check(text="{{ item.big }}" * 6), "x", {"truncated_observation_error"}),
        (
            {"type": "text_similarity", "input": "{{item.big}}", "reference": "x", "evaluation_metric": "bleu"},
            "x",
            {"truncated_observation_error"},
        ),
        (multi("a +", a=check()), "x", {"formula_parse_error"}),
        (multi("b", a=check()), "x", {"formula_parse_error"}),
        (multi("1 / a", a=check()), "x", {"formula_parse_error"}),
        (multi("log(a)", a=check()), "x", {"formula_parse_error"}),
        (multi("exp(1000 - a)", a=check()), "x", {"formula_parse_error"}),
    ],
)
def test_faults_of_the_grader_and_the_sample(grader: dict[str, Any], sample: str, flags: set[str]) -> None:
    found = grade(grader, sample)
    assert (found.reward, found.errors) == (0, dict.fromkeys(flags, True))


def test_python(means: Means) -> None:
    assert grade(PYTHON, means=means).reward == 0.5
    failed = grade({**PYTHON, "source": "def grade(sample, item): return item['missing']"}, means=means)
    assert failed.reward == 0
    assert failed.errors == {
        "python_grader_runtime_error": True,
        "python_grader_runtime_error_details": "KeyError: 'missing' (line 1)",
    }


def test_python_gets_every_part_of_the_sample(means: Means) -> None:
    source = """
def grade(sample, item):
    assert sorted(sample) == ["choices", "output_audio", "output_json", "output_text", "output_tools"]
    assert sample["output_json"] == {"a": 1} and sample["choices"][0]["message"]["content"] == sample["output_text"]
    return float(item["nested"]["list"][1])
"""
    assert grade({"type": "python", "source": source}, '{"a": 1}', means).reward == 2


def test_python_that_takes_too_long(judge: Judge) -> None:
    slow = Means(0.5, Sandbox(Limits(seconds=10)))
    found = grade({"type": "python", "source": "while True: pass"}, means=slow)
    details = found.errors.pop("python_grader_runtime_error_details")
    assert re.fullmatch(r"The grader did not finish within 0\.\d+ s\.", str(details))  # what was left of half a second
    assert found.errors == {"python_grader_runtime_error": True, "unresponsive_reward_error": True}


def test_a_sandbox_that_cannot_work_is_the_servers_fault() -> None:
    found = grade(PYTHON, means=Means(60, Sandbox(interpreter="/nonexistent/python")))
    assert (found.reward, found.errors["python_grader_server_error"]) == (0, True)
    assert "does not start" in str(found.errors["python_grader_server_error_type"])


def test_a_score_model(means: Means, judge: Judge) -> None:
    judge.answers(completion({"steps": [{"description": "d", "conclusion": "c"}], "result": 0.75}))
    found = grade(SCORE, means=means)
    assert (found.reward, found.errors, found.models) == (0.75, {}, ("judge-7b",))
    assert found.usage == {"judge-7b": Usage(90, 10, 100, 0)}


@pytest.mark.parametrize(
    ("answer", "errors"),
    [
        (completion(None, refusal="no"), {"model_grader_refusal_error": True}),
        (completion("half an ans", finish_reason="length"), {"model_grader_parse_error": True}),
        (completion({"result": "high"}), {"model_grader_parse_error": True}),
        (
            failure(500),
            {
                "model_grader_server_error": True,
                "model_grader_server_error_details": "The grader model's endpoint answered 500.",
            },
        ),
    ],
)
def test_faults_of_the_grader_model(means: Means, judge: Judge, answer: Any, errors: dict[str, Any]) -> None:
    judge.answers(answer)
    found = grade(SCORE, means=means)
    assert (found.reward, found.errors) == (0, errors)
    # Tokens were spent, whatever the answer was worth.
    assert bool(found.usage) == (answer[0] == 200)


def test_an_image_that_would_have_to_be_fetched(means: Means, judge: Judge) -> None:
    content = {"type": "input_image", "image_url": "{{ item.answer }}"}
    found = grade({**SCORE, "input": [{"role": "user", "content": content}]}, means=means)
    assert (found.reward, found.errors) == (0, {"other_error": True})
    assert judge.requests == []


def test_the_guides_multi_grader() -> None:
    """The two fields of OpenAI's guide: a name with a spelling error counts a little, an email exactly."""
    grader = multi(
        "(name + email) / 2",
        name={
            "name": "name_grader", "type": "text_similarity", "evaluation_metric": "fuzzy_match",
            "input": "{{sample.output_json.name}}", "reference": "John Doe", "pass_threshold": 0.9,
        },
        email=check("eq", "{{sample.output_json.email}}", "john.doe@gmail.com"),
    )  # fmt: skip
    found = grade(grader, '{"name": "Jon Doe", "email": "john.doe@gmail.com"}')
    assert found.sub_rewards["email"] == 1
    assert 0.9 < found.sub_rewards["name"] < 1
    assert found.reward == (found.sub_rewards["name"] + 1) / 2


@pytest.mark.parametrize("graders", [[check("eq"), {**check("like"), "name": "other"}], check("eq")])
def test_other_shapes_of_a_multi_grader(graders: Any) -> None:
    formula = "check + 2 * other" if isinstance(graders, list) else "check * 3"
    assert grade({"type": "multi", "graders": graders, "calculate_output": formula}).reward == 3


def test_a_member_that_fails_counts_as_nothing_and_the_rest_still_count(means: Means, judge: Judge) -> None:
    judge.answers(completion({"result": "high"}))
    found = grade(
        multi(
            "good + 10 * bad + 100 * worse + 1000 * worst",
            good=check(), bad=check(text="{{item.no}}"), worse=SCORE, worst={**PYTHON, "source": "1 / 0"},
        ),
        means=means,
    )  # fmt: skip
    assert found.sub_rewards == {"good": 1, "bad": 0, "worse": 0, "worst": 0}
    assert found.reward == 1
    assert found.errors == {
        "invalid_variable_error": True,
        "model_grader_parse_error": True,
        "python_grader_runtime_error": True,
        "python_grader_runtime_error_details": "ZeroDivisionError: division by zero (line 1)",
    }


def test_of_several_details_the_first_is_told(means: Means) -> None:
    first, second = ({**PYTHON, "source": f"raise ValueError({n})"} for n in (1, 2))
    found = grade(multi("a + b", a=first, b=second), means=means)
    assert found.errors["python_grader_runtime_error_details"] == "ValueError: 1 (line 1)"


def test_tokens_add_up_by_model(means: Means, judge: Judge) -> None:
    results = {"judge-7b": 0.5, "other": "good"}
    judge.answer = lambda body: completion({"steps": [], "result": results[body["model"]]}, model=body["model"])
    found = grade(multi("a + b + c", a=SCORE, b=LABEL, c=SCORE), means=means)
    assert found.reward == 2
    assert found.usage == {"judge-7b": Usage(180, 20, 200, 0), "other": Usage(90, 10, 100, 0)}
    assert found.models == ("judge-7b", "other")


def test_a_run_that_is_out_of_time_asks_no_more(judge: Judge) -> None:
    endpoint = Endpoint(judge.url, None, {"m": "m"}, 20)
    found = grade(multi("a + b", a=check(), b=SCORE), means=Means(-1, None, endpoint))
    assert found.sub_rewards == {"a": 1, "b": 0}
    assert found.errors == {"unresponsive_reward_error": True}
    assert judge.requests == []
