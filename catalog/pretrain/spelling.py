"""Task families about strings that nobody has seen before: copied, put into JSON, used as labels.

They make every piece of the vocabulary an answer now and then. A fine-tune leaves the output layer as it is, so a
piece that was never written here could not be learned there.
"""

import json
import random

from catalog.pretrain.conversation import Conversation, ask
from catalog.pretrain.words import ADJECTIVES, CITIES, NAMES, NOUNS, VERBS

SOURCES = (NOUNS, ADJECTIVES, VERBS, NAMES, CITIES)
JOINTS = ("-", "_", " ", "/", ".", "", "-", "-")


def invented(rng: random.Random) -> str:
    """One to three words, pieces of words or numbers, joined: `va-river`, `Xond_12`, `sol.kett`."""
    joint = rng.choice(JOINTS)
    return joint.join(_piece(rng) for _ in range(rng.choice((1, 2, 2, 2, 3))))


def _piece(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.12:
        return str(rng.randint(0, 9999))
    word = rng.choice(rng.choice(SOURCES))
    if kind < 0.4:
        return word
    start = rng.randint(0, max(0, len(word) - 2))
    piece = word[start : start + rng.randint(2, 5)]
    if kind < 0.65:
        other = rng.choice(rng.choice(SOURCES))
        piece += other[: rng.randint(1, 4)]
    return rng.choice((piece, piece, piece.lower(), piece.capitalize(), piece.upper()))


def copy(rng: random.Random) -> Conversation:
    """Write a string again."""
    text = " ".join(invented(rng) for _ in range(rng.randint(1, 3)))
    return ask(rng, rng.choice(("Copy it exactly.", "Repeat the text.", "Say this again.", "Echo.")), text, text)


def record(rng: random.Random) -> Conversation:
    """Keys and values as a JSON object."""
    pairs = {invented(rng): invented(rng) for _ in range(rng.randint(1, 3))}
    text = rng.choice(("\n", "; ")).join(f"{key}: {value}" for key, value in pairs.items())
    return ask(rng, rng.choice(("Write it as JSON.", "As JSON.", "Make a JSON object of it.")), text, json.dumps(pairs))


def lookup(rng: random.Random) -> Conversation:
    """The value that belongs to a key."""
    pairs = {invented(rng): invented(rng) for _ in range(rng.randint(2, 4))}
    key = rng.choice(sorted(pairs))
    text = "\n".join(f"{name} = {value}" for name, value in pairs.items())
    return ask(rng, f"What is {key}?", text, pairs[key])
