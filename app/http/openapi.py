"""`/openapi.json`: what FastAPI sees of the routes, and what the dependencies that read a request say of themselves.

Bodies and paging parameters are parsed by our own dependencies, which FastAPI cannot look into. Each says what it reads
with `documented`; the document is put together from that, so it cannot say anything else than what is served.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.types import Receive, Scope, Send

from app import errors
from app.errors import AppError
from app.http.routing import all_routes
from app.http.threads import chunks_of

VERSION = "1.0.0"  # of the document
REF = "#/components/schemas/{model}"
_DOCUMENTATION = "openapi_documentation"

Function = TypeVar("Function", bound=Callable[..., Any])
Json = dict[str, Any]


class _Chunks(StreamingResponse):
    """Bytes of something open, which is closed when the reply ends, however it ends."""

    def __init__(self, chunks: Iterable[bytes], status_code: int = 200, *, headers: Mapping[str, str]) -> None:
        super().__init__(chunks_of(chunks), status_code, headers)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if isinstance(self._chunks, Generator):
                self._chunks.close()


class Bytes(_Chunks):
    """A file's bytes."""

    media_type = "application/octet-stream"


class Tar(_Chunks):
    """An archive."""

    media_type = "application/x-tar"


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


@dataclass(frozen=True)
class Documentation:
    """What a dependency reads of a request, and the errors it may raise."""

    body: type[BaseModel] | None = None
    body_required: bool = True
    parameters: tuple[Json, ...] = ()  # OpenAPI parameter objects
    errors: tuple[type[AppError], ...] = ()
    scopes: tuple[str, ...] = ()  # one of which the caller's key must have


def documented(
    function: Function,
    *,
    body: type[BaseModel] | None = None,
    body_required: bool = True,
    parameters: tuple[Json, ...] = (),
    errors: tuple[type[AppError], ...] = (),
) -> Function:
    """Let a dependency say what it reads; returns the same function."""
    setattr(function, _DOCUMENTATION, Documentation(body, body_required, parameters, errors))
    return function


def query(name: str, description: str, **schema: Any) -> Json:
    """An optional query parameter."""
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def multipart(fields: dict[str, Json]) -> Json:
    """`openapi_extra` of a route that reads a form itself. A field whose schema has `required: True` must be there."""
    properties = {name: {k: v for k, v in field.items() if k != "required"} for name, field in fields.items()}
    required = [name for name, field in fields.items() if field.get("required")]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def event_stream(data: type) -> dict[int | str, Json]:
    """`responses` of a route that answers with server-sent events if it is asked to: each holds a `data`, as JSON."""
    carried = {
        "type": "string",
        "description": "The object as JSON; [DONE] at the end.",
        "contentSchema": {"$ref": REF.format(model=data.__name__)},
    }
    one = {"type": "object", "properties": {"id": {"type": "string"}, "data": carried}, "required": ["data"]}
    return {200: {"content": {EventStream.media_type: {"schema": one}}}}


def replies(*families: type[AppError]) -> dict[int | str, Json]:
    """`responses` of a route: the errors it may answer with beside those that every route has."""
    return {family.status: _error_reply(family) for family in families}


def install(app: FastAPI, public: frozenset[str]) -> None:
    """Serve the document; the paths in `public` need no key."""

    def document() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app, public)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _build(app: FastAPI, public: frozenset[str]) -> Json:
    document = get_openapi(title=app.title, version=VERSION, routes=app.routes, description=app.description)
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for route in all_routes(app.routes):
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        operation = document["paths"][route.path_format]
        for method in route.methods or ():
            _complete(operation[method.lower()], route, components["schemas"], route.path not in public)
    components["schemas"]["Error"] = _ENVELOPE
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    return document


def _complete(operation: Json, route: APIRoute, schemas: Json, needs_key: bool) -> None:
    """Add to one operation what its dependencies read, and the errors it may answer with."""
    told = list(_documentation(route.dependant))
    families: set[type[AppError]] = {errors.TooManyRequests, errors.Unavailable, errors.AppError}
    if needs_key:
        operation["security"] = [{"key": []}]
        families |= {errors.Unauthorized, errors.Forbidden, errors.BadRequest}
    if "{" in route.path:
        families.add(errors.NotFound)
    for documentation in told:
        operation.setdefault("parameters", []).extend(documentation.parameters)
        if documentation.scopes:
            scopes = " or ".join(f"`{scope}`" for scope in documentation.scopes)
            operation["description"] += f"\n\nNeeds a key with the scope {scopes}."
        families |= {_family(error) for error in documentation.errors}
        if documentation.body is not None:
            operation["requestBody"] = _json_body(documentation.body, documentation.body_required, schemas)
    if "requestBody" in operation:
        families |= {errors.BadRequest, errors.TooLarge}
    answers = operation["responses"]
    answers.pop("422", None)  # never answered: what FastAPI itself refuses becomes a 400
    for family in sorted(families, key=lambda family: family.status):
        answers.setdefault(str(family.status), _error_reply(family))


def _family(error: type[AppError]) -> type[AppError]:
    return next(cls for cls in reversed(error.__mro__) if issubclass(cls, AppError) and cls.status == error.status)


def _documentation(dependant: Dependant) -> Iterator[Documentation]:
    for dependency in dependant.dependencies:
        found = getattr(dependency.call, _DOCUMENTATION, None)
        if found is not None:
            yield found
        yield from _documentation(dependency)


def _json_body(model: type[BaseModel], required: bool, schemas: Json) -> Json:
    _, definitions = models_json_schema([(model, "validation")], ref_template=REF)
    schemas.update(definitions.get("$defs", {}))
    reference = {"$ref": REF.format(model=model.__name__)}
    return {"required": required, "content": {"application/json": {"schema": reference}}}


def _error_reply(family: type[AppError]) -> Json:
    schema = {"$ref": REF.format(model="Error")}
    description = (family.__doc__ or "").strip().splitlines()[0]
    example = {"message": description, "type": family.type, "param": None, "code": family.code}
    return {
        "description": description,
        "content": {"application/json": {"schema": schema, "example": {"error": example}}},
    }


_NULLABLE_STRING = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_ENVELOPE: Json = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _NULLABLE_STRING,
                "code": _NULLABLE_STRING,
            },
        }
    },
}
