"""Projects and organisations that do everything the API offers, in any order, never see a trace of each other.

Every reply is searched for everybody else's words and ids (`World.send`); an id of somebody else's, in a path, a body
or a cursor, answers exactly as an id that was never given out, and changes nothing.
"""

import re
import secrets
import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from starlette.testclient import TestClient

from app.egress import Egress, Reply
from app.main import create_app
from tests.tenancy import operations
from tests.tenancy.operations import (
    ADMIN_CURSORS,
    BODIES,
    CURSORS,
    FOR_ADMINS,
    FOR_TENANTS,
    JOBS,
    PREFIXES,
    READY,
)
from tests.tenancy.world import Principal, Tenant, World, world_settings

Maker = Callable[[World, Any], str]
PICK = strategies.integers(0, 1000)
TWO = strategies.permutations([0, 1, 2]).map(lambda order: order[:2])
UNSTABLE = {"x-request-id", "openai-processing-ms", "openai-organization"}
WITH_IDS = [name for name in FOR_TENANTS if "{" in name]
ADMIN_WITH_IDS = [name for name in FOR_ADMINS if "{" in name]


def like(known: str) -> str:
    """An id of the same kind and length that was never given out."""
    if known.startswith("ft:"):
        head, _, tail = known.partition(":ckpt-step-")
        parts = [*head.split(":")[:-1], "".join(secrets.choice(string.ascii_lowercase) for _ in range(8))]
        return ":".join(parts) + (f":ckpt-step-{tail}" if tail else "")
    prefix = next(prefix for prefix in [*PREFIXES.values(), "ftevent-", "audit_log-"] if known.startswith(prefix))
    return prefix + "".join(secrets.choice(string.ascii_letters) for _ in known[len(prefix) :])


def essence(reply: httpx.Response, *ids: str) -> tuple[int, str, list[tuple[str, str]]]:
    """Status, body and headers, without the ids that were sent and what differs from request to request."""
    text = reply.text
    for known in ids:
        text = text.replace(known, "ID")
    return reply.status_code, text, [(k, v) for k, v in reply.headers.items() if k not in UNSTABLE]


class Neighbours(RuleBasedStateMachine):
    """Somebody does something; somebody else tries their ids."""

    world: World

    @rule(who=strategies.integers(0, 2), name=strategies.sampled_from(sorted(FOR_TENANTS)), pick=PICK)
    def use(self, who: int, name: str, pick: int) -> None:
        reply = FOR_TENANTS[name](self.world, self.world.tenants[who], pick)
        assert reply.is_success, (name, reply.text)

    @rule(who=strategies.integers(0, 1), name=strategies.sampled_from(sorted(FOR_ADMINS)), pick=PICK)
    def govern(self, who: int, name: str, pick: int) -> None:
        reply = FOR_ADMINS[name](self.world, self.world.admins[who], pick)
        assert reply.is_success, (name, reply.text)

    @rule(who=strategies.integers(0, 2), pick=PICK)
    def work(self, who: int, pick: int) -> None:
        tenant = self.world.tenants[who]
        job_id = tenant.some("ftjob-", pick)
        if job_id is not None:
            tenant.work(job_id, pick)

    @rule(two=TWO, name=strategies.sampled_from(WITH_IDS), pick=PICK, own_first=strategies.booleans())
    def try_a_path(self, two: list[int], name: str, pick: int, own_first: bool) -> None:
        thief, owner = (self.world.tenants[n] for n in two)
        self._try_path(thief, owner, name, pick, own_first=own_first)

    @rule(who=strategies.integers(0, 1), name=strategies.sampled_from(ADMIN_WITH_IDS), pick=PICK)
    def try_to_govern(self, who: int, name: str, pick: int) -> None:
        self._try_path(self.world.admins[who], self.world.admins[1 - who], name, pick)

    @rule(two=TWO, name=strategies.sampled_from(sorted(CURSORS)), pick=PICK)
    def try_a_cursor(self, two: list[int], name: str, pick: int) -> None:
        thief, owner = (self.world.tenants[n] for n in two)
        self._try_cursor(thief, owner, name, *CURSORS[name], pick)

    @rule(who=strategies.integers(0, 1), name=strategies.sampled_from(sorted(ADMIN_CURSORS)), pick=PICK)
    def try_a_cursor_to_govern(self, who: int, name: str, pick: int) -> None:
        thief, owner = self.world.admins[who], self.world.admins[1 - who]
        self._try_cursor(thief, owner, name, *ADMIN_CURSORS[name], pick)

    @rule(two=TWO, pick=PICK)
    def try_to_go_on_with_a_stream(self, two: list[int], pick: int) -> None:
        thief, owner = (self.world.tenants[n] for n in two)
        foreign = owner.some("ftevent-", pick)
        if foreign is None:
            return
        path, unknown = f"{JOBS}/{operations.finished_job(self.world, thief)}/events?stream=true", like(foreign)
        tries = [
            self.world.send(thief, "GET", path, headers={"Last-Event-ID": known}, said=[known])
            for known in (foreign, unknown)
        ]
        assert tries[0].status_code == 400
        assert essence(tries[0], foreign) == essence(tries[1], unknown)

    @rule(two=TWO, pick=PICK)
    def try_a_body(self, two: list[int], pick: int) -> None:
        thief, owner = (self.world.tenants[n] for n in two)
        field, prefix = (("training_file", "file-"), ("validation_file", "file-"), ("model", "ft:"))[pick % 3]
        foreign = owner.some(prefix, pick)
        if foreign is None:
            return
        unknown = like(foreign)
        whole = {"model": "tiny-chat", "training_file": operations.new_file(self.world, thief)}
        tries = [
            self.world.send(thief, "POST", JOBS, json=whole | {field: known}, said=[known])
            for known in (foreign, unknown)
        ]
        assert tries[0].status_code == 400
        assert essence(tries[0], foreign) == essence(tries[1], unknown)

    @rule(two=TWO)
    def try_a_filter(self, two: list[int]) -> None:
        thief, owner = (self.world.tenants[n] for n in two)
        params = {f"metadata[{owner.canary}]": owner.canary}
        assert self.world.send(thief, "GET", JOBS, params=params, said=[owner.canary]).json()["data"] == []

    @rule(pick=PICK)
    def try_to_share_with_another_organisation(self, pick: int) -> None:
        thief, owner = self.world.tenants[:2]
        path = f"/v1/fine_tuning/checkpoints/{operations.new_model(self.world, thief)}/permissions"
        foreign = owner.caller.project_id
        unknown = like(foreign)
        tries = [
            self.world.send(thief, "POST", path, json={"project_ids": [known]}, said=[known])
            for known in (foreign, unknown)
        ]
        assert tries[0].status_code == 400
        assert essence(tries[0], foreign) == essence(tries[1], unknown)

    def _try_path(self, thief: Principal, owner: Principal, name: str, pick: int, *, own_first: bool = False) -> None:
        method, path = name.split(" ")
        parameters = re.findall(r"\{(\w+)\}", path)
        foreign, unknown = {}, {}
        for number, parameter in enumerate(parameters):
            if number == 0 and name in READY:
                READY[name](self.world, owner)
                pick = -1
            mine = own_first and number == 0 and len(parameters) > 1
            known = (thief if mine else owner).some(PREFIXES[parameter], pick)
            if known is None:
                return
            foreign[parameter], unknown[parameter] = known, known if mine else like(known)
        before = self._view(owner)
        tries = [
            self.world.send(thief, method, path.format(**ids), json=BODIES.get(name), said=ids.values())
            for ids in (foreign, unknown)
        ]
        assert tries[0].status_code == 404, (name, tries[0].text)
        assert essence(tries[0], *foreign.values()) == essence(tries[1], *unknown.values())
        assert self._view(owner) == before, f"{name} changed what is {owner.name}'s"

    def _try_cursor(
        self, thief: Principal, owner: Principal, name: str, prefix: str, make: Maker | None, pick: int
    ) -> None:
        foreign = owner.some(prefix, pick)
        if foreign is None:
            return
        path = name.split(" ")[1]
        if make is not None:
            path = re.sub(r"\{\w+\}", make(self.world, thief), path)
        assert self.world.send(thief, "GET", path).is_success
        unknown = like(foreign)
        tries = [
            self.world.send(thief, "GET", path, params={"after": known}, said=[known]) for known in (foreign, unknown)
        ]
        assert tries[0].status_code in {400, 404}
        assert essence(tries[0], foreign) == essence(tries[1], unknown)

    def _view(self, owner: Principal) -> list[str]:
        paths = ["/v1/files", f"{JOBS}?limit=100", "/v1/models", "/v1/webhook_endpoints?limit=100"]
        if not isinstance(owner, Tenant):
            paths = ["/v1/organization/projects?limit=100", "/v1/organization/admin_api_keys?limit=100"]
        return [re.sub(r'"last_used_at":\w+', "", self.world.send(owner, "GET", path).text) for path in paths]


