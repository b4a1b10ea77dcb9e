"""Group E: ids, lists, events, what a job is in, and administration."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from live_server import Live

from app.main import create_app
from tests.bad_input.conftest import kept
from tests.bad_input.refusals import refused

JOBS = "/v1/fine_tuning/jobs"
LINE = b'{"prompt": "a", "completion": "b"}\n'

DOCUMENT: dict[str, Any] = create_app().openapi()
WITH_IDS = [
    (method.upper(), path)
    for path, methods in DOCUMENT["paths"].items()
    for method in methods
    if "{" in path and "/organization/" not in path
]
# What a body must be so that only the id can be wrong.
BODIES: dict[str, Any] = {
    "/v1/uploads/{upload_id}/parts": {"files": {"data": ("x", LINE)}},
    "/v1/uploads/{upload_id}/complete": {"json": {"part_ids": ["part_x"]}},
    "/v1/fine_tuning/checkpoints/{model}/permissions": {"json": {"project_ids": ["proj_x"]}},
    "/v1/webhook_endpoints/{endpoint_id}": {"json": {"name": "x"}},
    "/v1/webhook_endpoints/{endpoint_id}/test": {"json": {"event_type": "batch.failed"}},
}

IDS = {
    "E01 random": "ftjob-abcdefghijklmnopqrstuvwx",
    "E05 NUL": "%00",
    "E05 NUL inside": "ftjob-%00x",
    "E05 line feeds": "a%0d%0ab",
    "E05 no UTF-8": "%ff",
    "E05 overlong": "%c0%af",
    "E05 surrogate": "%ed%a0%80",
    "E07 a letter more": "ftjob-%C3%A9",
    "E07 full-width digits": quote("ftjob-\uff11\uff12"),
    "E09 a space after": "file-x%20",
    "E11 null": "null",
    "E11 undefined": "undefined",
    "E11 NaN": "NaN",
    "E11 -1": "-1",
    "E11 0": "0",
    "E13 sql": "ftjob-1;drop",
    "more sql": "'%20OR%201=1--",
    "a wildcard": "%25",
    "a star": "*",
    "another wildcard": "ftjob______",
    "a brace": "%7Bjob_id%7D",
    "a backslash": "%5C..%5C..",
    "directions": quote("\u202e"),
    "emoji": quote("\U0001f4a9"),
    "a template": quote("{{7*7}}"),
    "a format": "%25s%25n",
    "3,000 letters": "x" * 3000,
    "percent twice": "%2500",
    "a number": "9" * 400,
}


@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize("odd", IDS.values(), ids=IDS.keys())
def test_ids_that_nothing_has(live: Live, odd: str) -> None:
    assert len(WITH_IDS) >= 20
    for method, path in WITH_IDS:
        url = re.sub(r"\{\w+\}", odd, path)
        reply = live.http.request(method, url, **BODIES.get(path, {}) if method == "POST" else {})
        assert reply.status_code == 404, (method, path, reply.text)
        refused(reply, 404)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/models", JOBS, "/v1/uploads", "/v1/webhook_endpoints"])
@pytest.mark.parametrize("tail", ["/", "//", "/%20", "/%2e", "/%2e%2e", "/;x", "/%2f"])
def test_e03_paths_that_end_oddly(live: Live, path: str, tail: str) -> None:
    for headers in ({"Authorization": f"Bearer {live.key}"}, {}):
        request = httpx.Request("GET", live.url, headers=headers)
        request.url = request.url.copy_with(raw_path=(path + tail).encode())
        with httpx.Client(timeout=60) as client:
            reply = client.send(request)
        assert reply.status_code in {401, 404, 405}, reply.text
        if headers:
            refused(reply, reply.status_code)


LISTS = {
    "/v1/files": 10_000,
    JOBS: 1000,
    JOBS + "/{job}/events": 1000,
    JOBS + "/{job}/checkpoints": 1000,
    "/v1/webhook_endpoints": 1000,
    "/v1/fine_tuning/checkpoints/{model}/permissions": 1000,
}


@pytest.fixture(scope="module")
def names(live: Live) -> dict[str, str]:
    """A job with a model and events, for the lists that are in something."""
    made = live.http.post(JOBS, json={"model": "tiny-chat", "training_file": live.training_file}).json()["id"]
    return {"job": made, "model": live.publish(made, steps=(2, 4))}


LIMITS = {
    "E17 -1": "-1",
    "E17 10^9": "1000000000",
    "E17 2^64": str(2**64),
    "empty": "",
    "a word": "all",
    "a float": "1.0",
    "an exponent": "1e1",
    "a sign": "+1",
    "a space": " 1",
    "an underscore": "1_0",
    "hexadecimal": "0x10",
    "another script": "\u0661",
    "superscript": "\u00b2",
    "NUL": "1\0",
    "5,000 digits": "1" * 5000,
    "a list": "[1]",
    "null": "null",
}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS.keys())
def test_limits(live: Live, names: dict[str, str], limit: str) -> None:
    for path in LISTS:
        refused(live.http.get(path.format(**names), params={"limit": limit}), code="invalid_value", param="limit")


def test_e17_one_above_the_most(live: Live, names: dict[str, str]) -> None:
    for path, most in LISTS.items():
        assert live.http.get(path.format(**names), params={"limit": most}).status_code == 200, path
        refused(live.http.get(path.format(**names), params={"limit": most + 1}), param="limit")


@pytest.mark.parametrize("name", ["limit", "after", "order"])
def test_e19_parameters_given_twice(live: Live, names: dict[str, str], name: str) -> None:
    for path in LISTS:
        if name == "order" and path not in {"/v1/files", "/v1/fine_tuning/checkpoints/{model}/permissions"}:
            continue  # these lists have one order
        refused(live.http.get(path.format(**names), params=[(name, "1"), (name, "2")]), param=name)


CURSORS = {
    "E23 of 10 kB": "x" * 10_000,
    "E23 NUL": "\0",
    "not ASCII": "\u00e9",
    "another kind": "proj_abcdefghijklmnopqrstuvwx",
    "null": "null",
    "a number": "1",
    "sql": "' OR 1=1--",
    "a space": " ",
}


@pytest.mark.parametrize("after", CURSORS.values(), ids=CURSORS.keys())
def test_cursors(live: Live, names: dict[str, str], after: str) -> None:
    for path in LISTS:
        status = 404 if path == "/v1/files" else 400  # as OpenAI has it
        refused(live.http.get(path.format(**names), params={"after": after}), status)


def test_e21_cursors_of_another_project_are_as_nobodys(live: Live) -> None:
    jobs = [live.http.post(JOBS, json={"model": "tiny-chat", "training_file": live.training_file}).json()["id"]]
    files = [live.http.post("/v1/files", data={"purpose": "evals"}, files={"file": ("x", LINE)}).json()["id"]]
    for path, (theirs,) in ((JOBS, jobs), ("/v1/files", files)):
        nobodys = theirs[:-8] + "00000000"
        replies = [live.stranger.get(path, params={"after": cursor}) for cursor in (theirs, nobodys)]
        assert replies[0].status_code == replies[1].status_code >= 400
        assert replies[0].content.replace(theirs.encode(), nobodys.encode()) == replies[1].content


def test_a_cursor_that_is_deleted_is_no_cursor(live: Live) -> None:
    made = live.http.post("/v1/files", data={"purpose": "evals"}, files={"file": ("x", LINE)}).json()["id"]
    live.http.delete(f"/v1/files/{made}")
    refused(live.http.get("/v1/files", params={"after": made}), 404)


def test_e37_after_the_last(live: Live, names: dict[str, str]) -> None:
    for path in LISTS:
        data = live.http.get(path.format(**names), params={"limit": 100}).json()["data"]
        if data:
            rest = live.http.get(path.format(**names), params={"after": data[-1]["id"]}).json()
            assert (rest["data"], rest["has_more"]) == ([], False)


QUERIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "E15 no limit": (JOBS, {}, 200),
    "E25 order sideways": ("/v1/files", {"order": "sideways"}, 400),
    "order of nothing": ("/v1/files", {"order": ""}, 400),
    "order in capitals": ("/v1/files", {"order": "ASC"}, 400),
    "order of another list": ("/v1/files", {"order": "ascending"}, 400),
    "E25 order of permissions": ("/v1/fine_tuning/checkpoints/{model}/permissions", {"order": "asc"}, 400),
    "E27 17 filters": (JOBS, {f"metadata[{n}]": "x" for n in range(17)}, 400),
    "16 filters": (JOBS, {f"metadata[{n}]": "x" for n in range(16)}, 200),
    "a filter that is none": (JOBS, {"metadata": "x"}, 400),
    "both filters": (JOBS, {"metadata": "null", "metadata[a]": "b"}, 400),
    "a filter twice": (JOBS, {"metadata[a]": ["1", "2"]}, 400),
    "a filter twice, alike": (JOBS, {"metadata[a]": ["1", "1"]}, 400),
    "a filter of NUL": (JOBS, {"metadata[a]": "\0"}, 400),
    "a filter's key of NUL": (JOBS, {"metadata[\0]": "a"}, 400),
    "a filter of sql": (JOBS, {"metadata[a' OR '1'='1]": "b"}, 200),
    "a filter without end": (JOBS, {"metadata[a": "b"}, 200),
    "a filter in a filter": (JOBS, {"metadata[a][b]": "c"}, 200),
    "a filter of 10 kB": (JOBS, {"metadata[a]": "x" * 10_000}, 200),
    "E29 an unknown parameter": (JOBS, {"created_after": "yesterday", "$where": "1"}, 200),
    "E71 a time that is none": (JOBS, {"created_after": "NaN"}, 200),
    "a purpose of nobody": ("/v1/files", {"purpose": "\u00e9\0"}, 200),
    "a purpose of 10 kB": ("/v1/files", {"purpose": "x" * 10_000}, 200),
    "a project of nobody": (
        "/v1/fine_tuning/checkpoints/{model}/permissions",
        {"project_id": "\0"},
        200,
    ),
    "two projects": ("/v1/fine_tuning/checkpoints/{model}/permissions", {"project_id": ["a", "b"]}, 400),
    "a stream that is perhaps": (JOBS + "/{job}/events", {"stream": "perhaps"}, 400),
    "a stream and a number": (JOBS + "/{job}/events", {"stream": "1"}, 400),
}


@pytest.mark.parametrize(("path", "query", "status"), QUERIES.values(), ids=QUERIES.keys())
def test_queries(live: Live, names: dict[str, str], path: str, query: dict[str, Any], status: int) -> None:
    reply = live.http.get(path.format(**names), params=query)
    assert reply.status_code == status, reply.text
    if status != 200:
        refused(reply, status)


@pytest.mark.parametrize("query", ["limit=1%", "%", "=", "&&&", "limit", "%00=%00", "a=%ff&limit=1", "limit=1;x"])
def test_queries_that_are_hardly_any(live: Live, query: str) -> None:
    request = httpx.Request("GET", live.url, headers={"Authorization": f"Bearer {live.key}"})
    request.url = request.url.copy_with(raw_path=f"/v1/files?{query}".encode("latin-1"))
    with httpx.Client(timeout=60) as client:
        reply = client.send(request)
    assert reply.status_code in {200, 400}, reply.text


@pytest.mark.parametrize("last", ["", "-1", "999999", "ftevent-nobody", "\u00e9", "x" * 5000, "null", "'"])
def test_e39_last_event_ids(live: Live, names: dict[str, str], last: str) -> None:
    headers = [(b"Last-Event-ID", last.encode("latin-1"))]
    refused(live.http.get(f"{JOBS}/{names['job']}/events?stream=true", headers=headers), param="after")


def test_e41_a_stream_of_a_job_that_is_over_ends(live: Live, names: dict[str, str]) -> None:
    reply = live.http.get(f"{JOBS}/{names['job']}/events?stream=true")
    assert reply.status_code == 200
    assert reply.text.endswith("data: [DONE]\n\n")


def job(live: Live, status: str) -> str:
    made = live.http.post(JOBS, json={"model": "tiny-chat", "training_file": live.training_file}).json()["id"]
    if status == "succeeded":
        live.publish(made)
    elif status == "failed":
        live.fail(made)
    elif status == "cancelled":
        live.http.post(f"{JOBS}/{made}/cancel")
    elif status != "validating_files":
        live.move(made, status)
    return made


MOVES = [
    *(("cancel", status) for status in ("succeeded", "failed", "cancelled")),
    *(("pause", status) for status in ("validating_files", "paused", "succeeded", "failed", "cancelled")),
    *(("resume", status) for status in ("validating_files", "queued", "succeeded", "failed", "cancelled")),
]


@pytest.mark.parametrize(("verb", "status"), MOVES, ids=[f"{verb} {status}" for verb, status in MOVES])
def test_e47_e51_moves_that_are_not_allowed(live: Live, verb: str, status: str) -> None:
    made = job(live, status)
    before = kept(live), live.http.get(f"{JOBS}/{made}").json()
    refused(live.http.post(f"{JOBS}/{made}/{verb}"), param=None, code=None)
    assert (kept(live), live.http.get(f"{JOBS}/{made}").json()) == before


@pytest.mark.parametrize("status", ["validating_files", "queued", "paused"])
def test_e45_a_cancelled_job_is_cancelled_at_once(live: Live, status: str) -> None:
    assert live.http.post(f"{JOBS}/{job(live, status)}/cancel").json()["status"] == "cancelled"


BODIES_NOBODY_READS = [
    (b"{}", "application/json"),
    (b"{", "application/json"),
    (b"\0" * 100, "application/octet-stream"),
    (b"x" * 1024 * 1024, "text/plain"),
]


@pytest.mark.parametrize(("content", "kind"), BODIES_NOBODY_READS, ids=["json", "broken json", "bytes", "1 MiB"])
def test_e49_e73_bodies_that_nobody_reads(live: Live, content: bytes, kind: str) -> None:
    made = job(live, "queued")
    headers = {"Content-Type": kind}
    assert live.http.request("GET", f"{JOBS}/{made}", content=content, headers=headers).status_code == 200
    assert live.http.post(f"{JOBS}/{made}/cancel", content=content, headers=headers).status_code == 200
    assert live.http.get(f"{JOBS}/{made}").json()["status"] == "cancelled"


@pytest.mark.parametrize("status", ["queued", "succeeded"])
@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH"])
def test_e53_jobs_are_not_deleted(live: Live, status: str, method: str) -> None:
    made = job(live, status)
    refused(live.http.request(method, f"{JOBS}/{made}"), 405)
    assert live.http.get(f"{JOBS}/{made}").status_code == 200


def test_e55_e57_a_file_is_deleted_once(live: Live) -> None:
    made = live.http.post("/v1/files", data={"purpose": "evals"}, files={"file": ("x", LINE)}).json()["id"]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: live.http.delete(f"/v1/files/{made}"), range(16)))
    assert sorted(reply.status_code for reply in replies) == [200] + [404] * 15


def test_e59_base_models_stay(live: Live) -> None:
    refused(live.http.delete("/v1/models/tiny-chat"), 403)
    assert live.http.get("/v1/models/tiny-chat").status_code == 200


@pytest.mark.parametrize("step", ["0", "-1", "1000000000000", "x", "4 ", "04", "", "4:ckpt-step-4"])
def test_e61_checkpoints_that_are_not_there(live: Live, names: dict[str, str], step: str) -> None:
    refused(live.http.get(f"/v1/models/{names['model']}:ckpt-step-{step}"), 404, code="model_not_found")


@pytest.mark.parametrize("name", ["tiny%2Fchat", "%2e%2e%2f", "ft:", "ft:tiny-chat", "TINY-CHAT", "tiny-ch%D0%B0t"])
def test_models_that_are_not_there(live: Live, name: str) -> None:
    refused(live.http.get(f"/v1/models/{name}"), 404)
    refused(live.http.delete(f"/v1/models/{name}"), 404)


def test_e63_no_adapter_before_success(live: Live) -> None:
    refused(live.http.get(f"{JOBS}/{job(live, 'queued')}/adapter"), 404, code="adapter_not_found")


CONDITIONS = [
    {"If-Range": '"x"', "Range": "bytes=0-1"},
    {"If-None-Match": "*"},
    {"If-None-Match": '"' + "x" * 5000 + '"'},
    {"If-Modified-Since": "Thu, 01 Jan 2099 00:00:00 GMT"},
    {"If-Match": '"stale"'},
]


@pytest.mark.parametrize("headers", CONDITIONS, ids=lambda headers: next(iter(headers)))
def test_e67_e75_conditions_say_nothing_where_there_are_no_tags(live: Live, headers: dict[str, str]) -> None:
    made = live.http.post("/v1/files", data={"purpose": "evals"}, files={"file": ("x", LINE)}).json()["id"]
    reply = live.http.get(f"/v1/files/{made}/content", headers=headers)
    assert (reply.status_code, reply.content) == (200, LINE)
    assert "etag" not in reply.headers


PROJECTS = "/v1/organization/projects"


NAMES = {
    "E77 empty": "",
    "E77 10 kB": "x" * 10_000,
    "spaces": "   ",
    "a space after": "x ",
    "NUL": "a\0b",
    "controls": "a\nb",
    "directions": "\u202ex",
    "null": None,
    "number": 1,
    "list": ["x"],
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_names_of_projects_and_keys(live: Live, admin: httpx.Client, name: Any) -> None:
    before = kept(live)
    project = live.caller.project_id
    for path in (
        PROJECTS,
        f"{PROJECTS}/{project}",
        f"{PROJECTS}/{project}/api_keys",
        "/v1/organization/admin_api_keys",
    ):
        refused(admin.post(path, json={"name": name}))
    assert kept(live) == before


def test_e77_a_name_that_is_taken(admin: httpx.Client) -> None:
    assert admin.post(PROJECTS, json={"name": "taken"}).status_code == 200
    refused(admin.post(PROJECTS, json={"name": "taken"}), param="name")


ADMIN: dict[str, tuple[str, Any, str]] = {
    "scopes unknown": ("/api_keys", {"name": "x", "scopes": ["root"]}, "scopes"),
    "scopes admin": ("/api_keys", {"name": "x", "scopes": ["admin"]}, "scopes"),
    "scopes text": ("/api_keys", {"name": "x", "scopes": "files:read"}, "scopes"),
    "33 scopes": ("/api_keys", {"name": "x", "scopes": ["files:read"] * 33}, "scopes"),
    "a second": ("/api_keys", {"name": "x", "expires_in_seconds": 1}, "expires_in_seconds"),
    "a century": ("/api_keys", {"name": "x", "expires_in_seconds": 10**10}, "expires_in_seconds"),
    "a float": ("/api_keys", {"name": "x", "expires_in_seconds": 3600.0}, "expires_in_seconds"),
    "a value of one's own": ("/api_keys", {"name": "x", "value": "sk-mine"}, "value"),
    "-1 jobs": ("/limits", {"quota_running_jobs": -1}, "quota_running_jobs"),
    "2^63 - 1 jobs": ("/limits", {"quota_running_jobs": 2**63 - 1}, "quota_running_jobs"),
    "half a byte": ("/limits", {"quota_storage_bytes": 0.5}, "quota_storage_bytes"),
    "true requests": ("/limits", {"requests_per_minute": True}, "requests_per_minute"),
    "an unknown limit": ("/limits", {"quota_gpus": 1}, "quota_gpus"),
}


@pytest.mark.parametrize(("tail", "sent", "param"), ADMIN.values(), ids=ADMIN.keys())
def test_keys_and_limits(live: Live, admin: httpx.Client, tail: str, sent: Any, param: str) -> None:
    before = kept(live)
    refused(admin.post(f"{PROJECTS}/{live.caller.project_id}{tail}", json=sent), param=param)
    assert kept(live) == before


ADMIN_QUERIES: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "E17 101": ("/projects", [("limit", "101")]),
    "E71 -1": ("/audit_logs", [("effective_at[gt]", "-1")]),
    "E71 NaN": ("/audit_logs", [("effective_at[gt]", "NaN")]),
    "E71 2^63": ("/audit_logs", [("effective_at[lt]", str(2**63))]),
    "year 10,000": ("/audit_logs", [("effective_at[lt]", "253402300800")]),
    "a float": ("/audit_logs", [("effective_at[gte]", "1.5")]),
    "a time twice": ("/audit_logs", [("effective_at[gt]", "1"), ("effective_at[gt]", "2")]),
    "101 values": ("/audit_logs", [("event_types[]", "x")] * 101),
    "an unknown cursor": ("/audit_logs", [("after", "audit_log-nobody")]),
    "no start": ("/usage/fine_tuning", []),
    "start of 2^63": ("/usage/fine_tuning", [("start_time", str(2**63))]),
    "start twice": ("/usage/fine_tuning", [("start_time", "1"), ("start_time", "2")]),
    "hours": ("/usage/fine_tuning", [("start_time", "1"), ("bucket_width", "1h")]),
    "an unknown group": ("/usage/fine_tuning", [("start_time", "1"), ("group_by[]", "users")]),
    "a page of nobody": ("/usage/fine_tuning", [("start_time", "1"), ("page", "x")]),
    "a negative page": ("/usage/fine_tuning", [("start_time", "1"), ("page", "page_-1")]),
    "32 days": ("/usage/fine_tuning", [("start_time", "1"), ("limit", "32")]),
    "perhaps": ("/projects", [("include_archived", "perhaps")]),
}


@pytest.mark.parametrize(("path", "query"), ADMIN_QUERIES.values(), ids=ADMIN_QUERIES.keys())
def test_queries_of_administrators(admin: httpx.Client, path: str, query: list[tuple[str, str]]) -> None:
    refused(admin.get(f"/v1/organization{path}", params=query))


@pytest.mark.parametrize("name", ["after", "before"])
def test_the_cursor_that_is_wrong_is_named(admin: httpx.Client, name: str) -> None:
    refused(admin.get("/v1/organization/audit_logs", params={name: "audit_log-nobody"}), param=name)


@pytest.mark.parametrize("odd", IDS.values(), ids=IDS.keys())
def test_ids_of_administrators(live: Live, admin: httpx.Client, odd: str) -> None:
    before = kept(live)
    for method, path in [
        *((method, f"{PROJECTS}/{odd}") for method in ("GET", "POST")),
        *((method, f"{PROJECTS}/{odd}/limits") for method in ("GET", "POST")),
        ("POST", f"{PROJECTS}/{odd}/archive"),
        ("GET", f"{PROJECTS}/{odd}/api_keys"),
        *((method, f"{PROJECTS}/{live.caller.project_id}/api_keys/{odd}") for method in ("GET", "DELETE")),
        *((method, f"/v1/organization/admin_api_keys/{odd}") for method in ("GET", "DELETE")),
    ]:
        sent = {"json": {} if path.endswith("limits") else {"name": "x"}} if method == "POST" else {}
        reply = admin.request(method, path, **sent)
        assert reply.status_code == 404, (method, path, reply.text)
    assert kept(live) == before


def test_a17_a_projects_key_is_no_administrators(live: Live) -> None:
    for path in ("/projects", "/admin_api_keys", "/audit_logs", "/usage/fine_tuning?start_time=1"):
        refused(live.http.get(f"/v1/organization{path}"), 403, code="missing_scope")


LONG = "quip" * 1000  # nothing else that is said holds this word


@pytest.mark.parametrize("method_and_path", WITH_IDS, ids=" ".join)
def test_ids_are_quoted_in_part(live: Live, method_and_path: tuple[str, str]) -> None:
    method, path = method_and_path
    url = re.sub(r"\{\w+\}", LONG, path)
    reply = live.http.request(method, url, **BODIES.get(path, {}) if method == "POST" else {})
    refused(reply, 404)
    assert reply.json()["error"]["message"].count("quip") <= 25


def test_other_words_are_quoted_in_part(live: Live) -> None:
    job = {"model": "tiny-chat", "training_file": live.training_file}
    inside = {"type": "supervised", "supervised": {"hyperparameters": {"quantization": LONG}}}
    modules = {"type": "supervised", "supervised": {"hyperparameters": {"lora_target_modules": [LONG]}}}
    for reply in (
        *(live.http.post(JOBS, json=job | {name: LONG}) for name in ("model", "training_file", "suffix", "method")),
        *(live.http.post(JOBS, json=job | changes) for changes in ({LONG: 1}, {"metadata": {LONG: 1}})),
        *(live.http.post(JOBS, json=job | {"method": method}) for method in (inside, modules)),
        live.http.get(f"/v1/{LONG}"),
        live.http.put(f"{JOBS}/{LONG}"),
        live.http.get(JOBS, params={"after": LONG}),
        live.http.get("/v1/files", params={"after": LONG}),
        live.http.get("/v1/files", params={"order": LONG}),
        live.http.post("/v1/files", data={"purpose": LONG}, files={"file": ("x", LINE)}),
        live.http.post("/v1/files", data={LONG: "x"}, files={"file": ("x", LINE)}),
        live.http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("x", LONG.encode())}),
    ):
        assert reply.status_code in {400, 404, 405}, reply.text
        assert reply.json()["error"]["message"].count("quip") <= 25, reply.text
