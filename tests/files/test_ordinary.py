"""An ordinary line is read as the strict checks read it, and nothing that they refuse is ordinary."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.files import ordinary
from app.files.dataset import CHAT, MAX_MESSAGES, BadLine, parse_line

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["role", "content", "messages", "user", "assistant", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "messages", "weight", "name"]), inner, max_size=3)
    ),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "role"]),
        "content": st.text(max_size=8) | JSON,
    },
    optional={"weight": st.sampled_from([0, 1, 2])},
)


def read(line: bytes) -> list[tuple[str, str]] | None:
    messages = ordinary.parse(line)
    return None if messages is None else [(message.role, message.content) for message in messages]


def checked(line: bytes) -> list[tuple[str, str]] | None:
    """What the strict checks make of a line, if it holds nothing but roles and texts."""
    try:
        kind, example = parse_line(line)
    except BadLine:
        return None
    assert kind == CHAT
    return [(message["role"], message["content"]) for message in example["messages"]]


@settings(max_examples=300, deadline=None)
@given(value=st.fixed_dictionaries({"messages": st.lists(MESSAGE, max_size=4)}) | JSON, ascii_only=st.booleans())
def test_an_ordinary_line_is_read_as_the_checks_read_it(value: Any, ascii_only: bool) -> None:
    line = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    messages = read(line)
    assert messages is None or messages == checked(line)


def test_an_ordinary_line_is_known() -> None:
    line = json.dumps({"messages": [{"role": "system", "content": 'Say "role".'}, USER, ASSISTANT]}).encode()
    assert read(line) == [("system", 'Say "role".'), ("user", "Hi"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{",
        b'{"messages": []}',
        b'{"messages": [{"role": "user", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "messages": []}',
        b'{"messages": [{"role": "user", "role": "assistant", "content": "x"}]}',
        b'{"messages": [{"role": "assistant", "content": "x", "content": "y"}]}',
        b'{"messages": [{"role": "assistant", "content": "x", "conten\\u0074": "y"}]}',
        b'{"messages": [{"role": "assistant", "content": "\\u0000"}]}',
        b'{"messages": [{"role": "assistant", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "assistant", "content": "\xff"}]}',
        b'{"messages": [{"role": "assistant", "content": null}]}',
        b'{"messages": [{"role": "assistant", "content": "x", "weight": 1}]}',
        b'{"messages": [{"role": "assistant", "content": "x"}], "tools": []}',
        b'{"messages": [{"role": "assistant", "content": "x"}]} {}',
        b'\xef\xbb\xbf{"messages": [{"role": "assistant", "content": "x"}]}',
        b'{"messages": ' + b"[" * 100_000,
        json.dumps({"messages": [USER, ASSISTANT] * (MAX_MESSAGES // 2 + 1)}).encode(),
    ],
)
def test_other_lines_are_left_to_the_checks(line: bytes) -> None:
    assert ordinary.parse(line) is None
