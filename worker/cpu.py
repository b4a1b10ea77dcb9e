"""`python -m worker.cpu`: prepares the files of new jobs. Never loads torch, which transformers would if it could."""

import sys

sys.modules["torch"] = None  # type: ignore[assignment]

from app import db, logs, queue, storage  # noqa: E402
from app.config import Settings  # noqa: E402
from app.jobs import claims  # noqa: E402
from app.jobs.tables import Job  # noqa: E402
from app.models import catalog  # noqa: E402
from app.workers.service import CPU  # noqa: E402
from worker import celery_process  # noqa: E402
from worker.node import Node  # noqa: E402
from worker.prepare_job import Preparer  # noqa: E402


def create_node(settings: Settings) -> Node:
    """A CPU worker over the configured database and object store."""
    store = storage.open_store(settings)
    models = catalog.load(settings.catalog_path, catalog.lock_path(settings.models_dir))

    def take(node: Node) -> Job | None:
        with db.transaction() as session:
            return claims.claim_validating(session, worker_id=node.id, lease_seconds=settings.lease_seconds)

    preparer = Preparer(settings, store, models)
    return Node(CPU, settings, store, slots=settings.prepare_slots, device_group=None, take=take, run=preparer.run)


def main() -> None:
    settings = Settings()
    logs.configure(settings.log_level)
    db.configure(db.create_engine(settings.database_url, pool_size=settings.prepare_slots + 3))
    celery_process.serve(create_node(settings), queue.CPU, settings)


if __name__ == "__main__":
    main()
