"""What a key may do. Each route asks for one scope, in its signature; `app.auth.deps` lets nobody else in."""

from enum import StrEnum


class Scope(StrEnum):
    FILES_READ = "files:read"  # uploads too
    FILES_WRITE = "files:write"
    JOBS_READ = "jobs:read"  # with events and checkpoints
    JOBS_WRITE = "jobs:write"
    MODELS_READ = "models:read"  # with adapters and checkpoint permissions
    MODELS_WRITE = "models:write"
    GRADERS_RUN = "graders:run"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"
    ADMIN = "admin"  # of the organisation, and nothing in its projects but permissions; goes with no other scope


PROJECT_SCOPES = frozenset(Scope) - {Scope.ADMIN}
