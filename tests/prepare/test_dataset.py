"""From lines to a prepared dataset: rows, masks, counts, and what is said about lines that cannot be used."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tests.prepare import families
from worker.prepare import dataset, tokenizer
from worker.prepare.dataset import TRAINING, VALIDATION, InvalidDataset, Prepared
from worker.prepare.tokenizer import LoadedTokenizer

USER = {"role": "user", "content": "Hello"}
HELLO = {"messages": [USER, {"role": "assistant", "content": "Hi!"}]}


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> LoadedTokenizer:
    return tokenizer.load(families.write("chatml", tmp_path_factory.mktemp("chatml")))


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> LoadedTokenizer:
    return tokenizer.load(families.write("thinking", tmp_path_factory.mktemp("thinking")))


def jsonl(*examples: Any) -> io.BytesIO:
    return io.BytesIO("".join(e if isinstance(e, str) else json.dumps(e) + "\n" for e in examples).encode())


def prepare(
    source: io.BytesIO, loaded: LoadedTokenizer, out: Path, *, length: int = 512, role: str = TRAINING
) -> Prepared:
    return dataset.prepare(source, tokenizer=loaded, max_sequence_length=length, role=role, file_id="file-1", out=out)


def rows(out: Path, loaded: LoadedTokenizer) -> list[tuple[str, str]]:
    """Each row as its whole text and the text that carries loss."""
    data = load_file(out / "data.safetensors")
    texts = []
    for start, end in zip(data["offsets"], data["offsets"][1:], strict=False):
        tokens, weights = data["tokens"][start:end], data["weights"][start:end]
        texts.append((loaded.tokenizer.decode(tokens), loaded.tokenizer.decode(tokens[weights > 0])))
    return texts


def test_ten_examples_become_ten_rows(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    prepared = prepare(jsonl(*[HELLO] * 10), chatml, tmp_path)
    text = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi!<|im_end|>"
    assert rows(tmp_path, chatml) == [(text, "Hi!<|im_end|>")] * 10
    data = load_file(tmp_path / "data.safetensors")
    assert {name: str(column.dtype) for name, column in data.items()} == {
        "tokens": "uint32",
        "offsets": "int64",
        "weights": "float32",
        "example": "int32",
    }
    assert data["example"].tolist() == list(range(10))
    assert prepared.manifest == json.loads((tmp_path / "manifest.json").read_text())
    assert prepared.tokens == len(data["tokens"]) == data["offsets"][-1]
    assert prepared.manifest["target_tokens"] == np.count_nonzero(data["weights"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.safetensors", "manifest.json"]


def test_later_turns_join_the_row(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    more = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Fine."}]
    prepare(jsonl(*[{"messages": [*HELLO["messages"], *more]}] * 10), chatml, tmp_path)
    text, trained = rows(tmp_path, chatml)[0]
    assert text.count("<|im_start|>") == 4
    assert trained == "Hi!<|im_end|>Fine.<|im_end|>"


def test_a_row_holds_exactly_the_tokens_of_its_prompt_and_targets(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    prepare(jsonl(*[HELLO] * 10), chatml, tmp_path)
    data = load_file(tmp_path / "data.safetensors")
    prompt = chatml.tokenizer.apply_chat_template([USER], add_generation_prompt=True, tokenize=False)
    expected = chatml.encode([prompt])[0] + chatml.encode(["Hi!<|im_end|>"])[0]
    assert data["tokens"][: data["offsets"][1]].tolist() == expected


def test_rewritten_history_makes_rows_of_their_own(thinking: LoadedTokenizer, tmp_path: Path) -> None:
    messages = [
        USER,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi!"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Fine."},
    ]
    prepared = prepare(jsonl(*[{"messages": messages}] * 10), thinking, tmp_path)
    assert prepared.manifest["rows"] == 20
    assert prepared.examples == 10
    assert [trained for _, trained in rows(tmp_path, thinking)[:2]] == [
        "<think>\nhm\n</think>\n\nHi!<|im_end|>",
        "Fine.<|im_end|>",
    ]


def test_prompt_and_completion_use_no_template(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    prepare(jsonl(*[{"prompt": "2+2=", "completion": "4"}] * 10), chatml, tmp_path)
    assert rows(tmp_path, chatml)[0] == ("2+2=4<|im_end|>", "4<|im_end|>")


def test_an_empty_prompt_trains_from_its_second_token(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    prepare(jsonl(*[{"prompt": "", "completion": "Hello there"}] * 10), chatml, tmp_path)
    weights = load_file(tmp_path / "data.safetensors")["weights"]
    assert weights[0] == 0
    assert weights[1] == 1


def test_truncation_is_counted_and_named(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    long = {"messages": [USER, {"role": "assistant", "content": "Hello there " * 50}]}
    prepared = prepare(jsonl(*[HELLO] * 11, long), chatml, tmp_path, length=64)
    assert prepared.truncated.count == 1
    assert str(prepared.truncated) == "line 12"
    assert prepared.manifest["max_row_tokens"] == 64
    assert prepared.manifest["truncated_examples"] == 1


def test_an_example_without_trained_tokens_left_is_dropped_and_named(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "Hello there " * 90}, {"role": "assistant", "content": "Hi"}]}
    prepared = prepare(jsonl(HELLO, long, *[HELLO] * 9), chatml, tmp_path, length=64)
    assert (prepared.dropped.count, str(prepared.dropped)) == (1, "line 2")
    assert prepared.examples == 10
    assert load_file(tmp_path / "data.safetensors")["example"].tolist() == list(range(10))


def refused(source: io.BytesIO, chatml: LoadedTokenizer, out: Path, role: str = TRAINING) -> InvalidDataset:
    with pytest.raises(InvalidDataset) as caught:
        prepare(source, chatml, out, role=role)
    assert not (out / "manifest.json").exists()
    return caught.value


def test_bad_lines_are_named_with_number_and_reason(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    bad = {"messages": [{"role": "robot", "content": "x"}]}
    error = refused(jsonl(*[HELLO] * 10, bad, "{oops\n", HELLO, "[]\n"), chatml, tmp_path)
    assert (error.code, error.param) == ("invalid_training_file", "training_file")
    assert "3 invalid lines" in error.message
    assert "line 11 messages[0].role must be one of" in error.message
    assert "line 12 is not valid JSON" in error.message
    assert "line 14 is not a JSON object" in error.message


def test_only_twenty_bad_lines_are_named(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    error = refused(jsonl(*["[]\n"] * 50), chatml, tmp_path)
    assert "50 invalid lines" in error.message
    assert "line 20 " in error.message
    assert "line 21 " not in error.message
    assert error.message.endswith("; and 30 more.")


def test_nine_examples_are_too_few(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    error = refused(jsonl(*[HELLO] * 9), chatml, tmp_path)
    assert (error.code, error.param) == ("invalid_n_examples", "training_file")
    assert "has 9 examples; at least 10" in error.message


def test_one_validation_example_is_enough_and_none_is_not(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    assert prepare(jsonl(HELLO), chatml, tmp_path / "one", role=VALIDATION).examples == 1
    error = refused(jsonl(), chatml, tmp_path / "none", role=VALIDATION)
    assert (error.code, error.param) == ("invalid_validation_file", "validation_file")


def test_a_file_in_two_formats_names_the_odd_line(chatml: LoadedTokenizer, tmp_path: Path) -> None:
    error = refused(jsonl(*[HELLO] * 10, {"prompt": "a", "completion": "b"}), chatml, tmp_path)
    assert "line 11 is in prompt/completion format, but the file began in chat format" in error.message


def test_the_cache_key_holds_all_that_shapes_the_rows(
    chatml: LoadedTokenizer, thinking: LoadedTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [
        dataset.cache_key("a" * 64, chatml, 512),
        dataset.cache_key("b" * 64, chatml, 512),
        dataset.cache_key("a" * 64, thinking, 512),
        dataset.cache_key("a" * 64, chatml, 513),
    ]
    monkeypatch.setattr(dataset, "PREPARE_VERSION", 999)
    keys.append(dataset.cache_key("a" * 64, chatml, 512))
    assert len(set(keys)) == len(keys)


plain = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=40)
@given(conversation=st.lists(st.tuples(plain, plain), min_size=1, max_size=3))
def test_rows_decode_to_the_rendering_and_train_only_what_the_assistant_said(
    chatml: LoadedTokenizer, tmp_path_factory: pytest.TempPathFactory, conversation: list[tuple[str, str]]
) -> None:
    messages = [
        message
        for user, assistant in conversation
        for message in ({"role": "user", "content": user}, {"role": "assistant", "content": assistant})
    ]
    out = tmp_path_factory.mktemp("row")
    prepare(jsonl({"messages": messages}), chatml, out, role=VALIDATION)
    ((text, trained),) = rows(out, chatml)
    rendered = chatml.tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == rendered.removesuffix("\n")
    assert trained == "".join(f"{assistant}<|im_end|>" for _, assistant in conversation)
