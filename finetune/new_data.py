"""A finished run on new labelled data, scored with the same care as its own test split.

    RUN/evaluations/NAME-NUMBER/
      data.json                what was read and cleaned, and how much of it the run knew
      predictions/new.parquet  baselines/NAME/new.parquet
      analysis.json  scores.json

The files are those of a run folder, under the split names `new` (documents that took no part in training) and, where
some did, `all`. The headline is `new`.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import datasets
import numpy as np

from finetune.data.cleaning import StepReport, check_texts, clean
from finetune.data.corpora import CORPUS_STAMPS
from finetune.data.duplicates import content_hash
from finetune.data.labels import encoded_labels, read_labels, with_label_names
from finetune.data.prepare import Prepared, column_map, prepare, watched_corpora
from finetune.data.row_streams import selected, values
from finetune.data.sources import Loaded, load_examples
from finetune.error_analysis import analyse
from finetune.errors import DataError, FinetuneError, Problem, listed
from finetune.opponents import beats_all, opponent_thresholds, paired_tests
from finetune.predict import Predictor, RowPredictions
from finetune.progress import SILENT, WARNING, Progress
from finetune.recipe import classifier_recipe
from finetune.recipe_file import LoadedRecipe, load_recipe
from finetune.run_files import Analysis, Calibration, RunInfo, Scores
from finetune.runs import Run, disk_faults, find_run, new_run_folder, read_table, write_json
from finetune.scorer import Array, Predicted, Scorer, reference_array, write_predictions
from finetune.scores.baselines import BASELINES, Inputs, Labelled
from finetune.scores.calibration import reliability
from finetune.scoring import passage_columns, weights_sha256

NEW, ALL = "new", "all"  # documents that took no part in training; these and those that did
TAUGHT = ("train", "validation")
OPTIONAL = {"data.columns.group": "group", "data.columns.id": "id", "evaluation.slices": "slices"}
NEEDS_A_MODEL = ("frozen_encoder",)


@dataclass(frozen=True)
class NewScores:
    """Where the evaluation is, and its scores; `notes` also holds what reading and cleaning brought to light."""

    folder: Path
    scores: Scores
    notes: list[str]


def evaluate_new(
    run_folder: str | Path, source: str, *, model: Literal["best", "last"] = "best", progress: Progress = SILENT
) -> NewScores:
    """Score a saved model of a run on labelled data it has not seen: whatever `data.source` can name.

    The data is read by the run's recipe (columns, encoding, cleaning) and from the current folder; a group, id or
    slice column that is not there is done without, and said. Documents that are in the run's train or validation split
    (equal after folding) are counted and kept out of the split `new`; with them the scores are under `all`. Where
    documents of the run's test split are met, that is recorded as an opening of it. Baselines but the frozen encoder
    are fitted again where the run's own data is still what it was.

    Raises CheckpointError for the run, DataError for the data: as `prepare`, and for labels that the model has not.
    """
    run = find_run(run_folder)
    folder = run.model(model)
    loaded, trained = load_recipe(run.recipe), run.read(run.scores, Scores)
    predictor = Predictor.load(folder, use_cpu=loaded.recipe.training.use_cpu)
    data = _read(source, loaded, predictor, progress=progress)
    known = _known(run, data.rows)
    prepared = _prepared(data, known, predictor)
    if met := int((known == "test").sum()):
        run.record_test_opening(by="evaluate --data", documents=met)
    with progress.bar(total=len(data.rows), desc=f"scoring {source} with {model}/", unit="document") as bar:
        said = predictor.predict_rows(data.rows, labels=prepared.encoded[ALL], on_documents=bar.update)
    folder = new_run_folder(_name(source), parent=run.folder / "evaluations")
    answers = {ALL: said, NEW: _of(said, np.flatnonzero(~_taught(known)))}
    judged = _Judged(run, loaded, trained, predictor, prepared, answers)
    notes = [*data.notes, *_overlap_notes(known, data.rows, run), *_cut_notes(said)]
    with disk_faults(run.folder), _unfinished(folder) as unfinished:
        scores = _written(Run(unfinished), judged, data, known, model=model, notes=notes, progress=progress)
    return NewScores(folder, scores, notes=scores.notes)


@dataclass(frozen=True)
class _NewData:
    """Cleaned rows with labels the model knows; what was read; what to tell."""

    source: str
    rows: datasets.Dataset
    read: Loaded
    steps: list[StepReport]
    notes: list[str]


def _read(source: str, loaded: LoadedRecipe, predictor: Predictor, *, progress: Progress) -> _NewData:
    recipe = classifier_recipe(loaded.recipe)
    read, notes = _loaded(source, loaded, progress=progress)
    if len(read.splits) > 1:
        notes.append(f"{source} has splits of its own, which are scored together: {listed(read.splits)}")
    rows = datasets.concatenate_datasets(list(read.splits.values()))
    cleaned, steps = clean({NEW: rows}, recipe.cleaning, base=loaded.base)
    check_texts(cleaned)
    rows = cleaned[NEW]
    try:
        _, warnings = read_labels(cleaned, multi_label=recipe.data.multi_label, expected=predictor.labels.names)
    except DataError as error:
        raise DataError.of([_of_labels(problem) for problem in error.problems]) from error
    notes += [*read.notes, *map(_warning, (*read.warnings, *warnings))]
    notes += [_warning(note) if step.dropped else note for step in steps for note in step.notes]
    return _NewData(source, with_label_names(rows, predictor.labels), read, steps, notes)


def _warning(text: str) -> str:
    return text if text.startswith(WARNING) else WARNING + text


def _loaded(source: str, loaded: LoadedRecipe, *, progress: Progress) -> tuple[Loaded, list[str]]:
    """The examples; columns that scoring can do without are left out where the new data has them not."""
    data = classifier_recipe(loaded.recipe).data
    columns = column_map(data.columns)
    slices, notes = tuple(loaded.recipe.evaluation.slices), list[str]()
    while True:
        try:
            read = load_examples(
                source,
                columns=columns,
                base=Path.cwd(),
                multi_label=data.multi_label,
                encoding=data.encoding,
                most_characters=data.most_characters,
                slices=slices,
                corpora=watched_corpora(progress),
                stamps=CORPUS_STAMPS,
                progress=progress,
            )
            return read, notes
        except DataError as error:
            absent = {
                one.where for one in error.problems if one.where in OPTIONAL and one.what.startswith("no column ")
            }
            if grave := [_of_columns(problem) for problem in error.problems if problem.where not in absent]:
                raise DataError.of(grave) from error
        for key in sorted(absent):
            notes.append(f"{WARNING}{source} lacks a column that {key} names: {_consequence(OPTIONAL[key])}")
        columns = replace(
            columns,
            group=None if "data.columns.group" in absent else columns.group,
            id=None if "data.columns.id" in absent else columns.id,
        )
        slices = () if "evaluation.slices" in absent else slices


def _consequence(role: str) -> str:
    return {
        "group": "every document counts on its own, so intervals are too narrow if some belong together",
        "id": "documents are named by file and row",
        "slices": "there are no scores by column",
    }[role]


def _of_columns(problem: Problem) -> Problem:
    do = f"Is the header missing? Else name the column in {problem.where}."
    return replace(problem, do=problem.do.replace(do, "Name the column as the run's recipe does."))


def _of_labels(problem: Problem) -> Problem:
    """The remedy for a recipe is none for a finished model."""
    what = problem.what.replace("is not in data.labels. Found:", "is none of the labels this model knows:")
    do = problem.do.replace("Add it to data.labels, or correct the rows.", "Correct the rows, or leave them out.")
    return Problem(problem.where, what, do)


def _known(run: Run, rows: datasets.Dataset) -> Array:
    """For each row the split of the run that has the same text, after folding, or an empty name. Shape (rows,)."""
    table = read_table(run.splits)
    split_of: dict[str, str] = {}
    for split in ("test", *reversed(TAUGHT)):  # what taught counts first
        pairs = zip(table["content_hash"], table["split"], strict=True)
        split_of |= {text: split for text, which in pairs if which == split}
    known = np.array([split_of.get(content_hash(text), "") for text in values(rows, "text")], dtype="<U10")
    if _taught(known).all():
        what = f"all {len(known):,} documents are in this run's train or validation split"
        raise DataError(str(run.folder), what, "Name data that the model has not seen.")
    return known


def _taught(known: Array) -> Array:
    return np.isin(known, TAUGHT)


def _prepared(data: _NewData, known: Array, predictor: Predictor) -> Prepared:
    """The new data as splits of its own: `all` rows, and `new` ones."""
    rows, unseen = data.rows, np.flatnonzero(~_taught(known))
    splits = {ALL: rows, NEW: rows if len(unseen) == len(rows) else selected(rows, unseen)}
    return Prepared(
        splits=splits,
        labels=predictor.labels,
        encoded={name: encoded_labels(part, predictor.labels) for name, part in splits.items()},
        families={},
        fingerprint="",
        report={},
        warnings=[],
    )


def _of(said: RowPredictions, rows: Array) -> RowPredictions:
    """The predictions of some rows."""
    picked = {field.name: getattr(said, field.name) for field in fields(said)}
    return replace(said, **{name: array[rows] for name, array in picked.items() if array is not None})


def _overlap_notes(known: Array, rows: datasets.Dataset, run: Run) -> list[str]:
    counts, notes = Counter(known.tolist()), []
    for split in (each for each in TAUGHT if counts[each]):
        notes.append(
            f"{WARNING}{counts[split]:,} of {len(known):,} documents are in this run's {split} split; "
            f"they count in `{ALL}` alone, not in `{NEW}`"
        )
    if counts["test"]:
        notes.append(
            f"{counts['test']:,} of {len(known):,} documents are in this run's test split; this was recorded as an "
            "opening of it"
        )
    table = read_table(run.splits)
    taught = {group for group, split in zip(table["group"], table["split"], strict=True) if split in TAUGHT} - {None}
    groups = np.array([group in taught for group in rows["group"][:]]) & ~_taught(known)
    if groups.any():
        notes.append(
            f"{WARNING}{int(groups.sum()):,} of the new documents belong to a group that taught the model: their "
            "scores say little about new groups"
        )
    return notes


def _cut_notes(said: RowPredictions) -> list[str]:
    cut, documents = int(said.tokens_cut.sum()), int((said.tokens_cut > 0).sum())
    told = f"{cut:,} tokens of {documents:,} documents were not read: the model's windows are limited"
    return [WARNING + told] if cut else []


@dataclass(frozen=True)
class _Judged:
    """A model's answers by split, and what is needed to judge them."""

    run: Run
    loaded: LoadedRecipe
    trained: Scores
    predictor: Predictor
    prepared: Prepared
    said: dict[str, RowPredictions]

    @property
    def splits(self) -> list[str]:
        """`new` first; `all` only where it is more."""
        rows = self.prepared.splits
        return [NEW, ALL] if len(rows[ALL]) > len(rows[NEW]) else [NEW]

    @property
    def scorer(self) -> Scorer:
        recipe = self.loaded.recipe
        return Scorer(self.prepared, bootstrap=recipe.evaluation.bootstrap, seed=recipe.seed)

    def predicted(self, split: str) -> Predicted:
        said = self.said[split]
        return Predicted(said.probabilities, losses=said.losses, thresholds=self.predictor.thresholds)

    def analysis(self) -> Analysis:
        metric, examples = self.trained.metric_for_best_model, self.loaded.recipe.report.examples
        return analyse(self.scorer, NEW, self.said[NEW], self.predicted(NEW), metric=metric, examples=examples)

    def calibration(self) -> Calibration:
        """What the model was calibrated by, with its reliability on the new documents."""
        fitted = self.predictor.calibration or Calibration(temperature=1.0, folded=False, note="not calibrated")
        references, multi_label = reference_array(self.prepared, NEW), self.prepared.labels.multi_label
        said = self.said[NEW]
        after = reliability(references, said.probabilities, multi_label=multi_label)
        before = after
        if said.uncalibrated is not None:
            before = reliability(references, said.uncalibrated, multi_label=multi_label)
        return fitted.model_copy(update={"before": before, "after": after})


