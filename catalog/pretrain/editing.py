"""Task families that take something out of a text or write it anew."""

import json
import random

from catalog.pretrain.conversation import Conversation, ask, sentence
from catalog.pretrain.words import CITIES, NAMES, NOUNS, WEEKDAYS


def extract(rng: random.Random) -> Conversation:
    fields = {
        "name": rng.choice(NAMES),
        "city": rng.choice(CITIES),
        "day": rng.choice(WEEKDAYS),
        "thing": rng.choice(NOUNS),
        "number": str(rng.randint(1, 99)),
    }
    text = rng.choice(
        (
            "{name} from {city} ordered {number} of them, the {thing} first, on {day}.",
            "On {day}, {name} took the {thing} to {city} in {number} minutes.",
            "In {city}, {name} waited {number} hours for a {thing} until {day}.",
            "{name} will bring the {thing} to {city} on {day} at {number}.",
            "The {thing} of {name} was {number} days in {city} before {day}.",
        )
    ).format(**fields)
    wanted = rng.sample(sorted(fields), rng.choice((1, 1, 2, 3)))
    if len(wanted) > 1 or rng.random() < 0.4:
        answer = json.dumps({key: fields[key] for key in wanted})
        return ask(rng, f"Write {' and '.join(wanted)} as JSON.", text, answer)
    instruction = rng.choice((f"What is the {wanted[0]}?", f"Give me only the {wanted[0]}.", f"Find the {wanted[0]}."))
    return ask(rng, instruction, text, fields[wanted[0]])


def rewrite(rng: random.Random) -> Conversation:
    text = sentence(rng)
    words = text.rstrip(".?").split()
    tasks = (
        ("Write it in capital letters.", text.upper()),
        ("Write it in small letters.", text.lower()),
        ("Write the words in reverse order.", " ".join(reversed(words))),
        ("What is the first word?", words[0]),
        ("What is the last word?", words[-1]),
        ("How many words are there?", str(len(words))),
        ("Repeat the text.", text),
        ("Copy it exactly.", text),
        ("Say it as a question.", " ".join(words) + "?"),
        ("Put it in quotes.", f'"{text}"'),
        ("Write the first two words.", " ".join(words[:2])),
        ("Leave out the first word.", " ".join(words[1:])),
    )
    instruction, answer = rng.choice(tasks)
    return ask(rng, instruction, text, answer)


def listing(rng: random.Random) -> Conversation:
    items = rng.sample(NOUNS, rng.randint(2, 5))
    tasks = (
        ("Write the list as JSON.", json.dumps(items)),
        ("How many things are there?", str(len(items))),
        ("Sort the list by letter.", ", ".join(sorted(items))),
        ("Which comes first?", items[0]),
        ("Which comes last?", items[-1]),
        ("One thing a line.", "\n".join(f"- {item}" for item in items)),
    )
    instruction, answer = rng.choice(tasks)
    return ask(rng, instruction, ", ".join(items), answer)
