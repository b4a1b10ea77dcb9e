"""What a line of a training file may be. Pure: bytes in, examples or reasons out.

At upload a file only has to be UTF-8 with one JSON object a line (`UploadCheck`); everything else is checked line by
line when a job prepares it (`parse_line`).
"""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from app import strict_json

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_LINES = 10_000_000
MAX_MESSAGES = 1000
MAX_TOOLS = 128
CHAT = "chat"
COMPLETION = "prompt/completion"

Example = dict[str, Any]

_NAME = re.compile(r"[^\s<|\\/>]{1,64}")  # of whoever speaks
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_LINE_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
_MESSAGE_KEYS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "weight", "tool_calls", "function_call", "refusal"},
    "tool": {"role", "content", "name", "tool_call_id"},
    "function": {"role", "content", "name"},
}


class BadLine(ValueError):
    """A line cannot be used; the message says why, without its number."""


class BadUpload(ValueError):
    """An uploaded file is not JSONL; the message names the line."""


class UploadCheck:
    """Checks a file while it arrives, in chunks of any size: UTF-8, and one JSON object a line.

    Holds at most one line. Raises BadUpload from `feed` and `finish`.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._line = 0
        self._blank: int | None = None  # the first of the blank lines just seen: only the end may have them

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        end = chunk.rfind(b"\n")
        if end < 0:
            self._rest += chunk
            self._check_length(self._rest)
            return
        self._rest += chunk[:end]
        lines = bytes(self._rest).split(b"\n")
        self._rest = bytearray(chunk[end + 1 :])
        for line in lines:
            self._check(line)

    def finish(self) -> None:
        """Take the end of the file."""
        if self._rest:
            self._check(bytes(self._rest))
        if self._line == 0 or self._blank == 1:
            raise BadUpload("The file is empty; JSON lines are expected, one object a line.")

    def _check(self, line: bytes) -> None:
        self._line += 1
        if self._line > MAX_LINES:
            raise BadUpload(f"The file has more than {MAX_LINES} lines.")
        self._check_length(line)
        if not line.strip():
            self._blank = self._blank or self._line
            return
        if self._blank is not None:
            raise BadUpload(f"Line {self._blank} is blank; JSON lines are expected, one object a line.")
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = None
        if not isinstance(value, dict):
            hint = " The file is one JSON array?" if line.startswith(b"[") and self._line == 1 else ""
            raise BadUpload(
                f"Line {self._line} is not a JSON object; JSON lines are expected, one object a line.{hint}"
            )

    def _check_length(self, line: bytes | bytearray) -> None:
        if len(line) > MAX_LINE_BYTES:
            raise BadUpload(f"Line {max(self._line, 1)} is longer than {MAX_LINE_BYTES} bytes.")


def lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, without blank ones at the end."""
    last = 0  # the last line that was not blank
    for number, line in enumerate(iter(lambda: source.readline(MAX_LINE_BYTES + 2), b""), start=1):
        if not line.strip():
            continue
        for blank in range(last + 1, number):
            yield blank, b""
        last = number
        yield number, line.rstrip(b"\r\n")


def parse_line(line: bytes) -> tuple[str, Example]:
    """The format of a line (CHAT or COMPLETION) and its example. Raises BadLine."""
    if not line:
        raise BadLine("is blank")
    if len(line) > MAX_LINE_BYTES:
        raise BadLine(f"is longer than {MAX_LINE_BYTES} bytes")
    try:
        value = strict_json.parse(line)
    except strict_json.StrictJsonError as error:
        raise BadLine(str(error)) from None
    if not isinstance(value, dict):
        raise BadLine("is not a JSON object")
    if "messages" in value:
        _check_chat(value)
        return CHAT, value
    if "prompt" in value or "completion" in value:
        _check_completion(value)
        return COMPLETION, value
    raise BadLine("has neither messages nor prompt and completion")


def _check_completion(value: Example) -> None:
    _check_keys(value, {"prompt", "completion"}, "the line")
    for key in ("prompt", "completion"):
        if not isinstance(value.get(key), str):
            raise BadLine(f"{key} must be a string")
    if not value["completion"]:
        raise BadLine("completion is empty")


