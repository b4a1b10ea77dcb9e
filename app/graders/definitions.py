"""What a grader may be: OpenAI's grader objects, checked strictly. An explicit null is as good as no field."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    WrapValidator,
    create_model,
    field_validator,
)
from pydantic_core import PydanticCustomError

from app.graders.similarity import METRICS

MAX_SOURCE_BYTES = 256 * 1024  # a source must be smaller
MAX_MEMBERS = 32
MAX_MESSAGES = 64
MAX_PARTS = 64
MAX_LABELS = 256

Parser = Callable[[Any], Any]


def _by_type(*models: type[BaseModel]) -> Parser:
    """Parses an object as the model its `type` names. Errors have the body's own path; those of a union add a tag."""
    chosen = {model.model_fields["type"].annotation.__args__[0]: model for model in models}  # type: ignore[union-attr]
    typed = create_model("Object", type=(Literal[tuple(chosen)], ...))  # type: ignore[arg-type]

    def parse(value: Any) -> BaseModel:
        name = typed.model_validate(value, strict=True).model_dump()["type"]
        return chosen[name].model_validate(value, strict=True)

    return parse


def _parsed_by(parse: Parser) -> WrapValidator:
    """Replaces the validation that the annotated type stands for; the type still describes the field."""
    return WrapValidator(lambda value, _usual: parse(value))


class _Object(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Grader(_Object):
    """The schema requires a name; OpenAI's own examples leave it out."""

    name: Annotated[str, Field(max_length=256)] | None = None


class StringCheckGrader(_Grader):
    """1 if input and reference compare as asked, else 0."""

    type: Literal["string_check"]
    input: str
    reference: str
    operation: Annotated[
        Literal["eq", "ne", "like", "ilike"], BeforeValidator(lambda value: "ne" if value == "neq" else value)
    ]  # "neq" is how OpenAI's guide spells it


def _offered(metric: str) -> str:
    if metric not in METRICS:
        raise PydanticCustomError("not_offered", "'cosine' is for evals only, not for fine-tuning")
    return metric


class TextSimilarityGrader(_Grader):
    """How alike input and reference are, from 0 to 1."""

    type: Literal["text_similarity"]
    input: str
    reference: str
    evaluation_metric: Annotated[
        Literal[
            "cosine", "fuzzy_match", "bleu", "gleu", "meteor",
            "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
        ],
        AfterValidator(_offered),
    ]  # fmt: skip
    pass_threshold: float | None = None  # of evals: a reward is not compared with it


def _of_bearable_size(source: str) -> str:
    if len(source.encode()) >= MAX_SOURCE_BYTES:
        raise PydanticCustomError("source_too_long", "A source must be smaller than 256 kB")
    return source


class PythonGrader(_Grader):
    """What the source's function `grade(sample, item)` returns."""

    type: Literal["python"]
    source: Annotated[str, AfterValidator(_of_bearable_size)]
    image_tag: Annotated[str, Field(max_length=64)] | None = None  # there is one image: the operator's interpreter


class InputText(_Object):
    type: Literal["input_text"]
    text: str


class OutputText(_Object):
    type: Literal["output_text"]
    text: str


def _no_address(url: str) -> str:
    if not url.startswith(("data:", "{{")):
        raise PydanticCustomError("no_address", "Give the image as a data: URL; addresses are not fetched")
    return url


class InputImage(_Object):
    type: Literal["input_image"]
    image_url: Annotated[str, AfterValidator(_no_address)]
    detail: Literal["auto", "low", "high"] | None = None
    file_id: None = None


class Audio(_Object):
    data: str
    format: Literal["mp3", "wav"]


class InputAudio(_Object):
    type: Literal["input_audio"]
    input_audio: Audio


Part = str | InputText | OutputText | InputImage | InputAudio
_typed_part = _by_type(InputText, OutputText, InputImage, InputAudio)


def _part(value: Any) -> Any:
    return value if isinstance(value, str) else _typed_part(value)


_parts = TypeAdapter(
    Annotated[list[Annotated[Part, _parsed_by(_part)]], Field(min_length=1, max_length=MAX_PARTS)]
).validate_python


def _content(value: Any) -> Any:
    return _parts(value) if isinstance(value, list) else _part(value)


class GraderMessage(_Object):
    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[Part | list[Part], _parsed_by(_content)]


class SamplingParams(_Object):
    """`max_completions_tokens` is how OpenAI's schema spells it; `max_tokens` stands in an example of its guide."""

    seed: int | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_completions_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


Messages = Annotated[list[GraderMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]


def _ascending(bounds: list[float]) -> list[float]:
    if bounds[0] >= bounds[1]:
        raise PydanticCustomError("not_ascending", "The first number must be smaller than the second")
    return bounds


class ScoreModelGrader(_Grader):
    """The number a model gives, clipped to the range."""

    type: Literal["score_model"]
    model: ModelName
    input: Messages
    range: Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ascending)] | None = None
    sampling_params: SamplingParams | None = None
    pass_threshold: float | None = None


