"""Webhook endpoints of a project, and the events that are promised to them."""

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from app import ids, pages
from app.auth.tables import Project
from app.db import Session
from app.secrets import CannotOpen, Vault
from app.webhooks import events, signing
from app.webhooks.errors import DeliveryNotFound, EndpointNotFound, SecretUnreadable, TooManyEndpoints
from app.webhooks.schemas import EndpointRequest
from app.webhooks.tables import Attempt, Delivery, Endpoint

OVERLAP = timedelta(hours=24)  # for how long an old secret may sign beside the new one


def create(
    session: Session, project_id: str, request: EndpointRequest, *, vault: Vault, most: int
) -> tuple[Endpoint, str]:
    """A new endpoint and its signing secret. Raises TooManyEndpoints.

    The project's row is locked, so that no two requests take the last place.
    """
    session.execute(sa.select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
    count = session.scalar(sa.select(sa.func.count()).where(Endpoint.project_id == project_id)) or 0
    if count >= most:
        raise TooManyEndpoints(f"The project has {count} webhook endpoints; it may have {most}.")
    endpoint_id, secret = ids.new("whe_"), signing.new_secret()
    endpoint = Endpoint(
        id=endpoint_id,
        project_id=project_id,
        name=request.name,
        url=request.url,
        event_types=list(request.event_types),
        secret=vault.seal(secret, place=_place(project_id, endpoint_id)),
        secret_hint=signing.hint(secret),
    )
    session.add(endpoint)
    session.flush()
    session.refresh(endpoint)
    return endpoint, secret


def get(session: Session, project_id: str, endpoint_id: str) -> Endpoint:
    """The project's endpoint with this id. Raises EndpointNotFound."""
    endpoint = _find(session, _of(project_id), endpoint_id)
    if endpoint is None:
        raise EndpointNotFound(endpoint_id)
    return endpoint


def page(session: Session, project_id: str, *, limit: int, after: str | None) -> pages.Page[Endpoint]:
    """A page of the project's endpoints, newest first. Raises UnknownCursor."""
    after_seq = None
    if after is not None:
        cursor = _find(session, _of(project_id), after)
        if cursor is None:
            raise pages.UnknownCursor
        after_seq = cursor.seq
    return pages.fetch(session, _of(project_id), Endpoint.seq, limit=limit, after_seq=after_seq)


def update(session: Session, project_id: str, endpoint_id: str, changes: dict[str, Any]) -> Endpoint:
    """Replace name, URL or event types. A new URL is tried at once. Raises EndpointNotFound."""
    endpoint = _held(session, project_id, endpoint_id)
    different = {name: value for name, value in changes.items() if getattr(endpoint, name) != value}
    for name, value in different.items():
        setattr(endpoint, name, value)
    if different:
        endpoint.updated_at = sa.func.now()
    if "url" in different:
        endpoint.failures, endpoint.rests_until = 0, None
    session.flush()
    session.refresh(endpoint)
    return endpoint


def rotate_secret(
    session: Session, project_id: str, endpoint_id: str, *, vault: Vault, keep_old: bool
) -> tuple[Endpoint, str]:
    """Give an endpoint a new secret; the old one may go on signing beside it for a day. Raises EndpointNotFound."""
    endpoint = _held(session, project_id, endpoint_id)
    secret = signing.new_secret()
    endpoint.old_secret = endpoint.secret if keep_old else None
    endpoint.old_secret_until = sa.func.now() + OVERLAP if keep_old else None
    endpoint.secret = vault.seal(secret, place=_place(project_id, endpoint_id))
    endpoint.secret_hint = signing.hint(secret)
    endpoint.updated_at = sa.func.now()
    session.flush()
    session.refresh(endpoint)
    return endpoint, secret


def delete(session: Session, project_id: str, endpoint_id: str) -> None:
    """Delete an endpoint with everything that was still to be delivered to it. Raises EndpointNotFound."""
    session.delete(_held(session, project_id, endpoint_id))
    session.flush()


def secrets(session: Session, endpoint: Endpoint, vault: Vault) -> list[str]:
    """The secrets that sign now, the newest first. Raises SecretUnreadable."""
    sealed = [endpoint.secret]
    if endpoint.old_secret is not None and session.scalar(sa.select(endpoint.old_secret_until > sa.func.now())):
        sealed.append(endpoint.old_secret)
    try:
        return [vault.open(one, place=_place(endpoint.project_id, endpoint.id)) for one in sealed]
    except CannotOpen:
        raise SecretUnreadable from None


def announce(session: Session, project_id: str, event_type: str, object_id: str) -> None:
    """Promise an event to the project's endpoints that asked for it, if the caller's transaction commits.

    The endpoints are locked against deletion: a promise to one that is gone would undo what the event is about.
    """
    asked = sa.literal(event_type) == sa.any_(Endpoint.event_types)
    wanted = sa.select(Endpoint.id).where(Endpoint.project_id == project_id, asked)
    endpoint_ids = session.scalars(wanted.order_by(Endpoint.id).with_for_update(read=True, key_share=True)).all()
    if not endpoint_ids:
        return
    event_id = events.new_event_id()
    now = session.scalars(sa.select(sa.func.now())).one()
    body = events.body(event_id, event_type, int(now.timestamp()), object_id)
    session.add_all(
        Delivery(
            id=events.new_webhook_id(), endpoint_id=endpoint_id, event_id=event_id, event_type=event_type, body=body
        )
        for endpoint_id in endpoint_ids
    )


def deliveries_page(
    session: Session, project_id: str, endpoint_id: str, *, limit: int, after: str | None
) -> pages.Page[Delivery]:
    """A page of an endpoint's deliveries, newest first. Raises EndpointNotFound, UnknownCursor."""
    get(session, project_id, endpoint_id)
    after_seq = None
    if after is not None:
        cursor = _find_delivery(session, endpoint_id, after)
        if cursor is None:
            raise pages.UnknownCursor
        after_seq = cursor.seq
    query = sa.select(Delivery).where(Delivery.endpoint_id == endpoint_id)
    return pages.fetch(session, query, Delivery.seq, limit=limit, after_seq=after_seq)


def delivery(session: Session, project_id: str, endpoint_id: str, delivery_id: str) -> tuple[Delivery, list[Attempt]]:
    """A delivery and its attempts, the first one first. Raises EndpointNotFound, DeliveryNotFound."""
    get(session, project_id, endpoint_id)
    found = _find_delivery(session, endpoint_id, delivery_id)
    if found is None:
        raise DeliveryNotFound(delivery_id)
    attempts = sa.select(Attempt).where(Attempt.delivery_id == found.id).order_by(Attempt.number)
    return found, list(session.scalars(attempts))


def sweep_reseal(session: Session, vault: Vault, *, limit: int = 100) -> int:
    """Seal secrets again that are under an older key, so that it can be thrown away; how many endpoints had some."""
    current = f"{vault.seal('', place='').rsplit('.', 1)[0]}.%"
    stale = sa.or_(Endpoint.secret.not_like(current), Endpoint.old_secret.not_like(current))
    done = 0
    for endpoint in session.scalars(sa.select(Endpoint).where(stale).limit(limit).with_for_update(skip_locked=True)):
        place = _place(endpoint.project_id, endpoint.id)
        try:
            endpoint.secret = vault.seal(vault.open(endpoint.secret, place=place), place=place)
            if endpoint.old_secret is not None:
                endpoint.old_secret = vault.seal(vault.open(endpoint.old_secret, place=place), place=place)
        except CannotOpen:
            continue
        done += 1
    return done


def _place(project_id: str, endpoint_id: str) -> str:
    """What a sealed secret is bound to."""
    return f"webhook_endpoints/{project_id}/{endpoint_id}"


def _of(project_id: str) -> sa.Select[Endpoint]:
    return sa.select(Endpoint).where(Endpoint.project_id == project_id)


def _find(session: Session, query: sa.Select[Endpoint], endpoint_id: str) -> Endpoint | None:
    return session.scalar(query.where(Endpoint.id == endpoint_id)) if ids.is_plain(endpoint_id) else None


def _held(session: Session, project_id: str, endpoint_id: str) -> Endpoint:
    """The endpoint, locked until the transaction ends. Raises EndpointNotFound."""
    endpoint = _find(session, _of(project_id).with_for_update(), endpoint_id)
    if endpoint is None:
        raise EndpointNotFound(endpoint_id)
    return endpoint


def _find_delivery(session: Session, endpoint_id: str, delivery_id: str) -> Delivery | None:
    if not ids.is_plain(delivery_id):
        return None
    return session.scalar(sa.select(Delivery).where(Delivery.endpoint_id == endpoint_id, Delivery.id == delivery_id))
