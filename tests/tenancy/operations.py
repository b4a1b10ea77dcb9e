"""Every route, used by somebody on their own things so that it succeeds. A new route belongs here too: the test of the
route table says so.
"""

import json
from collections.abc import Callable
from typing import Any

import httpx

from app import db
from app.webhooks import service as webhooks
from tests.tenancy.world import Principal, Tenant, World

Operation = Callable[[World, Any, int], httpx.Response]

ORGANIZATION = "/v1/organization"
JOBS = "/v1/fine_tuning/jobs"
WEBHOOKS = "/v1/webhook_endpoints"


def lines(canary: str) -> bytes:
    """A training file that is full of its owner's word."""
    example = {"messages": [{"role": "user", "content": canary}, {"role": "assistant", "content": canary}]}
    return f"{json.dumps(example)}\n".encode() * 10


def upload(world: World, tenant: Tenant, pick: int = 0) -> httpx.Response:
    purpose = ("fine-tune", "user_data", "evals")[pick % 3]
    file = (f"{tenant.canary}-{pick}.jsonl", lines(tenant.canary))
    return world.send(tenant, "POST", "/v1/files", data={"purpose": purpose}, files={"file": file})


def new_file(world: World, tenant: Tenant) -> str:
    return upload(world, tenant).json()["id"]


def create_upload(world: World, tenant: Tenant, pick: int = 0) -> httpx.Response:
    name = f"{tenant.canary}-{pick}"
    body = {"bytes": len(lines(tenant.canary)), "filename": name, "mime_type": name, "purpose": "fine-tune"}
    return world.send(tenant, "POST", "/v1/uploads", json=body)


def new_upload(world: World, tenant: Tenant) -> str:
    return create_upload(world, tenant).json()["id"]


def add_part(world: World, tenant: Tenant, pick: int = 0) -> httpx.Response:
    path = f"/v1/uploads/{new_upload(world, tenant)}/parts"
    return world.send(tenant, "POST", path, files={"data": lines(tenant.canary)})


def complete_upload(world: World, tenant: Tenant, pick: int) -> httpx.Response:
    part = add_part(world, tenant).json()
    path = f"/v1/uploads/{part['upload_id']}/complete"
    return world.send(tenant, "POST", path, json={"part_ids": [part["id"]]})


def create_job(world: World, tenant: Tenant, pick: int = 0) -> httpx.Response:
    word = tenant.canary
    body = {
        "model": "tiny-chat",
        "training_file": new_file(world, tenant),
        "validation_file": new_file(world, tenant) if pick % 2 else None,
        "suffix": f"{word}-{pick % 7}",
        "metadata": {word: word},
        "integrations": [{"type": "wandb", "wandb": {"project": word, "name": word, "entity": word, "tags": [word]}}],
    }
    return world.send(tenant, "POST", JOBS, json=body)


def new_job(world: World, tenant: Tenant) -> str:
    return create_job(world, tenant).json()["id"]


def finished_job(world: World, tenant: Tenant) -> str:
    job_id = new_job(world, tenant)
    tenant.work(job_id, 1)
    return job_id


def new_model(world: World, tenant: Tenant) -> str:
    return world.send(tenant, "GET", f"{JOBS}/{finished_job(world, tenant)}").json()["fine_tuned_model"]


def grant(world: World, tenant: Tenant, pick: int = 0) -> httpx.Response:
    path = f"/v1/fine_tuning/checkpoints/{new_model(world, tenant)}/permissions"
    return world.send(tenant, "POST", path, json={"project_ids": [tenant.beside]})


def revoke(world: World, tenant: Tenant, pick: int) -> httpx.Response:
    reply = grant(world, tenant)
    path = f"{reply.request.url.path}/{reply.json()['data'][0]['id']}"
    return world.send(tenant, "DELETE", path)


def paused_job(world: World, tenant: Tenant) -> str:
    job_id = new_job(world, tenant)
    tenant.live.move(job_id, "paused")
    return job_id


def queued_job(world: World, tenant: Tenant) -> str:
    job_id = new_job(world, tenant)
    tenant.live.move(job_id, "queued")
    return job_id


def list_jobs(world: World, tenant: Tenant, pick: int) -> httpx.Response:
    words = [{}, {f"metadata[{tenant.canary}]": tenant.canary}, {"metadata": "null"}]
    return world.send(tenant, "GET", JOBS, params={"limit": 1000} | words[pick % 3])


