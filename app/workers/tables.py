"""Living workers: what each can serve, and when it was last seen."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Worker(Base):
    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)  # wkr_…, new at each start
    kind: Mapped[str]  # cpu, gpu
    host: Mapped[str]
    version: Mapped[str | None]  # of its program; None for one from before there was this column
    device_group: Mapped[str | None]  # cpu, cuda:0 …
    memory_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    base_key: Mapped[str | None]  # the resident base
    slots: Mapped[int]
    free_slots: Mapped[int]
    draining: Mapped[bool] = mapped_column(server_default=sa.false())
    started_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    last_seen: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
