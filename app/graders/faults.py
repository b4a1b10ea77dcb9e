"""What can go wrong while something is graded, as exceptions. None of them fails a request: each sets members of the
reply's `metadata.errors` and makes the reward 0.
"""

from typing import ClassVar

MAX_DETAILS_CHARS = 512


class GradingFault(Exception):
    """Something could not be graded.

    flags: the members of `metadata.errors` it makes true; details_member: the member that gets its message.
    """

    flags: ClassVar[tuple[str, ...]] = ("other_error",)
    details_member: ClassVar[str | None] = None

    @property
    def errors(self) -> dict[str, bool | str]:
        """The members of `metadata.errors` this sets."""
        members: dict[str, bool | str] = dict.fromkeys(self.flags, True)
        if self.details_member is not None:
            members[self.details_member] = str(self)[:MAX_DETAILS_CHARS]
        return members


class UnsupportedInput(GradingFault):
    """A rendered input is of a kind that this server does not pass on."""


class FormulaFault(GradingFault):
    """A formula cannot be parsed, names what is not there, or has no finite result."""

    flags: ClassVar[tuple[str, ...]] = ("formula_parse_error",)


class UnknownVariable(GradingFault):
    """A template names something that is neither in the item nor in the sample."""

    flags: ClassVar[tuple[str, ...]] = ("invalid_variable_error",)


class SampleNotJson(GradingFault):
    """A template asks for `sample.output_json`, and the sample is not JSON."""

    flags: ClassVar[tuple[str, ...]] = ("sample_parse_error",)


class TextTooLong(GradingFault):
    """A rendered text is longer than what is graded here."""

    flags: ClassVar[tuple[str, ...]] = ("truncated_observation_error",)


class OutOfTime(GradingFault):
    """The run's time was over before this grader's turn."""

    flags: ClassVar[tuple[str, ...]] = ("unresponsive_reward_error",)


class PythonRuntimeFault(GradingFault):
    """The code failed: an exception, a result that is no float, a limit."""

    flags: ClassVar[tuple[str, ...]] = ("python_grader_runtime_error",)
    details_member: ClassVar[str | None] = "python_grader_runtime_error_details"


class PythonTimeout(PythonRuntimeFault):
    """The code did not finish in time."""

    flags: ClassVar[tuple[str, ...]] = ("python_grader_runtime_error", "unresponsive_reward_error")


class PythonServerFault(GradingFault):
    """The sandbox failed, not the code; the message is one word that says how."""

    flags: ClassVar[tuple[str, ...]] = ("python_grader_server_error",)
    details_member: ClassVar[str | None] = "python_grader_server_error_type"


class ModelServerFault(GradingFault):
    """The grader model's endpoint failed."""

    flags: ClassVar[tuple[str, ...]] = ("model_grader_server_error",)
    details_member: ClassVar[str | None] = "model_grader_server_error_details"


class ModelTimeout(ModelServerFault):
    """The grader model's endpoint did not answer in time."""

    flags: ClassVar[tuple[str, ...]] = ("model_grader_server_error", "unresponsive_reward_error")


class ModelRefusal(GradingFault):
    """The grader model refused."""

    flags: ClassVar[tuple[str, ...]] = ("model_grader_refusal_error",)


class ModelParseFault(GradingFault):
    """The grader model's answer is not in the format it was asked for."""

    flags: ClassVar[tuple[str, ...]] = ("model_grader_parse_error",)
