"""One strict door for JSON: bodies, JSONL lines, metadata.

Refused, beside what JSON itself refuses: bytes that are not UTF-8, a byte-order mark, NaN and infinities, duplicate
keys, lone surrogates, NUL characters, nesting deeper than 64, integers beyond 64 bits.
"""

import json
import re
from typing import Any, NoReturn

MAX_DEPTH = 64
INT64 = range(-(2**63), 2**63)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
# A surrogate can only arrive as an escape, a NUL only as an escape: without one, no string has to be looked at.
_RISKY_ESCAPE = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")
_UNWANTED = re.compile("[\ud800-\udfff\0]")


class StrictJsonError(ValueError):
    """The bytes are not acceptable JSON; the message says why."""


class RepeatedKey(StrictJsonError):
    """An object has a key twice."""


def parse(data: bytes) -> Any:
    """The value that `data` holds. Raises StrictJsonError and nothing else."""
    if data.startswith(b"\xef\xbb\xbf"):
        raise StrictJsonError("starts with a byte-order mark")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"is not UTF-8 (byte {error.start + 1})") from None
    _check_depth(data)
    try:
        value = _DECODER.decode(text)
    except StrictJsonError:
        raise
    except ValueError as error:
        raise StrictJsonError(f"is not valid JSON: {error}") from None
    if _RISKY_ESCAPE.search(data):
        _check_strings(value)
    return value


def _check_depth(data: bytes) -> None:
    """A linear scan outside strings; most documents have too few brackets to need it."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKET.finditer(_STRING.sub(b"", data)):
        depth += 1 if match[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            raise StrictJsonError(f"is nested deeper than {MAX_DEPTH} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RepeatedKey(f"has the key {repeated[:64]!r} twice")
    return members


def _integer(text: str) -> int:
    if len(text) > 20 or int(text) not in INT64:
        raise StrictJsonError("holds an integer beyond 64 bits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise StrictJsonError("holds a number that is too large")
    return number


def _no_constant(text: str) -> NoReturn:
    raise StrictJsonError(f"holds {text}, which is not JSON")


def _check_strings(value: Any) -> None:
    if isinstance(value, str):
        if _UNWANTED.search(value):
            raise StrictJsonError("holds a lone surrogate or a NUL character")
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_strings(key)
            _check_strings(item)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
)
