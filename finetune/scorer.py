"""Document probabilities -> scores with intervals, and predictions written down.

One Scorer serves the model, its baselines and new data, so that all of them are judged by the same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.prepare import Prepared
from finetune.run_files import Score, SplitScores
from finetune.runs import Run, disk_faults, write_table
from finetune.scores.classification import predicted_labels, score_classification
from finetune.scores.conditions import conditions_of
from finetune.scores.coverage import simulated_coverage
from finetune.scores.intervals import (
    LEAST_EFFECTIVE_GROUPS,
    bootstrap_classification,
    bootstrap_mean,
    bootstrap_probabilities,
    class_intervals,
    effective_groups,
)
from finetune.tasks.base import Floats
from finetune.training.inference import DocumentPredictions

Array = npt.NDArray[Any]
Interval = tuple[float, float]


def reference_array(prepared: Prepared, split: str) -> Array:
    """Label numbers of a split: (documents,), or (documents, classes) of 0 and 1 for multi-label."""
    encoded = prepared.encoded[split]
    if not prepared.labels.multi_label:
        return np.asarray(encoded, dtype=np.int64)
    marks = np.zeros((len(encoded), len(prepared.labels.names)), dtype=np.int64)
    for row, present in enumerate(encoded):
        marks[row, present] = 1
    return marks


def validation_scorer(prepared: Prepared) -> Callable[[DocumentPredictions], Mapping[str, float | None]]:
    """Named scores of predictions of the validation documents."""
    references = reference_array(prepared, "validation")

    def score(predictions: DocumentPredictions) -> Mapping[str, float | None]:
        labels = prepared.labels
        return score_classification(
            references, predictions.probabilities, label_names=labels.names, multi_label=labels.multi_label
        ).values

    return score


def group_array(prepared: Prepared, split: str) -> Array | None:
    """Group numbers of a split (documents,), or None where no document has a group."""
    groups = prepared.splits[split]["group"]
    if all(group is None for group in groups):
        return None
    # A document without a group is a group of its own.
    named = [f"g{group}" if group is not None else f"d{row}" for row, group in enumerate(groups)]
    return np.unique(named, return_inverse=True)[1]


@dataclass(frozen=True)
class Predicted:
    """What a model said of a split: probabilities (n, C); where known, the loss of each document (n,), and from which
    probability a label is predicted (C,) of a multi-label model.
    """

    probabilities: Floats
    losses: Floats | None = None
    thresholds: Floats | None = None

    def decisions(self, *, multi_label: bool) -> Array:
        """(n,) label numbers, or (n, C) of 0 and 1."""
        return predicted_labels(self.probabilities, multi_label=multi_label, thresholds=self.thresholds)


@dataclass(frozen=True)
class Scorer:
    """Scores of predictions of the prepared splits, each with a 95 % interval over documents or groups."""

    prepared: Prepared
    bootstrap: int
    seed: int

    def score(self, predicted: Predicted, split: str) -> SplitScores:
        labels, references = self.prepared.labels, reference_array(self.prepared, split)
        groups, decisions = group_array(self.prepared, split), predicted.decisions(multi_label=labels.multi_label)
        scored = score_classification(
            references,
            predicted.probabilities,
            label_names=labels.names,
            multi_label=labels.multi_label,
            thresholds=predicted.thresholds,
        )
        values = dict(scored.values)
        if predicted.losses is not None:
            values["loss"] = float(predicted.losses.mean())
        intervals, by_class = self._intervals(references, predicted, decisions, groups)
        conditions = conditions_of(
            references, decisions, classes=len(labels.names), groups=groups, multi_label=labels.multi_label
        )

        def score(name: str, value: float | None) -> Score:
            note, interval = scored.notes.get(name), intervals.get(name)
            if value is None or interval is None:
                return Score(value=value, n=scored.n, note=note)
            coverage = simulated_coverage(name, **conditions)
            return Score(value=value, low=interval[0], high=interval[1], n=scored.n, note=note, coverage=coverage)

        return SplitScores(
            scores={name: score(name, value) for name, value in values.items()},
            per_class=[
                {**row, "intervals": by_class[number] if by_class else {}}
                for number, row in enumerate(scored.per_class)
            ],
            confusion=scored.confusion or None,
            label_names=list(labels.names),
        )

    def notes(self, split: str) -> list[str]:
        """Why a split has no intervals, where it has none."""
        groups = group_array(self.prepared, split)
        units = _units(len(self.prepared.splits[split]), groups)
        if not self.bootstrap or units >= LEAST_EFFECTIVE_GROUPS:
            return []
        what = "documents" if groups is None else "effective groups"
        return [f"{split}: no interval, {units:.3g} {what} are too few (at least {LEAST_EFFECTIVE_GROUPS})"]

    def _intervals(
        self, references: Array, predicted: Predicted, decisions: Array, groups: Array | None
    ) -> tuple[dict[str, Interval], list[dict[str, list[float]]]]:
        """Of every score, and of every class's rates; nothing where the recipe wants none or units are too few."""
        if not self.bootstrap or _units(len(references), groups) < LEAST_EFFECTIVE_GROUPS:
            return {}, []
        labels = self.prepared.labels
        drawn: dict[str, Any] = {"groups": groups, "resamples": self.bootstrap, "seed": self.seed}
        labelled: dict[str, Any] = {"classes": len(labels.names), "multi_label": labels.multi_label}
        intervals = {
            **bootstrap_classification(references, decisions, **labelled, **drawn),
            **bootstrap_probabilities(references, predicted.probabilities, **labelled, **drawn),
        }
        if predicted.losses is not None and (loss := bootstrap_mean(predicted.losses, **drawn)) is not None:
            intervals["loss"] = loss
        if "accuracy" in intervals:
            low, high = intervals["accuracy"]
            intervals["error_rate"] = (1 - high, 1 - low)
        return intervals, class_intervals(references, decisions, **labelled, **drawn)


def _units(documents: int, groups: Array | None) -> float:
    """How many documents, or effective groups of them, there are to draw."""
    return float(documents) if groups is None else effective_groups(groups)


def write_predictions(
    path: Path, prepared: Prepared, predicted: Predicted, split: str, *, run: Run, passages: Mapping[str, Array] = {}
) -> None:
    """One row a document: id, group, reference, prediction, a probability for each label, and `passages`."""
    labels, rows = prepared.labels, prepared.splits[split]
    named = [
        [labels.names[i] for i in np.flatnonzero(row)] if labels.multi_label else labels.names[int(row)]
        for row in predicted.decisions(multi_label=labels.multi_label)
    ]
    with disk_faults(run.folder):
        write_table(
            path,
            {
                "id": rows["id"],
                "group": rows["group"],
                "reference": rows["label"],
                "prediction": named,
                "probabilities": list(predicted.probabilities),
                **passages,
            },
        )
