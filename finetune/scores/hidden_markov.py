"""A hidden-Markov generator: hidden states that follow each other, each with its own distribution of tokens.

    p(x_1 .. x_T) = sum over z_1 .. z_T of  start[z_1] emission[z_1, x_1]
                                            prod_t=2..T  transition[z_t-1, z_t] emission[z_t, x_t]

Fitted by Baum-Welch with the scaled forward and backward variables of Rabiner (1989), "A tutorial on hidden Markov
models and selected applications in speech recognition", Proceedings of the IEEE 77, section V.A. Scored and sampled by
the forward filter: p(x_t | x_1 .. x_t-1) = sum_z p(z_t | x_1 .. x_t-1) emission[z, x_t].

The fit sees all tokens of the sequences, prompts too: the model is of whole sequences. Long sequences are learned in
pieces of PIECE_TOKENS tokens, each as a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from finetune.errors import DataError
from finetune.scores.token_models import TokenCorpus, check_ids, gather_tokens, learnt_mask, pick_token

STATES = 32
ITERATIONS = 40
MOST_TOKENS = 400_000
PIECE_TOKENS = 128
# Tokens, padding included, whose variables are in memory at once: 8 MB for each array of 32 states.
BATCH_TOKENS = 32_768
# In nats per token: an iteration that gains less is the last.
LEAST_GAIN = 1e-4


@dataclass(frozen=True)
class HiddenMarkov:
    start: np.ndarray  # (states,)
    transition: np.ndarray  # (states, states), rows add up to 1
    emission: np.ndarray  # (states, vocab_size), rows add up to 1, all above 0
    training_tokens: int
    training_cut: bool  # whether there were more tokens than the fit took
    training_nats: tuple[float, ...]  # nats per token before each iteration, not smoothed; they never rise

    @classmethod
    def fit(
        cls,
        sequences: Iterable[Sequence[int]],
        *,
        vocab_size: int,
        states: int = STATES,
        iterations: int = ITERATIONS,
        seed: int = 0,
        most_tokens: int = MOST_TOKENS,
    ) -> HiddenMarkov:
        """Baum-Welch from a random start, at most `iterations` times, on the first `most_tokens` tokens. It ends in a
        local optimum: another seed may be a little better or worse.

        Raises DataError where there are no tokens, ValueError for an id outside the vocabulary.
        """
        if states < 1 or iterations < 1:
            raise ValueError(f"{states} states and {iterations} iterations, which must be 1 or more")
        corpus = gather_tokens(sequences, vocab_size=vocab_size, most_tokens=most_tokens)
        if not len(corpus.ids):
            raise DataError("data.source", "no tokens in the training sequences", "Give longer texts.")
        frequencies = np.bincount(corpus.ids, minlength=vocab_size)
        parameters = _random_parameters(frequencies, states=states, generator=np.random.default_rng(seed))
        batches = list(_batches(corpus, padding=vocab_size))
        training_nats: list[float] = []
        for _ in range(iterations):
            counts = _expected_counts(parameters, batches)
            training_nats.append(counts.nats / len(corpus.ids))
            parameters = counts.most_likely()
            if len(training_nats) > 1 and training_nats[-2] - training_nats[-1] < LEAST_GAIN:
                break
        return cls(
            start=parameters.start,
            transition=parameters.transition,
            emission=_smoothed(counts.emission, frequencies),
            training_tokens=len(corpus.ids),
            training_cut=corpus.cut,
            training_nats=tuple(training_nats),
        )

    @property
    def settings(self) -> Mapping[str, str | float]:
        cut = {"training": "cut"} if self.training_cut else {}
        done = {"iterations": len(self.training_nats), "training_tokens": self.training_tokens}
        return {"states": len(self.start), **done, **cut}

    def nats(self, ids: Sequence[int], learn: Sequence[bool] | None = None) -> np.ndarray:
        """(k,) float64: see TokenModel."""
        tokens = self._checked(ids)
        nats, _ = self._filter(tokens)
        learnt: np.ndarray = nats[learnt_mask(learn, length=len(tokens))]
        return learnt

    def probabilities(self, context: Sequence[int]) -> np.ndarray:
        """(vocab_size,) float64 that add up to 1: p(next token | context)."""
        _, ahead = self._filter(self._checked(context))
        return np.asarray(ahead @ self.emission)

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
        """The new tokens: see TokenModel. Starts from what the prompt says about the hidden state."""
        tokens: list[int] = []
        _, ahead = self._filter(self._checked(prompt))
        while len(tokens) < max_new_tokens and (not tokens or tokens[-1] != eos_id):
            probabilities = ahead @ self.emission
            tokens.append(pick_token(probabilities, generator=generator, temperature=temperature, greedy=greedy))
            _, ahead = self._step(ahead, self.emission[:, tokens[-1]])
        return tokens

    def _filter(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T,) nats of every token after those before it, and (states,) p(next state | all the tokens)."""
        likelihoods = np.empty(len(tokens))
        ahead = self.start
        for at, emitted in enumerate(self.emission.T[tokens]):
            likelihoods[at], ahead = self._step(ahead, emitted)
        return -np.log(likelihoods), ahead

    def _step(self, ahead: np.ndarray, emitted: np.ndarray) -> tuple[float, np.ndarray]:
        """The probability of one token, and p(next state) after it, from p(its state) and p(it | state)."""
        joint = ahead * emitted
        likelihood = joint.sum()
        return float(likelihood), (joint / likelihood) @ self.transition

    def _checked(self, ids: Sequence[int]) -> np.ndarray:
        tokens = np.asarray(ids, dtype=np.int64)
        check_ids(tokens, vocab_size=self.emission.shape[1])
        return tokens


