"""What can be wrong with a request about models."""

from app.errors import BadRequest, Forbidden, NotFound, quoted


class ModelNotFound(NotFound):
    """The model does not exist."""

    code = "model_not_found"
    param = "model"

    def __init__(self, name: str) -> None:
        super().__init__(f"The model '{quoted(name)}' does not exist.")


class ModelNotAvailable(BadRequest):
    """The model cannot be trained here: unknown, of another project, or not on this server, all alike."""

    code = "model_not_available"
    param = "model"

    def __init__(self, name: str) -> None:
        super().__init__(f"Model {quoted(name)} is not available for fine-tuning or does not exist.")


class BaseModelKept(Forbidden):
    """Only your own fine-tuned models can be deleted."""

    param = "model"


class NotTheOwner(Forbidden):
    """This model belongs to another project, which only lets you use it."""

    param = "model"


class UnknownProject(BadRequest):
    """There is no such project in this organisation."""

    code = "invalid_value"
    param = "project_ids"

    def __init__(self, project_id: str) -> None:
        super().__init__(f"There is no project '{project_id[:64]}' in this organisation.")


class PermissionNotFound(NotFound):
    """There is no such permission on this checkpoint."""

    param = "permission_id"

    def __init__(self, permission_id: str) -> None:
        super().__init__(f"There is no permission '{permission_id[:64]}' on this checkpoint.")


class AdapterMissing(NotFound):
    """There is no adapter here yet, or no longer."""

    code = "adapter_not_found"
