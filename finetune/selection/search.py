"""Hyper-parameter search: every trial is a run that leaves the test split closed; the winner opens it once.

    plan.json    what is searched, in which recipe and data, how many trials, and the winner once it is chosen
    recipe.yaml  the recipe, with every default filled in
    study.log    Optuna's journal, which several processes may share
    trials/T/    the run of trial T: recipe, history, validation scores; best/ and last/ of the best one alone
    search.json  a SearchResult, written when every trial has ended and the winner's test scores are there

Whatever kills a process, the same command goes on: a trial that nobody works at is resumed from its own checkpoint.
Torch and Optuna are imported inside functions, because a report reads SearchResult without them.
"""

from __future__ import annotations

import gc
import json
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.data.own_functions import own_function_texts
from finetune.errors import CheckpointError, DataError, ModelError, OutOfMemory, RecipeError, Stopped, TrainingFailed
from finetune.progress import SILENT, Progress
from finetune.recipe import ClassifierRecipe, text_recipe
from finetune.recipe_file import LoadedRecipe, dump_recipe, override, relocate
from finetune.run_files import FORMAT_VERSION, RunFile, RunInfo, Score, Scores
from finetune.run_lock import LOCK
from finetune.runs import (
    OWN_FUNCTIONS,
    Run,
    check_run_folder,
    disk_faults,
    new_run_folder,
    read_json_lines,
    write_json,
    write_text,
)
from finetune.search_space import Choice, Search
from finetune.selection.run_series import refuse_processes, with_settings
from finetune.selection.text_space import check_text_space
from finetune.training.stopping import StopRequest

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from finetune.selection.study import Study, Taken

# What a search writes before plan.json; a folder with nothing else in it was never begun.
BEGUN = {LOCK, OWN_FUNCTIONS, "study.log", ".study.log.lock", "recipe.yaml", ".recipe.yaml.tmp", ".plan.json.tmp"}
STATUS: dict[str, Literal["complete", "pruned", "failed"]] = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
}


class TrialRow(RunFile):
    """One trial. value: the metric on validation; seconds: of the process that ended it; failure: why it failed."""

    number: int
    status: Literal["complete", "pruned", "failed"]
    params: dict[str, Choice]
    value: float | None
    best_epoch: float | None = None
    epochs: float | None = None
    seconds: float | None = None
    failure: str | None = None


class SearchResult(RunFile):
    """search.json. importance: setting -> relative importance (sum 1), null with `importance_note` why.

    overrides: the winner's settings as `key=value`; test: the scores of its best/ on the test split.
    """

    kind: Literal["search"] = "search"
    format_version: int = FORMAT_VERSION
    metric: str
    direction: Literal["maximize", "minimize"]
    trials: list[TrialRow]
    importance: dict[str, float] | None
    importance_note: str | None = None
    winner: int
    overrides: list[str]
    test: dict[str, Score]
    notes: list[str]


class SearchPlan(RunFile):
    """plan.json: whoever goes on must have the same `identity`; `trials` may change until there is a winner."""

    kind: Literal["search-plan"] = "search-plan"
    format_version: int = FORMAT_VERSION
    identity: dict[str, Any]
    trials: int
    winner: int | None = None


