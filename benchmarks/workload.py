"""Generated training data for the benchmarks: chats of log-normal lengths, from a seed, never from a file."""

import json
from typing import Any

import numpy as np

VOCABULARY = 20_000  # words; the frequency of the n-th is about 1 / n, as in any language
TURNS = (0.7, 0.2, 0.1)  # how many conversations have one, two, three turns


def chat_lines(count: int, *, seed: int = 0, mean_words: float = 40.0) -> bytes:
    """JSONL with `count` conversations; a message has `mean_words` words in the mean, with a long tail."""
    random = np.random.default_rng(seed)
    words = _words(random)
    examples = (_conversation(random, words, mean_words) for _ in range(count))
    return "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples).encode()


def _words(random: np.random.Generator) -> np.ndarray:
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    shares = np.array([1 / (n + 2) for n in range(len(letters))])
    lengths = np.clip(random.poisson(5, VOCABULARY), 1, 14)
    return np.array(["".join(random.choice(letters, n, p=shares / shares.sum())) for n in lengths])


def _text(random: np.random.Generator, words: np.ndarray, mean: float) -> str:
    count = max(2, int(random.lognormal(np.log(mean) - 0.32, 0.8)))
    ranks = np.minimum(random.zipf(1.2, count) - 1, VOCABULARY - 1)
    chosen = words[ranks].tolist()
    for place in range(7, count, 12):
        chosen[place] += ".\n" if place % 5 == 0 else ", "[:1]
    return " ".join(chosen).replace("\n ", "\n").capitalize() + "."


def _conversation(random: np.random.Generator, words: np.ndarray, mean: float) -> dict[str, Any]:
    messages = [{"role": "system", "content": "You are a helpful assistant. Answer briefly and kindly."}]
    for _ in range(1 + int(random.choice(len(TURNS), p=TURNS))):
        messages.append({"role": "user", "content": _text(random, words, mean)})
        messages.append({"role": "assistant", "content": _text(random, words, mean)})
    return {"messages": messages}
