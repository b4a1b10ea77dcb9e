"""Headers that keep replies where they belong; and what is not served at all."""

import httpx
import pytest
from live_server import Live


@pytest.mark.parametrize(
    "path",
    ["/v1/files", "/v1/files/none", "/v1/models", "/healthz", "/openapi.json", "/nowhere", "/v1/fine_tuning/jobs"],
)
def test_replies_are_not_sniffed_and_not_kept(path: str, live: Live) -> None:
    headers = live.http.get(path).headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("cache-control") == ["no-store"]


def test_downloads_are_attachments_in_a_sandbox(live: Live) -> None:
    hostile = {"file": ("a.html", b"<script>alert(1)</script>", "text/html")}
    file_id = live.http.post("/v1/files", data={"purpose": "batch"}, files=hostile).json()["id"]
    headers = live.http.get(f"/v1/files/{file_id}/content").headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment; ")
    assert headers["content-security-policy"] == "sandbox"
    assert headers.get_list("cache-control") == ["no-store"]


def test_no_page_of_another_origin_may_read(live: Live) -> None:
    origin = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for reply in (
        httpx.options(f"{live.url}/v1/files", headers=origin),
        live.http.get("/v1/files", headers=origin),
        live.http.get("/openapi.json", headers=origin),
    ):
        assert not [name for name in reply.headers if name.startswith("access-control-")]
    assert httpx.options(f"{live.url}/v1/files", headers=origin).status_code == 405


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect", "/metrics", "/debug", "/v1/docs"])
def test_there_are_no_pages_for_browsers_and_no_metrics(path: str, live: Live) -> None:
    assert live.http.get(path).status_code == 404


def test_a_key_in_the_address_is_not_a_key(live: Live) -> None:
    for name in ("api_key", "key", "token", "access_token"):
        assert httpx.get(f"{live.url}/v1/models", params={name: live.key}).status_code == 401
