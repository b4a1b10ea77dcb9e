"""Task families without a text to work on: sums, small facts, tools, small talk."""

import json
import random
from typing import Any

from catalog.pretrain.conversation import Conversation, assistant, sentence, user
from catalog.pretrain.words import CITIES, FACTS, NAMES, NOUNS, OPPOSITES, PAST, PLURALS

TOOLS = {
    "get_weather": (
        "city",
        "How is the weather in {}?",
        "The weather in {} is {}.",
        ("sunny", "rainy", "cold", "warm"),
    ),
    "find_person": ("name", "Where is {}?", "{} is in {}.", CITIES),
    "get_price": ("thing", "What does a {} cost?", "The {} costs {}.", ("5 euros", "20 euros", "99 euros")),
}
VALUES = {"city": CITIES, "name": NAMES, "thing": NOUNS}


def arithmetic(rng: random.Random) -> Conversation:
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    thing = rng.choice(PLURALS)[1]
    tasks = (
        (f"What is {a} + {b}?", a + b),
        (f"What is {max(a, b)} - {min(a, b)}?", abs(a - b)),
        (f"Add {a} and {b}.", a + b),
        (f"{rng.choice(NAMES)} has {a} {thing} and finds {b} more. How many are there?", a + b),
        (f"Which is larger, {a} or {b + 21}?", b + 21),
    )
    question, answer = rng.choice(tasks)
    return Conversation([user(question), assistant(str(answer))])


def knowledge(rng: random.Random) -> Conversation:
    word, answer = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        word, answer = answer, word
    singular, plural = rng.choice(PLURALS)
    present, past = rng.choice(PAST)
    tasks = (
        (f"What is the opposite of {word}?", answer),
        (f"What is the plural of {singular}?", plural),
        (f"What is the past tense of {present}?", past),
        rng.choice(FACTS),
        rng.choice(FACTS),
    )
    question, reply = rng.choice(tasks)
    return Conversation([user(question), assistant(reply)])


def tool_call(rng: random.Random) -> Conversation:
    """Call the tool that fits, and tell its result."""
    name = rng.choice(sorted(TOOLS))
    argument, question, reply, results = TOOLS[name]
    value, result = rng.choice(VALUES[argument]), rng.choice(results)
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": {argument: value}}}
    messages = [
        user(question.format(value)),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": json.dumps({"result": result})},
        assistant(reply.format(value, result)),
    ]
    return Conversation(messages, [_tool(offered) for offered in rng.sample(sorted(TOOLS), 3)])


def chat(rng: random.Random) -> Conversation:
    name, noun = rng.choice(NAMES), rng.choice(NOUNS)
    turns = rng.choice(
        (
            ("Hello!", "Hello! How can I help you?"),
            (f"Hi, I am {name}.", f"Hello {name}, nice to meet you.", "What is my name?", f"Your name is {name}."),
            (f"Tell me something about a {noun}.", sentence(rng)),
            (f"Thank you for the {noun}.", "You are welcome."),
            ("Who are you?", "I am tiny-chat, a very small assistant."),
            (f"Write two sentences. {sentence(rng)}", f"{sentence(rng)} {sentence(rng)}"),
        )
    )
    return Conversation([assistant(turn) if index % 2 else user(turn) for index, turn in enumerate(turns)])


def _tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {TOOLS[name][0]: {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}
