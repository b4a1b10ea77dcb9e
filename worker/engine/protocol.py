"""The messages between a worker and its engine: JSON objects, one a line, on descriptors of their own.

Commands go from the worker to the engine and carry an `id`; the reply carries the same one. Reports carry `"id": null`.
This module imports nothing heavy, so both ends can share it.
"""

import dataclasses
import json
import os
import threading
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


class ProtocolError(Exception):
    """A line that is no command. `id` is the command's, or None where the line does not even tell that."""

    def __init__(self, message: str, *, id: int | None = None) -> None:  # noqa: A002 - as on the wire
        super().__init__(message)
        self.id = id


@dataclass(frozen=True)
class Spec:
    """A job's settings, every one a number: nothing is resolved in the engine. `batch_size` counts examples."""

    method: Literal["supervised"]
    n_epochs: int
    batch_size: int
    learning_rate: float
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    lora_target_modules: list[str]
    max_sequence_length: int
    warmup_ratio: float
    lr_scheduler: Literal["cosine", "linear", "constant"]
    weight_decay: float
    max_grad_norm: float
    eval_interval: int | None
    early_stopping_patience: int | None
    deterministic: bool
    seed: int
    resume_interval_seconds: float


@dataclass(frozen=True)
class LoadBase:
    """Load a base model and keep it; `name` is what an exported adapter calls its base (default: the key)."""

    id: int
    path: str
    key: str
    dtype: Literal["auto", "float32", "bfloat16"]
    device: str
    linears: list[str]
    slots: int
    threads: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class Admit:
    """Give a job a slot. `resume` goes before `adapter`, which starts the job from a trained adapter's weights.

    Passes are shared fairly between tenants.
    """

    id: int
    job: str
    spec: Spec
    dataset: str
    validation: str | None
    resume: str | None
    adapter: str | None
    out: str
    tenant: str = ""


@dataclass(frozen=True)
class Release:
    """Take a job off its slot: at its next step boundary with a resume state, or at once without one."""

    id: int
    job: str
    save: bool


@dataclass(frozen=True)
class Save:
    """Write a resume state at the job's next step boundary."""

    id: int
    job: str


@dataclass(frozen=True)
class Ping:
    """Ask for a sign of life from the loop that trains."""

    id: int


@dataclass(frozen=True)
class Shutdown:
    """Exit with status 0, saving nothing."""

    id: int


Command = LoadBase | Admit | Release | Save | Ping | Shutdown

COMMANDS: dict[str, type] = {
    "load_base": LoadBase,
    "admit": Admit,
    "release": Release,
    "save": Save,
    "ping": Ping,
    "shutdown": Shutdown,
}


def decode(line: str | bytes) -> Command:
    """One line → one command. Raises ProtocolError, which names the field that is missing or of the wrong type."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError("a message is a JSON object")
    request = message.pop("id", None)
    request = request if isinstance(request, int) else None
    kind = message.pop("type", None)
    if kind not in COMMANDS:
        raise ProtocolError(f"unknown command {kind!r}", id=request)
    if request is None:
        raise ProtocolError(f"{kind} needs an integer id")
    try:
        return _build(COMMANDS[kind], {**message, "id": request}, kind)
    except ProtocolError as error:
        error.id = request
        raise


def encode(command: Command) -> bytes:
    """One command → one line, for the worker's end."""
    kind = next(name for name, shape in COMMANDS.items() if isinstance(command, shape))
    return _line({"type": kind, **dataclasses.asdict(command)})


def _build(shape: type, values: dict[str, Any], where: str) -> Any:
    """A dataclass from a JSON object. Unknown fields are passed over, so that an older engine reads a newer worker."""
    hints = get_type_hints(shape)
    fields = {}
    for field in dataclasses.fields(shape):
        if field.name in values:
            fields[field.name] = _value(hints[field.name], values[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise ProtocolError(f"{where}.{field.name} is missing")
    return shape(**fields)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _build(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if _matches(hint, value):
        return value
    raise ProtocolError(f"{where} cannot be {value!r}")


def _matches(hint: Any, value: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_matches(get_args(hint)[0], item) for item in value)
    if options := get_args(hint):
        return any(_matches(option, value) for option in options)
    return isinstance(value, hint) and not (hint is not bool and isinstance(value, bool))


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False, allow_nan=False).encode() + b"\n"


class Replies:
    """The engine's end of the reply descriptor. A line is written whole, from whichever thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def reply(self, kind: str, request: int, **fields: Any) -> None:
        self._write({"type": kind, "id": request, **fields})

    def report(self, kind: str, **fields: Any) -> None:
        self._write({"type": kind, "id": None, **fields})

    def error(self, request: int | None, code: str, message: str, job: str | None = None) -> None:
        self._write({"type": "error", "id": request, "job": job, "code": code, "message": message})

    def _write(self, message: dict[str, Any]) -> None:
        rest = memoryview(_line(message))
        with self._lock:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
