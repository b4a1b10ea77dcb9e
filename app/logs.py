"""Structured logs: one JSON object a line on stderr, a constant event name and fields; secrets are cut out."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

SECRETS = re.compile(r"(sk-[A-Za-z0-9_-]{4}|whsec_)[A-Za-z0-9_+/=-]+|(://[^:/@\s]*:)[^@/\s]+@")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """`text` without API keys, signing secrets, and passwords in URLs."""
    return SECRETS.sub(lambda match: f"{match[1]}…" if match[1] else f"{match[2]}…@", text)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; line feeds inside values are escaped by JSON itself."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        fields.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(fields, default=str, ensure_ascii=False))


def configure(level: str) -> None:
    """Send every logger of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("botocore", "urllib3", "httpx", "httpcore", "kombu", "amqp", "wandb"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
