"""How many requests two API processes answer, at ten thousand jobs and at a million.

Everything shares the machine's cores: both processes, Postgres as it runs in production, Redis, and the load.
"""

import itertools
import json
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import sqlalchemy as sa

from app import db, ids
from app.auth import service as auth
from app.embedded.redis import Redis
from app.files.tables import File
from benchmarks import api, load
from benchmarks.figures import show

JOBS = (10_000, 1_000_000)
CONNECTIONS = 64
SECONDS = 4.0
RUNS = 5
PATH = "/v1/fine_tuning/jobs"
TARGETS = {"GET job": "≥ 1500", "GET 20 jobs": "≥ 600", "POST job": "≥ 200"}
FILL = """
INSERT INTO jobs (id, project_id, status, created_at, finished_at, model, base_model, base_key, training_file, method,
    request, resolved, suffix, seed, metadata, fine_tuned_model, trained_tokens, result_file)
SELECT 'ftjob-' || substr(md5(n::text) || md5((-n)::text), 1, 24), :project, 'succeeded', now() - n * interval '1 s',
    now(), 'tiny-chat', 'tiny-chat', 'tiny-chat@local:none:auto', :file, 'supervised', cast(:request AS jsonb),
    cast(:resolved AS jsonb), 'bench', n, '{"team": "a"}', 'ft:tiny-chat:default:bench:' || n, 1000, 'file-result'
FROM generate_series(1, :count) AS n
"""
ASKED = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
RESOLVED = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0, "learning_rate": 2e-4, "lora_rank": 16}


@dataclass
class Site:
    """Two API processes over a database with some jobs, and the requests that are sent to them."""

    ports: list[int]
    requests: dict[str, Iterator[bytes]]

    def load(self, kind: str, seconds: float = SECONDS) -> load.Taken:
        taken = load.run(self.ports, self.requests[kind], connections=CONNECTIONS, seconds=seconds)
        assert not taken.failed, taken.failed[0]
        return taken


def run() -> None:
    with ExitStack() as stack:
        sites = {count: open_site(stack, count) for count in JOBS}
        for kind, target in TARGETS.items():
            for site in sites.values():
                site.load(kind, 1.0)  # warm
            taken = [{count: site.load(kind) for count, site in sites.items()} for _ in range(RUNS)]  # in turns
            for count in JOBS:
                runs = [turn[count] for turn in taken]
                show(f"{kind}, {count} jobs, {CONNECTIONS} connections ({target})", [run.rate for run in runs], "/s")
                within = " (≤ 150)" if kind == "GET job" else ""
                show(f"  99 of 100 within{within}", [1000 * run.percentile(0.99) for run in runs], "ms")
            few, many = (statistics.median(turn[count].rate for turn in taken) for count in JOBS)
            show(f"{kind}, slower with a hundred times the jobs (≤ 1.3)", [few / many], "×")


def open_site(stack: ExitStack, count: int, **changes: object) -> Site:
    """Start all that a site needs. changes: of the API's settings."""
    behind = stack.enter_context(api.backend(durable=True))
    redis = Redis(behind.folder / "redis")
    redis.start()
    stack.callback(redis.stop)
    file_id, job_ids = _fill(count, behind.key)
    changes = {"redis_url": redis.url, "api_processes": 2} | changes
    processes = [stack.enter_context(api.running(behind, **changes)) for _ in range(2)]
    asked = {"model": "tiny-chat", "training_file": file_id, "suffix": "bench"}
    bodies = ({**asked, "metadata": {"number": str(number)}} for number in itertools.count())
    return Site(
        ports=[int(process.url.rsplit(":", 1)[1]) for process in processes],
        requests={
            "GET job": itertools.cycle([load.request("GET", f"{PATH}/{one}", behind.key) for one in job_ids]),
            "GET 20 jobs": itertools.cycle(
                [load.request("GET", f"{PATH}?limit=20&after={one}", behind.key) for one in job_ids]
            ),
            "POST job": (load.request("POST", PATH, behind.key, json.dumps(body).encode()) for body in bodies),
        },
    )


def _fill(count: int, key: str) -> tuple[str, list[str]]:
    """Finished jobs of one project; its training file, and some of the jobs, of any age."""
    with db.transaction() as session:
        project = auth.authenticate(session, key).project_id
        values = {"purpose": "fine-tune", "filename": "train.jsonl", "bytes": 1, "sha256": "0" * 64, "object_key": "k"}
        file = File(id=ids.new("file-"), project_id=project, **values)
        session.add(file)
        session.flush()
        blocks = {"request": json.dumps(ASKED), "resolved": json.dumps(RESOLVED)}
        session.execute(sa.text(FILL), {"project": project, "file": file.id, "count": count, **blocks})
    with db.reading() as session:
        session.execute(sa.text("VACUUM ANALYZE"))
        some = sa.text("SELECT id FROM jobs ORDER BY md5(id) LIMIT 5000")
        return file.id, list(session.scalars(some))
