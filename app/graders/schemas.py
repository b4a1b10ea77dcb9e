"""Graders on the wire: the bodies of `validate` and `run`, and their replies."""

import dataclasses
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from app.graders.definitions import Grader
from app.graders.grading import Grade


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    grader: Grader


class GraderValidateRequest(_Request):
    """The body of `POST /fine_tuning/alpha/graders/validate`."""


class GraderRunRequest(_Request):
    """The body of `POST /fine_tuning/alpha/graders/run`. `item` fills the namespace of the same name in templates."""

    model_sample: str
    item: dict[str, Any] | None = None


class ValidatedGrader(TypedDict):
    grader: dict[str, Any]


class GradingErrors(TypedDict):
    formula_parse_error: bool
    sample_parse_error: bool
    truncated_observation_error: bool
    unresponsive_reward_error: bool
    invalid_variable_error: bool
    other_error: bool
    python_grader_server_error: bool
    python_grader_server_error_type: str | None
    python_grader_runtime_error: bool
    python_grader_runtime_error_details: str | None
    model_grader_server_error: bool
    model_grader_refusal_error: bool
    model_grader_parse_error: bool
    model_grader_server_error_details: str | None


class GradingMetadata(TypedDict):
    name: str
    type: str
    errors: GradingErrors
    execution_time: float  # seconds
    scores: dict[str, float]
    token_usage: int | None
    sampled_model_name: str | None


class GradingTokenUsage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class GradingResult(TypedDict):
    reward: float
    metadata: GradingMetadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, GradingTokenUsage]


# A flag that nothing has set is false, a detail null.
_NO_ERRORS = {name: False if kind is bool else None for name, kind in get_type_hints(GradingErrors).items()}


def validated(grader: Grader) -> ValidatedGrader:
    """The grader as it was sent, with a name if it had none: clients that check replies want one."""
    sent = grader.model_dump(exclude_unset=True)
    return {"grader": {**sent, "name": _name(grader)}}


def run_result(grader: Grader, grade: Grade) -> GradingResult:
    """A grade as the reply of `run`, in the shape that OpenAI's client accepts in strict mode."""
    rewards = dict(grade.sub_rewards)
    return {
        "reward": grade.reward,
        "metadata": {
            "name": _name(grader),
            "type": grader.type,
            "errors": {**_NO_ERRORS, **grade.errors},  # type: ignore[typeddict-item]
            "execution_time": grade.seconds,
            "scores": rewards,
            "token_usage": sum(usage.total_tokens for usage in grade.usage.values()) if grade.usage else None,
            "sampled_model_name": grade.models[0] if len(grade.models) == 1 else None,
        },
        "sub_rewards": rewards,
        "model_grader_token_usage_per_model": {
            model: dataclasses.asdict(usage)  # type: ignore[misc]
            for model, usage in grade.usage.items()
        },
    }


def _name(grader: Grader) -> str:
    return grader.name or grader.type
