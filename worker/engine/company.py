"""The jobs that train together on one base: whose chunks share the next pass, who comes and who goes.

Passes are shared fairly by tokens: between tenants first, then between a tenant's jobs. Every job that fits takes part
in every pass, so a job of a hundred rows ends soon beside one of ten hours; where not all fit, the least served go
first. A `deterministic` job has its passes to itself.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from worker.engine import loop, passes, process
from worker.engine.base_model import Base
from worker.engine.batches import Chunk, Part
from worker.engine.job import Job
from worker.engine.loop import Report, Turns
from worker.engine.memory import TooMuch

log = logging.getLogger(__name__)


@dataclass
class Member:
    """A job in the company: its generator, the chunk it waits for, and the tokens it was served."""

    job: Job
    tenant: str
    turns: Turns
    served: int
    chunk: Chunk = field(init=False)
    waiting: list[Callable[[], None]] = field(default_factory=list)  # what is to be done at its next step boundary

    @property
    def at_boundary(self) -> bool:
        """Whether the job stands between two optimizer steps: nothing of the one it waits to begin was done yet."""
        return self.chunk.training and self.chunk.number == 0

    @property
    def part(self) -> Part:
        return Part(self.chunk, self.job.slot, self.job.draw)


@dataclass(frozen=True)
class Ended:
    """A member has left: `error` is None for a job that is done."""

    member: Member
    error: Exception | None


class Company:
    """The members on one base, each of which waits for a pass.

    report: what the members' training tells. ended: told of each member that left by itself.
    """

    def __init__(self, base: Base, report: Report, ended: Callable[[Ended], None]) -> None:
        self.base = base
        self.members: dict[str, Member] = {}
        self._report = report
        self._ended = ended
        self._tenants: dict[str, int] = {}  # tokens served to each tenant that has members

    def join(self, job: Job, tenant: str) -> None:
        """Take a job in. A newcomer starts level with the least served, or it would have the engine for itself."""
        least = min((member.served for member in self.members.values()), default=0)
        self._tenants.setdefault(tenant, min(self._tenants.values(), default=0))
        self.base.memory.share(len(self.members) + 1)
        member = self.members[job.id] = Member(job, tenant, loop.train(job, self.base, self._report), least)
        self._advance(member, None)

    def at_boundary(self, member: Member, action: Callable[[], None]) -> None:
        """Do something once the member stands between two steps, which may be now."""
        if member.at_boundary:
            action()
        else:
            member.waiting.append(action)

    def leave(self, member: Member) -> None:
        """Free a member's slot."""
        del self.members[member.job.id]
        if all(other.tenant != member.tenant for other in self.members.values()):
            del self._tenants[member.tenant]
        self.base.bank.adapters[member.job.slot] = None
        self.base.memory.share(len(self.members))
        if not self.members:
            self.base.memory.relax()
            process.give_back()

    def turn(self) -> None:
        """One pass, and what those who took part make of it."""
        chosen = choose(list(self.members.values()), self._tenants, self.base.memory.limit)
        first = chosen[0].job
        threads = first.threads if first.spec.deterministic else None
        try:
            outcomes = passes.run(self.base, [member.part for member in chosen], threads)
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._step_down(chosen, error)
            return
        for member, outcome in zip(chosen, outcomes, strict=True):
            member.served += member.chunk.tokens
            self._tenants[member.tenant] += member.chunk.tokens
            self._advance(member, outcome)

    def _advance(self, member: Member, outcome: torch.Tensor | None) -> None:
        """Let a member go on to its next chunk; None lets it begin."""
        try:
            member.chunk = member.turns.send(outcome)
        except StopIteration:
            self._end(member, None)
        except Exception as error:  # whatever breaks one job, the others go on
            log.exception("job failed", extra={"job": member.job.id, "step": member.job.progress.step})
            self._end(member, error)
        else:
            while member.waiting and member.at_boundary and member.job.id in self.members:
                member.waiting.pop(0)()

    def _end(self, member: Member, error: Exception | None) -> None:
        self.leave(member)
        self._ended(Ended(member, error))

    def _step_down(self, chosen: Sequence[Member], error: Exception) -> None:
        """Make the next passes cheaper and let those who took part begin their steps again; or give them up."""
        notice = self.base.memory.step_down(alone=any(member.job.spec.deterministic for member in chosen))
        for member in chosen:
            if notice is None:
                self._end(member, error)
                continue
            self._report("notice", job=member.job.id, step=member.job.progress.step, message=notice)
            member.chunk = member.turns.throw(TooMuch())


def choose(members: Sequence[Member], tenants: dict[str, int], limit: int) -> list[Member]:
    """Who takes part in the next pass: the least served, and all that fit beside it within `limit` tokens."""
    chosen: list[Member] = []
    tokens = 0
    for member in sorted(members, key=lambda member: (tenants[member.tenant], member.served)):
        if chosen and not (_together(chosen[0], member) and tokens + member.chunk.tokens <= limit):
            continue
        chosen.append(member)
        tokens += member.chunk.tokens
    return sorted(chosen, key=lambda member: member.job.slot)


def _together(first: Member, other: Member) -> bool:
    alike = first.chunk.regime == other.chunk.regime and first.chunk.training == other.chunk.training
    return alike and not first.job.spec.deterministic and not other.job.spec.deterministic
