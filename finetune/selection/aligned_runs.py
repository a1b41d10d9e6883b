"""Finished runs that judged the same test documents: read from their folders, labels and documents in one order.

Two documents are the same when the hashes of their content are; what differs otherwise is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from finetune.errors import CheckpointError, Collector, FinetuneError, RecipeError, listed
from finetune.recipe import Recipe
from finetune.recipe_file import load_recipe
from finetune.run_files import RunInfo, Scores
from finetune.runs import Run, find_run, read_json_lines
from finetune.scores.classification import checked_probabilities

IDS_IN_A_MESSAGE = 3
PREDICTION_COLUMNS = ("id", "group", "reference", "prediction", "probabilities")

Array = npt.NDArray[Any]
Key = tuple[str, int]  # content hash, and which of the documents that share it


@dataclass(frozen=True)
class AlignedRun:
    """What a run says of n test documents, one row a document.

    references, predictions: (n,) numbers of `label_names`, or (n, C) of 0 and 1 for multi-label. probabilities: (n, C).
    left_out: test documents of this run that are not among these.
    """

    name: str
    run: Run
    info: RunInfo
    scores: Scores
    recipe: Recipe
    label_names: list[str]
    ids: list[str]
    groups: list[str | None]
    keys: list[Key]
    references: Array
    predictions: Array
    probabilities: Array
    left_out: int = 0

    @property
    def multi_label(self) -> bool:
        return self.recipe.data.multi_label

    @property
    def right(self) -> Array:
        """(n,) whether the whole document is right."""
        return np.asarray((self.predictions == self.references).reshape(len(self.ids), -1).all(axis=1))

    @property
    def test_openings(self) -> int:
        return len(read_json_lines(self.run.test_openings))


def read_aligned_runs(folders: Sequence[Path], *, intersection: bool) -> list[AlignedRun]:
    """The runs on the same documents, in the order of the first run's, with numbers of the first run's labels.

    Without `intersection` all test documents must be the same; with it, those that all runs share are kept.
    Raises CheckpointError for folders that are no finished runs of one task, with the same labels and test documents.
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
            runs.append(_read_run(folder, name=name))
        except FinetuneError as error:
            problems.problems.extend(error.problems)
    problems.raise_if_any()
    for other in runs[1:]:
        _refuse_other_labels(runs[0], other)
    runs = [runs[0], *(_relabelled(run, runs[0].label_names) for run in runs[1:])]
    aligned = _shared_documents(runs, intersection=intersection)
    for other in aligned[1:]:
        _refuse_other_references(aligned[0], other)
    return aligned


def _read_run(folder: Path, *, name: str) -> AlignedRun:
    run = find_run(folder)
    info = run.read(run.info, RunInfo)
    if info.status != "complete":
        raise CheckpointError(str(folder), f"is not complete: {info.status}", "Finish it first: --resume.")
    scores, path = run.read(run.scores, Scores), run.predictions("test")
    if "test" not in scores.splits or not path.is_file():
        raise CheckpointError(str(folder), "has no test predictions", "Name a run that has scored its test split.")
    recipe, label_names = load_recipe(run.recipe).recipe, scores.splits["test"].label_names
    table, multi_label = _read(path, PREDICTION_COLUMNS), recipe.data.multi_label
    ids = table["id"].to_pylist()
    try:
        flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return AlignedRun(
            name=name,
            run=run,
            info=info,
            scores=scores,
            recipe=recipe,
            label_names=label_names,
            ids=ids,
            groups=table["group"].to_pylist(),
            keys=_keys(run, ids),
            references=_encoded(table["reference"].to_pylist(), label_names, multi_label=multi_label),
            predictions=_encoded(table["prediction"].to_pylist(), label_names, multi_label=multi_label),
            probabilities=checked_probabilities(
                flat.reshape(len(ids), len(label_names)), classes=len(label_names), multi_label=multi_label
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"does not fit the other files of its run ({error})"
        raise CheckpointError(str(path), what, "Train the run again.") from None


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns))
    except FileNotFoundError:
        raise CheckpointError(str(path), "is missing", "Is this a finished run folder?") from None
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(str(path), f"cannot be read ({type(error).__name__})", "Train the run again.") from None


