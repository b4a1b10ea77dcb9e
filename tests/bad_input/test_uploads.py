"""Group B: forms, file names, uploads in parts, and what is left of what is refused: nothing."""

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlparse

import httpx
import pytest
from live_server import Live

from app.config import Settings
from app.http import multipart
from app.uploads.schemas import MAX_UPLOAD_BYTES
from tests.bad_input.conftest import kept
from tests.bad_input.refusals import envelope, raw, refused

LINE = b'{"prompt": "a", "completion": "b"}\n'
FILE = 'Content-Disposition: form-data; name="file"; filename="x.jsonl"'
PURPOSE = ('Content-Disposition: form-data; name="purpose"', b"fine-tune")
MIB = 1024 * 1024


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + end


def field(name: str, value: bytes) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', value


def post(live: Live, body: bytes, kind: str = "multipart/form-data; boundary=b", path: str = "/v1/files") -> Any:
    return live.http.post(path, content=body, headers={"Content-Type": kind})


def named(filename: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n' % filename
    return form(PURPOSE, end=b"") + head + LINE + b"\r\n--b--\r\n"


def expiring(anchor: bytes, seconds: bytes) -> bytes:
    parts = field("expires_after[anchor]", anchor), field("expires_after[seconds]", seconds)
    return form(PURPOSE, *parts, (FILE, LINE))


GOOD = (PURPOSE, (FILE, LINE))

FORMS: dict[str, tuple[bytes, str | None, str | None]] = {
    "B01 no file": (form(PURPOSE), "missing_required_parameter", "file"),
    "B03 unknown purpose": (form(field("purpose", b"foo"), (FILE, LINE)), "invalid_value", "purpose"),
    "B07 file without a name": (form(PURPOSE, field("file", LINE)), "invalid_type", "file"),
    "B09 only an ending": (named(b".jsonl"), "invalid_filename", "file"),
    "B15 NUL in the name": (named(b"x.jsonl\0.png"), "invalid_filename", "file"),
    "B21 lone surrogate in filename*": (
        form(PURPOSE, ("Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''%ED%A0%80.jsonl", LINE)),
        "invalid_type",
        "file",
    ),
    "B29 gzip": (form(PURPOSE, (FILE, b"\x1f\x8b\x08\x00\x00\x00")), "invalid_file_format", "file"),
    "B31 tar": (form(PURPOSE, (FILE, b"../../etc/passwd".ljust(1024, b"\0"))), "invalid_file_format", "file"),
    "B33 only line feeds": (form(PURPOSE, (FILE, b"\n \n\n")), "invalid_file_format", "file"),
    "B43 no closing boundary": (form(*GOOD, end=b""), None, None),
    "B47 1,001 fields": (form(*[field(f"f{n}", b"x") for n in range(1001)]), "unknown_parameter", "f0"),
    "B49 a part's headers of 64 KiB": (form((FILE + "\r\nX: " + "y" * 65536, LINE)), None, None),
    "B51 two files": (form(PURPOSE, (FILE, LINE), (FILE, LINE)), "duplicate_parameter", "file"),
    "B53 a form in a form": (form((FILE + "\r\nContent-Type: multipart/mixed; boundary=c", LINE)), None, None),
    "B57 unknown field": (form(PURPOSE, field("user", b"x"), (FILE, LINE)), "unknown_parameter", "user"),
    "B59 3,599 s": (expiring(b"created_at", b"3599"), "invalid_value", "expires_after"),
    "B59 2,592,001 s": (expiring(b"created_at", b"2592001"), "invalid_value", "expires_after"),
    "B59 -1 s": (expiring(b"created_at", b"-1"), "invalid_value", "expires_after"),
    "B59 NaN s": (expiring(b"created_at", b"NaN"), "invalid_value", "expires_after"),
    "B59 1e9 s": (expiring(b"created_at", b"1e9"), "invalid_value", "expires_after"),
    "seconds with a space": (expiring(b"created_at", b" 3600"), "invalid_value", "expires_after"),
    "seconds of another script": (expiring(b"created_at", "３６００".encode()), "invalid_value", "expires_after"),
    "seconds without end": (expiring(b"created_at", b"9" * 5000), "invalid_value", "expires_after"),
    "3600.0 s": (expiring(b"created_at", b"3600.0"), "invalid_value", "expires_after"),
    "no seconds": (expiring(b"created_at", b""), "invalid_value", "expires_after"),
    "another anchor": (expiring(b"last_active_at", b"3600"), "invalid_value", "expires_after"),
    "anchor alone": (
        form(PURPOSE, field("expires_after[anchor]", b"created_at"), (FILE, LINE)),
        "invalid_value",
        "expires_after",
    ),
    "expiry as JSON": (
        form(PURPOSE, field("expires_after", b'{"anchor": "created_at"}'), (FILE, LINE)),
        "unknown_parameter",
        "expires_after",
    ),
    "no purpose": (form((FILE, LINE)), "missing_required_parameter", "purpose"),
    "purpose empty": (form(field("purpose", b""), (FILE, LINE)), "invalid_value", "purpose"),
    "purpose in capitals": (form(field("purpose", b"Fine-Tune"), (FILE, LINE)), "invalid_value", "purpose"),
    "purpose with a line feed": (form(field("purpose", b"fine-tune\n"), (FILE, LINE)), "invalid_value", "purpose"),
    "purpose with NUL": (form(field("purpose", b"fine-tune\0"), (FILE, LINE)), "invalid_value", "purpose"),
    "purpose of results": (form(field("purpose", b"fine-tune-results"), (FILE, LINE)), "invalid_value", "purpose"),
    "purpose no UTF-8": (form(field("purpose", b"\xff"), (FILE, LINE)), None, "purpose"),
    "purpose of 64 KiB": (form(field("purpose", b"x" * 65536), (FILE, LINE)), "invalid_value", "purpose"),
    "purpose of 65 KiB": (form(field("purpose", b"x" * 66560), (FILE, LINE)), None, "purpose"),
    "purpose twice": (form(PURPOSE, PURPOSE, (FILE, LINE)), "duplicate_parameter", "purpose"),
    "purpose as a file": (
        form(('Content-Disposition: form-data; name="purpose"; filename="p"', b"fun"), (FILE, LINE)),
        "invalid_value",
        "purpose",
    ),
    "a name with a key": (form(PURPOSE, field("file[0]", b""), (FILE, LINE)), "unknown_parameter", "file[0]"),
    "a name in capitals": (form(PURPOSE, field("FILE", b"")), "unknown_parameter", "FILE"),
    "a very long name": (form(field("x" * 3_000, b"")), "unknown_parameter", "x" * 64),
    "a name of controls": (form(field("\x1b[31m", b"")), "unknown_parameter", "any"),
    "an empty name": (form(field("", b"")), None, None),
    "no name": (form(("Content-Disposition: form-data", b"x")), None, None),
    "no disposition": (form(("Content-Type: text/plain", b"x")), None, None),
    "a part without headers": (b"--b\r\n\r\nx\r\n--b--\r\n", None, None),
    "an attachment": (form(('Content-Disposition: attachment; name="file"; filename="x"', LINE)), None, None),
    "base64": (form((FILE + "\r\nContent-Transfer-Encoding: base64", b"e30K")), None, None),
    "quoted-printable": (form((FILE + "\r\nContent-Transfer-Encoding: quoted-printable", LINE)), None, None),
    "a header of a part twice": (form((FILE + '\r\nContent-Disposition: form-data; name="purpose"', LINE)), None, None),
    "header of a part without a colon": (form(("nothing", b"x")), None, None),
    "a file name that is empty": (named(b""), "invalid_filename", "file"),
    "a file name of spaces": (named(b"   "), "invalid_filename", "file"),
    "a file name of dots": (named(b".."), "invalid_filename", "file"),
    "a file name of slashes": (named(b"../../"), "invalid_filename", "file"),
    "a file name of nothing that is seen": (named("\u200b\u2028\u00a0".encode()), "invalid_filename", "file"),
    "a file name of directions": (named("\u202e\u200f".encode()), "invalid_filename", "file"),
    "a file name no UTF-8": (named(b"\xff.jsonl"), "invalid_filename", "file"),
    "a surrogate in the file name": (named(b"\xed\xa0\x80.jsonl"), "invalid_filename", "file"),
    "an empty file": (form(PURPOSE, (FILE, b"")), "invalid_file_format", "file"),
    "zip": (form(PURPOSE, (FILE, b"PK\x03\x04" + b"\0" * 30)), "invalid_file_format", "file"),
    "a bad last line": (form(PURPOSE, (FILE, LINE * 50 + b"x")), "invalid_file_format", "file"),
    "no parts": (b"--b--\r\n", "missing_required_parameter", "file"),
    "empty": (b"", None, None),
    "another boundary": (form(*GOOD).replace(b"--b", b"--c"), None, None),
    "cut in the file": (form(*GOOD)[:-20], None, None),
    "cut in a header": (form(*GOOD)[:150], None, None),
    "json": (b'{"purpose": "fine-tune"}', None, None),
    "line feeds alone": (form(*GOOD).replace(b"\r\n", b"\n"), None, None),
}


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize(("body", "code", "param"), FORMS.values(), ids=FORMS.keys())
def test_bad_forms(live: Live, body: bytes, code: str | None, param: str | None) -> None:
    refused(post(live, body), code=code, param=param)


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        pytest.param("application/x-www-form-urlencoded", "invalid_content_type", id="B55"),
        pytest.param("multipart/form-data; boundary=" + "b" * 300, None, id="B41 long"),
        pytest.param('multipart/form-data; boundary="b b"', None, id="B41 space"),
        pytest.param("multipart/form-data", None, id="no boundary"),
        pytest.param("multipart/form-data; boundary=", None, id="empty boundary"),
        pytest.param("multipart/form-data; boundary=\xfc", None, id="boundary no ASCII"),
        pytest.param("multipart/mixed; boundary=b", "invalid_content_type", id="mixed"),
        pytest.param("application/json", "invalid_content_type", id="json"),
        pytest.param("", "invalid_content_type", id="empty"),
        pytest.param("multipart/form-data; " + 'a="\\";' * 5000 + "boundary=b b", None, id="many parameters"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/files", "/v1/uploads/{}/parts"])
def test_bad_content_types(live: Live, pending: str, path: str, kind: str, code: str | None) -> None:
    headers = [(b"Content-Type", kind.encode("latin-1"))]
    refused(live.http.post(path.format(pending), content=form(*GOOD), headers=headers), code=code)


@pytest.mark.usefixtures("nothing_kept")
def test_b05_purpose_in_the_query(live: Live) -> None:
    body = form((FILE, LINE))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    reply = live.http.post("/v1/files?purpose=fine-tune", content=body, headers=headers)
    refused(reply, code="missing_required_parameter", param="purpose")


NAMES: dict[str, tuple[bytes, str]] = {
    "B11 a path": (b"../../etc/passwd", "passwd"),
    "B13 an absolute path": (b"/abs/x.jsonl", "x.jsonl"),
    "B17 quotes and semicolons": (b'a\\"b;c.jsonl', 'a"b;c.jsonl'),
    "B19 255 bytes of emoji": ("😀".encode() * 70, "😀" * 63),
    "B23 markup": (b"<img src=x onerror=1>.jsonl", "<img src=x onerror=1>.jsonl"),
    "B25 a device": (b"CON.jsonl. ", "CON.jsonl."),
    "B27 capitals": (b"x.JSONL", "x.JSONL"),
    "a Windows path": (b"C:\\\\data\\\\x.jsonl", "x.jsonl"),
    "a hidden file": (b".x.jsonl", ".x.jsonl"),
    "no ending": (b"upload", "upload"),
    "directions": ("x\u202elnosj.exe".encode(), "xlnosj.exe"),
    "separators of lines": ("a\u2028b\u2029c.jsonl".encode(), "abc.jsonl"),
    "a mark of byte order": ("\ufeffx.jsonl".encode(), "x.jsonl"),
    "decomposed": ("u\u0308.jsonl".encode(), "ü.jsonl"),
    "percent": (b"a%00%2f..%2fb.jsonl", "a%00%2f..%2fb.jsonl"),
    "a formula": (b"=cmd()|x.jsonl", "=cmd()|x.jsonl"),
    "a template": (b"{{7*7}}${x}.jsonl", "{{7*7}}${x}.jsonl"),
    "sql": (b"'; DROP TABLE files;--", "'; DROP TABLE files;--"),
}


@pytest.mark.parametrize(("sent", "stored"), NAMES.values(), ids=NAMES.keys())
def test_names_are_data(live: Live, sent: bytes, stored: str) -> None:
    made = post(live, named(sent))
    assert made.status_code == 200, made.text
    assert made.json()["filename"] == stored
    disposition = live.http.get(f"/v1/files/{made.json()['id']}/content").headers["content-disposition"]
    plain, encoded = disposition.removeprefix('attachment; filename="').split("\"; filename*=UTF-8''")
    assert '"' not in plain
    assert "\\" not in plain
    assert plain.isascii()
    assert encoded == quote(stored, safe="")


@pytest.mark.usefixtures("nothing_kept")
def test_b37_more_than_the_length(live: Live) -> None:
    body = form(PURPOSE, (FILE, LINE * 100))
    head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nContent-Length: 100\r\n"
    status, _, said = raw(live, head + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body)
    assert status == 400
    envelope(said.partition(b"HTTP/1.1")[0])


@contextmanager
def begun(live: Live, body: bytes, told: int, path: str = "/v1/files") -> Iterator[socket.socket]:
    """A request whose body has been sent in part."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {told}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", urlparse(live.url).port or 0), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        yield connection


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/uploads/{}/parts"])
def test_b39_clients_that_stop_half_way(live: Live, pending: str, path: str) -> None:
    before = kept(live)
    name = "file" if path == "/v1/files" else "data"
    head = f'Content-Disposition: form-data; name="{name}"; filename="x"'
    body = form((head, LINE * 100_000))
    with begun(live, body[: len(body) // 2], len(body), path.format(pending)):
        until(lambda: kept(live)["objects"] != before["objects"])  # it has begun to be written
    until(lambda: kept(live) == before)


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("told", [True, False])
def test_b35_a_byte_over_the_limit(live: Live, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    assert Settings.model_fields["max_file_bytes"].default == 512 * MIB
    monkeypatch.setattr(live.app.state.settings, "max_file_bytes", 3 * MIB)
    body = form(PURPOSE, (FILE, LINE * (3 * MIB // len(LINE)) + b" " * (3 * MIB % len(LINE)) + b" "))
    content = body if told else iter([body])
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    refused(live.http.post("/v1/files", content=content, headers=headers), 413, param="file")


def test_b35_exactly_the_limit(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.app.state.settings, "max_file_bytes", 3 * MIB)
    data = LINE * (3 * MIB // len(LINE)) + b" " * (3 * MIB % len(LINE))
    assert post(live, form(PURPOSE, (FILE, data))).json()["bytes"] == 3 * MIB


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("where", ["B45 epilogue", "preamble", "between"])
def test_bytes_around_the_parts_are_bounded(live: Live, where: str) -> None:
    junk = b"x" * (multipart.MAX_FORM_BYTES + 1)
    body = {
        "B45 epilogue": form(*GOOD) + junk,
        "preamble": junk + b"\r\n" + form(*GOOD),
        "between": form(*[field("purpose", b"x" * 60_000)], *GOOD).replace(b"--b--", junk),
    }[where]
    reply = post(live, body)
    assert reply.status_code in {400, 413}
    refused(reply, reply.status_code)


@pytest.mark.usefixtures("nothing_kept")
def test_b61_no_room(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.app.state.settings, "quota_storage_bytes", 10)
    reply = post(live, form(*GOOD))
    assert reply.status_code == 429
    assert reply.json()["error"]["code"] == "insufficient_quota"
    assert reply.headers["x-should-retry"] == "false"


@pytest.mark.usefixtures("nothing_kept")
def test_b63_a_full_disk(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("app.storage.os.fsync", full)
        reply = post(live, form(*GOOD))
    assert reply.status_code == 503
    assert reply.json()["error"]["type"] == "service_unavailable_error"
    assert reply.headers["retry-after"]


GOOD_UPLOAD = {"bytes": 10, "filename": "x.jsonl", "mime_type": "application/jsonl", "purpose": "fine-tune"}
UPLOADS: dict[str, tuple[Any, str, str]] = {
    "B65 0 bytes": ({"bytes": 0}, "integer_below_min_value", "bytes"),
    "B65 -1 bytes": ({"bytes": -1}, "integer_below_min_value", "bytes"),
    "B65 8 GiB + 1": ({"bytes": MAX_UPLOAD_BYTES + 1}, "integer_above_max_value", "bytes"),
    "B65 2^63 - 1 bytes": ({"bytes": 2**63 - 1}, "integer_above_max_value", "bytes"),
    "B65 1.5 bytes": ({"bytes": 1.5}, "invalid_type", "bytes"),
    "B65 bytes in a string": ({"bytes": "10"}, "invalid_type", "bytes"),
    "10.0 bytes": ({"bytes": 10.0}, "invalid_type", "bytes"),
    "true bytes": ({"bytes": True}, "invalid_type", "bytes"),
    "null bytes": ({"bytes": None}, "invalid_type", "bytes"),
    "file name empty": ({"filename": ""}, "string_below_min_length", "filename"),
    "file name of a path": ({"filename": "a/"}, "invalid_filename", "filename"),
    "only an ending": ({"filename": ".jsonl"}, "invalid_filename", "filename"),
    "file name of 256": ({"filename": "x" * 256}, "string_above_max_length", "filename"),
    "file name list": ({"filename": ["x"]}, "invalid_type", "filename"),
    "mime type number": ({"mime_type": 1}, "invalid_type", "mime_type"),
    "mime type empty": ({"mime_type": ""}, "string_below_min_length", "mime_type"),
    "purpose of results": ({"purpose": "fine-tune-results"}, "invalid_value", "purpose"),
    "purpose null": ({"purpose": None}, "invalid_type", "purpose"),
    "expiry text": ({"expires_after": "1h"}, "invalid_type", "expires_after"),
    "expiry empty": ({"expires_after": {}}, "missing_required_parameter", "expires_after.anchor"),
    "expiry of a minute": (
        {"expires_after": {"anchor": "created_at", "seconds": 60}},
        "integer_below_min_value",
        "expires_after.seconds",
    ),
    "expiry with more": (
        {"expires_after": {"anchor": "created_at", "seconds": 3600, "x": 1}},
        "unknown_parameter",
        "expires_after.x",
    ),
    "an id": ({"id": "upload_mine"}, "unknown_parameter", "id"),
    "a status": ({"status": "completed"}, "unknown_parameter", "status"),
    "a project": ({"project_id": "proj_x"}, "unknown_parameter", "project_id"),
    "an object key": ({"object_key": "/etc/passwd"}, "unknown_parameter", "object_key"),
}


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize(("changes", "code", "param"), UPLOADS.values(), ids=UPLOADS.keys())
def test_bad_uploads(live: Live, changes: dict[str, Any], code: str, param: str) -> None:
    refused(live.http.post("/v1/uploads", json=GOOD_UPLOAD | changes), code=code, param=param)


@pytest.fixture(scope="module")
def pending(live: Live) -> str:
    """An upload that no test ends, with two parts that no test adds to."""
    return live.http.post("/v1/uploads", json=GOOD_UPLOAD | {"bytes": 2 * len(LINE)}).json()["id"]


@pytest.fixture(scope="module")
def parts(live: Live, pending: str) -> list[str]:
    url = f"/v1/uploads/{pending}/parts"
    return [live.http.post(url, files={"data": ("x", LINE)}).json()["id"] for _ in range(2)]


def part_form(data: bytes, head: str = 'Content-Disposition: form-data; name="data"; filename="x"') -> bytes:
    return form((head, data))


PARTS: dict[str, tuple[bytes, str | None, str | None]] = {
    "no part": (b"--b--\r\n", "missing_required_parameter", "data"),
    "empty part": (part_form(b""), "invalid_value", "data"),
    "a file": (form((FILE, LINE)), "unknown_parameter", "file"),
    "two": (
        part_form(b"x").replace(b"--b--", part_form(b"y")),
        "duplicate_parameter",
        "data",
    ),
    "a part without a name": (part_form(b"x", 'Content-Disposition: form-data; name="data"'), "invalid_type", "data"),
    "a number besides": (form(field("part_number", b"1")), "unknown_parameter", "part_number"),
    "cut": (part_form(b"x")[:-8], None, None),
}


@pytest.mark.parametrize(("body", "code", "param"), PARTS.values(), ids=PARTS.keys())
def test_bad_parts(live: Live, pending: str, body: bytes, code: str | None, param: str | None) -> None:
    before = kept(live)
    refused(post(live, body, path=f"/v1/uploads/{pending}/parts"), code=code, param=param)
    assert kept(live) == before


def test_b67_a_part_over_the_limit(live: Live, pending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.model_fields["max_part_bytes"].default == 64 * MIB
    before = kept(live)
    monkeypatch.setattr(live.app.state.settings, "max_part_bytes", 2 * MIB)
    refused(post(live, part_form(b"x" * (2 * MIB + 1)), path=f"/v1/uploads/{pending}/parts"), 413, param="data")
    assert kept(live) == before


def test_b69_b77_an_upload_that_is_over(live: Live) -> None:
    made = live.http.post("/v1/uploads", json=GOOD_UPLOAD | {"bytes": len(LINE)}).json()["id"]
    url = f"/v1/uploads/{made}"
    part = live.http.post(f"{url}/parts", files={"data": ("x", LINE)}).json()["id"]
    assert live.http.post(f"{url}/complete", json={"part_ids": [part]}).status_code == 200
    refused(post(live, part_form(LINE), path=f"{url}/parts"), code="upload_not_pending")
    refused(live.http.post(f"{url}/complete", json={"part_ids": [part]}), code="upload_not_pending")
    refused(live.http.post(f"{url}/cancel"), code="upload_not_pending")


ENDS: dict[str, tuple[Any, str, str]] = {
    "B71 unknown part": (["part_nobody"], "invalid_part", "part_ids.[0]"),
    "B73 a part twice": ([0, 0], "duplicate_part", "part_ids.[1]"),
    "too few": ([0], "size_mismatch", "part_ids"),
    "none": ([], "array_below_min_length", "part_ids"),
    "null": (None, "invalid_type", "part_ids"),
    "one as text": ("part_x", "invalid_type", "part_ids"),
    "a number": ([1.5], "invalid_type", "part_ids.[0]"),
    "an empty id": ([""], "string_below_min_length", "part_ids.[0]"),
    "an odd id": (["part_\u00e9\n"], "invalid_part", "part_ids.[0]"),
    "10,001": (["part_x"] * 10_001, "array_above_max_length", "part_ids"),
}


@pytest.mark.parametrize(("ids", "code", "param"), ENDS.values(), ids=ENDS.keys())
def test_bad_ends(live: Live, pending: str, parts: list[str], ids: Any, code: str, param: str) -> None:
    before = kept(live)
    named_parts = [parts[n] if isinstance(n, int) else n for n in ids] if isinstance(ids, list) else ids
    reply = live.http.post(f"/v1/uploads/{pending}/complete", json={"part_ids": named_parts})
    refused(reply, code=code, param=param)
    assert kept(live) == before


MD5 = hashlib.md5(LINE * 2).hexdigest()


@pytest.mark.parametrize(
    ("md5", "code"),
    [
        pytest.param("0" * 32, "checksum_mismatch", id="B75 another one"),
        pytest.param(MD5[:-1], "invalid_value", id="short"),
        pytest.param(MD5 + "\n", "invalid_value", id="line feed"),
        pytest.param("g" * 32, "invalid_value", id="letters"),
        pytest.param("", "invalid_value", id="empty"),
        pytest.param(1, "invalid_type", id="number"),
        pytest.param(hashlib.sha256(LINE * 2).hexdigest(), "invalid_value", id="sha256"),
    ],
)
def test_bad_checksums_leave_the_upload_pending(
    live: Live, pending: str, parts: list[str], md5: Any, code: str
) -> None:
    before = kept(live)
    reply = live.http.post(f"/v1/uploads/{pending}/complete", json={"part_ids": parts, "md5": md5})
    refused(reply, code=code, param="md5")
    assert kept(live) == before


@pytest.mark.parametrize("action", ["parts", "complete", "cancel"])
@pytest.mark.parametrize("which", ["B79 another tenant's", "unknown", "NUL", "dots", "no ASCII", "long"])
def test_uploads_that_are_not_there(live: Live, pending: str, action: str, which: str) -> None:
    upload_id = {
        "B79 another tenant's": pending,
        "unknown": "upload_nobody",
        "NUL": "%00",
        "dots": "%2e%2e",
        "no ASCII": "upload_é",
        "long": "upload_" + "x" * 3000,
    }[which]
    body: dict[str, Any] = {
        "parts": {"files": {"data": ("x", LINE)}},
        "complete": {"json": {"part_ids": ["part_x"]}},
        "cancel": {},
    }[action]
    before = kept(live)
    reply = live.stranger.post(f"/v1/uploads/{upload_id}/{action}", **body)
    refused(reply, 404)
    assert kept(live) == before


RANGES = [
    "bytes=0-0",
    "bytes=5-1",
    "bytes=-",
    "bytes=99999999999999999999-",
    "lines=1-2",
    "bytes=" + ",".join(f"{n}-{n}" for n in range(5_000)),
]


@pytest.mark.parametrize("asked", RANGES, ids=["one", "reverse", "none", "beyond", "lines", "B81 thousands"])
def test_ranges_of_a_download_are_ignored(live: Live, asked: str) -> None:
    made = post(live, form(*GOOD)).json()["id"]
    headers = {"Range": asked, "If-Range": '"x"'}
    reply = live.http.get(f"/v1/files/{made}/content", headers=headers)
    assert (reply.status_code, reply.content) == (200, LINE)
    assert "content-range" not in reply.headers


def test_files_of_json_are_no_forms(live: Live) -> None:
    reply = httpx.post(
        f"{live.url}/v1/files", content=json.dumps({}), headers={"Authorization": f"Bearer {live.key}"}, timeout=30
    )
    refused(reply, code="invalid_content_type")
