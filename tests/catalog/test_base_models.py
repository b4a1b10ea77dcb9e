"""Every entry of the catalogue that is shipped."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, Phi3Config, Qwen3Config

from app.config import PACKAGED_CATALOG
from app.models import catalog
from app.models.catalog import CATALOG_ID, CatalogEntry

ENTRIES = catalog.load(PACKAGED_CATALOG).entries
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 32,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen": Qwen3Config,
    "gemma": Gemma2Config,
    "phi": Phi3Config,
}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_an_entry_is_sound(entry: CatalogEntry) -> None:
    assert re.match(CATALOG_ID, entry.id)
    assert (entry.hub is None) != (entry.path is None)
    assert entry.hub is None or re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub)
    assert set(entry.attention) < set(entry.linears)
    assert 1e-5 <= entry.learning_rate <= 1e-2
    assert 1024 <= entry.context_length <= 2**20
    assert entry.licence


def test_no_revision_is_claimed_before_a_pull() -> None:
    assert {entry.revision for entry in ENTRIES if entry.hub} == {"unpinned"}


def test_every_repository_is_listed_once() -> None:
    repositories = [entry.hub for entry in ENTRIES if entry.hub]
    assert len(repositories) == len(set(repositories))


def test_every_family_is_tested_here() -> None:
    assert {entry.family for entry in ENTRIES} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_linears_are_those_of_the_architecture(family: str) -> None:
    entry = next(entry for entry in ENTRIES if entry.family == family)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(FAMILIES[family](**SMALL))
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert names - {"lm_head"} == set(entry.linears)


def test_the_bundled_model_is_here(tmp_path) -> None:
    entry = catalog.load(PACKAGED_CATALOG).find("tiny-chat")
    assert entry is not None
    assert entry.available(tmp_path)
    assert entry.base_key == "tiny-chat@local:none:auto"
