"""Signatures as Standard Webhooks has them: HMAC-SHA256 over id, timestamp and body, under a `whsec_` secret."""

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32


def new_secret() -> str:
    """A signing secret as receivers take it."""
    return PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode()


def hint(secret: str) -> str:
    """What may be shown of a secret: its last four characters that carry something."""
    return f"{PREFIX}…{secret.rstrip('=')[-4:]}"


def headers(secrets: Sequence[str], *, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that prove a request, with one signature for each secret. timestamp: Unix seconds."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(secret, signed)}" for secret in secrets),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX)) if secret.startswith(PREFIX) else secret.encode()
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
