"""Classifiers side by side: labels in one order, scores of the stored predictions, and who is right where.

Only run folders are read, never a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from finetune.errors import CheckpointError, listed
from finetune.recipe import classifier_recipe
from finetune.run_files import PairedTest, Score
from finetune.scores.bootstrap import Interval
from finetune.scores.classification import (
    METRIC_NAMES,
    checked_probabilities,
    score_classification,
    score_predictions,
)
from finetune.scores.conditions import conditions_of
from finetune.scores.coverage import simulated_coverage
from finetune.scores.intervals import bootstrap_classification, bootstrap_probabilities
from finetune.scores.paired import TESTED_INSTEAD, Judged, compared_metric, paired_test
from finetune.selection.aligned_runs import (
    AlignedRun,
    Array,
    FinishedRun,
    differing,
    documents_of,
    folders,
    read_documents,
    shared_documents,
)
from finetune.selection.comparison import ChangedDocument, ChangedSides, LabelChanges

MOST_CHANGED_LISTED = 200
LABEL_METRICS = (*METRIC_NAMES, "loss")
COLUMNS = ("id", "group", "reference", "prediction", "probabilities")


@dataclass(frozen=True, kw_only=True)
class LabelledRun(AlignedRun):
    """references, predictions: (n,) numbers of `label_names`, or (n, C) of 0 and 1 for multi-label. probabilities:
    (n, C).
    """

    label_names: list[str]
    references: Array
    predictions: Array
    probabilities: Array

    @property
    def multi_label(self) -> bool:
        return classifier_recipe(self.recipe).data.multi_label

    @property
    def right(self) -> Array:
        """(n,) whether the whole document is right."""
        return np.asarray((self.predictions == self.references).reshape(len(self.ids), -1).all(axis=1))

    def chosen(self, rows: list[int]) -> Self:
        return replace(
            super().chosen(rows),
            references=self.references[rows],
            predictions=self.predictions[rows],
            probabilities=self.probabilities[rows],
        )


@dataclass(frozen=True)
class LabelContest:
    """Classifiers on the same documents, with numbers of the first run's labels."""

    runs: list[LabelledRun]
    metrics = LABEL_METRICS
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, finished: Sequence[FinishedRun], *, intersection: bool) -> LabelContest:
        """Raises CheckpointError for other labels and for test documents that are not the same."""
        runs = read_documents(finished, _labelled_run, columns=COLUMNS)
        for other in runs[1:]:
            _refuse_other_labels(runs[0], other)
        runs = [runs[0], *(_relabelled(run, runs[0].label_names) for run in runs[1:])]
        aligned = shared_documents(runs, intersection=intersection)
        for other in aligned[1:]:
            _refuse_other_references(aligned[0], other)
        return cls(aligned)

    def tested(self, metric: str) -> str:
        return TESTED_INSTEAD.get(metric, compared_metric(metric))

    def judged(self, metric: str) -> Array:
        """The numbers of the documents that a metric is about: all of them."""
        return np.arange(len(self.runs[0].ids))

    def scores(self, run: LabelledRun, groups: Array | None, *, resamples: int, seed: int) -> dict[str, Score]:
        """All scores of the stored predictions. Not `loss`: what a training weighs is not in the predictions."""
        labels: dict[str, Any] = {"label_names": run.label_names, "multi_label": run.multi_label}
        probable = score_classification(run.references, run.probabilities, **labels)
        # A run may have decided with thresholds of its own, so what it predicted counts, not what is most probable.
        counted = score_predictions(run.references, run.predictions, **labels)
        values = probable.values | counted.values
        notes = {name: note for name, note in probable.notes.items() if name not in counted.values} | counted.notes
        intervals = _intervals(run, groups, resamples=resamples, seed=seed)
        conditions = conditions_of(
            run.references, run.predictions, classes=len(run.label_names), groups=groups, multi_label=run.multi_label
        )
        scores = {}
        for name, value in values.items():
            low, high = intervals.get(name, (None, None)) if value is not None else (None, None)
            coverage = simulated_coverage(name, **conditions) if low is not None else None
            scores[name] = Score(
                value=value, low=low, high=high, n=len(run.ids), note=notes.get(name), coverage=coverage
            )
        return scores

    def test(
        self, first: LabelledRun, second: LabelledRun, groups: Array | None, *, metric: str, resamples: int, seed: int
    ) -> PairedTest:
        return paired_test(
            first.references,
            Judged(first.predictions, first.probabilities),
            Judged(second.predictions, second.probabilities),
            classes=len(first.label_names),
            metric=metric,
            groups=groups,
            resamples=resamples,
            seed=seed,
            multi_label=first.multi_label,
        )

    def changed(
        self, first: LabelledRun, second: LabelledRun, groups: Sequence[str | None], *, metric: str
    ) -> ChangedSides:
        """Which documents only one of the two gets right, whatever the metric."""
        only_first, only_second = first.right & ~second.right, second.right & ~first.right
        return ChangedSides(
            first=first.name,
            second=second.name,
            both_right=int((first.right & second.right).sum()),
            both_wrong=int((~first.right & ~second.right).sum()),
            only_first_right=int(only_first.sum()),
            only_second_right=int(only_second.sum()),
            by_label=_by_label(first, only_first, only_second),
            documents=[
                ChangedDocument(
                    id=first.ids[row],
                    group=groups[row],
                    reference=_named(first, first.references[row]),
                    first=_named(first, first.predictions[row]),
                    second=_named(second, second.predictions[row]),
                    right="first" if only_first[row] else "second",
                )
                for row in np.flatnonzero(only_first | only_second)[:MOST_CHANGED_LISTED].tolist()
            ],
        )


