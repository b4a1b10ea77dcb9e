"""The strict JSON door: a body becomes a validated model, or a 400 that names the field."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

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


class OutOfBounds(BadRequest):
    """A parameter is too long, too short, too large or too small; `code` says which."""

    def __init__(self, message: str, *, param: str | None, code: str) -> None:
        super().__init__(message, param=param)
        self.code = code


# By pydantic's words for an error: what a value should have been, and what it was.
_TYPES = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}
_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    str: "a string",
    list: "an array",
}
# The same for bounds: the code, and what lies within.
_BOUNDS = {
    "string_too_long": ("string_above_max_length", "a length of at most {max_length}"),
    "string_too_short": ("string_below_min_length", "a length of at least {min_length}"),
    "too_long": ("{}_above_max_length", "a length of at most {max_length}"),
    "too_short": ("{}_below_min_length", "a length of at least {min_length}"),
    "less_than_equal": ("{}_above_max_value", "at most {le}"),
    "less_than": ("{}_above_max_value", "less than {lt}"),
    "greater_than_equal": ("{}_below_min_value", "at least {ge}"),
    "greater_than": ("{}_below_min_value", "more than {gt}"),
}


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
    if kind in _TYPES or (kind == "literal_error" and not isinstance(error["input"], str)):
        expected, got = _TYPES.get(kind, "a string"), _NAMES.get(type(error["input"]), "an object")
        return InvalidType(f"Invalid type for '{shown}': expected {expected}, but got {got} instead.", param=param)
    if kind in _BOUNDS:
        code, expected = _bound(kind, error["input"], error["ctx"])
        return OutOfBounds(f"Invalid value for '{shown}': expected {expected}.", param=param, code=code)
    return InvalidValue(f"Invalid value for '{shown}': {message}.", param=param)


def _bound(kind: str, value: Any, limits: dict[str, Any]) -> tuple[str, str]:
    """Which bound a value is beyond, as a code, and what lies within it."""
    code, expected = _BOUNDS[kind]
    if isinstance(value, dict):
        code = {"too_long": "object_above_max_properties", "too_short": "object_below_min_properties"}[kind]
    elif isinstance(value, list):
        code = code.format("array")
    else:
        code = code.format("decimal" if any(isinstance(limit, float) for limit in limits.values()) else "integer")
    shown = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in limits.items()}
    return code, expected.format_map(shown)
