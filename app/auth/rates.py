"""How many requests a key may make: a moving minute, counted in this process (the `limits` library), no Redis asked.

Each of the API's processes gives out its share, so that together they give out what was set.
"""

import math
import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter


@dataclass(frozen=True)
class Allowance:
    """What is left to a key, as told to its owner: for all processes together, judged by this one."""

    granted: bool
    limit: int
    remaining: int
    reset_seconds: float  # until the oldest request of the last minute no longer counts

    @property
    def retry_after(self) -> int:
        """Whole seconds until the next request will be granted."""
        return max(1, math.ceil(self.reset_seconds))

    def headers(self) -> dict[str, str]:
        """OpenAI's headers."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": _duration(self.reset_seconds),
        }


class RateLimits:
    """The requests of the last minute by key. Thread-safe.

    default: requests a minute for a key whose project has no limit of its own; 0 for none.
    """

    def __init__(self, default: int, *, processes: int) -> None:
        self._default = default
        self._processes = processes
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def take(self, key_id: str, own: int | None) -> Allowance | None:
        """Count one request; what is left, or None if this key is not counted."""
        limit = self._default if own is None else own
        if limit == 0:
            return None
        item = RateLimitItemPerMinute(max(1, math.ceil(limit / self._processes)))
        granted = self._limiter.hit(item, key_id)
        window = self._limiter.get_window_stats(item, key_id)
        remaining = min(limit, window.remaining * self._processes)
        return Allowance(granted, limit, remaining, max(0.0, window.reset_time - time.time()))


def _duration(seconds: float) -> str:
    """`120ms`, `7s`, `1m0s`: the way Go prints durations, and OpenAI's headers too."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
