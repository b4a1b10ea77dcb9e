"""`/healthz`: the process answers. `/readyz`: it can serve; 503 names what is missing."""

import collections
import logging
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter
from typing_extensions import TypedDict

from app import db, queue
from app.config import Settings
from app.http.deps import CurrentSettings, CurrentStore
from app.http.replies import JSONResponse
from app.storage import Store
from app.workers import service as workers

router = APIRouter(tags=["health"])
log = logging.getLogger(__name__)

OK, DOWN, DEGRADED = "ok", "unavailable", "degraded"


class Health(TypedDict):
    status: str


class Readiness(TypedDict):
    status: str
    missing: list[str]
    postgres: str
    storage: str
    redis: str
    workers: dict[str, int]  # kind → how many live


@router.get("/healthz", response_model=Health)
async def healthz() -> JSONResponse:
    """Say that this process answers."""
    return JSONResponse({"status": OK})


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
def readyz(settings: CurrentSettings, store: CurrentStore) -> JSONResponse:
    """Say whether requests can be served, and how the parts are that only slow things down."""
    needed = {"postgres": _postgres(), "storage": _storage(store)}
    missing = [name for name, state in needed.items() if state != OK]
    body: dict[str, Any] = {"status": DOWN if missing else OK, "missing": missing, **needed}
    body["redis"] = _redis(settings)
    body["workers"] = {} if needed["postgres"] != OK else _workers(settings)
    return JSONResponse(body, status_code=503 if missing else 200)


def _postgres() -> str:
    try:
        with db.reading() as session:
            session.execute(sa.text("SELECT 1"))
    except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
        log.warning("health.postgres", extra={"reason": type(error).__name__})
        return DOWN
    return OK


def _storage(store: Store) -> str:
    try:
        store.check()
    except Exception as error:  # noqa: BLE001 - whatever a store raises, it is not there
        log.warning("health.storage", extra={"reason": type(error).__name__})
        return DOWN
    return OK


def _redis(settings: Settings) -> str:
    """Without Redis jobs start a poll later; that is all."""
    if not settings.redis_url:
        return "not configured"
    return DEGRADED if queue.trouble(settings) else OK


def _workers(settings: Settings) -> dict[str, int]:
    with db.reading() as session:
        living = workers.living(session, settings.lease_seconds)
    counts = collections.Counter(worker.kind for worker in living)
    return {kind: counts[kind] for kind in (workers.CPU, workers.GPU)}
