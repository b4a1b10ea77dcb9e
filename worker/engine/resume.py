"""Resume states: what a job needs to go on from a step boundary as if nothing had happened.

fp32 masters, both moments and the progress. The data order and dropout follow from seed and step. The
directory holds safetensors and JSON, is sealed with a sha256 of each file, and is refused if one does not fit.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from worker.engine import directories
from worker.engine.protocol import Spec

TENSORS, PROGRESS = "state.safetensors", "state.json"
VERSION = 3


class BadResume(Exception):
    """A resume state that is torn, of another version, or of another job."""


@dataclass(frozen=True)
class State:
    """`identity` tells a job's settings and data, so that a state cannot be put under another job.

    threads: how many ran the job's passes; on a CPU the bits depend on it.
    """

    tensors: dict[str, torch.Tensor]
    progress: dict[str, Any]
    identity: str
    threads: int


def identity(spec: Spec, dataset_sha256: str) -> str:
    """A digest of whatever decides the course of the training. How often to save does not."""
    settings = {name: value for name, value in dataclasses.asdict(spec).items() if name != "resume_interval_seconds"}
    return hashlib.sha256(json.dumps([settings, dataset_sha256], sort_keys=True).encode()).hexdigest()


def write(target: Path, state: State) -> None:
    """Put the state into the directory `target`, whole or not at all."""
    with directories.whole(target) as draft:
        save_file({name: tensor.detach().cpu().clone() for name, tensor in state.tensors.items()}, draft / TENSORS)
        body = {
            "version": VERSION,
            "identity": state.identity,
            "progress": state.progress,
            "threads": state.threads,
        }
        (draft / PROGRESS).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
        directories.seal(draft)


def read(directory: Path, like: State) -> State:
    """A state of the same job and shapes as `like`. Raises BadResume."""
    try:
        directories.check_seal(directory)
        body = json.loads((directory / PROGRESS).read_bytes())
        tensors = load_file(directory / TENSORS)
    except (directories.Torn, OSError, ValueError, SafetensorError) as error:
        raise BadResume(f"the resume state cannot be read: {error}") from error
    if body.get("version") != VERSION:
        raise BadResume(f"resume state version {body.get('version')!r} is not known")
    if body.get("identity") != like.identity:
        raise BadResume("the resume state is of a job with other settings or other data")
    if {name: tensor.shape for name, tensor in tensors.items()} != {n: t.shape for n, t in like.tensors.items()}:
        raise BadResume("the resume state is of another base model or device")
    return State(tensors, body["progress"], body["identity"], int(body["threads"]))
