"""Every family of base models: the packed forward against transformers' own, and adapters against stock peft."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from tests.engine import tiny
from worker.engine import base_model, batches
from worker.engine.base_model import Base
from worker.engine.lora import NO_ADAPTER
from worker.engine.loss import logits

# Below, at and above the sliding windows, the rope limits and the attention's block of 128.
LENGTHS = [5, 24, 9, 33, 140, 40, 33, 1]


@dataclass(frozen=True)
class Loaded:
    directory: Path
    family: str
    base: Base


def load(directory: Path, family: str, dtype: str = "float32") -> Loaded:
    tiny.save_model(directory, family)
    options = {"key": family, "name": family, "dtype": dtype, "device": "cpu", "slots": 2}
    return Loaded(directory, family, base_model.load(directory, linears=tiny.linears(family), **options))


def packed_logits(base: Base, data: batches.Dataset, slot: int) -> dict[int, torch.Tensor]:
    """Row → its logits, by the passes that training would use."""
    rows = range(len(data.offsets) - 1)
    batch = batches.cut(
        data,
        torch.arange(data.examples).numpy(),
        limit=200,
        regime_from=base.regime_from,
        each_length=base.each_length,
        training=False,
    )
    assert sorted(row for chunk in batch.chunks for row in chunk.rows) == list(rows)
    found = {}
    for chunk in batch.chunks:
        stream = batches.pack([batches.Part(chunk, slot)], torch.device("cpu"))
        with torch.no_grad():
            scores = logits(base.head, base.hidden(stream, training=False))
        found |= {row: scores[a:b] for row, (a, b) in zip(chunk.rows, stream.segments.bounds, strict=True)}
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_packed_rows_have_the_logits_of_each_row_alone(family: str, attention: str, tmp_path: Path) -> None:
    if family == "gemma2" and attention == "sdpa":
        pytest.skip("transformers refuses sdpa for Gemma 2")
    loaded = load(tmp_path / "base", family)
    rows = tiny.random_rows(LENGTHS)
    data = batches.open_dataset(tiny.save_dataset(tmp_path / "data", rows), tiny.VOCABULARY)
    packed = packed_logits(loaded.base, data, NO_ADAPTER)
    for number, row in enumerate(rows):
        # A dynamic rope remembers earlier rows, so each row meets a fresh model.
        model = tiny.stock(loaded.directory, attention=attention)
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([row])).logits[0]
        assert alone.std() > 0.1
        torch.testing.assert_close(packed[number], alone, atol=2e-5, rtol=1e-5)


# peft 0.21 asks transformers for a name that it is about to drop.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if "-" not in name])
def test_a_trained_adapter_gives_the_engines_logits_in_stock_peft(family: str, dtype: str, tmp_path: Path) -> None:
    loaded = load(tmp_path / "base", family, dtype)
    weights = loaded.base.digest()
    path, slot = trained(loaded, tmp_path)
    assert loaded.base.digest() == weights
    rows = tiny.random_rows([24, 40, 7], seed=3)
    data = batches.open_dataset(tiny.save_dataset(tmp_path / "fresh", rows), tiny.VOCABULARY)
    packed = packed_logits(loaded.base, data, slot)
    kind = getattr(torch, dtype)
    model = PeftModel.from_pretrained(tiny.stock(loaded.directory, kind), path).eval()
    bare = tiny.stock(loaded.directory, kind)
    for number, row in enumerate(rows):
        tokens = torch.tensor([row])
        with torch.no_grad():
            tuned, untuned = model(input_ids=tokens).logits[0].float(), bare(input_ids=tokens).logits[0].float()
        ours, theirs = (torch.log_softmax(scores, -1) for scores in (packed[number], tuned))
        assert (theirs - torch.log_softmax(untuned, -1)).abs().mean() > 0.05, "the adapter changes nothing"
        if kind is torch.float32:
            torch.testing.assert_close(packed[number], tuned, atol=2e-5, rtol=1e-5)
        else:
            assert (ours - theirs).abs().mean() <= 1e-2


def trained(loaded: Loaded, folder: Path) -> tuple[Path, int]:
    """Train a few steps in this process; the adapter stays in its slot."""
    data = tiny.save_dataset(folder / "data", tiny.counting_rows(16))
    settings = {"lora_target_modules": tiny.linears(loaded.family), "learning_rate": 0.02}
    job = tiny.admitted(loaded.base, data, folder / "out", **settings)
    (finished,) = tiny.train(loaded.base, job).of("finished")
    loaded.base.bank.adapters[job.slot] = job.adapter
    return Path(shutil.move(finished["path"], folder / "adapter")), job.slot
