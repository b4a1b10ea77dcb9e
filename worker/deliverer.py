"""Delivers webhooks: a few lanes at a time, each in a thread of its own, beside whatever else the worker does."""

import logging
import random
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from app import db, metrics
from app.config import Settings
from app.egress import Egress, open_egress
from app.failpoints import failpoint
from app.secrets import Vault
from app.webhooks import lanes, sending
from app.webhooks.lanes import Lane, Work
from app.webhooks.sending import Outcome

log = logging.getLogger(__name__)

SLICE_SECONDS = 10.0  # after so long a lane begins no more requests, and makes room for those that wait
LEASE_MARGIN_SECONDS = 15.0  # beyond its slice and the longest request


class Deliverer:
    """Serves the lanes on which something is due. Any number of deliverers may do so side by side."""

    def __init__(
        self, settings: Settings, *, egress: Egress | None = None, jitter: Callable[[], float] = random.random
    ) -> None:
        self._settings = settings
        self._egress = egress or open_egress(settings)
        self._vault = Vault(settings.secret_keys.get_secret_value())
        self._jitter = jitter
        self._lease = SLICE_SECONDS + settings.webhook_seconds + LEASE_MARGIN_SECONDS
        self._running: dict[threading.Thread, Lane] = {}
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._ended = threading.Event()

    def run(self) -> None:
        """Look for work every now and then, and when a lane is done, until `stop`."""
        while not self._ended.is_set():
            try:
                self.look()
            except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
                log.warning("webhooks.database_unavailable", extra={"reason": type(error).__name__})
            except Exception:
                log.exception("webhooks.failed")
            self._bell.wait(self._settings.webhook_poll_seconds)
            self._bell.clear()
        self._settle()  # also a lane that was claimed while `stop` was called

    def stop(self) -> None:
        """Take up nothing more; requests that are under way come to their end."""
        self._ended.set()
        self._bell.set()
        self._settle()

    def _settle(self) -> None:
        with self._lock:
            running = list(self._running)
        for thread in running:
            thread.join(self._lease)

    def look(self) -> None:
        """Claim as many lanes as there is room for. Endpoints that fail get at most half of it."""
        for failing in (False, True):
            room = self._room(failing=failing)
            if room > 0:
                with db.transaction() as session:
                    claimed = lanes.claim(session, limit=room, failing=failing, lease_seconds=self._lease)
                for lane in claimed:
                    self._start(lane)

    def serve(self, lane: Lane) -> None:
        """Deliver what is due on a lane until nothing is, something fails, or its time is over; then let it go."""
        until = time.monotonic() + SLICE_SECONDS
        with db.transaction() as session:
            work = lanes.next_work(session, lane, self._vault, jitter=self._jitter())
        while work is not None:
            outcome = self._attempt(lane, work)
            with db.transaction() as session:
                go_on = lanes.record(session, lane, work, outcome)
                work = None
                if go_on and not self._ended.is_set() and time.monotonic() < until:
                    work = lanes.next_work(session, lane, self._vault, jitter=self._jitter())
        with db.transaction() as session:
            lanes.release(session, lane)

    def _attempt(self, lane: Lane, work: Work) -> Outcome:
        failpoint("webhook.counted")
        outcome = lanes.UNREADABLE if work.letter is None else sending.send(self._egress, work.letter)
        failpoint("webhook.sent")
        fields = {"endpoint": lane.endpoint_id, "delivery": work.delivery_id, "attempt": work.number}
        metrics.WEBHOOK_ATTEMPTS.labels("delivered" if outcome.delivered else "failed").inc()
        if outcome.delivered:
            log.info("webhook.delivered", extra={**fields, "status": outcome.status})
        else:
            log.warning("webhook.not_delivered", extra={**fields, "status": outcome.status, "error": outcome.error})
        return outcome

    def _room(self, *, failing: bool) -> int:
        most = self._settings.webhook_lanes
        with self._lock:
            free = most - len(self._running)
            held = sum(lane.failing for lane in self._running.values())
        return min(free, max(1, most // 2) - held) if failing else free

    def _start(self, lane: Lane) -> None:
        thread = threading.Thread(target=self._serve, args=(lane,), name=f"webhook-{lane.endpoint_id}", daemon=True)
        with self._lock:
            self._running[thread] = lane
            thread.start()

    def _serve(self, lane: Lane) -> None:
        try:
            self.serve(lane)
        except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
            # The lease runs out, and somebody goes on.
            log.warning("webhooks.database_unavailable", extra={"reason": type(error).__name__})
        except Exception:
            log.exception("webhooks.failed", extra={"endpoint": lane.endpoint_id})
        finally:
            with self._lock:
                del self._running[threading.current_thread()]
            self._bell.set()
