"""Finished runs side by side on the same test documents: scores, paired tests, and which documents changed sides.

Only run folders are read, never a model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.errors import RecipeError, did_you_mean, listed
from finetune.progress import WARNING
from finetune.run_files import FORMAT_VERSION, PairedTest, RunFile, Score
from finetune.runs import new_run_folder, write_json
from finetune.scores.bootstrap import Interval
from finetune.scores.classification import METRIC_NAMES, score_classification, score_predictions
from finetune.scores.conditions import conditions_of
from finetune.scores.coverage import simulated_coverage
from finetune.scores.intervals import (
    LEAST_EFFECTIVE_GROUPS,
    bootstrap_classification,
    bootstrap_probabilities,
    effective_groups,
)
from finetune.scores.paired import TESTED_INSTEAD, Judged, greater_is_better, holm, is_better, paired_test
from finetune.selection.aligned_runs import AlignedRun, Array, read_aligned_runs

MOST_CHANGED_LISTED = 200
MOST_SETTINGS = 10
METRICS = (*METRIC_NAMES, "loss")


class ComparedRun(RunFile):
    """One run, scored again on the compared documents. `folder` is relative to that of the comparison."""

    name: str
    folder: str
    model_origin: str | None
    seed: int
    best_epoch: float | None
    test_openings: int
    scores: dict[str, Score]


class ComparedPair(RunFile):
    """Two runs by name; the first has the better score, or was named first where the scores are equal."""

    first: str
    second: str
    test: PairedTest


class LabelChanges(RunFile):
    """Documents with this label that only one of the two gets right."""

    label: str
    only_first_right: int
    only_second_right: int


class ChangedDocument(RunFile):
    """A document that only one of the two gets right: what the reference says, and what each run says."""

    id: str
    group: str | None
    reference: str | list[str]
    first: str | list[str]
    second: str | list[str]
    right: Literal["first", "second"]


class ChangedSides(RunFile):
    """Where two runs part. The counts are of all documents; `documents` are the first 200 that changed sides."""

    first: str
    second: str
    both_right: int
    both_wrong: int
    only_first_right: int
    only_second_right: int
    by_label: list[LabelChanges]
    documents: list[ChangedDocument]


class Comparison(RunFile):
    """comparison.json. tests: every pair; changed: the run with the best score against each other one.

    `metric` is what was asked for; each test names what it tested. left_out: name of a run -> how many of its test
    documents not all runs share. resamples, seed: behind intervals and tests.
    """

    kind: Literal["comparison"] = "comparison"
    format_version: int = FORMAT_VERSION
    metric: str
    documents: int
    groups: int | None
    left_out: dict[str, int]
    runs: list[ComparedRun]
    tests: list[ComparedPair]
    changed: list[ChangedSides]
    resamples: int
    seed: int
    notes: list[str]


def compare_runs(
    folders: list[Path], *, metric: str | None, intersection: bool, folder: Path | None
) -> tuple[Comparison, Path]:
    """Compare finished runs on the same test documents and write comparison.json into a new folder.

    `metric` None is the first run's metric_for_best_model. Without `intersection` all runs must have the same test
    documents; with it, those that all share are compared.
    Raises CheckpointError for folders that are no finished runs of one task, with the same labels and test documents,
    and RecipeError for an unknown metric or a folder that is not empty.
    """
    _check_metric(metric)
    place = folder if folder is not None else new_run_folder("compare")
    _check_place(place)
    runs = read_aligned_runs(folders, intersection=intersection)
    comparison = _compared(runs, metric=metric or runs[0].scores.metric_for_best_model, place=place)
    write_json(place / "comparison.json", comparison)
    return comparison, place


def _check_metric(metric: str | None) -> None:
    if metric is not None and metric not in METRICS:
        hint = did_you_mean(metric, METRICS) or f"Choose one of: {listed(METRICS, most=30)}."
        raise RecipeError("command line: --metric", f"'{metric}' is not known", hint)


def _check_place(place: Path) -> None:
    if place.is_dir() and any(place.iterdir()):
        raise RecipeError(str(place), "is not empty", "Name another folder with --output.")
    for part in (place, *place.parents):
        if part.exists() and not part.is_dir():
            raise RecipeError(str(part), "is a file", "Name a folder with --output.")


def _compared(runs: Sequence[AlignedRun], *, metric: str, place: Path) -> Comparison:
    names, groups = _groups(runs)
    resamples, seed = max(run.recipe.evaluation.bootstrap for run in runs), runs[0].recipe.seed
    scores = {run.name: _scores(run, groups, resamples=resamples, seed=seed) for run in runs}
    tested = "log_loss" if metric == "loss" else TESTED_INSTEAD.get(metric, metric)
    # An undefined score counts as 0 here, as it does in the test.
    ranked = sorted(runs, key=lambda run: scores[run.name][tested].value or 0.0, reverse=greater_is_better(tested))
    return Comparison(
        metric=metric,
        documents=len(names),
        groups=None if groups is None else len(np.unique(groups)),
        left_out={run.name: run.left_out for run in runs},
        runs=[_compared_run(run, scores[run.name], place=place) for run in runs],
        tests=_tests(ranked, groups, metric=tested, resamples=resamples, seed=seed),
        changed=[_changed(ranked[0], other, names) for other in ranked[1:]],
        resamples=resamples,
        seed=seed,
        notes=[
            *_warnings(runs, names),
            *_different_settings(runs),
            *_remarks(runs, groups, metric=metric),
        ],
    )


def _groups(runs: Sequence[AlignedRun]) -> tuple[list[str | None], Array | None]:
    """Groups by name and by number, of the first run that has any; a document without one is a group of its own."""
    names = next((run.groups for run in runs if _has_groups(run)), None)
    if names is None:
        return runs[0].groups, None
    unique = [f"g{name}" if name is not None else f"d{row}" for row, name in enumerate(names)]
    return names, np.unique(unique, return_inverse=True)[1]


def _has_groups(run: AlignedRun) -> bool:
    return any(group is not None for group in run.groups)


def _scores(run: AlignedRun, groups: Array | None, *, resamples: int, seed: int) -> dict[str, Score]:
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
        scores[name] = Score(value=value, low=low, high=high, n=len(run.ids), note=notes.get(name), coverage=coverage)
    return scores


def _intervals(run: AlignedRun, groups: Array | None, *, resamples: int, seed: int) -> dict[str, Interval]:
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


def _compared_run(run: AlignedRun, scores: dict[str, Score], *, place: Path) -> ComparedRun:
    return ComparedRun(
        name=run.name,
        folder=Path(os.path.relpath(run.run.folder.resolve(), place.resolve())).as_posix(),
        model_origin=run.info.model_origin,
        seed=run.info.seed,
        best_epoch=run.scores.best_epoch,
        test_openings=run.test_openings,
        scores=scores,
    )


def _tests(
    ranked: Sequence[AlignedRun], groups: Array | None, *, metric: str, resamples: int, seed: int
) -> list[ComparedPair]:
    """Every pair, with Holm's correction where there are several."""
    pairs = []
    for first, second in combinations(ranked, 2):
        test = paired_test(
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
        pairs.append(ComparedPair(first=first.name, second=second.name, test=test))
    if len(pairs) > 1:
        for pair, p_holm in zip(pairs, holm([pair.test.p for pair in pairs]), strict=True):
            pair.test.p_holm = p_holm
            pair.test.better = is_better(pair.test)
    return pairs


def _changed(first: AlignedRun, second: AlignedRun, groups: Sequence[str | None]) -> ChangedSides:
    only_first, only_second = first.right & ~second.right, second.right & ~first.right
    numbers = np.arange(len(first.label_names))
    has_label = first.references > 0 if first.multi_label else first.references[:, None] == numbers
    by_label = [
        LabelChanges(
            label=label,
            only_first_right=int((only_first & has_label[:, number]).sum()),
            only_second_right=int((only_second & has_label[:, number]).sum()),
        )
        for number, label in enumerate(first.label_names)
    ]
    return ChangedSides(
        first=first.name,
        second=second.name,
        both_right=int((first.right & second.right).sum()),
        both_wrong=int((~first.right & ~second.right).sum()),
        only_first_right=int(only_first.sum()),
        only_second_right=int(only_second.sum()),
        by_label=[row for row in by_label if row.only_first_right or row.only_second_right],
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


def _named(run: AlignedRun, label: Any) -> str | list[str]:
    if run.multi_label:
        return [run.label_names[number] for number in np.flatnonzero(label)]
    return run.label_names[int(label)]


def _warnings(runs: Sequence[AlignedRun], groups: Sequence[str | None]) -> list[str]:
    """What may make the comparison worth less than it looks."""
    warnings = [
        f"{run.name} has opened its test split {run.test_openings} times; what was decided in between may have been "
        "decided by these documents"
        for run in runs
        if run.test_openings > 1
    ]
    if len({run.info.data_fingerprint for run in runs}) > 1:
        warnings.append("the runs were trained on different data, or on data prepared in different ways")
    if any(_has_groups(run) and run.groups != groups for run in runs):
        warnings.append("the runs name different groups; those of the first run that has any are used")
    return [WARNING + warning for warning in warnings]


def _different_settings(runs: Sequence[AlignedRun]) -> list[str]:
    """What sets the recipes apart, of all that touches the weights: one line a setting, `seed: 13 (a), 14 (b)`."""
    flat = [_flat(run.recipe.model_dump(mode="json", exclude={"evaluation", "report", "search"})) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each)
    different = [key for key in keys if len({repr(each.get(key)) for each in flat}) > 1 and key != "data.source"]
    said = [
        f"{key}: " + ", ".join(f"{each.get(key)} ({run.name})" for run, each in zip(runs, flat, strict=True))
        for key in different[:MOST_SETTINGS]
    ]
    if len(different) > MOST_SETTINGS:
        said.append(f"and {len(different) - MOST_SETTINGS} more settings that differ")
    if different == ["seed"]:
        said.append("only the seed differs, so a difference is luck of training: see train --seeds")
    return said


def _flat(section: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return flat


def _remarks(runs: Sequence[AlignedRun], groups: Array | None, *, metric: str) -> list[str]:
    """What a reader of the numbers must know."""
    remarks = []
    if any(run.left_out for run in runs):
        counts = ", ".join(f"{run.left_out:,} of {run.name}" for run in runs)
        remarks.append(f"only test documents that all runs share are compared; left out: {counts}")
    if len({run.scores.metric_for_best_model for run in runs}) > 1:
        chosen = ", ".join(f"{run.name} by {run.scores.metric_for_best_model}" for run in runs)
        remarks.append(f"the runs chose their epochs by different scores: {chosen}")
    if metric in TESTED_INSTEAD:
        remarks.append(f"{metric} ranks all documents and is not tested in pairs; tested is {TESTED_INSTEAD[metric]}")
    units = len(runs[0].ids) if groups is None else effective_groups(groups)
    if units < LEAST_EFFECTIVE_GROUPS:
        what = "documents" if groups is None else "effective groups"
        remarks.append(f"no interval: {units:.3g} {what} are too few (at least {LEAST_EFFECTIVE_GROUPS})")
    if len(runs) > 2:
        remarks.append(
            "choosing the best of several runs here makes its score look better than it is: choose on validation or "
            "by cross-validation, and score the winner once on documents that took no part"
        )
    remarks.append("tests and intervals are about these trained weights; another seed may give another order")
    return remarks
