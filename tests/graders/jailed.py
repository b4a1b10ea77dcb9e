"""Code to run in the sandbox, and a look at the processes it runs in."""

import contextlib
import os
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.graders.faults import PythonRuntimeFault
from app.graders.sandbox import Sandbox

SAMPLE = {"output_text": "fuzzy wuzzy was a bear", "output_json": None, "output_tools": [], "choices": []}


def grader(body: str) -> str:
    return "def grade(sample, item):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ")


def run(sandbox: Sandbox, body: str, *, seconds: float = 60, item: dict[str, Any] | None = None) -> float:
    return sandbox.grade(grader(body), sample=SAMPLE, item=item or {}, seconds=seconds)


def fault(sandbox: Sandbox, body: str, **options: Any) -> str:
    with pytest.raises(PythonRuntimeFault) as raised:
        run(sandbox, body, **options)
    return str(raised.value)


def jails(parent: int | None = None) -> list[int]:
    """The processes of this test process's jails (or another's), from /proc: keeper, warden, prisoner."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent_id = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent_id, []).append(int(path.name))
    return list(_descendants(children, parent or os.getpid(), jail=False))


def _descendants(children: dict[int, list[int]], pid: int, *, jail: bool) -> Iterator[int]:
    for child in children.get(pid, []):
        try:
            started = jail or b"jail.py" in Path(f"/proc/{child}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if started:
            yield child
        yield from _descendants(children, child, jail=started)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)
