"""Ordinary runs side by side in one folder: planned, trained one by one, kept when finished, gone on with when stopped.

A cross-validation and a study of seeds are such a series; what each run is comes from settings over one recipe.
torch is imported where a run is trained, so that a finished series is read without it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from finetune.errors import CheckpointError, RecipeError, Stopped
from finetune.progress import Progress
from finetune.recipe_file import LoadedRecipe, check_recipe, load_recipe, relocate
from finetune.run_files import RunFile, RunInfo
from finetune.runs import Run, check_run_folder, write_json
from finetune.training.stopping import StopRequest

PLAN = "plan.json"
DIFFERENCES_SHOWN = 5


class SeriesPlan(RunFile):
    """plan.json, written first: what the runs of the folder have in common, so that nothing else is mixed in.

    settings: recipe name -> the settings that touch its weights; data: recipe name -> fingerprint of its first run's
    data. folds and repeats are null for seeds, whose number may grow.
    """

    kind: Literal["crossval-plan", "seeds-plan"]
    recipes: list[str]
    folds: int | None = None
    repeats: int | None = None
    settings: dict[str, dict[str, Any]]
    data: dict[str, str]


@contextmanager
def series(folder: Path, plan: SeriesPlan) -> Iterator[None]:
    """The folder with its plan; Ctrl-C and SIGTERM leave as Stopped, with how to go on. Nothing stays if nothing began.

    Raises CheckpointError when the folder has another plan.
    """
    path = folder / PLAN
    if path.exists():
        found = Run(folder).read(path, SeriesPlan)
        _refuse_other(_flat(found), _flat(plan), where=folder, what="has another plan")
    else:
        write_json(path, plan)
    hint = f"Go on with the same command and --run {folder}"
    try:
        with StopRequest(where=str(folder), resume_hint=hint).listening():
            yield
    except Stopped as stopped:
        problem = stopped.problems[0]
        raise Stopped(problem.where, problem.what, hint, by_user=stopped.exit_status == 130) from None
    finally:
        if not any(each.is_dir() for each in folder.iterdir()):
            path.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()


def check_series_folder(folder: Path) -> None:
    """Before any work: `folder` holds a series, or is new or empty. Raises RecipeError or EnvironmentFault."""
    if (folder / PLAN).is_file():
        return
    if folder.is_dir() and any(folder.iterdir()):
        what = f"is not empty and has no {PLAN}, so it is none of ours to go on with"
        raise RecipeError(str(folder), what, "Name another with --run.")
    check_run_folder(folder)


def refuse_processes(verb: str, do: str) -> None:
    """Several processes would each walk through the folder at their own pace. Raises RecipeError."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        raise RecipeError("command line", f"{verb} runs in one process, and was launched in {count}", do)


def with_settings(loaded: LoadedRecipe, overrides: Sequence[str]) -> LoadedRecipe:
    """The recipe with `key=value` on top; its paths and its name stay."""
    return check_recipe(loaded.text, overrides, base=loaded.base, name=loaded.name)


def weight_settings(loaded: LoadedRecipe) -> dict[str, Any]:
    """The settings that touch the weights, and the baselines, which are tested over all runs."""
    from finetune.learner import settings_identity

    return settings_identity(loaded.recipe) | {"evaluation.baselines": list(loaded.recipe.evaluation.baselines)}


def finished_run(loaded: LoadedRecipe, folder: Path, *, progress: Progress) -> Run:
    """The run of `folder`: kept when it is complete, gone on with when it was stopped, else trained from the start.

    Its checkpoints are deleted once it is complete; best/ and last/ stay. Raises CheckpointError when the folder holds
    a run with other settings or a damaged one, and the errors of experiment.train.
    """
    from finetune import experiment
    from finetune.learner import settings_identity

    run = Run(folder)
    if not run.info.exists():
        run = experiment.train(loaded, folder=folder, progress=progress)
    else:
        found = settings_identity(load_recipe(run.recipe).recipe)
        wanted = settings_identity(relocate(loaded, folder=folder))
        _refuse_other(found, wanted, where=folder, what="was trained with other settings")
        if not is_complete(folder):
            run = experiment.resume(folder, progress=progress)
    predictions = [] if loaded.recipe.task == "image-generation" else [run.predictions("test")]
    for path in (run.scores, run.splits, *predictions):
        if not path.is_file():
            what = f"is complete, but its {path.relative_to(folder)} is gone"
            raise CheckpointError(str(folder), what, "Delete this folder; the same command trains it again.")
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    return run


def is_complete(folder: Path) -> bool:
    """Whether a run in `folder` was trained and scored to the end."""
    run = Run(folder)
    return run.info.is_file() and run.read(run.info, RunInfo).status == "complete"


def _flat(plan: SeriesPlan) -> dict[str, Any]:
    said = plan.model_dump(mode="json", exclude={"settings", "data"})
    said |= {f"{name}: {key}": value for name, keys in plan.settings.items() for key, value in keys.items()}
    return said | {f"{name}: data fingerprint": fingerprint[:16] for name, fingerprint in plan.data.items()}


def _refuse_other(found: Mapping[str, Any], wanted: Mapping[str, Any], *, where: Path, what: str) -> None:
    differences = [
        f"{key} {json.dumps(found.get(key), ensure_ascii=False)}, now {json.dumps(wanted.get(key), ensure_ascii=False)}"
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        shown = "; ".join(differences[:DIFFERENCES_SHOWN])
        raise CheckpointError(str(where), f"{what} ({shown})", "Undo the change, or name another folder with --run.")
