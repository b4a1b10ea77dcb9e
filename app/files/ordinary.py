"""The ordinary training line: messages with a role and a text each, and nothing else.

Most files consist of such lines, and a typed decoder reads one in a fifth of the time that the strict checks of
`dataset.parse_line` take. A line is ordinary only if those checks could find nothing; every other line, good or bad, is
left to them.
"""

from typing import Literal

import msgspec

from app.files.dataset import MAX_LINE_BYTES, MAX_MESSAGES


class Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    messages: list[Message]


_DECODER = msgspec.json.Decoder(_Line)


def parse(line: bytes) -> list[Message] | None:
    """The messages of an ordinary line; None for any other."""
    # Only \\u can spell a key in two ways, or bring in a NUL or half a surrogate pair.
    if len(line) > MAX_LINE_BYTES or b"\\u" in line:
        return None
    try:
        messages = _DECODER.decode(line).messages
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # The decoder takes the last of two equal keys. A quoted name is a key, or a whole content: then it is not ordinary.
    count = len(messages)
    once = line.count(b'"messages"') == 1 and line.count(b'"role"') == line.count(b'"content"') == count
    trained = any(message.role == "assistant" for message in messages)
    return messages if once and trained and count <= MAX_MESSAGES else None
