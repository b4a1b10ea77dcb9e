"""The strict JSON door: a body becomes a validated model, or a 400 that names the field."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app import strict_json
from app.errors import BadRequest, TooLarge, quoted
from app.http import arrival
from app.http.arrival import InvalidContentType
from app.http.openapi import documented

_HARMLESS_PARAMETERS = {"", "charset=utf-8", 'charset="utf-8"'}

Model = TypeVar("Model", bound=BaseModel)


class InvalidBody(BadRequest):
    """The body is not a valid JSON object."""

    code = "invalid_json"


class DuplicateKey(BadRequest):
    """An object in the body has a key twice."""

    code = "duplicate_key"


class MissingParameter(BadRequest):
    """A required parameter is missing."""

    code = "missing_required_parameter"


class UnknownParameter(BadRequest):
    """A parameter is not known."""

    code = "unknown_parameter"


class InvalidType(BadRequest):
    """A parameter has the wrong type."""

    code = "invalid_type"


class InvalidValue(BadRequest):
    """A parameter has a value that is not allowed."""

    code = "invalid_value"


def json_body(model: type[Model], *, optional: bool = False) -> Callable[[Request], Awaitable[Model]]:
    """A dependency that reads and validates the request's JSON body. Raises BadRequest, TooLarge.

    optional: no body at all counts as an empty object.
    """

    async def read(request: Request) -> Model:
        data = await _read(request, request.app.state.settings.max_body_bytes)
        if optional and not data:
            return model()
        if not _is_json(request.headers.getlist("content-type")):
            raise InvalidContentType("The body must be sent as application/json, in UTF-8.")
        try:
            value = strict_json.parse(data)
        except strict_json.RepeatedKey as error:
            raise DuplicateKey(f"The body {error}.") from None
        except strict_json.StrictJsonError as error:
            raise InvalidBody(f"The body {error}.") from None
        if not isinstance(value, dict):
            raise InvalidBody
        try:
            return model.model_validate(value, strict=True)
        except ValidationError as error:
            raise _translated(error.errors(include_url=False)[0]) from None

    return documented(read, body=model, body_required=not optional)


async def _read(request: Request, most: int) -> bytes:
    data = bytearray()
    if arrival.told_length(request) > most:
        raise TooLarge(f"The body is larger than {most} bytes.")
    async for chunk in arrival.chunks(request):
        data += chunk
        if len(data) > most:
            raise TooLarge(f"The body is larger than {most} bytes.")
    return bytes(data)


def _is_json(types: list[str]) -> bool:
    if len(types) != 1:
        return False
    kind, *parameters = (part.strip().lower() for part in types[0].split(";"))
    return kind == "application/json" and all(parameter in _HARMLESS_PARAMETERS for parameter in parameters)


def _translated(error: ErrorDetails) -> BadRequest:
    """One of pydantic's errors in OpenAI's terms; `param` is the path of the field, such as `messages.[0].name`."""
    param = ".".join(f"[{part}]" if isinstance(part, int) else part for part in error["loc"]) or None
    kind, message, shown = error["type"], error["msg"], quoted(param or "")
    if kind == "missing":
        return MissingParameter(f"Missing required parameter: '{shown}'.", param=param)
    if kind == "extra_forbidden":
        return UnknownParameter(f"Unknown parameter: '{shown}'.", param=param)
    family = InvalidType if kind.endswith(("_type", "_parsing")) else InvalidValue
    return family(f"Invalid value for '{shown}': {message}.", param=param)
