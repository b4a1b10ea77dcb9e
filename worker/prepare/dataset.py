"""From a JSONL file to a prepared dataset: check, render, tokenise, mask, write. Streams; a file is never in memory."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from app.files import dataset as checks
from app.files.dataset import CHAT, BadLine
from worker.prepare import rows, template
from worker.prepare.columns import DatasetWriter
from worker.prepare.rows import ExampleRows
from worker.prepare.template import DATE_STRING, RenderError, Template, Turn
from worker.prepare.tokenizer import LoadedTokenizer

PREPARE_VERSION = 1  # raise it when the same file would give other rows
MASK_POLICY = "assistant"  # loss on assistant turns whose weight is not 0
MIN_EXAMPLES = 10  # OpenAI's minimum for a training file
NAMED_LINES = 20  # how many lines are named before the rest is counted
BATCH_LINES = 256

TRAINING, VALIDATION = "training", "validation"


class InvalidDataset(Exception):
    """A file cannot be trained with; code, message and param are the job's public error."""

    def __init__(self, code: str, message: str, param: str) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


@dataclass
class Prepared:
    """What became of a file. Line numbers start at 1; lists hold the first 20."""

    manifest: dict[str, Any]
    lines: int  # of the file, whatever became of them
    truncated: "Lines"
    dropped: "Lines"
    straddling_tokens: int

    @property
    def examples(self) -> int:
        return self.manifest["examples"]

    @property
    def tokens(self) -> int:
        return self.manifest["tokens"]


@dataclass
class Lines:
    """Some lines of a file: how many, and the first of them with what is to say about each."""

    count: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)

    def add(self, number: int, reason: str = "") -> None:
        self.count += 1
        if len(self.first) < NAMED_LINES:
            self.first.append((number, reason))

    def __str__(self) -> str:
        named = "; ".join(f"line {number} {reason}" if reason else f"line {number}" for number, reason in self.first)
        rest = self.count - len(self.first)
        return f"{named}; and {rest} more" if rest else named


@dataclass
class _Progress:
    """The state of one pass over a file."""

    template: Template | None = None
    kind: str | None = None
    examples: int = 0
    bad: Lines = field(default_factory=Lines)
    truncated: Lines = field(default_factory=Lines)
    dropped: Lines = field(default_factory=Lines)
    straddling: int = 0

    def expect(self, kind: str) -> None:
        """All lines of a file are in one format. Raises BadLine."""
        self.kind = self.kind or kind
        if kind != self.kind:
            raise BadLine(f"is in {kind} format, but the file began in {self.kind} format")


def cache_key(file_sha256: str, tokenizer: LoadedTokenizer, max_sequence_length: int) -> str:
    """A hash of everything that shapes a prepared dataset: the same key, the same rows."""
    parts = (
        file_sha256,
        tokenizer.sha256,
        template.template_hash(tokenizer),
        DATE_STRING,
        max_sequence_length,
        MASK_POLICY,
        PREPARE_VERSION,
    )
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()


def prepare(
    lines: BinaryIO, *, tokenizer: LoadedTokenizer, max_sequence_length: int, role: str, file_id: str, out: Path
) -> Prepared:
    """Write the prepared dataset of a file into the folder `out`.

    role: TRAINING or VALIDATION. max_sequence_length: in tokens; longer rows are cut at their end.
    Raises InvalidDataset, naming the first bad lines and how many more there are.
    """
    progress = _Progress()
    writer = DatasetWriter(out)
    try:
        for batch in _batches(checks.lines(lines)):
            examples = list(_checked(batch, tokenizer, progress))
            if progress.bad.count == 0:
                _write(examples, tokenizer, max_sequence_length, writer, progress)
    finally:
        writer.close()
    _check(progress, role, file_id, writer.examples)
    manifest = writer.finish(
        truncated_examples=progress.truncated.count,
        dropped_examples=progress.dropped.count,
        straddling_tokens=progress.straddling,
    )
    return Prepared(manifest, progress.examples, progress.truncated, progress.dropped, progress.straddling)


def _batches(numbered: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    while batch := list(itertools.islice(numbered, BATCH_LINES)):
        yield batch


def _checked(
    batch: Iterable[tuple[int, bytes]], tokenizer: LoadedTokenizer, progress: _Progress
) -> Iterator[tuple[int, list[Turn] | tuple[str, str]]]:
    """The usable examples of a batch, rendered; the bad lines go into `progress`."""
    for number, line in batch:
        progress.examples += 1
        try:
            kind, example = checks.parse_line(line)
            progress.expect(kind)
            if kind == CHAT:
                progress.template = progress.template or Template(tokenizer)
                yield number, progress.template.turns(example)
            else:
                _refuse_special_tokens(example, tokenizer)
                yield number, (example["prompt"], example["completion"])
        except (BadLine, RenderError) as error:
            progress.bad.add(number, str(error))


def _refuse_special_tokens(example: dict[str, Any], tokenizer: LoadedTokenizer) -> None:
    for key in ("prompt", "completion"):
        for token in tokenizer.special_tokens:
            if token in example[key]:
                raise BadLine(f"{key} holds the model's special token {token!r}")


def _write(
    examples: list[tuple[int, Any]],
    tokenizer: LoadedTokenizer,
    max_sequence_length: int,
    writer: DatasetWriter,
    progress: _Progress,
) -> None:
    contents = [content for _, content in examples]
    make = rows.of_chats if progress.kind == CHAT else rows.of_completions
    for (number, _), example in zip(examples, make(contents, tokenizer), strict=True):
        _write_example(number, example, max_sequence_length, writer, progress)


def _write_example(
    number: int, example: ExampleRows, max_sequence_length: int, writer: DatasetWriter, progress: _Progress
) -> None:
    cuts = [row.cut(max_sequence_length) for row in example.rows]
    kept = [row for row in example.rows if row.trained]
    progress.straddling += example.straddling
    if not kept:
        progress.dropped.add(number)
        return
    if any(cuts):
        progress.truncated.add(number)
    writer.add(kept)


def too_few(examples: int, file_id: str) -> InvalidDataset:
    """The error of a training file with too few examples."""
    message = f"The training file {file_id} has {examples} examples; at least {MIN_EXAMPLES} are needed."
    return InvalidDataset("invalid_n_examples", message, "training_file")


def _check(progress: _Progress, role: str, file_id: str, kept: int) -> None:
    param = f"{role}_file"
    code = f"invalid_{role}_file"
    if progress.bad.count:
        raise InvalidDataset(
            code,
            f"The {role} file {file_id} has {progress.bad.count} invalid line{'s' * (progress.bad.count > 1)}: "
            f"{progress.bad}.",
            param,
        )
    if role == TRAINING and progress.examples < MIN_EXAMPLES:
        raise too_few(progress.examples, file_id)
    if kept == 0:
        raise InvalidDataset(code, f"The {role} file {file_id} has no example with a token to train on.", param)
