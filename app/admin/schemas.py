"""Projects, keys, limits, audit entries and usage on the wire: OpenAI's admin shapes where it has them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from app.admin.usage import Bucket, Use
from app.audit.tables import AuditEntry
from app.auth import service as auth
from app.auth.quotas import Quotas
from app.auth.service import LIFETIME_SECONDS, Issued
from app.auth.tables import ApiKey, Project
from app.config import MOST_BIGINT, MOST_JOBS, MOST_REQUESTS_PER_MINUTE

STRICT = ConfigDict(strict=True, extra="forbid")
Lifetime = Annotated[int, Field(ge=LIFETIME_SECONDS.start, lt=LIFETIME_SECONDS.stop)]
Bytes = Annotated[int, Field(ge=0, le=MOST_BIGINT)]
Jobs = Annotated[int, Field(ge=0, le=MOST_JOBS)]
KeyName = Annotated[str, Field(min_length=1)]  # what else it may be, `auth.check_name` says
Rate = Annotated[int, Field(ge=0, le=MOST_REQUESTS_PER_MINUTE)]
Item = TypeVar("Item")


class ProjectRequest(BaseModel):
    """The body that creates or renames a project."""

    model_config = STRICT

    name: str


class KeyRequest(BaseModel):
    """The body that makes a project's key. Without scopes it may do everything in its project."""

    model_config = STRICT

    name: KeyName
    scopes: Annotated[list[str], Field(max_length=32)] = []
    expires_in_seconds: Lifetime | None = None


class KeyUpdate(BaseModel):
    """The body that changes a project's key: only what is in it. No scopes at all lift the restriction."""

    model_config = STRICT

    scopes: Annotated[list[str], Field(max_length=32)] | None = None
    expires_in_seconds: Lifetime | None = None


class AdminKeyRequest(BaseModel):
    """The body that makes an admin key."""

    model_config = STRICT

    name: KeyName
    expires_in_seconds: Lifetime | None = None


class LimitsRequest(BaseModel):
    """The body that changes a project's limits: only what is in it. null: the server's default; 0: no limit."""

    model_config = STRICT

    requests_per_minute: Rate | None = None
    quota_storage_bytes: Bytes | None = None
    quota_running_jobs: Jobs | None = None
    quota_waiting_jobs: Jobs | None = None
    quota_monthly_tokens: Bytes | None = None


class ProjectObject(TypedDict):
    id: str
    object: Literal["organization.project"]
    name: str
    created_at: int
    archived_at: int | None
    status: Literal["active", "archived"]


class ServiceAccount(TypedDict):
    id: str
    name: str
    created_at: int
    role: str


class KeyOwner(TypedDict):
    type: Literal["service_account"]
    service_account: ServiceAccount


class KeyObject(TypedDict):
    id: str
    object: Literal["organization.project.api_key"]
    name: str
    redacted_value: str
    scopes: list[str]
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    owner: KeyOwner
    owner_project_access: Literal["active"]


class NewKeyObject(KeyObject):
    value: str


class AdminKeyOwner(TypedDict):
    type: str
    object: str
    id: str
    name: str
    created_at: int
    role: str


class AdminKeyObject(TypedDict):
    id: str
    object: Literal["organization.admin_api_key"]
    name: str
    redacted_value: str
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    owner: AdminKeyOwner


class NewAdminKeyObject(AdminKeyObject):
    value: str


class Deleted(TypedDict):
    id: str
    object: str
    deleted: bool


class Limits(TypedDict):
    requests_per_minute: int | None
    quota_storage_bytes: int | None
    quota_running_jobs: int | None
    quota_waiting_jobs: int | None
    quota_monthly_tokens: int | None


class Used(TypedDict):
    storage_bytes: int
    running_jobs: int
    waiting_jobs: int
    monthly_tokens: int


class LimitsObject(TypedDict):
    object: Literal["organization.project.limits"]
    project_id: str
    own: Limits  # null: the server's
    effective: Limits  # 0: no limit
    used: Used


class AuditLogObject(TypedDict):
    """Beside these, one member named by `type` holds what was changed."""

    id: str
    type: str
    effective_at: int
    project: dict[str, Any] | None
    actor: dict[str, Any]
    request_id: str | None


class UsageResult(TypedDict):
    object: Literal["organization.usage.fine_tuning.result"]
    project_id: str | None
    model: str | None
    trained_tokens: int
    num_jobs: int
    num_succeeded_jobs: int


class UsageBucket(TypedDict):
    object: Literal["bucket"]
    start_time: int
    end_time: int
    results: list[UsageResult]


class UsagePage(TypedDict):
    object: Literal["page"]
    data: list[UsageBucket]
    has_more: bool
    next_page: str | None