class Nowhere(Egress):
    """Requests to receivers are answered here."""

    def post(self, text: str, content: bytes, headers: dict[str, str]) -> Reply:
        return Reply(200, b"", None, 0.0)


@pytest.fixture
def world(scratch_database: sa.Engine, tmp_path: Path) -> Iterator[type[Neighbours]]:
    options = world_settings(scratch_database, tmp_path)
    app = create_app(options)
    app.state.webhooks = replace(app.state.webhooks, egress=Nowhere())
    with TestClient(app) as http:

        class Here(Neighbours):
            def __init__(self) -> None:
                super().__init__()
                self.world = World(app, http)

        yield Here


def use_everything(machine: Neighbours) -> None:
    """Each route once by each principal, in the order of the table, so that none is left out by chance."""
    for name, operation in FOR_TENANTS.items():
        for tenant in machine.world.tenants:
            assert operation(machine.world, tenant, 1).is_success, name
    for name, operation in FOR_ADMINS.items():
        for admin in machine.world.admins:
            assert operation(machine.world, admin, 1).is_success, name


def test_whoever_has_used_everything_can_use_nothing_of_anybody_else(world: type[Neighbours]) -> None:
    machine = world()
    use_everything(machine)
    for two in ([0, 1], [2, 0]):
        for name in WITH_IDS:
            machine.try_a_path(two=two, name=name, pick=1, own_first=False)
            machine.try_a_path(two=two, name=name, pick=1, own_first=True)
        for name in CURSORS:
            machine.try_a_cursor(two=two, name=name, pick=-2)  # the newest is deleted already
        for pick in range(3):
            machine.try_a_body(two=two, pick=pick)
        machine.try_to_go_on_with_a_stream(two=two, pick=1)
    for name in ADMIN_WITH_IDS:
        machine.try_to_govern(who=0, name=name, pick=1)
    for name in ADMIN_CURSORS:
        machine.try_a_cursor_to_govern(who=1, name=name, pick=-2)  # the newest is deleted already


def test_nobody_sees_a_trace_of_anybody_else(world: type[Neighbours]) -> None:
    run_state_machine_as_test(
        world,
        settings=settings(
            max_examples=8,
            stateful_step_count=40,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],  # a failure names who sees what, and where: nothing needs to be made shorter
            suppress_health_check=list(HealthCheck),
        ),
    )
