"""The tickets that the quickstart trains on."""

import json
import runpy
from collections import Counter
from pathlib import Path

import pytest

from app.files import dataset

FOLDER = Path(__file__).parents[2] / "examples" / "support-tickets"


def read(name: str) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


TRAIN, VALID = read("train.jsonl"), read("valid.jsonl")


def test_there_are_enough_of_them() -> None:
    assert 300 <= len(TRAIN) <= 400
    assert len(VALID) == 100


@pytest.mark.parametrize("name", ["train.jsonl", "valid.jsonl"])
def test_the_service_accepts_every_line(name: str) -> None:
    with (FOLDER / name).open("rb") as source:
        kinds = {dataset.parse_line(line)[0] for _number, line in dataset.lines(source)}
    assert kinds == {"chat"}


def test_every_line_is_a_system_user_assistant_conversation() -> None:
    for messages in TRAIN + VALID:
        assert [message["role"] for message in messages] == ["system", "user", "assistant"]
        assert all(message["content"].strip() for message in messages)


def test_no_ticket_is_there_twice_or_in_both_files() -> None:
    texts = [messages[1]["content"] for messages in TRAIN + VALID]
    assert len(set(texts)) == len(texts)


def test_every_answer_was_trained_and_none_dominates() -> None:
    answers = [Counter(messages[2]["content"] for messages in part) for part in (TRAIN, VALID)]
    assert set(answers[1]) <= set(answers[0])
    assert max(answers[1].values()) < 20


def test_the_generator_writes_the_same_files_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "generate.py"
    copy.write_bytes((FOLDER / "generate.py").read_bytes())
    runpy.run_path(str(copy), run_name="__main__")
    for name in ("train.jsonl", "valid.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