Label = Annotated[str, Field(min_length=1, max_length=256)]
Labels = Annotated[list[Label], Field(min_length=1, max_length=MAX_LABELS)]


class LabelModelGrader(_Grader):
    """1 if the label a model chooses is a passing one, else 0. A member of a multi grader only."""

    type: Literal["label_model"]
    model: ModelName
    input: Messages
    labels: Labels
    passing_labels: Labels
    sampling_params: SamplingParams | None = None

    @field_validator("passing_labels")
    @classmethod
    def _among_the_labels(cls, passing: list[str], info: ValidationInfo) -> list[str]:
        unknown = [label for label in passing if label not in info.data.get("labels", passing)]
        if unknown:
            raise PydanticCustomError("unknown_label", "Every passing label must be one of the labels")
        return passing


Member = StringCheckGrader | TextSimilarityGrader | PythonGrader | ScoreModelGrader | LabelModelGrader
_member = _by_type(StringCheckGrader, TextSimilarityGrader, PythonGrader, ScoreModelGrader, LabelModelGrader)
_ParsedMember = Annotated[Member, _parsed_by(_member)]
_Key = Annotated[str, Field(min_length=1, max_length=64)]
_member_map = TypeAdapter(
    Annotated[dict[_Key, _ParsedMember], Field(min_length=1, max_length=MAX_MEMBERS)]
).validate_python
_member_list = TypeAdapter(Annotated[list[_ParsedMember], Field(min_length=1, max_length=MAX_MEMBERS)]).validate_python


def _members(value: Any) -> Any:
    """A map of graders, a list of them, or one: OpenAI's sources show all three."""
    if isinstance(value, list):
        return _named_apart(_member_list(value))
    if isinstance(value, dict) and not isinstance(value.get("type"), str):
        return _member_map(value)
    return _named_apart([_member(value)])[0]


def _named_apart(members: list[Member]) -> list[Member]:
    names = {member.name for member in members}
    if len(names) < len(members) or None in names:
        raise PydanticCustomError("names", "Outside a map, each grader needs a name of its own for the formula")
    return members


class MultiGrader(_Grader):
    """A formula over the rewards of other graders."""

    type: Literal["multi"]
    graders: Annotated[dict[str, Member] | list[Member] | Member, _parsed_by(_members)]
    calculate_output: str

    def members(self) -> dict[str, Member]:
        """The graders by the names the formula knows them by."""
        if isinstance(self.graders, dict):
            return self.graders
        members = self.graders if isinstance(self.graders, list) else [self.graders]
        return {str(member.name): member for member in members}


Grader = Annotated[
    StringCheckGrader | TextSimilarityGrader | PythonGrader | ScoreModelGrader | MultiGrader,
    _parsed_by(_by_type(StringCheckGrader, TextSimilarityGrader, PythonGrader, ScoreModelGrader, MultiGrader)),
]


def placed(grader: Any) -> Iterator[tuple[str, Member]]:
    """Each grader that gives a reward by itself, with its path in the body."""
    if not isinstance(grader, MultiGrader):
        yield "grader", grader
    elif isinstance(grader.graders, dict):
        for key, member in grader.graders.items():
            yield f"grader.graders.{key}", member
    elif isinstance(grader.graders, list):
        for index, member in enumerate(grader.graders):
            yield f"grader.graders.[{index}]", member
    else:
        yield "grader.graders", grader.graders
