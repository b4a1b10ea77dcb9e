"""Graders as the API offers them: refused if they cannot work here, run if they can."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Unavailable
from app.graders import formula, templating
from app.graders.definitions import (
    GraderMessage,
    InputAudio,
    InputImage,
    LabelModelGrader,
    Member,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    placed,
)
from app.graders.errors import GraderNotOffered, InvalidGrader, ModelNotAvailable
from app.graders.faults import GradingFault, PythonServerFault
from app.graders.grading import Grade, Means, grade
from app.graders.sandbox import CannotIsolate
from app.graders.templating import Observation

log = logging.getLogger(__name__)


def validate(grader: Member | MultiGrader, means: Means) -> None:
    """Raise BadRequest for what would be wrong with every run of this grader here, Unavailable if that cannot be told.

    The source of a Python grader is loaded for it, in its sandbox.
    """
    _check_offered(grader, means)
    for path, member in placed(grader):
        for place, template in _templates(member):
            with _refusing_faults(f"{path}.{place}"):
                templating.check(template)
        if isinstance(member, PythonGrader) and means.sandbox is not None:
            with _refusing_faults(f"{path}.source"):
                means.sandbox.check(member.source)
    if isinstance(grader, MultiGrader):
        with _refusing_faults("grader.calculate_output"):
            formula.parse(grader.calculate_output, grader.members())


def run(grader: Member | MultiGrader, observation: Observation, means: Means) -> Grade:
    """Grade an observation. Raises BadRequest for a grader that this server does not run."""
    _check_offered(grader, means)
    return grade(grader, observation, means)


def _check_offered(grader: Member | MultiGrader, means: Means) -> None:
    for path, member in placed(grader):
        if isinstance(member, PythonGrader):
            _check_sandbox(path, means)
        if isinstance(member, ScoreModelGrader | LabelModelGrader):
            _check_model(path, member.model, means)


def _check_sandbox(path: str, means: Means) -> None:
    if means.sandbox is None:
        raise GraderNotOffered("Python graders are switched off on this server.", param=f"{path}.type")
    try:
        means.sandbox.check_machine()
    except CannotIsolate as error:
        message = f"Python graders cannot be isolated on this server, so none is run: {error}."
        raise GraderNotOffered(message, param=f"{path}.type") from error
    except GradingFault as error:
        raise _out_of_order(error) from error


def _out_of_order(fault: GradingFault) -> Unavailable:
    log.warning("graders.sandbox_out_of_order", extra={"reason": str(fault)})
    return Unavailable()


def _check_model(path: str, model: str, means: Means) -> None:
    if means.endpoint is None:
        raise GraderNotOffered("No grader model is configured on this server.", param=f"{path}.type")
    if model not in means.endpoint.models:
        raise ModelNotAvailable(f"The model '{model[:100]}' is not one this server grades with.", param=f"{path}.model")


@contextmanager
def _refusing_faults(param: str) -> Iterator[None]:
    try:
        yield
    except PythonServerFault as fault:
        raise _out_of_order(fault) from fault
    except GradingFault as fault:
        raise InvalidGrader(str(fault), param=param) from fault


def _templates(grader: Member) -> Iterator[tuple[str, str]]:
    """Every template of a grader, with the place it has in it."""
    if isinstance(grader, PythonGrader):
        return
    if isinstance(grader, ScoreModelGrader | LabelModelGrader):
        for index, message in enumerate(grader.input):
            yield from ((f"input.[{index}].content", template) for template in _texts(message))
        return
    yield "input", grader.input
    yield "reference", grader.reference


def _texts(message: GraderMessage) -> Iterator[str]:
    for part in message.content if isinstance(message.content, list) else [message.content]:
        match part:
            case str():
                yield part
            case InputImage():
                yield part.image_url
            case InputAudio():
                yield part.input_audio.data
            case _:
                yield part.text
