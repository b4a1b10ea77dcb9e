"""Structured logs: one JSON object a line on stderr, a constant event name and fields; secrets are cut out.

What a line belongs to (`request`, `job`, `worker`) is bound once and stands in every line of the thread, whoever
writes it. Contents of requests, files and prompts are never given to a logger.
"""

import contextvars
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from app.config import Settings
from app.exposure import KNOWN_PASSWORDS

# Each leaves what tells the secret's kind. Our own keys keep the start of their public part.
SECRETS = re.compile(
    r"""
    (?P<key>sk-[A-Za-z0-9_-]{4})[A-Za-z0-9_-]+
    | (?P<signing>whsec_)[A-Za-z0-9_+/=-]+
    | (?P<hub>hf_)[A-Za-z0-9]{8,}
    | (?P<aws>AKIA|ASIA)[A-Z0-9]{12,}
    | (?P<user>://[^:/@\s]*:)[^@/\s]+(?=@)
    | (?P<signed>X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s"\\]+
    | (?P<header>\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}
    """,
    re.VERBOSE | re.IGNORECASE,
)
# A line that has none of these, in any case, has none of those: most lines, and a look for words costs a tenth.
SIGNS = ("sk-", "whsec_", "hf_", "akia", "asia", "://", "x-amz-", "bearer")
SHORTEST_SECRET = 6  # characters; a shorter one would be found in ordinary words
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_bound: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar("bound", default=None)
_hidden: set[str] = set()  # this process's own secrets, cut out wherever they stand


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Put `fields` into every line that is logged inside the block."""
    token = _bound.set({**(_bound.get() or {}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def redact(text: str) -> str:
    """`text` without keys, tokens, passwords in URLs, and this process's own secrets."""
    for secret in _hidden:
        text = text.replace(secret, "…")
    lowered = text.lower()
    if not any(sign in lowered for sign in SIGNS):
        return text
    return SECRETS.sub(lambda match: f"{next(filter(None, match.groups()))}…", text)


def hide(settings: Settings) -> None:
    """Cut the values of all secret settings, and the passwords in URLs, out of every line from now on."""
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            for part in value.get_secret_value().split(","):  # `secret_keys` holds several
                _hide(part.strip())
        elif name.endswith("_url") and value and (password := urlsplit(str(value)).password):
            _hide(password)
            _hide(unquote(password))


def _hide(secret: str) -> None:
    if len(secret) >= SHORTEST_SECRET and secret not in KNOWN_PASSWORDS:  # everybody's is nobody's secret
        _hidden.add(secret)
        _hidden.add(json.dumps(secret, ensure_ascii=False)[1:-1])  # as it stands inside a line


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; line feeds inside values are escaped by JSON itself."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **(_bound.get() or {}),
        }
        fields.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(fields, default=str, ensure_ascii=False))


def configure(settings: Settings) -> None:
    """Send every logger of this process to stderr as JSON lines, without the settings' secrets."""
    hide(settings)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for chatty in ("botocore", "urllib3", "httpx", "httpcore", "kombu", "amqp", "wandb"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
