"""What everything around training costs a step: progress, metrics, events, the heartbeat, the worker, the database.

Of jobs on a running stack: the time from the first step to the end that the engine did not spend inside optimizer
steps. The difference of a long and a short job is taken, so that what happens once a job does not count.
"""

import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from openai import OpenAI

from app import db
from app.embedded import postgres
from benchmarks.figures import show
from tests.e2e.stack import ROOT, Up

RUNS, SHORT, LONG = 3, 1, 7
TICKETS = ROOT / "examples" / "support-tickets" / "train.jsonl"


def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another user when this runs as root
        up = Up(Path(folder) / "data").start()
        try:
            with OpenAI(base_url=up.base_url, api_key=up.api_key) as client:
                train(client, SHORT)  # the first warms up
                pairs = [(train(client, SHORT), train(client, LONG)) for _ in range(RUNS)]
            shares = [outside(up.data_dir, short, long) for short, long in pairs]
        finally:
            up.stop()
    show("time between steps that is no training (≤ 2)", shares, "%")


def train(client: OpenAI, epochs: int) -> str:
    file = client.files.create(file=TICKETS.open("rb"), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny-chat",
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 8}}},
    )
    while (now := client.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.5)
    assert now.status == "succeeded", now.error
    return job.id


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
