"""The Celery app, its queues, and the doorbell. No task bodies: the worker entries define what a ring does.

A ring carries nothing: a worker that hears one looks into Postgres. Losing every ring costs one poll interval.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from celery import Celery

from app.config import Settings

CPU = "cpu"
GPU = "gpu"
RING = "tunesmith.ring"  # the one task

log = logging.getLogger(__name__)


def create_celery(settings: Settings) -> Celery:
    """The Celery app with the settings that keep Redis out of the truth (docs/decisions/0003)."""
    # Celery has a name of its own for what every other client calls unix://.
    broker = settings.redis_url.replace("unix://", "redis+socket://", 1) or "memory://"
    celery = Celery("tunesmith", broker=broker)
    celery.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=bool(settings.redis_url),  # Celery has it for Redis only
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # Redis that answers and refuses, as without memory, is no reason to end
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": 10,
            "socket_connect_timeout": 1,
            "socket_keepalive": True,
            "health_check_interval": 15,
            "global_keyprefix": "tunesmith:",
            # Publishing is best effort and must not wait for a dead broker.
            "max_retries": 0,
        },
        task_default_queue=CPU,
        task_publish_retry=False,
    )
    return celery


def trouble(settings: Settings) -> str:
    """Why Redis does not answer now, in words; empty when it does."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    once = Retry(NoBackoff(), 0)
    client = redis.Redis.from_url(settings.redis_url, socket_connect_timeout=1, socket_timeout=1, retry=once)
    try:
        client.ping()
    except redis.RedisError as error:
        return " ".join(str(error).split())
    else:
        return ""
    finally:
        client.close()


class Bell:
    """Rings queues, best effort, in a thread of its own: nobody waits for a ring, and a failure is only logged.

    A ring says nothing but "look": those that come while one is on its way, or right after it, are one. Where many wait
    unheard, nobody is there to hear another.
    """

    PAUSE_SECONDS = 0.05
    MOST_UNHEARD = 100  # a kilobyte each: Redis stays small, however long the queue is and nobody works

    def __init__(self, settings: Settings) -> None:
        self._celery = create_celery(settings) if settings.redis_url else None
        self._ringer = ThreadPoolExecutor(1, thread_name_prefix="bell")
        self._lock = threading.Lock()
        self._due: set[str] = set()
        self._rung = 0.0  # when the last ring ended

    def ring(self, queue: str) -> None:
        """Tell the workers of `queue` to look."""
        with self._lock:
            if self._celery is None or queue in self._due:
                return
            self._due.add(queue)
        self._ringer.submit(self._ring, queue)

    def _ring(self, queue: str) -> None:
        time.sleep(max(0.0, self._rung + self.PAUSE_SECONDS - time.monotonic()))
        with self._lock:
            self._due.discard(queue)
        try:
            self._send(queue)
        except Exception as error:  # noqa: BLE001 - whatever the broker's trouble is, polling covers a lost ring
            log.warning("ring.lost", extra={"queue": queue, "reason": type(error).__name__})
        self._rung = time.monotonic()

    def _send(self, queue: str) -> None:
        assert self._celery is not None
        with self._celery.amqp.producer_pool.acquire(block=True) as producer:
            if producer.channel.queue_declare(queue=queue).message_count < self.MOST_UNHEARD:
                self._celery.send_task(RING, queue=queue, producer=producer, expires=60, ignore_result=True)
