"""From an exception to one line on stderr and an exit status a pipeline can use."""

import sys

FAILED = 1
USAGE = 2
UNREACHABLE = 3
UNAVAILABLE = 4


class CommandError(Exception):
    """Something the user should read, and the status to exit with."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def report(error: Exception) -> int:
    """Say what went wrong in one line and return the exit status."""
    message, status = explain(error)
    print(f"tunesmith: {' '.join(message.split())}", file=sys.stderr)
    return status


def explain(error: Exception) -> tuple[str, int]:
    """The message and the exit status of an error."""
    if isinstance(error, CommandError):
        return str(error), error.status
    # Only a command that used the client can raise its errors: the others never pay for the import.
    if "openai" in sys.modules and (explained := _explain_openai(error)):
        return explained
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", USAGE
    if type(error).__name__ == "OperationalError":
        return f"the database cannot be reached: {error.__cause__ or error}", UNREACHABLE
    return str(error) or type(error).__name__, FAILED


def _explain_openai(error: Exception) -> tuple[str, int] | None:
    """The client's errors; None for any other."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return "the server did not answer in time", UNREACHABLE
    if isinstance(error, openai.APIConnectionError):
        return f"cannot reach the server: {error.__cause__ or error}", UNREACHABLE
    if isinstance(error, openai.APIStatusError):
        return _message(error), _status(error.status_code)
    return None


def _message(error: object) -> str:
    """The envelope's message with its param, else whatever the client made of the reply."""
    body = getattr(error, "body", None)
    if not isinstance(body, dict):
        return str(error)
    param = body.get("param")
    return f"{body.get('message', error)}" + (f" (param: {param})" if param else "")


def _status(http_status: int) -> int:
    if http_status in {401, 403}:
        return UNREACHABLE
    return UNAVAILABLE if http_status >= 500 or http_status == 429 else USAGE
