"""The base models that this worker could not load: it leaves their jobs to others, and tries again now and then."""

import time

PAUSE_SECONDS = 30.0


class Shunned:
    """Base keys. Thread-safe, as each method does one thing to a dict."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, base_key: str) -> None:
        """Leave a base alone for a while."""
        self._until[base_key] = time.monotonic() + PAUSE_SECONDS

    def __contains__(self, base_key: str) -> bool:
        return self._until.get(base_key, 0.0) > time.monotonic()

    @property
    def keys(self) -> list[str]:
        return [key for key in list(self._until) if key in self]
