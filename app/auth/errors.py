"""What can be wrong with a caller's credentials."""

from app.errors import Unauthorized


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
