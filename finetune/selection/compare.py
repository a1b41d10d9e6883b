"""Finished runs side by side on the same test documents: scores, paired tests, and which documents changed sides.

Only run folders are read, never a model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from finetune.errors import CheckpointError, RecipeError, did_you_mean, listed
from finetune.progress import WARNING
from finetune.run_files import PairedTest, Score
from finetune.runs import new_run_folder, write_json
from finetune.scores.images import IMAGE_METRICS
from finetune.scores.intervals import LEAST_EFFECTIVE_GROUPS, independent_units
from finetune.scores.paired import TESTED_INSTEAD, greater_is_better, holm, is_better
from finetune.selection.aligned_runs import AlignedRun, Array, FinishedRun, finished_runs
from finetune.selection.compared_images import image_metrics, image_notes, read_image_runs, usual_metric
from finetune.selection.compared_labels import LABEL_METRICS, MOST_CHANGED_LISTED, LabelContest
from finetune.selection.compared_texts import WRITER_METRICS, TextContest
from finetune.selection.comparison import (
    ChangedDocument,
    ChangedSides,
    ComparedPair,
    ComparedRun,
    Comparison,
    LabelChanges,
)

__all__ = ["MOST_CHANGED_LISTED", "ChangedDocument", "ChangedSides", "ComparedPair", "ComparedRun", "Comparison",
           "LabelChanges", "compare_runs"]  # fmt: skip

MOST_SETTINGS = 10
METRICS = tuple(dict.fromkeys([*LABEL_METRICS, *WRITER_METRICS, *IMAGE_METRICS]))
# Of every metric in TESTED_INSTEAD.
WHY_NOT_TESTED = {
    "roc_auc": "ranks all documents and is not tested in pairs",
    "distinct_1": "counts the words of all texts together and is not tested in pairs",
    "distinct_2": "counts the words of all texts together and is not tested in pairs",
    "length_ratio": "is best at 1, so that neither more nor less is better",
    "perplexity": "is exp of the loss and says the same",
}


class Contest(Protocol):
    """What runs of one kind are compared by."""

    @property
    def runs(self) -> Sequence[AlignedRun]: ...
    @property
    def metrics(self) -> Sequence[str]: ...
    @property
    def notes(self) -> Sequence[str]: ...
    def tested(self, metric: str) -> str: ...
    def judged(self, metric: str) -> Array: ...
    def scores(self, run: Any, groups: Array | None, *, resamples: int, seed: int) -> dict[str, Score]: ...
    def test(
        self, first: Any, second: Any, groups: Array | None, *, metric: str, resamples: int, seed: int
    ) -> PairedTest: ...
    def changed(self, first: Any, second: Any, groups: Sequence[str | None], *, metric: str) -> ChangedSides: ...


def compare_runs(
    folders: Sequence[Path], *, metric: str | None = None, intersection: bool = False, folder: Path | None = None
) -> tuple[Comparison, Path]:
    """Compare finished runs on the same test documents and write comparison.json into a new folder.

    `metric` None is the first run's metric_for_best_model, of images coverage where a run lacks that. Without
    `intersection` all runs must have the same test documents; with it, those that all share are compared.
    Raises CheckpointError for folders that are no finished runs, for a classifier beside a writer, for other labels,
    references or test documents, and RecipeError for a metric the runs have not or a folder that is not empty.
    """
    _check_metric(metric)
    place = folder if folder is not None else new_run_folder("compare")
    _check_place(place)
    finished = finished_runs(folders)
    if all(one.info.task == "image-generation" for one in finished):
        runs = read_image_runs(finished, intersection=intersection)
        _check_metric(metric, image_metrics(runs))
        comparison = _compared_images(runs, metric=metric or usual_metric(runs), place=place)
    else:
        contest = _contest(finished, intersection=intersection)
        _check_metric(metric, contest.metrics)
        metric = metric or finished[0].scores.metric_for_best_model
        comparison = _compared(contest, metric=metric, place=place)
    write_json(place / "comparison.json", comparison)
    return comparison, place


def _check_metric(metric: str | None, metrics: Sequence[str] = METRICS) -> None:
    if metric is not None and metric not in metrics:
        what = f"'{metric}' is not a score of these runs" if metric in METRICS else f"'{metric}' is not known"
        hint = did_you_mean(metric, metrics) if metric not in METRICS else ""
        raise RecipeError("command line: --metric", what, hint or f"Choose one of: {listed(metrics, most=40)}.")


def _check_place(place: Path) -> None:
    if place.is_dir() and any(place.iterdir()):
        raise RecipeError(str(place), "is not empty", "Name another folder with --output.")
    for part in (place, *place.parents):
        if part.exists() and not part.is_dir():
            raise RecipeError(str(part), "is a file", "Name a folder with --output.")


def _contest(finished: Sequence[FinishedRun], *, intersection: bool) -> Contest:
    """Labels against labels, or texts against texts: those of text-generation and seq2seq compare too."""
    if any(one.info.task == "image-generation" for one in finished):
        tasks = listed(dict.fromkeys(one.info.task for one in finished))
        raise CheckpointError(", ".join(str(one.run.folder) for one in finished), f"have different tasks: {tasks}")
    of_labels = [one.info.task == "text-classification" for one in finished]
    if len({*of_labels}) > 1:
        other = of_labels.index(not of_labels[0])
        where = f"{finished[0].run.folder}, {finished[other].run.folder}"
        raise CheckpointError(where, f"have different tasks: {finished[0].info.task} and {finished[other].info.task}")
    if of_labels[0]:
        return LabelContest.read(finished, intersection=intersection)
    return TextContest.read(finished, intersection=intersection)


def _compared(contest: Contest, *, metric: str, place: Path) -> Comparison:
    runs, tested = contest.runs, contest.tested(metric)
    names, groups = _groups(runs)
    resamples, seed = max(run.recipe.evaluation.bootstrap for run in runs), runs[0].recipe.seed
    scores = {run.name: contest.scores(run, groups, resamples=resamples, seed=seed) for run in runs}
    # An undefined score counts as 0 here, as it does in the test.
    ranked = sorted(runs, key=lambda run: scores[run.name][tested].value or 0.0, reverse=greater_is_better(tested))
    return Comparison(
        metric=metric,
        documents=len(names),
        groups=None if groups is None else len(np.unique(groups)),
        left_out={run.name: run.left_out for run in runs},
        runs=[_compared_run(run, scores[run.name], place=place) for run in runs],
        tests=_tests(contest, ranked, groups, metric=tested, resamples=resamples, seed=seed),
        changed=[contest.changed(ranked[0], other, names, metric=tested) for other in ranked[1:]],
        resamples=resamples,
        seed=seed,
        notes=[
            *_warnings(runs, names),
            *contest.notes,
            *_different_settings(runs),
            *_remarks(contest, groups, metric=metric, tested=tested),
        ],
    )


def _compared_images(runs: Sequence[AlignedRun], *, metric: str, place: Path) -> Comparison:
    """The scores as the runs have them, the best first; sets of drawn images are not paired."""
    names, groups = _groups(runs)
    scores = {run.name: run.finished.scores.splits["test"].scores for run in runs}
    best_first = 1 if greater_is_better(metric) else -1

    def rank(run: AlignedRun) -> float:
        found = scores[run.name].get(metric)
        return -math.inf if found is None or found.value is None else best_first * found.value

    ranked = sorted(runs, key=rank, reverse=True)
    return Comparison(
        metric=metric,
        documents=len(runs[0].ids),
        groups=None if groups is None else len(np.unique(groups)),
        left_out=dict.fromkeys(scores, 0),
        runs=[_compared_run(run, scores[run.name], place=place) for run in ranked],
        tests=[],
        changed=[],
        resamples=0,
        seed=runs[0].recipe.seed,
        notes=[*_warnings(runs, names), *image_notes(runs), *_different_settings(runs)],
    )


def _groups(runs: Sequence[AlignedRun]) -> tuple[list[str | None], Array | None]:
    """Groups by name and by number, of the first run that has any; a document without one is a group of its own."""
    names = next((run.groups for run in runs if run.has_groups), None)
    if names is None:
        return runs[0].groups, None
    unique = [f"g{name}" if name is not None else f"d{row}" for row, name in enumerate(names)]
    return names, np.unique(unique, return_inverse=True)[1]


def _compared_run(run: AlignedRun, scores: dict[str, Score], *, place: Path) -> ComparedRun:
    finished = run.finished
    return ComparedRun(
        name=run.name,
        folder=Path(os.path.relpath(finished.run.folder.resolve(), place.resolve())).as_posix(),
        model_origin=finished.info.model_origin,
        seed=finished.info.seed,
        best_epoch=finished.scores.best_epoch,
        test_openings=finished.test_openings,
        scores=scores,
    )


def _tests(
    contest: Contest, ranked: Sequence[AlignedRun], groups: Array | None, *, metric: str, resamples: int, seed: int
) -> list[ComparedPair]:
    """Every pair, with Holm's correction where there are several."""
    pairs = []
    for first, second in combinations(ranked, 2):
        test = contest.test(first, second, groups, metric=metric, resamples=resamples, seed=seed)
        pairs.append(ComparedPair(first=first.name, second=second.name, test=test))
    if len(pairs) > 1:
        for pair, p_holm in zip(pairs, holm([pair.test.p for pair in pairs]), strict=True):
            pair.test.p_holm = p_holm
            pair.test.better = is_better(pair.test)
    return pairs


