"""Grading one observation: from a grader and a sample to a reward. It needs no HTTP and no database.

A grader that fails gives 0 and says how in `errors`; in a multi grader the others still count, and the formula is
computed with that 0.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.graders import formula, model_graders, similarity, templating
from app.graders.definitions import (
    LabelModelGrader,
    Member,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    StringCheckGrader,
    TextSimilarityGrader,
)
from app.graders.endpoint import Completion, Endpoint, Usage
from app.graders.faults import GradingFault, OutOfTime
from app.graders.sandbox import Sandbox
from app.graders.templating import Observation


@dataclass(frozen=True)
class Means:
    """What grading may use.

    seconds: for one observation, all members of a multi grader together; sandbox: None where Python graders are off;
    endpoint: None where there are no grader models. Graders that need what is not there must be refused beforehand.
    """

    seconds: float
    sandbox: Sandbox | None = None
    endpoint: Endpoint | None = None


@dataclass(frozen=True)
class Grade:
    """What grading gave.

    errors: members of `metadata.errors` that are not false or null; sub_rewards: of a multi grader, by key; usage:
    tokens by grader model; seconds: how long it took.
    """

    reward: float
    errors: Mapping[str, bool | str]
    sub_rewards: Mapping[str, float]
    usage: Mapping[str, Usage]
    models: tuple[str, ...]
    seconds: float


def grade(grader: Member | MultiGrader, observation: Observation, means: Means) -> Grade:
    """The reward of an observation. Never raises GradingFault."""
    started = time.perf_counter()
    run = _Run(observation, means, time.monotonic() + means.seconds)
    if isinstance(grader, MultiGrader):
        rewards = {key: run.reward(member) for key, member in grader.members().items()}
        reward = run.combined(grader.calculate_output, rewards)
    else:
        rewards = {}
        reward = run.reward(grader)
    return Grade(reward, run.errors, rewards, run.usage, tuple(run.models), time.perf_counter() - started)


@dataclass
class _Run:
    """One observation being graded, and what has been noted on the way."""

    observation: Observation
    means: Means
    deadline: float
    errors: dict[str, bool | str] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)

    def reward(self, grader: Member) -> float:
        try:
            return self._graded(grader)
        except GradingFault as fault:
            self._note(fault)
            return 0.0

    def combined(self, text: str, rewards: dict[str, float]) -> float:
        try:
            return formula.parse(text, rewards).value(rewards)
        except GradingFault as fault:
            self._note(fault)
            return 0.0

    def _note(self, fault: GradingFault) -> None:
        """The first details of each kind are kept: the reply has room for one."""
        self.errors = {**fault.errors, **self.errors}

    def _graded(self, grader: Member) -> float:
        match grader:
            case StringCheckGrader():
                return float(_compares(grader.operation, self._text(grader.input), self._text(grader.reference)))
            case TextSimilarityGrader():
                texts = self._text(grader.input), self._text(grader.reference)
                return similarity.score(grader.evaluation_metric, *texts)
            case PythonGrader():
                return self._by_code(grader)
            case ScoreModelGrader():
                return model_graders.score(grader, self._by_model(grader))
            case LabelModelGrader():
                return model_graders.label(grader, self._by_model(grader))

    def _text(self, template: str) -> str:
        return templating.render(template, self.observation)

    def _by_code(self, grader: PythonGrader) -> float:
        assert self.means.sandbox is not None, "Python graders are refused where they are off"
        sample, item = self.observation.sample, self.observation.item
        return self.means.sandbox.grade(grader.source, sample=sample, item=item, seconds=self._left())

    def _by_model(self, grader: ScoreModelGrader | LabelModelGrader) -> Completion:
        assert self.means.endpoint is not None, "model graders are refused where there is no endpoint"
        request = model_graders.request(grader, self._text)
        completion = self.means.endpoint.complete(grader.model, request, seconds=self._left())
        if completion.model not in self.models:
            self.models.append(completion.model)
        if completion.usage is not None:
            before = self.usage.get(completion.model)
            self.usage[completion.model] = completion.usage if before is None else before + completion.usage
        return completion

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise OutOfTime("The run's time is over.")
        return left


def _compares(operation: str, text: str, reference: str) -> bool:
    match operation:
        case "eq":
            return text == reference
        case "ne":
            return text != reference
        case "like":
            return reference in text
        case _:
            return reference.casefold() in text.casefold()
