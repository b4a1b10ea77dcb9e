"""`tunesmith catalog pull`: fetch a base model once, pin its revision, and remember the hash of every file."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.models import vetting
from app.models.catalog import LOCAL_REVISION, CatalogEntry, CatalogError, LockedFile, LockedModel, read_lock
from app.models.hashes import sha256_of

# What a base model consists of. Anything else in a repository (pickles, code, images) is left there.
WANTED_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")
UNWANTED_STARTS = ("original/", "onnx/", ".cache/", "consolidated")  # the last: the same weights in another layout


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository; `sha256` is what the Hub says of large files, None for small ones."""

    name: str
    size: int  # bytes
    sha256: str | None


class Hub(Protocol):
    """The part of the Hub that a pull needs; tests pass their own."""

    def resolve(self, repository: str, revision: str | None) -> tuple[str, list[RemoteFile]]:
        """The commit that `revision` (None: the newest) stands for, and its files."""
        ...

    def fetch(self, repository: str, revision: str, name: str, folder: Path) -> None:
        """Put one file of a commit into `folder`, whole or not at all."""
        ...


class HuggingFaceHub:
    """The real Hub, through huggingface_hub (its token comes from that library's own login)."""

    def resolve(self, repository: str, revision: str | None) -> tuple[str, list[RemoteFile]]:
        from huggingface_hub import HfApi

        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        files = [
            RemoteFile(found.rfilename, found.size or 0, found.lfs.sha256 if found.lfs else None)
            for found in info.siblings or []
        ]
        return str(info.sha), files

    def fetch(self, repository: str, revision: str, name: str, folder: Path) -> None:
        from huggingface_hub import hf_hub_download

        hf_hub_download(repository, name, revision=revision, local_dir=folder)


def pull(
    entry: CatalogEntry, models_dir: Path, lock: Path, *, hub: Hub, say: Callable[[str], None] = lambda _: None
) -> LockedModel:
    """Fetch and pin one base model. Safe to run again after an interruption. Raises CatalogError.

    A file whose hash differs from the Hub's, or from what an earlier pull of the same revision locked, is refused.
    """
    if entry.path is not None:
        locked = LockedModel(source=entry.id, revision=LOCAL_REVISION, files=_hash_folder(entry, entry.path))
    else:
        locked = _fetch(entry, models_dir, read_lock(lock).get(entry.id), hub, say)
    _write_lock(lock, entry.id, locked)
    return locked


def _fetch(
    entry: CatalogEntry, models_dir: Path, before: LockedModel | None, hub: Hub, say: Callable[[str], None]
) -> LockedModel:
    assert entry.hub is not None
    pinned = entry.revision if entry.revision != "unpinned" else None
    revision, remote = hub.resolve(entry.hub, pinned)
    folder = models_dir / entry.id / revision
    partial = folder.with_name(f"{revision}.partial")
    source = folder if folder.is_dir() else partial
    source.mkdir(parents=True, exist_ok=True)
    files: dict[str, LockedFile] = {}
    for file in filter(_wanted, remote):
        files[file.name] = _bring(entry.hub, revision, file, source, hub, say)
        known = before.files.get(file.name) if before is not None and before.revision == revision else None
        if known is not None and known != files[file.name]:
            raise CatalogError(f"{entry.id}: {file.name} differs from the lock file")
    _check(entry, source)
    if source is partial:
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        partial.rename(folder)
    return LockedModel(source=entry.hub, revision=revision, files=files)


def _bring(
    repository: str, revision: str, file: RemoteFile, folder: Path, hub: Hub, say: Callable[[str], None]
) -> LockedFile:
    path = folder / file.name
    if not path.is_file() or path.stat().st_size != file.size:
        say(f"{file.name} ({file.size / 1e6:,.1f} MB)")
        hub.fetch(repository, revision, file.name, folder)
    found = _hash(path)
    if file.sha256 is not None and found.sha256 != file.sha256:
        path.unlink()
        raise CatalogError(f"{repository}: {file.name} does not have the hash the Hub states")
    return found


def _wanted(file: RemoteFile) -> bool:
    inside = not file.name.startswith("/") and ".." not in file.name.split("/")
    return inside and file.name.endswith(WANTED_SUFFIXES) and not file.name.startswith(UNWANTED_STARTS)


def _check(entry: CatalogEntry, folder: Path) -> None:
    try:
        vetting.check(folder, own_class=entry.own_class)
    except vetting.Unacceptable as error:
        raise CatalogError(f"{entry.id}: {error}") from None


def _hash_folder(entry: CatalogEntry, folder: Path) -> dict[str, LockedFile]:
    _check(entry, folder)
    return {path.name: _hash(path) for path in sorted(folder.iterdir()) if path.name.endswith(WANTED_SUFFIXES)}


def _hash(path: Path) -> LockedFile:
    return LockedFile(size=path.stat().st_size, sha256=sha256_of(path))


def _write_lock(path: Path, name: str, locked: LockedModel) -> None:
    models = {**read_lock(path), name: locked}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    content = {key: models[key].model_dump() for key in sorted(models)}
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