def _labelled_run(finished: FinishedRun, table: pa.Table) -> LabelledRun:
    names, multi_label = finished.scores.splits["test"].label_names, classifier_recipe(finished.recipe).data.multi_label
    flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return LabelledRun(
        **documents_of(finished, table),
        label_names=names,
        references=_encoded(table["reference"].to_pylist(), names, multi_label=multi_label),
        predictions=_encoded(table["prediction"].to_pylist(), names, multi_label=multi_label),
        probabilities=checked_probabilities(
            flat.reshape(len(table), len(names)), classes=len(names), multi_label=multi_label
        ),
    )


def _encoded(labels: Sequence[Any], names: Sequence[str], *, multi_label: bool) -> Array:
    number = {name: index for index, name in enumerate(names)}
    if not multi_label:
        return np.array([number[label] for label in labels], dtype=np.int64)
    marks = np.zeros((len(labels), len(names)), dtype=np.int64)
    for row, present in enumerate(labels):
        marks[row, [number[label] for label in present]] = 1
    return marks


def _refuse_other_labels(first: LabelledRun, other: LabelledRun) -> None:
    if first.multi_label != other.multi_label:
        raise CheckpointError(folders(first, other), "cannot be compared: one is multi-label, the other is not")
    if set(first.label_names) != set(other.label_names):
        only = [
            f"only {one.name} has {listed(missing)}"
            for one, two in ((first, other), (other, first))
            if (missing := [repr(name) for name in one.label_names if name not in two.label_names])
        ]
        what = f"have different labels: {'; '.join(only)}"
        raise CheckpointError(folders(first, other), what, "Train both with the same labels.")


def _relabelled(run: LabelledRun, names: list[str]) -> LabelledRun:
    """The same with numbers of `names`, which are the same labels in another order."""
    old_numbers = [run.label_names.index(name) for name in names]
    new_numbers = np.argsort(old_numbers)

    def moved(labels: Array) -> Array:
        return labels[:, old_numbers] if run.multi_label else new_numbers[labels]

    return replace(
        run,
        label_names=names,
        references=moved(run.references),
        predictions=moved(run.predictions),
        probabilities=run.probabilities[:, old_numbers],
    )


def _refuse_other_references(first: LabelledRun, other: LabelledRun) -> None:
    differ = (first.references != other.references).reshape(len(first.ids), -1).any(axis=1)
    if differ.any():
        what = f"have different labels for {differing(first, differ)}"
        raise CheckpointError(folders(first, other), what, "Train both on the same labelled data.")


def _intervals(run: LabelledRun, groups: Array | None, *, resamples: int, seed: int) -> dict[str, Interval]:
    if not resamples:
        return {}
    drawn: dict[str, Any] = {"groups": groups, "resamples": resamples, "seed": seed}
    drawn |= {"classes": len(run.label_names), "multi_label": run.multi_label}
    intervals = {
        **bootstrap_classification(run.references, run.predictions, **drawn),
        **bootstrap_probabilities(run.references, run.probabilities, **drawn),
    }
    if "accuracy" in intervals:
        low, high = intervals["accuracy"]
        intervals["error_rate"] = (1 - high, 1 - low)
    return intervals


def _by_label(first: LabelledRun, only_first: Array, only_second: Array) -> list[LabelChanges]:
    numbers = np.arange(len(first.label_names))
    has_label = first.references > 0 if first.multi_label else first.references[:, None] == numbers
    rows = [
        LabelChanges(
            label=label,
            only_first_right=int((only_first & has_label[:, number]).sum()),
            only_second_right=int((only_second & has_label[:, number]).sum()),
        )
        for number, label in enumerate(first.label_names)
    ]
    return [row for row in rows if row.only_first_right or row.only_second_right]


def _named(run: LabelledRun, label: Any) -> str | list[str]:
    if run.multi_label:
        return [run.label_names[number] for number in np.flatnonzero(label)]
    return run.label_names[int(label)]
