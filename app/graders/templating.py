"""Templates: `{{ item.path }}` and `{{ sample.output_text }}` become text. Values are looked up, never evaluated.

A path is a namespace (`item` or `sample`), then steps: `.name` (letters, digits, `_`, `-`, `$`), `[0]`, `["any key"]`.
A string is inserted as it is, everything else as JSON; what was inserted is not looked at again. `{{` without `}}` is
plain text.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app import strict_json
from app.graders.faults import SampleNotJson, TextTooLong, UnknownVariable

NAMESPACES = ("item", "sample")
SAMPLE_VARIABLES = ("output_text", "output_json", "output_tools", "choices", "output_audio")
MAX_RENDERED_CHARS = 1_000_000  # of one text
MAX_STEPS = 32
MAX_INDEX_DIGITS = 9

_PLACEHOLDER = re.compile(r"\{\{((?:(?!\{\{|\}\}).)*+)\}\}", re.DOTALL)
_STEP = re.compile(r"""\.(?P<name>[\w$-]+)|\[(?P<index>[0-9]+)\]|\[(?P<quote>["'])(?P<key>[^"']*)(?P=quote)\]""")

Step = str | int


@dataclass(frozen=True)
class Observation:
    """What is graded: the model's sample and the row of the dataset it answers."""

    sample: dict[str, Any]
    item: dict[str, Any]


def observe(model_sample: str, item: dict[str, Any] | None = None) -> Observation:
    """The observation of a sample that is one text, as the `run` endpoint gets it."""
    sample = {
        "output_text": model_sample,
        "output_json": _parsed(model_sample),
        "output_tools": [],
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": model_sample}, "finish_reason": "stop"},
        ],
        "output_audio": None,
    }
    return Observation(sample, item or {})


def check(template: str) -> None:
    """Raise UnknownVariable for a placeholder that could never be filled."""
    for match in _PLACEHOLDER.finditer(template):
        _path(match[1])


def render(template: str, observation: Observation) -> str:
    """The template with its values. Raises UnknownVariable, SampleNotJson, TextTooLong."""
    pieces: list[str] = []
    length = 0
    for piece in _pieces(template, observation):
        length += len(piece)
        if length > MAX_RENDERED_CHARS:
            raise TextTooLong(f"A text is longer than {MAX_RENDERED_CHARS} characters once its values are in.")
        pieces.append(piece)
    return "".join(pieces)


def _pieces(template: str, observation: Observation) -> Iterator[str]:
    end = 0
    for match in _PLACEHOLDER.finditer(template):
        yield template[end : match.start()]
        value = _value(_path(match[1]), observation)
        yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        end = match.end()
    yield template[end:]


def _path(text: str) -> list[Step]:
    """The steps of a placeholder's inside. Raises UnknownVariable."""
    text = text.strip()
    namespace = re.match(r"\w+", text)
    if namespace is None or namespace[0] not in NAMESPACES:
        raise UnknownVariable(f"{{{{ {text[:100]} }}}} names neither 'item' nor 'sample'.")
    steps: list[Step] = [namespace[0]]
    position = namespace.end()
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None or len(steps) > MAX_STEPS or len(match["index"] or "") > MAX_INDEX_DIGITS:
            raise UnknownVariable(f"{{{{ {text[:100]} }}}} is not a path of names and indexes.")
        steps.append(int(match["index"]) if match["index"] else match["name"] or match["key"] or "")
        position = match.end()
    if len(steps) == 1 or (steps[0] == "sample" and steps[1] not in SAMPLE_VARIABLES):
        raise UnknownVariable(f"{{{{ {text[:100]} }}}} names no variable of '{steps[0]}'.")
    return steps


def _value(path: list[Step], observation: Observation) -> Any:
    if path[:2] == ["sample", "output_json"] and observation.sample["output_json"] is None:
        raise SampleNotJson("The sample is not JSON, so there is no output_json.")
    value: Any = observation.sample if path[0] == "sample" else observation.item
    for step in path[1:]:
        if isinstance(step, str):
            found = isinstance(value, dict) and step in value
        else:
            found = isinstance(value, list) and step < len(value)
        if not found:
            raise UnknownVariable(f"'{path[0]}' holds nothing at {step!r}.")
        value = value[step]
    return value


def _parsed(text: str) -> Any:
    """The JSON a sample is; None if it is none."""
    try:
        return strict_json.parse(text.encode("utf-8", "surrogatepass"))
    except strict_json.StrictJsonError:
        return None
