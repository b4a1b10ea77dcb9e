"""How the API says no."""

import json
import socket
from typing import Any
from urllib.parse import urlparse

import httpx
from live_server import Live


def refused(reply: httpx.Response, status: int = 400, *, code: str | None = "any", param: str | None = "any") -> None:
    """A refusal in the envelope: no 5xx, no 422, short, printable, and with an id to ask about."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    envelope(reply.content, code=code, param=param)


def envelope(body: bytes, *, code: str | None = "any", param: str | None = "any") -> dict[str, Any]:
    parsed = json.loads(body)
    assert set(parsed) == {"error"}
    error = parsed["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert 0 < len(error["message"]) <= 512
    assert error["message"].isprintable()
    assert error["param"] is None or len(error["param"]) <= 128
    assert "Traceback" not in error["message"]
    if code != "any":
        assert error["code"] == code, error
    if param != "any":
        assert error["param"] == param, error
    return error


def raw(live: Live, request: bytes) -> tuple[int, bytes, bytes]:
    """Send bytes as they are: the status, the head and the body that come back. KEY stands for the key."""
    with socket.create_connection(("127.0.0.1", urlparse(live.url).port or 0), timeout=30) as connection:
        connection.sendall(request.replace(b"KEY", live.key.encode()))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head, body
