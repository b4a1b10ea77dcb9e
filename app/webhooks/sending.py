"""One signed request to a receiver, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.egress import Egress, Refused, Unanswered
from app.webhooks import signing

URL_REFUSED = "url_refused"
SECRET_UNREADABLE = "secret_unreadable"  # noqa: S105 - the name of an error
MOST_SHOWN_CHARACTERS = 1024  # of an answer
HEADERS = {"Content-Type": "application/json", "User-Agent": "Tunesmith/1.0 (webhooks)"}


@dataclass(frozen=True)
class Letter:
    """What is sent. secrets: each signs; timestamp: Unix seconds."""

    url: str
    secrets: Sequence[str]
    webhook_id: str
    timestamp: int
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """What came of it: a status, or an error's code and message. retry_after: what the answer's header says."""

    status: int | None = None
    error: str | None = None
    message: str | None = None
    body: str | None = None
    seconds: float | None = None
    retry_after: str | None = None

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def send(egress: Egress, letter: Letter) -> Outcome:
    """Send a letter once. Whatever the receiver does is an outcome, not an exception."""
    proof = signing.headers(letter.secrets, webhook_id=letter.webhook_id, timestamp=letter.timestamp, body=letter.body)
    try:
        reply = egress.post(letter.url, letter.body, HEADERS | proof)
    except Refused as refusal:
        return Outcome(error=URL_REFUSED, message=f"The URL is refused: {refusal}.")
    except Unanswered as failure:
        return Outcome(error=failure.code, message=str(failure))
    return Outcome(status=reply.status, body=_shown(reply.body), seconds=reply.seconds, retry_after=reply.retry_after)


def _shown(body: bytes) -> str:
    """The beginning of an answer as text that a database takes."""
    return body[: 4 * MOST_SHOWN_CHARACTERS].decode(errors="replace").replace("\0", "�")[:MOST_SHOWN_CHARACTERS]
