import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from app.models import catalog
from app.models.catalog import CatalogEntry, CatalogError
from app.models.hashes import Hashes
from app.models.pull import HuggingFaceHub, RemoteFile, pull

COMMIT = "c0ffee"
CATALOG = """
families:
  llama: {linears: [q_proj], attention: [q_proj]}
models:
  - {id: small, hub: org/small, family: llama, context_length: 2048, learning_rate: 1.0e-4, licence: mit}
  - {id: local, path: weights, family: llama, context_length: 2048, learning_rate: 1.0e-4, licence: mit}
"""


class FakeHub:
    """A repository in memory; states the hash of weights, as the Hub does for large files."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.sent = dict(files)  # what a download really brings
        self.fetched: list[str] = []
        self.broken: str | None = None  # the file at which the line breaks

    def resolve(self, repository: str, revision: str | None) -> tuple[str, list[RemoteFile]]:
        assert repository == "org/small"
        assert revision in (None, COMMIT)
        return COMMIT, [RemoteFile(name, len(data), self._stated(name, data)) for name, data in self.files.items()]

    def fetch(self, repository: str, revision: str, name: str, folder: Path) -> None:
        assert (repository, revision) == ("org/small", COMMIT)
        if name == self.broken:
            raise ConnectionError("the line broke")
        self.fetched.append(name)
        (folder / name).write_bytes(self.sent[name])

    def _stated(self, name: str, data: bytes) -> str | None:
        return hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else None


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub(
        {
            "config.json": b'{"model_type": "llama"}',
            "tokenizer.json": b"{}",
            "model.safetensors": b"weights",
            "pytorch_model.bin": b"pickle",
            "modeling.py": b"import os",
            "original/params.json": b"{}",
            "consolidated.safetensors": b"the weights once more",
        }
    )


def entry(folder: Path, name: str = "small") -> CatalogEntry:
    (folder / "base_models.yaml").write_text(CATALOG, encoding="utf-8")
    found = catalog.load(folder / "base_models.yaml", folder / "lock.json").find(name)
    assert found is not None
    return found


def test_a_pull_fetches_what_a_model_needs_and_pins_it(tmp_path: Path, hub: FakeHub) -> None:
    pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    assert sorted(hub.fetched) == ["config.json", "model.safetensors", "tokenizer.json"]
    pinned = entry(tmp_path)
    assert pinned.revision == COMMIT
    assert pinned.available(tmp_path / "models")
    locked = json.loads((tmp_path / "lock.json").read_text())["small"]
    assert locked["files"]["model.safetensors"] == {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}


def test_a_second_pull_fetches_nothing(tmp_path: Path, hub: FakeHub) -> None:
    first = pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    hub.fetched.clear()
    assert pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub) == first
    assert hub.fetched == []


def test_an_interrupted_pull_goes_on_where_it_stopped(tmp_path: Path, hub: FakeHub) -> None:
    hub.broken = "model.safetensors"
    with pytest.raises(ConnectionError):
        pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    assert not (tmp_path / "lock.json").exists()
    assert not (tmp_path / "models" / "small" / COMMIT).exists()
    hub.broken = None
    hub.fetched.clear()
    pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    assert hub.fetched == ["model.safetensors"]
    assert entry(tmp_path).available(tmp_path / "models")


def test_weights_without_the_stated_hash_are_refused_and_fetched_anew(tmp_path: Path, hub: FakeHub) -> None:
    hub.sent["model.safetensors"] = b"weightZ"
    with pytest.raises(CatalogError, match=r"model\.safetensors does not have the hash"):
        pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    assert not (tmp_path / "lock.json").exists()
    hub.sent["model.safetensors"] = b"weights"
    pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)


def test_a_file_tampered_with_after_the_pull_is_found(tmp_path: Path, hub: FakeHub) -> None:
    pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    (tmp_path / "models" / "small" / COMMIT / "tokenizer.json").write_bytes(b"[]")
    with pytest.raises(CatalogError, match=r"tokenizer\.json differs from the lock file"):
        pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)


def test_remote_code_is_refused(tmp_path: Path, hub: FakeHub) -> None:
    hub.files["config.json"] = hub.sent["config.json"] = b'{"auto_map": {"AutoModel": "modeling.Model"}}'
    with pytest.raises(CatalogError, match="auto_map"):
        pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    assert not (tmp_path / "lock.json").exists()


def test_a_config_with_remote_code_is_taken_where_the_catalogue_does_without(tmp_path: Path, hub: FakeHub) -> None:
    hub.files["config.json"] = hub.sent["config.json"] = b'{"auto_map": {"AutoModel": "modeling.Model"}}'
    entry(tmp_path)
    path = tmp_path / "base_models.yaml"
    path.write_text(CATALOG.replace("id: small,", "id: small, own_class: true,"), encoding="utf-8")
    small = catalog.load(path).find("small")
    assert small is not None
    assert "modeling.py" not in pull(small, tmp_path / "models", tmp_path / "lock.json", hub=hub).files
    assert "modeling.py" not in hub.fetched


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b'{"text_config": {"auto_map": {"AutoModel": "m.M"}}}', "auto_map"),
        ("tokenizer_config.json", b'{"x": [{"auto_map": {"AutoTokenizer": ["m.M", null]}}]}', "auto_map"),
        ("config.json", b'{"_attn_implementation": "someone/kernel"}', "kernel from elsewhere"),
        ("config.json", b'{"vision_config": {"attn_implementation": "someone/kernel@v1"}}', "kernel from elsewhere"),
        ("tokenizer_config.json", b'{"chat_template": "' + b"x" * 70_000 + b'"}', "chat template"),
        ("chat_template.jinja", b"x" * 70_000, "larger than 65536 bytes"),
        ("config.json", b"{", "not JSON"),
        ("generation_config.json", b'{"a":' * 100_000, "not JSON"),
    ],
)
def test_what_a_model_may_not_ask_for(name: str, content: bytes, message: str, tmp_path: Path, hub: FakeHub) -> None:
    hub.files[name] = hub.sent[name] = content
    with pytest.raises(CatalogError, match=message):
        pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    assert not entry(tmp_path).available(tmp_path / "models")


def test_a_huge_configuration_is_not_even_read(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.models.vetting.MAX_JSON_BYTES", 1000)
    hub.files["tokenizer.json"] = hub.sent["tokenizer.json"] = b"{" + b" " * 1000 + b"}"
    with pytest.raises(CatalogError, match=r"tokenizer\.json is larger"):
        pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)


def test_names_that_lead_out_of_the_folder_are_left_alone(tmp_path: Path, hub: FakeHub) -> None:
    hub.files |= {"../evil.json": b"{}", "/etc/evil.json": b"{}", "a/../../../evil.txt": b""}
    pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    assert not any("evil" in name for name in hub.fetched)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_base_is_used_only_as_it_was_pulled(name: str, tmp_path: Path, hub: FakeHub) -> None:
    pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    pulled, folder = entry(tmp_path), tmp_path / "models" / "small" / COMMIT
    pulled.verify(tmp_path / "models")
    original = (folder / name).read_bytes()
    (folder / name).write_bytes(original[::-1])
    with pytest.raises(CatalogError, match=f"{name} is not the file"):
        pulled.verify(tmp_path / "models")
    (folder / name).unlink()
    with pytest.raises(CatalogError, match=f"{name} is not the file"):
        pulled.verify(tmp_path / "models")


def test_weights_are_compared_by_size_where_nobody_loads_them(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To prepare files takes no weights, and a hash of a hundred gigabytes takes a minute."""
    pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    monkeypatch.setattr(catalog, "SMALL_FILE", 5)
    weights = tmp_path / "models" / "small" / COMMIT / "model.safetensors"
    weights.write_bytes(b"weightZ")
    entry(tmp_path).verify(tmp_path / "models")
    with pytest.raises(CatalogError, match="is not the file"):
        entry(tmp_path).verify(tmp_path / "models", Hashes(tmp_path / "hashes.json"))
    with pytest.raises(CatalogError, match="does not have the hash"):
        pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)


