"""Hyperparameters: what a request may say, and the numbers that come of it. Pure; rules in docs/hyperparameters.md.

A request's block is kept as it was asked (`"auto"` included) and resolved once the number of examples is known.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidatorFunctionWrapHandler
from pydantic_core import core_schema

from app.errors import quoted
from app.jobs.errors import ConflictingHyperparameters, InvalidHyperparameter
from app.models.catalog import CatalogEntry

AUTO = "auto"
Auto = Literal["auto"]
ALL_LINEAR = "all-linear"
ATTENTION = "attention"
OPENAI_NAMES = ("n_epochs", "batch_size", "learning_rate_multiplier")
# What continued training takes over from the model it starts from: an adapter's shape cannot change.
SHAPE_NAMES = ("lora_rank", "lora_alpha", "lora_target_modules")

TARGET_EPOCHS = 3
MIN_EXAMPLES_SEEN, MAX_EXAMPLES_SEEN = 100, 25_000  # over all epochs
MAX_AUTO_EPOCHS = 25
MAX_BATCH_SIZE = 256
MAX_LEARNING_RATE = 1.0
MAX_INTERVAL = 1_000_000  # steps, or evaluations


@dataclass(frozen=True)
class Or:
    """Accepts some words beside values of another type, with one error on one path (a union tells one a member)."""

    words: tuple[str, ...]
    values: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def validate(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
            return value if isinstance(value, str) and value in self.words else inner(value)

        return core_schema.no_info_wrap_validator_function(
            validate,
            handler.generate_schema(self.values),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )


Epochs = Annotated[Auto | int, Or((AUTO,), Annotated[int, Field(strict=True, ge=1, le=50)])]
BatchSize = Annotated[Auto | int, Or((AUTO,), Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH_SIZE)])]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Multiplier = Annotated[Auto | float, Or((AUTO,), PositiveFloat)]
Interval = Annotated[Auto | int, Or((AUTO,), Annotated[int, Field(strict=True, ge=1, le=MAX_INTERVAL)])]
ModuleNames = Annotated[list[str], Field(min_length=1, max_length=64)]
TargetModules = Annotated[str | list[str], Or((ALL_LINEAR, ATTENTION), ModuleNames)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class OpenAIHyperparameters(BaseModel):
    """The three settings OpenAI has, as they stand in the older top-level block. Null means "auto"."""

    model_config = ConfigDict(strict=True, extra="forbid")

    n_epochs: Epochs | None = None
    batch_size: BatchSize | None = None
    learning_rate_multiplier: Multiplier | None = None


class Hyperparameters(OpenAIHyperparameters):
    """The block inside a method: OpenAI's settings and ours. Null means the default."""

    learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE, allow_inf_nan=False)] | None = None
    lora_rank: Annotated[int, Field(ge=1, le=256)] | None = None
    lora_alpha: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] | None = None
    lora_dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = None
    lora_target_modules: TargetModules | None = None
    max_sequence_length: Annotated[int, Field(ge=16)] | None = None
    warmup_ratio: Fraction | None = None
    lr_scheduler: Literal["cosine", "linear", "constant"] | None = None
    weight_decay: Fraction | None = None
    max_grad_norm: PositiveFloat | None = None
    quantization: str | None = None
    eval_interval: Interval | None = None
    early_stopping_patience: Annotated[int, Field(ge=1, le=MAX_INTERVAL)] | None = None
    deterministic: bool | None = None


METHODS = ("supervised",)  # those that this version's workers carry out
KNOWN = tuple(Hyperparameters.model_fields)  # the settings that this version's workers heed


class DpoHyperparameters(Hyperparameters):
    """As supervised, and the strength of the pull towards the reference."""

    beta: Annotated[Auto | float, Or((AUTO,), Annotated[float, Field(strict=True, gt=0, le=2)])] | None = None


class ReinforcementHyperparameters(Hyperparameters):
    """As supervised, and the settings of sampling and grading."""

    compute_multiplier: (
        Annotated[Auto | float, Or((AUTO,), Annotated[float, Field(strict=True, gt=0.00001, le=10)])] | None
    ) = None
    eval_samples: Interval | None = None
    reasoning_effort: Literal["default", "low", "medium", "high"] | None = None


def merge(older: OpenAIHyperparameters | None, block: Hyperparameters | None) -> dict[str, Any]:
    """What a body asks for: OpenAI's three names always, "auto" where unset, and ours where given.

    The method's block wins over the older top-level one in what it says. Raises ConflictingHyperparameters if both
    give a number and the numbers differ.
    """
    top = _given(older)
    inner = _given(block)
    for name, value in top.items():
        other = inner.get(name, AUTO)
        if AUTO not in (value, other) and value != other:
            raise ConflictingHyperparameters(name)
    return dict.fromkeys(OPENAI_NAMES, AUTO) | top | inner


def with_shape_of(shape: dict[str, Any], asked: dict[str, Any], entry: CatalogEntry) -> dict[str, Any]:
    """`asked` with the adapter's shape of the model it starts from. Raises InvalidHyperparameter on another shape."""
    for name, value in shape.items():
        wanted = asked.get(name, value)
        if name == "lora_target_modules":
            wanted = target_modules(wanted, entry)
        if wanted != value:
            raise InvalidHyperparameter(name, f"Continued training keeps the model's own {name}: {value}.")
    return asked | shape


