"""From rendered turns to rows: token ids, and which of them carry loss.

A row is tokens(P) + tokens(T) with loss on T. A later turn joins the row if its P continues the row's text; else it is
a row of its own. Tokens are those of the tokenizer on P and on T each, as inference would see them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from worker.prepare.template import Turn
from worker.prepare.tokenizer import LoadedTokenizer


@dataclass
class Row:
    """Token ids and the loss weight of each as a target."""

    tokens: list[int]
    weights: list[float]

    def cut(self, length: int) -> bool:
        """Drop what is beyond `length` tokens; whether anything was."""
        longer = len(self.tokens) > length
        del self.tokens[length:], self.weights[length:]
        return longer

    @property
    def trained(self) -> bool:
        return any(self.weights)

    def arrays(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
        return np.array(self.tokens, dtype="<u4"), np.array(self.weights, dtype="<f4")


@dataclass
class ExampleRows:
    """The rows of one example (one line)."""

    rows: list[Row] = field(default_factory=list)
    straddling: int = 0  # tokens that would span P and T if the whole text were tokenised at once


def of_chats(examples: list[list[Turn]], tokenizer: LoadedTokenizer) -> Iterator[ExampleRows]:
    """The rows of each chat example. All texts are tokenised in one batch, which the library spreads over threads."""
    texts = [text for turns in examples for turn in turns for text in (turn.prompt, turn.target)]
    encoded = iter(tokenizer.encode(texts))
    built = [_of_chat(turns, [(next(encoded), next(encoded)) for _ in turns]) for turns in examples]
    whole = iter(tokenizer.encode([text for _, row_texts in built for text in row_texts]))
    for example, row_texts in built:
        for row, _ in zip(example.rows, row_texts, strict=True):
            example.straddling += _straddling(row, next(whole))
        yield example


def of_completions(pairs: list[tuple[str, str]], tokenizer: LoadedTokenizer) -> Iterator[ExampleRows]:
    """The rows of prompt/completion examples: raw prompt, completion, end of sequence; no template."""
    prompts = tokenizer.encode_prompts([prompt for prompt, _ in pairs])
    targets = tokenizer.encode([completion for _, completion in pairs])
    for prompt, target in zip(prompts, targets, strict=True):
        row = _row(prompt, [*target, tokenizer.eos_id])
        row.weights[0] = 0.0  # nothing comes before the first token, so nothing can predict it
        yield ExampleRows([row])


def _of_chat(turns: list[Turn], encoded: list[tuple[list[int], list[int]]]) -> tuple[ExampleRows, list[str]]:
    example = ExampleRows()
    texts: list[str] = []  # each row's text so far
    for turn, (prompt, target) in zip(turns, encoded, strict=True):
        row = example.rows[-1] if example.rows else None
        joins = row is not None and turn.prompt.startswith(texts[-1]) and prompt[: len(row.tokens)] == row.tokens
        if row is not None and joins:
            between = len(prompt) - len(row.tokens)
            row.weights += [0.0] * between + [1.0] * len(target)
            row.tokens = prompt + target
            texts[-1] = turn.prompt + turn.target
        else:
            example.rows.append(_row(prompt, target))
            texts.append(turn.prompt + turn.target)
    return example, texts


def _row(prompt: list[int], target: list[int]) -> Row:
    return Row(prompt + target, [0.0] * len(prompt) + [1.0] * len(target))


def _straddling(row: Row, whole: list[int]) -> int:
    """How many boundaries between context and target the tokenizer would have merged over."""
    if row.tokens == whole:
        return 0
    return sum(1 for before, after in zip(row.weights, row.weights[1:], strict=False) if not before and after)
