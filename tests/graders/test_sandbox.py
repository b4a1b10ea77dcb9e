"""The sandbox at work: what code gets, what comes back, and what is left of it."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from app.graders.faults import PythonRuntimeFault, PythonServerFault, PythonTimeout
from app.graders.sandbox import Limits, Sandbox
from tests.graders.jailed import SAMPLE, fault, jails, run, wait_for

MIB = 1024 * 1024
ROOT = Path(__file__).parent.parent.parent
SYSTEM_PYTHON = "/usr/bin/python3"
NOBODY = 65534


def test_it_gets_sample_and_item(sandbox: Sandbox) -> None:
    body = "return 0.25 if sample['output_text'].endswith('bear') and item == {'k': [1, 'é']} else 0.0"
    assert run(sandbox, body, item={"k": [1, "é"]}) == 0.25


def test_annotations_are_found_where_libraries_look_for_them(sandbox: Sandbox) -> None:
    source = """
        from __future__ import annotations
        from dataclasses import dataclass
        from pydantic import BaseModel

        @dataclass
        class Part:
            weight: float

        class Answer(BaseModel):
            parts: list[Part]

        def grade(sample: dict[str, Any], item: dict) -> float:
            return Answer(parts=[{"weight": 0.5}]).parts[0].weight
    """
    assert sandbox.grade(textwrap.dedent(source), sample=SAMPLE, item={}, seconds=60) == 0.5


def test_the_guides_own_example(sandbox: Sandbox) -> None:
    """OpenAI's guide shows this source, which needs a package of the interpreter's."""
    source = """
        from rapidfuzz import fuzz, utils

        def grade(sample, item) -> float:
            output_text = sample["output_text"]
            reference_answer = item["reference_answer"]
            return fuzz.WRatio(output_text, reference_answer, processor=utils.default_process) / 100.0
    """
    item = {"reference_answer": "fuzzy wuzzy had no hair"}
    reward = sandbox.grade(textwrap.dedent(source), sample=SAMPLE, item=item, seconds=60)
    assert reward == pytest.approx(0.755556, abs=1e-6)


@pytest.mark.parametrize(
    ("body", "reward"),
    [
        ("return 1", 1),
        ("return -2.5", -2.5),
        ("from fractions import Fraction; return Fraction(1, 4)", 0.25),
        ("import numpy; return numpy.float32(0.5)", 0.5),
        ("print('x' * 1000); import sys; sys.stderr.write('y'); return 1.0", 1),
        ("import tempfile; f = tempfile.NamedTemporaryFile(); f.write(b'x'); return 1.0", 1),
    ],
)
def test_rewards(sandbox: Sandbox, body: str, reward: float) -> None:
    assert run(sandbox, body) == reward


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ("return 1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("return sample['missing']", "KeyError: 'missing' (line 2)"),
        ("return '1.0'", "grade returned str, not a float."),
        ("return None", "grade returned NoneType, not a float."),
        ("return True", "grade returned bool, not a float."),
        ("return 1j", "grade returned complex, not a float."),
        ("return [1.0]", "grade returned list, not a float."),
        ("return float('nan')", "grade returned nan, which is not a finite number."),
        ("return float('inf')", "grade returned inf, which is not a finite number."),
        ("return 10 ** 400", "OverflowError: int too large to convert to float"),
        ("raise SystemExit(3)", "SystemExit: 3 (line 2)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt:  (line 2)"),
        ("def f(): f()\nf()", "RecursionError"),
        ("import nothing_like_this", "ModuleNotFoundError"),
        ("import os; os._exit(0)", "exit status 0"),
        ("import os; os._exit(7)", "exit status 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E()", "exit status 1"),
        ("raise Exception('x' * 10**7)", "Exception: xxx"),
        ("raise Exception('\\ud800\\0é')", "Exception: ??é (line 2)"),
    ],
)
def test_code_that_fails(sandbox: Sandbox, body: str, details: str) -> None:
    message = fault(sandbox, body)
    assert details in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("source", "details"),
    [
        ("", "does not define a function grade"),
        ("grade = 1", "does not define a function grade"),
        ("def score(sample, item): return 1.0", "does not define a function grade"),
        ("def grade(sample): return 1.0", "exactly two arguments"),
        ("def grade(sample, item, more): return 1.0", "exactly two arguments"),
        ("def grade(sample, item) return 1.0", "SyntaxError: expected ':' (<grader>, line 1) (line 1)"),
        ("def grade(sample, item):\n\treturn 1.0\n        return 2.0", "TabError"),
        ("raise ValueError('at import')", "ValueError: at import (line 1)"),
        ("x = '\0'", "source code string cannot contain null bytes"),
        ("(" * 5000 + ")" * 5000, "too many nested parentheses"),
        ("-" * 200_000 + "1", "Error"),
    ],
)
def test_sources_that_cannot_work(sandbox: Sandbox, source: str, details: str) -> None:
    with pytest.raises(PythonRuntimeFault) as raised:
        sandbox.check(source)
    assert details in str(raised.value)


def test_a_source_that_never_ends() -> None:
    with pytest.raises(PythonRuntimeFault, match="did not finish within 2 s"):
        Sandbox(Limits(seconds=2, memory=512 * MIB)).check("while True: pass")


def test_a_source_that_works(sandbox: Sandbox) -> None:
    sandbox.check("import json\nasync_ = 1\ndef grade(sample, item, more=None): return 1.0")
    sandbox.check("grade = lambda *args: 1.0")


def test_runs_side_by_side(sandbox: Sandbox) -> None:
    rewards: list[float] = []
    body = "import time; time.sleep(0.2); return float(item['n'])"
    threads = [threading.Thread(target=lambda n=n: rewards.append(run(sandbox, body, item={"n": n}))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rewards) == [0, 1, 2, 3, 4, 5]
    assert jails() == []


def test_descriptors_with_large_numbers(sandbox: Sandbox) -> None:
    """A busy server has more than the 1,024 that select(2) can count to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with contextlib.ExitStack() as files:
        for _ in range(1100):
            files.enter_context(Path("/dev/null").open())
        assert run(sandbox, "return 1.0") == 1
        with pytest.raises(PythonTimeout):
            run(sandbox, "while True: pass", seconds=0.3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert jails() == []


def test_no_descriptor_leaks(sandbox: Sandbox) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for body in ("return 1.0", "return 1 / 0", "import os; os._exit(1)"):
        with contextlib.suppress(PythonRuntimeFault):
            run(sandbox, body)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before  # another test's may close late


OWNER = """
import sys
from app.graders.sandbox import Limits, Sandbox
print("started", flush=True)
source = "import time\\ndef grade(sample, item): time.sleep(55)"
Sandbox(Limits(seconds=60)).grade(source, sample={}, item={}, seconds=60)
"""


def test_it_ends_with_the_process_that_asked_for_it() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    wait_for(lambda: len(jails(owner.pid)) == 3)
    family = jails(owner.pid)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))


