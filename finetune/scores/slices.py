"""Scores of parts of a test set: documents of one length, one group, or one value of a column.

A slice says where a model is weak; with many slices some are low by chance, which is why each has its interval.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from finetune.data.examples import SLICE_PREFIX
from finetune.run_files import Score, Slice
from finetune.scores.classification import COUNTED_NAMES, Scores, score_classification, score_predictions
from finetune.scores.conditions import conditions_of
from finetune.scores.coverage import simulated_coverage
from finetune.scores.intervals import bootstrap_classification, bootstrap_probabilities

MOST_SLICES = 20  # of one column or of the groups
FEWEST_DOCUMENTS = 5  # a value of fewer documents has a score of chance
LENGTH_BINS = 4
OTHERS, BLANK, MANY_WINDOWS = "others", "(blank)", "more than one window"


@dataclass(frozen=True)
class Members:
    """The documents of a slice: their row numbers, (documents,)."""

    by: str
    name: str
    rows: np.ndarray


@dataclass(frozen=True)
class Outcomes:
    """n documents with C labels: references and predictions (n,) label numbers, or (n, C) of 0 and 1 when multi_label;
    probabilities (n, C); groups (n,) numbers or None.
    """

    references: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    label_names: Sequence[str]
    multi_label: bool = False
    groups: np.ndarray | None = None

    def of(self, rows: np.ndarray) -> Outcomes:
        return Outcomes(
            self.references[rows],
            self.predictions[rows],
            self.probabilities[rows],
            self.label_names,
            self.multi_label,
            None if self.groups is None else self.groups[rows],
        )


def slice_scores(
    outcomes: Outcomes, members: Iterable[Members], *, metric: str, resamples: int, seed: int
) -> list[Slice]:
    """Accuracy, macro-F1 and `metric` of each slice, with 95 % intervals over its own documents or groups.

    A macro average is over the labels that the slice's documents have: a label without documents here would count as
    0 and make slices of few labels look bad; the note says how many took part. A wrong prediction of another label
    still costs its document's own label the recall. `loss` is told as log_loss. Below ten documents or effective
    groups, and with `resamples` 0, there is no interval.
    """
    names = tuple(dict.fromkeys(("accuracy", "f1_macro", "log_loss" if metric == "loss" else metric)))
    return [
        Slice(
            by=one.by,
            name=one.name,
            documents=len(one.rows),
            scores=_scores(outcomes.of(one.rows), names, _Drawn(resamples, seed)),
        )
        for one in members
    ]


def length_members(tokens: np.ndarray, windows: np.ndarray, *, most_bins: int = LENGTH_BINS) -> list[Members]:
    """Documents of one window in some parts of about equal size by their tokens, and those of several windows.

    tokens, windows: (n,) whole numbers. Empty where all documents would be in one slice.
    """
    single, several = np.flatnonzero(windows <= 1), np.flatnonzero(windows > 1)
    bins = max(1, min(most_bins, len(single) // FEWEST_DOCUMENTS))
    shares = np.arange(1, bins + 1) / bins
    tops = np.unique(np.quantile(tokens[single], shares, method="inverted_cdf")) if len(single) else np.zeros(0)
    place = np.searchsorted(tops, tokens[single])
    members = []
    for number in range(len(tops)):
        rows = single[place == number]
        low, high = int(tokens[rows].min()), int(tokens[rows].max())
        members.append(Members("length", f"{low:,} to {high:,} tokens" if low < high else f"{low:,} tokens", rows))
    if len(several):
        members.append(Members("length", MANY_WINDOWS, several))
    return members if len(members) > 1 else []


def row_members(rows: datasets.Dataset) -> tuple[list[Members], list[str]]:
    """The slices by group and by each column of evaluation.slices, and a note for each column that makes none."""
    members, notes = value_members("group", rows["group"][:]), []
    for column in (each for each in rows.column_names if each.startswith(SLICE_PREFIX)):
        name = column.removeprefix(SLICE_PREFIX)
        found = value_members(f"column:{name}", rows[column][:])
        members += found
        if not found:
            why = f"all documents have the same value, or no value has {FEWEST_DOCUMENTS} of them"
            notes.append(f"evaluation.slices: '{name}' makes no slices: {why}")
    return members, notes


def value_members(by: str, values: Sequence[str | None]) -> list[Members]:
    """The documents of each of the 20 most frequent values, largest first, then the rest together, then the blank.

    A value of fewer than five documents is among the rest. A value that is itself called `others` or `(blank)` is in
    quotes. Empty where all documents would be in one slice.
    """
    rows_of: dict[Hashable, list[int]] = {}
    for row, value in enumerate(values):
        rows_of.setdefault(value, []).append(row)
    blank = rows_of.pop(None, [])
    ranked = sorted(rows_of.items(), key=lambda item: (-len(item[1]), str(item[0])))
    shown = [item for item in ranked[:MOST_SLICES] if len(item[1]) >= FEWEST_DOCUMENTS]
    rest = sorted(row for _, rows in ranked[len(shown) :] for row in rows)
    named = [(f"'{value}'" if value in (OTHERS, BLANK) else str(value), rows) for value, rows in shown]
    named += [(OTHERS, rest)] if rest else []
    named += [(BLANK, blank)] if blank else []
    return [Members(by, name, np.array(rows)) for name, rows in named] if len(named) > 1 else []


@dataclass(frozen=True)
class _Drawn:
    """How the intervals are drawn."""

    resamples: int
    seed: int


def _scores(outcomes: Outcomes, names: Sequence[str], drawn: _Drawn) -> dict[str, Score]:
    macro = [name for name in names if name.endswith("_macro")]
    counted = [name for name in names if name not in macro and name in (*COUNTED_NAMES, "error_rate")]
    scores = _counted(outcomes, counted, drawn) | _macro(outcomes, macro, drawn)
    scores |= _of_probabilities(outcomes, [name for name in names if name not in scores], drawn)
    return {name: scores[name] for name in names}


def _counted(outcomes: Outcomes, names: Sequence[str], drawn: _Drawn) -> dict[str, Score]:
    scored = score_predictions(
        outcomes.references, outcomes.predictions, label_names=outcomes.label_names, multi_label=outcomes.multi_label
    )
    intervals: dict[str, tuple[float, float]] = {}
    if drawn.resamples:
        settings = _draw_settings(outcomes, drawn)
        intervals = bootstrap_classification(outcomes.references, outcomes.predictions, **settings)
    if "accuracy" in intervals:
        low, high = intervals["accuracy"]
        intervals["error_rate"] = (1 - high, 1 - low)
    return {name: _score(name, scored, intervals, outcomes) for name in names}


def _macro(outcomes: Outcomes, names: Sequence[str], drawn: _Drawn) -> dict[str, Score]:
    """Macro averages over the labels that the documents have: each label is a yes or no of its own."""
    truth, guesses = outcomes.references, outcomes.predictions
    if not outcomes.multi_label:
        classes = np.arange(len(outcomes.label_names))
        truth, guesses = ((labels[:, None] == classes).astype(np.int64) for labels in (truth, guesses))
    present = np.flatnonzero(truth.any(axis=0))
    if not len(present):
        return {name: Score(value=None, n=len(truth), note="undefined: no document has a label") for name in names}
    of_labels = Outcomes(
        truth[:, present],
        guesses[:, present],
        outcomes.probabilities[:, present],
        [outcomes.label_names[int(number)] for number in present],
        multi_label=True,
        groups=outcomes.groups,
    )
    note = f"over the {len(present):,} of {len(outcomes.label_names):,} labels that its documents have"
    return {name: score.model_copy(update={"note": note}) for name, score in _counted(of_labels, names, drawn).items()}


def _of_probabilities(outcomes: Outcomes, names: Sequence[str], drawn: _Drawn) -> dict[str, Score]:
    if not names:
        return {}
    scored = score_classification(
        outcomes.references,
        outcomes.probabilities,
        label_names=outcomes.label_names,
        multi_label=outcomes.multi_label,
    )
    intervals: dict[str, tuple[float, float]] = {}
    if drawn.resamples:
        settings = _draw_settings(outcomes, drawn)
        intervals = bootstrap_probabilities(outcomes.references, outcomes.probabilities, **settings)
    return {name: _score(name, scored, intervals, outcomes) for name in names}


def _draw_settings(outcomes: Outcomes, drawn: _Drawn) -> dict[str, Any]:
    return {
        "classes": len(outcomes.label_names),
        "groups": outcomes.groups,
        "resamples": drawn.resamples,
        "seed": drawn.seed,
        "multi_label": outcomes.multi_label,
    }


def _score(name: str, scored: Scores, intervals: Mapping[str, tuple[float, float]], outcomes: Outcomes) -> Score:
    value = scored.values[name]
    if value is None or name not in intervals:
        return Score(value=value, n=scored.n, note=scored.notes.get(name))
    low, high = intervals[name]
    conditions = conditions_of(
        outcomes.references,
        outcomes.predictions,
        classes=len(outcomes.label_names),
        groups=outcomes.groups,
        multi_label=outcomes.multi_label,
    )
    coverage = simulated_coverage(name, **conditions)
    return Score(value=value, low=low, high=high, n=scored.n, note=scored.notes.get(name), coverage=coverage)
