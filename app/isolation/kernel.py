"""The kernel's means of taking rights away from a process, through the C library. Standard library only.

`app.graders.jail` shuts a tenant's code in with them, `app.isolation.confine` the engine. What is taken is gone for
good, for this process and for whatever it becomes. Raises Unavailable where the machine does not allow a step.
"""

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOBODY = 65534
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
SYS_MOUNT_SETATTR = 442  # the same on every architecture
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
SECCOMP_MODE_FILTER = 2

_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """This machine does not allow a step; the message says which, and how it was refused."""


def unshare(flags: int) -> None:
    """Move this process (its children, for CLONE_NEWPID) into new namespaces."""
    _call("unshare", _libc.unshare, flags)


def map_user(inside: int, outside: tuple[int, int]) -> None:
    """In a new user namespace: be the user and group `inside`, who are `outside` to everybody else."""
    user, group = outside
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{inside} {user} 1")
    write("/proc/self/gid_map", f"{inside} {group} 1")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _call(f"mount({target})", _libc.mount, *encoded[:3], ctypes.c_ulong(flags), encoded[3])


def unmount(path: str) -> None:
    """Take a mount away, whoever uses it."""
    _call("umount2", _libc.umount2, path.encode(), MNT_DETACH)


def set_read_only(path: str, *, recursive: bool = True) -> None:
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    arguments = (AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes))
    _call(f"mount_setattr({path})", _libc.syscall, SYS_MOUNT_SETATTR, *arguments)


def pivot_root(number: int, new: str, old: str) -> None:
    """number: of the system call, which the C library has no function for."""
    _call("pivot_root", _libc.syscall, number, new.encode(), old.encode())


def forbid_new_privileges() -> None:
    """No program that this process becomes gets more rights than it has: no set-uid, no file capabilities."""
    _call("prctl(no_new_privs)", _libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def forbid_core_dumps() -> None:
    """One byte is too few for a file, and the one limit that counts where dumps are handed to a program."""
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = 0 if most == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def filter_calls(program: bytes) -> None:
    """Install a BPF program of `struct sock_filter` as this process's system-call filter (seccomp(2))."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    if not program:
        raise Unavailable("seccomp: the system calls of this machine are not known here")
    loaded = Program(len(program) // 8, program)
    _call("seccomp", _libc.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0)


def close_to_inspection() -> None:
    """Let no other process of this user read this one's memory or environment; no core dump. On Linux only."""
    if sys.platform.startswith("linux"):
        _call("prctl(dumpable)", _libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)


def write(path: str, text: str) -> None:
    """Write to a file of the kernel's."""
    try:
        Path(path).write_text(text, "ascii")
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def _call(name: str, function: Callable[..., int], *arguments: Any) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise Unavailable(f"{name}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")
