"""The operator's catalogue of base models: which may be trained, where their weights lie, what fits them.

A base model comes from a folder beside the catalogue (`path:`) or from a Hub repository (`hub:`), which
`tunesmith catalog pull` fetches and pins in a lock file. Nothing is ever fetched inside a job.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.models.hashes import Hashes, sha256_of

CATALOG_ID = r"^[a-z0-9][a-z0-9._-]*$"
LOCAL_REVISION = "local"
SMALL_FILE = 64 * 1024 * 1024  # bytes; what is larger is weights, which only those who load them have to read


class CatalogError(Exception):
    """The catalogue or its lock file cannot be used; the message says where and why."""


class LockedFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int  # bytes
    sha256: str


class LockedModel(BaseModel):
    """What `catalog pull` saw: the exact revision, and every file with its hash."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str  # the repository, or the folder
    revision: str
    files: dict[str, LockedFile]


class _Lora(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: Annotated[int, Field(ge=1, le=256)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class _Family(BaseModel):
    """The linear layers of a model family, by the names its modules have in transformers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    linears: tuple[str, ...]
    attention: tuple[str, ...]


class _Written(BaseModel):
    """One entry as it stands in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=CATALOG_ID)]
    path: str | None = None
    hub: str | None = None
    revision: str | None = None  # a commit to pin; None: the newest at the time of the pull
    family: str
    context_length: Annotated[int, Field(ge=16)]  # tokens
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    lora: _Lora = _Lora()
    licence: str
    gated: bool = False  # the Hub asks for an accepted licence and a token
    own_class: bool = False  # the config names code of the repository's; transformers' own class is used instead
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    aliases: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> "_Written":
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either path or hub")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    families: dict[str, _Family]
    models: list[_Written]


@dataclass(frozen=True)
class CatalogEntry:
    """A base model that jobs may name."""

    id: str
    family: str
    context_length: int  # tokens
    learning_rate: float  # what learning_rate_multiplier 1 means
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    linears: tuple[str, ...]  # what `all-linear` adapts
    attention: tuple[str, ...]  # what `attention` adapts
    licence: str
    gated: bool
    own_class: bool
    dtype: str
    aliases: tuple[str, ...]
    hub: str | None
    path: Path | None
    revision: str  # the pinned commit; "local" for a folder, "unpinned" before the first pull
    quantizations: tuple[str, ...] = ("none",)
    locked: Mapping[str, LockedFile] = field(default_factory=dict)  # what `catalog pull` saw of this revision

    @property
    def base_key(self) -> str:
        """What an engine must hold to serve this model."""
        return f"{self.id}@{self.revision}:none:{self.dtype}"

    @property
    def published_name(self) -> str:
        """The name others know the base by: the Hub repository, or the catalogue id. Stands in adapter_config.json."""
        return self.hub or self.id

    def directory(self, models_dir: Path) -> Path:
        """Where the weights lie on this machine, whether they are there or not."""
        return self.path if self.path is not None else models_dir / self.id / self.revision

    def available(self, models_dir: Path) -> bool:
        """Whether the weights are on this machine."""
        return (self.directory(models_dir) / "config.json").is_file()

    def verify(self, models_dir: Path, hashes: Hashes | None = None) -> None:
        """Raise CatalogError unless the files are those that were pulled: all by size, and by hash.

        hashes: those that are known already; without it the hashes of weights are not looked at.
        """
        folder = self.directory(models_dir)
        for name, locked in self.locked.items():
            if not _is_as_locked(folder / name, locked, hashes):
                raise CatalogError(f"{self.id}: {name} is not the file that was pulled")


def _is_as_locked(path: Path, locked: LockedFile, hashes: Hashes | None) -> bool:
    try:
        if path.stat().st_size != locked.size:
            return False
        if hashes is not None:
            return hashes.of(path) == locked.sha256
        return locked.size > SMALL_FILE or sha256_of(path) == locked.sha256
    except OSError:
        return False  # it is not there, or the disk cannot read it


class Catalog:
    """The entries of one catalogue file, by id and by alias."""

    def __init__(self, entries: list[CatalogEntry]) -> None:
        self.entries = entries
        self._by_name: dict[str, CatalogEntry] = {}
        for entry in entries:
            for name in (entry.id, *entry.aliases):
                if name in self._by_name:
                    raise CatalogError(f"two entries answer to {name!r}")
                self._by_name[name] = entry

    def find(self, name: str) -> CatalogEntry | None:
        """The entry with this id or alias, if there is one."""
        return self._by_name.get(name)


def load(path: Path, lock: Path | None = None) -> Catalog:
    """Read a catalogue and what its lock file pins. Raises CatalogError, naming the field that is wrong."""
    try:
        written = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CatalogError(f"{path}: {where}: {first['msg']}") from None
    except (OSError, yaml.YAMLError) as error:
        raise CatalogError(f"{path}: {error}") from None
    pinned = read_lock(lock) if lock is not None else {}
    return Catalog([_entry(entry, written.families, path.parent, pinned.get(entry.id)) for entry in written.models])


def lock_path(models_dir: Path) -> Path:
    """Where `catalog pull` writes what it pinned: beside the weights."""
    return models_dir / "catalog.lock.json"


def read_lock(path: Path) -> dict[str, LockedModel]:
    """The pinned models by id; none before the first pull. Raises CatalogError."""
    if not path.exists():
        return {}
    try:
        return {name: LockedModel.model_validate(value) for name, value in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError) as error:
        raise CatalogError(f"{path}: {error}") from None


def _entry(written: _Written, families: dict[str, _Family], folder: Path, pinned: LockedModel | None) -> CatalogEntry:
    family = families.get(written.family)
    if family is None:
        raise CatalogError(f"{written.id}: unknown family {written.family!r}")
    rest: dict[str, Any] = {
        name: getattr(written, name)
        for name in (
            "id",
            "family",
            "context_length",
            "learning_rate",
            "licence",
            "gated",
            "own_class",
            "dtype",
            "aliases",
            "hub",
        )
    }
    return CatalogEntry(
        **rest,
        lora_rank=written.lora.rank,
        lora_alpha=written.lora.alpha,
        lora_dropout=written.lora.dropout,
        linears=family.linears,
        attention=family.attention,
        path=(folder / written.path).resolve() if written.path is not None else None,
        revision=_revision(written, pinned),
        locked=pinned.files if pinned is not None and pinned.source == written.hub else {},
    )


def _revision(written: _Written, pinned: LockedModel | None) -> str:
    if written.path is not None:
        return LOCAL_REVISION
    if pinned is not None and pinned.source == written.hub:
        return pinned.revision
    return written.revision or "unpinned"
