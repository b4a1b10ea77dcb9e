"""`tunesmith catalog`: what is offered, what is here, and pinning a model that lies in a folder."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.errors import CommandError
from app.cli.main import app

CATALOG = """
families:
  llama: {linears: [q_proj, v_proj], attention: [q_proj, v_proj]}
models:
  - {id: here, path: weights, family: llama, context_length: 64, learning_rate: 0.001, licence: MIT, aliases: [gpt-x]}
  - {id: elsewhere, hub: owner/name, family: llama, context_length: 64, learning_rate: 0.001, licence: MIT}
"""


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    (tmp_path / "base_models.yaml").write_text(CATALOG)
    monkeypatch.setenv("TUNESMITH_CATALOG_PATH", str(tmp_path / "base_models.yaml"))
    return tmp_path / "data"


def test_list_says_which_models_are_here(data_dir: Path) -> None:
    result = CliRunner().invoke(app, ["catalog", "list", "--json", "--data-dir", str(data_dir)])
    assert json.loads(result.stdout) == [{"id": "here", "here": True}, {"id": "elsewhere", "here": False}]


def test_pull_pins_a_model_in_a_folder(data_dir: Path) -> None:
    result = CliRunner().invoke(app, ["catalog", "pull", "gpt-x", "--data-dir", str(data_dir)])
    assert result.stdout == "here local: 1 files\n"
    pinned = json.loads((data_dir / "models" / "catalog.lock.json").read_text())
    assert pinned["here"]["files"]["config.json"]["size"] == 2


def test_pull_of_a_model_that_is_not_offered(data_dir: Path) -> None:
    result = CliRunner().invoke(app, ["catalog", "pull", "unknown", "--data-dir", str(data_dir)])
    assert isinstance(result.exception, CommandError)
    assert result.exception.status == 2
