"""The prepared dataset on disk, written while it grows: `data.safetensors` and `manifest.json` (docs/architecture.md).

Columns grow in files of their own and are joined under one safetensors header at the end, so that a dataset larger
than memory can be written.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from worker.prepare.rows import Row

DATA, MANIFEST = "data.safetensors", "manifest.json"
COLUMNS = {"tokens": ("U32", 4), "offsets": ("I64", 8), "weights": ("F32", 4), "example": ("I32", 4)}
COPY_BYTES = 1024 * 1024


class DatasetWriter:
    """Writes rows into `folder`; nothing counts before `finish` has written the manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {name: self._part(name).open("wb") for name in COLUMNS}
        self._files["offsets"].write(np.zeros(1, dtype="<i8").tobytes())
        self.examples = self.rows = self.tokens = self.target_tokens = self.max_row_tokens = 0

    def add(self, examples: Sequence[Sequence[Row]]) -> None:
        """Append the rows of some examples."""
        rows = [row for example in examples for row in example]
        lengths = np.array([len(row) for row in rows], dtype="<i8")
        counts = [len(example) for example in examples]
        numbers = np.repeat(np.arange(self.examples, self.examples + len(examples), dtype="<i4"), counts)
        self._files["tokens"].write(b"".join([row.tokens for row in rows]))
        self._files["weights"].write(b"".join([row.weights.tobytes() for row in rows]))
        self._files["offsets"].write((self.tokens + np.cumsum(lengths)).astype("<i8").tobytes())
        self._files["example"].write(numbers.tobytes())
        self.examples += len(examples)
        self.rows += len(rows)
        self.tokens += int(lengths.sum())
        self.target_tokens += sum(row.trained for row in rows)
        self.max_row_tokens = max(self.max_row_tokens, int(lengths.max(initial=0)))

    def finish(self, **counts: int) -> dict[str, Any]:
        """Join the columns, write the manifest last, and return it."""
        self.close()
        digest = self._join()
        manifest = {
            "version": 1,
            "kind": "supervised",
            "rows": self.rows,
            "examples": self.examples,
            "tokens": self.tokens,
            "target_tokens": self.target_tokens,
            "max_row_tokens": self.max_row_tokens,
            **counts,
            "sha256": {DATA: digest},
        }
        (self.folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        return manifest

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}.part"

    def _join(self) -> str:
        """Write `data.safetensors` from the columns; its sha256."""
        header: dict[str, Any] = {}
        offset = 0
        for name, (dtype, width) in COLUMNS.items():
            size = self._part(name).stat().st_size
            header[name] = {"dtype": dtype, "shape": [size // width], "data_offsets": [offset, offset + size]}
            offset += size
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)  # the format aligns its data to eight bytes
        with (self.folder / DATA).open("w+b") as target:
            target.write(len(encoded).to_bytes(8, "little") + encoded)
            for name in COLUMNS:
                with self._part(name).open("rb") as source:
                    shutil.copyfileobj(source, target, COPY_BYTES)
                self._part(name).unlink()
            target.flush()
            os.fsync(target.fileno())
            target.seek(0)
            return hashlib.file_digest(target, "sha256").hexdigest()
