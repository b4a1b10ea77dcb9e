"""Become a prisoner: `python jail.py PLAN`. Standard library only, one thread, and no import of ours.

Three processes come of it. The *keeper* (this one) moves into namespaces of its own and builds a root that holds an
interpreter and nothing else. The *warden* is process 1 of the new process namespace, with which the kernel ends
everything in there; it ends when the prisoner does, or when the lifeline closes because whoever holds its other end
has given up or is gone. The *prisoner* is the interpreter that runs the tenant's code, with no capability, no
descriptor but its request and its result, and limits on what it may take.

The plan is a JSON object made by `app.graders.sandbox`. If a step is not allowed on this machine, `{"unavailable":
reason}` is written to the result descriptor and nothing is run.
"""

import ctypes
import errno
import json
import os
import resource
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65534
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
SYS_MOUNT_SETATTR = 442  # the same on every architecture
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
SECCOMP_MODE_FILTER = 2
BASE = "/tmp"  # noqa: S108 - a folder that every system has, covered by a mount only we see
MOST_FILES = 4096  # in the folder the code may write to
DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """This machine does not let us isolate the code; the message says which step failed."""


def main(plan: dict[str, Any]) -> int:
    """Run the plan. Returns the prisoner's exit status, 128 + n when signal n ended it."""
    os.set_inheritable(plan["lifeline"], False)
    try:
        _isolate(plan)
    except (Unavailable, OSError) as error:
        _report(plan, error)
        return 1
    return _exit_status(os.waitpid(_fork(plan, _warden), 0)[1])


def _isolate(plan: dict[str, Any]) -> None:
    """Leave everything of the host behind but this process's memory and descriptors."""
    _write("/proc/self/oom_score_adj", "1000")  # if memory runs out, the code goes and not the service
    rest = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    if os.geteuid() == 0:
        # Root builds the new root with what root may read, and only then becomes nobody: were root itself the
        # prisoner's user, files of the kernel that belong to root would be open to it.
        _unshare(CLONE_NEWNS)
        _build_root(plan)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _unshare(CLONE_NEWUSER | rest)
    else:
        user, group = os.geteuid(), os.getegid()
        _unshare(CLONE_NEWUSER | CLONE_NEWNS)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{NOBODY} {user} 1")
        _write("/proc/self/gid_map", f"{NOBODY} {group} 1")
        _build_root(plan)
        _unshare(rest)
    os.nice(10)  # the service itself goes first


def _build_root(plan: dict[str, Any]) -> None:
    """A root of a few read-only folders and one small folder in memory to write to, and nothing else."""
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", BASE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    old = f"{BASE}/old"
    Path(old).mkdir()
    _call("pivot_root", _libc.syscall, plan["pivot_root"], BASE.encode(), old.encode())
    os.chdir("/")
    for target, link in plan["links"].items():
        Path(target).symlink_to(link)
    Path(BASE).mkdir()
    limits = f"mode=0700,size={plan['disk']},nr_inodes={MOST_FILES}"
    _mount("tmpfs", BASE, "tmpfs", MS_NOSUID | MS_NODEV, f"{limits},uid={NOBODY},gid={NOBODY}")
    for path in plan["shown"]:
        _show(f"/old{path}", path)
    for name in DEVICES:
        _show(f"/old/dev/{name}", f"/dev/{name}", read_only=False)
    _call("umount2", _libc.umount2, b"/old", MNT_DETACH)
    Path("/old").rmdir()
    _set_read_only("/", recursive=False)


def _show(source: str, target: str, *, read_only: bool = True) -> None:
    """Make a folder or file of the host appear in the new root."""
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    _mount(source, target, None, MS_BIND | MS_REC)
    if read_only:
        _set_read_only(target)


def _warden(plan: dict[str, Any]) -> NoReturn:
    """Process 1: when it ends, the kernel ends everything else in its namespace."""
    prisoner = _fork(plan, _prisoner)
    events = select.poll()
    for descriptor in (os.pidfd_open(prisoner), plan["lifeline"]):
        events.register(descriptor, select.POLLIN)
    if plan["lifeline"] in dict(events.poll()):
        os._exit(1)
    os._exit(_exit_status(os.waitpid(prisoner, 0)[1]))


def _prisoner(plan: dict[str, Any]) -> NoReturn:
    """Take the limits, lose every privilege, and become the interpreter that runs the code."""
    limits = plan["limits"]
    for name, most in limits.items():
        resource.setrlimit(getattr(resource, name), (most, most))
    os.chdir(BASE)
    _call("prctl(no_new_privs)", _libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _filter_calls(bytes.fromhex(plan["filter"]))
    # Not being root in here, the new program gets no capability of the namespace.
    os.execve(plan["command"][0], plan["command"], plan["environment"])  # noqa: S606 - no shell is wanted


def _filter_calls(program: bytes) -> None:
    """Install a BPF program of `struct sock_filter` as this process's system-call filter (seccomp(2))."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    loaded = Program(len(program) // 8, program)
    _call("seccomp", _libc.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0)


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _fork(plan: dict[str, Any], run: Callable[[dict[str, Any]], NoReturn]) -> int:
    """The id of a child that does `run` and never comes back here."""
    child = os.fork()
    if child:
        return child
    try:
        run(plan)
    except (Unavailable, OSError) as error:
        _report(plan, error)
    finally:
        os._exit(1)


def _report(plan: dict[str, Any], error: Exception) -> None:
    os.write(plan["result"], json.dumps({"unavailable": str(error)}).encode())


def _unshare(flags: int) -> None:
    _call("unshare", _libc.unshare, flags)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _call(f"mount({target})", _libc.mount, *encoded[:3], ctypes.c_ulong(flags), encoded[3])


def _set_read_only(path: str, *, recursive: bool = True) -> None:
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    arguments = (AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes))
    _call(f"mount_setattr({path})", _libc.syscall, SYS_MOUNT_SETATTR, *arguments)


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, "ascii")
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def _call(name: str, function: Callable[..., int], *arguments: Any) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise Unavailable(f"{name}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
