"""A database that is away for a while costs a job nothing: what it was to be told is told again until it is back."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from worker.node import Held

log = logging.getLogger(__name__)

# No connection, a connection that broke, a full pool; a server that is read-only, full, or stopped a deadlock.
AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError)
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds; doubles

Result = TypeVar("Result")


class Lost(Exception):
    """The job is final, or another's: this worker must not touch it."""


def ride_out(held: Held, phase: Callable[[], Result]) -> Result:
    """Do a phase, and again while the database is away and the job is still ours. Raises Lost.

    Where only the reply to a commit was lost, the phase runs twice; each is written so that this changes nothing.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return phase()
        except AWAY as error:
            log.warning("database.away", extra={"job": held.job_id, "reason": type(error).__name__, "pause": pause})
        if held.lost:
            raise Lost
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