def _check_chat(value: Example) -> None:
    _check_keys(value, _LINE_KEYS, "the line")
    messages = value["messages"]
    if not isinstance(messages, list) or not messages:
        raise BadLine("messages must be a list with at least one message")
    if len(messages) > MAX_MESSAGES:
        raise BadLine(f"has more than {MAX_MESSAGES} messages")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    _check_replies(messages)
    trained = [m for m in messages if m["role"] == "assistant" and m.get("weight", 1) != 0]
    if not trained:
        raise BadLine("has no assistant message to train on")
    _check_tools(value)


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise BadLine(f"{where} is not an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in _MESSAGE_KEYS:
        raise BadLine(f"{where}.role must be one of {', '.join(_MESSAGE_KEYS)}")
    _check_keys(message, _MESSAGE_KEYS[role], where)
    _check_content(message, where)
    name = message.get("name")
    if (name is not None or role == "function") and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise BadLine(f"{where}.name must be 1 to 64 characters without spaces and <|\\/>")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise BadLine(f"{where}.tool_call_id must be a string")
    if role == "assistant":
        _check_assistant(message, where)


def _check_replies(messages: list[Example]) -> None:
    """A tool answers a call that was made."""
    called: set[str] = set()
    for index, message in enumerate(messages):
        called.update(call["id"] for call in message.get("tool_calls") or ())
        if message["role"] == "tool" and message["tool_call_id"] not in called:
            raise BadLine(f"messages[{index}].tool_call_id names no call before it")


def _check_content(message: Example, where: str) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    if content is None:
        if message["role"] == "assistant" and any(message.get(k) for k in ("tool_calls", "function_call", "refusal")):
            return
        raise BadLine(f"{where}.content is missing")
    if not isinstance(content, list) or not content:
        raise BadLine(f"{where}.content must be a string or a list of parts")
    for index, part in enumerate(content):
        _check_part(part, f"{where}.content[{index}]")


def _check_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("image_url", "input_audio", "file"):
        raise BadLine(f"{where} is of type {kind}; only text can be trained on here")
    if kind != "text" or set(part) != {"type", "text"} or not isinstance(part["text"], str):
        raise BadLine(f'{where} must be {{"type": "text", "text": …}}')


def _check_assistant(message: Example, where: str) -> None:
    weight = message.get("weight", 1)
    if type(weight) is not int or weight not in (0, 1):
        raise BadLine(f"{where}.weight must be 0 or 1")
    if not isinstance(message.get("refusal") or "", str):
        raise BadLine(f"{where}.refusal must be a string")
    calls = message.get("tool_calls")
    if calls is not None:
        if not isinstance(calls, list) or not calls:
            raise BadLine(f"{where}.tool_calls must be a list with at least one call")
        for index, call in enumerate(calls):
            _check_tool_call(call, f"{where}.tool_calls[{index}]")
    if message.get("function_call") is not None:
        if calls is not None:
            raise BadLine(f"{where} has both tool_calls and function_call")
        _check_call(message["function_call"], f"{where}.function_call")


def _check_tool_call(call: Any, where: str) -> None:
    if not isinstance(call, dict) or call.get("type", "function") != "function":
        raise BadLine(f"{where} must be an object of type function")
    _check_keys(call, {"id", "type", "function"}, where)
    if not isinstance(call.get("id"), str):
        raise BadLine(f"{where}.id must be a string")
    _check_call(call.get("function"), f"{where}.function")


def _check_call(call: Any, where: str) -> None:
    _check_function_name(call, where)
    _check_keys(call, {"name", "arguments"}, where)
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        raise BadLine(f"{where}.arguments must be a string of JSON")
    try:
        parsed = strict_json.parse(arguments.encode())
    except strict_json.StrictJsonError as error:
        raise BadLine(f"{where}.arguments {error}") from None
    if not isinstance(parsed, dict):
        raise BadLine(f"{where}.arguments must be a JSON object")


def _check_tools(value: Example) -> None:
    if not isinstance(value.get("parallel_tool_calls", True), bool):
        raise BadLine("parallel_tool_calls must be true or false")
    tools = [] if value.get("tools") is None else value["tools"]
    functions = [] if value.get("functions") is None else value["functions"]
    if not isinstance(tools, list) or not isinstance(functions, list):
        raise BadLine("tools must be a list")
    if len(tools) + len(functions) > MAX_TOOLS:
        raise BadLine(f"has more than {MAX_TOOLS} tools")
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise BadLine(f"tools[{index}] must be an object of type function")
        _check_function(tool.get("function"), f"tools[{index}].function")
    for index, function in enumerate(functions):
        _check_function(function, f"functions[{index}]")


def _check_function(function: Any, where: str) -> None:
    _check_function_name(function, where)
    if not isinstance(function.get("parameters", {}), dict):
        raise BadLine(f"{where}.parameters must be an object")


def _check_function_name(function: Any, where: str) -> None:
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        raise BadLine(f"{where}.name must be 1 to 64 letters, digits, underscores and hyphens")


def _check_keys(value: Example, known: set[str], where: str) -> None:
    for key in value:
        if key not in known:
            raise BadLine(f"{where} has an unknown key {json.dumps(key[:64])}")
