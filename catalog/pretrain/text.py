"""The pre-training text: plain English instructions and answers, generated from word lists and a seed.

Each task family is a function from a random generator to one conversation. The words are ordinary; no ticket and no
label of `examples/` is in the text, which a test checks.
"""

import random
from collections.abc import Callable, Iterator

from catalog.pretrain import classification, editing, spelling, talk
from catalog.pretrain.conversation import Conversation, system

# task family → how often it comes, relative to the others.
FAMILIES: dict[Callable[[random.Random], Conversation], int] = {
    classification.topic: 4,
    classification.subject: 4,
    classification.sentiment: 2,
    classification.note: 10,
    classification.note_as_json: 8,
    classification.coded: 3,
    editing.extract: 4,
    editing.rewrite: 4,
    editing.listing: 2,
    spelling.copy: 4,
    spelling.record: 5,
    spelling.lookup: 2,
    talk.arithmetic: 2,
    talk.knowledge: 2,
    talk.tool_call: 2,
    talk.chat: 2,
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
        if conversation.messages[0]["role"] != "system" and rng.random() < 0.2:
            conversation.messages.insert(0, system(rng.choice(SYSTEMS)))
        yield conversation
