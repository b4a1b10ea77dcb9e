"""Score and label models: what the endpoint is asked, and what its answers are worth."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from app.graders import endpoint as endpoints
from app.graders import model_graders, templating
from app.graders.definitions import LabelModelGrader, ScoreModelGrader
from app.graders.endpoint import Completion, Endpoint, Usage
from app.graders.faults import (
    GradingFault,
    ModelParseFault,
    ModelRefusal,
    ModelServerFault,
    ModelTimeout,
    TextTooLong,
    UnknownVariable,
    UnsupportedInput,
)
from tests.graders.judge import Judge, completion, failure

OBSERVATION = templating.observe(
    "a bear", {"answer": "bear", "image": "data:image/png;base64,AA==", "url": "http://x/y.png"}
)


def score_model(**changes: Any) -> ScoreModelGrader:
    grader = {
        "type": "score_model",
        "model": "gpt-4o-mini",
        "input": [{"role": "user", "content": "{{ item.answer }}?"}],
    }
    return ScoreModelGrader.model_validate(grader | changes)


def label_model(**changes: Any) -> LabelModelGrader:
    grader = {"type": "label_model", "model": "m", "input": [{"role": "user", "content": "x"}]}
    return LabelModelGrader.model_validate(grader | {"labels": ["good", "bad"], "passing_labels": ["good"]} | changes)


def request(grader: ScoreModelGrader | LabelModelGrader) -> dict[str, Any]:
    return model_graders.request(grader, lambda template: templating.render(template, OBSERVATION))


def answered(content: Any, *, refused: bool = False) -> Completion:
    return Completion("m", content if isinstance(content, str | None) else json.dumps(content), refused, None)


def test_a_score_model_is_asked_for_a_structured_number() -> None:
    body = request(score_model())
    assert body["messages"] == [{"role": "user", "content": "bear?"}]
    schema = body["response_format"]["json_schema"]
    assert body["response_format"]["type"] == "json_schema"
    assert schema["strict"] is True
    assert schema["schema"]["required"] == ["steps", "result"]
    assert schema["schema"]["properties"]["result"] == {"type": "number"}
    assert schema["schema"]["properties"]["steps"]["items"]["required"] == ["description", "conclusion"]
    assert set(body) == {"messages", "response_format"}


def test_a_label_model_is_asked_for_one_of_its_labels() -> None:
    schema = request(label_model())["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["result"] == {"type": "string", "enum": ["good", "bad"]}


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        ("plain {{sample.output_text}}", "plain a bear"),
        ({"type": "input_text", "text": "{{item.answer}}"}, [{"type": "text", "text": "bear"}]),
        (["a", {"type": "output_text", "text": "b"}], [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        (
            {"type": "input_image", "image_url": "{{ item.image }}", "detail": "low", "file_id": None},
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}],
        ),
        (
            [{"type": "input_audio", "input_audio": {"data": "{{item.answer}}", "format": "mp3"}}],
            [{"type": "input_audio", "input_audio": {"data": "bear", "format": "mp3"}}],
        ),
    ],
)
def test_content_as_chat_completions_have_it(content: Any, sent: Any) -> None:
    body = request(score_model(input=[{"role": "user", "type": "message", "content": content}]))
    assert body["messages"] == [{"role": "user", "content": sent}]


def test_roles() -> None:
    roles = ["system", "developer", "user", "assistant"]
    body = request(score_model(input=[{"role": role, "content": "x"} for role in roles]))
    assert [message["role"] for message in body["messages"]] == ["system", "system", "user", "assistant"]


def test_sampling_parameters_go_along() -> None:
    params = {"seed": 42, "top_p": 1, "temperature": 0.5, "max_completions_tokens": 100, "reasoning_effort": "low"}
    body = request(score_model(sampling_params=params))
    assert {name: body[name] for name in ("seed", "top_p", "temperature", "reasoning_effort")} == {
        "seed": 42, "top_p": 1, "temperature": 0.5, "reasoning_effort": "low",
    }  # fmt: skip
    assert body["max_completion_tokens"] == 100
    assert request(score_model(sampling_params={"max_tokens": 7}))["max_completion_tokens"] == 7
    assert "max_completion_tokens" not in request(score_model(sampling_params=None))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{{ item.missing }}", UnknownVariable),
        ({"type": "input_image", "image_url": "{{ item.url }}"}, UnsupportedInput),
        (["x" * 600_000, "y" * 600_000], TextTooLong),
    ],
)
def test_what_is_not_sent(content: Any, fault: type[GradingFault]) -> None:
    with pytest.raises(fault):
        request(score_model(input=[{"role": "user", "content": content}]))


@pytest.mark.parametrize(
    ("result", "bounds", "reward"),
    [
        (0.4, None, 0.4), (1, None, 1), (7, None, 1), (-7, None, 0), (7, [0, 10], 7), (11, [0, 10], 10),
        (-3.5, [-5, -1], -3.5), (0, [-5, -1], -1),
    ],
)  # fmt: skip
def test_a_score_is_clipped_to_its_range(result: float, bounds: list[float] | None, reward: float) -> None:
    assert model_graders.score(score_model(range=bounds), answered({"steps": [], "result": result})) == reward


@pytest.mark.parametrize(
    "content",
    [
        None, "", "0.5", "[]", "null", '"x"', "no JSON", "{", '{"steps": []}', {"result": "0.5"}, {"result": None},
        {"result": True}, {"result": [1]}, '{"result": NaN}', '{"result": 1e999}', '{"result": 1, "result": 2}',
        '```json\n{"result": 1}\n```', "\ud800", "[" * 5000,
    ],
)  # fmt: skip
def test_answers_without_a_number(content: Any) -> None:
    with pytest.raises(ModelParseFault):
        model_graders.score(score_model(), answered(content))


def test_labels() -> None:
    assert model_graders.label(label_model(), answered({"steps": [], "result": "good"})) == 1
    assert model_graders.label(label_model(), answered({"steps": [], "result": "bad"})) == 0
    for result in ("ugly", "Good", 1, None, ["good"]):
        with pytest.raises(ModelParseFault):
            model_graders.label(label_model(), answered({"result": result}))


def test_refusals() -> None:
    for content in (None, "I cannot", {"result": 1}):
        with pytest.raises(ModelRefusal):
            model_graders.score(score_model(), answered(content, refused=True))


@pytest.fixture
def client(judge: Judge) -> Iterator[Endpoint]:
    endpoint = Endpoint(judge.url + "/", "sk-operator-key", {"gpt-4o-mini": "judge-7b"}, 20, sleep=lambda _: None)
    yield endpoint
    endpoint.close()


def complete(client: Endpoint, **options: Any) -> Completion:
    return client.complete("gpt-4o-mini", {"messages": []}, **{"seconds": 20, **options})


def test_the_endpoint_gets_the_operators_key_and_its_own_name_of_the_model(client: Endpoint, judge: Judge) -> None:
    judge.answers(completion("hello"))
    assert complete(client) == Completion("judge-7b", "hello", False, Usage(90, 10, 100, 0))
    ((headers, body),) = judge.requests
    assert headers["Authorization"] == "Bearer sk-operator-key"
    assert body == {"messages": [], "model": "judge-7b"}


def test_without_a_key_none_is_sent(judge: Judge) -> None:
    endpoint = Endpoint(judge.url, None, {"m": "m"}, 20)
    endpoint.complete("m", {}, seconds=20)
    endpoint.close()
    assert "Authorization" not in judge.requests[0][0]


@pytest.mark.parametrize(
    ("changes", "usage"),
    [
        ({"usage": None}, None),
        ({"usage": "many"}, None),
        ({"usage": {}}, Usage(0, 0, 0, 0)),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, Usage(3, 4, 7, 0)),
        ({"usage": {"prompt_tokens": -3, "completion_tokens": True, "total_tokens": "9"}}, Usage(0, 0, 0, 0)),
        (
            {"usage": {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}},
            Usage(3, 4, 7, 2),
        ),
    ],
)
def test_usage(client: Endpoint, judge: Judge, changes: dict[str, Any], usage: Usage | None) -> None:
    judge.answers(completion("x", **changes))
    assert complete(client).usage == usage


def test_a_model_that_is_not_named_keeps_the_name_it_was_asked_by(client: Endpoint, judge: Judge) -> None:
    for named in (None, 7, ""):
        judge.answers(completion("x", model=named))
        assert complete(client).model == "judge-7b"


@pytest.mark.parametrize("changes", [{"refusal": "I cannot"}, {"finish_reason": "content_filter"}])
def test_a_refusal_is_seen(client: Endpoint, judge: Judge, changes: dict[str, Any]) -> None:
    judge.answers(completion(None, **changes))
    assert complete(client).refused


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(client: Endpoint, judge: Judge, status: int) -> None:
    judge.answers(failure(status), failure(status), completion("x"))
    assert complete(client).content == "x"
    assert len(judge.requests) == 3


@pytest.mark.parametrize(
    ("answer", "attempts", "message"),
    [
        (failure(500), 3, "answered 500."),
        (failure(429, "rate_limit_exceeded"), 3, "answered 429 (rate_limit_exceeded)."),
        (failure(400, "context_length_exceeded"), 1, "answered 400 (context_length_exceeded)."),
        (failure(401, "sk-operator-key"), 1, "answered 401."),
        (failure(404), 1, "answered 404."),
        ((403, b"<html>sk-operator-key</html>"), 1, "answered 403."),
        ((307, b""), 1, "answered 307."),  # not followed
        ((204, b""), 1, "answered 204."),
    ],
)
def test_a_lasting_failure_says_little(
    client: Endpoint, judge: Judge, answer: Any, attempts: int, message: str
) -> None:
    """Neither the operator's key nor anything else that the endpoint may quote reaches the tenant."""
    judge.answers(answer)
    with pytest.raises(ModelServerFault) as raised:
        complete(client)
    assert str(raised.value) == f"The grader model's endpoint {message}"
    assert len(judge.requests) == attempts


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": [{"message": null}]}',
        b'{"choices": {"0": 1}}', b'{"choices": [{"message": []}]}', b"\xff", b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_completion(client: Endpoint, judge: Judge, data: bytes) -> None:
    judge.answers((200, data))
    with pytest.raises(ModelServerFault, match="no completion"):
        complete(client)


