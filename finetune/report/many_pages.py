"""The pages of a cross-validation, of several seeds and of a search for settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from finetune.report import plots
from finetune.report.many_sentences import (
    crossval_outcome,
    crossval_sentences,
    fold_score,
    search_sentences,
    seeds_outcome,
    seeds_sentences,
    winner_scores,
)
from finetune.report.page import Child, Markup, tag
from finetune.report.parts import (
    Block,
    Column,
    approximate_note,
    command,
    difference_cell,
    duration,
    foot,
    headline_metrics,
    label,
    linked,
    many_page,
    metric_heading,
    notes,
    score_cell,
    share,
    strip_column,
    table,
)
from finetune.report.sentences import Tested, is_of_images, outcome, p_of, p_text, plain_score, verdict_sentences
from finetune.report.strings import Language, Words
from finetune.run_files import Score
from finetune.scores.paired import greater_is_better
from finetune.selection.crossval import CrossValidation
from finetune.selection.fold_scores import RecipeResult
from finetune.selection.search import SearchResult, TrialRow
from finetune.selection.seeds import SeedStudy

MOST_BARS = 20


def render_crossval(result: CrossValidation, folder: Path, language: Language) -> str:
    words = Words(language)
    blocks: list[Block] = []
    for index, recipe in enumerate(result.recipes):
        blocks += [
            (f"folds-{index}", words("cv.folds", name=recipe.name), [_folds(recipe, result.metric, folder, words)]),
            (f"scores-{index}", words("cv.scores", name=recipe.name), [_fold_scores(recipe, words)]),
        ]
    return many_page(
        folder,
        result.kind,
        [
            words("cv.meta", documents=f"{result.documents:,}", folds=result.folds, repeats=result.repeats),
            words("cv.groups", groups=f"{result.groups:,}") if result.groups is not None else None,
        ],
        crossval_sentences(result, language),
        crossval_outcome(result),
        [
            _recipes(result, words),
            foot(words("cv.about")),
            [_fold_baselines(recipe, result.documents, words) for recipe in result.recipes],
        ],
        [*blocks, ("notes", words("notes"), [notes(result.notes, words)])],
        words=words,
    )


def render_seeds(study: SeedStudy, folder: Path, language: Language) -> str:
    words = Words(language, of_images=is_of_images(study.scores))
    return many_page(
        folder,
        study.kind,
        [study.name, words("documents.test", n=f"{study.documents:,}")],
        seeds_sentences(study, language),
        seeds_outcome(study),
        [_seed_runs(study, folder, words)],
        [
            ("scores", words("all_scores"), [_seed_scores(study, words)]),
            ("notes", words("notes"), [notes(study.notes, words)]),
        ],
        words=words,
    )


def render_search(result: SearchResult, folder: Path, language: Language) -> str:
    words, scores = Words(language), winner_scores(result, folder)
    metrics = headline_metrics(result.metric, result.test)
    verdict = verdict_sentences(scores, language)[:1] if scores is not None else []
    return many_page(
        folder,
        result.kind,
        [],
        [*verdict, *search_sentences(result, language)],
        outcome(scores) if scores is not None else "open",
        [
            table(
                words("search.test"),
                [Column(words("search.trial")), *(Column(metric_heading(name)) for name in metrics)],
                [[linked(str(result.winner), f"trials/{result.winner}", folder),
                  *(score_cell(result.test[name], name) for name in metrics)]],
            ),
            approximate_note([(name, result.test[name]) for name in metrics], words),
            _progress(result, words),
        ],
        [
            ("again", words("search.again"), [_again(result, folder)]),
            ("trials", words("search.trials"), [_trials(result, folder, words)]),
            ("importance", words("search.importance"), _importance(result, words)),
            ("notes", words("notes"), [notes(result.notes, words)]),
        ],
        words=words,
    )  # fmt: skip


# ---- a cross-validation


def _recipes(result: CrossValidation, words: Words) -> Markup | None:
    """The recipes, the best first, with their folds drawn."""
    recipes = sorted(result.recipes, key=lambda recipe: recipe.name != result.best)
    found = [recipe.scores.get(result.metric) for recipe in recipes]
    means = [fold_score(each, documents=result.documents) for each in found]
    dots = {index: _known(each.values) for index, each in enumerate(found) if each is not None}
    axis, strips = strip_column(means, ours={0}, dots=dots)
    known = {name for each in recipes for name in each.scores}
    others = [name for name in headline_metrics(result.metric, known) if name != result.metric]
    rows: list[list[Child]] = [
        [
            label(recipe.name),
            score_cell(mean, result.metric),
            drawn,
            plain_score(each.deviation if each else None, result.metric),
            plain_score(each.pooled if each else None, result.metric),
            difference_cell(test) if (test := result.tests.get(recipe.name)) else "",
            p_text(p_of(test)) if test else "",
            *(plain_score(score.mean if (score := recipe.scores.get(name)) else None, name) for name in others),
        ]
        for recipe, each, mean, drawn in zip(recipes, found, means, strips, strict=True)
    ]
    names = ("cv.mean", None, "cv.deviation", "cv.pooled", "cv.best_less", "paired_test")
    columns = [Column(words("cv.recipe"))]
    columns += [Column(words(name)) if name else Column(axis, "plot") for name in names]
    columns += [Column(metric_heading(name)) for name in others]
    return table(words("cv.recipes", metric=result.metric), columns, rows, classes="wide headline", ours=0)


def _fold_baselines(recipe: RecipeResult, documents: int, words: Words) -> Markup | None:
    """The mean of the model and of every baseline over the same folds."""
    tests = recipe.baseline_tests
    metric = next((test.metric for test in tests.values()), None)
    if metric is None:
        return None
    mean = fold_score(recipe.scores.get(metric), documents=documents)
    scores = [mean, *(Score(value=test.second, n=documents) for test in tests.values())]
    axis, strips = strip_column(scores, ours={0})
    names: list[Child] = [words("this_model"), *(words.known("baseline", name) for name in tests)]
    rivals: list[Tested | None] = [None, *tests.values()]
    rows: list[list[Child]] = [
        [name, score_cell(score, metric), drawn, *_test_cells(test)]
        for name, score, drawn, test in zip(names, scores, strips, rivals, strict=True)
    ]
    columns = [Column(""), Column(metric_heading(metric)), Column(axis, "plot"), Column(words("ahead_by")),
               Column(words("paired_test"))]  # fmt: skip
    return table(words("cv.baselines", name=label(recipe.name)), columns, rows, classes="headline", ours=0)


def _test_cells(test: Tested | None) -> list[Child]:
    return [difference_cell(test), p_text(p_of(test))] if test is not None else ["", ""]


def _folds(recipe: RecipeResult, metric: str, folder: Path, words: Words) -> Markup | None:
    metrics = headline_metrics(metric, recipe.scores)
    axis, strips = strip_column(
        [Score(value=each.scores.get(metric), n=each.held_out_documents) for each in recipe.folds], ours=None
    )
    rows: list[list[Child]] = [
        [
            linked(f"{each.repeat}.{each.fold}", each.folder, folder),
            each.train_documents,
            each.validation_documents,
            each.held_out_documents,
            f"{each.best_epoch:g}" if each.best_epoch is not None else "",
            plain_score(each.scores.get(metric), metric),
            drawn,
            *(plain_score(each.scores.get(name), name) for name in metrics[1:]),
        ]
        for each, drawn in zip(recipe.folds, strips, strict=True)
    ]
    heading = f"{words('cv.repeat')}.{words('cv.fold')}"
    columns = [Column(heading), *(Column(words(name)) for name in ("cv.train", "split.validation", "cv.held_out"))]
    columns += [Column(words("best_epoch")), Column(metric_heading(metric)), Column(axis, "plot")]
    return table(None, [*columns, *(Column(metric_heading(name)) for name in metrics[1:])], rows)


def _fold_scores(recipe: RecipeResult, words: Words) -> Markup | None:
    rows: list[list[Child]] = [
        [
            metric_heading(name),
            score_cell(fold_score(each, documents=0), name),
            plain_score(each.deviation, name),
            plain_score(each.pooled, name),
            _values(each.values, name),
        ]
        for name, each in recipe.scores.items()
    ]
    columns = [Column(words(name)) for name in ("metric", "cv.mean", "cv.deviation", "cv.pooled")]
    return table(None, [*columns, Column(words("cv.fold"), "t")], rows)


# ---- several seeds


def _seed_runs(study: SeedStudy, folder: Path, words: Words) -> Markup | None:
    """One row a seed, their mean, and the baselines on the same documents."""
    metrics = headline_metrics(study.metric, study.scores)
    lines: list[tuple[Child, dict[str, float | None], str]] = [
        (linked(f"{words('seeds.seed')} {run.seed}", run.folder, folder), run.scores,
         f"{run.best_epoch:g}" if run.best_epoch is not None else "")
        for run in study.runs
    ]  # fmt: skip
    lines.insert(0, (words("cv.mean"), {name: study.scores[name].mean for name in metrics}, ""))
    lines += [(words.known("baseline", name), scores, "") for name, scores in study.baselines.items()]
    drawn = [Score(value=scores.get(study.metric), n=study.documents) for _, scores, _ in lines]
    axis, strips = strip_column(drawn, ours=range(1 + len(study.runs)))
    rows: list[list[Child]] = [
        [
            name,
            _seed_cell(scores, study.metric),
            strip,
            *(_seed_cell(scores, each) for each in metrics[1:]),
            epoch,
        ]
        for (name, scores, epoch), strip in zip(lines, strips, strict=True)
    ]
    columns = [Column(""), Column(metric_heading(study.metric)), Column(axis, "plot")]
    columns += [Column(metric_heading(name)) for name in metrics[1:]]
    caption = words("seeds.caption", documents=f"{study.documents:,}")
    return table(caption, [*columns, Column(words("best_epoch"))], rows, classes="wide", ours=0)


def _seed_cell(scores: Mapping[str, float | None], metric: str) -> str:
    """Empty for a baseline that has no such score."""
    return plain_score(scores[metric], metric) if metric in scores else ""


def _seed_scores(study: SeedStudy, words: Words) -> Markup | None:
    rows: list[list[Child]] = [
        [
            metric_heading(name),
            plain_score(each.mean, name),
            plain_score(each.deviation, name),
            _values(each.values, name),
        ]
        for name, each in study.scores.items()
    ]
    columns = [Column(words(name)) for name in ("metric", "cv.mean", "cv.deviation")]
    return table(None, [*columns, Column(words("seeds.values"), "t")], rows)


# ---- a search


def _progress(result: SearchResult, words: Words) -> Markup | None:
    """The value of every completed trial in the order of the trials, and the best so far."""
    done = [(trial.number, trial.value) for trial in result.trials if trial.value is not None]
    points = sorted((float(number_), value) for number_, value in done)
    complete = {trial.number for trial in result.trials if trial.status == "complete"}
    points = [(x, y) for x, y in points if int(x) in complete]
    if len(points) < 2:
        return None
    better = max if result.direction == "maximize" else min
    best = [(x, better(y for _, y in points[: index + 1])) for index, (x, _) in enumerate(points)]
    lines = [
        plots.Line(words("search.trial"), points, "grey none", dots=True),
        plots.Line(words("search.best_so_far"), _steps(best), "blue"),
    ]
    title = words("search.progress", metric=result.metric)
    drawn = plots.line_plot(title, lines, mark=None, words=words, metric=result.metric, across="search.trial")
    return tag("div", drawn, class_="panels")


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The line that stays until the next point: nothing lies between two trials."""
    stay = [(x, before) for (_, before), (x, _) in pairwise(points)]
    return [points[0], *(point for pair in zip(stay, points[1:], strict=True) for point in pair)]