@dataclass(frozen=True)
class _Parameters:
    start: np.ndarray  # (states,)
    transition: np.ndarray  # (states, states)
    emission: np.ndarray  # (states, vocab_size), may hold zeros


@dataclass(frozen=True)
class _Counts:
    """What the training tokens are expected to have done, summed over them: the E step."""

    start: np.ndarray
    transition: np.ndarray
    emission: np.ndarray
    nats: float

    def most_likely(self) -> _Parameters:
        """The M step: every row as shares."""
        return _Parameters(
            start=self.start / self.start.sum(),
            transition=_shares(self.transition),
            emission=_shares(self.emission),
        )


def _random_parameters(frequencies: np.ndarray, *, states: int, generator: np.random.Generator) -> _Parameters:
    """Every state emits the frequencies of the corpus, each times a random number: equal states would stay equal."""
    return _Parameters(
        start=generator.dirichlet(np.ones(states)),
        transition=generator.dirichlet(np.ones(states), size=states),
        emission=_shares(frequencies * generator.exponential(size=(states, len(frequencies)))),
    )


def _batches(corpus: TokenCorpus, *, padding: int) -> Iterator[np.ndarray]:
    """(T, B) token ids: pieces of about equal length side by side, `padding` below the shorter ones."""
    starts = np.flatnonzero(corpus.positions % PIECE_TOKENS == 0)
    lengths = np.diff(np.append(starts, len(corpus.ids)))
    by_length = np.argsort(lengths, kind="stable")
    pieces = max(1, BATCH_TOKENS // PIECE_TOKENS)
    for first in range(0, len(starts), pieces):
        chosen = by_length[first : first + pieces]
        rows = np.arange(lengths[chosen].max())[:, None]
        places = np.minimum(starts[chosen] + rows, len(corpus.ids) - 1)
        yield np.where(rows < lengths[chosen], corpus.ids[places], padding)


def _expected_counts(parameters: _Parameters, batches: Sequence[np.ndarray]) -> _Counts:
    states, vocab_size = parameters.emission.shape
    # Padding is emitted by every state with 1: it changes neither the likelihood nor what is known of earlier states.
    emission = np.vstack([parameters.emission.T, np.ones(states)])
    start, transition = np.zeros(states), np.zeros((states, states))
    emitted, nats = np.zeros((vocab_size + 1, states)), 0.0
    for tokens in batches:
        likelihoods = emission[tokens]
        forward, scales = _forward(parameters, likelihoods)
        messages, backward = _backward(parameters, likelihoods, scales)
        posterior = forward * backward
        nats -= float(np.log(scales).sum())
        start += posterior[0].sum(axis=0)
        real = (tokens[1:] != vocab_size)[:, :, None]
        transition += forward[:-1].reshape(-1, states).T @ (messages[1:] * real).reshape(-1, states)
        cells = np.arange(tokens.size)
        one_hot = csr_matrix((np.ones(tokens.size), (tokens.ravel(), cells)), shape=(vocab_size + 1, tokens.size))
        emitted += one_hot @ posterior.reshape(-1, states)
    return _Counts(
        start=start, transition=transition * parameters.transition, emission=emitted[:vocab_size].T, nats=nats
    )


def _forward(parameters: _Parameters, likelihoods: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, B, states) p(state | tokens up to here) and (T, B) p(token | tokens before), of (T, B, states) emissions."""
    forward, scales = np.empty_like(likelihoods), np.empty(likelihoods.shape[:2])
    ahead: np.ndarray = np.broadcast_to(parameters.start, likelihoods.shape[1:])
    for at, emitted in enumerate(likelihoods):
        joint = ahead * emitted
        scales[at] = joint.sum(axis=1)
        forward[at] = joint / scales[at][:, None]
        ahead = forward[at] @ parameters.transition
    return forward, scales


def _backward(parameters: _Parameters, likelihoods: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, B, states) twice: emission * backward / scale, which goes back over a transition, and backward itself."""
    backward, messages = np.empty_like(likelihoods), np.empty_like(likelihoods)
    back = np.ones(likelihoods.shape[1:])
    for at in range(len(likelihoods) - 1, -1, -1):
        backward[at] = back
        messages[at] = likelihoods[at] * back / scales[at][:, None]
        back = messages[at] @ parameters.transition.T
    return messages, backward


def _smoothed(counts: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """(states, vocab_size) shares of expected counts, interpolated with the frequencies of all states as Witten & Bell
    (1991) do: a state that emitted k different tokens n times gives k / (n + k) to them. The frequencies give as much
    to the uniform distribution, so that a token never seen has mass."""
    uniform = np.full(len(frequencies), 1 / len(frequencies))
    overall = _witten_bell(frequencies[None, :].astype(np.float64), uniform)[0]
    return _witten_bell(counts, overall)


def _witten_bell(counts: np.ndarray, lower: np.ndarray) -> np.ndarray:
    # Expected counts are fractions: of a token emitted 0.1 times there is a tenth. A state never used has only `lower`.
    kinds = np.maximum(np.minimum(counts, 1).sum(axis=1, keepdims=True), 1e-9)
    return np.asarray((counts + kinds * lower) / (counts.sum(axis=1, keepdims=True) + kinds))


def _shares(counts: np.ndarray) -> np.ndarray:
    """Every row divided by its sum; a row of zeros, a state never used, becomes uniform."""
    totals = counts.sum(axis=1, keepdims=True)
    shares: np.ndarray = np.where(totals > 0, counts / np.where(totals > 0, totals, 1.0), 1 / counts.shape[1])
    return shares