def test_a_machine_that_does_not_isolate_is_found_out() -> None:
    """A process that may not make namespaces, as in most containers: nothing is run, and the reason is said."""
    script = """
        from app.graders.sandbox import CannotIsolate, Sandbox
        from app.isolation import kernel, syscalls
        sandbox = Sandbox()
        sandbox._plan
        kernel.forbid_new_privileges()
        kernel.filter_calls(syscalls.program())
        try:
            sandbox.check_machine()
        except CannotIsolate as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "unshare: Operation not permitted (EPERM)"


def test_an_interpreter_that_is_not_there() -> None:
    with pytest.raises(PythonServerFault, match="does not start"):
        Sandbox(interpreter="/nonexistent/python").check_machine()


@pytest.mark.skipif(os.geteuid() != 0 or not Path(SYSTEM_PYTHON).exists(), reason="needs root and a system's Python")
def test_it_isolates_for_an_ordinary_user_too() -> None:
    """As root the jail is built by root; everybody else needs a user namespace for it. Both must hold."""
    script = """
        import json, os, sys
        from app.graders.faults import PythonRuntimeFault
        from app.graders.sandbox import Limits, Sandbox
        sandbox = Sandbox(Limits(seconds=60, memory=512 << 20, disk=16 << 20), sys.executable)
        sandbox.check_machine()
        def run(body):
            try:
                return sandbox.grade("import os\\ndef grade(sample, item): " + body, sample={}, item={}, seconds=60)
            except PythonRuntimeFault as fault:
                return str(fault)
        print(json.dumps([
            run("return float(os.getuid())"),
            run("return float(len(os.listdir('/tmp')))"),
            run("return float(os.path.exists('/proc/self'))"),
            run("os.fork()"),
            run("open('/usr/x', 'w')"),
            run("open('/tmp/x', 'wb').write(bytes(17 << 20))"),
            run("import socket; socket.socket()"),
        ]))
    """
    done = subprocess.run(
        [SYSTEM_PYTHON, "-B", "-c", textwrap.dedent(script)],
        cwd="/", env={"PYTHONPATH": str(ROOT)}, user=NOBODY, group=NOBODY, extra_groups=[],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    user, files, proc, *faults = json.loads(done.stdout)
    assert (user, files, proc) == (NOBODY, 0, 0)
    expected = ["BlockingIOError", "Read-only file system", "File too large", "PermissionError"]
    assert all(part in message for part, message in zip(expected, faults, strict=True)), faults
