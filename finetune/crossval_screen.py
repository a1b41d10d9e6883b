"""The last screen of a cross-validation, and of training with several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.report.sentences import p_text
from finetune.scores.paired import greater_is_better
from finetune.selection.crossval import CrossValidation
from finetune.selection.fold_scores import FoldsScore, RecipeResult, ResampledTest
from finetune.selection.seeds import SeedStudy
from finetune.summary import HEADLINES, table

NOT_AVAILABLE = "n/a"


def render_crossval(result: CrossValidation, folder: Path) -> str:
    """The whole screen: what the folds allow to say, means beside baselines, every fold, tests, notes."""
    best = next(each for each in result.recipes if each.name == result.best)
    times = f"{result.folds} folds" + (f", {result.repeats} times" if result.repeats > 1 else "")
    grouped = f" in {result.groups:,} groups" if result.groups is not None else ""
    parts = [
        _choice(result) if len(result.recipes) > 1 else "",
        _verdict(best, result.metric),
        f"{times}: {result.documents:,} documents{grouped}, each held out once"
        + (" in every repeat." if result.repeats > 1 else "."),
        *(_of_recipe(each, result.metric, named=len(result.recipes) > 1) for each in result.recipes),
        _tests({f"{result.best} - {name}": test for name, test in result.tests.items()}),
        "\n".join(f"Note: {note}" for note in result.notes),
        f"Folder: {folder}",
    ]
    return "\n\n".join(part for part in parts if part)


def render_seeds(study: SeedStudy, folder: Path) -> str:
    """The whole screen: mean and deviation, baselines, every seed, notes."""
    metric = study.scores[study.metric]
    names = [name for name in HEADLINES if name in study.scores]
    means = [["mean", *(_cell(study.scores[name].mean) for name in names)]]
    means.append(["deviation", *(_cell(study.scores[name].deviation) for name in names)])
    means += [[name, *(_cell(scores.get(each)) for each in names)] for name, scores in study.baselines.items()]
    rows = [[f"seed {run.seed}", _cell(run.best_epoch, "g"), *(_cell(run.scores[name]) for name in names)]
            for run in study.runs]  # fmt: skip
    spread = f"{_cell(metric.mean)} on average, from {_range(metric.values)}, deviation {_cell(metric.deviation)}"
    parts = [
        f"{_over_baselines(study)} Over {len(study.runs)} seeds test {study.metric} is {spread}.".strip(),
        f"Test: {study.documents:,} documents, the same for every seed.",
        table(["", *names], means),
        table(["", "best epoch", *names], rows),
        "\n".join(f"Note: {note}" for note in study.notes),
        f"Folder: {folder}",
    ]
    return "\n\n".join(parts)


def _choice(result: CrossValidation) -> str:
    level = [name for name, test in result.tests.items() if not test.better]
    level += [each.name for each in result.recipes if each.name not in (result.best, *result.tests)]
    opening = f"{result.best} has the best mean {result.metric} of {len(result.recipes)} recipes"
    if level:
        return f"{opening}, but is NOT shown to be better than {', '.join(level)}: that may be chance."
    return f"{opening}, and is better than every other (corrected resampled t with Holm, p < 0.05: a heuristic)."


def _verdict(recipe: RecipeResult, metric: str) -> str:
    """Against the best of the baselines that are not beaten, or the one that was beaten most narrowly."""
    score = recipe.scores[metric]
    headline = f"mean {metric} {_with_interval(score)}"
    if not recipe.baseline_tests:
        return f"{recipe.name}: {headline} over {len(recipe.folds)} folds; no baseline was tested beside it."
    level = {name: test for name, test in recipe.baseline_tests.items() if not test.better}
    if level:
        sign = 1 if greater_is_better(metric) else -1
        name, test = max(level.items(), key=lambda item: sign * item[1].second)
    else:
        name, test = max(recipe.baseline_tests.items(), key=lambda item: item[1].p)
    said = f"{test.metric} {_cell(test.first)} against {_cell(test.second)} on average, {p_text(test.p)}"
    if level:
        return f"{recipe.name} is NOT shown to beat {', '.join(level)}: {headline}; against {name} {said}."
    untested = [each for each in recipe.baselines if each not in recipe.baseline_tests]
    which = f"every baseline but {', '.join(untested)}, which could not be tested" if untested else "every baseline"
    return f"{recipe.name} beats {which}: {headline}; closest is {name}, {said} (a heuristic)."


def _of_recipe(recipe: RecipeResult, metric: str, *, named: bool) -> str:
    names = [name for name in HEADLINES if name in recipe.scores]
    means = [["mean of folds [heuristic 95 %]", *(_with_interval(recipe.scores[name]) for name in names)]]
    means.append(["pooled (out of fold)", *(_cell(recipe.scores[name].pooled) for name in names)])
    means += [[name, *(_cell(scores.get(each)) for each in names)] for name, scores in recipe.baselines.items()]
    header = ["fold", "trained on", "held out", "best epoch", *names]
    rows = [
        [
            fold.folder.removeprefix("folds/"),
            f"{fold.train_documents:,}",
            f"{fold.held_out_documents:,}",
            _cell(fold.best_epoch, "g"),
            *(_cell(fold.scores[name]) for name in names),
        ]
        for fold in recipe.folds
    ]
    notes = [f"{name}: {score.note}" for name, score in recipe.scores.items() if score.note and name in HEADLINES]
    parts = [
        f"Recipe {recipe.name}" if named else "",
        table(["", *names], means),
        table(header, rows),
        "\n".join(notes),
        _tests({f"{recipe.name} - {name}": test for name, test in recipe.baseline_tests.items()}),
    ]
    return "\n\n".join(part for part in parts if part)


def _tests(tests: dict[str, ResampledTest]) -> str:
    if not tests:
        return ""
    holm = any(test.p_holm is not None for test in tests.values())
    rows = [
        [
            name,
            test.metric,
            f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}]",
            _p(test.p),
            *([_p(test.p_holm)] if holm and test.p_holm is not None else []),
            "yes" if test.better else "no",
        ]
        for name, test in tests.items()
    ]
    return table(["difference over folds", "metric", "mean", "p", *(["p (Holm)"] if holm else []), "better"], rows)


def _over_baselines(study: SeedStudy) -> str:
    """In how many seeds the model is ahead of every baseline; the documents' own uncertainty is in each run."""
    metric = "log_loss" if study.metric == "loss" else study.metric
    theirs = [scores[metric] for scores in study.baselines.values() if scores.get(metric) is not None]
    ours = [run.scores[metric] for run in study.runs if run.scores.get(metric) is not None]
    if not theirs or len(ours) < len(study.runs):
        return ""
    known = [value for value in theirs if value is not None]
    rising = greater_is_better(metric)
    ahead = sum((value > max(known)) if rising else (value < min(known)) for value in ours if value is not None)
    if ahead == len(ours):
        return "Ahead of every baseline with every seed."
    if ahead == 0:
        return f"NOT ahead of every baseline with any of {len(ours)} seeds."
    return f"NOT ahead of every baseline: with {ahead} of {len(ours)} seeds only."


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.3f} to {max(known):.3f}" if known else NOT_AVAILABLE


def _with_interval(score: FoldsScore) -> str:
    if score.low is None or score.high is None:
        return _cell(score.mean)
    return f"{_cell(score.mean)} [{_cell(score.low)}, {_cell(score.high)}]"


def _cell(value: float | None, form: str = ".3f") -> str:
    return NOT_AVAILABLE if value is None else format(value, form)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