def search_settings(
    loaded: LoadedRecipe, *, folder: Path | None = None, progress: Progress = SILENT
) -> tuple[SearchResult | None, Path]:
    """Try the settings of the recipe's section `search`; None while other processes still work at trials.

    Raises RecipeError, DataError and ModelError before anything is written, CheckpointError for the folder of another
    search, TrainingFailed when no trial could be completed, Stopped.
    """
    space = text_recipe(loaded.recipe).search
    if space is None:
        raise RecipeError(loaded.where("search"), "is missing", "Add search: {space: {SETTING: {low, high}}}.")
    check_text_space(loaded, space)
    refuse_processes("search", "Start the command several times with the same --run; the processes share the trials.")
    from finetune.scores.paired import greater_is_better
    from finetune.selection.study import Study

    folder = folder if folder is not None else new_run_folder(f"{loaded.name}-search")
    _refuse_folder(folder)
    plan = SearchPlan(identity=_identity(loaded, space, progress=progress), trials=space.trials)
    if (folder / "plan.json").exists():  # before the journal there, which may be none of ours, is touched
        _refuse_other(Run(folder).read(folder / "plan.json", SearchPlan), plan, where=folder)
    hint = f"Go on with the same command and --run {shlex.quote(str(folder))}."
    try:
        with StopRequest(where=str(folder), resume_hint=hint).listening():
            with disk_faults(folder):
                folder.mkdir(parents=True, exist_ok=True)
                rising = greater_is_better(loaded.recipe.training.metric_for_best_model)
                study = Study.open(folder, seed=loaded.recipe.seed, greater_is_better=rising)
                search = _Search(loaded, space, folder, study, _SaidOnce(progress.quiet))
                search.begin(plan)
            while (taken := search.next()) is not None:
                search.run_trial(taken)
            return search.conclude(), folder
    except Stopped as stopped:
        what = stopped.problems[0].what
        raise Stopped(str(folder), what, hint, by_user=stopped.exit_status == 130) from None


