"""What a worker takes for a ring. Anything else that lies in its queue is logged, dropped and forgotten.

A ring is a hint and carries nothing: dropping one is always right, none is kept until it was acknowledged, and of a
message that is one nothing more is read. Celery by itself ends its worker at some messages that it did not send, and
goes deaf after others.
"""

import logging
import secrets
from queue import Empty
from typing import Any

from kombu.transport import redis, virtual
from redis.exceptions import RedisError, ResponseError

from app import queue

log = logging.getLogger(__name__)


def install() -> None:
    """Let every connection to Redis that this process makes from now on hear like this; kombu has no setting for it."""
    redis.Transport.Channel = _Channel


class _Ring(virtual.Message):
    """Made anew, whatever came with the one that arrived: times, limits, arguments, a pickle."""

    def __init__(self, payload: Any, channel: Any = None, **rest: Any) -> None:
        if payload["headers"]["task"] != queue.RING:
            raise ValueError("not a ring")
        name = secrets.token_hex(8)
        bare = {
            "body": "[[], {}, {}]",
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"lang": "py", "task": queue.RING, "id": name},
            "properties": {"delivery_tag": name, "delivery_info": {}},
        }
        super().__init__(bare, channel=channel, **rest)


class _NothingKept(redis.QoS):
    """No bookkeeping in Redis of what is on its way: that would be two round trips for each ring, and a worker that
    looks for what others left behind takes a lock, which ends it where Redis has no memory left.
    """

    def append(self, message: Any, delivery_tag: str) -> None: ...

    def ack(self, delivery_tag: str) -> None: ...

    def reject(self, delivery_tag: str, requeue: bool = False) -> None: ...

    def restore_visible(self, *_: Any, **__: Any) -> None: ...


class _Channel(redis.Channel):
    Message, QoS = _Ring, _NothingKept

    # Before it listens, Celery counts what is in its queue, and writes down where rings go. A Redis that answers and
    # takes no writes (no memory left, no disk, a replica) refuses both; who listens hears without them.

    def _size(self, name: str) -> int:
        try:
            return int(super()._size(name))
        except ResponseError as error:
            _refused(error)
            return 0

    def _queue_bind(self, *binding: Any) -> None:
        try:
            super()._queue_bind(*binding)
        except ResponseError as error:
            _refused(error)

    def _brpop_read(self, **options: Any) -> Any:
        """Read one message and have it acted on, which raises in as many ways as there are ways to be wrong."""
        try:
            return super()._brpop_read(**options)
        except (Empty, OSError, RedisError):
            raise  # the line's, which Celery knows how to live with
        except Exception as error:
            log.warning("ring.garbled", extra={"reason": type(error).__name__})
            raise Empty from error


def _refused(error: ResponseError) -> None:
    log.warning("redis.takes_no_writes", extra={"reason": str(error)})
