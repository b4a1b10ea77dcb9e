"""`python -m worker.gpu`: trains, on one GPU or on the CPU, in an engine child with one resident base model."""

import logging
import threading
import time
from pathlib import Path

from app import config, db, logs, metrics, queue, storage, tracing
from app.config import Settings
from app.events import service as events
from app.isolation import kernel
from app.jobs import claims, failures
from app.jobs.claims import GiveBack, Load, Residence, Serve, Yield
from app.jobs.tables import Job
from app.models import catalog
from app.models.catalog import Catalog, CatalogEntry, CatalogError
from app.models.hashes import Hashes
from app.storage import Store
from app.workers.service import GPU
from worker import celery_process, sweeps
from worker.node import Held, Node
from worker.runner import Runner
from worker.shunned import Shunned
from worker.supervisor import Engine, EngineDied, EngineRefused

log = logging.getLogger(__name__)

CPU_SLOTS, GPU_SLOTS = 4, 8
NOT_LOADED = "A worker could not load the base model; the job waits for one that can"


class Trainer:
    """Decides which base is resident, keeps the engine alive, and runs claimed jobs in it."""

    def __init__(self, settings: Settings, store: Store, models: Catalog) -> None:
        self._settings, self._models = settings, models
        self._runner = Runner(settings, store)
        self._engine: Engine | None = None
        self._entry: CatalogEntry | None = None
        self._loaded_at = 0.0
        self._yielding_since: float | None = None
        self._running: dict[str, Job] = {}
        self._lock = threading.Lock()  # one thread at a time starts engines and loads bases
        self._shunned = Shunned()
        self._hashes = Hashes(settings.scratch_dir / "hashes.json")

    def take(self, node: Node) -> Job | None:
        """Claim the next job for the base that is, or now becomes, resident."""
        if any(job.suspect for job in list(self._running.values())):
            return None  # a suspect runs alone
        with db.reading() as session:
            queues = claims.queues(session, running_jobs=self._settings.quota_running_jobs)
        waiting = [queue for queue in queues if self._serves(queue.base_key)]
        choice = claims.choose_base(self._residence(node), waiting)
        self._note_yielding(choice)
        if isinstance(choice, GiveBack):
            node.hand_back_all()
        if isinstance(choice, Load) and not self._load(node, choice.base_key):
            return None
        if not isinstance(choice, Load | Serve):
            return None
        return self._claim(node, choice.base_key)

    def run(self, job: Job, held: Held) -> None:
        """Run one claimed job in the engine; whatever happens to the engine happens to the job's attempt only."""
        engine, entry = self._engine, self._entry
        try:
            if engine is None or entry is None or entry.base_key != job.base_key or not engine.alive:
                sweeps.put_back(job, failures.ENGINE_CRASHED)
            else:
                self._runner.run(job, held, entry, engine, alone=job.suspect)
        finally:
            if self._running.get(job.id) is job:  # else it was lost, and claimed again meanwhile
                del self._running[job.id]

    def warm_up(self, node: Node) -> None:
        """Start the engine, and load the base that the settings name, before the first job."""
        entry = self._models.find(self._settings.warm_base) if self._settings.warm_base else None
        if entry is not None and entry.available(self._settings.models_dir):
            self._load(node, entry.base_key)
        else:
            with self._lock:
                self._engine = self._running_engine()

    def stop(self) -> None:
        """End the engine."""
        if self._engine is not None:
            self._engine.stop()

    def _claim(self, node: Node, base_key: str) -> Job | None:
        if (self._engine is None or not self._engine.alive) and not self._load(node, base_key):
            return None
        with db.transaction() as session:
            job = claims.claim_queued(
                session,
                worker_id=node.id,
                lease_seconds=self._settings.lease_seconds,
                base_key=base_key,
                alone=node.running == 0,
                running_jobs=self._settings.quota_running_jobs,
                company=self._company(),
            )
        if job is not None:
            self._running[job.id] = job
        return job

    def _company(self) -> str | None:
        """The project that the engine is kept for, if projects do not share engines and one has it now."""
        if self._settings.sharing == "all":
            return None
        return next((job.project_id for job in list(self._running.values())), None)

    def _serves(self, base_key: str) -> bool:
        return base_key not in self._shunned and self._find(base_key) is not None

    def _find(self, base_key: str) -> CatalogEntry | None:
        for entry in self._models.entries:
            if entry.base_key == base_key and entry.available(self._settings.models_dir):
                return entry
        return None

    def _residence(self, node: Node) -> Residence:
        now = time.monotonic()
        return Residence(
            base_key=self._entry.base_key if self._entry else None,
            held=now - self._loaded_at,
            running=node.running,
            yielding=None if self._yielding_since is None else now - self._yielding_since,
        )

    def _note_yielding(self, choice: claims.Choice) -> None:
        if not isinstance(choice, Yield | GiveBack):
            self._yielding_since = None
        elif self._yielding_since is None:
            self._yielding_since = time.monotonic()

    def _load(self, node: Node, base_key: str) -> bool:
        """Make a base resident, in a new engine if the old one is gone; whether it worked."""
        entry = self._find(base_key)
        assert entry is not None
        with self._lock:
            try:
                entry.verify(self._settings.models_dir, self._hashes)
                self._engine = self._running_engine()
                loaded = self._engine.load_base(
                    path=str(entry.directory(self._settings.models_dir)),
                    key=entry.base_key,
                    name=entry.published_name,
                    dtype=self._settings.dtype if entry.dtype == "auto" else entry.dtype,
                    device=self._settings.device,
                    linears=list(entry.linears),
                    slots=node.slots,
                    threads=self._settings.engine_threads,
                )
            except (EngineDied, EngineRefused, CatalogError) as error:
                log.exception("base.not_loaded", extra={"base": base_key, "reason": str(error)})
                self._entry, node.base_key = None, None
                self._shun(base_key)
                return False
        self._entry, node.base_key = entry, base_key
        node.memory_bytes = loaded["memory_bytes"]
        metrics.DEVICE_BYTES.labels("base").set(loaded["memory_bytes"])
        self._loaded_at = time.monotonic()
        log.info("base.loaded", extra={"base": base_key, "seconds": loaded["seconds"], "dtype": loaded["dtype"]})
        return True

    def _shun(self, base_key: str) -> None:
        """Leave the jobs of a base that cannot be loaded to other workers, and tell them what they wait for."""
        metrics.BASES_NOT_LOADED.labels(GPU).inc()
        self._shunned.add(base_key)
        with db.transaction() as session:
            for job_id in claims.waiting(session, base_key):
                if not events.told(session, job_id, NOT_LOADED):
                    events.append(session, job_id, NOT_LOADED, level="warn")

    def _running_engine(self) -> Engine:
        if self._engine is not None and self._engine.alive:
            return self._engine
        if self._engine is not None:
            self._engine.stop()
        isolation = self._settings.engine_isolation
        return Engine(config.environment({}), isolation=isolation, gpu=not _on_cpu(self._settings))


