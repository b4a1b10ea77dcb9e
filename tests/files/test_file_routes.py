"""Files over HTTP: uploads in one pass, lists, downloads, and nothing half-stored."""

import base64
import contextlib
import json
import queue
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

import httpx
import openai
import pytest
from live_server import Live

from app import db
from app.files import service as files
from app.files.incoming import Incoming
from app.http.protocol import Protocol
from app.storage import StoreUnavailable

LINE = b'{"prompt": "a", "completion": "b"}\n'
FORM = "multipart/form-data; boundary=b"


def upload(client: httpx.Client, data: bytes = LINE, *, purpose: str = "fine-tune", **rest: Any) -> httpx.Response:
    return client.post("/v1/files", data={"purpose": purpose}, files={"file": ("train.jsonl", data)}, **rest)


def objects(live: Live) -> list[str]:
    return [key for key in live.store.keys("projects/") if "/files/" in key]


@pytest.fixture
def nothing_new(live: Live) -> Iterator[None]:
    """No object and no row is left behind."""
    before = objects(live), live.http.get("/v1/files").json()["data"]
    yield
    assert (objects(live), live.http.get("/v1/files").json()["data"]) == before


def test_the_file_object_has_the_documented_shape(live: Live) -> None:
    body = upload(live.http).json()
    assert body == {
        "id": body["id"],
        "object": "file",
        "bytes": len(LINE),
        "created_at": body["created_at"],
        "expires_at": None,
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
    }
    assert isinstance(body["created_at"], int)
    assert body["id"].startswith("file-")
    assert live.http.get(f"/v1/files/{body['id']}").json() == body


def test_a_large_upload_comes_back_byte_for_byte(live: Live) -> None:
    data = b'{"text": "' + b"x" * 1000 + b'"}\n'
    data *= 20_000
    made = upload(live.http, data).json()
    assert made["bytes"] == len(data)
    assert live.http.get(f"/v1/files/{made['id']}/content").content == data


def form(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts)
    return body + b"--b--\r\n"


FILE = 'Content-Disposition: form-data; name="file"; filename="x.jsonl"'
PURPOSE = 'Content-Disposition: form-data; name="purpose"'

BAD_FORMS: dict[str, tuple[bytes, str | None]] = {
    "no purpose": (form((FILE, LINE)), "purpose"),
    "no file": (form((PURPOSE, b"fine-tune")), "file"),
    "no parts": (form(), "file"),
    "unknown purpose": (form((PURPOSE, b"fun"), (FILE, LINE)), "purpose"),
    "result purpose": (form((PURPOSE, b"fine-tune-results"), (FILE, LINE)), "purpose"),
    "two files": (form((PURPOSE, b"fine-tune"), (FILE, LINE), (FILE, LINE)), "file"),
    "unknown field": (form((PURPOSE, b"fine-tune"), ('Content-Disposition: form-data; name="x"', b"1")), "x"),
    "empty file": (form((PURPOSE, b"fine-tune"), (FILE, b"")), "file"),
    "no json": (form((PURPOSE, b"fine-tune"), (FILE, b"hello\n")), "file"),
    "an array": (form((PURPOSE, b"fine-tune"), (FILE, b"[1]\n")), "file"),
    "not utf-8": (form((PURPOSE, b"fine-tune"), (FILE, b'{"a": "\xff"}\n')), "file"),
    "bad line, purpose last": (form((FILE, b"hello\n"), (PURPOSE, b"fine-tune")), "file"),
    "gzip": (form((PURPOSE, b"fine-tune"), (FILE, b"\x1f\x8b\x08\x00\x00")), "file"),
    "garbage": (b"this is no form", None),
    "cut short": (form((PURPOSE, b"fine-tune"), (FILE, LINE))[:-5], None),
    "expiry too short": (
        form(
            ('Content-Disposition: form-data; name="expires_after[anchor]"', b"created_at"),
            ('Content-Disposition: form-data; name="expires_after[seconds]"', b"10"),
            (PURPOSE, b"fine-tune"),
            (FILE, LINE),
        ),
        "expires_after",
    ),
    "expiry without anchor": (
        form(
            ('Content-Disposition: form-data; name="expires_after[seconds]"', b"3600"),
            (PURPOSE, b"fine-tune"),
            (FILE, LINE),
        ),
        "expires_after",
    ),
}


@pytest.mark.usefixtures("nothing_new")
@pytest.mark.parametrize(("body", "param"), BAD_FORMS.values(), ids=BAD_FORMS.keys())
def test_bad_uploads_are_refused_and_leave_nothing(live: Live, body: bytes, param: str | None) -> None:
    reply = live.http.post("/v1/files", content=body, headers={"Content-Type": FORM})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


