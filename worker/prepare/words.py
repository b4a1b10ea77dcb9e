"""Token ids of texts from those of their words: each word is tokenised once, and found again from then on.

Byte-level tokenizers cut a text before they look at it, and they always cut before a single space, and after a single
line feed, that stands between two characters that are not white. Where that holds, the ids of `a b` are those of `a`
and those of ` b`, whatever stands around them, and a text is a handful of dictionary look-ups: 3 MB of chat take 0.1 s
on one core, not 1.1 s. Whether it holds is not assumed: `of` tries every neighbourhood of three characters over the
kinds that such rules tell apart.
"""

import itertools
import json
import re
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from worker.prepare.rows import packed

# One or more of each kind that the rules of the known tokenizers tell apart.
KINDS = ("a", "B", "s", "7", ".", "'", "(", " ", "\n", "\t", "é", "日", "\u0301", "🙂")
PAIRS = ["".join(pair) for pair in itertools.product(KINDS, repeat=2)]
ENDS = [text for text in [*KINDS, *PAIRS] if not text[-1].isspace()]
STARTS = [text for text in [*KINDS, *PAIRS] if not text[0].isspace()]
CUT = re.compile(r"(?<=\S)(?= \S)|(?<=\S\n)(?=\S)")
MARK = "\0"  # never in a text: JSON lines with it are refused
MOST_WORDS = 1_000_000  # about 200 MB of dictionary; then it starts again

Ids = bytes  # uint32 little-endian, one after the other


class Words:
    """The words of one tokenizer that were met so far."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._known: dict[str, Ids] = {}
        self._lock = threading.Lock()  # files are prepared in threads that share a tokenizer

    def encode(self, texts: list[str]) -> list[Ids]:
        """Token ids of each text, without special tokens added. No text may hold an added token."""
        cut = [split(text) for text in texts]
        with self._lock:
            found = [self._find(words) for words in cut]
            if None in found:
                self._learn([words for words, ids in zip(cut, found, strict=True) if ids is None])
            return [self._ids(words) if ids is None else ids for words, ids in zip(cut, found, strict=True)]

    def apart(self, before: str, after: str | None) -> bool:
        """Whether two texts that touch have the tokens of each by itself. None: any text that does not begin white."""
        cuts = _cutter(self._backend.pre_tokenizer)
        return all(cuts(before + start) == cuts(before) + cuts(start) for start in ([after] if after else STARTS))

    def _find(self, words: list[str]) -> Ids | None:
        try:
            return self._ids(words)
        except KeyError:
            return None

    def _ids(self, words: list[str]) -> Ids:
        return b"".join(map(self._known.__getitem__, words))

    def _learn(self, cut: list[list[str]]) -> None:
        if len(self._known) > MOST_WORDS:
            self._known = {}
        new = sorted({word for words in cut for word in words} - self._known.keys())
        encodings = self._backend.encode_batch_fast(new, add_special_tokens=False)
        self._known.update(zip(new, (packed(encoding.ids) for encoding in encodings), strict=True))


def split(text: str) -> list[str]:
    """The words of a text, each with the space before it."""
    if text.isascii() and not _ragged(text):
        if "\n" in text:
            text = text.replace("\n", "\n" + MARK).replace(MARK + "\n", "\n").replace("\n\n" + MARK, "\n\n")
        return text.replace(" ", MARK + " ").split(MARK)
    return CUT.split(text)


def of(backend: Any) -> Words | None:
    """The words of a tokenizer, or None where a text's ids are not those of its words."""
    parts = json.loads(backend.to_str())
    normalizer, model = parts["normalizer"], parts["model"]
    # NFC composes nothing with an ASCII space or line feed, so it may be done word by word.
    if normalizer is not None and normalizer["type"] != "NFC":
        return None
    if model["type"] != "BPE" or model.get("dropout") or not _is_byte_level(parts["pre_tokenizer"]):
        return None
    return Words(backend) if _cuts_at_words(backend.pre_tokenizer) else None


def _ragged(text: str) -> bool:
    """Whether an ASCII text may have white space beside a space; written out, as this is asked of every text."""
    return (
        "  " in text
        or "\n " in text
        or " \n" in text
        or "\t" in text
        or "\r" in text
        or "\v" in text
        or "\f" in text
        or MARK in text
        or text[:1].isspace()
        or text[-1:].isspace()
    )


def _is_byte_level(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether a text is cut by rules alone and read as bytes; others write something before a text's first word."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    kinds = {step["type"] for step in steps if step is not None}
    prefixed = any(step.get("add_prefix_space") for step in steps if step is not None)
    return "ByteLevel" in kinds and kinds <= {"ByteLevel", "Digits", "Split"} and not prefixed


def _cuts_at_words(pre_tokenizer: Any) -> bool:
    """Whether cutting a text is cutting its words, for all that may stand around the place where two words meet."""
    cuts = _cutter(pre_tokenizer)
    meetings = [(end, start) for end, start in itertools.product(ENDS, STARTS) if len(end) + len(start) < 4]
    at_spaces = ((end, " " + start) for end, start in meetings)
    at_line_feeds = ((end + "\n", start) for end, start in meetings)
    return all(cuts(left + right) == cuts(left) + cuts(right) for left, right in (*at_spaces, *at_line_feeds))


def _cutter(pre_tokenizer: Any) -> Callable[[str], list[str]]:
    @cache
    def cuts(text: str) -> list[str]:
        return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]

    return cuts
