"""Two organisations with three projects, whose every word is recognisable, and all that each of them has been told."""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from fastapi import FastAPI
from live_server import Live, write_catalog
from starlette.testclient import TestClient

from app import db
from app.auth import service as auth
from app.auth.scopes import PROJECT_SCOPES, Scope
from app.auth.service import Caller
from app.config import Settings
from app.events import service as events
from app.jobs import states
from app.jobs.tables import Job
from app.secrets import new_key

# What could give somebody away: every id the API hands out, request ids apart, and the names of tuned models.
IDS = re.compile(r"(?:file-|[a-z]{2,9}_|ftjob-|ftevent-|audit_log-)[A-Za-z0-9]{24,}|ft:[\w.-]+:[\w-]*:[\w-]*:[\w:-]+")


@dataclass
class Principal:
    """Somebody with a key: a project, or an organisation's administrator."""

    name: str
    key: str
    canary: str
    organization: str
    told: dict[str, None] = field(default_factory=dict)  # ids from replies, in their order

    def some(self, prefix: str, pick: int = -1) -> str | None:
        """One of the ids this principal was told that begin so."""
        found = [known for known in self.told if known.startswith(prefix)]
        return found[pick % len(found)] if found else None


@dataclass
class Tenant(Principal):
    """A project; `live` stands in for the workers."""

    caller: Caller = None  # type: ignore[assignment]
    live: Live = None  # type: ignore[assignment]
    beside: str = ""  # a project of the same organisation that nobody works in

    def work(self, job_id: str, pick: int) -> None:
        """Do to a job what a worker would: tell events, and let it succeed or fail."""
        with db.transaction() as session:
            if session.get_one(Job, job_id).status in states.FINAL:
                return
            events.append(session, job_id, f"about {self.canary}")
        self.live.append_steps(job_id, 3)
        if pick % 4 == 0:
            self.live.fail(job_id)
        else:
            self.live.resolve(job_id)
            self.live.publish(job_id, steps=(2, 4))


class World:
    """The application and everybody in it. Each reply is searched for what its reader must not know."""

    def __init__(self, app: FastAPI, http: TestClient) -> None:
        self.app, self.http = app, http
        one, two = (f"org{secrets.token_hex(4)}canary" for _ in range(2))
        self.tenants = [self._tenant("A", one), self._tenant("B", two), self._tenant("C", one)]
        self.admins = [self._admin(one), self._admin(two)]

    @property
    def everybody(self) -> list[Principal]:
        return [*self.tenants, *self.admins]

    def send(
        self, who: Principal, method: str, path: str, *, said: Iterable[str] = (), **request: Any
    ) -> httpx.Response:
        """One request, its reply searched. said: foreign words in the request, which the reply may repeat."""
        headers = {"Authorization": f"Bearer {who.key}", **request.pop("headers", {})}
        reply = self.http.request(method, path, headers=headers, **request)
        assert reply.status_code < 500, (method, path, reply.text)
        text = "\n".join([*(f"{k}: {v}" for k, v in reply.headers.items()), reply.content.decode("latin-1")])
        for word in said:
            text = text.replace(word, "")
        for other in self.everybody:
            for secret in self._secrets(other, who):
                assert secret not in text, f"{who.name} is shown {secret} of {other.name} by {method} {path}"
        if not said:
            who.told.update(dict.fromkeys(found for found in IDS.findall(text) if not found.startswith("req_")))
        return reply

    def _secrets(self, other: Principal, reader: Principal) -> Iterable[str]:
        """What `reader` must not see of `other`: between projects of one organisation, all but the organisation."""
        same = other.organization == reader.organization
        if other is reader or (same and not isinstance(reader, Tenant)):
            return []
        words = [other.canary, other.key, *(known for known in other.told if known not in reader.told)]
        if isinstance(other, Tenant):
            words += [other.caller.project_id, other.caller.key_id]
        if not same:
            return [*words, other.organization, *([other.beside] if isinstance(other, Tenant) else [])]
        # An administrator is told its projects' own ids, and the one beside is known to all of them.
        own = {reader.caller.project_id, reader.caller.key_id, reader.beside} if isinstance(reader, Tenant) else set()
        return [word for word in words if word not in own]

    def _tenant(self, name: str, organization: str) -> Tenant:
        canary = f"canary{name.lower()}{secrets.token_hex(4)}"
        key, caller = self._key(organization, f"project {canary}", PROJECT_SCOPES)
        _, beside = self._key(organization, "beside", PROJECT_SCOPES)
        assert isinstance(caller, Caller)
        assert isinstance(beside, Caller)
        state = self.app.state
        live = Live("", key, caller, None, None, "", "", "", state.store, state.catalog, self.app)  # type: ignore[arg-type]
        return Tenant(name, key, canary, organization, {}, caller, live, beside.project_id)

    def _admin(self, organization: str) -> Principal:
        key, _ = self._key(organization, "", [Scope.ADMIN])
        return Principal(f"admin of {organization}", key, f"canary{secrets.token_hex(6)}", organization)

    def _key(self, organization: str, project: str, scopes: Iterable[Scope]) -> tuple[str, Any]:
        with db.transaction() as session:
            issued = auth.create_key(
                session,
                organization=organization,
                project=project,
                scopes=list(scopes),
                name=f"key of {project}".strip(),
            )
            return issued.value, auth.authenticate(session, issued.value)


def world_settings(bind: sa.Engine, folder: Path, **more: Any) -> Settings:
    """A server that may be asked everything, as often as one likes."""
    return Settings(
        database_url=bind.url.render_as_string(hide_password=False),
        storage_url=f"file://{folder}/objects",
        catalog_path=write_catalog(folder),
        models_dir=folder / "models",
        requests_per_minute=0,
        quota_waiting_jobs=0,
        stream_poll_seconds=0.02,
        wandb_offline=True,
        secret_keys=new_key(),  # type: ignore[arg-type]
        webhook_endpoints_per_project=10_000,
        **more,
    )
