"""What can be wrong with a request about models."""

from app.errors import BadRequest, Forbidden, NotFound


class ModelNotFound(NotFound):
    """The model does not exist."""

    code = "model_not_found"
    param = "model"

    def __init__(self, name: str) -> None:
        super().__init__(f"The model '{name}' does not exist.")


class ModelNotAvailable(BadRequest):
    """The model cannot be trained here: unknown, of another project, or not on this server, all alike."""

    code = "model_not_available"
    param = "model"

    def __init__(self, name: str) -> None:
        super().__init__(f"Model {name} is not available for fine-tuning or does not exist.")


class BaseModelKept(Forbidden):
    """Only your own fine-tuned models can be deleted."""

    param = "model"


class AdapterMissing(NotFound):
    """There is no adapter here yet, or no longer."""

    code = "adapter_not_found"
