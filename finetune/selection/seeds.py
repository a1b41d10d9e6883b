"""The same recipe trained with several seeds on the same splits: how much of a score is the luck of the seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from finetune.errors import CheckpointError
from finetune.progress import Progress
from finetune.recipe import ClassifierRecipe, ImageRecipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import FORMAT_VERSION, RunFile, RunInfo, Scores
from finetune.runs import Run, new_run_folder, read_table, write_json
from finetune.selection.run_series import (
    SeriesPlan,
    check_series_folder,
    finished_run,
    refuse_processes,
    series,
    weight_settings,
    with_settings,
)

SEEDS = "seeds.json"
DEVIATION_NOTE = "the deviation is over seeds on the same splits, not over {units}: each run's intervals are for those"
BASELINES_DIFFER = (
    "a baseline differs between the seeds, because it learns from or writes what the seed draws; its mean is shown"
)
NOT_TESTED = (
    "each seed draws with other latents and measures with a classifier of its own: the deviation holds all of it; each "
    "run holds its own paired tests against the baselines"
)


class SeedRun(RunFile):
    """One finished run; `folder` as seen from the study. scores: metric -> score of best/ on test."""

    seed: int
    folder: str
    best_epoch: float | None
    scores: dict[str, float | None]


class SeedsScore(RunFile):
    """One metric over the seeds: `values` as in `runs`, their mean and deviation (n - 1); null where undefined."""

    mean: float | None
    deviation: float | None
    values: list[float | None]


class SeedStudy(RunFile):
    """seeds.json. baselines: name -> metric -> score on the same test documents, alike for all seeds unless noted."""

    kind: Literal["seeds"] = "seeds"
    format_version: int = FORMAT_VERSION
    name: str
    metric: str
    documents: int
    split_seed: int
    runs: list[SeedRun]
    scores: dict[str, SeedsScore]
    baselines: dict[str, dict[str, float | None]]
    notes: list[str]


def train_with_seeds(
    loaded: LoadedRecipe, *, count: int, folder: Path | None, progress: Progress
) -> tuple[SeedStudy, Path]:
    """Train `count` >= 2 runs with the recipe's seed, the next, and so on; documents and split stay the recipe's.

    Finished runs are kept and stopped ones gone on with, also under a larger count. Raises RecipeError, DataError,
    CheckpointError for a folder of another plan, the errors of experiment.train, and Stopped.
    """
    from finetune.data.image_prepare import prepare_images
    from finetune.data.prepare import prepare
    from finetune.data.recipe_source import split_seed

    refuse_processes("train --seeds", "Train each seed by itself: seed=... data.split.seed=...")
    folder = new_run_folder(f"{loaded.name}-seeds") if folder is None else folder
    check_series_folder(folder)
    held = split_seed(loaded.recipe)
    seeds = [loaded.recipe.seed + number for number in range(count)]
    recipes = {seed: with_settings(loaded, [f"seed={seed}", f"data.split.seed={held}"]) for seed in seeds}
    prepare_data = prepare_images if isinstance(loaded.recipe, ImageRecipe) else prepare
    fingerprint = prepare_data(recipes[seeds[0]], progress=progress).fingerprint
    plan = SeriesPlan(
        kind="seeds-plan",
        recipes=[loaded.name],
        settings={loaded.name: weight_settings(loaded)},
        data={loaded.name: fingerprint},
    )
    runs: dict[int, Run] = {}
    with series(folder, plan):
        for number, seed in enumerate(seeds, start=1):
            progress.say(f"seed {seed} ({number} of {count}): {folder / 'seeds' / str(seed)}")
            runs[seed] = finished_run(recipes[seed], folder / "seeds" / str(seed), progress=progress)
            _refuse_other_splits(runs[seed], runs[seeds[0]], with_copies=_has_copies(loaded))
        study = summarise(loaded, runs, folder=folder, held=held)
        write_json(folder / SEEDS, study)
    return study, folder


def summarise(loaded: LoadedRecipe, runs: dict[int, Run], *, folder: Path, held: int) -> SeedStudy:
    """The study of finished runs by their seed."""
    scored = {seed: run.read(run.scores, Scores) for seed, run in runs.items()}
    first = next(iter(scored.values()))
    tested = {seed: _values(scores) for seed, scores in scored.items()}
    theirs = {name: [_values(scores, name) for scores in scored.values()] for name in first.baselines}
    of_images = isinstance(loaded.recipe, ImageRecipe)
    counts = [score.n for score in first.splits["test"].scores.values()]
    differing = any(other != values[0] for values in theirs.values() for other in values)
    looks = "each run opened the test split once, so it was looked at " + f"{len(runs)} times for one recipe"
    return SeedStudy(
        name=loaded.name,
        metric=loaded.recipe.training.metric_for_best_model,
        documents=counts[0] if of_images else max(counts),  # of images some count the drawn ones
        split_seed=held,
        runs=[
            SeedRun(
                seed=seed,
                folder=run.folder.relative_to(folder).as_posix(),
                best_epoch=scored[seed].best_epoch,
                scores=tested[seed],
            )
            for seed, run in runs.items()
        ],
        scores={metric: _spread([values[metric] for values in tested.values()]) for metric in _values(first)},
        baselines={
            name: {metric: _spread([each[metric] for each in values]).mean for metric in values[0]}
            for name, values in theirs.items()
        },
        notes=[
            DEVIATION_NOTE.format(units="images" if of_images else "documents"),
            *([NOT_TESTED] if of_images else []),
            looks,
            *([BASELINES_DIFFER] if differing else []),
        ],
    )


def _values(scores: Scores, baseline: str | None = None) -> dict[str, float | None]:
    splits = scores.splits if baseline is None else scores.baselines[baseline]
    return {name: score.value for name, score in splits["test"].scores.items()}


def _spread(values: Sequence[float | None]) -> SeedsScore:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return SeedsScore(mean=None, deviation=None, values=list(values))
    same = min(known) == max(known)  # the mean of equal numbers can be another in the last digit
    mean, deviation = (known[0], 0.0) if same else (float(np.mean(known)), float(np.std(known, ddof=1)))
    return SeedsScore(mean=mean, deviation=deviation, values=list(values))


def _has_copies(loaded: LoadedRecipe) -> bool:
    """Whether training documents are augmented, differently with each seed."""
    return isinstance(loaded.recipe, ClassifierRecipe) and loaded.recipe.augmentation is not None


def _refuse_other_splits(run: Run, first: Run, *, with_copies: bool) -> None:
    """Seeds are compared on the same documents. Raises CheckpointError."""
    read = _scored_documents if with_copies else _fingerprint  # the copies of train are drawn by the seed
    if read(run) != read(first):
        what = f"has other documents or splits than {first.folder}"
        raise CheckpointError(str(run.folder), what, "Delete this folder and run the same command again.")


def _fingerprint(run: Run) -> str:
    return run.read(run.info, RunInfo).data_fingerprint


def _scored_documents(run: Run) -> set[tuple[str, str, str]]:
    """(id, content hash, split) of validation and test; all other documents are train's."""
    table = read_table(run.splits)
    rows = zip(table["id"], table["content_hash"], table["split"], strict=True)
    return {row for row in rows if row[2] != "train"}
