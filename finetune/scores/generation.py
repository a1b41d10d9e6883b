"""Scores of generated text: references and predictions in, counts of each document out, and numbers of the counts.

BLEU and chrF are counted by sacrebleu and equal its command on the same texts, one a line, to the last digit; a line
break inside a text is a space for both (`one_line`). ROUGE has words of its own (`rouge_words`), so that it is also
defined for scripts that the rouge_score package throws away; on plain English the two are equal.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import regex
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.helpers import extract_all_char_ngrams

from finetune.errors import DataError, Problem
from finetune.scores import text_metrics
from finetune.scores.bleu_tokenizers import load_bleu
from finetune.scores.text_metrics import (
    CHARACTER_ORDERS,
    LOSS_METRICS,
    ORDERS,
    TEXT_METRICS,
    LossStatistics,
    TextStatistics,
    perplexity,
)

REPEATED_ORDER = 4
LINE_BREAK = regex.compile(r"\r\n|\r|\n")
# Scripts written without spaces between words: every character, with the marks upon it, is a word of its own.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
ROUGE_WORD = regex.compile(
    rf"[[{UNSPACED}]&&[\p{{L}}\p{{N}}]]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{UNSPACED}]]+", flags=regex.VERSION1
)


def text_statistics(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    bleu_tokenizer: str,
    cut: np.ndarray | None = None,
    origins: Sequence[str] | None = None,
) -> TextStatistics:
    """What is counted of n predictions, one reference for each.

    bleu_tokenizer: one of BLEU_TOKENIZERS, whose tokens are also the words of distinct-n, length_ratio and repetition.
    cut: (n,) truth values, whether the length limit cut the prediction off; None where that is not known.
    origins: what an error calls the documents, such as `pairs.csv:3`.
    An empty prediction scores 0 and is counted. Raises DataError for empty references, EnvironmentFault for a tokeniser
    that is not there, ValueError for no documents and for unequal lengths.
    """
    check_texts(references, predictions, cut=cut, origins=origins)
    words = words_of(predictions, bleu_tokenizer=bleu_tokenizer)
    means = {
        **rouge_f(references, predictions),
        "exact_match": exact_matches(references, predictions),
        "repetition": np.array([repeated_share(each) for each in words]),
        "cut_share": np.full(len(predictions), math.nan) if cut is None else np.asarray(cut, dtype=np.float64),
        "empty_share": np.array([not text.strip() for text in predictions], dtype=np.float64),
    }
    rows = np.column_stack(
        [
            *(means[name] for name in text_metrics.MEANS),
            np.ones(len(predictions)),
            bleu_rows(references, predictions, bleu_tokenizer=bleu_tokenizer),
            chrf_rows(references, predictions),
        ]
    )
    return TextStatistics(rows, {f"distinct_{order}": distinct_share(words, order=order) for order in (1, 2)})


def score_texts(statistics: TextStatistics) -> dict[str, float | None]:
    """TEXT_METRICS -> number, or None where it is undefined (no words to divide by; cut_share that is not known).

    bleu and chrf in 0..100; length_ratio from 0 without end; all others in 0..1.
    """
    sums = statistics.rows.sum(axis=0)
    scores = {name: float(metric.of(sums)) if metric.adds_up else None for name, metric in TEXT_METRICS.items()}
    scores |= {**statistics.distinct, "bleu": bleu(sums[list(text_metrics.BLEU_COLUMNS)])}
    return {name: _number(scores[name]) for name in TEXT_METRICS}


def score_losses(losses: LossStatistics) -> dict[str, float | None]:
    """loss (nats per learnt token), perplexity (exp of it) and nats_per_character; None where undefined."""
    sums = losses.rows.sum(axis=0)
    scores = {name: _number(float(LOSS_METRICS[name].of(sums))) for name in ("loss", "nats_per_character")}
    loss = scores["loss"]
    return {
        "loss": loss,
        "perplexity": None if loss is None else perplexity(loss),
        "nats_per_character": scores["nats_per_character"],
    }


def signatures(bleu_tokenizer: str) -> dict[str, str]:
    """What sacrebleu prints beside bleu and chrf, so that others can compute the same numbers."""
    return {"bleu": _signature(load_bleu(bleu_tokenizer)), "chrf": chrf_signature()}


def chrf_signature() -> str:
    return _signature(CHRF())


def one_line(text: str) -> str:
    """The text as a line of a file for the sacrebleu command: a line break (CRLF, CR or LF) is a space."""
    line: str = LINE_BREAK.sub(" ", text)
    return line


def bleu(sums: np.ndarray) -> float:
    """(10,) sums of `bleu_rows` -> BLEU by sacrebleu's own formula, at most 100 (it gives 100.00000000000004)."""
    predicted, referenced, *counts = (int(count) for count in sums)
    found = BLEU.compute_bleu(counts[:ORDERS], counts[ORDERS:], predicted, referenced, smooth_method="exp")
    return min(100.0, float(found.score))


