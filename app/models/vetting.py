"""What the files of a base model may ask for. They are an operator's choice, and yet somebody else's work."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 128 * 1024 * 1024  # the largest tokenizers have some 35 MB
MAX_TEMPLATE_BYTES = 64 * 1024
ATTENTION = frozenset({"attn_implementation", "_attn_implementation", "attn_implementation_internal"})


class Unacceptable(Exception):
    """A file asks for what is never done; the message says which and what."""


def check(folder: Path, *, own_class: bool) -> None:
    """Look at every JSON file and the chat templates of a folder. Raises Unacceptable.

    own_class: the catalogue says that transformers has a class for a model that brings code of its own, which is not
    run then.
    """
    if not (folder / "config.json").is_file():
        raise Unacceptable("there is no config.json")
    for path in sorted(folder.glob("*.json")):
        _check_json(path, own_class=own_class)
    template = folder / "chat_template.jinja"
    if template.is_file() and template.stat().st_size > MAX_TEMPLATE_BYTES:
        raise Unacceptable(f"{template.name} is larger than {MAX_TEMPLATE_BYTES} bytes")


def _check_json(path: Path, *, own_class: bool) -> None:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise Unacceptable(f"{path.name} is larger than {MAX_JSON_BYTES} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise Unacceptable(f"{path.name} is not JSON") from None
    if not isinstance(content, dict):
        return
    if len(json.dumps(content.get("chat_template", ""))) > MAX_TEMPLATE_BYTES:
        raise Unacceptable(f"the chat template in {path.name} is larger than {MAX_TEMPLATE_BYTES} bytes")
    for key, value in _entries(content) if "config" in path.name else ():
        if key == "auto_map" and not own_class:
            raise Unacceptable(f"{path.name} asks for remote code (auto_map), which is never run")
        if key in ATTENTION and isinstance(value, str) and "/" in value:
            raise Unacceptable(f"{path.name} asks for a kernel from elsewhere ({key}), which is never fetched")


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every object, however deep, with its value."""
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value.items()
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
