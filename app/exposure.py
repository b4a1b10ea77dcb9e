"""What others can reach, and what they must not find there: asked before a process listens, and by the doctor."""

from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from app.config import Settings, is_loopback

# Those of our compose file and of the images people start with.
KNOWN_PASSWORDS = frozenset(
    {"tunesmith", "tunesmith-secret", "postgres", "password", "changeme", "secret", "admin", "minioadmin", "redis"}
)


class UnsafeSettings(Exception):
    """The settings would open something that must not be open; the message names all of it."""


def refuse_unsafe(settings: Settings, *, keys: int | None = None) -> None:
    """Raise UnsafeSettings if these settings must not meet the network, unless `development` says that they may.

    keys: how many API keys open something, None if that is not known.
    """
    found = list(dangers(settings))
    if keys == 0 and not settings.development and not is_loopback(settings.host):
        found.append(f"{settings.host} is open and there is no API key: run `tunesmith keys create` first")
    if found:
        raise UnsafeSettings("; ".join(found) + " (TUNESMITH_DEVELOPMENT=true starts all the same)")


def dangers(settings: Settings) -> Iterator[str]:
    """What is unsafe about the settings, each with what to do; nothing where only this machine can call."""
    if settings.development:
        return
    if settings.metrics_port and settings.metrics_token is None and not is_loopback(settings.metrics_host):
        yield f"metrics on {settings.metrics_host} can be read by anyone: set TUNESMITH_METRICS_TOKEN"
    if is_loopback(settings.host):
        return
    for name, secret in _passwords(settings):
        if secret in KNOWN_PASSWORDS:
            yield f"TUNESMITH_{name.upper()} holds a password that everybody knows: choose another"
    if settings.log_level.upper() in {"DEBUG", "TRACE"}:
        yield "TUNESMITH_LOG_LEVEL=DEBUG lets libraries log what requests hold: use INFO"


def _passwords(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in ("database_url", "redis_url"):
        if password := urlsplit(getattr(settings, name)).password:
            yield name, unquote(password)
    if settings.s3_secret_access_key is not None:
        yield "s3_secret_access_key", settings.s3_secret_access_key.get_secret_value()