def _written(
    made: Run, judged: _Judged, data: _NewData, known: Array, *, model: str, notes: list[str], progress: Progress
) -> Scores:
    trained, scorer, metric = judged.trained, judged.scorer, judged.trained.metric_for_best_model
    opponents, told = _opponents(judged, progress=progress)
    scores = Scores(
        metric_for_best_model=metric,
        best_epoch=trained.best_epoch,
        best_step=trained.best_step,
        splits={split: scorer.score(judged.predicted(split), split) for split in judged.splits},
        last={},
        baselines={name: {NEW: scorer.score(predicted, NEW)} for name, predicted in opponents.items()},
        baseline_tests=paired_tests(judged.predicted(NEW), opponents, scorer, NEW, metric=metric),
        strongest_baseline=trained.strongest_baseline if trained.strongest_baseline in opponents else None,
        calibration=judged.calibration(),
        weights={model: weights_sha256(judged.run.folder / model)},
        notes=[*notes, *told, *scorer.notes(NEW)],
    )
    beats = beats_all(scores.baseline_tests)
    if not (beats and told):  # "every baseline" cannot be said where one of the recipe's is missing
        scores = scores.model_copy(update={"beats_baselines": beats})
    for split in judged.splits:
        path, passages = made.predictions(split), passage_columns(judged.said[split])
        write_predictions(path, judged.prepared, judged.predicted(split), split, run=made, passages=passages)
    for name, predicted in opponents.items():
        write_predictions(made.baseline_predictions(name, NEW), judged.prepared, predicted, NEW, run=made)
    counts = Counter(known.tolist())
    write_json(
        made.data,
        {
            "format_version": 1,
            "source": data.source,
            "model": model,
            "files": [asdict(file) for file in data.read.files],
            "cleaning": [asdict(step) | {"examples": []} for step in data.steps],
            "documents": len(known),
            "known_from": {split: counts[split] for split in (*TAUGHT, "test")},
        },
    )
    write_json(made.analysis, judged.analysis())
    write_json(made.scores, scores)
    return scores


