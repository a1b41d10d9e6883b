"""Scores of a run: the saved models, loaded afresh, beside cheap baselines on the same documents.

The reported score comes from the files in best/, so a fault of saving or loading would show as a wrong score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.classifier_learner import ClassifierLearner
from finetune.data.prepare import Prepared
from finetune.error_analysis import analyse
from finetune.figures import draw_confusion, draw_curves
from finetune.model_folder import weights_sha256
from finetune.opponents import beats_all, fit_opponents, paired_tests
from finetune.predict import Predictor, RowPredictions
from finetune.progress import Progress
from finetune.recipe import ClassifierEvaluation, Recipe, classifier_recipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Analysis, Calibration, FitVerdict, Scores, SplitScores
from finetune.runs import Run, disk_faults, write_json
from finetune.scorer import Array, Predicted, Scorer, reference_array, write_predictions
from finetune.scores.calibration import reliability
from finetune.scores.classification import score_classification
from finetune.scores.fit_course import fit_settings
from finetune.scores.fit_verdict import judge_fit
from finetune.scores.paired import greater_is_better
from finetune.tasks.base import Floats
from finetune.training.plan import FitResult

SCORED_SPLITS = ("validation", "test")


def score_classifier(
    run: Run,
    loaded: LoadedRecipe,
    prepared: Prepared,
    learner: ClassifierLearner,
    result: FitResult,
    *,
    calibration: Calibration | None = None,
    open_test: bool = True,
    progress: Progress,
) -> Scores:
    """Load best/ and last/ afresh, open the test split once, fit the baselines, write scores, predictions, figures.

    Without `open_test` the validation split alone is scored, and no baseline is fitted.
    """
    splits = SCORED_SPLITS if open_test else SCORED_SPLITS[:1]
    recipe = classifier_recipe(loaded.recipe)
    scorer = Scorer(prepared, recipe.evaluation.bootstrap, recipe.seed)
    if open_test:
        run.record_test_opening(by="train", documents=len(prepared.splits["test"]))
    use_cpu = recipe.training.use_cpu
    best = last = predict_saved(run.best, prepared, splits=splits, use_cpu=use_cpu, progress=progress)
    if result.best_step != result.steps:
        last = predict_saved(run.last, prepared, splits=splits, use_cpu=use_cpu, progress=progress)
    for split, rows in best.rows.items():
        path, passages = run.predictions(split), passage_columns(rows)
        write_predictions(path, prepared, best.predicted(split), split, run=run, passages=passages)
    chosen = recipe.training.load_best_model_at_end
    scores = Scores(
        metric_for_best_model=recipe.training.metric_for_best_model,
        best_epoch=result.best_epoch,
        best_step=result.best_step,
        splits={split: scorer.score(best.predicted(split), split) for split in splits},
        last={split: scorer.score(last.predicted(split), split) for split in splits},
        baselines={},
        calibration=_with_test(calibration, best, prepared) if open_test else calibration,
        weights={which.name: weights_sha256(which) for which in (run.best, run.last)},
        fit=_judged(run, loaded, prepared, result),
        notes=[
            *(note for split in splits for note in scorer.notes(split)),
            selection_note(chosen, open_test=open_test),
        ],
    )
    if open_test and recipe.evaluation.baselines:
        scores = _beside_baselines(scores, best, recipe.evaluation, scorer, learner, run=run, progress=progress)
    with disk_faults(run.folder):
        write_json(run.scores, scores)
        if open_test:
            write_json(run.analysis, _analysed(best, scorer, recipe))
        draw_figures(run, scores)
    return scores


def _beside_baselines(
    scores: Scores,
    best: SavedPredictions,
    evaluation: ClassifierEvaluation,
    scorer: Scorer,
    learner: ClassifierLearner,
    *,
    run: Run,
    progress: Progress,
) -> Scores:
    """The scores with those of the baselines, and the model tested against each of them on test."""
    metric = scores.metric_for_best_model
    opponents = fit_opponents(
        evaluation.baselines,
        scorer,
        learner,
        run=run,
        splits=SCORED_SPLITS,
        thresholds_for=metric if evaluation.calibrate else None,
        progress=progress,
    )
    theirs = {name: predicted["test"] for name, predicted in opponents.predicted.items()}
    tests = paired_tests(best.predicted("test"), theirs, scorer, "test", metric=metric)
    found = {
        "baselines": opponents.scores,
        "baseline_tests": tests,
        "strongest_baseline": opponents.strongest(metric),
        "beats_baselines": beats_all(tests),
    }
    return scores.model_copy(update=found)


def _analysed(best: SavedPredictions, scorer: Scorer, recipe: Recipe) -> Analysis:
    metric, examples = recipe.training.metric_for_best_model, recipe.report.examples
    return analyse(scorer, "test", best.rows["test"], best.predicted("test"), metric=metric, examples=examples)


def rescore_classifier(
    run: Run, loaded: LoadedRecipe, prepared: Prepared, *, split: str, model: str, progress: Progress
) -> SplitScores:
    """Scores of best/ or last/ on one split of the run, predicted again from the saved files."""
    if split == "test":
        run.record_test_opening(by="evaluate", documents=len(prepared.splits["test"]))
    use_cpu = loaded.recipe.training.use_cpu
    saved = predict_saved(run.folder / model, prepared, splits=[split], use_cpu=use_cpu, progress=progress)
    scorer = Scorer(prepared, bootstrap=loaded.recipe.evaluation.bootstrap, seed=loaded.recipe.seed)
    return scorer.score(saved.predicted(split), split)


@dataclass(frozen=True)
class SavedPredictions:
    """What the model of a folder says of whole splits, and the thresholds (C,) it decides with, if any."""

    rows: dict[str, RowPredictions]
    thresholds: Floats | None

    def predicted(self, split: str) -> Predicted:
        rows = self.rows[split]
        return Predicted(rows.probabilities, losses=rows.losses, thresholds=self.thresholds)


def predict_saved(
    folder: Path, prepared: Prepared, *, splits: Sequence[str], use_cpu: bool, progress: Progress
) -> SavedPredictions:
    """Predictions of whole splits by the model in `folder`, with its tokenizer and windows, loaded from its files."""
    predictor = Predictor.load(folder, use_cpu=use_cpu)
    predictions = {}
    for split in splits:
        rows = prepared.splits[split]
        with progress.bar(total=len(rows), desc=f"scoring {split} with {folder.name}/", unit="document") as bar:
            predictions[split] = predictor.predict_rows(rows, labels=prepared.encoded[split], on_documents=bar.update)
    return SavedPredictions(predictions, predictor.thresholds)


def passage_columns(predictions: RowPredictions) -> dict[str, Array]:
    """For each document its number of windows, and where the one that decided is, in characters of the cleaned text."""
    start, end = predictions.passages.T
    return {"windows": predictions.windows, "passage_start": start, "passage_end": end}


def draw_figures(run: Run, scores: Scores) -> None:
    """figures/curves.png and, for single labels, figures/confusion.png."""
    run.figures.mkdir(exist_ok=True)
    draw_curves(run.history_rows(), run.figures / "curves.png", best_epoch=scores.best_epoch)
    test = scores.splits.get("test")
    if test is not None and test.confusion:
        draw_confusion(test.confusion, test.label_names, run.figures / "confusion.png")


def selection_note(chosen: bool, *, open_test: bool) -> str:
    test = "test took no part" if open_test else "test was not opened"
    if not chosen:
        return f"no epoch was chosen: best/ is the last model; {test}"
    return f"validation chose the epoch, so its scores are optimistic; {test}"


def _with_test(calibration: Calibration | None, best: SavedPredictions, prepared: Prepared) -> Calibration | None:
    """The calibration with what it did to the probabilities of the test documents."""
    if calibration is None:
        return None
    references, multi_label, rows = reference_array(prepared, "test"), prepared.labels.multi_label, best.rows["test"]
    after = reliability(references, rows.probabilities, multi_label=multi_label)
    before = after
    if rows.uncalibrated is not None:
        before = reliability(references, rows.uncalibrated, multi_label=multi_label)
    return calibration.model_copy(update={"before": before, "after": after})


def _judged(run: Run, loaded: LoadedRecipe, prepared: Prepared, result: FitResult) -> FitVerdict:
    """What the history of the run says of its training."""
    recipe = classifier_recipe(loaded.recipe)
    metric = recipe.training.metric_for_best_model
    history, training = run.history_rows(), recipe.training
    shares = _label_shares(reference_array(prepared, "train"), prepared)
    epochs = max((float(row.get("epoch", 0)) for row in history), default=0.0)
    settings = fit_settings(
        recipe,
        training_documents=len(prepared.splits["train"]),
        validation_documents=len(prepared.splits["validation"]),
        label_shares=shares.tolist(),
        chance_loss=_chance_loss(shares, reference_array(prepared, "validation"), prepared),
        stopped_early=training.max_steps is None and epochs < training.num_train_epochs - 0.01,
    )
    return judge_fit(
        history,
        metric=metric,
        greater_is_better=greater_is_better(metric),
        best_epoch=result.best_epoch,
        majority_score=_majority_score(shares, metric, prepared),
        settings=settings,
    )


def _label_shares(references: Array, prepared: Prepared) -> Floats:
    """(C,) share of the documents that have each label."""
    if prepared.labels.multi_label:
        return references.mean(axis=0)  # type: ignore[no-any-return]
    return np.bincount(references, minlength=len(prepared.labels.names)) / len(references)


def _majority_score(shares: Floats, metric: str, prepared: Prepared) -> float | None:
    """The validation score of one who knows only the shares of the labels in train, decided as in the history: at 0.5.

    None for the loss, of which `_chance_loss` tells.
    """
    labels, references = prepared.labels, reference_array(prepared, "validation")
    guesses = np.tile(shares, (len(references), 1))
    return score_classification(
        references, guesses, label_names=labels.names, multi_label=labels.multi_label
    ).values.get(metric)


def _chance_loss(shares: Floats, references: Array, prepared: Prepared) -> float:
    """Loss in nats, on documents with `references`, of one who knows only the shares of the labels in train."""
    if prepared.labels.multi_label:
        guess = shares.clip(1e-6, 1 - 1e-6)
        return float(-(references * np.log(guess) + (1 - references) * np.log(1 - guess)).mean())
    return float(-np.log(shares.clip(1e-6, 1))[references].mean())
