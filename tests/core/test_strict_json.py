"""The strict JSON door: what it lets in is what JSON means, what it refuses it refuses with its own error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import strict_json
from app.strict_json import StrictJsonError

REFUSED = {
    "nan": b'{"a": NaN}',
    "infinity": b"[Infinity]",
    "minus infinity": b"[-Infinity]",
    "overflow": b"[1e999]",
    "duplicate key": b'{"a": 1, "a": 2}',
    "duplicate key deep down": b'[{"b": {"a": 1, "a": 1}}]',
    "big integer": b"[9223372036854775808]",
    "small integer": b"[-9223372036854775809]",
    "5000 digits": b"[" + b"9" * 5000 + b"]",
    "lone surrogate": b'["\\ud800"]',
    "lone surrogate in a key": b'{"\\udfff": 1}',
    "nul": b'["\\u0000"]',
    "raw control byte": b'["\x01"]',
    "65 levels": b"[" * 65 + b"]" * 65,
    "100000 levels": b"[" * 100_000,
    "100000 objects": b'{"a":' * 100_000,
    "byte-order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "invalid utf-8": b'["\xff"]',
    "overlong utf-8": b'["\xc0\xaf"]',
    "empty": b"",
    "two values": b"{} {}",
    "trailing comma": b"[1,]",
    "single quotes": b"{'a': 1}",
    "comment": b"[1] // one",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes) -> None:
    with pytest.raises(StrictJsonError):
        strict_json.parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": [1, 2.5, null, true, "x"]}',
        b"[" * 64 + b"]" * 64,
        b"[9223372036854775807, -9223372036854775808]",
        b'["[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["]',
        '["\\ud83d\\ude00", "ü"]'.encode(),
        b'["\\\\u0000"]',
    ],
)
def test_let_in(data: bytes) -> None:
    assert strict_json.parse(data) == json.loads(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_the_doors_own_error(data: bytes) -> None:
    try:
        value = strict_json.parse(data)
    except StrictJsonError:
        return
    assert value == json.loads(data)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
        max_leaves=20,
    )
)
def test_what_json_writes_comes_back(value: object) -> None:
    assert strict_json.parse(json.dumps(value).encode()) == value
