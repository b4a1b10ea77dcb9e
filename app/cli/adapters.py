"""Adapters from the server: which path holds one, and how its tar becomes a folder that can be trusted."""

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from app.cli.errors import FAILED, USAGE, CommandError

if TYPE_CHECKING:
    from openai import OpenAI

MANIFEST = "manifest.json"
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class AdapterSource:
    """A path below the base URL, and what to call the folder."""

    path: str
    folder_name: str


def locate(client: "OpenAI", name: str) -> AdapterSource:
    """Where the adapter of a job or of a model lies on the server. Raises CommandError if no job made the model."""
    if name.startswith("ftjob-"):
        return AdapterSource(f"/fine_tuning/jobs/{name}/adapter", name)
    for job in client.fine_tuning.jobs.list(limit=100):
        if job.fine_tuned_model == name:
            return AdapterSource(f"/fine_tuning/jobs/{job.id}/adapter", job.id)
    if ":ckpt-step-" in name and (found := _checkpoint(client, name)):
        return found
    raise CommandError(f"no job of this project made a model named {name}", USAGE)


def _checkpoint(client: "OpenAI", name: str) -> AdapterSource | None:
    for job in client.fine_tuning.jobs.list(limit=100):
        for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id):
            if checkpoint.fine_tuned_model_checkpoint == name:
                path = f"/fine_tuning/jobs/{job.id}/checkpoints/{checkpoint.id}/adapter"
                return AdapterSource(path, f"{job.id}-step-{checkpoint.step_number}")
    return None


def download(client: "OpenAI", source: AdapterSource, folder: Path) -> None:
    """Fetch an adapter into `folder`, which appears whole or not at all.

    Raises CommandError if the folder is there already or what came is not what the manifest names.
    """
    from openai import HttpxBinaryResponseContent

    if folder.exists():
        raise CommandError(f"{folder} is there already", USAGE)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with tempfile.TemporaryFile(dir=partial.parent) as archive:
            reply = client.get(source.path, cast_to=HttpxBinaryResponseContent)
            archive.writelines(reply.iter_bytes(CHUNK_BYTES))
            archive.seek(0)
            unpack(archive, partial)
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def unpack(archive: IO[bytes], folder: Path) -> None:
    """Unpack an adapter's tar into `folder`: plain files side by side, nothing else, each as the manifest says."""
    try:
        with tarfile.open(fileobj=archive, mode="r:") as entries:
            for entry, content in _plain_files(entries):
                with (folder / entry.name).open("xb") as target:
                    shutil.copyfileobj(content, target, CHUNK_BYTES)
    except (tarfile.TarError, FileExistsError) as error:
        raise CommandError(f"the server's archive cannot be read: {error}", FAILED) from error
    check_manifest(folder)


def _plain_files(entries: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The archive's files. Raises CommandError for a link, a folder, a device or a path: an adapter has none."""
    for entry in entries:
        content = entries.extractfile(entry) if entry.isreg() else None
        if content is None or entry.name != Path(entry.name).name or entry.name in {"", ".", ".."}:
            raise CommandError(f"the server's archive holds {entry.name!r}, which is no plain file", FAILED)
        yield entry, content


def check_manifest(folder: Path) -> None:
    """Raise CommandError unless every file has the size and sha256 that the manifest names."""
    try:
        named = json.loads((folder / MANIFEST).read_bytes())["files"]
    except (OSError, ValueError, KeyError) as error:
        raise CommandError("the server's archive has no readable manifest", FAILED) from error
    for name, expected in named.items():
        path = folder / Path(name).name
        if not path.is_file() or _sha256(path) != expected["sha256"]:
            raise CommandError(f"{name} is not what the manifest names; download it again", FAILED)


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
