"""What can be wrong with a request about jobs."""

from app.errors import BadRequest, NotFound, quoted


class JobNotFound(NotFound):
    """Could not find fine tune."""

    code = "fine_tune_not_found"
    param = "fine_tune_id"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Could not find fine tune: {quoted(job_id)}")


class JobIsFinal(BadRequest):
    """The job is over and cannot be cancelled."""

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(f"Job {job_id} cannot be cancelled: it is already {status}.")


class JobCannotPause(BadRequest):
    """Only queued and running jobs can be paused."""

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(f"Job {job_id} cannot be paused: it is {status}.")


class JobCannotResume(BadRequest):
    """Only paused jobs can be resumed."""

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(f"Job {job_id} cannot be resumed: it is {status}.")


class InvalidFile(BadRequest):
    """The file cannot be used for fine-tuning."""

    code = "invalid_value"


class InvalidSuffix(BadRequest):
    """The suffix needs at least one letter or digit."""

    code = "invalid_value"
    param = "suffix"


class InvalidFilter(BadRequest):
    """Filter by metadata[key]=value, a key once, or by metadata=null, not by both."""

    code = "invalid_value"
    param = "metadata"


class MethodNotOffered(BadRequest):
    """This server trains with method.type 'supervised' only."""

    code = "invalid_value"
    param = "method.type"

    def __init__(self, method: str) -> None:
        super().__init__(f"Method '{method}' is not available on this server; use 'supervised'.")


class IntegrationNotConfigured(BadRequest):
    """Weights & Biases is not configured on this server, so the 'wandb' integration cannot be used."""

    code = "invalid_value"
    param = "integrations"


class ConflictingHyperparameters(BadRequest):
    """The top-level hyperparameters contradict those inside the method."""

    code = "invalid_value"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"hyperparameters.{name} and the method's {name} are different numbers; give one of them.",
            param=f"hyperparameters.{name}",
        )


class InvalidHyperparameter(BadRequest):
    """A hyperparameter is not possible with this base model."""

    code = "invalid_value"

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message, param=f"method.supervised.hyperparameters.{name}")


class CheckpointNotFound(NotFound):
    """There is no such checkpoint."""

    code = "checkpoint_not_found"
    param = "fine_tuning_checkpoint_id"

    def __init__(self, checkpoint_id: str) -> None:
        super().__init__(f"Could not find checkpoint: {quoted(checkpoint_id)}")
