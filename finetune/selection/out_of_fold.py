"""What the finished fold runs of one recipe say of every document, each predicted by the model that never saw it.

Before anything is averaged, the folds are checked against each other: the same documents, in the same folds, each held
out exactly once in every repeat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from finetune.errors import CheckpointError
from finetune.run_files import Scores
from finetune.runs import Run, read_table
from finetune.scores.classification import score_classification, score_predictions

COLUMNS = ("id", "group", "reference", "prediction", "probabilities")

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class FoldRun:
    """A finished run with fold `fold` of repeat `repeat` held out, both from 1."""

    run: Run
    fold: int
    repeat: int

    @cached_property
    def scores(self) -> Scores:
        return self.run.read(self.run.scores, Scores)

    @cached_property
    def held_out(self) -> Columns:
        """COLUMNS of the held-out documents."""
        return read_table(self.run.predictions("test"), columns=COLUMNS)

    @cached_property
    def folds(self) -> dict[str, int]:
        """The fold of every document by its id; changed copies are no documents."""
        return dict(zip(self._documents["id"], self._documents["fold"], strict=True))

    @cached_property
    def hashes(self) -> dict[str, str]:
        """The content hash of every document by its id."""
        return dict(zip(self._documents["id"], self._documents["content_hash"], strict=True))

    def documents(self, split: str) -> int:
        return self._documents["split"].count(split)

    @cached_property
    def _documents(self) -> Columns:
        table = read_table(self.run.splits, columns=["id", "content_hash", "split", "fold"])
        kept = [row for row, fold in enumerate(table["fold"]) if fold is not None]
        return {name: [values[row] for row in kept] for name, values in table.items()}


def check_folds(runs: Sequence[FoldRun]) -> None:
    """The runs of one recipe, any number of its folds, fit together; else CheckpointError names the one that does not.

    They have the same documents and texts; within a repeat every document is in the same fold; what a run held out is
    its own fold.
    """
    first_of_repeat: dict[int, FoldRun] = {}
    for each in runs:
        first = first_of_repeat.setdefault(each.repeat, each)
        if each.hashes != runs[0].hashes:
            raise _foreign(each, f"has other documents than {runs[0].run.folder}")
        if each.folds != first.folds:
            raise _foreign(each, f"divides the documents otherwise than {first.run.folder}")
        own = {id for id, fold in each.folds.items() if fold == each.fold}
        if sorted(own) != sorted(each.held_out["id"]):
            raise _foreign(each, f"has predictions of other documents than those of fold {each.fold}")
        if label_names(each) != label_names(runs[0]) or each.scores.baselines.keys() != runs[0].scores.baselines.keys():
            raise _foreign(each, f"has other labels or baselines than {runs[0].run.folder}")


def check_recipes(one: Sequence[FoldRun], other: Sequence[FoldRun]) -> None:
    """Two recipes are compared on the same documents, folds and references. Raises CheckpointError."""
    for mine, theirs in zip(one, other, strict=True):
        said = f"than {mine.run.folder}; recipes are compared on the same documents and folds"
        if mine.folds != theirs.folds:
            raise _foreign(theirs, f"has other documents, or divides them otherwise, {said}")
        references = [dict(zip(run.held_out["id"], run.held_out["reference"], strict=True)) for run in (mine, theirs)]
        if references[0] != references[1] or label_names(mine) != label_names(theirs):
            raise _foreign(theirs, f"has other labels {said}")


def out_of_fold(runs: Sequence[FoldRun]) -> Columns:
    """Every document once for each repeat: COLUMNS with `fold` and `repeat`, fold by fold."""
    table: Columns = {name: [row for each in runs for row in each.held_out[name]] for name in COLUMNS}
    for name in ("fold", "repeat"):
        table[name] = [getattr(each, name) for each in runs for _ in each.held_out["id"]]
    order = ("id", "group", "fold", "repeat", "reference", "prediction", "probabilities")
    return {name: table[name] for name in order}


def pooled_scores(runs: Sequence[FoldRun]) -> list[dict[str, float | None]]:
    """For each repeat the scores of all its out-of-fold predictions taken together, as if one model had made them."""
    repeats = sorted({each.repeat for each in runs})
    return [_scores(out_of_fold([each for each in runs if each.repeat == repeat]), runs[0]) for repeat in repeats]


def label_names(each: FoldRun) -> list[str]:
    return each.scores.splits["test"].label_names


def _scores(rows: Columns, each: FoldRun) -> dict[str, float | None]:
    names = label_names(each)
    multi_label = bool(rows["reference"]) and isinstance(rows["reference"][0], list)
    number = {name: place for place, name in enumerate(names)}
    references = _numbers(rows["reference"], number, multi_label=multi_label)
    # Each fold decided with its own thresholds, so what is counted are its predictions, not probabilities cut anew.
    predictions = _numbers(rows["prediction"], number, multi_label=multi_label)
    probabilities = np.array(rows["probabilities"], dtype=np.float64)
    ranked = score_classification(references, probabilities, label_names=names, multi_label=multi_label).values
    counted = score_predictions(references, predictions, label_names=names, multi_label=multi_label).values
    return {**ranked, **counted}


def _numbers(labels: Sequence[Any], number: Mapping[str, int], *, multi_label: bool) -> np.ndarray:
    """Class numbers (n,), or (n, C) of 0 and 1 when multi_label."""
    if not multi_label:
        return np.array([number[label] for label in labels], dtype=np.int64)
    marks = np.zeros((len(labels), len(number)), dtype=np.int64)
    for row, present in enumerate(labels):
        marks[row, [number[label] for label in present]] = 1
    return marks


def _foreign(each: FoldRun, what: str) -> CheckpointError:
    return CheckpointError(str(each.run.folder), what, "Delete this folder and run the same command again.")
