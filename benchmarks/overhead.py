"""What everything around training costs a step: progress, metrics, events, the heartbeat, the worker, the database.

Of jobs on a running stack: the time from the first step to the end that the engine did not spend inside optimizer
steps. The difference of a long and a short job is taken, so that what happens once a job does not count.
"""

from pathlib import Path

import sqlalchemy as sa

from app import db
from app.embedded import postgres
from benchmarks import running
from benchmarks.figures import show

RUNS, SHORT, LONG = 3, 1, 7


def run() -> None:
    rows = running.TICKETS.read_bytes()
    with running.stack() as (client, data_dir):
        running.train(client, rows, SHORT)  # the first warms up
        pairs = [(running.train(client, rows, SHORT), running.train(client, rows, LONG)) for _ in range(RUNS)]
        shares = [outside(data_dir, short, long) for short, long in pairs]
    show("time between steps that is no training (≤ 2)", shares, "%")


def outside(data_dir: Path, short: str, long: str) -> float:
    """What the long job took more than the short one, beyond what it took more in steps: a share, in percent."""
    engine = db.create_engine(postgres.url_at(data_dir / "postgres"))
    with engine.connect() as connection:
        (wall, steps), (more_wall, more_steps) = (_seconds(connection, job) for job in (short, long))
    engine.dispose()
    return 100 * (1 - (more_steps - steps) / (more_wall - wall))


def _seconds(connection: sa.Connection, job_id: str) -> tuple[float, float]:
    """From a job's first step to its end, and inside its steps; each step's event has its tokens and their speed."""
    wall = "SELECT extract(epoch FROM finished_at - first_step_at) FROM jobs WHERE id = :id"
    steps = "SELECT data FROM events WHERE job_id = :id AND type = 'metrics' ORDER BY step"
    found = [data for (data,) in connection.execute(sa.text(steps), {"id": job_id})]
    inside = sum(step["tokens"] / step["tokens_per_second"] for step in found)
    return float(connection.execute(sa.text(wall), {"id": job_id}).scalar_one()), inside
