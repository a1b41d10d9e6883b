"""What the cheap generators share: they speak the token ids of the fine-tuned model, so that their nats per token stand
beside its loss.

A sequence is `ids` with `learn` of the same length: `learn[i]` says whether token i, predicted from the tokens before
it, counts. The token at position 0 has nothing before it and is never predicted, whatever `learn[0]` says; an
encoder-decoder's first label is predicted, so its sequences come with the decoder's start token in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np


class TokenModel(Protocol):
    """A fitted generator of tokens. `settings` says what the fit chose and used, for the report."""

    @property
    def settings(self) -> Mapping[str, str | float]: ...

    def nats(self, ids: Sequence[int], learn: Sequence[bool] | None = None) -> np.ndarray:
        """(k,) float64: -ln p(token | the tokens before it in the sequence) of its k learnt tokens, in their order.

        `learn` None means all but the first. Raises ValueError for an id outside the vocabulary.
        """

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
        """The new tokens alone. They end with `eos_id`, or were cut off at `max_new_tokens`; greedy ignores chance."""


@dataclass(frozen=True)
class TokenCorpus:
    """Sequences laid end to end, n tokens in all."""

    ids: np.ndarray  # (n,) int64
    learn: np.ndarray  # (n,) bool, False at every position 0
    positions: np.ndarray  # (n,) int64: tokens before it in its own sequence
    cut: bool  # whether `most_tokens` left something out


def gather_tokens(
    sequences: Iterable[Sequence[int]],
    learn: Iterable[Sequence[bool]] | None = None,
    *,
    vocab_size: int,
    most_tokens: int | None = None,
) -> TokenCorpus:
    """The first `most_tokens` tokens of the sequences in the given order: give them shuffled.

    Raises ValueError where an id is outside 0 <= id < vocab_size, or `learn` does not fit its sequence.
    """
    pieces: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    room = most_tokens
    cut = False
    masks_given: Iterable[Sequence[bool] | None] = repeat(None) if learn is None else learn
    for sequence, mask in zip(sequences, masks_given, strict=learn is not None):
        if room is not None and len(sequence) > room:
            cut = True
        pieces.append(np.asarray(sequence, dtype=np.int64)[:room])
        masks.append(learnt_mask(mask, length=len(sequence))[:room])
        if room is not None:
            room -= len(pieces[-1])
        if cut:
            break
    ids = np.concatenate([np.empty(0, dtype=np.int64), *pieces])
    check_ids(ids, vocab_size=vocab_size)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    return TokenCorpus(
        ids=ids,
        learn=np.concatenate([np.empty(0, dtype=bool), *masks]),
        positions=np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths),
        cut=cut,
    )


def learnt_mask(learn: Sequence[bool] | None, *, length: int) -> np.ndarray:
    """(length,) bool, False at position 0; None means all the others. Raises ValueError where lengths differ."""
    mask = np.ones(length, dtype=bool) if learn is None else np.array(learn, dtype=bool)
    if len(mask) != length:
        raise ValueError(f"learn has {len(mask)} entries for {length} tokens")
    mask[:1] = False
    return mask


def check_ids(ids: np.ndarray, *, vocab_size: int) -> None:
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise ValueError(f"token ids from {ids.min()} to {ids.max()} with a vocabulary of {vocab_size}")


def mean_nats(model: TokenModel, sequences: Iterable[Sequence[int]], learn: Iterable[Sequence[bool]] | None) -> float:
    """Sum of nats / learnt tokens over all sequences, as the model's own evaluation loss; NaN without learnt tokens."""
    masks: Iterable[Sequence[bool] | None] = repeat(None) if learn is None else learn
    nats, tokens = 0.0, 0
    for sequence, mask in zip(sequences, masks, strict=learn is not None):
        of_tokens = model.nats(sequence, mask)
        nats += float(of_tokens.sum())
        tokens += len(of_tokens)
    return nats / tokens if tokens else float("nan")


def pick_token(
    probabilities: np.ndarray, *, generator: np.random.Generator, temperature: float = 1.0, greedy: bool = False
) -> int:
    """A token of p(token)^(1/temperature), made to add up to 1; greedy: the most probable, the first of equals.

    `probabilities` is (vocab_size,), all above 0.
    """
    if greedy:
        return int(probabilities.argmax())
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}, which must be above 0")
    if temperature != 1:
        # In logarithms: a low temperature would underflow every weight but the largest, and then that one too.
        logarithms = np.log(probabilities)
        probabilities = np.exp((logarithms - logarithms.max()) / temperature)
    cumulative = probabilities.cumsum()
    token = cumulative.searchsorted(generator.random() * cumulative[-1], side="right")
    return min(int(token), len(probabilities) - 1)
