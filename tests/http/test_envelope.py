"""What every reply has in common: headers, the error envelope, and the key it needs."""

import logging
import re
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest
from live_server import Live

from app.http.routing import all_routes
from app.main import PUBLIC_PATHS, create_app

ROUTES = [
    (method, route.path)
    for route in all_routes(create_app().routes)
    for method in sorted(route.methods or ())
    if route.path not in PUBLIC_PATHS
]


def filled(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "x", path)


def error(reply: httpx.Response) -> dict[str, Any]:
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def test_there_are_routes_to_check() -> None:
    assert len(ROUTES) > 12


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_that_is_not_public_wants_a_key(live: Live, method: str, path: str) -> None:
    reply = httpx.request(method, live.url + filled(path))
    assert reply.status_code == 401
    if method != "HEAD":
        assert error(reply)["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", sorted(PUBLIC_PATHS))
def test_the_public_list_answers_without_a_key(live: Live, path: str) -> None:
    assert httpx.get(live.url + path).status_code == 200


def authorizations(key: str) -> dict[str, list[str]]:
    return {
        "none": [],
        "basic": [f"Basic {key}"],
        "no scheme": [key],
        "blank": ["Bearer x x"],
        "long": ["Bearer " + "x" * 5000],
        "two": [f"Bearer {key}", f"Bearer {key}"],
        "wrong": [f"Bearer {key[:-1]}"],
    }


@pytest.mark.parametrize("case", list(authorizations("")))
def test_headers_that_are_no_key(live: Live, case: str) -> None:
    headers = [("Authorization", value) for value in authorizations(live.key)[case]]
    reply = httpx.get(f"{live.url}/v1/models", headers=headers)
    assert reply.status_code == 401
    assert live.key not in reply.text


def test_the_scheme_may_be_in_any_case(live: Live) -> None:
    assert httpx.get(f"{live.url}/v1/models", headers={"Authorization": f"bEaReR {live.key}"}).status_code == 200


@pytest.mark.parametrize("name", ["OpenAI-Organization", "OpenAI-Project"])
def test_headers_cannot_name_another_tenant(live: Live, name: str) -> None:
    assert error(live.http.get("/v1/models", headers={name: "other"}))["code"].startswith("mismatched")
    own = live.caller.organization_id if name == "OpenAI-Organization" else live.caller.project_id
    assert live.http.get("/v1/models", headers={name: own}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/files/", 404),
        ("PUT", "/v1/files", 405),
        ("GET", "/v1/fine_tuning/jobs/nothing", 404),
        ("GET", "/", 404),
    ],
)
def test_every_reply_has_its_id_and_the_usual_headers(live: Live, method: str, path: str, status: int) -> None:
    reply = live.http.request(method, path)
    assert reply.status_code == status
    assert reply.headers["x-request-id"].startswith("req_")
    assert len(reply.headers["x-request-id"]) == 36
    assert reply.headers["openai-version"] == "2020-10-01"
    assert int(reply.headers["openai-processing-ms"]) >= 0
    if status >= 400:
        assert error(reply)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/files", "GET, POST"),
        ("/v1/fine_tuning/jobs/x", "GET"),
        ("/v1/models/a/b", "DELETE, GET"),
        ("/healthz", "GET"),
    ],
)
def test_a_method_that_is_not_allowed_is_told_which_are(live: Live, path: str, methods: str) -> None:
    reply = live.http.request("TRACE", path)
    assert (reply.status_code, reply.headers["allow"]) == (405, methods)


def test_an_unknown_url_says_so(live: Live) -> None:
    assert error(live.http.get("/v1/nothing"))["message"] == "Invalid URL (GET /v1/nothing)"


def test_a_body_that_is_too_large_is_refused(live: Live) -> None:
    reply = live.http.post("/v1/fine_tuning/jobs", content=b'{"model": "' + b"x" * 2_000_000 + b'"}')
    assert reply.status_code == 413
    error(reply)


def test_a_crash_shows_no_traceback_and_has_an_id(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("app.models.routes.service.all_of", crash)
    logging.disable(logging.CRITICAL)
    reply = live.http.get("/v1/models")
    logging.disable(logging.NOTSET)
    assert reply.status_code == 500
    assert error(reply)["type"] == "server_error"
    assert "secret detail" not in reply.text
    assert "x-request-id" in reply.headers


def test_ready_shows_the_parts(live: Live) -> None:
    body = httpx.get(f"{live.url}/readyz").json()
    assert body == {
        "status": "ok",
        "missing": [],
        "postgres": "ok",
        "storage": "ok",
        "redis": "not configured",
        "workers": {"cpu": 0, "gpu": 0},
    }


def test_not_ready_names_what_is_missing(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: object) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr("app.storage.FolderStore.check", gone)
    reply = httpx.get(f"{live.url}/readyz")
    assert reply.status_code == 503
    assert reply.json()["missing"] == ["storage"]


def test_a_database_that_is_gone_is_a_503_with_a_time_to_retry(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy as sa

    def gone(*_: object, **__: object) -> None:
        raise sa.exc.OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr("app.models.routes.service.all_of", gone)
    reply = live.http.get("/v1/models")
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert "SELECT" not in reply.text
    error(reply)


START = """
import re, sys
from pathlib import Path
from app.http.routing import all_routes
from app.main import create_app
create_app()
assert "torch" not in sys.modules and "transformers" not in sys.modules
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_the_api_process_is_small_and_knows_no_torch() -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150, "peak memory in MB"
    assert time.monotonic() - started < 20, "far beyond what a loaded machine needs for what takes a second"