class _List(TypedDict):
    object: Literal["list"]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ProjectList(_List):
    data: list[ProjectObject]


class KeyList(_List):
    data: list[KeyObject]


class AdminKeyList(_List):
    data: list[AdminKeyObject]


class AuditLogList(_List):
    data: list[AuditLogObject]


def listed(data: Sequence[Any], *, has_more: bool) -> dict[str, Any]:
    """A page of objects that have ids."""
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": list(data), **ends, "has_more": has_more}


def project(row: Project) -> ProjectObject:
    """The project object."""
    return {
        "id": row.id,
        "object": "organization.project",
        "name": row.name,
        "created_at": int(row.created_at.timestamp()),
        "archived_at": _seconds(row.archived_at),
        "status": "active" if row.archived_at is None else "archived",
    }


def key(row: ApiKey) -> KeyObject:
    """A project's key. Each key is its own service account: nobody else owns it."""
    created_at = int(row.created_at.timestamp())
    account: ServiceAccount = {"id": row.id, "name": row.name, "created_at": created_at, "role": "member"}
    return {
        "id": row.id,
        "object": "organization.project.api_key",
        "name": row.name,
        "redacted_value": auth.redacted(row),
        "scopes": list(row.scopes),
        "created_at": created_at,
        "last_used_at": _seconds(row.last_used_at),
        "expires_at": _seconds(row.expires_at),
        "owner": {"type": "service_account", "service_account": account},
        "owner_project_access": "active",
    }


def new_key(issued: Issued) -> NewKeyObject:
    """A project's key, with the key itself: this once."""
    return {**key(issued.row), "value": issued.value}


def admin_key(row: ApiKey) -> AdminKeyObject:
    """An admin key; its owner is itself."""
    created_at = int(row.created_at.timestamp())
    return {
        "id": row.id,
        "object": "organization.admin_api_key",
        "name": row.name,
        "redacted_value": auth.redacted(row),
        "created_at": created_at,
        "last_used_at": _seconds(row.last_used_at),
        "expires_at": _seconds(row.expires_at),
        "owner": {
            "type": "service_account",
            "object": "organization.service_account",
            "id": row.id,
            "name": row.name,
            "created_at": created_at,
            "role": "owner",
        },
    }


def new_admin_key(issued: Issued) -> NewAdminKeyObject:
    """An admin key, with the key itself: this once."""
    return {**admin_key(issued.row), "value": issued.value}


def deleted(key_id: str, kind: str) -> Deleted:
    """The reply to a deletion."""
    return {"id": key_id, "object": f"{kind}.deleted", "deleted": True}


def limits(row: Project, effective: Quotas, requests_per_minute: int, used: Used) -> LimitsObject:
    """A project's limits, and how much of them is used."""
    own = {name: getattr(row, name) for name in LimitsRequest.model_fields}
    return {
        "object": "organization.project.limits",
        "project_id": row.id,
        "own": own,  # type: ignore[typeddict-item]
        "effective": {"requests_per_minute": requests_per_minute, **vars(effective)},  # type: ignore[typeddict-item]
        "used": used,
    }


def audit_entry(row: AuditEntry, project_name: str | None) -> dict[str, Any]:
    """The audit log object. OpenAI has no address for actors with keys; here they have."""
    about = "changes_requested" if row.action.endswith(".updated") else "data"
    return {
        "id": row.id,
        "type": row.action,
        "effective_at": int(row.at.timestamp()),
        "project": None if row.project_id is None else {"id": row.project_id, "name": project_name},
        "actor": _actor(row),
        "request_id": row.request_id,
        row.action: {"id": row.target, about: row.details},
    }


def usage_page(buckets: Sequence[Bucket], next_page: str | None) -> UsagePage:
    """A page of usage buckets."""
    data: list[UsageBucket] = [
        {
            "object": "bucket",
            "start_time": bucket.start,
            "end_time": bucket.end,
            "results": [_result(use) for use in bucket.uses],
        }
        for bucket in buckets
    ]
    return {"object": "page", "data": data, "has_more": next_page is not None, "next_page": next_page}


def _result(use: Use) -> UsageResult:
    return {
        "object": "organization.usage.fine_tuning.result",
        "project_id": use.project_id,
        "model": use.model,
        "trained_tokens": use.trained_tokens,
        "num_jobs": use.num_jobs,
        "num_succeeded_jobs": use.num_succeeded_jobs,
    }


def _actor(row: AuditEntry) -> dict[str, Any]:
    where = {"ip_address": row.ip_address, "user_agent": row.user_agent}
    if row.key_id is None:
        return {"type": "session", "session": {"user": {"id": row.account}, **where}}
    account = {"type": "service_account", "id": row.key_id, "service_account": {"id": row.key_id}}
    return {"type": "api_key", "api_key": account, **where}


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