@pytest.mark.usefixtures("nothing_new")
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "text/plain", ""])
def test_other_content_types_are_refused(live: Live, kind: str) -> None:
    assert live.http.post("/v1/files", content=b"{}", headers={"Content-Type": kind}).status_code == 400


@pytest.mark.usefixtures("nothing_new")
@pytest.mark.parametrize("bad", [0, 40_000, 160_000], ids=["first", "middle", "last"])
def test_a_bad_line_in_any_batch_leaves_nothing(live: Live, bad: int) -> None:
    lines = [LINE] * 160_001
    lines[bad] = b"{oops\n"
    reply = upload(live.http, b"".join(lines))
    assert reply.status_code == 400
    assert f"Line {bad + 1} is not a JSON object" in reply.json()["error"]["message"]


@pytest.mark.usefixtures("nothing_new")
def test_a_store_that_fails_half_way_leaves_nothing(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def write(incoming: Incoming, data: bytes) -> None:
        written.append(len(data))
        if len(written) == 3:
            raise StoreUnavailable("the disk is full")
        real(incoming, data)

    real = Incoming.write
    monkeypatch.setattr(Incoming, "write", write)
    assert upload(live.http, LINE * 200_000).status_code == 503
    assert len(written) == 3


def test_a_part_after_the_file_is_as_good_as_before(live: Live) -> None:
    body = form((FILE, LINE), (PURPOSE, b"fine-tune"))
    assert live.http.post("/v1/files", content=body, headers={"Content-Type": FORM}).status_code == 200


def test_other_purposes_may_hold_anything(live: Live) -> None:
    assert upload(live.http, b"\x00\xff", purpose="user_data").status_code == 200


@pytest.mark.usefixtures("nothing_new")
def test_a_told_length_over_the_limit_is_refused_before_the_body(live: Live) -> None:
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.key}\r\n"
        f"Content-Type: {FORM}\r\nContent-Length: 99999999999\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", urlparse(live.url).port or 0), timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.usefixtures("nothing_new")
def test_a_client_that_vanishes_leaves_nothing(live: Live) -> None:
    body = form((PURPOSE, b"fine-tune"), (FILE, LINE * 200_000))
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.key}\r\n"
        f"Content-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", urlparse(live.url).port or 0)) as half:
        half.sendall(head.encode() + body[: len(body) // 2])
    # The next upload is answered after the broken one was taken care of on the same loop.
    made = upload(live.http).json()
    live.http.delete(f"/v1/files/{made['id']}")
    with contextlib.suppress(Exception):
        live.store.delete(f"projects/{live.caller.project_id}/files/{made['id']}")


def test_lists_page_in_both_orders(live: Live) -> None:
    made = [upload(live.http, purpose="vision").json()["id"] for _ in range(5)]

    def page(**query: Any) -> dict[str, Any]:
        return live.http.get("/v1/files", params={"purpose": "vision", **query}).json()

    whole = page()
    assert [file["id"] for file in whole["data"]] == made[::-1]
    assert set(whole) == {"object", "data", "first_id", "last_id", "has_more"}
    assert (whole["first_id"], whole["last_id"], whole["has_more"]) == (made[4], made[0], False)
    first = page(limit=2, order="asc")
    assert [file["id"] for file in first["data"]] == made[:2]
    assert first["has_more"]
    assert [file["id"] for file in page(limit=2, order="asc", after=made[1])["data"]] == made[2:4]
    empty = page(limit=0)
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"limit": "-1"}, 400),
        ({"limit": "10001"}, 400),
        ({"limit": "x"}, 400),
        ({"limit": "1e3"}, 400),
        ({"limit": ""}, 400),
        ({"order": "up"}, 400),
        ({"after": "file-nothing"}, 404),
        ({"after": "a\0b"}, 404),
        ({"purpose": "no\0ne"}, 200),
        ({"unknown": "x"}, 200),
    ],
)
def test_query_parameters(live: Live, query: dict[str, str], status: int) -> None:
    assert live.http.get("/v1/files", params=query).status_code == status


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("suffix", ["", "/content"])
def test_a_strangers_file_is_like_no_file(live: Live, method: str, suffix: str) -> None:
    if (method, suffix) == ("DELETE", "/content"):
        return
    made = upload(live.http).json()["id"]
    foreign = live.stranger.request(method, f"/v1/files/{made}{suffix}")
    random_id = live.stranger.request(method, f"/v1/files/file-{'x' * 24}{suffix}")
    assert foreign.status_code == random_id.status_code == 404
    assert foreign.text.replace(made, "ID") == random_id.text.replace(f"file-{'x' * 24}", "ID")
    assert foreign.json()["error"]["param"] == "id"
    assert live.http.get(f"/v1/files/{made}").status_code == 200


@pytest.mark.parametrize("file_id", ["%00", "file-%00", "%ff", "a%2Fb", "x" * 3000, "file-ü"])
def test_odd_ids_are_not_found(live: Live, file_id: str) -> None:
    assert live.http.get(f"/v1/files/{file_id}").status_code == 404


