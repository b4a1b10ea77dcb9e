"""Code that tries to get out of the sandbox, or to take more than its share. Every source here is really run."""

import os
import sys
from pathlib import Path

import pytest

from app.graders.faults import PythonTimeout
from app.graders.sandbox import Limits, Sandbox
from tests.graders.jailed import fault, jails, run

MIB = 1024 * 1024
ROOT = Path(__file__).parent.parent.parent
NOBODY = 65534


def test_no_network(sandbox: Sandbox) -> None:
    assert "PermissionError" in fault(sandbox, "import socket; socket.socket(); return 1.0")
    assert "PermissionError" in fault(sandbox, "import socket; socket.create_connection(('127.0.0.1', 1)); return 1.0")
    vsock = "import socket; socket.socket(40, socket.SOCK_STREAM); return 1.0"  # to the machine below a virtual one
    assert "PermissionError" in fault(sandbox, vsock)


def test_no_network_even_past_the_filter() -> None:
    """With sockets allowed, the namespace still has no interface that is up."""
    body = """
        import socket
        try:
            socket.create_connection(("127.0.0.1", 80), 1)
        except OSError as error:
            return float(error.errno)
    """
    sandbox = Sandbox(Limits(seconds=60))
    sandbox._plan["filter"] = bytes([6, 0, 0, 0, 0, 0, 0xFF, 0x7F]).hex()  # "allow", as the only instruction
    assert run(sandbox, body) == 101  # ENETUNREACH


def test_no_other_process(sandbox: Sandbox) -> None:
    assert "BlockingIOError" in fault(sandbox, "import os\nwhile True: os.fork()")
    assert "can't start new thread" in fault(sandbox, "import threading; threading.Thread(target=print).start()")
    assert "BlockingIOError" in fault(sandbox, "import subprocess; subprocess.run(['/bin/true']); return 1.0")


def test_a_fork_bomb_where_a_few_processes_are_allowed() -> None:
    sandbox = Sandbox(Limits(seconds=60, memory=512 * MIB, processes=8))
    body = """
        import os, time
        children = 0
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(60)
            except BlockingIOError:
                return float(children)
            children += 1
    """
    assert run(sandbox, body) == 7
    assert jails() == []


def test_memory(sandbox: Sandbox) -> None:
    assert "MemoryError" in fault(sandbox, "x = bytearray(1 << 30); return 1.0")
    assert "MemoryError" in fault(sandbox, "x = []\nwhile True: x.append('y' * 1_000_000 + str(len(x)))")
    assert "MemoryError" in fault(sandbox, "return float('9' * (1 << 40))")


def test_processor_time() -> None:
    sandbox = Sandbox(Limits(seconds=1))
    with pytest.raises(PythonTimeout, match="within 1 s"):
        run(sandbox, "while True: pass")
    with pytest.raises(PythonTimeout, match="within 1 s"):
        run(sandbox, "import time; time.sleep(60)")
    body = """
        import contextlib, signal
        for number in range(1, 64):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_IGN)
        while True:
            pass
    """
    with pytest.raises(PythonTimeout, match="within 1 s"):
        run(sandbox, body)
    assert jails() == []


def test_the_callers_time_counts_too(sandbox: Sandbox) -> None:
    with pytest.raises(PythonTimeout, match=r"within 0\.3 s"):
        run(sandbox, "while True: pass", seconds=0.3)


def test_disk(sandbox: Sandbox) -> None:
    large = "open('/tmp/x', 'wb').write(bytes(17 << 20)); return 1.0"
    assert "File too large" in fault(sandbox, large)
    several = "for n in range(99): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))"
    assert "No space left" in fault(sandbox, several)
    many = "for n in range(10**6): open(f'/tmp/{n}', 'wb').close()"
    assert "No space left" in fault(sandbox, many)
    kept = "files = [open(f'/tmp/{n}', 'wb') for n in range(1000)]"
    assert "Too many open files" in fault(sandbox, kept)


def test_nothing_is_left_behind(sandbox: Sandbox) -> None:
    body = "import os; there = os.path.exists('/tmp/mark'); open('/tmp/mark', 'w').close(); return float(there)"
    assert run(sandbox, body) == 0
    assert run(sandbox, body) == 0
    assert not Path("/tmp/mark").exists()


