"""The story of one recipe: prepare, learn, keep best and last, load the best afresh, score it beside baselines.

`train` reads top to bottom; each step is a function below or a file of the tree.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from finetune.data.prepare import Prepared, prepare
from finetune.errors import CheckpointError, FinetuneError, Stopped
from finetune.learner import Learner, build_learner, training_identity, window_lists
from finetune.progress import SILENT, Progress
from finetune.recipe_file import LoadedRecipe, dump_recipe, load_recipe, relocate
from finetune.runs import (
    Json,
    Run,
    RunInfo,
    SplitScores,
    check_run_folder,
    create_run,
    describe_environment,
    disk_faults,
    find_run,
    new_run_folder,
    now,
    write_json,
    write_table,
)
from finetune.scoring import greater_is_better, rescore, score_run, validation_scorer
from finetune.training.batches import DocumentTable
from finetune.training.checkpoints import Checkpoint, newest_checkpoint
from finetune.training.plan import FitPlan, FitResult
from finetune.training.stopping import StopRequest
from finetune.training.trainer import fit


def train(loaded: LoadedRecipe, *, folder: str | Path | None = None, progress: Progress = SILENT) -> Run:
    """Run a recipe from data to scores in a new run folder. Raises the errors of errors.py."""
    run_folder = Path(folder) if folder is not None else new_run_folder(loaded.name)
    check_run_folder(run_folder)
    with _stoppable(run_folder) as stop:
        prepared = prepare(loaded, progress=progress)
        learner = build_learner(loaded, prepared, progress=progress)
        run = _open_run(run_folder, loaded, prepared, learner)
        with run.locked(), _told_in_run_json(run):
            return _learn_and_score(run, loaded, prepared, learner, resume=None, stop=stop, progress=progress)


def resume(
    folder: str | Path,
    overrides: Sequence[str] = (),
    *,
    required: bool = False,
    restart: bool = False,
    progress: Progress = SILENT,
) -> Run:
    """Go on with a stopped run from its newest sound checkpoint.

    Without one it starts from scratch, or refuses when `required`; `restart` forgets the checkpoints first.

    Raises CheckpointError when the checkpoints belong to another recipe, data or number of processes.
    """
    run = find_run(folder)
    info = run.read(run.info, RunInfo)
    if info.status == "complete" and not restart:
        progress.say(f"{run.folder}: already complete ({info.steps} of {info.steps} steps)")
        return run
    loaded = load_recipe(run.recipe, overrides)
    with run.locked(), _stoppable(run.folder) as stop:
        if restart:
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        prepared = prepare(loaded, progress=progress)
        checkpoint = _checkpoint(run, loaded, prepared, required=required, progress=progress)
        learner = build_learner(loaded, prepared, progress=progress)
        with _told_in_run_json(run):
            run.update(status="running", failure=None)
            return _learn_and_score(run, loaded, prepared, learner, resume=checkpoint, stop=stop, progress=progress)


def check(loaded: LoadedRecipe, *, progress: Progress = SILENT) -> Json:
    """Everything `train` does before it creates a run folder: data, labels, splits, model, windows."""
    prepared = prepare(loaded, progress=progress)
    learner = build_learner(loaded, prepared, progress=progress)
    windows = {split: counts.to_json() for split, counts in learner.counts.items()}
    lines = [
        f"{split}: {counts['documents']:,} documents, {counts['windows']:,} windows, {counts['tokens']:,} tokens; "
        f"longest {counts['longest_document_tokens']:,}"
        for split, counts in windows.items()
    ]
    lines += [
        f"labels: {', '.join(prepared.labels.names)}",
        f"model: {learner.origin}, {learner.model.num_parameters():,} parameters",
    ]
    lines += [*prepared.warnings, *learner.notes, "recipe, data and model fit together"]
    return {"lines": lines, "data": prepared.report, "windows": windows, "model_origin": learner.origin}


def evaluate(
    folder: str | Path, *, split: Literal["validation", "test"] = "test", model: Literal["best", "last"] = "best",
    progress: Progress = SILENT,
) -> SplitScores:  # fmt: skip
    """Score a saved model of a finished run again, from its files, on the run's own split.

    Raises CheckpointError when the data is not what the run was trained on. Opening the test split is recorded.
    """
    run = find_run(folder)
    info = run.read(run.info, RunInfo)
    if not (run.best if model == "best" else run.last).is_dir():
        raise CheckpointError(str(run.folder), f"has no {model}/", "Finish the training first: --resume.")
    loaded = load_recipe(run.recipe)
    prepared = prepare(loaded, progress=progress)
    if prepared.fingerprint != info.data_fingerprint:
        raise CheckpointError(
            str(run.folder), "the data has changed since this run was trained", "Restore it, or train again."
        )
    return rescore(run, loaded, prepared, split=split, model=model, progress=progress)


def _learn_and_score(
    run: Run,
    loaded: LoadedRecipe,
    prepared: Prepared,
    learner: Learner,
    *,
    resume: Checkpoint | None,
    stop: StopRequest,
    progress: Progress,
) -> Run:
    started = time.monotonic()
    for note in (*prepared.warnings, *learner.notes):
        progress.say(note)
    result = _fit(run, loaded, prepared, learner, resume=resume, stop=stop, progress=progress)
    if is_writer():
        learner.save(learner.model, run.best)
        fitted = time.monotonic()
        _record_fit(run, learner, result, seconds=fitted - started)
        score_run(run, loaded, prepared, learner, result, progress=progress)
        seconds = run.read(run.info, RunInfo).seconds | {"score": round(time.monotonic() - fitted, 1)}
        run.update(status="complete", finished=now(), seconds=seconds)
    return run


def _fit(
    run: Run,
    loaded: LoadedRecipe,
    prepared: Prepared,
    learner: Learner,
    *,
    resume: Checkpoint | None,
    stop: StopRequest,
    progress: Progress,
) -> FitResult:
    recipe = loaded.recipe
    # The test split is not handed over: nothing in the trainer can look at it.
    plan = FitPlan(
        task=learner.task,
        settings=recipe.training,
        seed=recipe.seed,
        pad_id=learner.pad_id,
        train=DocumentTable(learner.windows["train"], prepared.encoded["train"]),
        validation=DocumentTable(learner.windows["validation"], prepared.encoded["validation"]),
        validation_windows=window_lists(learner.windows["validation"]),
        score_validation=validation_scorer(prepared),
        greater_is_better=greater_is_better(recipe.training.metric_for_best_model),
        checkpoints=run.checkpoints,
        history=run.history,
        last=run.last,
        identity=training_identity(loaded, prepared, processes=process_count()),
        stop=stop,
        progress=progress if is_writer() else SILENT,
        save_model=learner.save,
    )
    return fit(learner.model, plan, resume=resume)


def _open_run(folder: Path, loaded: LoadedRecipe, prepared: Prepared, learner: Learner) -> Run:
    environment = describe_environment()
    info = RunInfo(
        status="running",
        task=loaded.recipe.task,
        started=now(),
        device=_device(loaded),
        processes=process_count(),
        threads=torch.get_num_threads(),
        seed=loaded.recipe.seed,
        data_fingerprint=prepared.fingerprint,
        model_origin=learner.origin,
        notes=list(learner.notes),
        **environment,
    )
    if not is_writer():
        return Run(folder)
    text = dump_recipe(
        relocate(loaded, folder=folder), header="Every default filled in. `finetune train` runs it again."
    )
    run = create_run(folder, recipe_text=text, info=info)
    with disk_faults(folder):
        report = prepared.report | {"windows": {split: counts.to_json() for split, counts in learner.counts.items()}}
        write_json(run.data, report)
        write_table(run.splits, prepared.split_table())
    return run


def _record_fit(run: Run, learner: Learner, result: FitResult, *, seconds: float) -> None:
    info = run.read(run.info, RunInfo)
    trained = result.padding_share is not None  # a run resumed after its last step trained nothing in this sitting
    run.update(
        seconds=info.seconds | {"fit": round(info.seconds.get("fit", 0.0) + seconds, 1)},
        steps=result.steps,
        parameters=learner.model.num_parameters(),
        trainable_parameters=learner.model.num_parameters(only_trainable=True),
        padding_share=round(result.padding_share, 4)
        if trained and result.padding_share is not None
        else info.padding_share,
        training_tokens=result.tokens + (info.training_tokens or 0),
        micro_batches=result.micro_batches,
        notes=[*info.notes, *(note for note in result.notes if note not in info.notes)],
    )


def _checkpoint(
    run: Run, loaded: LoadedRecipe, prepared: Prepared, *, required: bool, progress: Progress
) -> Checkpoint | None:
    identity = training_identity(loaded, prepared, processes=process_count())
    checkpoint, notes = newest_checkpoint(run.checkpoints, identity=identity)
    for note in notes:
        progress.warn(note)
    if checkpoint is None:
        if required:
            raise CheckpointError(
                str(run.folder), "has no checkpoint to go on from", "Use --resume to start from scratch."
            )
        progress.say(f"{run.folder}: no checkpoint yet; starting from scratch")
    else:
        progress.say(f"{run.folder}: going on from step {checkpoint.step}")
    return checkpoint


@contextmanager
def _stoppable(folder: Path) -> Iterator[StopRequest]:
    hint = f"Go on with: finetune train {folder} --resume" if (folder / "run.json").exists() else ""
    stop = StopRequest(where=str(folder), resume_hint=hint or f"Once it is begun: finetune train {folder} --resume")
    with stop.listening():
        yield stop


@contextmanager
def _told_in_run_json(run: Run) -> Iterator[None]:
    """Whatever ends the run early is written into run.json before it is raised."""
    try:
        yield
    except BaseException as error:
        status = "stopped" if isinstance(error, Stopped | KeyboardInterrupt) else "failed"
        failure = str(error) if isinstance(error, FinetuneError) else type(error).__name__
        if is_writer():
            run.update(status=status, finished=now(), failure=failure)
        raise


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_writer() -> bool:
    """One process writes; the others compute."""
    return int(os.environ.get("RANK", "0")) == 0


def _device(loaded: LoadedRecipe) -> str:
    if torch.cuda.is_available() and not loaded.recipe.training.use_cpu:
        return str(torch.cuda.get_device_name(0))
    return "cpu"
