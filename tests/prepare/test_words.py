"""Token ids from words are the tokenizer's own; tokenizers for which that cannot be are left alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.prepare.families import FAMILIES
from worker.prepare import words
from worker.prepare.rows import TOKEN

LLAMA3 = FAMILIES["llama3"].pattern or ""
CORPUS = ["It's a test, isn't it? 12345 tokens\n\n  and (more) of them. Déjà vu 日本語 été naïve\tTabs."] * 3
LETTERS = "ab AB's 17.,(\n\t\r\xa0é日\u0301🙂-_"

TINY_CHAT = Path(__file__).parent.parent.parent / "catalog" / "tiny-chat" / "tokenizer.json"


def trained(pre_tokenizer: Any, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizer, normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def byte_level(*before: Any, use_regex: bool = True) -> Any:
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return pre_tokenizers.Sequence([*before, last])


TOKENIZERS = {
    "gpt2": trained(byte_level()),
    "digits": trained(byte_level(pre_tokenizers.Digits(individual_digits=True))),
    "llama3": trained(byte_level(pre_tokenizers.Split(Regex(LLAMA3), "isolated"), use_regex=False)),
    "nfc": trained(byte_level(), normalizers.NFC()),
    "tiny-chat": Tokenizer.from_file(str(TINY_CHAT)),
}
KNOWN = {name: words.of(tokenizer) for name, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from(LETTERS), max_size=40) | st.text(max_size=20))
@example(text="")
@example(text=" a")
@example(text="a ")
@example(text="a  b \n c")
@example(text="a\xa0 b")
@example(text="a.\n\nb\n")
@example(text="\na")
@example(text="a\0b c")
def test_ids_are_the_tokenizers_own(name: str, text: str) -> None:
    known = KNOWN[name]
    assert known is not None
    (ids,) = known.encode([text])
    wanted = TOKENIZERS[name].encode(text, add_special_tokens=False).ids
    assert np.frombuffer(ids, TOKEN).tolist() == wanted


def test_what_was_learned_is_found_again() -> None:
    known = words.of(TOKENIZERS["gpt2"])
    assert known is not None
    once = known.encode(["some words here", "and some more words"])
    assert known.encode(["some words here", "and some more words", "new ones"])[:2] == once


def test_a_full_dictionary_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST_WORDS", 8)
    known = words.of(TOKENIZERS["gpt2"])
    assert known is not None
    texts = [f"word{n} and word{n + 1} of {n}" for n in range(30)]
    wanted = [TOKENIZERS["gpt2"].encode(text, add_special_tokens=False).ids for text in texts]
    assert [np.frombuffer(ids, TOKEN).tolist() for ids in known.encode(texts)] == wanted


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(
    before=st.sampled_from(["assistant\n", "\n\n", "a ", "tok", ":", "]"]),
    after=st.text(st.sampled_from(LETTERS), min_size=1, max_size=8),
)
def test_texts_that_are_apart_have_the_tokens_of_each(name: str, before: str, after: str) -> None:
    def ids(text: str) -> list[int]:
        encoded: list[int] = TOKENIZERS[name].encode(text, add_special_tokens=False).ids
        return encoded

    known = KNOWN[name]
    assert known is not None
    if known.apart(before, None if not after[0].isspace() else after):
        assert ids(before) + ids(after) == ids(before + after)


def test_whether_texts_are_apart_depends_on_the_tokenizer() -> None:
    apart = {name: known.apart("\n\n", None) for name, known in KNOWN.items() if known is not None}
    assert apart == {"gpt2": False, "digits": False, "llama3": True, "nfc": False, "tiny-chat": False}


@pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(trained(pre_tokenizers.Metaspace()), id="metaspace"),
        pytest.param(trained(pre_tokenizers.Metaspace(), normalizers.Prepend("▁")), id="prepended"),
        pytest.param(trained(None, normalizers.Replace(" ", "▁")), id="one piece"),
        pytest.param(trained(pre_tokenizers.Split(" ", "merged_with_previous")), id="space at the end"),
        pytest.param(trained(pre_tokenizers.ByteLevel(add_prefix_space=True)), id="prefix space"),
        pytest.param(trained(byte_level(), normalizers.Lowercase()), id="lowercase"),
        pytest.param(
            trained(byte_level(pre_tokenizers.Split(Regex(r"\w+ \w+|\S+|\s+"), "isolated"), use_regex=False)),
            id="over a space",
        ),
        pytest.param(Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")), id="no bpe"),
    ],
)
def test_tokenizers_whose_words_are_not_apart_are_left_alone(tokenizer: Tokenizer) -> None:
    assert words.of(tokenizer) is None