def _warnings(runs: Sequence[AlignedRun], groups: Sequence[str | None]) -> list[str]:
    """What may make the comparison worth less than it looks."""
    warnings = [
        f"{run.name} has opened its test split {run.finished.test_openings} times; what was decided in between may "
        "have been decided by these documents"
        for run in runs
        if run.finished.test_openings > 1
    ]
    if len({run.finished.info.data_fingerprint for run in runs}) > 1:
        warnings.append("the runs were trained on different data, or on data prepared in different ways")
    if any(run.has_groups and run.groups != groups for run in runs):
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


def _remarks(contest: Contest, groups: Array | None, *, metric: str, tested: str) -> list[str]:
    """What a reader of the numbers must know."""
    runs, remarks = contest.runs, []
    if any(run.left_out for run in runs):
        counts = ", ".join(f"{run.left_out:,} of {run.name}" for run in runs)
        remarks.append(f"only test documents that all runs share are compared; left out: {counts}")
    if len({run.finished.scores.metric_for_best_model for run in runs}) > 1:
        chosen = ", ".join(f"{run.name} by {run.finished.scores.metric_for_best_model}" for run in runs)
        remarks.append(f"the runs chose their epochs by different scores: {chosen}")
    if metric in TESTED_INSTEAD:
        remarks.append(f"{metric} {WHY_NOT_TESTED[metric]}; tested is {tested}")
    judged = contest.judged(tested)
    units = independent_units(len(judged), None if groups is None else groups[judged])
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
