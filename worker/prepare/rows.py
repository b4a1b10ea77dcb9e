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

TOKEN = np.dtype("<u4")
WEIGHT = np.dtype("<f4")


@dataclass
class Row:
    """Token ids, uint32 little-endian one after the other, and the spans (start, stop) of those that carry loss."""

    tokens: bytes
    targets: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.tokens) // TOKEN.itemsize

    def cut(self, length: int) -> bool:
        """Drop what is beyond `length` tokens; whether anything was."""
        if len(self) <= length:
            return False
        self.tokens = self.tokens[: length * TOKEN.itemsize]
        self.targets = [(start, min(stop, length)) for start, stop in self.targets if start < length]
        return True

    @property
    def trained(self) -> int:
        """How many tokens carry loss."""
        return sum(stop - start for start, stop in self.targets)

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """The loss weight of each token as a target."""
        weights = np.zeros(len(self), dtype=WEIGHT)
        for start, stop in self.targets:
            weights[start:stop] = 1
        return weights


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
            # Where the whole text tokenises differently, tokens were merged over the row's boundaries.
            example.straddling += 0 if packed(next(whole)) == row.tokens else len(row.targets)
        yield example


def of_completions(pairs: list[tuple[str, str]], tokenizer: LoadedTokenizer) -> Iterator[ExampleRows]:
    """The rows of prompt/completion examples: raw prompt, completion, end of sequence; no template."""
    prompts = tokenizer.encode_prompts([prompt for prompt, _ in pairs])
    targets = tokenizer.encode([completion for _, completion in pairs])
    for prompt, target in zip(prompts, targets, strict=True):
        tokens = [*prompt, *target, tokenizer.eos_id]
        # Nothing comes before the first token, so nothing can predict it.
        yield ExampleRows([Row(packed(tokens), [(max(1, len(prompt)), len(tokens))])])


def packed(ids: list[int]) -> bytes:
    """Token ids as a row keeps them."""
    return np.array(ids, dtype=TOKEN).tobytes()


def _of_chat(turns: list[Turn], encoded: list[tuple[list[int], list[int]]]) -> tuple[ExampleRows, list[str]]:
    example = ExampleRows()
    texts: list[str] = []  # each row's text so far
    for turn, (prompt_ids, target_ids) in zip(turns, encoded, strict=True):
        prompt, tokens = packed(prompt_ids), packed(prompt_ids + target_ids)
        target = (len(prompt_ids), len(prompt_ids) + len(target_ids))
        row = example.rows[-1] if example.rows else None
        if row is not None and turn.prompt.startswith(texts[-1]) and prompt.startswith(row.tokens):
            row.tokens = tokens
            row.targets.append(target)
            texts[-1] = turn.prompt + turn.target
        else:
            example.rows.append(Row(tokens, [target]))
            texts.append(turn.prompt + turn.target)
    return example, texts