def _encoded(labels: Sequence[Any], names: Sequence[str], *, multi_label: bool) -> Array:
    number = {name: index for index, name in enumerate(names)}
    if not multi_label:
        return np.array([number[label] for label in labels], dtype=np.int64)
    marks = np.zeros((len(labels), len(names)), dtype=np.int64)
    for row, present in enumerate(labels):
        marks[row, [number[label] for label in present]] = 1
    return marks


def _keys(run: Run, ids: Sequence[str]) -> list[Key]:
    """What the same documents share in every run. Those with one content are told apart by the order of their ids."""
    table = _read(run.splits, ("id", "content_hash", "split"))
    columns = (table[name].to_pylist() for name in ("id", "content_hash", "split"))
    content_of = {id: content for id, content, split in zip(*columns, strict=True) if split == "test"}
    seen: Counter[str] = Counter()
    keys: list[Key] = [("", 0)] * len(ids)
    for row in sorted(range(len(ids)), key=lambda row: ids[row]):
        content = content_of[ids[row]]
        keys[row] = (content, seen[content])
        seen[content] += 1
    return keys


def _refuse_other_labels(first: AlignedRun, other: AlignedRun) -> None:
    if first.info.task != other.info.task:
        raise CheckpointError(_folders(first, other), f"have different tasks: {first.info.task} and {other.info.task}")
    if first.multi_label != other.multi_label:
        raise CheckpointError(_folders(first, other), "cannot be compared: one is multi-label, the other is not")
    if set(first.label_names) != set(other.label_names):
        only = [
            f"only {one.name} has {listed(missing)}"
            for one, two in ((first, other), (other, first))
            if (missing := [repr(name) for name in one.label_names if name not in two.label_names])
        ]
        what = f"have different labels: {'; '.join(only)}"
        raise CheckpointError(_folders(first, other), what, "Train both with the same labels.")


def _relabelled(run: AlignedRun, names: list[str]) -> AlignedRun:
    """The same with numbers of `names`, which are the same labels in another order."""
    old_numbers = [run.label_names.index(name) for name in names]
    new_numbers = np.argsort(old_numbers)

    def moved(labels: Array) -> Array:
        return labels[:, old_numbers] if run.multi_label else new_numbers[labels]

    return replace(
        run,
        label_names=names,
        references=moved(run.references),
        predictions=moved(run.predictions),
        probabilities=run.probabilities[:, old_numbers],
    )


def _shared_documents(runs: Sequence[AlignedRun], *, intersection: bool) -> list[AlignedRun]:
    rows_of = [{key: row for row, key in enumerate(run.keys)} for run in runs]
    shared = [key for key in runs[0].keys if all(key in rows for rows in rows_of)]
    if not shared:
        raise CheckpointError(
            _folders(*runs), "share no test document", "The same source, data.limit and data.split.seed give the same."
        )
    if not intersection and any(len(shared) != len(run.keys) for run in runs):
        counts = ", ".join(f"{run.name} {len(run.keys):,}" for run in runs)
        what = f"have different test documents: {counts}, of which {len(shared):,} are shared"
        raise CheckpointError(_folders(*runs), what, "Compare those with --intersection.")
    return [_chosen(run, [rows[key] for key in shared]) for run, rows in zip(runs, rows_of, strict=True)]


def _chosen(run: AlignedRun, rows: list[int]) -> AlignedRun:
    """These rows, in this order."""
    return replace(
        run,
        ids=[run.ids[row] for row in rows],
        groups=[run.groups[row] for row in rows],
        keys=[run.keys[row] for row in rows],
        references=run.references[rows],
        predictions=run.predictions[rows],
        probabilities=run.probabilities[rows],
        left_out=len(run.ids) - len(rows),
    )


def _refuse_other_references(first: AlignedRun, other: AlignedRun) -> None:
    differ = (first.references != other.references).reshape(len(first.ids), -1).any(axis=1)
    if differ.any():
        ids = listed([first.ids[row] for row in np.flatnonzero(differ)], most=IDS_IN_A_MESSAGE)
        what = f"have different labels for {int(differ.sum()):,} of the same documents: {ids}"
        raise CheckpointError(_folders(first, other), what, "Train both on the same labelled data.")


def _folders(*runs: AlignedRun) -> str:
    return ", ".join(str(run.run.folder) for run in runs)
