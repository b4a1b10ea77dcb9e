"""What can be done here that changes something: the words of the audit log, OpenAI's own where it has one."""

from enum import StrEnum


class Action(StrEnum):
    FILE_CREATED = "file.created"
    FILE_DELETED = "file.deleted"
    FILE_EXPIRED = "file.expired"
    UPLOAD_CREATED = "upload.created"
    UPLOAD_CANCELLED = "upload.cancelled"  # a completed one is a file that was created
    UPLOAD_EXPIRED = "upload.expired"
    JOB_CREATED = "fine_tuning.job.created"
    JOB_CANCELLED = "fine_tuning.job.cancelled"
    JOB_PAUSED = "fine_tuning.job.paused"
    JOB_RESUMED = "fine_tuning.job.resumed"
    MODEL_DELETED = "model.deleted"
    PERMISSION_CREATED = "checkpoint.permission.created"
    PERMISSION_DELETED = "checkpoint.permission.deleted"
    WEBHOOK_CREATED = "webhook_endpoint.created"
    WEBHOOK_UPDATED = "webhook_endpoint.updated"
    WEBHOOK_DELETED = "webhook_endpoint.deleted"
    WEBHOOK_SECRET_ROTATED = "webhook_endpoint.secret_rotated"  # noqa: S105 - the name of an action
    WEBHOOK_TESTED = "webhook_endpoint.tested"
    KEY_CREATED = "api_key.created"
    KEY_UPDATED = "api_key.updated"
    KEY_DELETED = "api_key.deleted"
    PROJECT_CREATED = "project.created"
    PROJECT_UPDATED = "project.updated"
    PROJECT_ARCHIVED = "project.archived"
    LIMITS_UPDATED = "project.limits.updated"