class GpuNode(Node):
    """A node that has its engine ready before it says it is there, and ends it last."""

    trainer: Trainer

    def start(self) -> None:
        self.trainer.warm_up(self)
        super().start()

    def stop(self) -> None:
        super().stop()
        self.trainer.stop()


def create_node(settings: Settings) -> GpuNode:
    """A GPU worker over the configured database and object store."""
    store = storage.open_store(settings)
    trainer = Trainer(settings, store, catalog.load(settings.catalog_path, catalog.lock_path(settings.models_dir)))
    on_cpu = _on_cpu(settings)
    slots = settings.engine_slots or (CPU_SLOTS if on_cpu else GPU_SLOTS)
    group = settings.device if settings.device != "auto" else ("cpu" if on_cpu else "cuda:0")
    node = GpuNode(GPU, settings, store, slots=slots, device_group=group, take=trainer.take, run=trainer.run)
    node.trainer = trainer
    return node


def _on_cpu(settings: Settings) -> bool:
    """Whether the driver shows no device or none is wanted; torch is the engine's to import, not ours."""
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    return settings.device == "cpu" or (settings.device == "auto" and not has_gpu)


def main() -> None:
    settings = Settings()
    logs.configure(settings)
    tracing.configure(settings, "worker-gpu")
    kernel.close_to_inspection()  # by the engine, which runs as the same user
    db.configure(
        db.create_engine(settings.database_url, pool_size=GPU_SLOTS + 4, idle_seconds=settings.lease_seconds / 3)
    )
    celery_process.serve(create_node(settings), queue.GPU, settings)


if __name__ == "__main__":
    main()
