"""From a JSONL file to a prepared dataset: check, render, tokenise, mask, write. Streams; a file is never in memory."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from app.files import dataset as checks
from app.files import ordinary
from app.files.dataset import CHAT, COMPLETION, BadLine
from worker.prepare import template
from worker.prepare.chats import Chats, Planned
from worker.prepare.columns import DatasetWriter
from worker.prepare.rows import ExampleRows, Row, of_completions
from worker.prepare.template import DATE_STRING, RenderError, Turn
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

    tokenizer: LoadedTokenizer
    kind: str | None = None
    examples: int = 0
    bad: Lines = field(default_factory=Lines)
    truncated: Lines = field(default_factory=Lines)
    dropped: Lines = field(default_factory=Lines)
    straddling: int = 0

    @cached_property
    def chats(self) -> Chats:
        """Made when the first chat line comes: a tokenizer without a chat template can prepare other lines."""
        return Chats(self.tokenizer)

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
    progress = _Progress(tokenizer)
    writer = DatasetWriter(out)
    try:
        for batch in _batches(checks.lines(lines)):
            examples = list(_checked(batch, progress))
            if progress.bad.count == 0:
                _write(examples, max_sequence_length, writer, progress)
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


def _checked(batch: Iterable[tuple[int, bytes]], progress: _Progress) -> Iterator[tuple[int, Any]]:
    """The usable examples of a batch, rendered; the bad lines go into `progress`."""
    for number, line in batch:
        progress.examples += 1
        try:
            yield number, _by_plan(line, progress) or _by_checks(line, progress)
        except (BadLine, RenderError) as error:
            progress.bad.add(number, str(error))


def _by_plan(line: bytes, progress: _Progress) -> Planned | None:
    """The quick way, for ordinary lines; whatever it does not know is left to the other."""
    messages = ordinary.parse(line)
    if messages is None or progress.kind == COMPLETION:
        return None
    progress.expect(CHAT)
    return progress.chats.plan(messages)


def _by_checks(line: bytes, progress: _Progress) -> list[Turn] | tuple[str, str]:
    """A chat example's turns, or a prompt and its completion. Raises BadLine, RenderError."""
    kind, example = checks.parse_line(line)
    progress.expect(kind)
    if kind == CHAT:
        return progress.chats.render(example)
    _refuse_special_tokens(example, progress.tokenizer)
    return example["prompt"], example["completion"]


def _refuse_special_tokens(example: dict[str, Any], tokenizer: LoadedTokenizer) -> None:
    for key in ("prompt", "completion"):
        for token in tokenizer.special_tokens:
            if token in example[key]:
                raise BadLine(f"{key} holds the model's special token {token!r}")


def _write(
    examples: list[tuple[int, Any]], max_sequence_length: int, writer: DatasetWriter, progress: _Progress
) -> None:
    contents = [content for _, content in examples]
    made = progress.chats.rows(contents) if progress.kind == CHAT else of_completions(contents, progress.tokenizer)
    kept = [
        rows
        for (number, _), example in zip(examples, made, strict=True)
        if (rows := _cut(number, example, max_sequence_length, progress))
    ]
    writer.add(kept)


def _cut(number: int, example: ExampleRows, length: int, progress: _Progress) -> list[Row]:
    """What is left of an example's rows within `length` tokens: those with something to train on."""
    cuts = [row.cut(length) for row in example.rows]
    kept = [row for row in example.rows if row.trained]
    progress.straddling += example.straddling
    if not kept:
        progress.dropped.add(number)
    elif any(cuts):
        progress.truncated.add(number)
    return kept


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
