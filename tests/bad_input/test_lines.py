"""Group C: the lines of a training file, as an upload and a job's preparing judge them."""

import io
import json
import re
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from app.files import dataset, ordinary
from app.files.dataset import BadLine, BadUpload, UploadCheck

MIB = 1024 * 1024
USER = {"role": "user", "content": "u"}
SAYS = {"role": "assistant", "content": "a"}
FUNCTION = {"name": "f", "arguments": "{}"}
CALL = {"id": "c1", "type": "function", "function": FUNCTION}
CALLS = {"role": "assistant", "tool_calls": [CALL]}
ANSWER = {"role": "tool", "content": "t", "tool_call_id": "c1"}
TOOL = {"type": "function", "function": {"name": "f"}}


def verdict(data: bytes) -> str | None:
    """What an upload says of a file, else what preparing says of its first bad line; None if all is well."""
    check = UploadCheck()
    try:
        for start in range(0, len(data), MIB):
            check.feed(data[start : start + MIB])
        check.finish()
    except BadUpload as error:
        return str(error)
    try:
        for _, line in dataset.lines(io.BytesIO(data)):
            dataset.parse_line(line)
    except BadLine as error:
        assert ordinary.parse(line) is None, "the quick way takes what the checks refuse"
        return str(error)
    return None


def chat(*messages: Any, **rest: Any) -> bytes:
    return json.dumps({"messages": messages, **rest}).encode()


def says(**changes: Any) -> bytes:
    return chat(USER, {**SAYS, **changes})


def content(text: bytes) -> bytes:
    """A line with this text, as it is, as what the assistant says."""
    return b'{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "%s"}]}' % text


GOOD_LINE = says()

GOOD: dict[str, bytes] = {
    "C03 CRLF": GOOD_LINE + b"\r\n" + GOOD_LINE + b"\r\n",
    "C15 zero-width and bidirectional text": says(content="\u200b\u202e\u2066abc\ufeff"),
    "C29 many equal lines": (GOOD_LINE + b"\n") * 2_000,
    "C41 text parts": says(content=[{"type": "text", "text": "a"}]),
    "C45 one long word": says(content="a" * 1_000_000),
    "C51 two system messages, not first": chat(
        USER, {"role": "system", "content": "s"}, SAYS, {"role": "system", "content": "s"}, SAYS
    ),
    "C79 markup": says(content="</script><script>alert(1)</script>"),
    "no line feed at the end": GOOD_LINE,
    "blank lines at the end": GOOD_LINE + b"\n\n  \r\n\n",
    "spaces around a line": b"  " + GOOD_LINE + b" \t\n",
    "emoji by escapes": content(b"\\ud83d\\ude00"),
    "a noncharacter": says(content="\uffff"),
    "private use": says(content="\ue000"),
    "line separators inside": says(content="a\u2028b\u2029c\u0085d"),
    "keys in escapes": b'{"\\u006dessages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}',
    "only the assistant": chat(SAYS),
    "assistant first": chat(SAYS, USER, SAYS),
    "ends with a user": chat(USER, SAYS, USER),
    "two assistants in a row": chat(USER, SAYS, SAYS),
    "empty text": chat({"role": "user", "content": ""}, SAYS),
    "weight 0 and 1": chat(USER, {**SAYS, "weight": 0}, USER, {**SAYS, "weight": 1}),
    "tool called and answered": chat(USER, CALLS, ANSWER, SAYS, tools=[TOOL]),
    "called twice with one id": chat(USER, CALLS, ANSWER, CALLS, ANSWER, SAYS),
    "called and never answered": chat(USER, CALLS),
    "128 tools": chat(USER, SAYS, tools=[TOOL] * 128),
    "a name of 64": chat({**USER, "name": "x" * 64}, SAYS),
    "1,000 messages": chat(*[USER, SAYS] * 500),
    "C63 prompt and completion": b'{"prompt": "p", "completion": "c"}',
    "an empty prompt": b'{"prompt": "", "completion": "c"}',
    "64 deep": chat(USER, SAYS, tools=[{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}]),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD.keys())
def test_good_files(data: bytes) -> None:
    assert verdict(data) is None


def nested(depth: int) -> bytes:
    return b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"


