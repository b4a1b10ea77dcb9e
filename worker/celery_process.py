"""A worker process under Celery: the pool, the signals and the doorbell. The work itself is the node's.

The one task sets an event. The bootstep ties the node's life to the worker's: started with it, drained as soon as a
shutdown begins, stopped before the process ends.
"""

import sys
from typing import Any

from celery import bootsteps, signals

from app import metrics, queue
from app.config import Settings
from worker import doorbell
from worker.node import Node


def serve(node: Node, queue_name: str, settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then drain and end the process."""
    doorbell.install()
    celery = queue.create_celery(settings)
    metrics.serve(settings, alive=lambda: node.alive)

    @celery.task(name=queue.RING)
    def ring() -> None:
        node.ring()

    class NodeStep(bootsteps.StartStopStep):
        requires = {"celery.worker.components:Pool"}  # noqa: RUF012 - Celery reads this very attribute

        def start(self, parent: Any) -> None:
            node.start()

        def stop(self, parent: Any) -> None:
            node.stop()

    def drain(**_: Any) -> None:
        node.drain()

    celery.steps["worker"].add(NodeStep)
    signals.worker_shutting_down.connect(drain, weak=False)
    worker = celery.Worker(
        pool="threads",
        concurrency=1,
        queues=[queue_name],
        hostname=f"{node.id}@%h",
        loglevel=settings.log_level,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    sys.exit(worker.exitcode)  # a node that could not start is a failure for whoever started us
