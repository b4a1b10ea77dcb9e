"""One API process: uvicorn around the application, with a watchdog.

A process whose event loop stands still, or whose request threads all do, ends itself and says where each thread stood:
whoever runs it (`tunesmith up`, Kubernetes, a container's restart policy) starts it again. The watchdog is the C
library's thread that faulthandler has, so that even code which holds Python's lock cannot hold it up.
"""

import asyncio
import faulthandler
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app.config import Settings
from app.http.protocol import Protocol

GRACE_SECONDS = 5  # what open requests get when the process is stopped
BEAT_SECONDS = 5.0
HANG_SECONDS = 60.0  # a statement in the database takes half of that at most (app.main)


def serve(application: FastAPI, settings: Settings, listener: socket.socket | None = None) -> None:
    """Serve until a signal ends it, on the socket or else on host and port of the settings."""
    config = uvicorn.Config(
        application,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=Protocol,
        ws="none",
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config).run(sockets=None if listener is None else [listener])


class Server(uvicorn.Server):
    """uvicorn's, which beats as long as it can take up requests."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._beating = asyncio.create_task(_beat())


async def _beat() -> None:
    while True:
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        await run_in_threadpool(_nothing)  # it waits for a request thread, behind the requests that do
        await asyncio.sleep(BEAT_SECONDS)


def _nothing() -> Any:
    """What a thread that is not stuck can do."""
