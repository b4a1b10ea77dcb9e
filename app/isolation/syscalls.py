"""Which system calls are refused to confined processes, as a seccomp filter (seccomp(2), `linux/filter.h`).

Namespaces take the machine out of sight; the filter closes the parts of the kernel that graders and the engine have no
use for and that have been ways out before: sockets, new namespaces, mounts, tracing, key rings, programs in the kernel.
A forbidden call fails with EPERM; a call of another instruction set ends the process.
"""

import platform
import struct

# linux/bpf_common.h and linux/seccomp.h
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL_WITH, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_EPERM, _ENOSYS = 1, 38
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW… flag of clone(2)
_CLONE3 = 435  # its flags lie in memory, where no filter can look: it is said not to exist, and clone is used instead
_AF_UNIX = 1
_X32 = 0x40000000  # calls of the x32 interface, on x86-64 only

_SAME_EVERYWHERE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434,
    "pidfd_getfd": 438, "mount_setattr": 442,
}  # fmt: skip
_X86_64 = {
    "socket": 41, "connect": 42, "ptrace": 101, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166,
    "init_module": 175, "delete_module": 176, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
    "unshare": 272, "perf_event_open": 298, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "finit_module": 313, "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "unshare": 97, "kexec_load": 104, "init_module": 105,
    "delete_module": 106, "ptrace": 117, "socket": 198, "connect": 203, "add_key": 217,
    "request_key": 218, "keyctl": 219, "perf_event_open": 241, "name_to_handle_at": 264, "open_by_handle_at": 265,
    "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "finit_module": 273, "bpf": 280,
    "userfaultfd": 282,
}  # fmt: skip
# Machine → its name in seccomp data, forbidden calls, clone(2), pivot_root(2).
_MACHINES = {"x86_64": (0xC000003E, _X86_64, 56), "aarch64": (0xC00000B7, _AARCH64, 220)}


def supported() -> bool:
    """Whether this machine's calls are known here."""
    return platform.machine() in _MACHINES


def pivot_root() -> int:
    """The number of pivot_root(2), which the C library has no function for."""
    return _MACHINES[platform.machine()][1]["pivot_root"]


def program(*, local_sockets: bool = False) -> bytes:
    """The filter for this machine: one `struct sock_filter` (8 bytes) after another.

    local_sockets: sockets of this machine's own (AF_UNIX) may be made, as drivers do, but connected to nothing.
    """
    architecture, forbidden, clone = _MACHINES[platform.machine()]
    numbers = sorted({*forbidden.values(), *_SAME_EVERYWHERE.values()})
    if local_sockets:
        numbers.remove(forbidden["socket"])
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        (_JUMP_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _FAIL_WITH | _ENOSYS),
    ]
    for number in numbers:
        lines += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL_WITH | _EPERM)]
    if local_sockets:
        lines += [
            (_JUMP_EQUAL, 0, 4, forbidden["socket"]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_JUMP_EQUAL, 0, 1, _AF_UNIX),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _FAIL_WITH | _EPERM),
        ]
    lines += [
        (_JUMP_EQUAL, 0, 3, clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _FAIL_WITH | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
