"""From a prepared dataset to packed streams: which examples make a step, how a step is cut, and how a pass is laid out.

A dataset is read through mmap. A step is `batch_size` examples; its rows are cut into chunks, and the chunks of several
jobs are packed, without padding, into one pass. Everything that the layers need to know about a pass is worked out
here, once.
"""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worker.engine.attention import Segments
from worker.engine.lora import Run

DTYPES = {"U32": np.uint32, "I32": np.int32, "I64": np.int64, "F32": np.float32}
COLUMNS = {"tokens": np.uint32, "offsets": np.int64, "weights": np.float32, "example": np.int32}


class BadDataset(Exception):
    """A directory that does not hold a prepared dataset, or one that this base cannot read."""


@dataclass(frozen=True)
class Dataset:
    """Rows of tokens (u32), their target weights (f32) and the example that each row belongs to.

    Row r is tokens[offsets[r]:offsets[r + 1]]; example e is rows[first_row[e]:first_row[e + 1]].
    """

    tokens: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray
    first_row: np.ndarray
    sha256: str

    @property
    def examples(self) -> int:
        return len(self.first_row) - 1

    def rows(self, example: int) -> range:
        return range(int(self.first_row[example]), int(self.first_row[example + 1]))

    def row_tokens(self, row: int) -> int:
        return int(self.offsets[row + 1] - self.offsets[row])


@dataclass(frozen=True)
class Chunk:
    """Rows of one dataset that go through the model in one pass: a step of a job, or a part of one.

    `weight` is the sum of target weights over the whole step. Rows of different `regime` use different rope tables and
    never share a pass. `number` is the chunk's place in its step.
    """

    dataset: Dataset
    rows: tuple[int, ...]
    weight: float
    tokens: int
    regime: int
    number: int
    training: bool


@dataclass(frozen=True)
class Batch:
    """The chunks of one optimizer step, or of one evaluation."""

    chunks: list[Chunk]
    targets: int
    tokens: int


@dataclass(frozen=True)
class Part:
    """What a pass holds of one job: a chunk, the slot of the job's adapter, and the seed of the step's dropout."""

    chunk: Chunk
    slot: int
    draw: int = 0


@dataclass(frozen=True)
class Stream:
    """One packed pass on the device: tokens and positions (1, tokens); positions, targets, coefficients (targets,).

    The targets of part p are edges[p]..edges[p + 1].
    """

    tokens: torch.Tensor
    position_ids: torch.Tensor
    segments: Segments
    runs: tuple[Run, ...]
    predicting: torch.Tensor
    targets: torch.Tensor
    coefficients: torch.Tensor
    edges: tuple[int, ...]

    @property
    def length(self) -> int:
        return self.tokens.shape[1]


