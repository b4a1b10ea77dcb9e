"""Group A: bytes that are no HTTP, headers, keys, content types, bodies that are late or too large."""

import asyncio
import contextlib
import socket
import time
from urllib.parse import urlparse

import httpx
import pytest
from live_server import Live

from tests.bad_input.refusals import envelope, raw, refused

JOBS = "/v1/fine_tuning/jobs"
AUTH = b"Host: x\r\nAuthorization: Bearer KEY\r\nConnection: close\r\n"
POST = b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nContent-Type: application/json\r\n" + AUTH
WITHOUT_KEY = (
    b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
LONG_HEADERS = b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(70))

pytestmark = pytest.mark.usefixtures("nothing_kept")


def get(path: bytes = b"/v1/models", headers: bytes = b"", method: bytes = b"GET") -> bytes:
    return method + b" " + path + b" HTTP/1.1\r\n" + AUTH + headers + b"\r\n"


RAW = {
    "no host": (b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer KEY\r\n\r\n", 400),
    "two hosts": (get(headers=b"Host: y\r\n"), 400),
    "no slash": (get(b"@google.com"), 400),
    "no version": (b"GET /v1/models\r\n\r\n", 400),
    "version 9.9": (b"GET /v1/models HTTP/9.9\r\n" + AUTH + b"\r\n", 400),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "connect": (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a method that is none": (get(method=b"BREW"), 400),
    "a method in lower case": (get(method=b"get"), 400),
    "trace": (get(method=b"TRACE"), 405),
    "options": (get(method=b"OPTIONS"), 405),
    "options of everything": (get(b"*", method=b"OPTIONS"), 404),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", 400),
    "two equal lengths": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
    "length and chunks": (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n{}", 400),
    "a signed length": (POST + b"Content-Length: +2\r\n\r\n{}", 400),
    "a hexadecimal length": (POST + b"Content-Length: 0x2\r\n\r\n{}", 400),
    "a length beyond 64 bits": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}", 400),
    "a length that is too large": (POST + b"Content-Length: 99999999999\r\n\r\n{}", 413),
    "more than the length": (POST + b"Content-Length: 2\r\n\r\n{}GARBAGE", 400),
    "a coding that is unknown": (POST + b"Transfer-Encoding: gzip\r\n\r\n{}", 400),
    "a coding before chunks": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
    "a coding after chunks": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "a chunk of no size": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk of a negative size": (POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk beyond 64 bits": (POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n", 400),
    "a space in a header's name": (get(headers=b"Bad Header: x\r\n"), 400),
    "a header without a name": (get(headers=b": x\r\n"), 400),
    "a header without a colon": (get(headers=b"nothing\r\n"), 400),
    "a folded header": (get(headers=b"X: a\r\n b\r\n"), 400),
    "NUL in a header": (get(headers=b"X: a\0b\r\n"), 400),
    "bare line feeds": (b"GET /v1/models HTTP/1.1\nHost: x\nAuthorization: Bearer KEY\n\n", 400),
    "many headers": (get(headers=b"".join(b"X-%d: y\r\n" % n for n in range(10_000))), 431),
    "long headers": (get(headers=LONG_HEADERS), 431),
    "one long header": (get(headers=b"X: " + b"y" * 1_000_000 + b"\r\n"), 431),
    "a long path": (get(b"/v1/files/" + b"x" * 70_000), 414),
    "a long query": (get(b"/v1/files?after=" + b"x" * 70_000), 414),
    "bytes in the path": (get(b"/v1/files/\xff\xfe"), 400),
    "UTF-8 in the path": (get("/v1/files/é".encode()), 400),
    "bytes in the query": (get(b"/v1/files?after=\xff"), 400),
    "a space in the path": (get(b"/v1/files/a b"), 400),
    "double slashes": (get(b"//v1//files"), 404),
    "a path with dots": (get(b"/v1/files/../models"), 404),
    "a path with encoded dots": (get(b"/v1/files/%2e%2e/models"), 404),
    "a bad percent escape": (get(b"/v1/files/%zz"), 404),
    "a key after the body": (WITHOUT_KEY + b"2\r\n{}\r\n0\r\nAuthorization: Bearer KEY\r\n\r\n", 401),
    "long headers after the body": (WITHOUT_KEY + b"2\r\n{}\r\n0\r\n" + LONG_HEADERS, 431),
    "expectation of something too large": (
        b"POST /v1/files HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        + AUTH
        + b"Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n",
        413,
    ),
}


@pytest.mark.parametrize(("request_", "status"), RAW.values(), ids=RAW.keys())
def test_bytes_that_are_no_good_request(live: Live, request_: bytes, status: int) -> None:
    found, head, body = raw(live, request_)
    assert found == status, body
    assert b"100 Continue" not in head
    assert b"content-type: application/json" in head.lower()
    assert b"x-request-id: req_" in head.lower()
    envelope(body)


HARMLESS = {
    "http/1.0 without host": b"GET /v1/models HTTP/1.0\r\nAuthorization: Bearer KEY\r\n\r\n",
    "an absolute url": get(b"http://x/v1/models"),
    "an upgrade to websocket": get(headers=b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    "an upgrade to http/2": get(headers=b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"),
    "a get with a body": get(headers=b"Content-Length: 5\r\n") + b"hello",
    "accepts xml": get(headers=b"Accept: application/xml\r\n"),
    "an encoded letter": get(b"/v1/%6dodels"),
    "an unknown query": get(b"/v1/models?a=1&a=2&%00=%ff"),
    "a header of bytes": get(headers=b"X: \xff\xfe\r\n"),
    "headers after the body": get(headers=b"Transfer-Encoding: chunked\r\n") + b"0\r\nAuthorization: Bearer x\r\n\r\n",
    "an unknown coding is offered": get(headers=b"Accept-Encoding: what\r\n"),
    "a condition": get(headers=b"If-None-Match: *\r\nIf-Match: x\r\nIf-Modified-Since: never\r\n"),
    "a range": get(headers=b"Range: bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(5000)) + b"\r\n"),
    "another address told": get(headers=b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: gopher\r\n"),
    "another host told": get(headers=b"X-Forwarded-Host: evil.example\r\n"),
    "a cookie": get(headers=b"Cookie: " + b"a=b; " * 500 + b"\r\n"),
}


@pytest.mark.parametrize("request_", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_is_odd_and_harmless(live: Live, request_: bytes) -> None:
    status, _, body = raw(live, request_)
    assert status == 200, body
    assert body.startswith(b'{"object":"list"')


def keys(key: str) -> dict[str, tuple[str, int]]:
    return {
        "lower-case scheme": (f"bearer {key}", 200),
        "space after": (f"Bearer {key}  ", 200),
        "tab after": (f"Bearer {key}\t", 200),
        "spaces between": (f"Bearer   {key}", 200),
        "empty": ("", 401),
        "scheme alone": ("Bearer", 401),
        "scheme and a space": ("Bearer ", 401),
        "another scheme": (f"Basic {key}", 401),
        "key alone": (key, 401),
        "one letter changed": (f"Bearer {key[:-1]}{'a' if key[-1] != 'a' else 'b'}", 401),
        "other case": (f"Bearer {key.upper()}", 401),
        "sql": ("Bearer ' OR 1=1--", 401),
        "bytes": ("Bearer ÿþ", 401),
        "long": ("Bearer " + "x" * 20_000, 401),
        "twice": (f"Bearer {key}, Bearer {key}", 401),
        "percent": (f"Bearer {key}%00", 401),
        "underscores": ("Bearer ____", 401),
        "prefix": ("Bearer sk-ts_", 401),
        "braces": ("Bearer {key}", 401),
    }


@pytest.mark.parametrize("row", keys("x").keys())
def test_keys(live: Live, row: str) -> None:
    value, status = keys(live.key)[row]
    head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: " + value.encode("latin-1")
    found, _, body = raw(live, head + b"\r\n\r\n")
    assert found == status, body
    if status != 200:
        assert envelope(body)["code"] == "invalid_api_key"
        assert live.key.encode() not in body


KINDS: dict[str, tuple[list[str], int]] = {
    "absent": ([], 400),
    "empty": ([""], 400),
    "text": (["text/plain"], 400),
    "form": (["application/x-www-form-urlencoded"], 400),
    "multipart": (["multipart/form-data; boundary=b"], 400),
    "almost json": (["application/jsonx"], 400),
    "json lines": (["application/jsonl"], 400),
    "utf-16": (["application/json; charset=utf-16"], 400),
    "latin-1": (["application/json; charset=iso-8859-1"], 400),
    "nonsense parameters": (["application/json; " + 'a="\\"' * 3000], 400),
    "two": (["application/json", "text/plain"], 400),
    "two in one": (["application/json, text/plain"], 400),
    "json": (["application/json"], 200),
    "json in capitals": (["Application/JSON"], 200),
    "with charset": (["application/json; charset=UTF-8"], 200),
    "with a semicolon": (["application/json;"], 200),
}


@pytest.mark.parametrize(("values", "status"), KINDS.values(), ids=KINDS.keys())
def test_content_types(live: Live, values: list[str], status: int) -> None:
    headers = [("Content-Type", value) for value in values]
    body = b'{"grader": {"type": "string_check", "name": "n", "input": "a", "reference": "a", "operation": "eq"}}'
    reply = live.http.post("/v1/fine_tuning/alpha/graders/validate", content=body, headers=headers)
    if status == 400:
        refused(reply, code="invalid_content_type")
    else:
        assert reply.status_code == status, reply.text


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "x"])
@pytest.mark.parametrize("path", [JOBS, "/v1/files"])
def test_bodies_are_never_decoded(live: Live, coding: str, path: str) -> None:
    kind = "application/json" if path == JOBS else "multipart/form-data; boundary=b"
    headers = {"Content-Encoding": coding, "Content-Type": kind}
    refused(live.http.post(path, content=b"\x1f\x8b\x08\x00", headers=headers), code="invalid_content_encoding")


def test_a_coding_behind_another_is_seen(live: Live) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
    refused(live.http.post(JOBS, content=b"{}", headers=headers), code="invalid_content_encoding")


@pytest.mark.parametrize("told", [True, False])
def test_a_body_over_the_limit(live: Live, told: bool) -> None:
    body = b'{"model": "' + b"x" * 1024 * 1024 + b'"}'
    content = body if told else iter([body[:1000], body[1000:]])
    reply = live.http.post(JOBS, content=content, headers={"Content-Type": "application/json"})
    refused(reply, 413)
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
def test_a_body_that_comes_too_slowly(live: Live, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(live.app.state.settings, "body_seconds", 0.2)
    path = JOBS if "json" in kind else "/v1/files"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.key}\r\nContent-Length: 100\r\n"
    with socket.create_connection(("127.0.0.1", urlparse(live.url).port or 0), timeout=30) as slow:
        slow.sendall(f"{head}Content-Type: {kind}\r\n\r\n".encode() + (b"{" if path == JOBS else b"--b"))
        answer = b"".join(iter(lambda: slow.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert envelope(answer.partition(b"\r\n\r\n")[2])["code"] == "request_timeout"


@pytest.mark.parametrize("sent", [b"", b"GET /v1/models HTTP/1.1\r\nX: "])
def test_headers_that_never_end(live: Live, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("app.http.protocol.HEADER_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", urlparse(live.url).port or 0), timeout=30) as slow:
        slow.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(100) == b""


def test_a_mebibyte_in_chunks_of_one_byte(live: Live) -> None:
    chunk = b"1\r\n{\r\n"
    used = time.process_time()
    status, _, body = raw(live, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 500_000 + b"0\r\n\r\n")
    assert status == 400, body
    assert time.process_time() - used < 30, "seconds of processor time, many times what it takes"


def test_many_requests_at_once_on_one_connection(live: Live) -> None:
    one = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\n\r\n"
    with socket.create_connection(("127.0.0.1", urlparse(live.url).port or 0), timeout=30) as connection:
        connection.sendall(one.replace(b"KEY", live.key.encode()) * 100)
        answer = b""
        while answer.count(b"HTTP/1.1 200 OK") < 100:
            got = connection.recv(65536)
            assert got, "the connection ended early"
            answer += got


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "GET"])
def test_methods_that_a_route_has_not(live: Live, method: str) -> None:
    reply = live.http.request(method, "/v1/fine_tuning/alpha/graders/run")
    refused(reply, 405)
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/v1", "/v1/", "/v1/files/", f"{JOBS}/", "/v1/chat/completions", "/v2/files", "/V1/files", "/v1/Files"),
        *("/openapi.json/", "/docs", "/redoc", "/metrics", "/.env", "/v1/files%2f", "/v1/files;x", "/v1/files%00"),
        *("/v1/models%0a", f"{JOBS}%0A", "/healthz%0a", "/openapi.json%0a", "/v1/models%0d"),
        *("/healthz/x", "/static/../app", "/v1/uploads/x", "/v1/uploads/x/parts/y", "/v1/fine-tunes"),
    ],
)
def test_urls_that_are_not_there(live: Live, path: str) -> None:
    for client in (live.http, httpx.Client(base_url=live.url)):
        reply = client.request("GET", path)
        assert reply.status_code in {404, 405}, reply.text
        refused(reply, reply.status_code)
        if client is not live.http:
            client.close()


@pytest.mark.parametrize("name", ["OpenAI-Organization", "OpenAI-Project"])
@pytest.mark.parametrize("value", ["", "null", "x" * 1000, "é", "proj_" + "x" * 24])
def test_tenants_in_headers(live: Live, name: str, value: str) -> None:
    headers = httpx.Headers([(name.encode(), value.encode("latin-1"))])
    refused(live.http.get("/v1/models", headers=headers), 401)


def test_a_tenant_behind_ones_own_is_seen(live: Live) -> None:
    own = {"OpenAI-Organization": live.organization_id, "OpenAI-Project": live.caller.project_id or ""}
    for name, value in own.items():
        assert live.http.get("/v1/models", headers=[(name, value), (name, value)]).status_code == 200
        refused(live.http.get("/v1/models", headers=[(name, value), (name, "another")]), 401)


@pytest.mark.parametrize("name", ["User-Agent", "X-Client-Request-Id", "x-stainless-retry-count", "Referer", "Origin"])
@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"x" * 5000, b"'; DROP TABLE jobs;--", b"${jndi:ldap://x}"])
def test_headers_that_are_only_told(live: Live, name: str, value: bytes) -> None:
    assert live.http.get("/v1/models", headers=httpx.Headers([(name.encode(), value)])).status_code == 200


def test_connections_that_end_anywhere(live: Live) -> None:
    request = POST.replace(b"KEY", live.key.encode()) + b'Content-Length: 20\r\n\r\n{"model": "tiny-chat'
    port = urlparse(live.url).port or 0

    async def cut(end: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request[:end])
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.transport.abort()

    async def all_of_them() -> None:
        await asyncio.gather(*(cut(end) for end in range(0, len(request), 3)))

    asyncio.run(all_of_them())
    assert live.http.get("/v1/models").status_code == 200
