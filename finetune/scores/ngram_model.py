"""An n-gram generator: interpolated, modified Kneser-Ney (Chen & Goodman 1999, "An empirical study of smoothing
techniques for language modeling", Computer Speech & Language 13).

With h the n-1 tokens before w and h' the same without its first:

    p(w | h) = (c(hw) - D(c(hw))) / sum_v c(hv)  +  backoff(h) p(w | h'),    the last p(w | h') is 1 / vocabulary

c is the number of occurrences for the longest n-grams and, below them, the number of different tokens seen before hw,
where every start of a sequence counts as a different one.
D takes D1, D2 or D3 off counts of 1, 2, and 3 or more, and backoff(h) hands out what was taken: the sum is exactly 1
and every token has mass. A context that was never seen leaves the shorter one as it is.

N-grams are kept without dicts: a context of L tokens is a number, the rank of (number of its last L-1 tokens, its first
token) in a sorted array; so is an n-gram, (number of its context, its last token).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.errors import DataError
from finetune.scores.token_models import TokenCorpus, check_ids, gather_tokens, learnt_mask, mean_nats, pick_token

ORDERS = (2, 3, 4, 5, 6)
# At most 32 bytes for each token and order are kept; 5 million tokens of 50,000 kinds took 1.2 GB while fitting.
MOST_TOKENS = 3_000_000
# Where the counts of a level are too few or too regular to estimate it, as those of single characters always are.
FALLBACK_DISCOUNTS = np.array([0.5, 1.0, 1.5])


@dataclass(frozen=True)
class NgramModel:
    order: int  # tokens of the longest n-gram, shorter than asked for where no sequence was that long
    vocab_size: int
    training_tokens: int  # learnt tokens that were counted
    training_cut: bool  # whether there were more than MOST_TOKENS tokens
    levels: tuple[_Level, ...]  # of contexts of 0, 1, ... order - 1 tokens

    @classmethod
    def fit(
        cls,
        sequences: Iterable[Sequence[int]],
        *,
        order: int,
        vocab_size: int,
        learn: Iterable[Sequence[bool]] | None = None,
        most_tokens: int = MOST_TOKENS,
    ) -> NgramModel:
        """Counts the learnt tokens, each after the up to order - 1 tokens before it, learnt or not, in its sequence.

        Raises DataError where nothing is learnt, ValueError for a wrong order, id or `learn`.
        """
        corpus = gather_tokens(sequences, learn, vocab_size=vocab_size, most_tokens=most_tokens)
        return cls.fit_corpus(corpus, order=order, vocab_size=vocab_size)

    @classmethod
    def fit_corpus(cls, corpus: TokenCorpus, *, order: int, vocab_size: int) -> NgramModel:
        """`fit` for sequences that were gathered already."""
        if order < 1:
            raise ValueError(f"order {order}, which must be 1 or more")
        events = np.flatnonzero(corpus.learn)
        if not len(events):
            raise DataError("data.source", "no token to learn from in the training sequences", "Give longer texts.")
        order = min(order, 1 + int(corpus.positions[events].max()))
        return cls(
            order=order,
            vocab_size=vocab_size,
            training_tokens=len(events),
            training_cut=corpus.cut,
            levels=_levels(corpus, events, order=order, vocab_size=vocab_size),
        )

    @property
    def settings(self) -> Mapping[str, str | float]:
        cut = {"training": "cut"} if self.training_cut else {}
        return {"order": self.order, "training_tokens": self.training_tokens, **cut}

    def nats(self, ids: Sequence[int], learn: Sequence[bool] | None = None) -> np.ndarray:
        """(k,) float64: see TokenModel."""
        tokens = np.asarray(ids, dtype=np.int64)
        check_ids(tokens, vocab_size=self.vocab_size)
        at = np.flatnonzero(learnt_mask(learn, length=len(tokens)))
        probabilities = np.full(len(at), 1 / self.vocab_size)
        # The learnt tokens whose context of `length` tokens was seen in training, and the numbers of those contexts.
        seen, contexts = np.arange(len(at)), np.zeros(len(at), dtype=np.int64)
        for length, level in enumerate(self.levels):
            if length:
                long_enough = at[seen] >= length
                seen, contexts = seen[long_enough], contexts[long_enough]
                numbers = _find(level.contexts, contexts * self.vocab_size + tokens[at[seen] - length])
                seen, contexts = seen[numbers >= 0], numbers[numbers >= 0]
            ngrams = _find(level.ngrams, contexts * self.vocab_size + tokens[at[seen]])
            shares = np.where(ngrams >= 0, level.shares[ngrams], 0.0)
            probabilities[seen] = shares + level.backoffs[contexts] * probabilities[seen]
        nats: np.ndarray = -np.log(probabilities)
        return nats

    def probabilities(self, context: Sequence[int]) -> np.ndarray:
        """(vocab_size,) float64 that add up to 1: p(next token | context), of which the last order - 1 tokens count."""
        size = self.vocab_size
        tokens = np.asarray(context[max(0, len(context) - self.order + 1) :], dtype=np.int64)
        check_ids(tokens, vocab_size=size)
        probabilities = np.full(size, 1 / size)
        number = 0
        for length, level in enumerate(self.levels[: len(tokens) + 1]):
            if length:
                number = int(_find(level.contexts, np.array([number * size + tokens[-length]]))[0])
                if number < 0:
                    break
            first, end = np.searchsorted(level.ngrams, [number * size, (number + 1) * size])
            probabilities *= level.backoffs[number]
            probabilities[level.ngrams[first:end] % size] += level.shares[first:end]
        return probabilities

    def sample(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        eos_id: int | None,
        generator: np.random.Generator,
        temperature: float = 1.0,
        greedy: bool = False,
    ) -> list[int]:
        """The new tokens: see TokenModel."""
        tokens = list(prompt)
        for _ in range(max_new_tokens):
            probabilities = self.probabilities(tokens)
            tokens.append(pick_token(probabilities, generator=generator, temperature=temperature, greedy=greedy))
            if tokens[-1] == eos_id:
                break
        return tokens[len(prompt) :]


def fit_best_order(
    train: Iterable[Sequence[int]],
    validation: Iterable[Sequence[int]],
    *,
    vocab_size: int,
    train_learn: Iterable[Sequence[bool]] | None = None,
    validation_learn: Iterable[Sequence[bool]] | None = None,
    orders: Sequence[int] = ORDERS,
    most_tokens: int = MOST_TOKENS,
) -> tuple[NgramModel, dict[int, float]]:
    """The model of the fewest nats per token on validation, the shorter of equals, and those nats of every order.

    Without a learnt token in validation the nats are NaN and the first order is taken.
    """
    corpus = gather_tokens(train, train_learn, vocab_size=vocab_size, most_tokens=most_tokens)
    # Every order reads them again, and they may be generators.
    validation = list(validation)
    validation_learn = None if validation_learn is None else list(validation_learn)
    best: NgramModel | None = None
    fewest_nats = float("nan")
    nats_by_order: dict[int, float] = {}
    for order in orders:
        model = NgramModel.fit_corpus(corpus, order=order, vocab_size=vocab_size)
        nats_by_order[order] = mean_nats(model, validation, validation_learn)
        if best is None or nats_by_order[order] < fewest_nats:
            best, fewest_nats = model, nats_by_order[order]
    if best is None:
        raise ValueError("no order to choose from")
    return best, nats_by_order


@dataclass(frozen=True)
class _Level:
    """All contexts of one length and the tokens seen after them. Keys are number * vocab_size + token, ascending."""

    contexts: np.ndarray  # (c,) keys: number of the context without its first token, and that token
    backoffs: np.ndarray  # (c,) the mass that goes to the shorter context
    ngrams: np.ndarray  # (g,) keys: number of the context, and the token after it
    shares: np.ndarray  # (g,) the discounted share of the context's mass


def _levels(corpus: TokenCorpus, events: np.ndarray, *, order: int, vocab_size: int) -> tuple[_Level, ...]:
    """The levels of contexts of 0 .. order - 1 tokens, counted from the learnt tokens at `events`."""
    levels: list[_Level] = []
    contexts, context_of = np.zeros(1, dtype=np.int64), np.zeros(len(events), dtype=np.int64)
    ngrams, first, ngram_of, counts = _distinct(context_of * vocab_size + corpus.ids[events])
    for length in range(1, order):
        shorter_contexts, shorter_ngrams = contexts, ngrams
        longer = corpus.positions[events] >= length
        at_start, shorter_of = ngram_of[~longer], ngram_of[longer]
        events = events[longer]
        contexts, context_of = np.unique(
            context_of[longer] * vocab_size + corpus.ids[events - length], return_inverse=True
        )
        ngrams, first, ngram_of, counts = _distinct(context_of * vocab_size + corpus.ids[events])
        # Every longer n-gram is one token seen before the shorter one. Every start of a sequence counts as one more, so
        # that what follows a start token, before which nothing can stand, is counted as often as it occurs.
        before = np.bincount(shorter_of[first], minlength=len(shorter_ngrams))
        before += np.bincount(at_start, minlength=len(shorter_ngrams))
        levels.append(_smoothed(shorter_contexts, shorter_ngrams, before, vocab_size=vocab_size))
    levels.append(_smoothed(contexts, ngrams, counts, vocab_size=vocab_size))
    return tuple(levels)


def _smoothed(contexts: np.ndarray, ngrams: np.ndarray, counts: np.ndarray, *, vocab_size: int) -> _Level:
    context_of = ngrams // vocab_size
    totals = np.bincount(context_of, weights=counts, minlength=len(contexts))
    taken = _discounts(counts)[np.minimum(counts, 3) - 1]
    return _Level(
        contexts=contexts,
        backoffs=np.bincount(context_of, weights=taken, minlength=len(contexts)) / totals,
        ngrams=ngrams,
        shares=(counts - taken) / totals[context_of],
    )


def _discounts(counts: np.ndarray) -> np.ndarray:
    """(3,) what is taken off counts of 1, 2, and 3 or more: equation 26 of Chen & Goodman, one estimate a level."""
    ones, twos, threes, fours = (float((counts == count).sum()) for count in (1, 2, 3, 4))
    if not (ones and twos and threes):
        return FALLBACK_DISCOUNTS
    share = ones / (ones + 2 * twos)
    found = np.array([share, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes])
    # Nothing taken would leave nothing for unseen tokens; and who was seen more often must not end with less.
    left = np.array([1, 2, 3]) - found
    return found if (found > 0).all() and (np.diff(left) >= 0).all() else FALLBACK_DISCOUNTS


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The keys, ascending; where each occurs first; the number of each entry's key; and how often each occurs."""
    found, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return found, first, inverse, counts


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The numbers of the wanted keys among the ascending keys, -1 where absent."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, -1)