def test_a_deleted_file_is_gone_at_once(live: Live) -> None:
    made = upload(live.http).json()["id"]
    assert live.http.delete(f"/v1/files/{made}").json() == {"id": made, "object": "file", "deleted": True}
    assert live.http.get(f"/v1/files/{made}").status_code == 404
    assert live.http.delete(f"/v1/files/{made}").status_code == 404
    assert live.http.get(f"/v1/files/{made}/content").status_code == 404


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\t.jsonl", "t.jsonl"),
        ("tag\u202egnp.jsonl", "taggnp.jsonl"),
        ("ü" * 300, "ü" * 127),
    ],
)
def test_filenames_are_data(sent: str, kept: str) -> None:
    from app.files.service import clean_filename

    assert clean_filename(sent) == kept


def test_a_download_names_the_file_safely(live: Live) -> None:
    reply = live.http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ('a"b;ü\r\n.jsonl', LINE)})
    content = live.http.get(f"/v1/files/{reply.json()['id']}/content")
    assert content.headers["content-type"] == "application/octet-stream"
    assert "\r" not in content.headers["content-disposition"]
    assert content.headers["x-content-type-options"] == "nosniff"


def test_a_reply_that_nobody_reads(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up: queue.Queue[int] = queue.Queue()
    connection_lost = Protocol.connection_lost

    def noted(connection: Protocol, error: Exception | None) -> None:
        connection_lost(connection, error)
        given_up.put(connection.client[1] if connection.client else 0)

    monkeypatch.setattr(Protocol, "connection_lost", noted)
    size = 48 * 1024 * 1024
    path = f"/v1/files/{upload(live.http, b'x' * size, purpose='batch').json()['id']}/content"
    with monkeypatch.context() as impatient, socket.socket() as lazy:
        impatient.setattr("app.http.protocol.UNREAD_SECONDS", 0.2)
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(30)
        lazy.connect(("127.0.0.1", urlparse(live.url).port or 0))
        lazy.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.key}\r\n\r\n".encode())
        while given_up.get(timeout=30) != lazy.getsockname()[1]:
            pass
        with contextlib.suppress(ConnectionResetError):
            assert sum(len(piece) for piece in iter(lambda: lazy.recv(65536), b"")) < size
    assert len(live.http.get(path).content) == size


def test_what_may_not_be_downloaded_says_so(live: Live) -> None:
    made = upload(live.http, b"x", purpose="assistants").json()["id"]
    reply = live.http.get(f"/v1/files/{made}/content")
    assert reply.status_code == 400
    assert "assistants" in reply.json()["error"]["message"]


def test_results_are_plain_or_as_the_operator_wants_them_base64(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"step,train_loss\n1,0.5\n"
    key = f"projects/{live.caller.project_id}/jobs/ftjob-x/1/step_metrics.csv"
    with live.store.writing(key) as target:
        target.write(data)
    with db.transaction() as session:
        project_id = live.caller.project_id
        made = files.record_result(session, project_id=project_id, object_key=key, size=len(data), sha256="0" * 64)
    assert made.filename == "step_metrics.csv"
    path = f"/v1/files/{made.id}/content"
    plain = live.http.get(path)
    assert (plain.content, plain.headers["content-length"]) == (data, str(len(data)))
    monkeypatch.setattr(live.app.state.settings, "results_base64", True)
    encoded = live.http.get(path)
    assert base64.b64decode(encoded.content, validate=True) == data
    assert encoded.headers["content-length"] == str(len(encoded.content))
    mine = upload(live.http).json()["id"]
    assert live.http.get(f"/v1/files/{mine}/content").content == LINE


def test_base64_of_any_chunks_is_one_base64() -> None:
    from app.files.routes import _base64

    data = bytes(range(256)) * 3
    for size in (1, 2, 3, 100, 1000):
        chunks = [data[start : start + size] for start in range(0, len(data), size)]
        assert base64.b64decode(b"".join(_base64(chunks))) == data


def test_the_official_client_in_strict_mode(live: Live) -> None:
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key=live.key, _strict_response_validation=True, max_retries=0)
    made = client.files.create(
        file=LINE * 3, purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert made.filename == "upload"
    assert made.expires_at == made.created_at + 3600
    assert client.files.wait_for_processing(made.id, poll_interval=0.01).status == "processed"
    assert made.id in [file.id for file in client.files.list(limit=3)]
    assert client.files.content(made.id).read() == LINE * 3
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)
    client.close()


def test_json_is_what_it_says(live: Live) -> None:
    reply = live.http.get("/v1/files")
    assert reply.headers["content-type"] == "application/json"
    assert json.loads(reply.content)["object"] == "list"
