"""The hidden-Markov model equals enumeration of its paths, its fit never gets worse, and it finds a planted chain."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import DataError
from finetune.scores import hidden_markov
from finetune.scores.hidden_markov import HiddenMarkov
from finetune.scores.token_models import TokenModel, gather_tokens, mean_nats

VOCABULARY = 6
TOKENS = st.integers(0, VOCABULARY - 1)
CORPORA = st.lists(st.lists(TOKENS, min_size=1, max_size=25), min_size=1, max_size=6)


def toy(seed: int = 0, *, states: int = 3, vocab_size: int = VOCABULARY) -> HiddenMarkov:
    generator = np.random.default_rng(seed)
    return HiddenMarkov(
        start=generator.dirichlet(np.ones(states)),
        transition=generator.dirichlet(np.ones(states), size=states),
        emission=generator.dirichlet(np.ones(vocab_size), size=states),
        training_tokens=0,
        training_cut=False,
        training_nats=(),
    )


def paths(model: HiddenMarkov, ids: list[int]) -> dict[tuple[int, ...], float]:
    """The joint probability of the tokens and every path of states."""
    found = {}
    for path in itertools.product(range(len(model.start)), repeat=len(ids)):
        probability = 1.0
        for at, (state, token) in enumerate(zip(path, ids, strict=True)):
            probability *= model.transition[path[at - 1], state] if at else model.start[state]
            probability *= model.emission[state, token]
        found[path] = probability
    return found


@settings(deadline=None, max_examples=25)
@given(st.lists(TOKENS, min_size=1, max_size=6), st.integers(0, 1000))
def test_the_filter_equals_enumeration_of_all_paths(ids: list[int], seed: int) -> None:
    model = toy(seed)
    prefixes = [sum(paths(model, ids[:end]).values()) for end in range(1, len(ids) + 1)]
    chain = [-math.log(after / before) for before, after in itertools.pairwise(prefixes)]
    np.testing.assert_allclose(model.nats(ids), chain, rtol=1e-9)
    ahead = [sum(paths(model, [*ids, token]).values()) / prefixes[-1] for token in range(VOCABULARY)]
    np.testing.assert_allclose(model.probabilities(ids), ahead, rtol=1e-9)


def test_the_expected_counts_equal_enumeration_of_all_paths() -> None:
    """With padding too: the sequences differ in length."""
    model, sequences = toy(4), [[0, 1, 5, 2], [3, 3], [4]]
    start, transition, emission, nats = np.zeros(3), np.zeros((3, 3)), np.zeros((3, VOCABULARY)), 0.0
    for ids in sequences:
        joint = paths(model, ids)
        total = sum(joint.values())
        nats -= math.log(total)
        for path, probability in joint.items():
            start[path[0]] += probability / total
            for before, after in itertools.pairwise(path):
                transition[before, after] += probability / total
            for state, token in zip(path, ids, strict=True):
                emission[state, token] += probability / total
    parameters = hidden_markov._Parameters(model.start, model.transition, model.emission)
    corpus = gather_tokens(sequences, vocab_size=VOCABULARY)
    counts = hidden_markov._expected_counts(parameters, list(hidden_markov._batches(corpus, padding=VOCABULARY)))
    np.testing.assert_allclose(counts.start, start, rtol=1e-9)
    np.testing.assert_allclose(counts.transition, transition, rtol=1e-9)
    np.testing.assert_allclose(counts.emission, emission, rtol=1e-9)
    assert counts.nats == pytest.approx(nats, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(CORPORA, st.integers(1, 5), st.integers(0, 1000))
def test_an_iteration_never_loses_training_likelihood(corpus: list[list[int]], states: int, seed: int) -> None:
    model = HiddenMarkov.fit(corpus, vocab_size=VOCABULARY, states=states, iterations=15, seed=seed)
    assert (np.diff(model.training_nats) <= 1e-9).all()


@settings(deadline=None, max_examples=40)
@given(CORPORA, st.lists(TOKENS, max_size=8))
def test_every_token_has_mass_and_all_add_up_to_one(corpus: list[list[int]], context: list[int]) -> None:
    model = HiddenMarkov.fit(corpus, vocab_size=VOCABULARY, states=3, iterations=5)
    probabilities = model.probabilities(context)
    assert (probabilities > 0).all() and probabilities.sum() == pytest.approx(1, abs=1e-12)
    sequence = [*context, 0, 5]
    chain = [-math.log(model.probabilities(sequence[:at])[sequence[at]]) for at in range(1, len(sequence))]
    np.testing.assert_allclose(model.nats(sequence), chain, rtol=1e-9)
    learn = [at % 2 == 0 for at in range(len(sequence))]
    np.testing.assert_array_equal(model.nats(sequence, learn), model.nats(sequence)[learn[1:]])


def test_a_planted_chain_is_found() -> None:
    """Two states that alternate, each with half of the tokens: at every step half of them are almost impossible."""
    planted = replace(
        toy(states=2),
        start=np.array([0.5, 0.5]),
        transition=np.array([[0.02, 0.98], [0.98, 0.02]]),
        emission=np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]) / 3 * 0.999 + 0.001 / 6,
    )
    sequences = [drawn(planted, length=40, seed=seed) for seed in range(60)]
    fresh = [drawn(planted, length=40, seed=seed) for seed in range(100, 120)]
    # More states than were planted: with two, Baum-Welch often stays at the local optimum where both are alike.
    fitted = HiddenMarkov.fit(sequences, vocab_size=VOCABULARY, states=6, seed=1)
    assert mean_nats(fitted, fresh, None) == pytest.approx(mean_nats(planted, fresh, None), abs=0.05)
    one_state = HiddenMarkov.fit(sequences, vocab_size=VOCABULARY, states=1)
    assert mean_nats(one_state, fresh, None) == pytest.approx(math.log(VOCABULARY), abs=0.01)


def drawn(model: HiddenMarkov, *, length: int, seed: int) -> list[int]:
    return model.sample([], max_new_tokens=length, eos_id=None, generator=np.random.default_rng(seed))


def test_samples_start_from_what_the_prompt_says_and_stop_at_the_end() -> None:
    model: TokenModel = toy(7)
    expected = toy(7).probabilities([2, 4, 4])

    def sample(seed: int, *, greedy: bool = False) -> list[int]:
        generator = np.random.default_rng(seed)
        return model.sample([2, 4, 4], max_new_tokens=5, eos_id=1, generator=generator, greedy=greedy)

    samples = [sample(seed) for seed in range(3000)]
    first = np.bincount([tokens[0] for tokens in samples], minlength=VOCABULARY) / len(samples)
    assert np.abs(first - expected).max() < 0.04
    assert samples[3] == sample(3) and sample(0, greedy=True) == sample(1, greedy=True)
    assert all(1 not in tokens[:-1] and (tokens[-1] == 1 or len(tokens) == 5) for tokens in samples)


def test_long_sequences_are_learned_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_markov, "PIECE_TOKENS", 4)
    monkeypatch.setattr(hidden_markov, "BATCH_TOKENS", 8)
    corpus = gather_tokens([[0, 1, 2, 3, 4, 5], [5, 5, 5]], vocab_size=VOCABULARY)
    pieces = [
        [int(token) for token in column if token != VOCABULARY]
        for tokens in hidden_markov._batches(corpus, padding=VOCABULARY)
        for column in tokens.T
    ]
    assert sorted(pieces) == [[0, 1, 2, 3], [4, 5], [5, 5, 5]]


def test_the_batches_do_not_change_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = [drawn(toy(2), length=length, seed=length) for length in range(1, 30)]
    whole = HiddenMarkov.fit(corpus, vocab_size=VOCABULARY, states=3, iterations=5)
    monkeypatch.setattr(hidden_markov, "BATCH_TOKENS", 2 * hidden_markov.PIECE_TOKENS)
    batched = HiddenMarkov.fit(corpus, vocab_size=VOCABULARY, states=3, iterations=5)
    np.testing.assert_allclose(batched.emission, whole.emission, rtol=1e-9)
    np.testing.assert_allclose(batched.transition, whole.transition, rtol=1e-9)


def test_the_seed_decides_and_the_settings_say_what_was_used() -> None:
    corpus = [drawn(toy(2), length=30, seed=seed) for seed in range(5)]
    first, again = (HiddenMarkov.fit(corpus, vocab_size=VOCABULARY, iterations=3, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.emission, again.emission)
    assert first.settings == {"states": 32, "iterations": 3, "training_tokens": 150}
    other = HiddenMarkov.fit(corpus, vocab_size=VOCABULARY, iterations=3, seed=4, most_tokens=100)
    assert other.settings["training"] == "cut" and other.training_tokens == 100
    assert not np.array_equal(first.emission, other.emission)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError, match="no tokens"):
        HiddenMarkov.fit([[], []], vocab_size=VOCABULARY)
    with pytest.raises(ValueError, match="0 states"):
        HiddenMarkov.fit([[1]], vocab_size=VOCABULARY, states=0)
    with pytest.raises(ValueError, match="vocabulary of 6"):
        HiddenMarkov.fit([[VOCABULARY]], vocab_size=VOCABULARY)
    with pytest.raises(ValueError, match="vocabulary of 6"):
        toy().nats([0, VOCABULARY])
    assert toy().nats([]).shape == toy().nats([2]).shape == (0,)