@pytest.mark.parametrize("path", ["/x", "/usr/x", "/usr/bin/x", "/dev/x", "/etc/x", sys.prefix + "/x"])
def test_nothing_else_can_be_written(sandbox: Sandbox, path: str) -> None:
    message = fault(sandbox, f"open({path!r}, 'w'); return 1.0")
    assert "Read-only file system" in message or "Permission denied" in message
    assert not Path(path).exists()


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/environ", "/proc/1/environ", "/proc/1/root/etc/passwd", "/proc/cpuinfo", "/sys/kernel",
        "/etc/passwd", "/etc/shadow", "/etc/hostname", "/root/.aws/credentials", "/root/.ssh", "/home", "/var", "/run",
        "/old", "/boot", "/dev/mem", "/dev/vda", "/dev/kmsg", "/dev/shm", "/dev/pts", "/dev/tty",
        str(ROOT / "pyproject.toml"), str(ROOT / ".git"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen(sandbox: Sandbox, path: str) -> None:
    assert run(sandbox, f"import os; return float(os.path.lexists({path!r}))") == 0


def test_symlinks_and_dots_lead_nowhere(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    body = f"""
        import os
        os.symlink("../../../../../../../../{secret}", "/tmp/a")
        os.symlink("/proc/1/root/{secret}", "/tmp/b")
        os.symlink("/tmp/c", "/tmp/c")
        found = 0
        for path in ("/tmp/a", "/tmp/b", "/tmp/c", "/../../..{secret}", "{secret}"):
            try:
                open(path)
                found += 1
            except OSError:
                pass
        return float(found)
    """
    assert run(sandbox, body) == 0


def test_the_environment_has_no_secret(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_S3_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setenv("LD_PRELOAD", "")
    message = fault(sandbox, "import os; raise Exception(sorted(os.environ))")
    assert message.startswith(
        "Exception: ['HOME', 'LANG', 'MKL_NUM_THREADS', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'PATH']"
    )


def test_no_descriptor_is_inherited(sandbox: Sandbox, tmp_path: Path) -> None:
    """Not even one that was made inheritable: only the request, the result, and nothing where output would go."""
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        body = """
            import os
            kinds = {}
            for fd in range(64):
                try:
                    kinds[fd] = oct(os.fstat(fd).st_mode >> 12)
                except OSError:
                    pass
            assert [kinds.pop(fd) for fd in (0, 1, 2)] == ["0o2"] * 3, kinds  # character devices: /dev/null
            assert sorted(kinds.values()) == ["0o1"], kinds  # a pipe: the result
            return 1.0
        """
        assert run(sandbox, body) == 1


def test_nobody_else_can_be_signalled(sandbox: Sandbox) -> None:
    assert "ProcessLookupError" in fault(sandbox, f"import os; os.kill({os.getpid()}, 9); return 1.0")
    assert "ProcessLookupError" in fault(sandbox, "import os; os.kill(-1, 9); return 1.0")
    parents = "import os; os.kill(os.getppid(), 9); os.kill(1, 15); return float(os.getppid())"
    assert run(sandbox, parents) == 1  # the namespace's own first process, which does not hear


def test_it_has_no_privilege(sandbox: Sandbox) -> None:
    body = f"""
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        assert os.getresuid() == os.getresgid() == ({NOBODY},) * 3, os.getresuid()
        assert os.getgroups() in ([], [{NOBODY}]), os.getgroups()
        assert libc.prctl(39, 0, 0, 0, 0) == 1  # PR_GET_NO_NEW_PRIVS
        assert libc.prctl(21, 0, 0, 0, 0) == 2  # PR_GET_SECCOMP: a filter
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[7] * 6)
        assert libc.capget(header, data) == 0 and not any(data), list(data)
        calls = {{
            "unshare": lambda: libc.unshare(0x10000000),
            "mount": lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, None),
            "umount": lambda: libc.umount2(b"/usr", 2),
            "chroot": lambda: libc.chroot(b"/tmp"),
            "ptrace": lambda: libc.ptrace(16, 1, 0, 0),
            "setuid": lambda: libc.setuid(0),
            "nice": lambda: libc.setpriority(0, 0, -1),
            "clone": lambda: libc.syscall(56, 0x10000011, 0, 0, 0, 0) if os.uname().machine == "x86_64" else -1,
            "keyctl": lambda: libc.syscall(250, 0, -3, 0) if os.uname().machine == "x86_64" else -1,
            "reboot": lambda: libc.reboot(0),
            "sethostname": lambda: libc.sethostname(b"x", 1),
        }}
        worked = [name for name, call in calls.items() if call() != -1]
        assert worked == [], worked
        return 1.0
    """
    assert run(sandbox, body) == 1


def test_limits_cannot_be_raised(sandbox: Sandbox) -> None:
    body = """
        import resource
        for name in ("AS", "CPU", "FSIZE", "NPROC", "NOFILE", "CORE"):
            soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
            assert soft == hard != resource.RLIM_INFINITY, name
        resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
    """
    assert "not allowed to raise maximum limit" in fault(sandbox, body)


@pytest.mark.parametrize(
    ("written", "details"),
    [
        ("b'x' * (1 << 20)", "more than a result"),
        ("b'not json'", "a result of its own"),
        ("b'[1]'", "a result of its own"),
        ('b\'{"reward": "1"}\'', "a result of its own"),
        ("b'{\"reward\": 1e999}'", "a result of its own"),
        ("b'{\"reward\": NaN}'", "a result of its own"),
        ("b'{}'", "a result of its own"),
        ("b'[' * 60000", "a result of its own"),
        ('b\'{"error": "mine"}\'', "mine"),
    ],
)
def test_what_it_writes_itself_is_judged(sandbox: Sandbox, written: str, details: str) -> None:
    body = f"""
        import os
        for fd in range(3, 64):
            try:
                os.write(fd, {written})
            except OSError:
                pass
        os._exit(0)
    """
    assert details in fault(sandbox, body)


def test_endless_output_to_the_result(sandbox: Sandbox) -> None:
    body = """
        import contextlib, os
        for fd in range(3, 64):
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, b"x" * 65536)
    """
    assert "more than a result" in fault(sandbox, body)


def test_endless_printing(sandbox: Sandbox) -> None:
    assert run(sandbox, "for _ in range(1000): print('x' * 1_000_000)\nreturn 1.0") == 1


def test_the_request_cannot_be_used_to_keep_something(sandbox: Sandbox) -> None:
    """The file the request comes in is sealed; it is also gone from descriptor 0 before the code runs."""
    assert "not writable" in fault(sandbox, "import sys; sys.stdin.write('x'); return 1.0")
