"""A line that the checks let pass is rendered or refused, by every family's template, and never breaks the worker."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.files import dataset
from tests.prepare import families
from worker.prepare import tokenizer
from worker.prepare.template import RenderError, Template

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["", "\n", "\u2028", "\u200b", "{{ x }}", "{% raw %}", "<|im_end|>"]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAME = st.sampled_from(["f", "a-b", "_", "x" * 64])
PARAMETERS = st.dictionaries(st.sampled_from(["type", "properties", "required", "x"]), JSON, max_size=3)
FUNCTION = st.fixed_dictionaries(
    {"name": NAME}, optional={"description": JSON, "parameters": PARAMETERS, "strict": JSON, "x": JSON}
)
ARGUMENTS = st.dictionaries(TEXT, JSON, max_size=2).map(json.dumps) | st.sampled_from(["{}", '{"a": 1e5, "b": -0.0}'])
CALL = st.fixed_dictionaries({"id": TEXT, "function": st.fixed_dictionaries({"name": NAME, "arguments": ARGUMENTS})})
CALLS = st.lists(CALL, min_size=1, max_size=2)
PART = st.fixed_dictionaries({"type": st.just("text"), "text": TEXT})
CONTENT = TEXT | st.lists(PART, min_size=1, max_size=2)
MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "function"]), "content": CONTENT},
        optional={"name": st.sampled_from(["n", None])},
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": CONTENT},
        optional={"weight": st.sampled_from([0, 1]), "tool_calls": CALLS | st.none(), "refusal": TEXT | st.none()},
    ),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": st.none(), "tool_calls": CALLS}),
)
TOOL = st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}, optional={"x": JSON})
LINE = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, max_size=4).map(lambda some: [*some, {"role": "assistant", "content": "yes"}])},
    optional={"tools": st.lists(TOOL, max_size=2), "functions": st.lists(FUNCTION, max_size=2)},
)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> list[Template]:
    folders = [families.write(name, tmp_path_factory.mktemp(name)) for name in families.FAMILIES]
    return [Template(tokenizer.load(folder)) for folder in folders]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(line=LINE)
def test_what_passes_the_checks_is_rendered_or_refused(templates: list[Template], line: dict[str, Any]) -> None:
    data = json.dumps(line).encode()
    try:
        dataset.parse_line(data)
    except dataset.BadLine:
        return
    for template in templates:
        try:
            template.turns(json.loads(data))
        except RenderError:
            continue