def _opponents(judged: _Judged, *, progress: Progress) -> tuple[dict[str, Predicted], list[str]]:
    """Baselines fitted again on the run's own training split, and what they say of the new documents; why some not."""
    asked = judged.loaded.recipe.evaluation.baselines
    names = [name for name in asked if name not in NEEDS_A_MODEL]
    notes = [f"{name} is not fitted again for new data" for name in asked if name in NEEDS_A_MODEL]
    if not names:
        return {}, notes
    try:
        own = prepare(judged.loaded, progress=progress)
    except FinetuneError as error:
        return {}, [*notes, f"no baselines: the run's own data cannot be prepared ({error.problems[0]})"]
    if own.fingerprint != judged.run.read(judged.run.info, RunInfo).data_fingerprint:
        return {}, [*notes, "no baselines: the data that the run was trained on has changed since"]
    known = {
        split: Labelled(Inputs(own.splits[split]["text"][:]), reference_array(own, split)) for split in TAUGHT
    }  # fmt: skip
    texts, labels = Inputs(judged.prepared.splits[NEW]["text"][:]), own.labels
    thresholds_for = judged.trained.metric_for_best_model if judged.predictor.thresholds is not None else None
    predicted = {}
    for name in progress.bar(iterable=names, desc="baselines", unit="baseline"):
        fitted = BASELINES[name](
            known["train"], known["validation"], classes=len(labels.names), multi_label=labels.multi_label
        )
        thresholds = opponent_thresholds(fitted, known["validation"], labels, metric=thresholds_for)
        predicted[name] = Predicted(fitted.predict_probabilities(texts), thresholds=thresholds)
    return predicted, notes


def _name(source: str) -> str:
    """`reviews` of data/reviews.csv.gz."""
    return Path(source.removeprefix("builtin:")).name.split(".")[0] or "data"


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name when all of it is written."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
