"""The Optuna study of a search: one file knows Optuna. A journal that processes share, and who works at which trial.

Whatever kills a process, nothing waits for it: its locks go with it, and a trial that nobody works at is taken over.
Optuna is imported inside functions, so that a report need not have it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from finetune.errors import CheckpointError
from finetune.recipe import Recipe
from finetune.recipe_file import searchable_settings
from finetune.run_lock import LOCK
from finetune.runs import disk_faults
from finetune.search_space import Choice, Range, Search
from finetune.training.batches import keyed_seed
from finetune.training.plan import OnEvaluation, Pruned

if TYPE_CHECKING:
    import optuna

TRIALS_BEFORE_PRUNING = 5  # a median of fewer says little
LEAST_TRIALS_FOR_IMPORTANCE = 10
JOURNAL = "study.log"


class FileLock:
    """A lock that one process holds; the kernel lets go of it when that process ends, however it ends.

    Optuna's own locks are files: a killed process leaves one behind, for which the others wait half a minute before
    they break it by force. Of the kernel's two kinds this is lockf, which the loading processes of a killed trial do
    not inherit. A process must not take a lock twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: IO[bytes] | None = None

    def acquire(self, *, wait: bool = True) -> bool:
        handle = open(self._path, "ab")  # noqa: SIM115  (held until release)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            if wait:
                raise
            return False
        self._handle = handle
        return True

    def release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class JournalLock:
    """Optuna's interface of a lock around an append, which also cuts the half line that a kill or a full disk left."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = FileLock(journal.with_name(f".{journal.name}.lock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        written = self._journal.read_bytes()
        if not written.endswith(b"\n"):
            with open(self._journal, "rb+") as handle:
                handle.truncate(written.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self._lock.release()


@dataclass(frozen=True)
class Taken:
    """A trial that this process works at; `claim` is held until it has told how the trial ended."""

    trial: optuna.Trial
    claim: FileLock


@dataclass(frozen=True)
class Study:
    """A study in `folder`. The caller holds `deciding()` around everything that depends on what others do."""

    folder: Path
    optuna_study: optuna.Study
    seed: int

    @classmethod
    def open(cls, folder: Path, *, seed: int, greater_is_better: bool) -> Study:
        """The study of this folder, made by the first process that comes. Raises CheckpointError for a damaged one."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        journal = folder / JOURNAL
        lock = JournalLock(journal)
        backend = JournalFileBackend(str(journal), lock_obj=lock)  # type: ignore[arg-type]  # its class is private
        try:
            made = optuna.create_study(
                storage=JournalStorage(backend),
                study_name="search",
                direction="maximize" if greater_is_better else "minimize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING),
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # as Optuna meets lines that are not its own
            what = f"cannot be read ({type(error).__name__})"
            raise CheckpointError(str(journal), what, "Name another folder with --run.") from error
        return cls(folder, made, seed)

    @property
    def greater_is_better(self) -> bool:
        return self.optuna_study.direction.name == "MAXIMIZE"

    def deciding(self) -> FileLock:
        return FileLock(self.folder / LOCK)

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """All trials in the order of their numbers, as they stand."""
        return self.optuna_study.get_trials(deepcopy=False)

    def all_ended(self) -> bool:
        return all(trial.state.is_finished() for trial in self.trials())

    def next(self, total: int) -> Taken | None:
        """A trial whose process is gone, else a new one, else None. To be called while deciding."""
        import optuna

        trials = self.trials()
        for trial in trials:
            if not trial.state.is_finished() and (claim := self._claimed(trial.number)) is not None:
                return Taken(optuna.Trial(self.optuna_study, trial._trial_id), claim)
        claim = self._claimed(len(trials)) if len(trials) < total else None
        return Taken(self.optuna_study.ask(), claim) if claim is not None else None

    def _claimed(self, number: int) -> FileLock | None:
        claims = self.folder / "trials"
        claims.mkdir(exist_ok=True)
        claim = FileLock(claims / f".{number}.lock")
        if not claim.acquire(wait=False):
            return None
        from optuna.samplers import TPESampler

        # Keyed by the trial: a search that went on draws what an uninterrupted one would have drawn.
        self.optuna_study.sampler = TPESampler(seed=keyed_seed(self.seed, number) % 2**32)
        return claim

    def best(self) -> int | None:
        """The first of the best complete trials."""
        values = {trial.number: trial.value for trial in self.trials() if trial.state.name == "COMPLETE"}
        sign = 1 if self.greater_is_better else -1
        return max(values, key=lambda number: (sign * cast(float, values[number]), -number), default=None)

    def tell(self, taken: Taken, value: float | None, *, state: str) -> None:
        """How a trial ended: COMPLETE with its value, PRUNED or FAIL."""
        from optuna.trial import TrialState

        self.optuna_study.tell(taken.trial, value, state=TrialState[state])

    def listener(self, trial: optuna.Trial, metric: str, *, prune: bool) -> OnEvaluation:
        """Reports the metric once for each epoch that is over; raises Pruned where it is worse than the median was."""
        known = {*self.trials()[trial.number].intermediate_values}  # from before an interruption

        def on_evaluation(epoch: float, scores: Mapping[str, float]) -> None:
            step = int(epoch + 1e-6)  # trials are compared after as many passes over the data
            if step == 0 or metric not in scores:
                return
            if step not in known:
                known.add(step)
                with disk_faults(self.folder):
                    trial.report(scores[metric], step)
            if prune and trial.should_prune():
                raise Pruned

        return on_evaluation

    def importances(self) -> tuple[dict[str, float] | None, str | None]:
        """Each setting's share of the variance of the metric over complete trials, or None and why there is none.

        fANOVA on a seeded random forest: Hutter, Hoos and Leyton-Brown, ICML 2014.
        """
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        values = [trial.value for trial in self.trials() if trial.state.name == "COMPLETE"]
        if len(values) < LEAST_TRIALS_FOR_IMPORTANCE:
            return None, f"{len(values)} complete trials are too few (at least {LEAST_TRIALS_FOR_IMPORTANCE})"
        if len({*values}) == 1:
            return None, "all complete trials have the same value"
        found = get_param_importances(self.optuna_study, evaluator=FanovaImportanceEvaluator(seed=self.seed))
        return {name: round(share, 4) for name, share in found.items()}, None


def suggested(trial: optuna.Trial, space: Search, recipe: type[Recipe]) -> dict[str, Choice]:
    """The values to try; of a trial that was taken over, those that it had."""
    return chosen({name: _suggest(trial, name, values, recipe) for name, values in space.space.items()}, space)


def chosen(params: Mapping[str, Choice], space: Search) -> dict[str, Choice]:
    """Optuna's values as they are trained: four significant digits do as well as sixteen, and can be pasted."""
    values = {}
    for name, among in space.space.items():
        value = params[name]
        if isinstance(value, float) and isinstance(among, Range):
            value = min(max(float(f"{value:.4g}"), among.low), among.high)
        values[name] = value
    return values


def _suggest(trial: optuna.Trial, name: str, values: Range | list[Choice], recipe: type[Recipe]) -> Choice:
    if not isinstance(values, Range):
        return cast(Choice, trial.suggest_categorical(name, values))
    if float not in searchable_settings(recipe)[name]:
        step = int(values.step or 1)
        return trial.suggest_int(name, int(values.low), int(values.high), step=step, log=values.log)
    return trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log)
