"""The real engine, as the GPU worker starts it: it trains, and has neither network nor secrets."""

import contextlib
from pathlib import Path

import pytest
from worker_bench import Bench, lines

from app.jobs import states
from worker import supervisor
from worker.gpu import GpuNode

CANARIES = {
    "TUNESMITH_DATABASE_URL": "postgresql://canary",
    "TUNESMITH_S3_SECRET_ACCESS_KEY": "canary",
    "TUNESMITH_SECRET_KEYS": "canary",
    "AWS_SECRET_ACCESS_KEY": "canary",
    "HF_TOKEN": "canary",
    "NVIDIA_API_KEY": "canary",
    "WANDB_API_KEY": "canary",
    "HTTPS_PROXY": "http://user:canary@proxy",
    "LD_PRELOAD": "",
}


def descriptors(process: Path) -> list[str]:
    """What a running process has open; one that it closes while we look is not among them."""
    found = []
    for link in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    assert found
    return found


def test_the_engine_trains_without_network_and_secrets(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    bench.settings = bench.settings.model_copy(update={"engine_isolation": "required"})
    bench.start("cpu", "gpu")
    node = bench.nodes[-1]
    assert isinstance(node, GpuNode)
    engine = node.trainer._engine
    assert engine is not None
    process = Path(f"/proc/{engine._process.pid}")
    assert b"canary" not in (process / "environ").read_bytes()
    assert b"LD_PRELOAD" not in (process / "environ").read_bytes()
    assert b"canary" not in (process / "cmdline").read_bytes()
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    core = next(line for line in (process / "limits").read_text().splitlines() if line.startswith("Max core"))
    assert set(core.split()[4:6]) <= {"0", "1"}
    for namespace in ("net", "user", "ipc"):
        assert (process / "ns" / namespace).readlink() != Path(f"/proc/self/ns/{namespace}").readlink()
    assert not any(target.startswith("socket:") for target in descriptors(process))

    bench.wait(bench.create(lines(12)), states.SUCCEEDED)
    engine.stop()
    engine.stop()  # a node that is stopped twice does that; a descriptor closed twice may be another's by then


def test_what_is_passed_on_is_a_list() -> None:
    given = {
        **CANARIES,
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTORCH_ALLOC_CONF": "x",
        "NVIDIA_VISIBLE_DEVICES": "0",
    }
    assert supervisor._bare(given) == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTORCH_ALLOC_CONF": "x",
        "NVIDIA_VISIBLE_DEVICES": "0",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
