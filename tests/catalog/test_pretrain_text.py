"""The text that tiny-chat is pre-trained on."""

import itertools
import json
import re
from pathlib import Path

import pytest

from catalog.pretrain import text
from catalog.pretrain.conversation import Conversation

SEED, SAMPLE = 7, 20_000
EXAMPLES = Path(__file__).parents[2] / "examples" / "support-tickets"


def sample(seed: int, count: int) -> list[Conversation]:
    return list(itertools.islice(text.conversations(seed), count))


@pytest.fixture(scope="module")
def written() -> str:
    """Everything that a sample of conversations says, in small letters."""
    return "\n".join(
        json.dumps(conversation.messages, ensure_ascii=False).replace('\\"', '"')
        for conversation in sample(SEED, SAMPLE)
    ).lower()


@pytest.fixture(scope="module")
def tickets() -> list[list[dict[str, str]]]:
    files = (EXAMPLES / name for name in ("train.jsonl", "valid.jsonl"))
    return [json.loads(line)["messages"] for file in files for line in file.read_text("utf-8").splitlines()]


def test_the_same_seed_gives_the_same_text() -> None:
    assert sample(SEED, 500) == sample(SEED, 500)
    assert sample(SEED, 500) != sample(SEED + 1, 500)


def test_every_conversation_ends_with_an_answer() -> None:
    for conversation in sample(SEED, 2000):
        last = conversation.messages[-1]
        assert last["role"] == "assistant"
        assert last["content"]


def test_every_family_writes_many_different_conversations() -> None:
    for family in text.FAMILIES:
        import random

        rng = random.Random(SEED)
        made = {json.dumps(family(rng).messages) for _ in range(200)}
        assert len(made) > 40, family.__name__


def test_no_label_of_the_tickets_is_in_it(written: str, tickets: list[list[dict[str, str]]]) -> None:
    answers = [json.loads(messages[2]["content"]) for messages in tickets]
    strings = {string for answer in answers for string in answer.values()}
    assert len(strings) == 11
    assert [string for string in strings if string in written] == []


def test_no_sentence_of_the_tickets_is_in_it(written: str, tickets: list[list[dict[str, str]]]) -> None:
    sentences = {
        sentence.rstrip(".!?,").lower()
        for messages in tickets
        for sentence in re.split(r"(?<=[.!?,]) ", messages[1]["content"])
        if len(sentence.split()) >= 4
    }
    assert len(sentences) > 200
    assert [sentence for sentence in sentences if sentence in written] == []