def list_events(world: World, tenant: Tenant, pick: int) -> httpx.Response:
    params = {"stream": "true"} if pick % 2 else {"limit": "100"}
    return world.send(tenant, "GET", f"{JOBS}/{finished_job(world, tenant)}/events", params=params)


def checkpoint_adapter(world: World, tenant: Tenant, pick: int) -> httpx.Response:
    path = f"{JOBS}/{finished_job(world, tenant)}/checkpoints"
    checkpoints = world.send(tenant, "GET", path).json()["data"]
    return world.send(tenant, "GET", f"{path}/{checkpoints[pick % len(checkpoints)]['id']}/adapter")


def grader(tenant: Tenant) -> dict[str, Any]:
    word = tenant.canary
    return {"type": "string_check", "name": word, "input": "{{item.a}}", "reference": word, "operation": "eq"}


def run_grader(world: World, tenant: Tenant, pick: int) -> httpx.Response:
    body = {"grader": grader(tenant), "model_sample": tenant.canary, "item": {"a": tenant.canary}}
    return world.send(tenant, "POST", "/v1/fine_tuning/alpha/graders/run", json=body)


def create_endpoint(world: World, tenant: Tenant, pick: int = 0) -> httpx.Response:
    word = tenant.canary
    body = {"name": word, "url": f"https://93.184.216.34/{word}", "event_types": ["fine_tuning.job.failed"]}
    return world.send(tenant, "POST", WEBHOOKS, json=body)


def new_endpoint(world: World, tenant: Tenant) -> str:
    return create_endpoint(world, tenant).json()["id"]


def try_endpoint(world: World, tenant: Tenant, pick: int) -> httpx.Response:
    path = f"{WEBHOOKS}/{new_endpoint(world, tenant)}/test"
    return world.send(tenant, "POST", path, json={"event_type": "fine_tuning.job.failed"})


def list_deliveries(world: World, tenant: Tenant, pick: int = 0) -> httpx.Response:
    path = f"{WEBHOOKS}/{new_endpoint(world, tenant)}/deliveries"
    with db.transaction() as session:
        webhooks.announce(session, tenant.caller.project_id, "fine_tuning.job.failed", f"ftjob-{tenant.canary}")
    return world.send(tenant, "GET", path)


def get_delivery(world: World, tenant: Tenant, pick: int) -> httpx.Response:
    reply = list_deliveries(world, tenant)
    return world.send(tenant, "GET", f"{reply.request.url.path}/{reply.json()['data'][0]['id']}")


def new_project(world: World, admin: Principal, pick: int = 0) -> httpx.Response:
    name = f"{admin.canary} {len(admin.told)}"
    return world.send(admin, "POST", f"{ORGANIZATION}/projects", json={"name": name})


def new_project_id(world: World, admin: Principal) -> str:
    return new_project(world, admin).json()["id"]


def new_key(world: World, admin: Principal, pick: int = 0) -> httpx.Response:
    project = new_project_id(world, admin)
    path = f"{ORGANIZATION}/projects/{project}/api_keys"
    return world.send(admin, "POST", path, json={"name": admin.canary, "scopes": ["jobs:read"]})


def new_admin_key(world: World, admin: Principal, pick: int = 0) -> httpx.Response:
    return world.send(admin, "POST", f"{ORGANIZATION}/admin_api_keys", json={"name": admin.canary})


def get(path: str, make: Callable[[World, Any], str] | None = None, **params: Any) -> Operation:
    """GET `path`, with the id of something new in it."""

    def operation(world: World, who: Any, pick: int) -> httpx.Response:
        whole = path.format(make(world, who)) if make else path
        return world.send(who, "GET", whole, params=params)

    return operation


def change(method: str, path: str, make: Callable[[World, Any], str], body: Any = None) -> Operation:
    """Send `body` to `path` with the id of something new in it."""

    def operation(world: World, who: Any, pick: int) -> httpx.Response:
        whole = path.format(make(world, who))
        said = {name: f"{value} {who.canary} {len(who.told)}" for name, value in body.items()} if body else None
        return world.send(who, method, whole, json=said)

    return operation


def on_project(method: str, suffix: str = "", body: Any = None) -> Operation:
    def operation(world: World, admin: Principal, pick: int) -> httpx.Response:
        project = new_project_id(world, admin)
        return world.send(admin, method, f"{ORGANIZATION}/projects/{project}{suffix}", json=body)

    return operation


