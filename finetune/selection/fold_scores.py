"""What the folds of one recipe say together: mean and interval, the pooled score, the test against each baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.errors import listed
from finetune.run_files import RunFile, SplitScores
from finetune.scores.paired import LOG_LOSSES, SIGNIFICANT, greater_is_better
from finetune.scores.resampled import corrected_interval, corrected_paired_test
from finetune.selection.out_of_fold import FoldRun, pooled_scores


class FoldResult(RunFile):
    """One finished fold. `folder` is its run, seen from the cross-validation; counts are documents, without copies.

    scores: metric -> score of best/ on the held-out fold; baselines: name -> metric -> score on the same documents.
    """

    fold: int
    repeat: int
    folder: str
    train_documents: int
    validation_documents: int
    held_out_documents: int
    best_epoch: float | None
    scores: dict[str, float | None]
    baselines: dict[str, dict[str, float | None]]


class FoldsScore(RunFile):
    """One metric over the folds. `mean` is the headline; `values` are those of `folds`, in their order.

    deviation is that of the values (n - 1); low..high the corrected 95 % interval of the mean, a heuristic. `pooled`
    is the score of the out-of-fold predictions taken together, a mean over repeats. Null where undefined: see `note`.
    """

    mean: float | None
    values: list[float | None]
    deviation: float | None = None
    low: float | None = None
    high: float | None = None
    pooled: float | None = None
    pooled_by_repeat: list[float | None]
    note: str | None = None


class ResampledTest(RunFile):
    """first - second over the same folds: the corrected resampled t-test (Nadeau and Bengio, 2003), a heuristic.

    p is two-sided; p_holm after Holm's correction where several pairs are compared. `better` is true when first is
    ahead in the metric's own direction and p (after correction, where there is one) is below .05.
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float | None = None
    better: bool


class RecipeResult(RunFile):
    """One recipe over all folds.

    baselines: name -> metric -> mean over folds. baseline_tests: the model (first) against each baseline (second);
    beats_baselines: better than every one; strongest_baseline: by the mean of validation scores.
    """

    name: str
    folds: list[FoldResult]
    scores: dict[str, FoldsScore]
    baselines: dict[str, dict[str, float | None]]
    baseline_tests: dict[str, ResampledTest]
    strongest_baseline: str | None = None
    beats_baselines: bool | None = None


def recipe_result(name: str, runs: Sequence[FoldRun], *, metric: str, folder: Path) -> RecipeResult:
    """The finished folds of one recipe, summed up; `folder` is that of the cross-validation."""
    folds = [_fold_result(each, folder) for each in runs]
    pooled = pooled_scores(runs)
    tested = metric if metric != "loss" else "log_loss"  # of a baseline the loss is known as its log loss
    names = list(folds[0].baselines)
    theirs = {baseline: [fold.baselines[baseline].get(tested) for fold in folds] for baseline in names}
    ours = [fold.scores[tested] for fold in folds]
    against = {baseline: fold_test(folds, ours, theirs[baseline], metric=tested) for baseline in names}
    tests = {baseline: test for baseline, test in against.items() if test is not None}
    return RecipeResult(
        name=name,
        folds=folds,
        scores={each: _folds_score(each, folds, [repeat.get(each) for repeat in pooled]) for each in folds[0].scores},
        baselines={
            baseline: {each: _mean([fold.baselines[baseline][each] for fold in folds]) for each in scores}
            for baseline, scores in folds[0].baselines.items()
        },
        baseline_tests=tests,
        strongest_baseline=_strongest(runs, names, tested),
        beats_baselines=all(test.better for test in tests.values()) if names and len(tests) == len(names) else None,
    )


def fold_test(
    folds: Sequence[FoldResult], first: Sequence[float | None], second: Sequence[float | None], *, metric: str
) -> ResampledTest | None:
    """first - second on the same folds, in their order; None where a score is undefined in one of them."""
    ours = [value for value in first if value is not None]
    theirs = [value for value in second if value is not None]
    if len(ours) < len(folds) or len(theirs) < len(folds):
        return None
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    difference, low, high, p = corrected_paired_test(differences, **_sizes(folds))
    return judged(
        ResampledTest(
            metric=metric,
            first=float(np.mean(ours)),
            second=float(np.mean(theirs)),
            difference=difference,
            low=low,
            high=high,
            p=p,
            better=False,
        )
    )


def judged(test: ResampledTest) -> ResampledTest:
    """The test with its `better` filled in."""
    ahead = test.difference > 0 if greater_is_better(test.metric) else test.difference < 0
    p = test.p if test.p_holm is None else test.p_holm
    return test.model_copy(update={"better": ahead and p < SIGNIFICANT})


def _fold_result(each: FoldRun, folder: Path) -> FoldResult:
    def values(scores: SplitScores) -> dict[str, float | None]:
        return {name: score.value for name, score in scores.scores.items()}

    return FoldResult(
        fold=each.fold,
        repeat=each.repeat,
        folder=each.run.folder.relative_to(folder).as_posix(),
        train_documents=each.documents("train"),
        validation_documents=each.documents("validation"),
        held_out_documents=each.documents("test"),
        best_epoch=each.scores.best_epoch,
        scores=values(each.scores.splits["test"]),
        baselines={name: values(splits["test"]) for name, splits in each.scores.baselines.items()},
    )


def _folds_score(metric: str, folds: Sequence[FoldResult], pooled: list[float | None]) -> FoldsScore:
    values = [fold.scores[metric] for fold in folds]
    known = [value for value in values if value is not None]
    whole = FoldsScore(mean=_mean(values), values=values, pooled=_mean(pooled), pooled_by_repeat=pooled)
    if len(known) < len(values):
        without = [f"{fold.folder}" for fold in folds if fold.scores[metric] is None]
        return whole.model_copy(update={"note": f"undefined in {listed(without)}, and so is the mean"})
    low, high = corrected_interval(known, **_sizes(folds))
    if low == high:
        return whole.model_copy(
            update={"deviation": 0.0, "note": "no interval: the folds agree, which says nothing of their spread"}
        )
    lowest, highest = (-1.0 if metric == "matthews" else 0.0), (math.inf if metric in LOG_LOSSES else 1.0)
    return whole.model_copy(
        update={"deviation": float(np.std(known, ddof=1)), "low": max(low, lowest), "high": min(high, highest)}
    )


def _sizes(folds: Sequence[FoldResult]) -> dict[str, list[int]]:
    return {
        "train_documents": [fold.train_documents for fold in folds],
        "test_documents": [fold.held_out_documents for fold in folds],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None when one of the values is undefined: a mean over fewer folds is another number."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _strongest(runs: Sequence[FoldRun], names: Sequence[str], metric: str) -> str | None:
    """By the mean of the validation scores, where every baseline has them."""
    sign = 1 if greater_is_better(metric) else -1
    means = {
        name: _mean([each.scores.baselines[name]["validation"].scores[metric].value for each in runs]) for name in names
    }
    known = {name: sign * mean for name, mean in means.items() if mean is not None}
    return max(known, key=known.__getitem__, default=None)
