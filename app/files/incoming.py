"""Bytes on their way into the store: counted and hashed while they are written.

Nothing is visible before `finish`; whatever goes wrong before it leaves no object.
"""

import hashlib
from contextlib import ExitStack
from typing import Any

from app.errors import TooLarge
from app.storage import Store


class Incoming:
    """An object that arrives in a form (a `Target` of app/http/multipart.py), and the fields that came with it."""

    def __init__(self, store: Store, key: str, *, most: int, param: str) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._store = store
        self._key = key
        self._most = most
        self._param = param
        self._stack = ExitStack()
        self._writer: Any = None

    def write(self, data: bytes) -> None:
        """Hash and store the next bytes. Raises TooLarge, StoreUnavailable."""
        self.size += len(data)
        if self.size > self._most:
            raise TooLarge(f"'{self._param}' is larger than {self._most} bytes.", param=self._param)
        if self._writer is None:
            self._writer = self._stack.enter_context(self._store.writing(self._key))
        self.sha256.update(data)
        self._writer.write(data)

    def finish(self) -> None:
        """Make the object whole."""
        self._stack.close()

    def abort(self, error: BaseException) -> None:
        """Leave no object behind."""
        self._stack.__exit__(type(error), error, error.__traceback__)

    def discard(self) -> None:
        """Remove an object whose row could not be inserted."""
        self._store.delete(self._key)
