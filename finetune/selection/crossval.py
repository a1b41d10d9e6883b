"""Cross-validation: an ordinary run for each fold, a fresh model each, and what all of them say together.

The headline is the mean of the folds' scores. A fold's epoch was chosen on an inner validation part, never on the fold.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from finetune.errors import RecipeError, listed
from finetune.progress import SILENT, Progress
from finetune.recipe import ClassifierRecipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import FORMAT_VERSION, RunFile, RunInfo
from finetune.runs import disk_faults, new_run_folder, write_json, write_table
from finetune.scores.paired import greater_is_better, holm
from finetune.selection.fold_scores import RecipeResult, ResampledTest, fold_test, judged, recipe_result
from finetune.selection.out_of_fold import FoldRun, check_folds, check_recipes, out_of_fold
from finetune.selection.run_series import (
    SeriesPlan,
    check_series_folder,
    finished_run,
    is_complete,
    refuse_processes,
    series,
    weight_settings,
    with_settings,
)

CROSSVAL = "crossval.json"
RESULT_NOTES = (
    "the intervals over folds are a heuristic (Nadeau and Bengio, 2003): folds share most of their training documents",
    "the pooled score takes the out-of-fold predictions of all folds together; it is not the mean of the folds",
)


class CrossValidation(RunFile):
    """crossval.json: one recipe or several over the same folds.

    metric: the selection metric, by which the best of several recipes is chosen. tests: recipe -> the best (first)
    against it (second), with Holm. documents: each held out once in every repeat. groups: how many, if there are any.
    """

    kind: Literal["cross-validation"] = "cross-validation"
    format_version: int = FORMAT_VERSION
    metric: str
    folds: int
    repeats: int
    documents: int
    groups: int | None
    recipes: list[RecipeResult]
    best: str
    tests: dict[str, ResampledTest]
    notes: list[str]


def cross_validate(
    recipes: list[LoadedRecipe],
    *,
    folds: int = 5,
    repeats: int = 1,
    only_fold: int | None = None,
    folder: Path | None = None,
    progress: Progress = SILENT,
) -> tuple[CrossValidation | None, Path]:
    """Train what is missing of `folds` folds, `repeats` times, of every recipe; all there, the result is written.

    With `only_fold` that fold of every repeat is trained, and others may be trained elsewhere: the result is None until
    all are in the folder. Finished folds are kept, stopped ones gone on with. Raises RecipeError, DataError,
    CheckpointError for a folder of another plan, the errors of experiment.train, and Stopped.
    """
    refuse_processes("crossval", "Give each process a fold of its own with --fold.")
    _refuse_recipes(recipes)
    folder = new_run_folder(f"{recipes[0].name}-cv") if folder is None else folder
    check_series_folder(folder)
    places = [
        Place(number, fold, repeat)
        for repeat in range(1, repeats + 1)
        for fold in range(1, folds + 1)
        for number in range(len(recipes))
    ]
    paths = {place: folder / place.path([each.name for each in recipes], repeats=repeats) for place in places}
    settings = {place: _with_fold(recipes[place.recipe], place, folds=folds) for place in places}
    with series(folder, _plan(recipes, folds=folds, repeats=repeats, progress=progress)):
        done: dict[Place, FoldRun] = {}
        for place in (place for place in places if only_fold in (None, place.fold)):
            progress.say(f"{_said(place, recipes, folds=folds, repeats=repeats)}: {paths[place]}")
            done[place] = _fold_run(place, settings[place], paths[place], progress=progress)
            _check(done)
        missing = [place for place in places if not is_complete(paths[place])]
        if missing:
            said = listed(_said(place, recipes, folds=folds, repeats=repeats) for place in missing)
            progress.say(f"still missing in {folder}: {said}")
            return None, folder
        done = {place: _fold_run(place, settings[place], paths[place], progress=progress) for place in places}
        _check(done)
        by_recipe = {
            recipe.name: [run for place, run in done.items() if place.recipe == number]
            for number, recipe in enumerate(recipes)
        }
        metric = recipes[0].recipe.training.metric_for_best_model
        result = summarise(by_recipe, metric=metric, folds=folds, repeats=repeats, folder=folder)
        _write(result, by_recipe, folder)
    return result, folder


@dataclass(frozen=True)
class Place:
    """Which run: the recipe by its number from 0, fold and repeat from 1."""

    recipe: int
    fold: int
    repeat: int

    def path(self, names: Sequence[str], *, repeats: int) -> Path:
        """`folds/K` of one recipe, else `folds/RECIPE/repeat-R/K` without what there is only one of."""
        recipe = [_folder_name(names[self.recipe])] if len(names) > 1 else []
        repeat = [f"repeat-{self.repeat}"] if repeats > 1 else []
        return Path("folds", *recipe, *repeat, str(self.fold))


def summarise(
    by_recipe: dict[str, list[FoldRun]], *, metric: str, folds: int, repeats: int, folder: Path
) -> CrossValidation:
    """The result of complete folds, given in the same order for every recipe."""
    results = [recipe_result(name, runs, metric=metric, folder=folder) for name, runs in by_recipe.items()]
    best = _best(results, metric)
    rivals = [each for each in results if each is not best]
    tested = {
        each.name: test
        for each in rivals
        if (test := fold_test(best.folds, best.scores[metric].values, each.scores[metric].values, metric=metric))
    }
    corrected = holm([test.p for test in tested.values()]) if tested else []
    first = next(iter(by_recipe.values()))
    groups = {group for each in first for group in each.held_out["group"] if group is not None}
    return CrossValidation(
        metric=metric,
        folds=folds,
        repeats=repeats,
        documents=len(first[0].folds),
        groups=len(groups) or None,
        recipes=results,
        best=best.name,
        tests={
            name: judged(test.model_copy(update={"p_holm": p}))
            for (name, test), p in zip(tested.items(), corrected, strict=True)
        },
        notes=[*_common_notes([run for runs in by_recipe.values() for run in runs]), *_result_notes(results)],
    )


def _refuse_recipes(recipes: Sequence[LoadedRecipe]) -> None:
    metrics = {each.name: each.recipe.training.metric_for_best_model for each in recipes}
    for each in recipes:
        if not isinstance(each.recipe, ClassifierRecipe):
            what = f"cross-validation is of text-classification, found {each.recipe.task}"
            raise RecipeError(each.where("task"), what, "Repeat the training instead: finetune train --seeds 5.")
        if each.recipe.data.fold is not None:
            what = "holds out one fold already, and crossval holds out each in turn"
            raise RecipeError(each.where("data", "fold"), what, "Leave it out.")
        if each.recipe.data.numeric:
            what = "the models here read text, and would not look at numeric columns"
            raise RecipeError(each.where("data", "numeric"), what, "Leave it out.")
    shared = [name for name, count in Counter(_folder_name(each.name) for each in recipes).items() if count > 1]
    if shared:
        raise RecipeError("command line", f"two recipes are named {shared[0]}", "Give their files different names.")
    if len(set(metrics.values())) > 1:
        told = listed(f"{name} {metric}" for name, metric in metrics.items())
        what = f"the recipes choose by different metrics: {told}"
        raise RecipeError("training.metric_for_best_model", what, "Set the same for all, also as key=value.")


def _plan(recipes: Sequence[LoadedRecipe], *, folds: int, repeats: int, progress: Progress) -> SeriesPlan:
    """Prepares the data of every recipe once, so that what is wrong with it is refused before anything is written."""
    from finetune.data.prepare import Prepared, prepare

    def folds_by_id(prepared: Prepared) -> dict[str | None, int | None]:
        table = prepared.split_table()
        return dict(zip(table["id"].to_pylist(), table["fold"].to_pylist(), strict=True))

    data, first = {}, None
    for number, recipe in enumerate(recipes):
        prepared = prepare(_with_fold(recipe, Place(number, 1, 1), folds=folds), progress=progress)
        data[recipe.name] = prepared.fingerprint
        if len(recipes) > 1:
            own = {id: fold for id, fold in folds_by_id(prepared).items() if fold is not None}
            if first is not None and own != first:
                what = f"has other documents than {recipes[0].name}, or its cleaning and split divide them otherwise"
                raise RecipeError(recipe.name, what, "Recipes are compared on the same documents and folds.")
            first = own
    return SeriesPlan(
        kind="crossval-plan",
        recipes=[each.name for each in recipes],
        folds=folds,
        repeats=repeats,
        settings={each.name: weight_settings(each) for each in recipes},
        data=data,
    )


def _with_fold(loaded: LoadedRecipe, place: Place, *, folds: int) -> LoadedRecipe:
    fold = f"data.fold={{folds: {folds}, fold: {place.fold}, repeat: {place.repeat}}}"
    return with_settings(loaded, [fold])


def _fold_run(place: Place, loaded: LoadedRecipe, path: Path, *, progress: Progress) -> FoldRun:
    return FoldRun(finished_run(loaded, path, progress=progress), fold=place.fold, repeat=place.repeat)


def _check(done: dict[Place, FoldRun]) -> None:
    """Every run there is fits to the others; see out_of_fold.py."""
    by_recipe: dict[int, dict[tuple[int, int], FoldRun]] = {}
    for place, run in done.items():
        by_recipe.setdefault(place.recipe, {})[place.repeat, place.fold] = run
    for runs in by_recipe.values():
        check_folds(list(runs.values()))
        shared = by_recipe[0].keys() & runs.keys()
        check_recipes([by_recipe[0][key] for key in sorted(shared)], [runs[key] for key in sorted(shared)])


def _best(results: Sequence[RecipeResult], metric: str) -> RecipeResult:
    sign = 1 if greater_is_better(metric) else -1
    means = [each.scores[metric].mean for each in results]
    ranked = [sign * mean if mean is not None else -math.inf for mean in means]
    return results[int(np.argmax(ranked))]


def _common_notes(runs: Sequence[FoldRun]) -> list[str]:
    """What preparing the data gave cause to say in every single run."""
    said = [each.run.read(each.run.info, RunInfo).notes for each in runs]
    return [note for note in said[0] if all(note in others for others in said[1:])]


def _result_notes(results: Sequence[RecipeResult]) -> list[str]:
    notes = list(RESULT_NOTES)
    if len(results) > 1:
        notes.append(
            f"the best of {len(results)} recipes was chosen by these very folds, so its mean is optimistic; score it "
            "once on documents that took no part"
        )
    return notes


def _write(result: CrossValidation, by_recipe: dict[str, list[FoldRun]], folder: Path) -> None:
    with disk_faults(folder):
        for name, runs in by_recipe.items():
            prefix = f"{_folder_name(name)}-" if len(by_recipe) > 1 else ""
            write_table(folder / "predictions" / f"{prefix}out_of_fold.parquet", out_of_fold(runs))
        write_json(folder / CROSSVAL, result)


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "recipe"


def _said(place: Place, recipes: Sequence[LoadedRecipe], *, folds: int, repeats: int) -> str:
    """`fold 2 of 5, repeat 1 of 2, recipe small`, without what there is only one of."""
    parts = [f"fold {place.fold} of {folds}"]
    parts += [f"repeat {place.repeat} of {repeats}"] if repeats > 1 else []
    parts += [f"recipe {recipes[place.recipe].name}"] if len(recipes) > 1 else []
    return ", ".join(parts)
