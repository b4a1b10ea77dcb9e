"""How alike two texts are, by the metrics of `text_similarity` graders: each gives a number from 0 to 1.

The libraries are imported when first needed: together they take 30 MB, which most API processes never have to hold.
Which variant of each metric this is, and why, stands in docs/graders.md and docs/decisions/0040-text-similarity.md.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from app.graders.faults import TextTooLong

# Within these a comparison takes at most half a second, some of it without letting other threads run.
MAX_CHARS = 50_000  # of each text
MAX_SEARCHED_PAIRS = 5_000_000  # characters of a text times those of a longer one that it is searched in
_WORD = re.compile(r"[^\W_]+")


def score(metric: str, text: str, reference: str) -> float:
    """The similarity of `text` to `reference` by a metric of METRICS. Raises TextTooLong."""
    if max(len(text), len(reference)) > MAX_CHARS:
        raise TextTooLong(f"text_similarity compares texts of at most {MAX_CHARS} characters.")
    return min(1.0, METRICS[metric](text, reference))


def _fuzzy_match(text: str, reference: str) -> float:
    from rapidfuzz import fuzz, utils

    ours, theirs = utils.default_process(text), utils.default_process(reference)
    shorter, longer = sorted((len(ours), len(theirs)))
    # From there on WRatio looks for the best place of the shorter in the longer, one by one.
    if longer >= 1.5 * shorter and shorter * longer > MAX_SEARCHED_PAIRS:
        raise TextTooLong("fuzzy_match does not search for one long text in another.")
    return fuzz.WRatio(ours, theirs) / 100


def _bleu(text: str, reference: str) -> float:
    """Smoothed, and of fewer than four orders for shorter texts, so that a short text equal to its reference gets 1."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    hypothesis = _tokens(text)
    if not hypothesis:
        return 0.0
    smoothing = SmoothingFunction().method3  # NIST's, which sacreBLEU uses too
    return float(sentence_bleu([_tokens(reference)], hypothesis, smoothing_function=smoothing, auto_reweigh=True))


def _gleu(text: str, reference: str) -> float:
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([_tokens(reference)], _tokens(text)))


def _meteor(text: str, reference: str) -> float:
    from nltk.translate.meteor_score import single_meteor_score

    return float(single_meteor_score(_tokens(reference), _tokens(text), wordnet=_NoSynonyms()))


class _NoSynonyms:
    """Stands in for WordNet, a download: METEOR then matches words and stems."""

    def synsets(self, _word: str) -> list[Any]:
        return []


def _rouge(order: int) -> Callable[[str, str], float]:
    """ROUGE-N: the F1 of the n-grams two texts share, counted."""

    def rouge(text: str, reference: str) -> float:
        ours, theirs = (_ngrams(_words(each), order) for each in (text, reference))
        return _f1((ours & theirs).total(), ours.total(), theirs.total())

    return rouge


def _rouge_l(text: str, reference: str) -> float:
    """ROUGE-L: the F1 of the longest common subsequence of words."""
    from rapidfuzz.distance import LCSseq

    ours, theirs = _words(text), _words(reference)
    return _f1(LCSseq.similarity(ours, theirs), len(ours), len(theirs))


def _f1(shared: float, ours: int, theirs: int) -> float:
    return 2 * shared / (ours + theirs) if shared else 0.0


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _words(text: str) -> list[str]:
    """Runs of letters and digits in lower case, as the ROUGE package has them, but of every alphabet."""
    return _WORD.findall(text.lower())


def _tokens(text: str) -> list[str]:
    """Words and punctuation marks as the Penn Treebank parts them."""
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer().tokenize(text)


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": _fuzzy_match,
    "bleu": _bleu,
    "gleu": _gleu,
    "meteor": _meteor,
    **{f"rouge_{order}": _rouge(order) for order in range(1, 6)},
    "rouge_l": _rouge_l,
}
