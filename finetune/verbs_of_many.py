"""The verbs that look at several runs: compare, crossval, search, and the report of any folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from finetune.errors import RecipeError
from finetune.progress import write
from finetune.recipe import text_recipe
from finetune.recipe_file import LoadedRecipe
from finetune.verbs import load_target, progress_of, refuse_images

if TYPE_CHECKING:
    from finetune.run_files import RunFile

AnyResult = TypeVar("AnyResult", bound="RunFile")

LEAST_FOLDS = 2
LEAST_SEEDS = 2


def compare(arguments: argparse.Namespace) -> int:
    if len(arguments.run_folders) < 2:
        raise RecipeError("command line", "compare needs two runs", "Name another run folder.")
    from finetune.comparison_screen import render_comparison
    from finetune.selection.compare import compare_runs

    comparison, folder = compare_runs(
        [Path(folder).expanduser() for folder in arguments.run_folders],
        metric=arguments.metric,
        intersection=arguments.intersection,
        folder=Path(arguments.output).expanduser() if arguments.output else None,
    )
    return _shown(comparison, folder, render_comparison, arguments)


def crossval(arguments: argparse.Namespace) -> int:
    words = [*arguments.recipes, *arguments.overrides]  # recipes may stand behind an option too
    recipes = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if not recipes:
        raise RecipeError("command line", "crossval needs a recipe", "Name one before key=value.")
    if arguments.folds < LEAST_FOLDS:
        raise RecipeError("command line", f"--folds must be {LEAST_FOLDS} or more, found {arguments.folds}")
    if arguments.repeats < 1:
        raise RecipeError("command line", f"--repeats must be 1 or more, found {arguments.repeats}")
    if arguments.fold is not None and not 1 <= arguments.fold <= arguments.folds:
        raise RecipeError("command line", f"--fold must be 1 to {arguments.folds}, found {arguments.fold}")
    loaded = [_loaded(word, overrides, arguments) for word in recipes]
    from finetune.crossval_screen import render_crossval
    from finetune.selection.crossval import cross_validate

    result, folder = cross_validate(
        loaded,
        folds=arguments.folds,
        repeats=arguments.repeats,
        only_fold=arguments.fold,
        folder=Path(arguments.run).expanduser() if arguments.run else None,
        progress=progress_of(arguments),
    )
    if result is None:
        progress_of(arguments).say(f"{folder}: other folds are still missing; the table is made when all are there")
        return 0
    return _shown(result, folder, render_crossval, arguments)


def search(arguments: argparse.Namespace) -> int:
    loaded = load_target(Path(arguments.target).expanduser(), arguments)
    do = "Train with other settings (finetune train RECIPE key=value), and compare the runs with finetune compare."
    refuse_images(loaded, "finetune search is for models of documents", do)
    if text_recipe(loaded.recipe).search is None:
        raise RecipeError(
            str(arguments.target), "has no section search", "Add search: {space: {SETTING: {low, high}}}."
        )
    from finetune.search_screen import render_search
    from finetune.selection.search import search_settings

    folder = Path(arguments.run).expanduser() if arguments.run else None
    result, folder = search_settings(loaded, folder=folder, progress=progress_of(arguments))
    if result is None:
        progress_of(arguments).say(f"{folder}: another process is still at it and will score the winner")
        return 0
    return _shown(result, folder, render_search, arguments)


def seeds(arguments: argparse.Namespace) -> int:
    """`train` with --seeds."""
    if arguments.seeds < LEAST_SEEDS:
        raise RecipeError("command line", f"--seeds must be {LEAST_SEEDS} or more, found {arguments.seeds}")
    if arguments.resume or arguments.restart:
        what, do = "--seeds goes without --resume or --restart", "Name the recipe, and the folder with --run, to go on."
        raise RecipeError("command line", what, do)
    loaded = load_target(Path(arguments.target).expanduser(), arguments)
    from finetune.crossval_screen import render_seeds
    from finetune.selection.seeds import train_with_seeds

    folder = Path(arguments.run).expanduser() if arguments.run else None
    result, folder = train_with_seeds(loaded, count=arguments.seeds, folder=folder, progress=progress_of(arguments))
    return _shown(result, folder, render_seeds, arguments)


def report(arguments: argparse.Namespace) -> int:
    from finetune.report.writing import write_report

    path = write_report(Path(arguments.run_folder).expanduser(), language=arguments.language)
    write(sys.stdout, json.dumps({"report": str(path)}) if arguments.json else str(path))
    return 0


def _loaded(word: str, overrides: list[str], arguments: argparse.Namespace) -> LoadedRecipe:
    arguments.overrides, arguments.text_column, arguments.label_column = overrides, None, None
    return load_target(Path(word).expanduser(), arguments)


def _shown(
    result: AnyResult, folder: Path, render: Callable[[AnyResult, Path], str], arguments: argparse.Namespace
) -> int:
    """Write the folder's report, then print the result as JSON or as a screen."""
    from finetune.report.writing import write_report

    page = write_report(folder)
    if arguments.json:
        write(sys.stdout, json.dumps({"folder": str(folder), **result.model_dump(mode="json")}, ensure_ascii=False))
    else:
        write(sys.stdout, f"{render(result, folder)}\nReport: {page}")
    return 0
