"""Which token comes next: settings and logits -> tokens, for each row as if it were alone.

What is drawn depends on (seed, key of the document, step) alone: a document's numbers come from a Philox generator of
its own, and pick a token by the inverse of the distribution function.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class GenerationSettings:
    """transformers' names and meanings; top_k 0 and top_p 1 choose among all tokens."""

    max_new_tokens: int
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    seed: int = 0


class NextToken:
    """Scores (rows, vocabulary) -> the next token of each row (rows,), with transformers' own processors.

    keys (rows,) name the rows' documents for what is drawn. paddings (rows,) are the tokens before each row's first.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        settings: GenerationSettings,
        *,
        eos_ids: AbstractSet[int],
        keys: Sequence[int],
        paddings: Sequence[int],
    ) -> None:
        self._settings = settings
        self._paddings = list(paddings)
        self._by_history: Any = _history_processors(network, settings, eos_ids=eos_ids)
        self._warpers: Any = _warpers(settings)
        self._no_end = SuppressTokensLogitsProcessor(sorted(eos_ids), device=str(network.device)) if eos_ids else None
        self._draws = torch.zeros(len(keys), settings.max_new_tokens, dtype=torch.float64)
        if settings.do_sample:
            drawn = [_numbers(settings.seed, key, settings.max_new_tokens) for key in keys]
            self._draws = torch.from_numpy(np.stack(drawn)).to(network.device)

    def __call__(self, read: torch.Tensor, scores: torch.Tensor, *, step: int) -> torch.Tensor:
        """`read` (rows, t) are the tokens so far, padding included; `step` counts the new ones from 0."""
        if self._by_history:
            scores = self._with_history(read, scores)
        if step < self._settings.min_new_tokens and self._no_end is not None:
            scores = self._no_end(read, scores)
        if not self._settings.do_sample:
            return scores.argmax(dim=-1)
        heaped = self._warpers(read, scores).double().softmax(dim=-1).cumsum(dim=-1)
        reached = self._draws[:, step, None] * heaped[:, -1:]
        return torch.searchsorted(heaped, reached, right=True)[:, 0].clamp(max=heaped.shape[1] - 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows are still being written."""
        self._paddings = [self._paddings[row] for row in rows]
        self._draws = self._draws[list(rows)]

    def _with_history(self, read: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Padding is no history: it would count as repeated, and a pad token is often the end token.
        alike: defaultdict[int, list[int]] = defaultdict(list)
        for row, padding in enumerate(self._paddings):
            alike[padding].append(row)
        processed = torch.empty_like(scores)
        for padding, rows in alike.items():
            processed[rows] = self._by_history(read[rows, padding:], scores[rows])
        return processed


def _numbers(seed: int, key: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, key)))).random(count)


def _history_processors(
    network: PreTrainedModel, settings: GenerationSettings, *, eos_ids: AbstractSet[int]
) -> LogitsProcessorList:
    """What depends on the tokens so far, in transformers' order; what a model's own settings force is kept."""
    told, device = network.generation_config, str(network.device)
    processors: list[LogitsProcessor] = []
    if settings.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
    if told.bad_words_ids is not None:
        processors.append(NoBadWordsLogitsProcessor(told.bad_words_ids, sorted(eos_ids)))
    if network.config.is_encoder_decoder:  # these count from the start of what is written
        if told.forced_bos_token_id is not None:
            processors.append(ForcedBOSTokenLogitsProcessor(told.forced_bos_token_id))
        if told.forced_eos_token_id is not None:
            limit = 1 + settings.max_new_tokens
            processors.append(ForcedEOSTokenLogitsProcessor(limit, told.forced_eos_token_id, device=device))
        if told.begin_suppress_tokens is not None:
            begin = 1 if told.forced_bos_token_id is None else 2
            processors.append(SuppressTokensAtBeginLogitsProcessor(told.begin_suppress_tokens, begin, device))
    if told.suppress_tokens is not None:
        processors.append(SuppressTokensLogitsProcessor(told.suppress_tokens, device=device))
    return LogitsProcessorList(processors)


def _warpers(settings: GenerationSettings) -> LogitsProcessorList:
    warpers: list[LogitsProcessor] = []
    if settings.temperature != 1:
        warpers.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    return LogitsProcessorList(warpers)
