"""`python -m worker.cpu`: prepares the files of new jobs. Never loads torch, which transformers would if it could."""

import gc
import sys

# Before anything imports transformers, hence the imports below it (E402).
sys.modules["torch"] = None  # type: ignore[assignment]

from app import db, logs, queue, tracing  # noqa: E402
from app.config import Settings  # noqa: E402
from worker import celery_process, prepare_job  # noqa: E402


def main() -> None:
    settings = Settings()
    logs.configure(settings)
    tracing.configure(settings, "worker-cpu")
    gc.freeze()  # what was imported stays for good; looking through it again and again takes 8 % of preparing a file
    db.configure(
        db.create_engine(
            settings.database_url, pool_size=settings.prepare_slots + 3, idle_seconds=settings.lease_seconds / 3
        )
    )
    celery_process.serve(prepare_job.create_node(settings), queue.CPU, settings)


if __name__ == "__main__":
    main()
