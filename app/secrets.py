"""Secrets at rest: sealed under the operator's keys, and bound to the row they belong to.

AES-256-GCM. A sealed text reads `v1.<key id>.<nonce and ciphertext>`. What it belongs to is authenticated with it, so a
sealed secret that is copied to another row cannot be opened there.
"""

import base64
import binascii
import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
VERSION = "v1"


class CannotOpen(Exception):
    """A sealed secret was made under another key or for another place, or was changed."""


class NoKeys(Exception):
    """The server has no keys to keep secrets under."""


class Vault:
    """Seals under the first key, opens under any: a key is rotated by putting a new one in front."""

    def __init__(self, keys: str) -> None:
        """keys: base64 of 32 bytes each, with commas between; may be empty. Raises ValueError."""
        self._keys = {_key_id(key): AESGCM(key) for key in _decoded(keys)}
        self._current = next(iter(self._keys), None)

    @property
    def usable(self) -> bool:
        return self._current is not None

    def seal(self, secret: str, *, place: str) -> str:
        """Encrypt a secret for a place, such as a table, a column and an id. Raises NoKeys."""
        if self._current is None:
            raise NoKeys
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._keys[self._current].encrypt(nonce, secret.encode(), _bound(self._current, place))
        return f"{VERSION}.{self._current}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def open(self, sealed: str, *, place: str) -> str:
        """The secret that was sealed for this place. Raises CannotOpen."""
        try:
            version, key_id, text = sealed.split(".")
            data = base64.urlsafe_b64decode(text)
            if version != VERSION:
                raise CannotOpen(f"unknown version {version!r}")
            return self._keys[key_id].decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], _bound(key_id, place)).decode()
        except (ValueError, KeyError, InvalidTag) as error:
            raise CannotOpen(type(error).__name__) from None


def new_key() -> str:
    """A key as the settings take it."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def _decoded(keys: str) -> list[bytes]:
    decoded = []
    for text in filter(None, (part.strip() for part in keys.split(","))):
        try:
            key = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise ValueError("a secret key is not base64") from None
        if len(key) != KEY_BYTES:
            raise ValueError(f"a secret key has {len(key)} bytes, not {KEY_BYTES}")
        decoded.append(key)
    return decoded


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"tunesmith key id" + key).hexdigest()[:8]


def _bound(key_id: str, place: str) -> bytes:
    return f"{VERSION}.{key_id}.{place}".encode()
