"""The story of one recipe: prepare, learn, keep best and last, load the best afresh, score it beside baselines.

`train` reads top to bottom; each step is a function below or a file of the tree.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import torch

from finetune.branches import build_learner, files_of_recipe, fit, prepare, rescore, score_run
from finetune.data.text_steps import visible
from finetune.errors import CheckpointError, EnvironmentFault, FinetuneError, Stopped
from finetune.learner import Learner, PreparedData, settings_identity, training_identity
from finetune.processes import is_writer, process_count, resume_hint
from finetune.progress import SILENT, WARNING, Progress
from finetune.recipe_file import LoadedRecipe, dump_recipe, load_recipe, relocate
from finetune.run_files import Calibration, RunInfo, Scores, SplitScores
from finetune.runs import (
    Json,
    Run,
    check_run_folder,
    describe_environment,
    find_run,
    new_run,
    new_run_folder,
    now,
    write_text,
)
from finetune.scores.paired import greater_is_better
from finetune.training.checkpoints import Checkpoint, newest_checkpoint, refuse_foreign
from finetune.training.company import company, joined
from finetune.training.memory import memory_faults
from finetune.training.plan import FitResult, OnEvaluation, Plan, Pruned
from finetune.training.stopping import StopRequest


def train(
    loaded: LoadedRecipe,
    *,
    folder: str | Path | None = None,
    open_test: bool = True,
    on_evaluation: OnEvaluation | None = None,
    progress: Progress = SILENT,
) -> Run:
    """Run a recipe from data to scores in a new run folder.

    Without `open_test` the test split stays closed and no baseline is fitted; `score_test` does both later.
    `on_evaluation(epoch, scores)` is called after each evaluation and may raise Pruned, which ends the training.

    Raises the errors of errors.py, and Pruned.
    """
    with joined(loaded.recipe.training) as present:
        run_folder = Path(present.agreed("run folder", str(folder or new_run_folder(loaded.name))))
        if is_writer():
            check_run_folder(run_folder)
        with _stoppable(run_folder, "Nothing was begun; run the same command again.") as stop:
            prepared = prepare(loaded, progress=progress)
            learner = build_learner(loaded, prepared, progress=progress)
            with new_run(run_folder) if is_writer() else nullcontext(Run(run_folder)) as run:
                _begin(run, loaded, prepared, learner)
                stop.resume_hint = resume_hint(run_folder)
                with _told_in_run_json(run):
                    return _learn_and_score(
                        run, loaded, prepared, learner,
                        resume=None, stop=stop, open_test=open_test, on_evaluation=on_evaluation, progress=progress,
                    )  # fmt: skip


def resume(
    folder: str | Path,
    overrides: Sequence[str] = (),
    *,
    required: bool = False,
    restart: bool = False,
    open_test: bool = True,
    on_evaluation: OnEvaluation | None = None,
    progress: Progress = SILENT,
) -> Run:
    """Go on with a stopped run from its newest sound checkpoint.

    Without one it starts from scratch, or refuses when `required`; `restart` forgets all training first.
    `open_test` and `on_evaluation` are those of `train`.

    Raises CheckpointError when the checkpoints belong to another recipe, data or number of processes.
    """
    run = find_run(folder)
    info = run.read(run.info, RunInfo)
    loaded = load_recipe(run.recipe, overrides)
    if info.status == "complete" and not restart:
        _refuse_other_settings(run, loaded)
        progress.say(f"{run.folder}: already complete ({info.steps} of {info.steps} steps)")
        return run
    with (
        joined(loaded.recipe.training),
        run.locked() if is_writer() else nullcontext(),
        _stoppable(run.folder, resume_hint(run.folder)) as stop,
    ):
        prepared = prepare(loaded, progress=progress)
        checkpoint = None if restart else _checkpoint(run, loaded, prepared, info, required=required, progress=progress)
        learner = build_learner(loaded, prepared, progress=progress)
        if checkpoint is None:
            if is_writer():
                run.forget_training()
            _begin(run, loaded, prepared, learner)
        with _told_in_run_json(run):
            if overrides and is_writer():
                write_text(run.recipe, _recipe_text(run, loaded))
            if is_writer():
                run.update(status="running", failure=None, finished=None)
            return _learn_and_score(
                run, loaded, prepared, learner,
                resume=checkpoint, stop=stop, open_test=open_test, on_evaluation=on_evaluation, progress=progress,
            )  # fmt: skip


def check(loaded: LoadedRecipe, *, progress: Progress = SILENT) -> Json:
    """Everything `train` does before it creates a run folder: data, labels, splits, model, windows."""
    prepared = prepare(loaded, progress=progress)
    learner = build_learner(loaded, prepared, progress=progress)
    lines = [
        *learner.data_lines(),
        *([f"labels: {', '.join(map(visible, prepared.labels.names))}"] if prepared.labels.names else []),
        f"model: {learner.origin}, {learner.model.num_parameters():,} parameters",
    ]
    lines += [*_notes(prepared, learner), "recipe, data and model fit together"]
    return {
        "lines": lines,
        "data": prepared.report,
        "data_fingerprint": prepared.fingerprint,
        **learner.data_report(),
        "model_origin": learner.origin,
    }


def evaluate(
    folder: str | Path, *, split: Literal["validation", "test"] = "test", model: Literal["best", "last"] = "best",
    progress: Progress = SILENT,
) -> SplitScores:  # fmt: skip
    """Score a saved model of a finished run again, from its files, on the run's own split.

    Raises CheckpointError when the data is not what the run was trained on. Opening the test split is recorded.
    """
    run = find_run(folder)
    loaded, prepared = _as_trained(run, models=[model], progress=progress)
    return rescore(run, loaded, prepared, split=split, model=model, progress=progress)


def score_test(folder: str | Path, *, progress: Progress = SILENT) -> Scores:
    """Open the test split of a run that was trained without it: complete scores, beside the baselines.

    Raises CheckpointError when the run is not finished, its data has changed, or its test scores are there already.
    """
    run = find_run(folder)
    with run.locked():
        info, scores = run.read(run.info, RunInfo), run.read(run.scores, Scores)
        if (unfinished := run.unfinished()) is not None or info.steps is None:
            what, do = unfinished or ("no steps were made", "Train it again: --restart.")
            raise CheckpointError(str(run.folder), f"is not complete: {what}", do)
        if "test" in scores.splits:
            raise CheckpointError(str(run.folder), "has its test scores already", "They are in scores.json.")
        loaded, prepared = _as_trained(run, models=["best", "last"], progress=progress)
        learner = build_learner(loaded, prepared, progress=progress)
        result = FitResult(best_epoch=scores.best_epoch, best_step=scores.best_step, steps=info.steps)
        return score_run(run, loaded, prepared, learner, result, calibration=scores.calibration, progress=progress)


def _as_trained(run: Run, *, models: Sequence[str], progress: Progress) -> tuple[LoadedRecipe, PreparedData]:
    """Recipe and data of a run whose `models` are there and whose data is what it was trained on."""
    for name in models:
        run.model(name)
    loaded = load_recipe(run.recipe)
    prepared = prepare(loaded, progress=progress)
    if prepared.fingerprint != run.read(run.info, RunInfo).data_fingerprint:
        raise CheckpointError(
            str(run.folder), "the data has changed since this run was trained", "Restore it, or train again."
        )
    return loaded, prepared


def _learn_and_score(
    run: Run,
    loaded: LoadedRecipe,
    prepared: PreparedData,
    learner: Learner,
    *,
    resume: Checkpoint | None,
    stop: StopRequest,
    open_test: bool,
    on_evaluation: OnEvaluation | None,
    progress: Progress,
) -> Run:
    started = time.monotonic()
    if is_writer():
        for line in learner.data_lines():
            progress.say(line)
        for note in _notes(prepared, learner):
            warning = note.removeprefix(WARNING)
            (progress.warn if warning != note else progress.say)(warning)
    plan = fit_plan(run, loaded, prepared, learner, stop=stop, on_evaluation=on_evaluation, progress=progress)
    result = fit(loaded, learner, plan, resume=resume)
    if is_writer():
        calibration = _save_best(run, loaded, prepared, learner, result, progress=progress)
        fitted = time.monotonic()
        before = resume.standing.counters["seconds"] if resume is not None else 0.0
        _record_fit(run, learner, result, seconds=before + fitted - started)
        score_run(
            run, loaded, prepared, learner, result, calibration=calibration, open_test=open_test, progress=progress
        )
        seconds = run.read(run.info, RunInfo).seconds | {"score": round(time.monotonic() - fitted, 1)}
        run.update(status="complete", finished=now(), seconds=seconds)
    return run


def _save_best(
    run: Run, loaded: LoadedRecipe, prepared: PreparedData, learner: Learner, result: FitResult, *, progress: Progress
) -> Calibration | None:
    """Write best/, calibrated on validation where the recipe wants it; when the last epoch is the best, last/ too."""
    calibration = learner.calibration(loaded, prepared, progress=progress)
    for folder in (run.best, run.last) if result.best_step == result.steps else (run.best,):
        learner.save(learner.model, folder, calibration=calibration)
    return calibration


def fit_plan(
    run: Run,
    loaded: LoadedRecipe,
    prepared: PreparedData,
    learner: Learner,
    *,
    stop: StopRequest,
    on_evaluation: OnEvaluation | None,
    progress: Progress,
) -> Plan[Any, Any]:
    """What `branches.fit` needs: the lesson, its settings, and where its files go."""
    recipe = loaded.recipe
    # The test split is not handed over: whoever fits the model cannot look at it.
    return Plan(
        lesson=learner.lesson(loaded, prepared, run),
        settings=recipe.training,
        seed=recipe.seed,
        greater_is_better=greater_is_better(recipe.training.metric_for_best_model),
        checkpoints=run.checkpoints,
        history=run.history,
        last=run.last,
        identity=training_identity(loaded, prepared, processes=process_count()),
        stop=stop,
        progress=progress if is_writer() else SILENT,
        save_model=learner.save,
        on_evaluation=on_evaluation,
    )


def _begin(run: Run, loaded: LoadedRecipe, prepared: PreparedData, learner: Learner) -> None:
    """Write down what is about to be trained."""
    if not is_writer():
        return
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
        notes=_notes(prepared, learner),
        **describe_environment(),
    )
    for file, text in files_of_recipe(loaded).items():
        write_text(run.folder / file, text)
    run.begin(
        recipe_text=_recipe_text(run, loaded),
        data=prepared.report | learner.data_report(),
        splits=prepared.split_table(),
        info=info,
    )


def _notes(prepared: PreparedData, learner: Learner) -> list[str]:
    """What the data and the model gave cause to say; warnings begin with the word."""
    return [*prepared.warnings, *learner.notes]


def _recipe_text(run: Run, loaded: LoadedRecipe) -> str:
    recipe = relocate(loaded, folder=run.folder)
    return dump_recipe(recipe, header="Every default filled in. `finetune train` runs it again.")


def _record_fit(run: Run, learner: Learner, result: FitResult, *, seconds: float) -> None:
    info = run.read(run.info, RunInfo)
    run.update(
        seconds=info.seconds | {"fit": round(seconds, 1)},
        steps=result.steps,
        parameters=learner.model.num_parameters(),
        trainable_parameters=learner.model.num_parameters(only_trainable=True),
        optimizer_bytes=result.optimizer_bytes,
        peak_memory_bytes=result.peak_bytes,
        padding_share=round(result.padding_share, 4) if result.padding_share is not None else None,
        training_tokens=result.tokens or None,
        micro_batches=result.micro_batches,
        fill_rate=round(result.fill_rate, 4) if result.fill_rate is not None else None,
        notes=[*info.notes, *(note for note in result.notes if note not in info.notes)],
    )


def _refuse_other_settings(run: Run, loaded: LoadedRecipe) -> None:
    """A finished run has one recipe. Asking it for fewer epochs or steps than it made asks for nothing."""
    made, wanted = settings_identity(load_recipe(run.recipe).recipe), settings_identity(loaded.recipe)
    for length in ("training.num_train_epochs", "training.max_steps"):
        if wanted[length] is not None and (made[length] is None or wanted[length] <= made[length]):
            wanted[length] = made[length]
    refuse_foreign(made, wanted, where=run.folder)


def _checkpoint(
    run: Run, loaded: LoadedRecipe, prepared: PreparedData, info: RunInfo, *, required: bool, progress: Progress
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
        return None
    progress.say(f"{run.folder}: going on from step {checkpoint.step}")
    for change in _changes(info):
        progress.warn(f"{change}: the result may differ a little from that of an uninterrupted run")
    return checkpoint


def _changes(info: RunInfo) -> list[str]:
    """What of the surroundings has changed since the run began, of all that can change the last digits."""
    then, here = info.versions, describe_environment()["versions"]
    pairs = {name: (then.get(name), here.get(name)) for name in ("torch", "transformers", "accelerate", "numpy")}
    pairs["threads"] = (str(info.threads), str(torch.get_num_threads()))
    return [f"begun with {name} {before}, now {after}" for name, (before, after) in pairs.items() if before != after]


@contextmanager
def _stoppable(folder: Path, hint: str) -> Iterator[StopRequest]:
    stop = StopRequest(where=str(folder), resume_hint=hint)
    with stop.listening():
        yield stop


@contextmanager
def _told_in_run_json(run: Run) -> Iterator[None]:
    """Whatever ends the run early is written into run.json before it is raised."""
    company().resume_hint = resume_hint(run.folder)
    company().on_end = lambda what: _tell_end(run, "failed", what)
    try:
        with memory_faults(str(run.folder)):
            yield
    except BaseException as error:
        ended = {"stopped": Stopped | KeyboardInterrupt, "pruned": Pruned}
        status = next((name for name, kinds in ended.items() if isinstance(error, kinds)), "failed")
        failure = str(error) if isinstance(error, FinetuneError | Pruned) else type(error).__name__
        _tell_end(run, status, failure)
        raise


def _tell_end(run: Run, status: str, failure: str) -> None:
    # Where even this cannot be written, the error itself is what matters.
    with suppress(EnvironmentFault, CheckpointError):
        if is_writer():
            run.update(status=status, finished=now(), failure=failure)


def _device(loaded: LoadedRecipe) -> str:
    if torch.cuda.is_available() and not loaded.recipe.training.use_cpu:
        return str(torch.cuda.get_device_name(0))
    return "cpu"
