"""The application: what it needs, what is around every request, and which routers answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from fastapi import FastAPI

from app import db, storage
from app.admin.routes import router as admin
from app.auth.deps import KeyCache, check_guarded
from app.auth.rates import FailedLogins, RateLimits
from app.config import Settings
from app.files.routes import router as files
from app.graders.routes import router as graders
from app.graders.runtime import open_runtime
from app.http import errors, health, openapi
from app.http.middleware import RequestMiddleware
from app.http.overload import Admission
from app.http.routing import match_to_the_end
from app.jobs.event_stream import Feed
from app.jobs.routes import router as jobs
from app.models import catalog
from app.models.routes import checkpoints_router as checkpoints
from app.models.routes import router as models
from app.queue import Bell
from app.slots import Slots
from app.uploads.routes import router as uploads
from app.webhooks import runtime as webhook_runtime
from app.webhooks.routes import event_types_router as webhook_event_types
from app.webhooks.routes import router as webhooks

STATEMENT_SECONDS = 30.0  # in the database; a request that waits longer for one is answered with 503
PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"})  # everything else needs a key


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API over the configured database and object store. Connects to nothing until it is asked."""
    settings = settings or Settings()
    engine = db.create_engine(
        settings.database_url, pool_size=settings.database_pool_size, statement_seconds=STATEMENT_SECONDS
    )
    db.configure(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        to_thread.current_default_thread_limiter().total_tokens = settings.request_threads
        yield {"admission": Admission(settings.request_backlog)}
        app.state.graders.close()
        engine.dispose()

    app = FastAPI(title="Tunesmith", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.state.settings = settings
    app.state.store = storage.open_store(settings)
    app.state.catalog = catalog.load(settings.catalog_path, catalog.lock_path(settings.models_dir))
    app.state.bell = Bell(settings)
    app.state.graders = open_runtime(settings)
    app.state.webhooks = webhook_runtime.open_runtime(settings)
    app.state.assemblies = Slots(settings.assemblies, settings.assemblies_per_project)
    app.state.keys = KeyCache(FailedLogins(settings.failed_logins_per_minute, processes=settings.api_processes))
    app.state.rates = RateLimits(settings.requests_per_minute, processes=settings.api_processes)
    app.state.feed = Feed(poll_seconds=settings.stream_poll_seconds, streams_per_key=settings.streams_per_key)
    errors.install(app)
    app.add_middleware(RequestMiddleware)
    for router in (
        health.router,
        files,
        uploads,
        graders,
        jobs,
        checkpoints,
        models,
        webhooks,
        webhook_event_types,
        admin,
    ):
        app.router.routes.extend(router.routes)  # flat: an included router is matched twice
    openapi.install(app, PUBLIC_PATHS)
    match_to_the_end(app.routes)
    check_guarded(app, PUBLIC_PATHS)
    return app
