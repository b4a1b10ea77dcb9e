"""OpenAI's own client, pointed at the server that the environment names."""

from typing import TYPE_CHECKING

from app.cli.errors import UNREACHABLE, CommandError
from app.config import ClientSettings

if TYPE_CHECKING:
    from openai import OpenAI


def connect() -> "OpenAI":
    """A client for OPENAI_BASE_URL with OPENAI_API_KEY. Raises CommandError without a key."""
    settings = ClientSettings()
    if settings.api_key is None:
        raise CommandError("OPENAI_API_KEY is not set; `tunesmith up` prints a key", UNREACHABLE)
    from openai import OpenAI

    return OpenAI(base_url=settings.base_url, api_key=settings.api_key.get_secret_value(), max_retries=3)
