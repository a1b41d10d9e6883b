"""Finished runs that judged the same test documents: read from their folders, their documents brought into one order.

Two documents are the same when the hashes of their content are; what differs otherwise is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from finetune.errors import CheckpointError, Collector, FinetuneError, RecipeError, listed
from finetune.recipe import Recipe
from finetune.recipe_file import load_recipe
from finetune.run_files import RunInfo, Scores
from finetune.runs import Run, find_run, read_json_lines

IDS_IN_A_MESSAGE = 3

Array = npt.NDArray[Any]
Key = tuple[str, int]  # content hash, and which of the documents that share it


@dataclass(frozen=True)
class FinishedRun:
    """A run that has scored its test split, by the name it has in the comparison."""

    name: str
    run: Run
    info: RunInfo
    scores: Scores
    recipe: Recipe

    @property
    def test_openings(self) -> int:
        return len(read_json_lines(self.run.test_openings))


@dataclass(frozen=True, kw_only=True)
class AlignedRun:
    """What a run says of n test documents, one row a document.

    left_out: test documents of this run that are not among these.
    """

    finished: FinishedRun
    ids: list[str]
    groups: list[str | None]
    keys: list[Key]
    left_out: int = 0

    @property
    def name(self) -> str:
        return self.finished.name

    @property
    def recipe(self) -> Recipe:
        return self.finished.recipe

    @property
    def has_groups(self) -> bool:
        return any(group is not None for group in self.groups)

    def chosen(self, rows: list[int]) -> Self:
        """These rows, in this order."""
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            groups=[self.groups[row] for row in rows],
            keys=[self.keys[row] for row in rows],
            left_out=len(self.ids) - len(rows),
        )


SomeRun = TypeVar("SomeRun", bound=AlignedRun)


def finished_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """The runs of these folders, told apart by their names or else by their paths.

    Raises RecipeError for fewer than two, CheckpointError with every folder that is no finished run.
    """
    if len(folders) < 2:
        raise RecipeError("compare", "needs two runs", "Name another run folder.")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    problems, runs = Collector(CheckpointError), []
    for number, (folder, name) in enumerate(zip(folders, names, strict=True)):
        try:
            if folder.resolve() in [other.resolve() for other in folders[:number]]:
                raise CheckpointError(str(folder), "is named twice", "Name each run once.")
            runs.append(_finished_run(folder, name=name))
        except FinetuneError as error:
            problems.problems.extend(error.problems)
    problems.raise_if_any()
    return runs


def read_documents(
    runs: Sequence[FinishedRun], read: Callable[[FinishedRun, pa.Table], SomeRun], *, columns: Sequence[str]
) -> list[SomeRun]:
    """Each run with its stored predictions of test, of which `read` makes a run. Raises CheckpointError with all that
    is damaged, missing, or does not fit the other files of its run.
    """
    problems, made = Collector(CheckpointError), list[SomeRun]()
    for one in runs:
        path = one.run.predictions("test")
        try:
            with _fitting(path):
                made.append(read(one, _table(path, columns)))
        except FinetuneError as error:
            problems.problems.extend(error.problems)
    problems.raise_if_any()
    return made


def documents_of(finished: FinishedRun, table: pa.Table) -> dict[str, Any]:
    """The fields of an AlignedRun. Raises KeyError for a document that the run's splits do not know."""
    ids = table["id"].to_pylist()
    return {
        "finished": finished,
        "ids": ids,
        "groups": table["group"].to_pylist(),
        "keys": _keys(finished.run, ids),
    }


def shared_documents(runs: Sequence[SomeRun], *, intersection: bool) -> list[SomeRun]:
    """The runs on the same documents, in the order of the first run's.

    Without `intersection` all test documents must be the same; with it, those that all runs share are kept.
    """
    rows_of = [{key: row for row, key in enumerate(run.keys)} for run in runs]
    shared = [key for key in runs[0].keys if all(key in rows for rows in rows_of)]
    if not shared:
        raise CheckpointError(
            folders(*runs), "share no test document", "The same source, data.limit and data.split.seed give the same."
        )
    if not intersection and any(len(shared) != len(run.keys) for run in runs):
        counts = ", ".join(f"{run.name} {len(run.keys):,}" for run in runs)
        what = f"have different test documents: {counts}, of which {len(shared):,} are shared"
        raise CheckpointError(folders(*runs), what, "Compare those with --intersection.")
    return [run.chosen([rows[key] for key in shared]) for run, rows in zip(runs, rows_of, strict=True)]


def differing(first: AlignedRun, rows: Array) -> str:
    """`12 of the same documents: a:1, a:7, a:9 ...`, for a message."""
    ids = listed([first.ids[row] for row in np.flatnonzero(rows)], most=IDS_IN_A_MESSAGE)
    return f"{int(rows.sum()):,} of the same documents: {ids}"


def folders(*runs: AlignedRun) -> str:
    return ", ".join(str(run.finished.run.folder) for run in runs)


def _finished_run(folder: Path, *, name: str) -> FinishedRun:
    run = find_run(folder)
    info = run.read(run.info, RunInfo)
    if (unfinished := run.unfinished()) is not None:
        raise CheckpointError(str(folder), f"is not complete: {unfinished[0]}", unfinished[1])
    scores = run.read(run.scores, Scores)
    keeps_predictions = info.task != "image-generation"
    if "test" not in scores.splits or (keeps_predictions and not run.predictions("test").is_file()):
        raise CheckpointError(str(folder), "has no test predictions", "Name a run that has scored its test split.")
    return FinishedRun(name, run, info, scores, load_recipe(run.recipe).recipe)


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        what = f"does not fit the other files of its run ({error})"
        raise CheckpointError(str(path), what, "Train the run again.") from None


def _table(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns))
    except FileNotFoundError:
        raise CheckpointError(str(path), "is missing", "Is this a finished run folder?") from None
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(str(path), f"cannot be read ({type(error).__name__})", "Train the run again.") from None


def _keys(run: Run, ids: Sequence[str]) -> list[Key]:
    """What the same documents share in every run. Those with one content are told apart by the order of their ids."""
    table = _table(run.splits, ("id", "content_hash", "split"))
    columns = (table[name].to_pylist() for name in ("id", "content_hash", "split"))
    content_of = {id: content for id, content, split in zip(*columns, strict=True) if split == "test"}
    seen: Counter[str] = Counter()
    keys: list[Key] = [("", 0)] * len(ids)
    for row in sorted(range(len(ids)), key=lambda row: ids[row]):
        content = content_of[ids[row]]
        keys[row] = (content, seen[content])
        seen[content] += 1
    return keys
