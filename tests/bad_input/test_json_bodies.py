"""Groups A and D: JSON that is none, or more than JSON, at every route that takes a body."""

import json
import re
from typing import Any

import httpx
import pytest
from live_server import Live

from app.main import create_app
from tests.bad_input.refusals import refused

pytestmark = pytest.mark.usefixtures("nothing_kept")

DOCUMENT: dict[str, Any] = create_app().openapi()
ROUTES_BODIES: dict[str, Any] = {
    f"POST {path}": methods["post"]["requestBody"]
    for path, methods in DOCUMENT["paths"].items()
    if "application/json" in methods.get("post", {}).get("requestBody", {}).get("content", {})
}
ROUTES = {name: re.sub(r"\{[^}]*\}", "x", name.removeprefix("POST ")) for name in ROUTES_BODIES}
ODD_VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 2**63 - 1, "", "x", "x" * 70_000, [], [[]], {}, {"a": {"b": []}}, [None]),
]

BODIES: dict[str, bytes] = {
    "spaces": b"  \r\n\t ",
    "truncated": b'{"model": "tiny',
    "closed too early": b'{"a": 1}}',
    "two values": b"{} {}",
    "lines": b"{}\n{}\n",
    "array": b"[{}]",
    "string": b'"{}"',
    "number": b"1",
    "true": b"true",
    "null": b"null",
    "text": b"hello",
    "html": b"<html></html>",
    "form": b"model=x&training_file=y",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b'{"a": [-Infinity]}',
    "1e999": b'{"a": 1e999}',
    "-1e999": b'{"a": {"b": -1e999}}',
    "2^63": b'{"a": 9223372036854775808}',
    "-2^63-1": b'{"a": -9223372036854775809}',
    "400 digits": b'{"a": ' + b"9" * 400 + b"}",
    "5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "5000 digits after the point": b'{"a": NaN, "b": 0.' + b"9" * 5000 + b"}",
    "lone high surrogate": b'{"a": "\\ud800"}',
    "lone low surrogate": b'{"a": "\\udc00"}',
    "surrogates in reverse": b'{"a": "\\udc00\\ud800"}',
    "surrogate in a key": b'{"\\ud800": 1}',
    "surrogate deep inside": b'{"a": [{"b": ["\\uDFFF"]}]}',
    "NUL": b'{"a": "\\u0000"}',
    "NUL in a key": b'{"a\\u0000b": 1}',
    "raw NUL": b'{"a": "\0"}',
    "raw control": b'{"a": "\x01"}',
    "raw line feed in a string": b'{"a": "\n"}',
    "key twice": b'{"a": 1, "a": 1}',
    "key twice inside": b'{"a": {"b": [{"c": 1, "c": 2}]}}',
    "key twice, spelled otherwise": b'{"a": 1, "\\u0061": 1}',
    "65 deep": b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}",
    "100,000 arrays": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100,000 opened": b"[" * 100_000,
    "byte-order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "utf-16 without a mark": '{"a": 1}'.encode("utf-16-le"),
    "utf-32": '{"a": 1}'.encode("utf-32"),
    "latin-1": '{"a": "é"}'.encode("latin-1"),
    "overlong": b'{"a": "\xc0\xaf"}',
    "half a character": b'{"a": "\xe2\x82"}',
    "surrogates in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "beyond Unicode": b'{"a": "\xf5\x80\x80\x80"}',
    "trailing comma": b'{"a": 1,}',
    "leading comma": b'{, "a": 1}',
    "comment": b'{"a": 1 /* one */}',
    "single quotes": b"{'a': 1}",
    "key without quotes": b"{a: 1}",
    "True": b'{"a": True}',
    "None": b'{"a": None}',
    "undefined": b'{"a": undefined}',
    "hexadecimal": b'{"a": 0x10}',
    "leading zero": b'{"a": 01}',
    "plus": b'{"a": +1}',
    "point first": b'{"a": .5}',
    "point last": b'{"a": 1.}',
    "exponent without digits": b'{"a": 1e}',
    "bad escape": b'{"a": "\\x41"}',
    "short escape": b'{"a": "\\u12"}',
    "form feed": b'{"a":\x0c1}',
    "no-break space": b'{"a":\xc2\xa01}',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
    "yaml": b"model: !!python/object:os.system []",
    "unknown field": b'{"surprise": 1}',
    "unknown field that is long": json.dumps({"x" * 100_000: 1}).encode(),
    "unknown field that is odd": json.dumps({"\n\u202e\u0007": 1}).encode(),
    "prototype": b'{"__proto__": {"admin": true}}',
    "class": b'{"__class__": "x"}',
    "empty key": b'{"": 1}',
    "10,000 fields": json.dumps({str(n): n for n in range(10_000)}).encode(),
}


def client_for(route: str, live: Live, admin: httpx.Client) -> httpx.Client:
    return admin if "/organization/" in route else live.http


OBJECTS = [
    *("unknown field", "unknown field that is long", "unknown field that is odd", "prototype", "class", "empty key"),
    "10,000 fields",
]


@pytest.mark.parametrize("row", BODIES)
def test_bodies_at_every_route(live: Live, admin: httpx.Client, row: str) -> None:
    body = BODIES[row]
    code = "any" if row in OBJECTS else "duplicate_key" if row.startswith("key twice") else "invalid_json"
    assert len(ROUTES) >= 15
    for name, path in ROUTES.items():
        client = client_for(name, live, admin)
        reply = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400, (name, reply.text)
        refused(reply, code=code)


@pytest.mark.parametrize("name", [name for name, body in ROUTES_BODIES.items() if body["required"]])
def test_no_body_at_all(live: Live, admin: httpx.Client, name: str) -> None:
    headers = {"Content-Type": "application/json"}
    refused(client_for(name, live, admin).post(ROUTES[name], headers=headers))


@pytest.mark.parametrize("name", ROUTES)
def test_every_field_of_every_wrong_type(live: Live, admin: httpx.Client, name: str) -> None:
    """Each field alone, as everything that it is not, never ends in more than a refusal."""
    schema = ROUTES_BODIES[name]["content"]["application/json"]["schema"]
    fields = DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]["properties"]
    for field in fields:
        for value in ODD_VALUES:
            if field == "name" and value == "x":
                continue  # all that a project or a key needs
            reply = client_for(name, live, admin).post(ROUTES[name], json={field: value})
            assert reply.status_code in {400, 404}, (field, value, reply.text)
            refused(reply, reply.status_code)
