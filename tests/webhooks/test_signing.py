"""Signatures, judged by OpenAI's own client and by its test vector."""

import base64
import json
import time

import openai
import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from app.webhooks import events, signing

CLIENT = OpenAI(api_key="sk-test", base_url="http://127.0.0.1:1")
BODY = events.body("evt_a", "fine_tuning.job.succeeded", 1_750_000_000, "ftjob-ü")

# The vector of the client's own tests.
VECTOR_SECRET = "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c="
VECTOR_BODY = (
    b'{"id": "evt_685c059ae3a481909bdc86819b066fb6", "object": "event", "created_at": 1750861210, '
    b'"type": "response.completed", "data": {"id": "resp_123"}}'
)


def signed(secrets: list[str], *, timestamp: int | None = None, body: str = BODY) -> dict[str, str]:
    now = int(time.time()) if timestamp is None else timestamp
    return signing.headers(secrets, webhook_id="wh_a", timestamp=now, body=body.encode())


def test_the_clients_vector() -> None:
    headers = signing.headers(
        [VECTOR_SECRET], webhook_id="wh_685c059ae39c8190af8c71ed1022a24d", timestamp=1750861210, body=VECTOR_BODY
    )
    assert headers["webhook-signature"] == "v1,gUAg4R2hWouRZqRQG4uJypNS8YK885G838+EHb4nKBY="


def test_the_client_reads_what_we_sign() -> None:
    secret = signing.new_secret()
    event = CLIENT.webhooks.unwrap(BODY, signed([secret]), secret=secret)
    assert isinstance(event, openai.types.webhooks.FineTuningJobSucceededWebhookEvent)
    assert (event.id, event.data.id, event.created_at) == ("evt_a", "ftjob-ü", 1_750_000_000)


def test_either_secret_proves_while_both_sign() -> None:
    new, old, other = (signing.new_secret() for _ in range(3))
    headers = signed([new, old])
    for secret in (new, old):
        CLIENT.webhooks.verify_signature(BODY, headers, secret=secret)
    with pytest.raises(InvalidWebhookSignatureError):
        CLIENT.webhooks.verify_signature(BODY, headers, secret=other)


@pytest.mark.parametrize("shift", [-301, 301])
def test_an_old_or_early_letter_is_refused_by_the_client(shift: int) -> None:
    secret = signing.new_secret()
    headers = signed([secret], timestamp=int(time.time()) + shift)
    with pytest.raises(InvalidWebhookSignatureError):
        CLIENT.webhooks.verify_signature(BODY, headers, secret=secret)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_nothing_that_is_signed_can_be_changed(name: str) -> None:
    secret = signing.new_secret()
    headers = signed([secret])
    changed = {"webhook-id": "wh_b", "webhook-timestamp": str(int(time.time()) - 1), "webhook-signature": "v1,AAAA"}
    with pytest.raises(InvalidWebhookSignatureError):
        CLIENT.webhooks.verify_signature(BODY, headers | {name: changed[name]}, secret=secret)
    with pytest.raises(InvalidWebhookSignatureError):
        CLIENT.webhooks.verify_signature(BODY.replace("evt_a", "evt_b"), headers, secret=secret)


def test_a_secret_is_256_random_bits_and_its_hint_tells_little() -> None:
    secrets = {signing.new_secret() for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
        assert signing.hint(secret) == f"whsec_…{secret[-5:-1]}"


def test_the_body_tells_no_more_than_where_to_look() -> None:
    assert json.loads(BODY) == {
        "id": "evt_a",
        "object": "event",
        "created_at": 1_750_000_000,
        "type": "fine_tuning.job.succeeded",
        "data": {"id": "ftjob-ü"},
    }