def check(asked: dict[str, Any], entry: CatalogEntry) -> None:
    """Raise InvalidHyperparameter for settings that contradict each other or that this base model does not allow."""
    if "learning_rate" in asked and asked["learning_rate_multiplier"] != AUTO:
        raise InvalidHyperparameter("learning_rate", "Give learning_rate or a numeric multiplier, not both.")
    multiplier = asked["learning_rate_multiplier"]
    if multiplier != AUTO and multiplier * entry.learning_rate > MAX_LEARNING_RATE:
        most = MAX_LEARNING_RATE / entry.learning_rate
        raise InvalidHyperparameter("learning_rate_multiplier", f"At most {most:g} with {entry.id}.")
    length = asked.get("max_sequence_length")
    if length is not None and length > entry.context_length:
        raise InvalidHyperparameter(
            "max_sequence_length", f"{length} is over the {entry.context_length} tokens of {entry.id}'s context."
        )
    quantization = asked.get("quantization", "none")
    if quantization not in entry.quantizations:
        allowed = ", ".join(entry.quantizations)
        raise InvalidHyperparameter(
            "quantization", f"{quoted(quantization)!r} is not offered for {entry.id}; use: {allowed}."
        )
    modules = asked.get("lora_target_modules", ALL_LINEAR)
    unknown = [name for name in modules if name not in entry.linears] if isinstance(modules, list) else []
    if unknown:
        raise InvalidHyperparameter(
            "lora_target_modules",
            f"{quoted(unknown[0])!r} is not a linear layer of {entry.id}; use: {', '.join(entry.linears)}.",
        )


def auto_epochs(n_examples: int) -> int:
    """Three epochs; more for a small file, up to 25, so that 100 examples are seen; fewer above 25,000 seen."""
    seen = TARGET_EPOCHS * n_examples
    if seen < MIN_EXAMPLES_SEEN:
        return min(MAX_AUTO_EPOCHS, MIN_EXAMPLES_SEEN // n_examples)
    if seen > MAX_EXAMPLES_SEEN:
        return max(1, MAX_EXAMPLES_SEEN // n_examples)
    return TARGET_EPOCHS


def auto_batch_size(n_examples: int) -> int:
    """0.2 % of the examples, rounded half up, between 1 and 256."""
    return max(1, min(MAX_BATCH_SIZE, (n_examples + 250) // 500))


def max_sequence_length(asked: dict[str, Any], entry: CatalogEntry) -> int:
    """The length, in tokens, at which examples are cut: preparing needs it before the examples are counted."""
    return asked.get("max_sequence_length") or entry.context_length


def resolve(asked: dict[str, Any], *, n_examples: int, entry: CatalogEntry) -> dict[str, Any]:
    """Every hyperparameter as a number (or name), the same whenever it is computed.

    `asked` is what `merge` gave, `n_examples` (≥ 1) the examples left after preparing.
    """
    given = {name: value for name, value in asked.items() if value not in (None, AUTO)}
    rank = given.get("lora_rank", entry.lora_rank)
    learning_rate, multiplier = _learning_rate(given, entry)
    return {
        "n_epochs": given.get("n_epochs") or auto_epochs(n_examples),
        "batch_size": given.get("batch_size") or auto_batch_size(n_examples),
        "learning_rate_multiplier": multiplier,
        "learning_rate": learning_rate,
        "lora_rank": rank,
        "lora_alpha": float(given.get("lora_alpha", _default_alpha(rank, entry))),
        "lora_dropout": given.get("lora_dropout", entry.lora_dropout),
        "lora_target_modules": target_modules(given.get("lora_target_modules", ALL_LINEAR), entry),
        "max_sequence_length": max_sequence_length(given, entry),
        "warmup_ratio": given.get("warmup_ratio", 0.03),
        "lr_scheduler": given.get("lr_scheduler", "cosine"),
        "weight_decay": given.get("weight_decay", 0.0),
        "max_grad_norm": given.get("max_grad_norm", 1.0),
        "quantization": given.get("quantization", "none"),
        "eval_interval": given.get("eval_interval"),
        "early_stopping_patience": given.get("early_stopping_patience"),
        "deterministic": given.get("deterministic", False),
    }


def target_modules(asked: str | list[str], entry: CatalogEntry) -> list[str]:
    """The linear layers to adapt, by name, in the catalogue's order."""
    if asked == ALL_LINEAR:
        return list(entry.linears)
    if asked == ATTENTION:
        return list(entry.attention)
    return [name for name in entry.linears if name in asked]


class SpecifiedJob(Protocol):
    """What the engine's spec takes from a job's row."""

    @property
    def method(self) -> str: ...
    @property
    def seed(self) -> int: ...


class EngineSettings(Protocol):
    """What the engine's spec takes from the settings."""

    @property
    def resume_interval_seconds(self) -> float: ...


def engine_spec(job: SpecifiedJob, resolved: dict[str, Any], settings: EngineSettings) -> dict[str, Any]:
    """What the engine is told: resolved numbers, the method, the seed, and how often to save a resume state."""
    beside = ("learning_rate_multiplier", "quantization")  # the rate and the loaded base already say these
    numbers = {name: value for name, value in resolved.items() if name not in beside}
    return numbers | {
        "method": job.method,
        "seed": job.seed,
        "resume_interval_seconds": settings.resume_interval_seconds,
    }


def _given(block: BaseModel | None) -> dict[str, Any]:
    return {} if block is None else block.model_dump(exclude_none=True)


def _learning_rate(given: dict[str, Any], entry: CatalogEntry) -> tuple[float, float]:
    """The rate and its multiple of the catalogue's: a given rate wins, else the multiplier, which is 1 by default."""
    if "learning_rate" in given:
        return given["learning_rate"], given["learning_rate"] / entry.learning_rate
    multiplier = float(given.get("learning_rate_multiplier", 1.0))
    return multiplier * entry.learning_rate, multiplier


def _default_alpha(rank: int, entry: CatalogEntry) -> float:
    """The catalogue's alpha, scaled with the rank, so that the adapter's gain alpha / rank stays what it was."""
    return entry.lora_alpha * rank / entry.lora_rank
