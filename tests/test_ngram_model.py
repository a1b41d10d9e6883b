"""The n-gram model is a true distribution, equals Kneser-Ney counted by hand, and never looks outside its sequence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import DataError
from finetune.scores.ngram_model import FALLBACK_DISCOUNTS, NgramModel, fit_best_order
from finetune.scores.token_models import TokenModel, gather_tokens, mean_nats, pick_token

VOCABULARY = 7
TOKENS = st.integers(0, VOCABULARY - 1)
# One token more than one: something is learnt.
CORPORA = st.tuples(st.lists(TOKENS, min_size=2, max_size=30), st.lists(st.lists(TOKENS, max_size=30), max_size=6)).map(
    lambda found: [found[0], *found[1]]
)
CONTEXTS = st.lists(TOKENS, max_size=8)


def words(n: int, *, seed: int, vocab_size: int = 40) -> list[list[int]]:
    """Sentences of a random first-order chain with a start token 0 and an end token 1."""
    generator = np.random.default_rng(seed)
    chain = np.random.default_rng(0).dirichlet(np.full(vocab_size - 2, 0.05), size=vocab_size)
    sentences = []
    for _ in range(n):
        tokens = [0]
        for _ in range(generator.integers(3, 12)):
            tokens.append(2 + int(generator.choice(vocab_size - 2, p=chain[tokens[-1]])))
        sentences.append([*tokens, 1])
    return sentences


class CountedByHand:
    """Modified Kneser-Ney with dicts, as the formula reads."""

    def __init__(self, sequences: Sequence[Sequence[int]], *, order: int) -> None:
        self.order = order
        self.counts: list[Counter[tuple[int, ...]]] = []
        for length in range(1, order + 1):
            occurrences = [
                (tuple(tokens[end - length : end]), (number, "start") if end == length else tokens[end - length - 1])
                for number, tokens in enumerate(sequences)
                for end in range(max(2, length), len(tokens) + 1)
            ]
            if length < order:
                occurrences = list(set(occurrences))
            self.counts.append(Counter(ngram for ngram, _ in occurrences))

    def discount(self, count: int, *, length: int) -> float:
        having = Counter(self.counts[length - 1].values())
        one, two, three, four = (having[number] for number in (1, 2, 3, 4))
        found = [0.0]
        if one and two and three:
            share = one / (one + 2 * two)
            found = [share, 2 - 3 * share * three / two, 3 - 4 * share * four / three]
        usable = min(found) > 0 and 0 <= 1 - found[0] <= 2 - found[1] <= 3 - found[2]
        return float((found if usable else FALLBACK_DISCOUNTS)[min(count, 3) - 1])

    def probability(self, token: int, context: tuple[int, ...]) -> float:
        length = len(context) + 1
        lower = self.probability(token, context[1:]) if context else 1 / VOCABULARY
        after = {ngram[-1]: count for ngram, count in self.counts[length - 1].items() if ngram[:-1] == context}
        if not after:
            return lower
        taken = {kind: self.discount(count, length=length) for kind, count in after.items()}
        total = sum(after.values())
        own = (after[token] - taken[token]) / total if token in after else 0.0
        return own + sum(taken.values()) / total * lower


@settings(deadline=None, max_examples=60)
@given(CORPORA, CONTEXTS, st.integers(1, 5))
def test_every_token_has_mass_and_all_add_up_to_one(corpus: list[list[int]], context: list[int], order: int) -> None:
    model = NgramModel.fit(corpus, order=order, vocab_size=VOCABULARY)
    probabilities = model.probabilities(context)
    assert probabilities.shape == (VOCABULARY,) and (probabilities > 0).all()
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(CORPORA, CONTEXTS, st.integers(1, 4))
def test_it_equals_the_formula_counted_by_hand(corpus: list[list[int]], context: list[int], order: int) -> None:
    model = NgramModel.fit(corpus, order=order, vocab_size=VOCABULARY)
    oracle = CountedByHand(corpus, order=model.order)
    used = tuple(context[max(0, len(context) - model.order + 1) :])
    expected = [oracle.probability(token, used) for token in range(VOCABULARY)]
    np.testing.assert_allclose(model.probabilities(context), expected, rtol=1e-12)


def test_it_equals_the_formula_where_the_discounts_are_estimated() -> None:
    corpus = [[token % VOCABULARY for token in sentence] for sentence in words(25, seed=3)]
    model, oracle = NgramModel.fit(corpus, order=3, vocab_size=VOCABULARY), CountedByHand(corpus, order=3)
    taken = [oracle.discount(count, length=3) for count in (1, 2, 3)]
    assert taken != list(FALLBACK_DISCOUNTS)
    for context in [(0, 2), (3, 4), (6, 6)]:
        expected = [oracle.probability(token, context) for token in range(VOCABULARY)]
        np.testing.assert_allclose(model.probabilities(context), expected, rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(CORPORA, st.lists(TOKENS, min_size=1, max_size=12), st.integers(1, 5))
def test_the_nats_of_a_sequence_are_the_chain(corpus: list[list[int]], sequence: list[int], order: int) -> None:
    model = NgramModel.fit(corpus, order=order, vocab_size=VOCABULARY)
    chain = [-math.log(model.probabilities(sequence[:at])[sequence[at]]) for at in range(1, len(sequence))]
    np.testing.assert_allclose(model.nats(sequence), chain, rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(CORPORA)
def test_order_one_is_the_smoothed_frequency(corpus: list[list[int]]) -> None:
    model = NgramModel.fit(corpus, order=1, vocab_size=VOCABULARY)
    counts = np.bincount(np.concatenate([sequence[1:] for sequence in corpus]).astype(int), minlength=VOCABULARY)
    probabilities = model.probabilities([3, 1, 4])
    np.testing.assert_array_equal(probabilities, model.probabilities([]))
    # Seen more often is never less probable; what is taken from the seen tokens is spread evenly over all.
    assert (np.diff(probabilities[np.argsort(counts, kind="stable")]) >= -1e-12).all()
    oracle = CountedByHand(corpus, order=1)
    taken = np.array([oracle.discount(int(count), length=1) if count else 0.0 for count in counts])
    expected = (counts - taken) / counts.sum() + taken.sum() / counts.sum() / VOCABULARY
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(CORPORA, st.data())
def test_only_learnt_tokens_are_counted_and_scored(corpus: list[list[int]], data: st.DataObject) -> None:
    learn = [data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))) for ids in corpus]
    if not any(any(mask[1:]) for mask in learn):
        with pytest.raises(DataError, match="no token to learn from"):
            NgramModel.fit(corpus, order=3, vocab_size=VOCABULARY, learn=learn)
        return
    model = NgramModel.fit(corpus, order=3, vocab_size=VOCABULARY, learn=learn)
    assert model.training_tokens == sum(sum(mask[1:]) for mask in learn)
    ids, mask = corpus[0], learn[0]
    np.testing.assert_array_equal(model.nats(ids, mask), model.nats(ids)[np.array(mask[1:], dtype=bool)])


def test_an_answer_is_learned_from_the_prompt_before_it() -> None:
    corpus = [[2, 3, 4], [2, 5, 6]] * 20
    learn = [[False, False, True]] * 40
    model = NgramModel.fit(corpus, order=2, vocab_size=VOCABULARY, learn=learn)
    assert model.probabilities([2, 3]).argmax() == 4 and model.probabilities([2, 5]).argmax() == 6
    # What follows 2 is prompt in every sequence, so nothing was learned there but the frequencies of answers.
    np.testing.assert_array_equal(model.probabilities([2]), model.probabilities([]))


def test_nothing_is_learned_across_sequences() -> None:
    apart = NgramModel.fit([[1, 2], [3, 4]], order=2, vocab_size=VOCABULARY)
    np.testing.assert_array_equal(apart.probabilities([2]), apart.probabilities([]))
    together = NgramModel.fit([[1, 2, 3, 4]], order=2, vocab_size=VOCABULARY)
    assert together.probabilities([2])[3] > together.probabilities([])[3]


def test_what_follows_a_start_token_is_counted_as_often_as_it_occurs() -> None:
    corpus = [[0, 2, 3, 1]] * 30 + [[0, 4, 5, 1]] * 10
    model = NgramModel.fit(corpus, order=4, vocab_size=VOCABULARY)
    probabilities = model.probabilities([0])
    assert probabilities[2] / probabilities[4] == pytest.approx(3, rel=0.1)


def test_the_best_order_is_that_of_the_source() -> None:
    train, validation = words(400, seed=1), words(60, seed=2)
    model, nats_by_order = fit_best_order(train, validation, vocab_size=40, orders=(1, 2, 3))
    assert model.order == min(nats_by_order, key=nats_by_order.__getitem__) and model.order >= 2
    assert nats_by_order[model.order] == pytest.approx(mean_nats(model, validation, None))
    assert nats_by_order[1] > nats_by_order[2] + 0.5
    without, nats = fit_best_order(train, [], vocab_size=40)
    assert without.order == 2 and all(math.isnan(of_order) for of_order in nats.values())


def test_equal_orders_leave_the_shorter() -> None:
    model, nats = fit_best_order([[1, 2]] * 5, [[1, 2]], vocab_size=VOCABULARY)
    assert model.order == 2 and len(set(nats.values())) == 1


def test_samples_follow_the_distribution_and_stop_at_the_end() -> None:
    model: TokenModel = NgramModel.fit(words(300, seed=1), order=3, vocab_size=40)
    expected = NgramModel.fit(words(300, seed=1), order=3, vocab_size=40).probabilities([0])

    def sample(seed: int, *, greedy: bool = False, temperature: float = 1.0) -> list[int]:
        generator = np.random.default_rng(seed)
        return model.sample(
            [0], max_new_tokens=20, eos_id=1, generator=generator, greedy=greedy, temperature=temperature
        )

    drawn = [sample(seed) for seed in range(2000)]
    assert drawn[5] == sample(5)
    assert all(1 not in tokens[:-1] and (tokens[-1] == 1 or len(tokens) == 20) for tokens in drawn)
    first = np.bincount([tokens[0] for tokens in drawn], minlength=40) / len(drawn)
    assert np.abs(first - expected).sum() < 0.15
    assert sample(1, greedy=True) == sample(2, greedy=True) == sample(3, temperature=1e-4)
    assert sample(1, greedy=True)[0] == expected.argmax()
    assert len(model.sample([0], max_new_tokens=0, eos_id=1, generator=np.random.default_rng(0))) == 0


def test_temperature_sharpens() -> None:
    generator = np.random.default_rng(0)
    drawn = [pick_token(np.array([0.2, 0.8]), generator=generator, temperature=0.5) for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(0.64 / 0.68, abs=0.02)
    with pytest.raises(ValueError, match="above 0"):
        pick_token(np.array([1.0]), generator=generator, temperature=0)


def test_the_training_tokens_are_capped_and_it_is_said() -> None:
    sequences = [[1, 2, 3], [4, 5, 6, 1]]
    corpus = gather_tokens(sequences, vocab_size=VOCABULARY, most_tokens=5)
    assert corpus.ids.tolist() == [1, 2, 3, 4, 5] and corpus.positions.tolist() == [0, 1, 2, 0, 1] and corpus.cut
    assert corpus.learn.tolist() == [False, True, True, False, True]
    assert not gather_tokens(sequences, vocab_size=VOCABULARY, most_tokens=7).cut
    model = NgramModel.fit(sequences, order=6, vocab_size=VOCABULARY, most_tokens=5)
    assert model.settings == {"order": 3, "training_tokens": 3, "training": "cut"}


def test_wrong_input_is_refused() -> None:
    model = NgramModel.fit([[1, 2, 3]], order=2, vocab_size=VOCABULARY)
    for wrong in ([1, VOCABULARY], [-1, 2]):
        with pytest.raises(ValueError, match="vocabulary of 7"):
            model.nats(wrong)
        with pytest.raises(ValueError, match="vocabulary of 7"):
            NgramModel.fit([wrong], order=2, vocab_size=VOCABULARY)
    with pytest.raises(ValueError, match="2 entries for 3 tokens"):
        model.nats([1, 2, 3], [True, True])
    with pytest.raises(ValueError, match="order 0"):
        NgramModel.fit([[1, 2]], order=0, vocab_size=VOCABULARY)
    with pytest.raises(DataError, match="no token to learn from"):
        NgramModel.fit([[1], []], order=2, vocab_size=VOCABULARY)
    assert model.nats([]).shape == model.nats([3]).shape == (0,)
    assert math.isnan(mean_nats(model, [[3]], None))
