"""Task families that judge a text: its topic, its mood, what a customer's note is about and how much it hurries."""

import json
import random

from catalog.pretrain.conversation import Conversation, ask, sentence
from catalog.pretrain.spelling import invented
from catalog.pretrain.subjects import AMOUNTS, DEVICES, HURRY, NOTES, THINGS, TOPICS
from catalog.pretrain.words import ADJECTIVES, BAD, CITIES, GOOD, MONTHS, NAMES, NOUNS, WEEKDAYS

HELLOS = ("Hello,", "Hi,", "Dear shop,", "Good morning,", "Good evening,", "Hey,", "Dear sir or madam,", "", "")
GOODBYES = ("Yours, {name}", "Many thanks, {name}", "Best wishes, {name}", "{name}", "Bye, {name}", "", "")
CODES = (
    "red blue green amber north south east west alpha beta gamma delta one two three four box-1 box-2 box-3 K L M"
).split()


def about(rng: random.Random, topic: str) -> str:
    """A sentence or two with words of one topic."""
    first, second = rng.sample(TOPICS[topic].split(), 2)
    patterns = (
        f"{rng.choice(NAMES)} talked about the {first} and the {second}.",
        f"I have a question about a {first}. {sentence(rng)}",
        f"The {first} needs a {rng.choice(ADJECTIVES)} {second}.",
        f"Yesterday the {first} was {rng.choice(ADJECTIVES)}.",
        f"{rng.choice(NAMES)} saw a {first} in {rng.choice(CITIES)}.",
        f"We thought of the {first}, then of the {second}.",
    )
    return rng.choice(patterns)


def topic(rng: random.Random) -> Conversation:
    """Choose one of the labels that the instruction lists."""
    labels = rng.sample(sorted(TOPICS), rng.randint(2, 5))
    label, listed = labels[0], ", ".join(rng.sample(labels, len(labels)))
    instruction = rng.choice(
        (
            f"Which topic fits: {listed}?",
            f"Pick one label from this list: {listed}.",
            f"Sort the text into one of {listed}. Answer with the label only.",
        )
    )
    return ask(rng, instruction, about(rng, label), label)


def subject(rng: random.Random) -> Conversation:
    """Name the topic without a list to choose from."""
    label = rng.choice(sorted(TOPICS))
    instruction = rng.choice(("What is the text about?", "Name the topic.", "Topic?", "Give the subject in one word."))
    return ask(rng, instruction, about(rng, label), label)


def coded(rng: random.Random) -> Conversation:
    """Answer with a code that the instruction gives each topic or kind of note."""
    source = NOTES if rng.random() < 0.5 else TOPICS
    labels = rng.sample(sorted(source), rng.randint(2, 4))
    codes = rng.sample(CODES, len(labels)) if rng.random() < 0.3 else [invented(rng) for _ in labels]
    pairs = list(zip(labels, codes, strict=True))
    label, code = rng.choice(pairs)
    instruction = "Answer with a code. " + " ".join(f"{name}: {word}." for name, word in pairs)
    text = about(rng, label) if source is TOPICS else letter(rng, label, rng.choice(sorted(HURRY)))
    return ask(rng, instruction, text, code)


def sentiment(rng: random.Random) -> Conversation:
    good = rng.random() < 0.5
    word = rng.choice(GOOD if good else BAD)
    text = rng.choice(
        (
            f"The {rng.choice(NOUNS)} was {word}.",
            f"{rng.choice(NAMES)} says the {rng.choice(NOUNS)} is {word} and would tell everybody.",
            f"What a {word} {rng.choice(NOUNS)}! {sentence(rng)}",
            f"{sentence(rng)} It was {word}.",
        )
    )
    yes, no = rng.choice(
        (("positive", "negative"), ("good", "bad"), ("happy", "unhappy"), ("thumbs up", "thumbs down"), ("A", "B"))
    )
    instruction = rng.choice(
        (
            f"Is this review {yes} or {no}?",
            f"Classify the text. Answer {yes} if the writer is pleased, {no} if not.",
            f"Sentiment? Say {yes} (pleased) or {no} (not pleased).",
        )
    )
    return ask(rng, instruction, text, yes if good else no)


def letter(rng: random.Random, theme: str, hurry: str | None) -> str:
    """A customer's note about a theme, more or less in a hurry."""
    fillers = {
        "amount": rng.choice(AMOUNTS),
        "city": rng.choice(CITIES),
        "day": rng.choice(WEEKDAYS),
        "device": rng.choice(DEVICES),
        "month": rng.choice(MONTHS),
        "name": rng.choice(NAMES),
        "number": str(rng.randint(2, 12)),
        "thing": rng.choice(THINGS),
    }
    problem = rng.choice(NOTES[theme]).format(**fillers)
    hello = rng.choice(HELLOS)
    problem = f"{hello} {problem}." if hello else f"{problem[0].upper()}{problem[1:]}."
    words = rng.choice(HURRY[hurry]).format(**fillers) if hurry else ""
    goodbye = rng.choice(GOODBYES).format(name=rng.choice(NAMES))
    return " ".join(part for part in (problem, words, goodbye) if part)


def note(rng: random.Random) -> Conversation:
    """One judgement on a customer's note, with the possible answers listed or not."""
    theme, hurry = rng.choice(sorted(NOTES)), rng.choice(sorted(HURRY))
    if rng.random() < 0.3:
        instruction = rng.choice(("How urgent is it: high, normal or low?", "Urgency?", "How much does it hurry?"))
        return ask(rng, instruction, letter(rng, theme, hurry), hurry)
    others = rng.sample([name for name in sorted(NOTES) if name != theme], rng.randint(1, 4))
    listed = ", ".join(rng.sample([theme, *others], len(others) + 1))
    instruction = rng.choice(
        (
            "What does the customer write about?",
            "Sort the note.",
            "Which kind of note is it?",
            "Theme?",
            f"Is it about {listed}?",
            f"Choose the theme of the note from {listed}.",
        )
    )
    return ask(rng, instruction, letter(rng, theme, hurry if rng.random() < 0.7 else None), theme)


def note_as_json(rng: random.Random) -> Conversation:
    """Both judgements on a customer's note as one JSON object, in the keys the instruction names."""
    theme, hurry = rng.choice(sorted(NOTES)), rng.choice(sorted(HURRY))
    first = rng.choice(("theme", "kind", "label", "area", "topic"))
    second = rng.choice(("urgency", "hurry", "rush", "level"))
    instruction = rng.choice(
        (
            f"Answer in JSON with {first} and {second}.",
            f"Write {first} and {second} (high, normal or low) as JSON.",
            f"Read the note. JSON with the keys {first}, {second}.",
        )
    )
    return ask(rng, instruction, letter(rng, theme, hurry), json.dumps({first: theme, second: hurry}))
