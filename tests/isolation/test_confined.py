"""A program with its rights taken away: what it cannot reach, what it cannot see, and what a machine may refuse."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from app.isolation import confined, kernel, syscalls
from app.isolation.confined import Isolation

ROOT = Path(__file__).parent.parent.parent
ALLOW = bytes([6, 0, 0, 0, 0, 0, 0xFF, 0x7F])  # a filter of one instruction


def run(body: str, tmp_path: Path, *, isolation: Isolation = "required", local_sockets: bool = False) -> list[str]:
    """The lines that a confined interpreter prints."""
    out = os.open(tmp_path / "out", os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    script = f"import os\nos.dup2({out}, 1); os.dup2({out}, 2)\n" + textwrap.dedent(body)
    process = confined.start(
        [sys.executable, "-I", "-u", "-c", script],
        environment={"PATH": "/usr/bin"}, descriptors=[out], isolation=isolation, local_sockets=local_sockets,
    )  # fmt: skip
    process.wait(30)
    os.close(out)
    return (tmp_path / "out").read_text().splitlines()


SOCKETS = """
import socket
for name, family in {"inet": 2, "inet6": 10, "unix": 1, "netlink": 16, "vsock": 40}.items():
    try:
        with socket.socket(family, socket.SOCK_RAW if name == "netlink" else socket.SOCK_STREAM):
            print(name, "opened")
    except OSError as error:
        print(name, error.errno)
"""


def test_no_socket_can_be_opened(tmp_path: Path) -> None:
    assert run(SOCKETS, tmp_path) == ["inet 1", "inet6 1", "unix 1", "netlink 1", "vsock 1"]  # EPERM


def test_a_driver_may_have_a_socket_that_leads_nowhere(tmp_path: Path) -> None:
    connecting = f"""
left, right = socket.socketpair()
with socket.socket(socket.AF_UNIX) as mine, socket.socket(socket.AF_UNIX) as other:
    mine.bind(r"{tmp_path}/mine")
    mine.listen()
    other.connect(r"{tmp_path}/mine")
"""
    lines = run(SOCKETS + connecting, tmp_path, local_sockets=True)
    assert lines[:5] == ["inet 1", "inet6 1", "unix opened", "netlink 1", "vsock 1"]
    assert "PermissionError" in lines[-1]
    assert (tmp_path / "mine").is_socket()


def test_there_is_no_network_even_past_the_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "program", lambda **_: ALLOW)
    body = """
        import socket
        try:
            socket.create_connection(("127.0.0.1", 80), 1)
        except OSError as error:
            print(error.errno)
    """
    assert run(body, tmp_path) == ["101"]  # ENETUNREACH: not even the loopback is up


def test_other_processes_of_ours_cannot_be_read(tmp_path: Path) -> None:
    """Not the environment of the one that started it, which holds every secret, nor its memory; not even by root."""
    body = f"""
        for name in ("environ", "mem", "maps", "root/etc/passwd"):
            try:
                with open("/proc/{os.getpid()}/" + name, "rb") as file:
                    print(name, "opened")
            except OSError as error:
                print(name, "refused")
        print(sorted(os.environ))
    """
    lines = run(body, tmp_path)
    assert lines[:4] == ["environ refused", "mem refused", "maps refused", "root/etc/passwd refused"]
    assert set(ast.literal_eval(lines[4])) <= {"PATH", "LC_CTYPE"}


def test_no_privilege_can_be_had(tmp_path: Path) -> None:
    body = """
        import ctypes, resource
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(39, 0, 0, 0, 0) == 1  # PR_GET_NO_NEW_PRIVS
        assert libc.prctl(21, 0, 0, 0, 0) == 2  # PR_GET_SECCOMP: a filter
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[7] * 6)
        assert libc.capget(header, data) == 0 and not any(data), list(data)
        assert os.getuid() != 0
        assert max(resource.getrlimit(resource.RLIMIT_CORE)) <= 1
        for call in (lambda: libc.unshare(0x10000000), lambda: libc.ptrace(16, 1, 0, 0), lambda: libc.setuid(0)):
            assert call() == -1
        print("held")
    """
    assert run(body, tmp_path) == ["held"]


def test_files_stay_what_they_were(tmp_path: Path) -> None:
    """Outside, the user is the same: what is written belongs to the worker."""
    body = f"""
        import pathlib
        folder = pathlib.Path(r"{tmp_path}")
        (folder / "written").write_text("x")
        print((folder / "out").stat().st_uid == (folder / "written").stat().st_uid == os.getuid())
    """
    assert run(body, tmp_path) == ["True"]
    assert (tmp_path / "written").stat().st_uid == os.getuid()


def test_descriptors_that_were_not_named_are_not_there(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        body = f"""
            try:
                os.fstat({file.fileno()})
            except OSError:
                print("closed")
        """
        assert run(body, tmp_path) == ["closed"]


def test_off_takes_what_can_always_be_taken(tmp_path: Path) -> None:
    body = """
        import ctypes, resource, socket
        socket.socket().close()
        print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0), max(resource.getrlimit(resource.RLIMIT_CORE)) <= 1)
    """
    assert run(body, tmp_path, isolation="off") == ["1 True"]


REFUSING = """
import logging, sys
from app.isolation import confined, kernel, syscalls
logging.basicConfig(format="%(message)s %(reason)s", stream=sys.stdout)
program = [sys.executable, "-c", "import socket; socket.socket()"]
kernel.forbid_new_privileges()
kernel.filter_calls(syscalls.program())  # unshare is refused, as in most containers
for isolation in ("auto", "required"):
    try:
        print(confined.start(program, environment={}, descriptors=[], isolation=isolation).wait())
    except confined.CannotConfine as error:
        print("CannotConfine", error)
"""


def test_a_machine_that_refuses_is_told_of_and_the_rest_is_done() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSING], cwd=ROOT, capture_output=True, text=True, check=True)
    warning, status, error = done.stdout.splitlines()
    assert warning == "isolation.incomplete unshare: Operation not permitted (EPERM)"
    assert status == "1"
    assert "PermissionError" in done.stderr, "the filter needs no namespaces"
    assert error == "CannotConfine unshare: Operation not permitted (EPERM)"


INSPECTED = """
import os, subprocess
from app.isolation import kernel
if os.geteuid() == 0:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    kernel._call("prctl", kernel._libc.prctl, kernel.PR_SET_DUMPABLE, 1, 0, 0, 0)  # as an ordinary process starts
look = ["/bin/cat", f"/proc/{os.getpid()}/environ"]
for _ in range(2):
    print(b"geheim" in subprocess.run(look, capture_output=True, env={}).stdout)
    kernel.close_to_inspection()
"""


def test_a_worker_is_closed_to_its_own_user() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INSPECTED], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "TUNESMITH_S3_SECRET_ACCESS_KEY": "geheim"},
    )  # fmt: skip
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_machine_has_its_filter(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert syscalls.supported()
    strict, local = syscalls.program(), syscalls.program(local_sockets=True)
    assert len(strict) % 8 == len(local) % 8 == 0
    assert strict != local


def test_an_unknown_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert not syscalls.supported()
    with pytest.raises(kernel.Unavailable, match="not known"):
        kernel.filter_calls(b"")