def open_dataset(directory: Path, vocabulary: int) -> Dataset:
    """Map a prepared dataset. Raises BadDataset when a file is missing, torn or at odds with itself or the base."""
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        columns = _map_safetensors(directory / "data.safetensors")
        tokens, offsets, weights, example = (columns[name] for name in COLUMNS)
        digest = str(manifest["sha256"]["data.safetensors"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadDataset(f"{directory.name} is not a prepared dataset: {error!r}") from error
    if manifest.get("version") != 1:
        raise BadDataset(f"prepared dataset version {manifest.get('version')!r} is not known")
    _check(tokens, offsets, weights, example, vocabulary)
    first_row = np.searchsorted(example, np.arange(int(example[-1]) + 2))
    if np.any(np.diff(first_row) < 1):
        raise BadDataset("an example has no row")
    return Dataset(tokens, offsets, weights, first_row, digest)


def _check(tokens: np.ndarray, offsets: np.ndarray, weights: np.ndarray, example: np.ndarray, vocabulary: int) -> None:
    if len(example) == 0 or len(offsets) != len(example) + 1 or len(weights) != len(tokens):
        raise BadDataset("the columns of the dataset differ in length, or it has no row")
    if offsets[0] != 0 or offsets[-1] != len(tokens) or np.any(np.diff(offsets) < 1):
        raise BadDataset("the offsets of the dataset do not cut its tokens into rows")
    if example[0] != 0 or np.any(np.diff(example) < 0):
        raise BadDataset("the examples of the dataset are out of order")
    if tokens.max() >= vocabulary:
        raise BadDataset(f"token {tokens.max()} is outside the base model's vocabulary of {vocabulary}")
    if not np.all(np.isfinite(weights)) or weights.min() < 0 or np.any(weights[offsets[:-1]] > 0):
        raise BadDataset("a target weight is negative, not finite, or on a row's first token")


def _map_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The known columns as read-only views of the file (safetensors: 8-byte length, JSON header, data)."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(file.read(size))
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + size)
    columns = {}
    for name, dtype in COLUMNS.items():
        start, stop = header[name]["data_offsets"]
        if DTYPES.get(header[name]["dtype"]) is not dtype or stop > len(data) or len(header[name]["shape"]) != 1:
            raise ValueError(f"column {name} is not a vector of {np.dtype(dtype)}, or is cut short")
        columns[name] = data[start:stop].view(dtype)
    return columns


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The order of the examples in an epoch: a function of seed and epoch alone, so there is nothing to save."""
    return np.random.Generator(np.random.Philox([seed, epoch])).permutation(examples)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    return math.ceil(examples / batch_size)


def cut(
    dataset: Dataset, examples: np.ndarray, *, limit: int, regime_from: float, each_length: bool, training: bool
) -> Batch:
    """Cut the examples' rows, in order, into chunks of at most `limit` tokens (a longer row is a chunk of its own).

    Rows longer than `regime_from` tokens use another rope table, and with `each_length` one per length.
    """
    groups: dict[int, list[int]] = {}
    rows = [row for example in examples for row in dataset.rows(int(example))]
    for row in rows:
        length = dataset.row_tokens(row)
        regime = 0 if length <= regime_from else length if each_length else 1
        groups.setdefault(regime, []).append(row)
    weights = [dataset.weights[dataset.offsets[row] : dataset.offsets[row + 1]] for row in rows]
    weight = math.fsum(float(w.sum(dtype=np.float64)) for w in weights)
    filled = [(regime, part) for regime, group in groups.items() for part in _fill(dataset, group, limit)]
    return Batch(
        [
            Chunk(dataset, tuple(part), weight, sum(map(dataset.row_tokens, part)), regime, number, training)
            for number, (regime, part) in enumerate(filled)
        ],
        targets=sum(int(np.count_nonzero(w)) for w in weights),
        tokens=sum(len(w) for w in weights),
    )


def _fill(dataset: Dataset, rows: list[int], limit: int) -> Iterator[list[int]]:
    """In order, and about equally full: three chunks of 700 rather than two of 1,000 and one of 100."""
    lengths = [dataset.row_tokens(row) for row in rows]
    share = min(limit, math.ceil(sum(lengths) / math.ceil(sum(lengths) / limit)) + max(lengths))
    part: list[int] = []
    filled = 0
    for row, length in zip(rows, lengths, strict=True):
        if part and filled + length > share:
            yield part
            part, filled = [], 0
        part.append(row)
        filled += length
    yield part


def pack(parts: Sequence[Part], device: torch.device, align: int = 1) -> Stream:
    """Lay the rows of all parts end to end as one stream; each target's coefficient is its weight / its step's.

    Each row is filled up to a multiple of `align` tokens: causal attention never looks ahead, so its own do not see it.
    The last is filled until the stream is a multiple of twice as many: half the lengths of streams for 1 % of filling.
    """
    tokens, weights, lengths, coefficients, runs, start, stop = [], [], [], [], [], 0, 0
    to_come = sum(len(part.chunk.rows) for part in parts)
    for part in parts:
        dataset = part.chunk.dataset
        for row in part.chunk.rows:
            span = slice(int(dataset.offsets[row]), int(dataset.offsets[row + 1]))
            to_come -= 1
            multiple = align if to_come or align == 1 else 2 * align
            filler = (0, (span.start - span.stop - stop) % multiple)
            tokens.append(np.pad(dataset.tokens[span], filler))
            weights.append(np.pad(dataset.weights[span], filler))
            coefficients.append(weights[-1] / part.chunk.weight)
            lengths.append(len(tokens[-1]))
            stop += lengths[-1]
        rows = part.chunk.rows
        draws = tuple((n, part.draw + row) for n, row in zip(lengths[-len(rows) :], rows, strict=True))
        runs.append(Run(part.slot, start, stop, draws))
        start = stop
    edges = np.concatenate([[0], np.cumsum(lengths)])
    stream, targets = np.concatenate(tokens).astype(np.int64), np.flatnonzero(np.concatenate(weights))
    bounds = tuple((int(a), int(b)) for a, b in itertools.pairwise(edges))
    return Stream(
        tokens=_to(stream, device)[None],
        position_ids=_to(np.concatenate([np.arange(n) for n in lengths]), device)[None],
        segments=Segments(bounds, _to(edges.astype(np.int32), device), max(lengths)),
        runs=tuple(runs),
        predicting=_to(targets - 1, device),
        targets=_to(stream[targets], device),
        coefficients=_to(np.concatenate(coefficients)[targets].astype(np.float32), device),
        edges=tuple(np.searchsorted(targets, [0, *(run.stop for run in runs)]).tolist()),
    )


def _to(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