def on_key(method: str, body: Any = None) -> Operation:
    def operation(world: World, admin: Principal, pick: int) -> httpx.Response:
        reply = new_key(world, admin)
        return world.send(admin, method, f"{reply.request.url.path}/{reply.json()['id']}", json=body)

    return operation


def on_admin_key(method: str) -> Operation:
    def operation(world: World, admin: Principal, pick: int) -> httpx.Response:
        path = f"{ORGANIZATION}/admin_api_keys/{new_admin_key(world, admin).json()['id']}"
        return world.send(admin, method, path)

    return operation


FOR_TENANTS: dict[str, Operation] = {
    "POST /v1/files": upload,
    "GET /v1/files": get("/v1/files", limit=10_000),
    "GET /v1/files/{file_id}": get("/v1/files/{}", new_file),
    "DELETE /v1/files/{file_id}": change("DELETE", "/v1/files/{}", new_file),
    "GET /v1/files/{file_id}/content": get("/v1/files/{}/content", new_file),
    "POST /v1/uploads": create_upload,
    "POST /v1/uploads/{upload_id}/parts": add_part,
    "POST /v1/uploads/{upload_id}/complete": complete_upload,
    "POST /v1/uploads/{upload_id}/cancel": change("POST", "/v1/uploads/{}/cancel", new_upload),
    "POST /v1/fine_tuning/jobs": create_job,
    "GET /v1/fine_tuning/jobs": list_jobs,
    "GET /v1/fine_tuning/jobs/{job_id}": get(JOBS + "/{}", finished_job),
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": change("POST", JOBS + "/{}/cancel", new_job),
    "POST /v1/fine_tuning/jobs/{job_id}/pause": change("POST", JOBS + "/{}/pause", queued_job),
    "POST /v1/fine_tuning/jobs/{job_id}/resume": change("POST", JOBS + "/{}/resume", paused_job),
    "GET /v1/fine_tuning/jobs/{job_id}/events": list_events,
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": get(JOBS + "/{}/checkpoints", finished_job),
    "GET /v1/fine_tuning/jobs/{job_id}/adapter": get(JOBS + "/{}/adapter", finished_job),
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints/{checkpoint_id}/adapter": checkpoint_adapter,
    "POST /v1/fine_tuning/checkpoints/{model}/permissions": grant,
    "GET /v1/fine_tuning/checkpoints/{model}/permissions": get("/v1/fine_tuning/checkpoints/{}/permissions", new_model),
    "DELETE /v1/fine_tuning/checkpoints/{model}/permissions/{permission_id}": revoke,
    "GET /v1/models": get("/v1/models"),
    "GET /v1/models/{model}": get("/v1/models/{}", new_model),
    "DELETE /v1/models/{model}": change("DELETE", "/v1/models/{}", new_model),
    "POST /v1/fine_tuning/alpha/graders/validate": lambda world, tenant, pick: world.send(
        tenant, "POST", "/v1/fine_tuning/alpha/graders/validate", json={"grader": grader(tenant)}
    ),
    "POST /v1/fine_tuning/alpha/graders/run": run_grader,
    "POST /v1/webhook_endpoints": create_endpoint,
    "GET /v1/webhook_endpoints": get(WEBHOOKS, limit=1000),
    "GET /v1/webhook_endpoints/{endpoint_id}": get(WEBHOOKS + "/{}", new_endpoint),
    "POST /v1/webhook_endpoints/{endpoint_id}": change("POST", WEBHOOKS + "/{}", new_endpoint, {"name": "x"}),
    "DELETE /v1/webhook_endpoints/{endpoint_id}": change("DELETE", WEBHOOKS + "/{}", new_endpoint),
    "POST /v1/webhook_endpoints/{endpoint_id}/rotate_secret": change(
        "POST", WEBHOOKS + "/{}/rotate_secret", new_endpoint
    ),
    "POST /v1/webhook_endpoints/{endpoint_id}/test": try_endpoint,
    "GET /v1/webhook_endpoints/{endpoint_id}/deliveries": list_deliveries,
    "GET /v1/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}": get_delivery,
    "GET /v1/webhook_event_types": get("/v1/webhook_event_types"),
}
FOR_ADMINS: dict[str, Operation] = {
    "POST /v1/organization/projects": new_project,
    "GET /v1/organization/projects": get(f"{ORGANIZATION}/projects", limit=100, include_archived="true"),
    "GET /v1/organization/projects/{project_id}": on_project("GET"),
    "POST /v1/organization/projects/{project_id}": change(
        "POST",
        ORGANIZATION + "/projects/{}",
        lambda world, admin: new_project(world, admin).json()["id"],
        {"name": "x"},
    ),
    "POST /v1/organization/projects/{project_id}/archive": on_project("POST", "/archive"),
    "GET /v1/organization/projects/{project_id}/limits": on_project("GET", "/limits"),
    "POST /v1/organization/projects/{project_id}/limits": on_project("POST", "/limits", {"quota_running_jobs": 3}),
    "POST /v1/organization/projects/{project_id}/api_keys": new_key,
    "GET /v1/organization/projects/{project_id}/api_keys": on_project("GET", "/api_keys"),
    "GET /v1/organization/projects/{project_id}/api_keys/{key_id}": on_key("GET"),
    "POST /v1/organization/projects/{project_id}/api_keys/{key_id}": on_key("POST", {"scopes": ["files:read"]}),
    "DELETE /v1/organization/projects/{project_id}/api_keys/{key_id}": on_key("DELETE"),
    "POST /v1/organization/admin_api_keys": new_admin_key,
    "GET /v1/organization/admin_api_keys": get(f"{ORGANIZATION}/admin_api_keys", limit=100),
    "GET /v1/organization/admin_api_keys/{key_id}": on_admin_key("GET"),
    "DELETE /v1/organization/admin_api_keys/{key_id}": on_admin_key("DELETE"),
    "GET /v1/organization/audit_logs": get(f"{ORGANIZATION}/audit_logs", limit=100),
    "GET /v1/organization/usage/fine_tuning": get(
        f"{ORGANIZATION}/usage/fine_tuning", start_time=0, **{"group_by[]": ["project_id", "model"]}
    ),
}
# What a body must be so that only the id in the path can be wrong.
BODIES: dict[str, Any] = {
    "POST /v1/uploads/{upload_id}/complete": {"part_ids": ["part_x"]},
    "POST /v1/fine_tuning/checkpoints/{model}/permissions": {"project_ids": ["proj_x"]},
    "POST /v1/webhook_endpoints/{endpoint_id}": {"name": "stolen"},
    "POST /v1/webhook_endpoints/{endpoint_id}/test": {"event_type": "fine_tuning.job.failed"},
    "POST /v1/organization/projects/{project_id}": {"name": "stolen"},
    "POST /v1/organization/projects/{project_id}/limits": {"quota_running_jobs": 1},
    "POST /v1/organization/projects/{project_id}/api_keys": {"name": "stolen"},
    "POST /v1/organization/projects/{project_id}/api_keys/{key_id}": {"scopes": []},
}
# Jobs with which these would succeed, were they one's own.
READY: dict[str, Callable[[World, Any], str]] = {
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": new_job,
    "POST /v1/fine_tuning/jobs/{job_id}/pause": queued_job,
    "POST /v1/fine_tuning/jobs/{job_id}/resume": paused_job,
}
# How the ids begin that `after` takes, and what makes a list of one's own to use it on.
CURSORS: dict[str, tuple[str, Callable[[World, Any], str] | None]] = {
    "GET /v1/files": ("file-", None),
    "GET /v1/fine_tuning/jobs": ("ftjob-", None),
    "GET /v1/fine_tuning/jobs/{job_id}/events": ("ftevent-", finished_job),
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": ("ftckpt_", finished_job),
    "GET /v1/fine_tuning/checkpoints/{model}/permissions": ("cp_", new_model),
    "GET /v1/webhook_endpoints": ("whe_", None),
    "GET /v1/webhook_endpoints/{endpoint_id}/deliveries": ("wh_", new_endpoint),
}
ADMIN_CURSORS: dict[str, tuple[str, Callable[[World, Any], str] | None]] = {
    "GET /v1/organization/projects": ("proj_", None),
    "GET /v1/organization/projects/{project_id}/api_keys": ("key_", new_project_id),
    "GET /v1/organization/admin_api_keys": ("key_", None),
    "GET /v1/organization/audit_logs": ("audit_log-", None),
}
# How the ids begin that a path parameter takes.
PREFIXES = {
    "file_id": "file-",
    "upload_id": "upload_",
    "job_id": "ftjob-",
    "checkpoint_id": "ftckpt_",
    "model": "ft:",
    "permission_id": "cp_",
    "endpoint_id": "whe_",
    "delivery_id": "wh_",
    "project_id": "proj_",
    "key_id": "key_",
}
