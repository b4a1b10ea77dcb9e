"""What a line may be, and how an upload is judged while it arrives."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.files import dataset
from app.files.dataset import BadLine, BadUpload, UploadCheck

USER = {"role": "user", "content": "u"}
SAYS = {"role": "assistant", "content": "a"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}

GOOD: dict[str, dict[str, Any]] = {
    "plain": {"messages": [USER, SAYS]},
    "every role": {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "developer", "content": "d", "name": "n"},
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "t", "tool_call_id": "c"},
            {"role": "function", "content": "f", "name": "f"},
            {**SAYS, "weight": 1},
        ]
    },
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, SAYS]},
    "weight 0 beside weight 1": {"messages": [USER, {**SAYS, "weight": 0}, USER, SAYS]},
    "refusal": {"messages": [USER, {"role": "assistant", "refusal": "no"}]},
    "function call": {
        "messages": [USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}]
    },
    "tools": {
        "messages": [USER, SAYS],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "parallel_tool_calls": False,
    },
    "functions": {"messages": [USER, SAYS], "functions": [{"name": "f"}]},
    "prompt and completion": {"prompt": "p", "completion": "c"},
    "empty prompt": {"prompt": "", "completion": "c"},
}


def says(**rest: Any) -> dict[str, Any]:
    return {"messages": [USER, {**SAYS, **rest}]}


BAD: dict[str, tuple[Any, str]] = {
    "array": ([], "not a JSON object"),
    "empty object": ({}, "neither messages"),
    "no messages": ({"messages": []}, "at least one message"),
    "messages null": ({"messages": None}, "must be a list"),
    "message is text": ({"messages": ["hi"]}, r"messages\[0\] is not an object"),
    "no role": ({"messages": [{"content": "x"}]}, r"messages\[0\].role"),
    "role is a list": ({"messages": [{"role": [], "content": "x"}]}, "role"),
    "unknown role": ({"messages": [{"role": "robot", "content": "x"}]}, "role must be one of"),
    "no content": ({"messages": [{"role": "user"}, SAYS]}, r"messages\[0\].content is missing"),
    "content number": ({"messages": [{"role": "user", "content": 1}, SAYS]}, "string or a list"),
    "no assistant": ({"messages": [USER]}, "no assistant message"),
    "only weight 0": (says(weight=0), "no assistant message"),
    "weight 2": (says(weight=2), "weight must be 0 or 1"),
    "weight true": (says(weight=True), "weight must be 0 or 1"),
    "weight half": (says(weight=0.5), "weight must be 0 or 1"),
    "weight text": (says(weight="1"), "weight must be 0 or 1"),
    "weight on a user": ({"messages": [{**USER, "weight": 1}, SAYS]}, "unknown key"),
    "unknown key": ({"messages": [USER, SAYS], "extra": 1}, 'unknown key "extra"'),
    "unknown message key": (says(mood="good"), 'unknown key "mood"'),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, SAYS]},
        "only text",
    ),
    "part without text": ({"messages": [{"role": "user", "content": [{"type": "text"}]}, SAYS]}, "must be"),
    "tool without id": ({"messages": [USER, {"role": "tool", "content": "x"}, SAYS]}, "tool_call_id"),
    "calls empty": (says(tool_calls=[]), "at least one call"),
    "call without id": (says(tool_calls=[{"type": "function", "function": CALL["function"]}]), "id must be"),
    "arguments object": (says(tool_calls=[{**CALL, "function": {"name": "f", "arguments": {}}}]), "string of JSON"),
    "arguments no json": (says(tool_calls=[{**CALL, "function": {"name": "f", "arguments": "{"}}]), "arguments"),
    "arguments array": (says(tool_calls=[{**CALL, "function": {"name": "f", "arguments": "[]"}}]), "JSON object"),
    "tools object": ({"messages": [USER, SAYS], "tools": {}}, "tools must be a list"),
    "tool of another type": ({"messages": [USER, SAYS], "tools": [{"type": "code"}]}, "type function"),
    "tool without name": ({"messages": [USER, SAYS], "tools": [{"type": "function", "function": {}}]}, "name"),
    "129 tools": ({"messages": [USER, SAYS], "functions": [{"name": "f"}] * 129}, "more than 128"),
    "1001 messages": ({"messages": [USER, SAYS] * 501}, "more than 1000"),
    "parallel text": ({"messages": [USER, SAYS], "parallel_tool_calls": "yes"}, "true or false"),
    "prompt alone": ({"prompt": "p"}, "completion must be a string"),
    "completion empty": ({"prompt": "p", "completion": ""}, "completion is empty"),
    "prompt list": ({"prompt": [1], "completion": "c"}, "prompt must be a string"),
    "prompt and more": ({"prompt": "p", "completion": "c", "x": 1}, "unknown key"),
}


@pytest.mark.parametrize("example", GOOD.values(), ids=GOOD.keys())
def test_good_lines(example: dict[str, Any]) -> None:
    kind, parsed = dataset.parse_line(json.dumps(example).encode())
    assert parsed == example
    assert kind == (dataset.CHAT if "messages" in example else dataset.COMPLETION)


@pytest.mark.parametrize(("example", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_lines(example: Any, reason: str) -> None:
    with pytest.raises(BadLine, match=reason):
        dataset.parse_line(json.dumps(example).encode())


@pytest.mark.parametrize("line", [b"", b"{", b"\xff", b'{"messages": NaN}', b'{"a":1,"a":1}', b"null", b'"x"', b"7"])
def test_lines_that_are_no_object(line: bytes) -> None:
    with pytest.raises(BadLine):
        dataset.parse_line(line)


def test_blank_lines_count_inside_and_not_at_the_end() -> None:
    assert list(dataset.lines(io.BytesIO(b"a\n\nb\r\n\n \n"))) == [(1, b"a"), (2, b""), (3, b"b")]


def check(data: bytes, *, chunk: int = 7) -> None:
    upload = UploadCheck()
    for start in range(0, len(data), chunk):
        upload.feed(data[start : start + chunk])
    upload.finish()


@pytest.mark.parametrize(
    "data", [b"{}", b"{}\n", b'{"a": 1}\r\n{}\n\n\n', '{"ü": "é"}\n'.encode(), b'{"prompt": "x"}\n' * 100]
)
def test_uploads_that_pass(data: bytes) -> None:
    check(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"hello", "Line 1 is not a JSON object"),
        (b"{}\n[]\n", "Line 2 is not"),
        (b"{}\n{]\n", "Line 2 is not"),
        (b"{}\n\n{}\n", "Line 2 is blank"),
        (b'{"a": "\xff"}\n', "Line 1 is not"),
        ('{"a": 1}'.encode("utf-16"), "Line 1 is not"),
        (b"[" * 100_000 + b"\n", "Line 1 is not"),
        (b"\x1f\x8b\x08\x00gzip", "Line 1 is not"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 1_000_000])
def test_uploads_that_do_not(data: bytes, message: str, chunk: int) -> None:
    if chunk == 1 and len(data) > 1000:
        data = data[:1000] + b"\n"
    with pytest.raises(BadUpload, match=message):
        check(data, chunk=chunk)


def test_a_line_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MAX_LINE_BYTES", 100)
    upload = UploadCheck()
    for _ in range(10):
        upload.feed(b"x" * 10)
    with pytest.raises(BadUpload, match="longer than 100 bytes"):
        upload.feed(b"x")


@given(data=st.lists(st.sampled_from([b"{}", b'{"a": "b c"}', b"", b"[]", b"x"]), max_size=6), chunk=st.integers(1, 9))
def test_chunk_boundaries_do_not_matter(data: list[bytes], chunk: int) -> None:
    def verdict(size: int) -> str | None:
        try:
            check(b"\n".join(data), chunk=size)
        except BadUpload as error:
            return str(error)
        return None

    assert verdict(chunk) == verdict(1_000_000)
