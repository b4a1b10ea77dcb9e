"""The pre-training text: plain English instructions and answers, generated from word lists and a seed.

Each task family is a function from a random generator to one conversation, a list of (role, content) turns. The words
are ordinary; nothing of `examples/` is in them, which a test checks.
"""

import json
import random
from collections.abc import Callable, Iterator

from catalog.pretrain.words import (
    ADJECTIVES,
    ADVERBS,
    BAD,
    CITIES,
    FACTS,
    GOOD,
    JOBS,
    MONTHS,
    NAMES,
    NOUNS,
    OPPOSITES,
    PAST,
    PLURALS,
    TOPICS,
    VERBS,
    WEEKDAYS,
)

Turn = tuple[str, str]
Conversation = list[Turn]


def sentence(rng: random.Random) -> str:
    """One plain sentence."""
    name, noun, other = rng.choice(NAMES), rng.choice(NOUNS), rng.choice(NOUNS)
    patterns = [
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
    ]
    return rng.choice(patterns)


def sentiment(rng: random.Random) -> Conversation:
    good = rng.random() < 0.5
    word = rng.choice(GOOD if good else BAD)
    text = rng.choice(
        [
            f"The {rng.choice(NOUNS)} was {word}.",
            f"{rng.choice(NAMES)} says the {rng.choice(NOUNS)} is {word} and would tell everybody.",
            f"What a {word} {rng.choice(NOUNS)}! {sentence(rng)}",
            f"{sentence(rng)} It was {word}.",
        ]
    )
    yes, no = rng.choice(
        [("positive", "negative"), ("good", "bad"), ("happy", "unhappy"), ("thumbs up", "thumbs down"), ("A", "B")]
    )
    ask = rng.choice(
        [
            f"Is this review {yes} or {no}?",
            f"Classify the text. Answer {yes} if the writer is pleased, {no} if not.",
            f"Sentiment? Say {yes} (pleased) or {no} (not pleased).",
        ]
    )
    return _put(rng, ask, text, yes if good else no)


def topic(rng: random.Random) -> Conversation:
    labels = rng.sample(sorted(TOPICS), rng.randint(2, 5))
    label = rng.choice(labels)
    words = rng.sample(TOPICS[label], 2)
    text = rng.choice(
        [
            f"{rng.choice(NAMES)} talked about the {words[0]} and the {words[1]}.",
            f"I have a question about a {words[0]}. {sentence(rng)}",
            f"{sentence(rng)} The {words[0]} needs a {words[1]}.",
            f"Yesterday the {words[0]} was {rng.choice(ADJECTIVES)}.",
        ]
    )
    ask = rng.choice(
        [
            f"Which topic fits: {', '.join(labels)}?",
            f"Pick one label from this list: {', '.join(labels)}.",
            f"Sort the text into one of {', '.join(labels)}. Answer with the label only.",
        ]
    )
    return _put(rng, ask, text, label)


def extract(rng: random.Random) -> Conversation:
    fields = {
        "name": rng.choice(NAMES),
        "city": rng.choice(CITIES),
        "day": rng.choice(WEEKDAYS),
        "thing": rng.choice(NOUNS),
        "number": str(rng.randint(1, 99)),
    }
    text = rng.choice(
        [
            "{name} from {city} ordered {number} of them, the {thing} first, on {day}.",
            "On {day}, {name} took the {thing} to {city} in {number} minutes.",
            "In {city}, {name} waited {number} hours for a {thing} until {day}.",
            "{name} will bring the {thing} to {city} on {day} at {number}.",
        ]
    ).format(**fields)
    wanted = rng.sample(sorted(fields), rng.choice([1, 1, 2, 3]))
    if len(wanted) > 1 or rng.random() < 0.4:
        answer = json.dumps({key: fields[key] for key in wanted})
        ask = f"Write {' and '.join(wanted)} as JSON."
    else:
        answer = fields[wanted[0]]
        ask = rng.choice([f"What is the {wanted[0]}?", f"Give me only the {wanted[0]}.", f"Find the {wanted[0]}."])
    return _put(rng, ask, text, answer)


def classify_json(rng: random.Random) -> Conversation:
    """Several judgements on one text as one JSON object, in the keys the instruction names."""
    labels = rng.sample(sorted(TOPICS), rng.randint(2, 4))
    label = rng.choice(labels)
    urgent = rng.random() < 0.5
    hurry = rng.choice(
        ["I need it today.", "Please hurry!", "This is urgent.", "It cannot wait.", "As soon as possible!"]
        if urgent
        else ["There is no hurry.", "Any time is fine.", "Whenever you can.", "Take your time.", "Just curious."]
    )
    text = f"My {rng.choice(TOPICS[label])} is {rng.choice(ADJECTIVES)}. {sentence(rng)} {hurry}"
    first, second = rng.choice([("topic", "urgent"), ("kind", "hurry"), ("label", "fast"), ("area", "rush")])
    ask = f"Answer in JSON with {first} (one of {', '.join(labels)}) and {second} (yes or no)."
    return _put(rng, ask, text, json.dumps({first: label, second: "yes" if urgent else "no"}))


