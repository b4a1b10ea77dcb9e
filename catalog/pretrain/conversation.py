"""A conversation of the pre-training text, and the sentences it is filled with."""

import random
from dataclasses import dataclass, field
from typing import Any

from catalog.pretrain.words import (
    ADJECTIVES,
    ADVERBS,
    CITIES,
    JOBS,
    MONTHS,
    NAMES,
    NOUNS,
    PAST,
    PLURALS,
    VERBS,
    WEEKDAYS,
)

Message = dict[str, Any]


@dataclass
class Conversation:
    """Messages in OpenAI's shape, ending with the assistant, and the tools it may call."""

    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def ask(rng: random.Random, instruction: str, text: str, answer: str) -> Conversation:
    """A question about a text: the instruction stands before the text, after it, or in the system turn."""
    place = rng.random()
    if place < 0.5:
        return Conversation([system(instruction), user(text), assistant(answer)])
    first, second = (instruction, text) if place < 0.75 else (text, instruction)
    return Conversation([user(f"{first}\n{second}"), assistant(answer)])


def sentence(rng: random.Random) -> str:
    """One plain sentence."""
    name, noun, other = rng.choice(NAMES), rng.choice(NOUNS), rng.choice(NOUNS)
    patterns = (
        f"{name} {rng.choice(PAST)[1]} the {rng.choice(ADJECTIVES)} {noun}.",
        f"The {rng.choice(ADJECTIVES)} {noun} is near the {other}.",
        f"{name} and {rng.choice(NAMES)} {rng.choice(VERBS)} a {noun} in {rng.choice(CITIES)}.",
        f"My {noun} {rng.choice(ADVERBS)} stopped working on {rng.choice(WEEKDAYS)}.",
        f"We need a new {noun} for the {other} before {rng.choice(MONTHS)}.",
        f"I would like to {rng.choice(VERBS)} the {noun}, please.",
        f"Could you {rng.choice(VERBS)} my {noun} when the {other} is ready?",
        f"There are {rng.randint(2, 40)} {rng.choice(PLURALS)[1]} in the {noun}.",
        f"The {noun} was {rng.choice(ADJECTIVES)}, but the {other} was {rng.choice(ADJECTIVES)}.",
        f"{name} works as a {rng.choice(JOBS)} and lives in {rng.choice(CITIES)}.",
        f"Since {rng.choice(WEEKDAYS)} I cannot {rng.choice(VERBS)} the {noun} any more.",
        f"Why does the {noun} {rng.choice(VERBS)} so {rng.choice(ADVERBS)}?",
    )
    return rng.choice(patterns)
