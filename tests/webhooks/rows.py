"""Rows of endpoints and deliveries, and looks at them."""

from typing import Any

import sqlalchemy as sa

from app import db, secrets
from app.config import Settings
from app.secrets import Vault
from app.webhooks import service
from app.webhooks.events import EventType
from app.webhooks.schemas import EndpointRequest
from app.webhooks.tables import Attempt, Delivery, Endpoint

KEYS = secrets.new_key()
VAULT = Vault(KEYS)
SUCCEEDED: EventType = "fine_tuning.job.succeeded"


def settings(**changes: Any) -> Settings:
    quick = {"webhook_seconds": 20.0, "webhook_poll_seconds": 0.02}
    return Settings(secret_keys=KEYS, webhook_loopback_http=True, **(quick | changes))


def add_endpoint(project_id: str, url: str = "https://1.1.1.1", *event_types: Any) -> tuple[str, str]:
    """An endpoint of a project; its id and its secret."""
    request = EndpointRequest(name="x", url=url, event_types=list(event_types) or [SUCCEEDED])
    with db.transaction() as session:
        endpoint, secret = service.create(session, project_id, request, vault=VAULT, most=100)
        return endpoint.id, secret


def announce(project_id: str, count: int = 1, event_type: str = SUCCEEDED) -> None:
    with db.transaction() as session:
        for number in range(count):
            service.announce(session, project_id, event_type, f"ftjob-{number}")


def deliveries(endpoint_id: str) -> list[Delivery]:
    """The oldest first."""
    with db.reading() as session:
        query = sa.select(Delivery).where(Delivery.endpoint_id == endpoint_id).order_by(Delivery.seq)
        return list(session.scalars(query))


def attempts(delivery_id: str) -> list[Attempt]:
    with db.reading() as session:
        query = sa.select(Attempt).where(Attempt.delivery_id == delivery_id).order_by(Attempt.number)
        return list(session.scalars(query))


def endpoint(endpoint_id: str) -> Endpoint:
    with db.reading() as session:
        return session.get_one(Endpoint, endpoint_id)


def seconds(number: float) -> Any:
    return sa.func.make_interval(0, 0, 0, 0, 0, 0, number)


def let_pass(endpoint_id: str, number: float) -> None:
    """Make every time of an endpoint's lane and deliveries so many seconds older."""
    with db.transaction() as session:
        session.execute(
            sa.update(Endpoint)
            .where(Endpoint.id == endpoint_id)
            .values(
                lease_until=Endpoint.lease_until - seconds(number), rests_until=Endpoint.rests_until - seconds(number)
            )
        )
        session.execute(
            sa.update(Delivery)
            .where(Delivery.endpoint_id == endpoint_id)
            .values(
                created_at=Delivery.created_at - seconds(number),
                due_at=Delivery.due_at - seconds(number),
                ended_at=Delivery.ended_at - seconds(number),
            )
        )
