"""Become a prisoner: `python jail.py PLAN`. Standard library only, and one thread.

Three processes come of it. The *keeper* (this one) moves into namespaces of its own and builds a root that holds an
interpreter and nothing else. The *warden* is process 1 of the new process namespace, with which the kernel ends
everything in there; it ends when the prisoner does, or when the lifeline closes because whoever holds its other end
has given up or is gone. The *prisoner* is the interpreter that runs the tenant's code, with no capability, no
descriptor but its request and its result, and limits on what it may take.

The plan is a JSON object made by `app.graders.sandbox`. If a step is not allowed on this machine, `{"unavailable":
reason}` is written to the result descriptor and nothing is run.
"""

import json
import os
import resource
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

sys.path.append(str(Path(__file__).resolve().parents[2]))  # an isolated interpreter does not know where we live
from app.isolation import kernel
from app.isolation.kernel import NOBODY, Unavailable

BASE = "/tmp"  # noqa: S108 - a folder that every system has, covered by a mount only we see
MOST_FILES = 4096  # in the folder the code may write to
DEVICES = ("null", "zero", "full", "random", "urandom")


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
    kernel.write("/proc/self/oom_score_adj", "1000")  # if memory runs out, the code goes and not the service
    rest = kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    if os.geteuid() == 0:
        # Root builds the new root with what root may read, and only then becomes nobody: were root itself the
        # prisoner's user, files of the kernel that belong to root would be open to it.
        kernel.unshare(kernel.CLONE_NEWNS)
        _build_root(plan)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        kernel.unshare(kernel.CLONE_NEWUSER | rest)
    else:
        ourselves = os.geteuid(), os.getegid()
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        kernel.map_user(NOBODY, ourselves)
        _build_root(plan)
        kernel.unshare(rest)
    os.nice(10)  # the service itself goes first


def _build_root(plan: dict[str, Any]) -> None:
    """A root of a few read-only folders and one small folder in memory to write to, and nothing else."""
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", BASE, "tmpfs", flags, "mode=0755,size=1m")
    old = f"{BASE}/old"
    Path(old).mkdir()
    kernel.pivot_root(plan["pivot_root"], BASE, old)
    os.chdir("/")
    for target, link in plan["links"].items():
        Path(target).symlink_to(link)
    Path(BASE).mkdir()
    limits = f"mode=0700,size={plan['disk']},nr_inodes={MOST_FILES}"
    kernel.mount("tmpfs", BASE, "tmpfs", flags, f"{limits},uid={NOBODY},gid={NOBODY}")
    for path, source in plan["shown"].items():
        _show(f"/old{source}", path)
    for name in DEVICES:
        _show(f"/old/dev/{name}", f"/dev/{name}", read_only=False)
    kernel.unmount("/old")
    Path("/old").rmdir()
    kernel.set_read_only("/", recursive=False)


def _show(source: str, target: str, *, read_only: bool = True) -> None:
    """Make a folder or file of the host appear in the new root."""
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
    if read_only:
        kernel.set_read_only(target)


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
    kernel.forbid_core_dumps()
    for name, most in plan["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))
    os.chdir(BASE)
    kernel.forbid_new_privileges()
    kernel.filter_calls(bytes.fromhex(plan["filter"]))
    # Not being root in here, the new program gets no capability of the namespace.
    os.execve(plan["command"][0], plan["command"], plan["environment"])  # noqa: S606 - no shell is wanted


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


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
