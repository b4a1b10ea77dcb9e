"""What waits, counted when Prometheus asks: jobs by project, promised side effects, and the workers there are for them.

One look at the database at most every KEEP_SECONDS, however many scrapers ask. An API process shows it, so that its
sums hold whatever workers come and go; of several API processes each shows the same, so take the maximum.
"""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app import db
from app.workers import service as workers

log = logging.getLogger(__name__)

KEEP_SECONDS = 5.0
# Each part reads a partial index or a small table.
_LOOK = sa.text("""
    SELECT 'validating_files' AS what, project_id AS key, count(*) AS n,
           extract(epoch FROM now() - min(created_at)) AS age
    FROM jobs WHERE status = 'validating_files' AND lease_until IS NULL GROUP BY project_id
    UNION ALL
    SELECT 'queued', project_id, count(*), extract(epoch FROM now() - min(coalesce(queued_at, created_at)))
    FROM jobs WHERE status = 'queued' GROUP BY project_id
    UNION ALL
    SELECT 'outbox', kind, count(*), greatest(0, extract(epoch FROM now() - min(due_at))) FROM outbox GROUP BY kind
    UNION ALL
    SELECT 'webhook', '', count(*), greatest(0, coalesce(extract(epoch FROM now() - min(created_at)), 0))
    FROM webhook_deliveries WHERE status = 'pending'
    UNION ALL
    SELECT 'worker', kind, count(*), 0 FROM workers
    WHERE last_seen >= now() - make_interval(secs => :lease) GROUP BY kind
""")


@dataclass(frozen=True)
class Row:
    """what: a job's status, `outbox`, `webhook` or `worker`; key: its project or kind; age: of the oldest, s."""

    what: str
    key: str
    count: int
    age: float


class Backlog(Collector):
    """The collector. Without a database it says only that there is none."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._rows: list[Row] | None = None
        self._looked_at = -KEEP_SECONDS

    def describe(self) -> Iterable[Metric]:
        """Their names, without a look at the database."""
        return _families(None)

    def collect(self) -> Iterable[Metric]:
        rows = self._fresh()
        up = GaugeMetricFamily("tunesmith_database_up", "Whether the database answers", value=float(rows is not None))
        return [up, *_families(rows)]

    def _fresh(self) -> list[Row] | None:
        with self._lock:
            if time.monotonic() - self._looked_at >= KEEP_SECONDS:
                self._rows = self._look()
                self._looked_at = time.monotonic()
            return self._rows

    def _look(self) -> list[Row] | None:
        try:
            with db.reading() as session:
                found = session.execute(_LOOK, {"lease": self._lease_seconds}).all()
        except (sa.exc.OperationalError, sa.exc.TimeoutError, sa.exc.InterfaceError) as error:
            log.warning("metrics.database_unavailable", extra={"reason": type(error).__name__})
            return None
        return [Row(what, key, count, float(age)) for what, key, count, age in found]


def _families(rows: list[Row] | None) -> list[Metric]:
    jobs = GaugeMetricFamily("tunesmith_jobs_waiting", "Jobs that wait", labels=["status", "project"])
    age = GaugeMetricFamily("tunesmith_jobs_oldest_seconds", "How long the oldest waits", labels=["status", "project"])
    outbox = GaugeMetricFamily("tunesmith_outbox_waiting", "Side effects to carry out", labels=["kind"])
    lag = GaugeMetricFamily("tunesmith_outbox_lag_seconds", "How long the oldest has been due", labels=["kind"])
    alive = GaugeMetricFamily("tunesmith_workers", "Workers seen within a lease", labels=["kind"])
    webhooks = GaugeMetricFamily("tunesmith_webhooks_waiting", "Deliveries that have not come to an end")
    webhook_lag = GaugeMetricFamily("tunesmith_webhook_lag_seconds", "How old the oldest of them is")
    living = {row.key: row.count for row in rows or () if row.what == "worker"}
    for kind in (workers.CPU, workers.GPU) if rows is not None else ():
        alive.add_metric([kind], living.get(kind, 0))
    for row in rows or ():
        if row.what == "outbox":
            outbox.add_metric([row.key], row.count)
            lag.add_metric([row.key], row.age)
        elif row.what == "webhook":
            webhooks.add_metric([], row.count)
            webhook_lag.add_metric([], row.age)
        elif row.what != "worker":
            jobs.add_metric([row.what, row.key], row.count)
            age.add_metric([row.what, row.key], row.age)
    return [jobs, age, outbox, lag, webhooks, webhook_lag, alive]
