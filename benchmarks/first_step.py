"""From POST to the first optimizer step, on an engine that already holds the base model.

Both moments are the database's: the job's row was written at `created_at`, its first step was reported at
`first_step_at`. Of that, admission is what the engine does to have one more job: a slot, the data mapped, an optimizer.
"""

import tempfile
import time
from pathlib import Path

from sqlalchemy import text

from app import db
from app.embedded import postgres
from benchmarks import ours, running, shapes
from benchmarks.figures import show
from worker.engine.job import admit

RUNS, ROWS = 9, 100
TINY_CHAT = Path(__file__).parent.parent / "catalog" / "tiny-chat"


def run() -> None:
    with running.stack() as (client, data_dir):
        jobs = [running.train(client, rows(number), epochs=1) for number in range(RUNS + 1)]
        seconds = [waited(data_dir, job) for job in jobs]
    show("of which admission to the engine (< 50)", [seconds * 1e3 for seconds in admissions()], "ms")
    show(f"POST to first optimizer step, {ROWS} rows, tiny-chat (< 1)", seconds[1:], "s")  # the first warms up


def rows(number: int) -> bytes:
    """A file that nobody has prepared before."""
    lines = running.TICKETS.read_bytes().splitlines(keepends=True)[number * 10 : number * 10 + ROWS]
    assert len(lines) == ROWS
    return b"".join(lines)


def admissions() -> list[float]:
    """Seconds that each of several admissions to an engine with tiny-chat takes."""
    with tempfile.TemporaryDirectory() as folder:
        base = ours.load_base(TINY_CHAT, jobs=1)
        data = shapes.save_rows(Path(folder) / "rows", shapes.chat_rows(ROWS, base.vocabulary))
        seconds = []
        for number in range(RUNS + 1):
            command = ours.admission(number + 1, data, Path(folder) / str(number))
            began = time.perf_counter()
            admit(command, base)
            seconds.append(time.perf_counter() - began)
            base.bank.adapters[0] = None
    return seconds[1:]


def waited(data_dir: Path, job_id: str) -> float:
    """Seconds between the two moments of a job."""
    engine = db.create_engine(postgres.url_at(data_dir / "postgres"))
    with engine.connect() as connection:
        query = text("SELECT extract(epoch FROM first_step_at - created_at) FROM jobs WHERE id = :id")
        seconds = connection.execute(query, {"id": job_id}).scalar_one()
    engine.dispose()
    return float(seconds)
