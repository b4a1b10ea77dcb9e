from pathlib import Path

import pytest

from app.models import catalog
from app.models.catalog import Catalog, CatalogError

FAMILY = """
families:
  llama: {linears: [q_proj, o_proj], attention: [q_proj]}
models:
"""
HOSTED = "  - {id: small, hub: org/small, family: llama, context_length: 2048, learning_rate: 1.0e-4, licence: mit%s}\n"


def load(folder: Path, *models: str, lock: Path | None = None) -> Catalog:
    path = folder / "base_models.yaml"
    path.write_text(FAMILY + "".join(models), encoding="utf-8")
    return catalog.load(path, lock)


def test_an_alias_finds_the_entry(tmp_path: Path) -> None:
    found = load(tmp_path, HOSTED % ", aliases: [gpt-4o-mini-2024-07-18]")
    entry = found.find("gpt-4o-mini-2024-07-18")
    assert entry is not None
    assert entry is found.find("small")
    assert found.find("gpt-4o") is None


def test_lora_defaults_and_overrides(tmp_path: Path) -> None:
    plain, changed = load(
        tmp_path, HOSTED % "", (HOSTED % ", lora: {rank: 4, alpha: 8}").replace("small", "other")
    ).entries
    assert (plain.lora_rank, plain.lora_alpha, plain.lora_dropout) == (16, 32.0, 0.0)
    assert (changed.lora_rank, changed.lora_alpha) == (4, 8.0)


def test_a_path_lies_beside_the_catalogue(tmp_path: Path) -> None:
    (entry,) = load(tmp_path, HOSTED.replace("hub: org/small", "path: weights") % "").entries
    models = tmp_path / "models"
    assert entry.directory(models) == tmp_path / "weights"
    assert not entry.available(models)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    assert entry.available(models)


def test_the_lock_pins_the_revision(tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    lock.write_text('{"small": {"source": "org/small", "revision": "abc", "files": {}}}')
    (entry,) = load(tmp_path, HOSTED % "", lock=lock).entries
    assert entry.base_key == "small@abc:none:auto"
    assert entry.directory(tmp_path / "models") == tmp_path / "models" / "small" / "abc"


def test_a_lock_of_another_repository_pins_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    lock.write_text('{"small": {"source": "org/elsewhere", "revision": "abc", "files": {}}}')
    (entry,) = load(tmp_path, HOSTED % "", lock=lock).entries
    assert entry.revision == "unpinned"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (HOSTED % ", colour: red", "colour"),
        (HOSTED % ", path: weights", "either path or hub"),
        (HOSTED.replace("id: small", "id: Small") % "", "models.0.id"),
        (HOSTED.replace("1.0e-4", "-1") % "", "learning_rate"),
        (HOSTED.replace("family: llama", "family: bert") % "", "unknown family 'bert'"),
        (HOSTED.replace(", licence: mit", "") % "", "licence"),
        ((HOSTED % "") * 2, "two entries answer to 'small'"),
        ((HOSTED % "") + (HOSTED % ", aliases: [small]").replace("id: small", "id: other"), "answer to 'small'"),
        ("  - [", "while parsing"),
    ],
)
def test_a_wrong_catalogue_is_refused_by_name(tmp_path: Path, model: str, said: str) -> None:
    with pytest.raises(CatalogError, match=said):
        load(tmp_path, model)


def test_a_missing_catalogue_and_a_broken_lock_are_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="nowhere"):
        catalog.load(tmp_path / "nowhere.yaml")
    (tmp_path / "lock.json").write_text("[1, 2")
    with pytest.raises(CatalogError, match=r"lock\.json"):
        load(tmp_path, HOSTED % "", lock=tmp_path / "lock.json")