def rewrite(rng: random.Random) -> Conversation:
    text = sentence(rng)
    words = text.rstrip(".?").split()
    tasks: list[tuple[str, str]] = [
        ("Write it in capital letters.", text.upper()),
        ("Write it in small letters.", text.lower()),
        ("What is the first word?", words[0]),
        ("What is the last word?", words[-1]),
        ("How many words are there?", str(len(words))),
        ("Repeat the text.", text),
        ("Say it as a question.", " ".join(words) + "?"),
        ("Put it in quotes.", f'"{text}"'),
        ("Write the first two words.", " ".join(words[:2])),
        ("Leave out the first word.", " ".join(words[1:])),
    ]
    ask, answer = rng.choice(tasks)
    return _put(rng, ask, text, answer)


def arithmetic(rng: random.Random) -> Conversation:
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    thing = rng.choice(PLURALS)[1]
    ask, answer = rng.choice(
        [
            (f"What is {a} + {b}?", a + b),
            (f"What is {max(a, b)} - {min(a, b)}?", abs(a - b)),
            (f"Add {a} and {b}.", a + b),
            (f"{rng.choice(NAMES)} has {a} {thing} and finds {b} more. How many are there?", a + b),
            (f"Which is larger, {a} or {b + 21}?", b + 21),
        ]
    )
    return [("user", ask), ("assistant", str(answer))]


def knowledge(rng: random.Random) -> Conversation:
    word, answer = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        word, answer = answer, word
    singular, plural = rng.choice(PLURALS)
    present, past = rng.choice(PAST)
    question, fact = rng.choice(FACTS)
    ask, reply = rng.choice(
        [
            (f"What is the opposite of {word}?", answer),
            (f"What is the plural of {singular}?", plural),
            (f"What is the past tense of {present}?", past),
            (question, fact),
            (question, fact),
        ]
    )
    return [("user", ask), ("assistant", reply)]


def listing(rng: random.Random) -> Conversation:
    items = rng.sample(NOUNS, rng.randint(2, 5))
    text = ", ".join(items)
    tasks = [
        ("Write the list as JSON.", json.dumps(items)),
        ("How many things are there?", str(len(items))),
        ("Sort the list by letter.", ", ".join(sorted(items))),
        ("Which comes first?", items[0]),
        ("Which comes last?", items[-1]),
        ("One thing a line.", "\n".join(f"- {item}" for item in items)),
    ]
    ask, answer = rng.choice(tasks)
    return _put(rng, ask, text, answer)


def chat(rng: random.Random) -> Conversation:
    name = rng.choice(NAMES)
    noun = rng.choice(NOUNS)
    return rng.choice(
        [
            [("user", "Hello!"), ("assistant", "Hello! How can I help you?")],
            [
                ("user", f"Hi, I am {name}."),
                ("assistant", f"Hello {name}, nice to meet you."),
                ("user", "What is my name?"),
                ("assistant", f"Your name is {name}."),
            ],
            [("user", f"Tell me something about a {noun}."), ("assistant", sentence(rng))],
            [("user", f"Thank you for the {noun}."), ("assistant", "You are welcome.")],
            [("user", sentence(rng)), ("assistant", f"I see. {sentence(rng)}")],
            [("user", f"Write two sentences. {sentence(rng)}"), ("assistant", f"{sentence(rng)} {sentence(rng)}")],
        ]
    )


FAMILIES: dict[Callable[[random.Random], Conversation], int] = {
    sentiment: 3,
    topic: 4,
    extract: 4,
    classify_json: 4,
    rewrite: 3,
    arithmetic: 2,
    knowledge: 2,
    listing: 2,
    chat: 2,
}
SYSTEMS = (
    "You are a helpful assistant.",
    "You are tiny-chat, a small assistant. Answer briefly.",
    "Answer in as few words as you can.",
    "Follow the instruction and answer with nothing else.",
)


def conversations(seed: int) -> Iterator[Conversation]:
    """Endless conversations, the same for the same seed."""
    rng = random.Random(seed)
    makers, weights = list(FAMILIES), list(FAMILIES.values())
    while True:
        conversation = rng.choices(makers, weights)[0](rng)
        if conversation[0][0] != "system" and rng.random() < 0.3:
            conversation = [("system", rng.choice(SYSTEMS)), *conversation]
        yield conversation


def _put(rng: random.Random, ask: str, text: str, answer: str) -> Conversation:
    """The instruction before the text, after it, or in the system turn."""
    place = rng.random()
    if place < 0.3:
        return [("system", ask), ("user", text), ("assistant", answer)]
    if place < 0.7:
        return [("user", f"{ask}\n{text}"), ("assistant", answer)]
    return [("user", f"{text}\n{ask}"), ("assistant", answer)]
