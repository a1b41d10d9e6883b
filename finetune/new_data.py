"""A finished run on new labelled data, scored with the same care as its own test split.

    RUN/evaluations/NAME-NUMBER/
      data.json                what was read and cleaned, and how much of it the run knew
      predictions/new.parquet  baselines/NAME/new.parquet
      analysis.json  scores.json

The files are those of a run folder, under the split names `new` (documents that took no part in training) and, where
some did, `all`. The headline is `new`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np

from finetune.data.labels import encoded_labels, read_labels, with_label_names
from finetune.data.prepare import Prepared
from finetune.error_analysis import analyse
from finetune.errors import DataError, Problem, RecipeError
from finetune.model_folder import weights_sha256
from finetune.new_examples import (
    ALL,
    NEW,
    TAUGHT,
    NewExamples,
    NewScores,
    is_taught,
    known_splits,
    overlap_notes,
    own_data,
    prepared_new,
    read_new,
    record_opening,
    shown_splits,
    source_name,
    unfinished,
    warned,
    write_told,
)
from finetune.new_texts import evaluate_new_texts
from finetune.opponents import beats_all, opponent_thresholds, paired_tests
from finetune.predict import Predictor, RowPredictions
from finetune.progress import SILENT, WARNING, Progress
from finetune.recipe import ImageRecipe, WriterRecipe, classifier_recipe
from finetune.recipe_file import LoadedRecipe, load_recipe
from finetune.run_files import Analysis, Calibration, Scores
from finetune.runs import Run, disk_faults, find_run, new_run_folder, write_json
from finetune.scorer import Array, Predicted, Scorer, reference_array, write_predictions
from finetune.scores.baselines import BASELINES, Inputs, Labelled
from finetune.scores.calibration import reliability
from finetune.scoring import passage_columns

NEEDS_A_MODEL = ("frozen_encoder",)


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
    loaded = load_recipe(run.recipe)
    if isinstance(loaded.recipe, ImageRecipe):
        what = f"scores labels and texts of new documents, and {run.folder} draws images"
        do = f"Score images one by one: finetune predict {run.folder} --input IMAGES --output scores.csv"
        raise RecipeError("--data", what, do)
    if isinstance(loaded.recipe, WriterRecipe):
        return evaluate_new_texts(run, loaded, source, model=model, progress=progress)
    return _evaluate_new_labels(run, loaded, source, model=model, progress=progress)


def _evaluate_new_labels(
    run: Run, loaded: LoadedRecipe, source: str, *, model: str, progress: Progress
) -> NewScores:  # fmt: skip
    folder, trained = run.model(model), run.read(run.scores, Scores)
    predictor = Predictor.load(folder, use_cpu=loaded.recipe.training.use_cpu)
    data = _read(source, loaded, predictor, progress=progress)
    known = known_splits(run, data.rows)
    prepared = _prepared(prepared_new(data.rows, known, labels=predictor.labels))
    record_opening(run, known)
    with progress.bar(total=len(data.rows), desc=f"scoring {source} with {model}/", unit="document") as bar:
        said = predictor.predict_rows(data.rows, labels=prepared.encoded[ALL], on_documents=bar.update)
    folder = new_run_folder(source_name(source), parent=run.folder / "evaluations")
    answers = {ALL: said, NEW: _of(said, np.flatnonzero(~is_taught(known)))}
    judged = _Judged(run, loaded, trained, predictor, prepared, answers)
    notes = [*data.notes, *overlap_notes(known, data.rows, run), *_cut_notes(said)]
    with disk_faults(run.folder), unfinished(folder) as begun:
        made = Run(begun)
        scores = _written(made, judged, model=model, notes=notes, progress=progress)
        write_told(made, data, known, model=model)
    return NewScores(folder, scores, notes=scores.notes)


def _read(source: str, loaded: LoadedRecipe, predictor: Predictor, *, progress: Progress) -> NewExamples:
    """Rows with labels that the model knows. Raises DataError for others."""
    data, recipe = read_new(source, loaded, progress=progress), classifier_recipe(loaded.recipe)
    try:
        _, warnings = read_labels(data.parts, multi_label=recipe.data.multi_label, expected=predictor.labels.names)
    except DataError as error:
        raise DataError.of([_of_labels(problem) for problem in error.problems]) from error
    rows = with_label_names(data.rows, predictor.labels)
    return replace(data, rows=rows, notes=[*data.notes, *map(warned, warnings)])


def _prepared(prepared: Prepared) -> Prepared:
    """The same with the numbers of its labels."""
    encoded = {name: encoded_labels(part, prepared.labels) for name, part in prepared.splits.items()}
    return replace(prepared, encoded=encoded)


def _of_labels(problem: Problem) -> Problem:
    """The remedy for a recipe is none for a finished model."""
    what = problem.what.replace("is not in data.labels. Found:", "is none of the labels this model knows:")
    do = problem.do.replace("Add it to data.labels, or correct the rows.", "Correct the rows, or leave them out.")
    return Problem(problem.where, what, do)


def _of(said: RowPredictions, rows: Array) -> RowPredictions:
    """The predictions of some rows."""
    picked = {field.name: getattr(said, field.name) for field in fields(said)}
    return replace(said, **{name: array[rows] for name, array in picked.items() if array is not None})


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


def _written(made: Run, judged: _Judged, *, model: str, notes: list[str], progress: Progress) -> Scores:
    trained, scorer, metric = judged.trained, judged.scorer, judged.trained.metric_for_best_model
    splits = shown_splits(judged.prepared)
    opponents, told = _opponents(judged, progress=progress)
    scores = Scores(
        metric_for_best_model=metric,
        best_epoch=trained.best_epoch,
        best_step=trained.best_step,
        splits={split: scorer.score(judged.predicted(split), split) for split in splits},
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
    for split in splits:
        path, passages = made.predictions(split), passage_columns(judged.said[split])
        write_predictions(path, judged.prepared, judged.predicted(split), split, run=made, passages=passages)
    for name, predicted in opponents.items():
        write_predictions(made.baseline_predictions(name, NEW), judged.prepared, predicted, NEW, run=made)
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
    own, missing = own_data(judged.run, judged.loaded, progress=progress)
    if own is None:
        return {}, [*notes, missing]
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