def _trials(result: SearchResult, folder: Path, words: Words) -> Markup | None:
    """Every trial, the best first; those without a value last."""
    sign = 1 if greater_is_better(result.metric) else -1

    def place(trial: TrialRow) -> tuple[bool, bool, float]:
        return trial.status != "complete", trial.value is None, -sign * (trial.value or 0.0)

    trials = sorted(result.trials, key=place)
    settings = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows: list[list[Child]] = [
        [
            linked(str(trial.number), f"trials/{trial.number}", folder),
            plain_score(trial.value, result.metric) if trial.value is not None else "",
            words(f"status.{trial.status}"),
            *(_setting(trial.params.get(name)) for name in settings),
            f"{trial.epochs:g}" if trial.epochs is not None else "",
            duration(trial.seconds) if trial.seconds is not None else "",
            label(trial.failure or ""),
        ]
        for trial in trials
    ]
    columns = [Column(words("search.trial")), Column(words("search.value", metric=result.metric))]
    columns += [Column(words("search.status"), "t"), *(Column(label(name)) for name in settings)]
    columns += [Column(words("search.epochs")), Column(words("search.seconds")), Column("", "t")]
    winner = next((index for index, trial in enumerate(trials) if trial.number == result.winner), None)
    return table(words("search.trials_caption"), columns, rows, ours=winner)


def _importance(result: SearchResult, words: Words) -> list[Child]:
    if not result.importance:
        note = result.importance_note
        return [tag("p", note, lang=words.foreign)] if note else []
    ranked = sorted(result.importance.items(), key=lambda each: (-each[1], each[0]))[:MOST_BARS]
    rows: list[list[Child]] = [[label(name), share(value), plots.share_bar(value)] for name, value in ranked]
    columns = [Column(words("search.setting")), Column(words("share")), Column("", "plot")]
    return [tag("p", words("search.importance_about")), table(None, columns, rows)]


def _again(result: SearchResult, folder: Path) -> Markup:
    recipe = Path(*folder.absolute().parts[-2:]) / "trials" / str(result.winner) / "recipe.yaml"
    return command(shlex.join(["finetune", "train", str(recipe)]))


def _setting(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else label("" if value is None else value)


def _values(values: Sequence[float | None], metric: str) -> str:
    return " ".join(plain_score(value, metric) for value in values)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