def bleu_rows(references: Sequence[str], predictions: Sequence[str], *, bleu_tokenizer: str) -> np.ndarray:
    """(n, 10): lengths of prediction and reference, then matches and n-grams of the orders 1 to 4."""
    scorer = load_bleu(bleu_tokenizer, effective_order=True)
    found = [
        scorer.sentence_score(one_line(prediction), [one_line(reference)])
        for reference, prediction in zip(references, predictions, strict=True)
    ]
    return np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in found], dtype=np.float64)


def chrf_rows(references: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """(n, 18): for each order 1 to 6 the character n-grams of the prediction, of the reference, and the matches."""
    rows = np.zeros((len(references), CHARACTER_ORDERS, 3))
    for row, reference, prediction in zip(rows, references, predictions, strict=True):
        ours, theirs = (extract_all_char_ngrams(text, CHARACTER_ORDERS) for text in (prediction, reference))
        for order, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            # sacrebleu counts no n-grams of an order that the reference is too short for.
            row[order] = (mine.total() if other else 0, other.total(), (mine & other).total())
    return rows.reshape(len(references), -1)


def rouge_f(references: Sequence[str], predictions: Sequence[str]) -> dict[str, np.ndarray]:
    """rouge_1, rouge_2 and rouge_l: (n,) F1 of words, of pairs of words, and of the longest common subsequence.

    Lin, 2004, as the rouge_score package computes them without its stemmer; 0 where a side has no words.
    """
    scores: dict[str, list[float]] = {"rouge_1": [], "rouge_2": [], "rouge_l": []}
    for reference, prediction in zip(references, predictions, strict=True):
        theirs, ours = rouge_words(reference), rouge_words(prediction)
        for order in (1, 2):
            mine, other = Counter(_ngrams(ours, order)), Counter(_ngrams(theirs, order))
            scores[f"rouge_{order}"].append(_f1((mine & other).total(), mine.total(), other.total()))
        scores["rouge_l"].append(_f1(longest_common_subsequence(theirs, ours), len(ours), len(theirs)))
    return {name: np.array(values) for name, values in scores.items()}


def rouge_words(text: str) -> list[str]:
    """Runs of letters, digits and marks in lower case; each character of a script without spaces (Han, kana, Thai, Lao,
    Khmer, Burmese) by itself. No stemming; punctuation is dropped.
    """
    words: list[str] = ROUGE_WORD.findall(text.lower())
    return words


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, one bit for each word of `first`: the bit-parallel recurrence of Hyyrö (2004)."""
    places: dict[str, int] = {}
    for position, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << position
    every = (1 << len(first)) - 1
    row = every
    for word in second:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & every
    return len(first) - row.bit_count()


def exact_matches(references: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """(n,) 1 where the two are the same text but for white space around it."""
    pairs = zip(references, predictions, strict=True)
    return np.array([reference.strip() == prediction.strip() for reference, prediction in pairs], dtype=np.float64)


def words_of(texts: Iterable[str], *, bleu_tokenizer: str) -> list[list[str]]:
    """The tokens that BLEU counts."""
    tokenizer = load_bleu(bleu_tokenizer, effective_order=True).tokenizer
    return [tokenizer(one_line(text).rstrip()).split() for text in texts]


def repeated_share(words: Sequence[str], *, order: int = REPEATED_ORDER) -> float:
    """The share of words that lie in an n-gram which occurs again in the same text; 0 without words."""
    ngrams = _ngrams(words, order)
    counts = Counter(ngrams)
    repeated = {
        position for start, ngram in enumerate(ngrams) if counts[ngram] > 1 for position in range(start, start + order)
    }
    return len(repeated) / max(1, len(words))


def distinct_share(texts: Iterable[Sequence[str]], *, order: int) -> float | None:
    """Distinct n-grams / n-grams over all texts (Li et al., 2016); None where there are none. More texts repeat more:
    only sets of the same size compare.
    """
    counts = Counter(ngram for words in texts for ngram in _ngrams(words, order))
    return len(counts) / counts.total() if counts else None


def check_texts(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    cut: np.ndarray | None = None,
    origins: Sequence[str] | None = None,
) -> None:
    """Refuses what cannot be scored, as `text_statistics` says."""
    lengths = {len(references), len(predictions)} | {len(each) for each in (cut, origins) if each is not None}
    if len(lengths) > 1 or not references:
        raise ValueError("there must be documents, and one reference, prediction, cut and origin for each")
    empty = [number for number, reference in enumerate(references) if not reference.strip()]
    if empty:
        names = origins or [f"document {number + 1}" for number in range(len(references))]
        do = "Nothing can be scored against it: drop the row or fill it in."
        raise DataError.of([Problem(names[number], "the reference is empty", do) for number in empty])


def _ngrams(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(order)), strict=False))


def _f1(matches: int, predicted: int, referenced: int) -> float:
    precision, recall = matches / max(1, predicted), matches / max(1, referenced)
    return 2 * precision * recall / (precision + recall) if matches else 0.0


def _signature(metric: Metric) -> str:
    metric.corpus_score(["a"], [["a"]])  # it names the number of references, which is known after a score
    return str(metric.get_signature())


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