def test_a_reply_that_is_too_large(client: Endpoint, judge: Judge) -> None:
    judge.answers(completion("x" * endpoints.MAX_REPLY_BYTES))
    with pytest.raises(ModelServerFault, match="more than 1048576 bytes"):
        complete(client)
    assert len(judge.requests) == 1


def test_an_endpoint_that_is_not_there() -> None:
    endpoint = Endpoint("http://127.0.0.1:1/v1", None, {"m": "m"}, 20, sleep=lambda _: None)
    with pytest.raises(ModelServerFault, match="cannot be reached"):
        endpoint.complete("m", {}, seconds=20)


@pytest.mark.parametrize("drip", [False, True], ids=["silence", "a byte now and then"])
def test_an_endpoint_that_takes_its_time(*, drip: bool) -> None:
    """The time is for the whole answer: a byte before each read's own time limit does not buy more of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                if drip:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                with contextlib.suppress(OSError):  # it may be closed before `gone` is set
                    while not gone.wait(0.05):
                        connection.sendall(b" " if drip else b"")

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", None, {"m": "m"}, 20)
        with pytest.raises(ModelTimeout, match="in time"):
            endpoint.complete("m", {}, seconds=0.5)
        endpoint.close()
        gone.set()
        thread.join()


def test_attempts_end_with_the_time(judge: Judge) -> None:
    """A pause that would go beyond the deadline is not begun."""
    pauses: list[float] = []
    endpoint = Endpoint(judge.url, None, {"m": "m"}, 20, sleep=pauses.append)
    judge.answers(failure(500))
    for seconds in (0.4, 60):
        with pytest.raises(ModelServerFault):
            endpoint.complete("m", {}, seconds=seconds)
    endpoint.close()
    assert pauses == [0.5, 1.0]  # all of them in the second round
    assert len(judge.requests) == 1 + 3