def test_a_file_is_read_again_only_when_somebody_touched_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, kept = tmp_path / "weights", tmp_path / "scratch" / "hashes.json"
    weights.write_bytes(b"one")
    times = weights.stat()
    first = Hashes(kept).of(weights)
    with monkeypatch.context() as patched:
        patched.setattr("app.models.hashes.sha256_of", lambda _: pytest.fail("it was read again"))
        assert Hashes(kept).of(weights) == first == hashlib.sha256(b"one").hexdigest()
    weights.write_bytes(b"two")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    assert Hashes(kept).of(weights) == hashlib.sha256(b"two").hexdigest()


def test_hashes_are_made_anew_where_none_can_be_remembered(tmp_path: Path) -> None:
    weights, kept = tmp_path / "weights", tmp_path / "hashes.json"
    weights.write_bytes(b"one")
    for content in (b"{", b"[]", b'{"a": 1}'):
        kept.write_bytes(content)
        assert Hashes(kept).of(weights) == hashlib.sha256(b"one").hexdigest()
    nowhere = tmp_path / "weights" / "hashes.json"  # below a file
    assert Hashes(nowhere).of(weights) == hashlib.sha256(b"one").hexdigest()


def test_a_local_folder_is_hashed_and_locked(tmp_path: Path, hub: FakeHub) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_bytes(b"{}")
    pull(entry(tmp_path), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    locked = pull(entry(tmp_path, "local"), tmp_path / "models", tmp_path / "lock.json", hub=hub)
    assert locked.files["config.json"].sha256 == hashlib.sha256(b"{}").hexdigest()
    assert sorted(json.loads((tmp_path / "lock.json").read_text())) == ["local", "small"]


def test_the_real_hub_gives_commit_sizes_and_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.hf_api import ModelInfo

    small = {"rfilename": "config.json", "size": 2}
    large = {"rfilename": "model.safetensors", "size": 9, "lfs": {"size": 9, "sha256": "ab", "pointerSize": 1}}
    info = ModelInfo(id="org/small", sha=COMMIT, siblings=[small, large])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, **options: info)
    assert HuggingFaceHub().resolve("org/small", None) == (
        COMMIT,
        [RemoteFile("config.json", 2, None), RemoteFile("model.safetensors", 9, "ab")],
    )


def test_the_hub_client_is_loaded_late() -> None:
    import subprocess

    code = "import sys, app.models.pull; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
