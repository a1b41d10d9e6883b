"""The last screen of a cross-validation, and of training with several seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from finetune.report.many_sentences import crossval_sentences, seeds_sentences
from finetune.report.parts import MORE_TEXT_HEADLINES, headline_metrics, is_written
from finetune.report.sentences import is_of_images, plain_score
from finetune.selection.crossval import CrossValidation
from finetune.selection.fold_scores import FoldsScore, RecipeResult, ResampledTest
from finetune.selection.seeds import SeedStudy
from finetune.summary import HEADLINES, table

NOT_AVAILABLE = "n/a"


def render_crossval(result: CrossValidation, folder: Path) -> str:
    """The whole screen: what the folds allow to say, means beside baselines, every fold, tests, notes."""
    times = f"{result.folds} folds" + (f", {result.repeats} times" if result.repeats > 1 else "")
    grouped = f" in {result.groups:,} groups" if result.groups is not None else ""
    parts = [
        "\n".join(crossval_sentences(result)),
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
    drawn = is_of_images(study.scores)
    names = [name for name in HEADLINES if name in study.scores]
    if drawn:
        names = list(dict.fromkeys([*headline_metrics(study.metric, study.scores), *study.scores]))
    elif is_written(study.scores):
        names = list(dict.fromkeys([*headline_metrics(study.metric, study.scores), *MORE_TEXT_HEADLINES]))
    means = [["mean", *(plain_score(study.scores[name].mean, name) for name in names)]]
    means.append(["deviation", *(_deviation(study.scores[name].deviation, name) for name in names)])
    means += [[name, *(_theirs(scores, each) for each in names)] for name, scores in study.baselines.items()]
    rows = [[f"seed {run.seed}", _cell(run.best_epoch, "g"), *(plain_score(run.scores[name], name) for name in names)]
            for run in study.runs]  # fmt: skip
    parts = [
        "\n".join(seeds_sentences(study)),
        f"Test: {study.documents:,} {'images' if drawn else 'documents'}, the same for every seed.",
        table(["", *names], means),
        table(["", "best epoch", *names], rows),
        "\n".join(f"Note: {note}" for note in study.notes),
        f"Folder: {folder}",
    ]
    return "\n\n".join(parts)


def _deviation(value: float | None, metric: str) -> str:
    """Of a perplexity to two places, however large it is."""
    return plain_score(value, None if metric == "perplexity" else metric)


def _theirs(scores: Mapping[str, float | None], metric: str) -> str:
    """Empty for a baseline that has no such score."""
    return plain_score(scores[metric], metric) if metric in scores else ""


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


def _with_interval(score: FoldsScore) -> str:
    if score.low is None or score.high is None:
        return _cell(score.mean)
    return f"{_cell(score.mean)} [{_cell(score.low)}, {_cell(score.high)}]"


def _cell(value: float | None, form: str = ".3f") -> str:
    return NOT_AVAILABLE if value is None else format(value, form)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
