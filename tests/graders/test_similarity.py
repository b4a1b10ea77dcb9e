"""Text similarity: the values of well-known implementations, and the edges."""

import random

import pytest

from app.graders import similarity
from app.graders.faults import TextTooLong

CAT = ("The cat sat on the mat.", "The cat is on the mat.")
BEAR = ("fuzzy wuzzy had no hair", "fuzzy wuzzy was a bear")
PARTY = (
    "It is a guide to action which ensures that the military always obeys the commands of the party",
    "It is a guide to action that ensures that the military will forever heed Party commands",
)
LETTERS = ("a a a a b", "a b a b")
SPORT = ("Running quickly, he won 3-1!", "he won 3-1, running quick")
POLICE = ("police kill the gunman", "police killed the gunman")
REPEATED = ("the the the", "the")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (CAT, [0.833333, 0.6, 0.25, 0, 0, 0.833333]),
        (BEAR, [0.4, 0.25, 0, 0, 0, 0.4]),
        (PARTY, [0.705882, 0.5, 0.4, 0.285714, 0.153846, 0.647059]),
        (LETTERS, [0.666667, 0.285714, 0, 0, 0, 0.666667]),
        (SPORT, [0.833333, 0.6, 0.5, 0.333333, 0, 0.666667]),
        (POLICE, [0.75, 0.333333, 0, 0, 0, 0.75]),
        (REPEATED, [0.5, 0, 0, 0, 0, 0.5]),
    ],
)
def test_rouge_gives_what_the_rouge_score_package_gives(texts: tuple[str, str], expected: list[float]) -> None:
    """F-measures of rouge-score 0.1.2 without stemming."""
    metrics = ["rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]
    assert [similarity.score(metric, *texts) for metric in metrics] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (CAT, 0.488923),
        (BEAR, 0.213644),
        (PARTY, 0.411804),
        (LETTERS, 0.236435),
        (POLICE, 0.353553),
        (REPEATED, 0.275161),
    ],
)
def test_bleu_gives_what_sacrebleu_gives(texts: tuple[str, str], expected: float) -> None:
    """`sentence_bleu` of sacreBLEU 2.6.0 over 100, where the two part the words alike."""
    assert similarity.score("bleu", *texts) == pytest.approx(expected, abs=1e-6)


def test_gleu_and_meteor_give_the_published_examples() -> None:
    """The example sentences in NLTK's own documentation; METEOR's has no synonyms in it."""
    assert similarity.score("gleu", *PARTY) == pytest.approx(0.4393, abs=1e-4)
    assert similarity.score("meteor", *PARTY) == pytest.approx(0.6944, abs=1e-4)


def test_meteor_matches_stems_where_bleu_sees_other_words() -> None:
    assert similarity.score("meteor", *POLICE) == pytest.approx(0.992188, abs=1e-6)
    assert similarity.score("meteor", "automobile", "car") == 0


def test_fuzzy_match_is_the_weighted_ratio_of_the_guide() -> None:
    assert similarity.score("fuzzy_match", *BEAR) == pytest.approx(0.755556, abs=1e-6)
    assert similarity.score("fuzzy_match", "New York!", "new york") == 1
    assert similarity.score("fuzzy_match", "the answer is: bear", "bear") == pytest.approx(0.9)


@pytest.mark.parametrize("metric", similarity.METRICS)
def test_the_range(metric: str) -> None:
    chance = random.Random(metric)
    words = ["cat", "cats", "dog", "run", "running", "Ünïcode", "猫", ",", "!", "'s", "don't", "a"]
    for _ in range(100):
        texts = [" ".join(chance.choices(words, k=chance.randrange(9))) for _ in range(2)]
        assert 0 <= similarity.score(metric, *texts) <= 1, texts


@pytest.mark.parametrize("metric", ["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_l"])
@pytest.mark.parametrize(
    "text", ["yes", "two words", "now these are three", "Привет, мир", "a longer text, with marks."]
)
def test_a_text_is_most_like_itself(metric: str, text: str) -> None:
    assert similarity.score(metric, text, text) == pytest.approx(1)


@pytest.mark.parametrize("metric", similarity.METRICS)
@pytest.mark.parametrize("texts", [("", ""), ("", "a"), ("a", ""), ("   ", "a"), ("...", "a"), ("\0", "\0")])
def test_texts_without_words(metric: str, texts: tuple[str, str]) -> None:
    assert 0 <= similarity.score(metric, *texts) <= 1


@pytest.mark.parametrize("metric", similarity.METRICS)
def test_long_texts(metric: str) -> None:
    long = "word " * (similarity.MAX_CHARS // 5)
    with pytest.raises(TextTooLong):
        similarity.score(metric, long + "x", "word")
    with pytest.raises(TextTooLong):
        similarity.score(metric, "word", long + "x")
    assert similarity.score(metric, long, "other") < 0.5


def test_a_fuzzy_search_of_one_long_text_in_another_is_refused() -> None:
    """Fifty thousand characters against ten thousand would take rapidfuzz ten seconds."""
    with pytest.raises(TextTooLong):
        similarity.score("fuzzy_match", "ab " * 3_000, "ba " * 16_000)
    with pytest.raises(TextTooLong):  # marks around a text make it no longer
        similarity.score("fuzzy_match", "ab " * 3_000 + "." * 39_000, "ba " * 16_000)
    assert similarity.score("fuzzy_match", "ab " * 16_000, "ba " * 16_000) > 0.6
    assert similarity.score("fuzzy_match", "ab " * 16_000, "ab") == pytest.approx(0.6)
