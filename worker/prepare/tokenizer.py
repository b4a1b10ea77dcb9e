"""A base model's tokenizer, loaded from its folder without torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

# Files that decide what tokens a text becomes and how a conversation is rendered.
SHAPING_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True)
class AddedToken:
    """A text that is one token wherever it stands. plain: it eats no white space around it."""

    id: int
    plain: bool


@dataclass(frozen=True, eq=False)
class LoadedTokenizer:
    """A tokenizer and what the rows need to know of it."""

    tokenizer: Any  # transformers' fast tokenizer: renders templates
    backend: Any  # the tokenizers library's object: encodes batches in threads
    stop_tokens: tuple[str, ...]  # any of them ends a turn
    special_tokens: frozenset[str]  # texts that must not stand in a user's content
    added_tokens: dict[str, AddedToken]  # those and others, by their text
    eos_id: int
    sha256: str  # of everything that shapes the tokens

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens added."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_prompts(self, texts: list[str]) -> list[list[int]]:
        """Token ids of raw prompts, with the special tokens the tokenizer puts before a text."""
        eos = self.eos_id
        encoded = [list(encoding.ids) for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=True)]
        return [ids[:-1] if ids and ids[-1] == eos else ids for ids in encoded]


def load(directory: Path) -> LoadedTokenizer:
    """Load the tokenizer of a base model's folder. No code of the folder's is ever run."""
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ValueError(f"{directory}: only tokenizers with a tokenizer.json are supported")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{directory}: the tokenizer has no end-of-sequence token")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    decoder = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    added = decoder.values()
    return LoadedTokenizer(
        tokenizer=tokenizer,
        backend=tokenizer.backend_tokenizer,
        stop_tokens=_stop_tokens(tokenizer, directory),
        special_tokens=frozenset(token.content for token in added if token.special and token.content.strip()),
        added_tokens={token.content: _added(number, token) for number, token in decoder.items()},
        eos_id=tokenizer.eos_token_id,
        sha256=_sha256(directory),
    )


def _added(number: int, token: Any) -> AddedToken:
    return AddedToken(number, plain=not (token.lstrip or token.rstrip or token.single_word or token.normalized))


def _stop_tokens(tokenizer: Any, directory: Path) -> tuple[str, ...]:
    """The tokenizer's end token, and those that generation stops at."""
    ids = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        if (directory / name).is_file():
            stated = json.loads((directory / name).read_text(encoding="utf-8")).get("eos_token_id")
            ids.update(stated if isinstance(stated, list) else [stated])
    known = (tokenizer.convert_ids_to_tokens(token_id) for token_id in sorted(ids - {None}))
    return tuple(token for token in known if token)


def _sha256(directory: Path) -> str:
    digest = hashlib.sha256()
    for name in (*SHAPING_FILES, "generation_config.json"):
        path = directory / name
        digest.update(name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b"") + b"\0")
    return digest.hexdigest()
