"""A client of an API process of a world, which tries again as OpenAI's do and remembers every reply."""

import secrets
import time
from typing import Any

import httpx

from app import db
from app.auth import service as auth
from tests.chaos.child import Point
from tests.chaos.history import Reply
from tests.chaos.world import SLOW, World, free_port, until

PATIENCE_SECONDS = 30.0 * SLOW


class Client:
    """Starts the API, too."""

    def __init__(self, world: World, *points: Point, **settings: object) -> None:
        self._world = world
        self._settings = {"port": free_port(), **settings}
        with db.transaction() as session:
            key = auth.create_key(session).value
        base = f"http://127.0.0.1:{self._settings['port']}"
        self.http = httpx.Client(base_url=base, headers={"Authorization": f"Bearer {key}"}, timeout=10)
        world.closing.append(self.http.close)
        self.restart(*points)

    def restart(self, *points: Point) -> None:
        """Start an API process, on the same port every time."""
        self.process = self._world.spawn("api", *points, **self._settings)
        until(lambda: self._answers() or not self.process.is_alive())

    def _answers(self) -> bool:
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self._noted(f"GET {path}", self.http.get(path, **options))

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self._noted(secrets.token_hex(4), self.http.post(path, json=body, **options))

    def create_job(self, file_id: str) -> str:
        """Create a job, with retries that say that they are some."""
        body = {"model": "tiny-chat", "training_file": file_id, "seed": 3}
        body["method"] = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}}
        return self.persistently("/v1/fine_tuning/jobs", json=body)

    def persistently(self, path: str, **request: Any) -> str:
        """POST until something was created; its id."""
        intent, deadline = secrets.token_hex(4), time.monotonic() + PATIENCE_SECONDS
        for attempt in range(10**6):
            assert time.monotonic() < deadline, self._world.logs()
            try:
                reply = self.http.post(path, headers={"x-stainless-retry-count": str(attempt)}, **request)
            except httpx.HTTPError:
                time.sleep(0.1)
                continue
            self._noted(intent, reply)
            if reply.status_code == 200:
                return str(reply.json()["id"])
            assert reply.status_code in {409, 429, 500, 503}, reply.text
            time.sleep(0.1)
        raise AssertionError

    def _noted(self, intent: str, reply: httpx.Response) -> httpx.Response:
        resource = reply.json().get("id") if reply.status_code == 200 and reply.request.method == "POST" else None
        seen = Reply(intent, reply.status_code, resource, "retry-after" in reply.headers, reply.text)
        self._world.replies.append(seen)
        return reply
