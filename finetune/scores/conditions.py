"""How much a set of documents gives to go by: what decides how far an interval of its scores can be trusted."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from finetune.scores.intervals import effective_groups, least_class_groups


class Conditions(TypedDict):
    """What coverage.simulated_coverage asks for; see there."""

    documents: int
    least_class: int
    effective_groups: float | None
    class_groups: float | None
    least_predicted: int | None


def conditions_of(
    references: np.ndarray, predictions: np.ndarray, *, classes: int, groups: np.ndarray | None, multi_label: bool
) -> Conditions:
    """Counts over the classes that have documents.

    references, predictions: (n,) class numbers, or (n, C) of 0 and 1 when multi_label. groups: (n,) or None.
    """
    true, predicted = (_counts(each, classes=classes, multi_label=multi_label) for each in (references, predictions))
    known = true > 0
    return Conditions(
        documents=len(references),
        least_class=int(true[known].min(initial=len(references))),
        effective_groups=None if groups is None else effective_groups(groups),
        class_groups=(
            None if groups is None else least_class_groups(references, groups, classes=classes, multi_label=multi_label)
        ),
        least_predicted=int(predicted[known].min(initial=len(references))),
    )


def _counts(labels: np.ndarray, *, classes: int, multi_label: bool) -> np.ndarray:
    return labels.sum(axis=0) if multi_label else np.bincount(labels, minlength=classes)
