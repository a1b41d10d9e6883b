"""Where a model is right and wrong: its scores by slices, its surest mistakes, and the documents it hesitated over.

Texts are read for the few documents that are shown, never as a column.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np

from finetune.data.labels import LabelMap
from finetune.predict import RowPredictions
from finetune.run_files import Analysis, ShownDocument
from finetune.scorer import Array, Predicted, Scorer, group_array, reference_array
from finetune.scores.slices import Outcomes, length_members, row_members, slice_scores

TEXT_CHARACTERS = 400
IDS_WITHOUT_TEXTS = 10  # shown of each kind where the recipe wants no text
HALF = 0.5  # from here on a label of several is predicted, unless it has a threshold


def analyse(
    scorer: Scorer, split: str, said: RowPredictions, predicted: Predicted, *, metric: str, examples: int
) -> Analysis:
    """Slices by length, group and the columns of evaluation.slices; then up to `examples` documents of each kind.

    `said` and `predicted` are of the rows of `split`, in their order. The surest mistakes have the highest probability
    of what is wrong; the most hesitant documents, right or wrong, the smallest distance between the two most probable
    labels, or, with several labels, of any label from its threshold. Of equals the first comes first.
    With `examples` 0 ten documents of each kind are named by their ids, without texts.
    """
    prepared = scorer.prepared
    rows, labels = prepared.splits[split], prepared.labels
    outcomes = Outcomes(
        references=reference_array(prepared, split),
        predictions=predicted.decisions(multi_label=labels.multi_label),
        probabilities=predicted.probabilities,
        label_names=labels.names,
        multi_label=labels.multi_label,
        groups=group_array(prepared, split),
    )
    named, notes = row_members(rows)
    members = [*length_members(said.tokens, said.windows), *named]
    mistakes, hesitant = _surest_mistakes(outcomes), _hesitant(outcomes, predicted.thresholds)
    most = examples or IDS_WITHOUT_TEXTS
    if not examples:
        notes.append("report.examples is 0: documents are named by their ids, without texts")
    shown = _Shown(rows, outcomes, said, labels, with_texts=examples > 0)
    return Analysis(
        slices=slice_scores(outcomes, members, metric=metric, resamples=scorer.bootstrap, seed=scorer.seed),
        confident_mistakes=shown.documents(mistakes[:most]),
        hesitant=shown.documents(hesitant[:most]),
        notes=notes,
    )


def _surest_mistakes(outcomes: Outcomes) -> Array:
    """Row numbers of the wrong documents, the surest first."""
    sure = outcomes.probabilities
    if outcomes.multi_label:
        # Each label is a yes or no; of a label that is wrongly left out, the probability of no counts.
        decided = np.where(outcomes.predictions > 0, sure, 1 - sure)
        confidence = np.where(outcomes.predictions != outcomes.references, decided, -1.0).max(axis=1)
    else:
        decided = sure[np.arange(len(sure)), outcomes.predictions]
        confidence = np.where(outcomes.predictions != outcomes.references, decided, -1.0)
    order: Array = np.argsort(-confidence, kind="stable")
    wrong = int((confidence >= 0).sum())
    return order[:wrong]


def _hesitant(outcomes: Outcomes, thresholds: Array | None) -> Array:
    """Row numbers of all documents, the most hesitant first."""
    if outcomes.multi_label:
        limits = HALF if thresholds is None else thresholds
        margin = np.abs(outcomes.probabilities - limits).min(axis=1)
    else:
        second, first = np.partition(outcomes.probabilities, -2, axis=1)[:, -2:].T
        margin = first - second
    return np.argsort(margin, kind="stable")


class _Shown:
    """Rows of a split as documents of the analysis."""

    def __init__(
        self, rows: datasets.Dataset, outcomes: Outcomes, said: RowPredictions, labels: LabelMap, *, with_texts: bool
    ) -> None:
        self._rows, self._outcomes, self._said, self._labels = rows, outcomes, said, labels
        self._with_texts = with_texts

    def documents(self, numbers: Array) -> list[ShownDocument]:
        columns = ["id", "group", *(["text"] if self._with_texts else [])]
        picked = self._rows.select(numbers).select_columns(columns)
        return [self._document(int(number), row) for number, row in zip(numbers, picked, strict=True)]

    def _document(self, number: int, row: dict[str, str | None]) -> ShownDocument:
        text, is_passage = row.get("text"), self._said.windows[number] > 1
        if text is not None:
            text = shortened(text, *self._said.passages[number].tolist()) if is_passage else shortened(text)
        references, predictions = self._outcomes.references[number], self._outcomes.predictions[number]
        return ShownDocument(
            id=str(row["id"]),
            group=row["group"],
            reference=self._named(references),
            prediction=self._named(predictions),
            probability=self._probability(number, predictions),
            reference_probability=self._probability(number, references),
            text=text,
            is_passage=bool(is_passage) and text is not None,
        )

    def _named(self, answer: Array) -> str | list[str]:
        names: Sequence[str] = self._labels.names
        return [names[int(i)] for i in np.flatnonzero(answer)] if self._labels.multi_label else names[int(answer)]

    def _probability(self, number: int, answer: Array) -> float:
        """That of the label; of several the lowest, and of none what the most probable label leaves."""
        probabilities = self._outcomes.probabilities[number]
        if not self._labels.multi_label:
            return float(probabilities[int(answer)])
        return float(probabilities[answer > 0].min()) if answer.any() else float(1 - probabilities.max())


def shortened(text: str, start: int = 0, end: int | None = None, *, most: int = TEXT_CHARACTERS) -> str:
    """`text[start:end]`, of which the first `most` characters stay, with an ellipsis where something is left out."""
    end = len(text) if end is None else end
    stop = min(end, start + most)
    return ("…" if start else "") + text[start:stop] + ("…" if stop < len(text) else "")
