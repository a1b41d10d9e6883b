"""Where a writer is good and bad: its scores by slices, and the texts most and least like their references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from finetune.run_files import Analysis, Slice
from finetune.scorer import Array
from finetune.scores.slices import Members, length_members, row_members
from finetune.text_opponents import DOCUMENTS_AT_A_TIME
from finetune.text_scorer import TextScorer, shown_texts
from finetune.training.text_inference import TextPredictions
from finetune.writer_learner import WriterLearner

SLICE_SCORES = ("loss", "chrf", "bleu")
LENGTHS = 3


def analyse_texts(
    scorer: TextScorer, split: str, predicted: TextPredictions, learner: WriterLearner, *, examples: int
) -> Analysis:
    """Slices by length, group and the columns of evaluation.slices; then up to `examples` best and worst texts.

    `predicted` is of the rows of `split`, in their order. Lengths are learnt tokens, in three parts of about equal
    size. Best and worst are by chrF of each document; none is both, and with `examples` 0 there are none at all.
    """
    rows = scorer.prepared.splits[split]
    named, notes = row_members(rows)
    tokens = learnt_tokens(learner, split)
    members = [*length_members(tokens, np.ones_like(tokens), most_bins=LENGTHS), *named]
    best, worst = _best_and_worst(scorer.chrf_by_document(predicted), most=examples)
    if not examples:
        notes.append("report.examples is 0: no text is shown")
    return Analysis(
        slices=[_slice(scorer, split, predicted, one) for one in members],
        best_texts=shown_texts(scorer, split, predicted, predicted.written[best].tolist()),
        worst_texts=shown_texts(scorer, split, predicted, predicted.written[worst].tolist()),
        notes=notes,
    )


def learnt_tokens(learner: WriterLearner, split: str) -> Array:
    """(documents,) tokens of each document that the loss counts."""
    rows, counts = learner.rows[split].select_columns("learn"), list[int]()
    for first in range(0, len(rows), DOCUMENTS_AT_A_TIME):
        some: Sequence[list[list[bool]]] = rows[first : first + DOCUMENTS_AT_A_TIME]["learn"]
        counts += [sum(map(sum, sequences)) for sequences in some]
    return np.array(counts, dtype=np.int64)


def _best_and_worst(chrf: Array, *, most: int) -> tuple[Array, Array]:
    """The places of the highest scores, the highest first, and of the lowest; of equals the first come first."""
    worst = np.argsort(chrf, kind="stable")[: min(most, len(chrf) - len(chrf) // 2)]
    best = np.argsort(-chrf, kind="stable")
    best = best[~np.isin(best, worst)][: min(most, len(chrf) // 2)]
    return best, worst


def _slice(scorer: TextScorer, split: str, predicted: TextPredictions, members: Members) -> Slice:
    """The scores of some documents, made and given intervals as those of the whole split."""
    numbers = members.rows
    prepared = replace(scorer.prepared, splits={split: scorer.prepared.splits[split].select(numbers)})
    found = replace(scorer, prepared=prepared).score(_of_documents(predicted, numbers), split).scores
    scores = {name: found[name] for name in SLICE_SCORES if name in found}
    return Slice(by=members.by, name=members.name, documents=len(numbers), scores=scores)


def _of_documents(predicted: TextPredictions, numbers: Array) -> TextPredictions:
    return TextPredictions(
        nats=None if predicted.nats is None else predicted.nats[numbers],
        tokens=None if predicted.tokens is None else predicted.tokens[numbers],
        characters=predicted.characters[numbers],
        texts=[predicted.texts[int(number)] for number in numbers],
        references=[predicted.references[int(number)] for number in numbers],
        cut=predicted.cut[numbers],
    )
