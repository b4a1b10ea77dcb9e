"""Score and label models: the request they are asked with, and what their structured answer is worth."""

from collections.abc import Callable
from typing import Any

from app import strict_json
from app.graders.definitions import (
    GraderMessage,
    InputAudio,
    InputImage,
    LabelModelGrader,
    SamplingParams,
    ScoreModelGrader,
)
from app.graders.endpoint import Completion
from app.graders.faults import ModelParseFault, ModelRefusal, TextTooLong, UnsupportedInput
from app.graders.templating import MAX_RENDERED_CHARS

Render = Callable[[str], str]
DEFAULT_RANGE = (0.0, 1.0)

_STEPS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"description": {"type": "string"}, "conclusion": {"type": "string"}},
        "required": ["description", "conclusion"],
        "additionalProperties": False,
    },
}


def request(grader: ScoreModelGrader | LabelModelGrader, render: Render) -> dict[str, Any]:
    """The chat completion to ask for, without its model. Raises what `render` raises, TextTooLong, UnsupportedInput."""
    rendered = _Limited(render)
    body: dict[str, Any] = {"messages": [_message(message, rendered) for message in grader.input]}
    result = {"type": "number"} if isinstance(grader, ScoreModelGrader) else {"type": "string", "enum": grader.labels}
    schema = {
        "type": "object",
        "properties": {"steps": _STEPS, "result": result},  # thinking comes before judging
        "required": ["steps", "result"],
        "additionalProperties": False,
    }
    body["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "grade", "strict": True, "schema": schema},
    }
    return body | _sampling(grader.sampling_params)


def score(grader: ScoreModelGrader, completion: Completion) -> float:
    """The number of a completion, clipped to the grader's range. Raises ModelRefusal, ModelParseFault."""
    result = _result(completion)
    if isinstance(result, bool) or not isinstance(result, int | float):
        raise ModelParseFault("The grader model's result is no number.")
    low, high = grader.range or DEFAULT_RANGE
    return min(max(float(result), low), high)


def label(grader: LabelModelGrader, completion: Completion) -> float:
    """1 if the label of a completion is a passing one, else 0. Raises ModelRefusal, ModelParseFault."""
    result = _result(completion)
    if not isinstance(result, str) or result not in grader.labels:
        raise ModelParseFault("The grader model's result is none of the labels.")
    return float(result in grader.passing_labels)


class _Limited:
    """Renders texts until all of one request are too long together."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._left = MAX_RENDERED_CHARS

    def __call__(self, template: str) -> str:
        text = self._render(template)
        self._left -= len(text)
        if self._left < 0:
            raise TextTooLong(f"The messages are longer than {MAX_RENDERED_CHARS} characters together.")
        return text


def _message(message: GraderMessage, render: Render) -> dict[str, Any]:
    # Many servers know no "developer"; OpenAI's take "system" for the same.
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return {"role": role, "content": render(message.content)}
    parts = message.content if isinstance(message.content, list) else [message.content]
    return {"role": role, "content": [_part(part, render) for part in parts]}


def _part(part: Any, render: Render) -> dict[str, Any]:
    """A part of a message as chat completions have it."""
    if isinstance(part, InputImage):
        url = render(part.image_url)
        if not url.startswith("data:"):
            raise UnsupportedInput("Images are passed on as data: URLs only; addresses are not fetched.")
        return {"type": "image_url", "image_url": {"url": url, "detail": part.detail or "auto"}}
    if isinstance(part, InputAudio):
        audio = part.input_audio
        return {"type": "input_audio", "input_audio": {"data": render(audio.data), "format": audio.format}}
    return {"type": "text", "text": render(part if isinstance(part, str) else part.text)}


def _sampling(params: SamplingParams | None) -> dict[str, Any]:
    if params is None:
        return {}
    given = params.model_dump(exclude_none=True)
    most = given.pop("max_completions_tokens", None) or given.pop("max_tokens", None)
    given.pop("max_tokens", None)
    return given if most is None else {**given, "max_completion_tokens": most}


def _result(completion: Completion) -> Any:
    if completion.refused:
        raise ModelRefusal("The grader model refused.")
    try:
        answer = strict_json.parse((completion.content or "").encode("utf-8", "surrogatepass"))
        return answer["result"]
    except (strict_json.StrictJsonError, KeyError, TypeError):
        raise ModelParseFault("The grader model's answer has no result.") from None
