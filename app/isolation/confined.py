"""Start a program of ours that needs few rights: no network, no new privileges, no core dumps, no sight of others.

What the machine does not allow is left out with a warning, or keeps the program from starting: a setting says which.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from app.isolation import syscalls

log = logging.getLogger(__name__)

CONFINE = Path(__file__).with_name("confine.py")

Isolation = Literal["auto", "required", "off"]


class CannotConfine(Exception):
    """This machine does not let us take a program's rights away, and the settings ask for it."""


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    isolation: Isolation,
    local_sockets: bool = False,
) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own; it has begun, or failed, when this returns. Raises CannotConfine.

    isolation: `auto` takes every right that the machine lets us take, `required` all or nothing, `off` only what is
    always possible (new privileges, core dumps). local_sockets: let it make sockets of this machine's own, as the
    drivers of a GPU do; it can connect them to nothing.
    """
    reader, report = os.pipe()
    plan = {
        "command": list(command),
        "report": report,
        "isolate": isolation != "off",
        "required": isolation == "required",
        "filter": syscalls.program(local_sockets=local_sockets).hex() if syscalls.supported() else "",
    }
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(CONFINE), json.dumps(plan)],
            pass_fds=[*descriptors, report],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        os.close(report)
        with os.fdopen(reader) as told:
            answer = told.read()
    refused = json.loads(answer) if answer else ["it ended before it could tell"]
    if refused and isolation == "required":
        process.wait()
        raise CannotConfine("; ".join(refused))
    for reason in refused:
        log.warning("isolation.incomplete", extra={"command": command[:3], "reason": reason})
    return process
