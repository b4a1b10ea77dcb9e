"""What can be wrong with a caller's credentials."""

from app.errors import BadRequest, Forbidden, NotFound, TooManyRequests, Unauthorized


class MissingKey(Unauthorized):
    """You didn't provide an API key. Send it as `Authorization: Bearer <key>`."""


class InvalidKey(Unauthorized):
    """Incorrect API key provided."""


class MismatchedOrganization(Unauthorized):
    """The OpenAI-Organization header does not match the organization of this API key."""

    code = "mismatched_organization"


class MismatchedProject(Unauthorized):
    """The OpenAI-Project header does not match the project of this API key."""

    code = "mismatched_project"


class MissingScope(Forbidden):
    """This key may not do that."""

    code = "missing_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"You have insufficient permissions for this operation. Missing scopes: {scope}.")


class KeyNotFound(NotFound):
    """There is no such API key."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"No such API key: {key_id[:64]}")


class InvalidName(BadRequest):
    """A name has 1 to 256 characters that can be printed, and no space at its ends."""

    code = "invalid_value"
    param = "name"


class InvalidSlug(BadRequest):
    """An organisation is named by 1 to 64 lower-case letters, digits and hyphens, with no hyphen at the ends."""

    code = "invalid_value"
    param = "organization"


class InvalidScopes(BadRequest):
    """A key needs at least one scope, and 'admin' goes with no other scope."""

    code = "invalid_value"
    param = "scopes"


class InvalidExpiry(BadRequest):
    """A key lives from one minute to ten years."""

    code = "invalid_value"
    param = "expires_in_seconds"


class RateLimited(TooManyRequests):
    """This key has made as many requests as it may in a minute."""

    def __init__(self, limit: int, retry_after: int) -> None:
        super().__init__(f"Rate limit reached for requests: {limit} per minute. Please try again in {retry_after}s.")
        self.retry_after = retry_after


class TooManyFailures(TooManyRequests):
    """Too many requests with incorrect API keys came from this address."""

    should_retry = False

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            f"Too many requests with incorrect API keys came from this address. Please try again in {retry_after}s."
        )
        self.retry_after = retry_after


class QuotaExceeded(TooManyRequests):
    """The project's quota is used up."""

    type = "insufficient_quota"
    code = "insufficient_quota"
    should_retry = False  # waiting a second or two will not help
    retry_after = 3600


class TooManyJobs(TooManyRequests):
    """The project has as many waiting jobs as it may."""

    should_retry = False
    retry_after = 60

    def __init__(self, most: int, waiting: int, running: int) -> None:
        super().__init__(
            f"This project may have {most} fine-tuning jobs waiting; it has {waiting} waiting and {running} running."
        )
