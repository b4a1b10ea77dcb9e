"""Unpacking what a server sent: plain files as the manifest says, or nothing at all."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from app.cli.adapters import unpack
from app.cli.errors import CommandError

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 9}


def manifest(files: dict[str, bytes]) -> bytes:
    named = {n: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for n, data in files.items()}
    return json.dumps({"version": 1, "files": named}).encode()


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as target:
        for info, data in members:
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def plain(files: dict[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(tarfile.TarInfo(name), data) for name, data in files.items()]


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def test_unpacks_what_the_manifest_names(tmp_path: Path) -> None:
    unpack(archive(*plain(FILES | {"manifest.json": manifest(FILES)})), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "manifest.json"} == FILES


@pytest.mark.parametrize(
    "member",
    [
        (tarfile.TarInfo("../outside"), b"x"),
        (tarfile.TarInfo("/absolute"), b"x"),
        (tarfile.TarInfo("folder/file"), b"x"),
        (tarfile.TarInfo(".."), b"x"),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard", tarfile.LNKTYPE, "adapter_config.json"),
        special("folder", tarfile.DIRTYPE),
        special("device", tarfile.CHRTYPE),
    ],
    ids=lambda member: member[0].name,
)
def test_refuses_anything_but_plain_files(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    with pytest.raises(CommandError, match="no plain file"):
        unpack(archive(*plain(FILES), member), folder)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (FILES | {"adapter_config.json": b"[]", "manifest.json": manifest(FILES)}, "adapter_config.json is not"),
        ({"manifest.json": manifest(FILES)}, "is not what the manifest names"),
        (FILES, "no readable manifest"),
        (FILES | {"manifest.json": b"\xff"}, "no readable manifest"),
    ],
    ids=["changed", "missing", "no manifest", "broken manifest"],
)
def test_refuses_what_the_manifest_does_not_name(tmp_path: Path, files: dict[str, bytes], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        unpack(archive(*plain(files)), tmp_path)


def test_refuses_a_stream_that_ends_early(tmp_path: Path) -> None:
    whole = archive(*plain(FILES | {"manifest.json": manifest(FILES)})).getvalue()
    with pytest.raises(CommandError, match=r"cannot be read|manifest"):
        unpack(io.BytesIO(whole[:1500]), tmp_path)