@dataclass(frozen=True)
class _SaidOnce(Progress):
    """What one trial says the next one says too: each sentence is shown once, bars always."""

    said: set[str] = field(default_factory=set)

    def say(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            super().say(text)

    def warn(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            super().warn(text)


@dataclass(frozen=True)
class _Search:
    """One process's part in a search."""

    loaded: LoadedRecipe
    space: Search
    folder: Path
    study: Study
    progress: Progress

    @property
    def metric(self) -> str:
        return self.loaded.recipe.training.metric_for_best_model

    @property
    def plan(self) -> SearchPlan:
        return Run(self.folder).read(self.folder / "plan.json", SearchPlan)

    def run_of(self, number: int) -> Run:
        return Run(self.folder / "trials" / str(number))

    def begin(self, plan: SearchPlan) -> None:
        """Write the plan, or take part in the one that is there. Raises CheckpointError when that is another."""
        path = self.folder / "plan.json"
        with self.study.deciding():
            if path.exists():
                there = self.plan
                _refuse_other(there, plan, where=self.folder)
                if there.winner is None and there.trials != plan.trials:
                    write_json(path, plan)
                return
            for file, text in own_function_texts(text_recipe(self.loaded.recipe).cleaning, self.loaded.base).items():
                write_text(self.folder / file, text)
            header = "Every default filled in. `finetune search` with --run and this folder goes on with it."
            write_text(
                self.folder / "recipe.yaml", dump_recipe(relocate(self.loaded, folder=self.folder), header=header)
            )
            write_json(path, plan)

    def next(self) -> Taken | None:
        with disk_faults(self.folder), self.study.deciding():
            plan = self.plan
            return self.study.next(plan.trials) if plan.winner is None else None

    def run_trial(self, taken: Taken) -> None:
        """Train it and tell how it ended. A trial that cannot be trained is a failed one, and no more than that."""
        started, trial = time.monotonic(), taken.trial
        try:
            state, value, failure = self._outcome(taken)
            gc.collect()  # a trainer and its callbacks hold each other, and with them the model
            with disk_faults(self.folder), self.study.deciding():
                trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
                if failure is not None:
                    trial.set_user_attr("failure", failure)
                self.study.tell(taken, value, state=state)
                best = self.study.best()
                self._make_room(best)
        finally:
            taken.claim.release()
        if failure is not None:
            self.progress.warn(f"trial {trial.number} failed: {failure}")
        elif value is None:
            self.progress.say(f"trial {trial.number}: pruned")
        else:
            ahead = "the best so far" if best == trial.number else f"trial {best} is the best so far"
            self.progress.say(f"trial {trial.number}: validation {self.metric} {value:.4f}, {ahead}")

    def _outcome(self, taken: Taken) -> tuple[Literal["COMPLETE", "PRUNED", "FAIL"], float | None, str | None]:
        """State, value and failure of a trial after its training."""
        from finetune.data.prepare import prepare
        from finetune.training.plan import Pruned

        try:
            run = self._trained(taken)
        except Pruned:
            return "PRUNED", None, None
        except (TrainingFailed, RecipeError, ModelError) as error:
            return "FAIL", None, str(error)
        except DataError as error:  # a text is too long for these settings, say
            prepare(self.loaded, progress=SILENT)  # raises where the data itself is at fault, for then nothing goes on
            return "FAIL", None, str(error)
        except OutOfMemory:
            return "FAIL", None, "the memory is too small for these settings"
        value = run.read(run.scores, Scores).splits["validation"].scores[self.metric].value
        if value is None:
            return "FAIL", None, f"{self.metric} is undefined on validation"
        return "COMPLETE", value, None

    def _trained(self, taken: Taken) -> Run:
        """The trial's run after training, from where it stands. Raises Pruned, and what training raises."""
        from finetune.experiment import resume, train
        from finetune.selection.study import suggested
        from finetune.training.plan import Pruned

        trial = taken.trial
        run, listener = self.run_of(trial.number), self.study.listener(trial, self.metric, prune=self.space.prune)
        settings = _pasted(suggested(trial, self.space, type(self.loaded.recipe)))
        self.progress.say(f"trial {trial.number} ({trial.number + 1} of {self.plan.trials}): {' '.join(settings)}")
        if not run.info.exists():
            one = _trial_recipe(self.loaded, settings)
            return train(one, folder=run.folder, open_test=False, on_evaluation=listener, progress=self.progress)
        status = run.read(run.info, RunInfo).status
        if status == "pruned":
            raise Pruned
        if status == "complete":
            return run
        return resume(run.folder, open_test=False, on_evaluation=listener, progress=self.progress)

    def _make_room(self, best: int | None) -> None:
        """Of the trials that have ended, only the best keeps its models, and none its checkpoints."""
        for trial in self.study.trials():
            if trial.state.is_finished():
                run = self.run_of(trial.number)
                for folder in (run.checkpoints, *(() if trial.number == best else (run.best, run.last))):
                    shutil.rmtree(folder, ignore_errors=True)

    def conclude(self) -> SearchResult | None:
        """When every trial has ended: choose the winner, open the test split for it alone, write search.json."""
        from finetune.experiment import score_test
        from finetune.selection.study import FileLock

        winner = self._winner()
        scoring = FileLock(self.folder / ".scoring.lock")
        if winner is None or not scoring.acquire(wait=False):
            return None
        try:
            path, run = self.folder / "search.json", self.run_of(winner)
            if not path.exists():
                if "test" not in run.read(run.scores, Scores).splits:
                    self.progress.say(f"trial {winner} wins; scoring it on the test split")
                    score_test(run.folder, progress=self.progress)
                write_json(path, self._result(winner))
            return Run(self.folder).read(path, SearchResult)
        finally:
            scoring.release()

    def _winner(self) -> int | None:
        """Chosen once, by validation, before the test split is opened; None while a trial is still at work."""
        with self.study.deciding():
            plan = self.plan
            if plan.winner is not None or not self.study.all_ended():
                return plan.winner
            best = self.study.best()
            if best is None:
                failures = [failure for trial in self.study.trials() if (failure := trial.user_attrs.get("failure"))]
                what = f"none of {len(self.study.trials())} trials could be completed"
                raise TrainingFailed(
                    str(self.folder), f"{what}; the last one: {failures[-1] if failures else 'pruned'}"
                )
            write_json(self.folder / "plan.json", plan.model_copy(update={"winner": best}))
            return best

    def _result(self, winner: int) -> SearchResult:
        run = self.run_of(winner)
        trials = [self._row(trial) for trial in self.study.trials()]
        importance, note = self.study.importances()
        return SearchResult(
            metric=self.metric,
            direction="maximize" if self.study.greater_is_better else "minimize",
            trials=trials,
            importance=importance,
            importance_note=note,
            winner=winner,
            overrides=_pasted(trials[winner].params),
            test=run.read(run.scores, Scores).splits["test"].scores,
            notes=_notes(trials, openings=len(read_json_lines(run.test_openings))),
        )

    def _row(self, trial: FrozenTrial) -> TrialRow:
        from finetune.selection.study import chosen

        run, status = self.run_of(trial.number), STATUS[trial.state.name]
        evaluated = [row["epoch"] for row in run.history_rows() if "eval_loss" in row]
        return TrialRow(
            number=trial.number,
            status=status,
            params=chosen(trial.params, self.space),
            value=trial.value,
            best_epoch=run.read(run.scores, Scores).best_epoch if status == "complete" else None,
            epochs=evaluated[-1] if evaluated else None,
            seconds=trial.user_attrs.get("seconds"),
            failure=trial.user_attrs.get("failure"),
        )


def _identity(loaded: LoadedRecipe, space: Search, *, progress: Progress) -> dict[str, Any]:
    """What must be equal to go on: settings, space, data. The data and every model are looked at on the way."""
    from finetune.experiment import check
    from finetune.learner import settings_identity

    models = space.space.get("model.name")
    settings = [override("model.name", name) for name in models] if isinstance(models, list) else []
    checked = [check(_trial_recipe(loaded, [one] if one else []), progress=progress) for one in settings or [""]]
    searched = {f"search.space.{name}": values for name, values in space.model_dump(mode="json")["space"].items()}
    identity = {"data": checked[0]["data_fingerprint"][:16], "search.prune": space.prune, **searched}
    if isinstance(loaded.recipe, ClassifierRecipe):  # calibrating changes probabilities, and with them log_loss
        identity["evaluation.calibrate"] = loaded.recipe.evaluation.calibrate
    return identity | {key: value for key, value in settings_identity(loaded.recipe).items() if key not in space.space}


def _refuse_folder(folder: Path) -> None:
    """A search goes into a new folder, or goes on in its own. Raises RecipeError or EnvironmentFault."""
    begun = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not begun or ("plan.json" not in begun and not begun <= BEGUN):
        check_run_folder(folder)


def _refuse_other(there: SearchPlan, plan: SearchPlan, *, where: Path) -> None:
    """Raises CheckpointError unless the plan of the folder is this one."""
    before, now = there.identity, plan.identity
    if there.winner is not None:  # its test scores are known: more trials would be chosen among with that in mind
        before, now = before | {"search.trials": there.trials}, now | {"search.trials": plan.trials}
    changed = [
        f"{key} {json.dumps(before.get(key), ensure_ascii=False)}, now {json.dumps(now.get(key), ensure_ascii=False)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        what = f"belongs to another search ({'; '.join(changed[:5])})"
        raise CheckpointError(str(where), what, "Undo the change, or name another folder with --run.")


def _trial_recipe(loaded: LoadedRecipe, settings: Sequence[str]) -> LoadedRecipe:
    """No longer a search, but these settings."""
    return with_settings(loaded, [*settings, "search=null"])


def _pasted(params: Mapping[str, Choice]) -> list[str]:
    return [override(name, value) for name, value in params.items()]


def _notes(trials: Sequence[TrialRow], *, openings: int) -> list[str]:
    times = "once" if openings == 1 else f"{openings} times"
    ended = {status: sum(trial.status == status for trial in trials) for status in ("pruned", "failed")}
    return [
        f"validation chose the winner among {len(trials)} trials, so its validation score is optimistic; "
        f"the test split was opened {times}, for the winner alone",
        *(f"{count} of {len(trials)} trials {status}" for status, count in ended.items() if count),
    ]
