"""A receiver of webhooks that wants to hear of every end, and what became of each attempt to tell it."""

import json
from collections import defaultdict
from collections.abc import Iterator

import sqlalchemy as sa

from app import db
from app.jobs import states
from app.secrets import Vault
from app.webhooks import schemas
from app.webhooks import service as webhooks
from app.webhooks.tables import Attempt
from tests.chaos.history import Delivered
from tests.chaos.world import SLOW, World, until
from tests.receivers import Arrived, Receiver


class Sink:
    """Subscribes a receiver to the ends of all jobs of a world's project."""

    def __init__(self, world: World, receiver: Receiver) -> None:
        every_end = [f"fine_tuning.job.{status}" for status in states.FINAL]
        asked = {"name": "all", "url": receiver.url, "event_types": every_end}
        body = schemas.EndpointRequest.model_validate(asked)
        vault = Vault(world.settings.secret_keys.get_secret_value())
        with db.transaction() as session:
            endpoint, _ = webhooks.create(session, world.caller.project_id, body, vault=vault, most=10)
            self.endpoint = endpoint.id
        self._receiver = receiver

    def wait(self, seconds: float = 60 * SLOW) -> None:
        """Until nothing is left to be delivered."""
        until(lambda: not _pending(), seconds, "something was never delivered")

    def delivered(self) -> tuple[Delivered, ...]:
        """What arrived, in order, with the answers that somebody lived to note."""
        by_id: dict[str, list[Arrived]] = defaultdict(list)
        for one in self._receiver.requests:
            if len(one.body) == int(one.headers["content-length"]):  # else its sender was killed while it wrote
                by_id[one.headers["webhook-id"]].append(one)
        return tuple(
            one for webhook_id, arrived in by_id.items() for one in self._with_answers(webhook_id, arrived)
        )  # fmt: skip

    def _with_answers(self, webhook_id: str, arrived: list[Arrived]) -> Iterator[Delivered]:
        answers = _noted(webhook_id)
        for _ in range(len(answers) - len(arrived)):
            answers.remove(None)  # an attempt that was counted, and its deliverer killed before it sent anything
        for one, answer in zip(arrived, answers, strict=True):
            body = json.loads(one.body)
            yield Delivered(self.endpoint, webhook_id, body["data"]["id"], body["type"], one.body, answer)


def _pending() -> bool:
    with db.reading() as session:
        return bool(session.scalar(sa.text("SELECT count(*) FROM webhook_deliveries WHERE status = 'pending'")))


def _noted(webhook_id: str) -> list[int | None]:
    """What was noted of each attempt."""
    query = sa.select(Attempt.status_code).where(Attempt.delivery_id == webhook_id).order_by(Attempt.number)
    with db.reading() as session:
        return list(session.scalars(query))