BAD: dict[str, tuple[bytes, str]] = {
    "C01 blank between others": (GOOD_LINE + b"\n\n" + GOOD_LINE, "Line 2 is blank"),
    "C05 byte-order mark": (b"\xef\xbb\xbf" + GOOD_LINE, "Line 1 is not"),
    "C07 UTF-16": (GOOD_LINE.decode().encode("utf-16"), "Line 1 is not"),
    "C09 overlong": (content(b"\xc0\xaf"), "Line 1 is not"),
    "C11 lone surrogate": (content(b"\\ud800"), "Line 1 is not"),
    "C13 raw control": (content(b"\x01"), "Line 1 is not"),
    "C17 one array": (b"[" + GOOD_LINE + b"]", "one JSON array"),
    "C19 two objects": (GOOD_LINE + b" " + GOOD_LINE, "Line 1 is not"),
    "C21 NaN": (b'{"messages": NaN}', "Line 1 is not"),
    "C21 Infinity": (b'{"messages": [Infinity]}', "Line 1 is not"),
    "C21 1e999": (b'{"messages": 1e999}', "Line 1 is not|too large"),
    "C23 key twice": (GOOD_LINE[:-1] + b', "messages": []}', "'messages' twice"),
    "C25 a line of 16 MiB + 1": (content(b"x" * (16 * MIB + 1 - len(content(b"")))), "longer than 16777216"),
    "C31 null": (b'{"messages": null}', "must be a list"),
    "C31 text": (b'{"messages": "x"}', "must be a list"),
    "C31 object": (b'{"messages": {}}', "must be a list"),
    "C31 number": (b'{"messages": 5}', "must be a list"),
    "C33 1,001 messages": (chat(*[USER] * 1000, SAYS), "more than 1000 messages"),
    "C35 no role": (chat({"content": "x"}, SAYS), r"messages\[0\].role"),
    "C37 no content": (chat({"role": "user"}, SAYS), r"messages\[0\].content is missing"),
    "C39 null from the assistant": (says(content=None), "content is missing"),
    "C43 an address to fetch": (
        chat(
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}],
            },
            SAYS,
        ),
        "only text can be trained on",
    ),
    "C49 all weights 0": (says(weight=0), "no assistant message to train on"),
    "C53 unknown call": (chat(USER, CALLS, {**ANSWER, "tool_call_id": "c2"}, SAYS), "names no call before it"),
    "C55 arguments object": (
        says(tool_calls=[{**CALL, "function": {"name": "f", "arguments": {}}}]),
        "arguments must be a string",
    ),
    "C57 function name with a space": (
        chat(USER, SAYS, tools=[{"type": "function", "function": {"name": "a b"}}]),
        "name must be 1 to 64",
    ),
    "C57 function name of 65": (
        chat(USER, SAYS, tools=[{"type": "function", "function": {"name": "x" * 65}}]),
        "name must be 1 to 64",
    ),
    "C59 129 tools": (chat(USER, SAYS, tools=[TOOL] * 129), "more than 128 tools"),
    "C61 both kinds of calls": (says(tool_calls=[CALL], function_call=FUNCTION), "both tool_calls and function_call"),
    "C65 preferences": (
        b'{"input": {"messages": [{"role": "user", "content": "u"}]}, "non_preferred_output": []}',
        "neither messages",
    ),
    "C81 name of 65": (chat({**USER, "name": "x" * 65}, SAYS), "name must be"),
    "C81 name with a space": (chat({**USER, "name": "a b"}, SAYS), "name must be"),
    "C81 name with a line feed": (chat({**USER, "name": "a\n"}, SAYS), "name must be"),
    "function without a name": (chat(USER, {"role": "function", "content": "x"}, SAYS), "name must be"),
    "function with the name null": (
        chat(USER, {"role": "function", "content": "x", "name": None}, SAYS),
        "name must be",
    ),
    "empty name": (chat({**USER, "name": ""}, SAYS), "name must be"),
    "only line feeds": (b"\n" * 1000, "empty"),
    "only spaces": (b"   \n \t ", "empty"),
    "blank first": (b"\n" + GOOD_LINE, "Line 1 is blank|empty"),
    "nothing but NUL": (b"\0" * 1000, "Line 1 is not"),
    "NUL": (content(b"\\u0000"), "NUL"),
    "NUL in a key": (GOOD_LINE[:-1] + b', "a\\u0000": 1}', "NUL"),
    "surrogates in UTF-8": (content(b"\xed\xa0\x80"), "Line 1 is not"),
    "half a character at the end": (GOOD_LINE + b"\n" + b"\xe2\x82", "Line 2 is not"),
    "latin-1": (content("é".encode("latin-1")), "Line 1 is not"),
    "carriage returns alone": (GOOD_LINE + b"\r" + GOOD_LINE, "Line 1 is not"),
    "a comma after each line": (GOOD_LINE + b",\n" + GOOD_LINE + b",\n", "Line 1 is not"),
    "a pretty object": (json.dumps({"messages": [USER, SAYS]}, indent=1).encode(), "Line 1 is not"),
    "csv": (b"prompt,completion\na,b\n", "Line 1 is not"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00", "Line 1 is not"),
    "zip": (b"PK\x03\x04" + b"\0" * 30, "Line 1 is not"),
    "parquet": (b"PAR1\x15\x04", "Line 1 is not"),
    "tar": (b"../../etc/passwd".ljust(257, b"\0") + b"ustar", "Line 1 is not"),
    "a string": (b'"x"', "Line 1 is not"),
    "null": (b"null", "Line 1 is not"),
    "a key inside twice": (content(b"").replace(b'"role": "user"', b'"role": "user", "role": "user"'), "'role' twice"),
    "a key twice, spelled otherwise": (GOOD_LINE[:-1] + b', "\\u006dessages": []}', "twice"),
    "an integer beyond 64 bits": (GOOD_LINE[:-1] + b', "x": 123456789012345678901234567890}', "64 bits"),
    "5,000 digits": (GOOD_LINE[:-1] + b', "x": ' + b"9" * 5000 + b"}", "Line 1 is not|64 bits"),
    "65 deep": (nested(64), "nested deeper"),
    "500 deep": (nested(500), "nested deeper"),
    "100,000 deep": (nested(100_000), "Line 1 is not"),
    "100,000 opened": (b'{"a":' * 100_000, "Line 1 is not"),
    "no messages": (chat(), "at least one message"),
    "null message": (chat(None), r"messages\[0\] is not an object"),
    "empty message": (chat({}), "role must be"),
    "role in capitals": (chat({**USER, "role": "User"}, SAYS), "role must be"),
    "role with a space": (chat({**USER, "role": "user "}, SAYS), "role must be"),
    "role null": (chat({**USER, "role": None}, SAYS), "role must be"),
    "role object": (chat({**USER, "role": {}}, SAYS), "role must be"),
    "content number": (says(content=1), "string or a list"),
    "content true": (says(content=True), "string or a list"),
    "content object": (says(content={}), "string or a list"),
    "no parts": (says(content=[]), "string or a list"),
    "part null": (says(content=[None]), "must be"),
    "part text": (says(content=["a"]), "must be"),
    "part with text number": (says(content=[{"type": "text", "text": 1}]), "must be"),
    "part with a field more": (says(content=[{"type": "text", "text": "a", "cache": 1}]), "must be"),
    "audio": (chat({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, SAYS), "only text"),
    "file": (chat({"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}, SAYS), "only text"),
    "weight 2": (says(weight=2), "weight"),
    "weight 0.5": (says(weight=0.5), "weight"),
    "weight 1.0": (says(weight=1.0), "weight"),
    "weight true": (says(weight=True), "weight"),
    "weight null": (says(weight=None), "weight"),
    "weight -0.0": (GOOD_LINE.replace(b'"content": "a"', b'"content": "a", "weight": -0.0'), "weight"),
    "weight of a user": (chat({**USER, "weight": 1}, SAYS), "unknown key"),
    "calls null and no content": (says(content=None, tool_calls=None), "content is missing"),
    "calls object": (says(tool_calls={}), "list with at least one call"),
    "calls empty": (says(tool_calls=[]), "list with at least one call"),
    "call null": (says(tool_calls=[None]), "object of type function"),
    "call of another type": (says(tool_calls=[{**CALL, "type": "code"}]), "object of type function"),
    "call without id": (says(tool_calls=[{"type": "function", "function": FUNCTION}]), "id must be"),
    "call with id number": (says(tool_calls=[{**CALL, "id": 1}]), "id must be"),
    "call without function": (says(tool_calls=[{"id": "c", "type": "function"}]), "name must be"),
    "arguments no JSON": (says(function_call={"name": "f", "arguments": "{"}), "arguments is not valid"),
    "arguments with NaN": (says(function_call={"name": "f", "arguments": '{"a": NaN}'}), "NaN"),
    "arguments with a key twice": (says(function_call={"name": "f", "arguments": '{"a": 1, "a": 2}'}), "twice"),
    "arguments array": (says(function_call={"name": "f", "arguments": "[]"}), "JSON object"),
    "arguments deep": (says(function_call={"name": "f", "arguments": '{"a":' * 100 + "1" + "}" * 100}), "nested"),
    "function call text": (says(function_call="f"), "name must be"),
    "an answer before its call": (chat(USER, ANSWER, CALLS, SAYS), "names no call"),
    "an answer without a call": (chat(USER, {**ANSWER, "tool_call_id": ""}, SAYS), "names no call"),
    "answer id number": (chat(USER, CALLS, {**ANSWER, "tool_call_id": 1}, SAYS), "must be a string"),
    "tools null entries": (chat(USER, SAYS, tools=[None]), "object of type function"),
    "tools text": (chat(USER, SAYS, tools="f"), "must be a list"),
    "tool of no function": (chat(USER, SAYS, tools=[{"type": "function"}]), "name must be"),
    "tool parameters text": (
        chat(USER, SAYS, tools=[{"type": "function", "function": {"name": "f", "parameters": "x"}}]),
        "parameters must be an object",
    ),
    "tool name with a path": (
        chat(USER, SAYS, tools=[{"type": "function", "function": {"name": "../f"}}]),
        "name must be 1 to 64",
    ),
    "tool name with a line feed": (chat(USER, SAYS, functions=[{"name": "f\n"}]), "name must be 1 to 64"),
    "tool name in other letters": (chat(USER, SAYS, functions=[{"name": "ｆ"}]), "name must be 1 to 64"),
    "128 tools and a function": (chat(USER, SAYS, tools=[TOOL] * 128, functions=[{"name": "f"}]), "more than 128"),
    "parallel_tool_calls null": (chat(USER, SAYS, parallel_tool_calls=None), "true or false"),
    "parallel_tool_calls 1": (chat(USER, SAYS, parallel_tool_calls=1), "true or false"),
    "an unknown key": (chat(USER, SAYS, metadata={}), "unknown key"),
    "an unknown key of a message": (says(audio={}), "unknown key"),
    "chat and completion": (chat(USER, SAYS, prompt="p", completion="c"), "unknown key"),
    "refusal number": (says(content=None, refusal=1), "refusal must be a string"),
    "batch request": (b'{"custom_id": "1", "method": "POST", "url": "/v1", "body": {}}', "neither messages"),
    "prompt alone": (b'{"prompt": "p"}', "completion must be"),
    "completion alone": (b'{"completion": "c"}', "prompt must be"),
    "completion empty": (b'{"prompt": "p", "completion": ""}', "completion is empty"),
    "completion null": (b'{"prompt": "p", "completion": null}', "completion must be"),
    "prompt list": (b'{"prompt": ["p"], "completion": "c"}', "prompt must be"),
    "a template": (chat(USER, SAYS, chat_template="{{ x }}"), "unknown key"),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_files(data: bytes, reason: str) -> None:
    said = verdict(data)
    assert said is not None
    assert len(said) <= 400
    assert re.search(reason, said), said


SECRET = "s3cret" * 100

QUOTING: dict[str, bytes] = {
    "unknown key": json.dumps({"messages": [USER, SAYS], SECRET: 1}).encode(),
    "unknown key of a message": says(**{SECRET: 1}),
    "key twice": GOOD_LINE[:-1] + f', "{SECRET}": 1, "{SECRET}": 2}}'.encode(),
    "role": chat({"role": SECRET, "content": "x"}),
    "name": chat({**USER, "name": SECRET + " "}, SAYS),
    "content type": chat({"role": "user", "content": [{"type": SECRET}]}, SAYS),
    "arguments": says(function_call={"name": "f", "arguments": SECRET}),
    "no json": SECRET.encode(),
    "call id": chat(USER, {**ANSWER, "tool_call_id": SECRET}, SAYS),
}


@pytest.mark.parametrize("data", QUOTING.values(), ids=QUOTING.keys())
def test_c83_messages_quote_little(data: bytes) -> None:
    said = verdict(data)
    assert said is not None
    assert said.count("s3cret") <= 100 // len("s3cret")


def test_c27_too_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MAX_LINES", 3)
    assert verdict((GOOD_LINE + b"\n") * 3) is None
    assert verdict((GOOD_LINE + b"\n") * 4) == "The file has more than 3 lines."


def test_blank_lines_at_the_end_take_no_memory() -> None:
    class Blank(io.RawIOBase):
        """A line, and then a great many without anything."""

        sent = 0

        def readline(self, size: int | None = -1) -> bytes:
            self.sent += 1
            return GOOD_LINE + b"\n" if self.sent == 1 else b"\n" if self.sent < 200_000 else b""

    tracemalloc.start()
    try:
        numbered: Iterator[tuple[int, bytes]] = dataset.lines(Blank())  # type: ignore[arg-type]
        assert list(numbered) == [(1, GOOD_LINE)]
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
