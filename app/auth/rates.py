"""How many requests a key may make: a moving minute, counted in this process (the `limits` library), no Redis asked.

Each of the API's processes gives out its share, so that together they give out what was set.
"""

import ipaddress
import math
import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from app.auth.errors import TooManyFailures


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


class FailedLogins:
    """Wrong keys of the last minute by address, counted in this process. Thread-safe.

    most: a minute; 0 for no limit.
    """

    def __init__(self, most: int, *, processes: int) -> None:
        self._item = RateLimitItemPerMinute(math.ceil(most / processes)) if most else None
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def check(self, address: str) -> None:
        """Raise TooManyFailures if keys from this address are not looked at any more."""
        if self._item is not None and not self._limiter.test(self._item, _neighbourhood(address)):
            window = self._limiter.get_window_stats(self._item, _neighbourhood(address))
            raise TooManyFailures(max(1, math.ceil(window.reset_time - time.time())))

    def count(self, address: str) -> None:
        if self._item is not None:
            self._limiter.hit(self._item, _neighbourhood(address))


def _neighbourhood(address: str) -> str:
    """What one caller may have the whole of: an address of IPv4, a /64 network of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _duration(seconds: float) -> str:
    """`120ms`, `7s`, `1m0s`: the way Go prints durations, and OpenAI's headers too."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
