"""schemathesis over the whole of /openapi.json, against the application on a real port: `make fuzz`.

Everything there is exists before it starts (as in tests/tenancy), and its ids are used in paths, bodies and cursors, so
that requests come as far as the code behind the checks. What is generated and checked: schemathesis.toml.

A run follows from its seed: ids are drawn from it too. FUZZ_EXAMPLES bounds it by its requests, which are then the same
each time; else FUZZ_SECONDS bounds it, and how far it comes depends on the machine.
"""

import hashlib
import json
import os
import random
import secrets
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from live_server import serving
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import db
from app.auth import service as auth
from app.auth.tables import ApiKey
from app.egress import Egress, Reply
from app.files.tables import File
from app.main import create_app
from app.models.tables import Checkpoint, CheckpointPermission, TunedModel
from app.webhooks.tables import Delivery
from tests.tenancy.operations import ADMIN_CURSORS, CURSORS, FOR_ADMINS, FOR_TENANTS, PREFIXES
from tests.tenancy.world import Principal, Tenant, World, world_settings

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SECONDS = int(os.environ.get("FUZZ_SECONDS", "300"))
EXAMPLES = os.environ.get("FUZZ_EXAMPLES")  # of each operation, and of walks along links
SEED = int(os.environ.get("FUZZ_SEED") or secrets.randbelow(2**32))
ROUNDS = 4  # how often everything is made
SHARE = 0.7  # of parameters that name something that exists
# Members of bodies that name something, and the parameter that is named alike.
NAMED = {
    "body.model": "model",
    "body.training_file": "training_file",
    "body.validation_file": "training_file",
    "body.project_ids[*]": "beside",
    "body.part_ids[*]": "part_id",
    "query.project_id": "beside",
    "query.before": "entry_id",
}


class AtHome(Egress):
    """Requests stay on this machine, whatever URLs are thought of; the world beyond it says yes to all."""

    def post(self, text: str, content: bytes, headers: dict[str, str]) -> Reply:
        if not text.startswith("http://127.0.0.1:"):
            self.check(text)
            return Reply(200, b"", None, 0.0)
        return super().post(text, content, headers)


class Recorded:
    """The application, and what it was asked: two runs with one digest were sent the same."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._asked: list[tuple[str, bytes, bytes, bytearray]] = []

    def digest(self) -> str:
        return f"{len(self._asked)} requests, {hashlib.sha256(repr(self._asked).encode()).hexdigest()}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        self._asked.append((scope["method"], scope["raw_path"], scope["query_string"], body))

        async def read() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        await self._app(scope, read, send)
        kind = dict(scope["headers"]).get(b"content-type", b"")
        body[:] = body.replace(kind.partition(b"boundary=")[2] or kind, b"")  # drawn by the client


@pytest.fixture(autouse=True)
def randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and names follow from the seed, as they decide what is generated."""
    drawn = random.Random(SEED)
    monkeypatch.setattr(os, "urandom", drawn.randbytes)
    monkeypatch.setattr(secrets, "token_bytes", drawn.randbytes)
    monkeypatch.setattr(secrets, "token_hex", lambda size: drawn.randbytes(size).hex())
    monkeypatch.setattr(secrets, "randbelow", drawn.randrange)


@pytest.fixture
def app(scratch_database: sa.Engine, tmp_path: Path) -> FastAPI:
    settings = world_settings(scratch_database, tmp_path, webhook_loopback_http=True)
    app = create_app(settings)
    app.state.webhooks = replace(app.state.webhooks, egress=AtHome(loopback_http=True, resolve=lambda *_: []))
    return app


@pytest.mark.timeout(SECONDS * 2 + 300)
def test_the_document_is_kept(app: FastAPI, tmp_path: Path) -> None:
    recorded = Recorded(app)
    with serving(recorded) as url:
        with httpx.Client(base_url=url, timeout=60) as http:
            world = World(app, http)  # type: ignore[arg-type]
            tenant, admin = world.tenants[0], world.admins[1]
            for _ in range(ROUNDS):
                use_everything(world, tenant, admin)
        config, known = tmp_path / "schemathesis.toml", tmp_path / "world.json"
        config.write_text((HERE / "schemathesis.toml").read_text() + configuration(tenant, admin))
        known.write_text(json.dumps(described(tenant, admin)))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/openapi.json"]
        command += ["--seed", str(SEED), *(["-n", EXAMPLES] if EXAMPLES else ["--max-time", str(SECONDS)])]
        environment = os.environ | {"FUZZ_WORLD": str(known), "PYTHONHASHSEED": "0"}
        ended = subprocess.run(command, env=environment, cwd=ROOT, check=False)
    print(recorded.digest())
    assert ended.returncode == 0


def use_everything(world: World, tenant: Tenant, admin: Principal) -> None:
    """Each route once, so that there is something of everything."""
    for name, operation in FOR_TENANTS.items():
        assert operation(world, tenant, 1).is_success, name
    for name, operation in FOR_ADMINS.items():
        assert operation(world, admin, 1).is_success, name


def configuration(tenant: Tenant, admin: Principal) -> str:
    """The part of the configuration that binds parameters to ids that exist."""
    told = [*tenant.told, *admin.told]
    kinds = PREFIXES | {"part_id": "part_", "event_id": "ftevent-", "entry_id": "audit_log-"}
    lists = {name: [known for known in told if known.startswith(prefix)] for name, prefix in kinds.items()}
    lists |= {"beside": [tenant.beside], "project_id": [known for known in admin.told if known.startswith("proj_")]}
    with db.reading() as session:
        lists["training_file"] = sorted(session.scalars(sa.select(File.id).where(File.purpose == "fine-tune")))
    values = [f"[dictionaries.{name}]\nvalues = {json.dumps(ids)}\n" for name, ids in lists.items()]
    places = {f"path.{name}": name for name in PREFIXES} | NAMED
    cursors = {
        operation: next(name for name, begins in kinds.items() if begins == prefix)
        for operation, (prefix, _) in (CURSORS | ADMIN_CURSORS).items()
    }
    lists_of = [
        f'[[operations]]\ninclude-name = "{operation}"\nparameters = {{{_bound("query.after", name)}}}\n'
        for operation, name in cursors.items()
    ]
    return "\n".join(["", *values, "[parameters]", *(_bound(*place) for place in places.items()), *lists_of])


def _bound(place: str, name: str) -> str:
    return f'"{place}" = {{dictionary = "{name}", probability = {SHARE}}}'


def described(tenant: Tenant, admin: Principal) -> dict[str, Any]:
    """What hooks.py must know: the keys, and what lies below something: by parameter, pairs of ids."""
    below = {
        "checkpoint_id": sa.select(Checkpoint.job_id, Checkpoint.id),
        "permission_id": sa.select(TunedModel.name, CheckpointPermission.id).join_from(
            CheckpointPermission, TunedModel
        ),
        "delivery_id": sa.select(Delivery.endpoint_id, Delivery.id),
        "key_id": sa.select(ApiKey.project_id, ApiKey.id).where(
            ApiKey.project_id.is_not(None), ApiKey.revoked_at.is_(None)
        ),
    }
    with db.reading() as session:
        pairs = {name: sorted(list(pair) for pair in session.execute(query)) for name, query in below.items()}
        admin_key_id = auth.authenticate(session, admin.key).key_id
    return {"tenant_key": tenant.key, "admin_key": admin.key, "admin_key_id": admin_key_id, "pairs": pairs}
