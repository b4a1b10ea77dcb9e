"""What routes need of the application, as dependencies."""

from typing import Annotated

from fastapi import Depends, Request

from app.config import Settings
from app.queue import Bell
from app.storage import Store


async def _settings(request: Request) -> Settings:
    return request.app.state.settings


async def _store(request: Request) -> Store:
    return request.app.state.store


async def _bell(request: Request) -> Bell:
    return request.app.state.bell


CurrentSettings = Annotated[Settings, Depends(_settings)]
CurrentStore = Annotated[Store, Depends(_store)]
CurrentBell = Annotated[Bell, Depends(_bell)]
