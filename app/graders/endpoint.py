"""The one door to grader models: chat completions at the OpenAI-compatible endpoint of the operator's choice."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from app import strict_json
from app.graders.faults import ModelServerFault, ModelTimeout

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

MAX_REPLY_BYTES = 1024 * 1024
ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 0.5  # doubled after each attempt
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Usage:
    """Tokens of one or several completions."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True)
class Completion:
    """What a model answered. content: None if it said nothing; usage: None if the endpoint does not count."""

    model: str
    content: str | None
    refused: bool
    usage: Usage | None


class _Passing(ModelServerFault):
    """A failure that another attempt may not meet."""


@dataclass
class Endpoint:
    """An endpoint and its models. Thread-safe.

    base_url: ends in `/v1`; models: the names tenants may use → the endpoint's own; seconds: for one completion, all
    attempts together.
    """

    base_url: str
    key: str | None
    models: Mapping[str, str]
    seconds: float
    sleep: Callable[[float], None] = field(default=time.sleep)

    def complete(self, model: str, body: dict[str, Any], *, seconds: float) -> Completion:
        """A completion by one of `models`. Raises ModelServerFault, ModelTimeout.

        body: everything of the request but the model; seconds: what is left of the caller's own time.
        """
        deadline = time.monotonic() + min(seconds, self.seconds)
        request = {**body, "model": self.models[model]}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _completion(self._post(request, deadline), self.models[model])
            except _Passing as fault:
                pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
                if attempt == ATTEMPTS or time.monotonic() + pause > deadline:
                    raise ModelServerFault(str(fault)) from fault
                self.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close the connections that are kept."""
        if "_client" in self.__dict__:
            self._client.close()

    @cached_property
    def _client(self) -> "httpx.Client":
        import httpx

        headers = {"Accept-Encoding": "identity"}  # so that a reply's size is what crosses the wire
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return httpx.Client(headers=headers, follow_redirects=False)

    def _post(self, request: dict[str, Any], deadline: float) -> bytes:
        import httpx

        url, left = f"{self.base_url.rstrip('/')}/chat/completions", max(0.001, deadline - time.monotonic())
        try:
            with self._client.stream("POST", url, json=request, timeout=left) as response:
                return _body(response, deadline)
        except httpx.TimeoutException:
            raise ModelTimeout("The grader model's endpoint did not answer in time.") from None
        except httpx.TransportError as error:
            log.warning("graders.endpoint", extra={"reason": type(error).__name__})
            raise _Passing("The grader model's endpoint cannot be reached.") from error


def _body(response: "httpx.Response", deadline: float) -> bytes:
    data = bytearray()
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > MAX_REPLY_BYTES:
            raise ModelServerFault(f"The grader model's endpoint answered with more than {MAX_REPLY_BYTES} bytes.")
        if time.monotonic() > deadline:
            raise ModelTimeout("The grader model's endpoint did not finish its answer in time.")
    if response.status_code != 200:
        log.warning("graders.endpoint", extra={"status": response.status_code})
        family = (
            _Passing if response.status_code in {408, 409, 429} or response.status_code >= 500 else ModelServerFault
        )
        raise family(f"The grader model's endpoint answered {response.status_code}{_code(bytes(data))}.")
    return bytes(data)


def _code(data: bytes) -> str:
    """The error's code in brackets, if there is one: its message may quote the operator's key or addresses."""
    try:
        code = strict_json.parse(data)["error"]["code"]
    except (strict_json.StrictJsonError, KeyError, TypeError, IndexError):
        return ""
    return f" ({code})" if isinstance(code, str) and _CODE.fullmatch(code) else ""


def _completion(data: bytes, model: str) -> Completion:
    try:
        reply = strict_json.parse(data)
        choice = reply["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        refused = bool(refusal) or choice.get("finish_reason") == "content_filter"
    except (strict_json.StrictJsonError, KeyError, TypeError, IndexError, AttributeError):
        raise ModelServerFault("The grader model's endpoint answered with something that is no completion.") from None
    named = reply.get("model")
    return Completion(
        model=named if isinstance(named, str) and named else model,
        content=content if isinstance(content, str) else None,
        refused=refused,
        usage=_usage(reply.get("usage")),
    )


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    total = _count(usage.get("total_tokens")) or prompt + completion
    return Usage(prompt, completion, total, _count(details.get("cached_tokens")) if isinstance(details, dict) else 0)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
