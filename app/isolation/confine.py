"""Become a program with fewer rights: `python confine.py PLAN`. Standard library only, and one thread.

The plan is a JSON object made by `app.isolation.confined`. What this machine does not allow is written, as a JSON list
of reasons, to the plan's `report` descriptor, which closes as the program begins. With `required`, any reason ends it.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))  # an isolated interpreter does not know where we live
from app.isolation import kernel
from app.isolation.kernel import NOBODY, Unavailable


def main(plan: dict[str, Any]) -> int:
    """Take away what can be taken, tell what could not, and become the program."""
    os.set_inheritable(plan["report"], False)
    kernel.forbid_core_dumps()
    refused = list(_steps(plan))
    os.write(plan["report"], json.dumps(refused).encode())
    if not (refused and plan["required"]):
        os.execv(plan["command"][0], plan["command"])  # noqa: S606 - no shell is wanted
    return 1


def _steps(plan: dict[str, Any]) -> Iterator[str]:
    """The reasons why steps were not taken."""
    if not sys.platform.startswith("linux"):
        yield from ["it needs Linux"] * plan["isolate"]
        return
    try:
        kernel.forbid_new_privileges()
        if plan["isolate"]:
            yield from filter(None, [_leave_if_allowed()])
            kernel.filter_calls(bytes.fromhex(plan["filter"]))
    except (Unavailable, OSError) as error:
        yield str(error)


def _leave_if_allowed() -> str:
    """Do it, or say why it cannot be done: a child tries it first, since half of it could not be taken back."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _leave()
        except (Unavailable, OSError) as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        reason = told.read()
    os.waitpid(child, 0)
    if not reason:
        _leave()
    return reason


def _leave() -> None:
    """Leave the host's network, and be nobody who could look into its processes. Files stay what they are to us."""
    ourselves = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC)
    # Not being root in there, the program gets no capability of the namespace.
    kernel.map_user(ourselves[0] or NOBODY, ourselves)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
