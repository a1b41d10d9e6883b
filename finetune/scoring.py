"""Scores of a run: the saved models, loaded afresh, and cheap baselines on the same documents.

The reported score comes from the files in best/, so a fault of saving or loading would show as a wrong score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.prepare import Prepared
from finetune.figures import draw_confusion, draw_curves
from finetune.learner import Learner, window_lists
from finetune.predict import Predictor, RowPredictions
from finetune.progress import Progress
from finetune.recipe_file import LoadedRecipe
from finetune.runs import Run, Score, Scores, SplitScores, disk_faults, write_json, write_table
from finetune.scores.baselines import BASELINES, Inputs, Labelled
from finetune.scores.classification import GREATER_IS_BETTER, predicted_labels, score_classification
from finetune.scores.intervals import LEAST_EFFECTIVE_GROUPS, bootstrap_classification, effective_groups, wilson
from finetune.tasks.base import Floats
from finetune.training.inference import DocumentPredictions, document_features
from finetune.training.plan import FitResult

SCORED_SPLITS = ("validation", "test")
Array = npt.NDArray[Any]


def greater_is_better(metric: str) -> bool:
    """The direction is part of a metric's definition, never a setting."""
    return metric != "loss" and GREATER_IS_BETTER[metric]


def validation_scorer(prepared: Prepared) -> Callable[[DocumentPredictions], Mapping[str, float | None]]:
    """Named scores of predictions of the validation documents."""
    references = reference_array(prepared, "validation")

    def score(predictions: DocumentPredictions) -> Mapping[str, float | None]:
        labels = prepared.labels
        return score_classification(
            references, predictions.probabilities, label_names=labels.names, multi_label=labels.multi_label
        ).values

    return score


def reference_array(prepared: Prepared, split: str) -> Array:
    """Label numbers of a split: (documents,), or (documents, classes) of 0 and 1 for multi-label."""
    encoded = prepared.encoded[split]
    if not prepared.labels.multi_label:
        return np.asarray(encoded, dtype=np.int64)
    marks = np.zeros((len(encoded), len(prepared.labels.names)), dtype=np.int64)
    for row, present in enumerate(encoded):
        marks[row, present] = 1
    return marks


@dataclass(frozen=True)
class Scorer:
    """Turns document probabilities of a split into scores with intervals, and writes the predictions down."""

    run: Run
    prepared: Prepared
    bootstrap: int
    seed: int

    def score(self, probabilities: Floats, split: str, *, loss: float | None = None) -> SplitScores:
        labels, references = self.prepared.labels, reference_array(self.prepared, split)
        scored = score_classification(
            references, probabilities, label_names=labels.names, multi_label=labels.multi_label
        )
        predictions = predicted_labels(probabilities, multi_label=labels.multi_label)
        intervals = self._intervals(references, predictions, split)
        scores = {
            name: Score(
                value=value,
                low=intervals[name][0] if name in intervals and value is not None else None,
                high=intervals[name][1] if name in intervals and value is not None else None,
                n=scored.n,
                note=scored.notes.get(name),
            )
            for name, value in scored.values.items()
        }
        if loss is not None:
            scores["loss"] = Score(value=loss, n=scored.n)
        return SplitScores(
            scores=scores,
            per_class=scored.per_class,
            confusion=scored.confusion or None,
            label_names=list(labels.names),
        )

    def write(self, path: Path, probabilities: Floats, split: str, *, passages: Mapping[str, Array] = {}) -> None:
        """One row a document: id, group, reference, prediction, a probability for each label, and `passages`."""
        labels, rows = self.prepared.labels, self.prepared.splits[split]
        chosen = predicted_labels(probabilities, multi_label=labels.multi_label)
        named = [
            [labels.names[i] for i in np.flatnonzero(row)] if labels.multi_label else labels.names[int(row)]
            for row in chosen
        ]
        with disk_faults(self.run.folder):
            write_table(
                path,
                {
                    "id": rows["id"],
                    "group": rows["group"],
                    "reference": rows["label"],
                    "prediction": named,
                    "probabilities": list(probabilities),
                    **passages,
                },
            )

    def _intervals(self, references: Array, predictions: Array, split: str) -> dict[str, tuple[float, float]]:
        if not self.bootstrap:
            return {}
        groups = self._groups(split)
        labels = self.prepared.labels
        intervals = bootstrap_classification(
            references,
            predictions,
            classes=len(labels.names),
            groups=groups,
            resamples=self.bootstrap,
            seed=self.seed,
            multi_label=labels.multi_label,
        )
        if groups is None and not labels.multi_label:
            intervals["accuracy"] = wilson(int((references == predictions).sum()), len(references))
        return intervals

    def _groups(self, split: str) -> Array | None:
        groups = self.prepared.splits[split]["group"]
        if all(group is None for group in groups):
            return None
        # A document without a group is a group of its own.
        named = [f"g{group}" if group is not None else f"d{row}" for row, group in enumerate(groups)]
        return np.unique(named, return_inverse=True)[1]

    def notes(self) -> list[str]:
        notes = []
        for split in SCORED_SPLITS:
            groups = self._groups(split)
            units = len(self.prepared.splits[split]) if groups is None else effective_groups(groups)
            if self.bootstrap and units < LEAST_EFFECTIVE_GROUPS:
                what = "documents" if groups is None else "effective groups"
                notes.append(
                    f"{split}: no interval, {units:.1f} {what} are too few (at least {LEAST_EFFECTIVE_GROUPS})"
                )
        return notes


def score_run(
    run: Run, loaded: LoadedRecipe, prepared: Prepared, learner: Learner, result: FitResult, *, progress: Progress
) -> Scores:
    """Load best/ and last/ afresh, open the test split once, fit the baselines, write scores, predictions, figures."""
    recipe = loaded.recipe
    scorer = Scorer(run, prepared, bootstrap=recipe.evaluation.bootstrap, seed=recipe.seed)
    run.record_test_opening(by="train", documents=len(prepared.splits["test"]))
    use_cpu = recipe.training.use_cpu
    best = predict_saved(run.best, prepared, splits=SCORED_SPLITS, use_cpu=use_cpu, progress=progress)
    last = best
    if result.best_step != result.steps:
        last = predict_saved(run.last, prepared, splits=SCORED_SPLITS, use_cpu=use_cpu, progress=progress)
    for split, predictions in best.items():
        scorer.write(run.predictions(split), predictions.probabilities, split, passages=passage_columns(predictions))
    scores = Scores(
        metric_for_best_model=recipe.training.metric_for_best_model,
        best_epoch=result.best_epoch,
        best_step=result.best_step,
        splits={split: scorer.score(p.probabilities, split, loss=p.loss) for split, p in best.items()},
        last={split: scorer.score(p.probabilities, split, loss=p.loss) for split, p in last.items()},
        baselines=_score_baselines(recipe.evaluation.baselines, scorer, prepared, learner, progress=progress),
        notes=[*scorer.notes(), "validation chose the epoch, so its scores are optimistic; test took no part"],
    )
    with disk_faults(run.folder):
        write_json(run.scores, scores)
        draw_figures(run, scores)
    return scores


def rescore(
    run: Run, loaded: LoadedRecipe, prepared: Prepared, *, split: str, model: str, progress: Progress
) -> SplitScores:
    """Scores of best/ or last/ on one split of the run, predicted again from the saved files."""
    if split == "test":
        run.record_test_opening(by="evaluate", documents=len(prepared.splits["test"]))
    folder = run.folder / model
    use_cpu = loaded.recipe.training.use_cpu
    predictions = predict_saved(folder, prepared, splits=[split], use_cpu=use_cpu, progress=progress)[split]
    scorer = Scorer(run, prepared, bootstrap=loaded.recipe.evaluation.bootstrap, seed=loaded.recipe.seed)
    return scorer.score(predictions.probabilities, split, loss=predictions.loss)


def predict_saved(
    folder: Path, prepared: Prepared, *, splits: Sequence[str], use_cpu: bool, progress: Progress
) -> dict[str, RowPredictions]:
    """Predictions of whole splits by the model in `folder`, with its tokenizer and windows, loaded from its files."""
    predictor = Predictor.load(folder, use_cpu=use_cpu)
    predictions = {}
    for split in splits:
        rows = prepared.splits[split]
        with progress.bar(total=len(rows), desc=f"scoring {split} with {folder.name}/", unit="document") as bar:
            predictions[split] = predictor.predict_rows(rows, labels=prepared.encoded[split], on_documents=bar.update)
    return predictions


def passage_columns(predictions: RowPredictions) -> dict[str, Array]:
    """For each document its number of windows, and where the one that decided is, in characters of the cleaned text."""
    start, end = predictions.passages.T
    return {"windows": predictions.windows, "passage_start": start, "passage_end": end}


def draw_figures(run: Run, scores: Scores) -> None:
    """figures/curves.png and, for single labels, figures/confusion.png."""
    run.figures.mkdir(exist_ok=True)
    draw_curves(run.history_rows(), run.figures / "curves.png", best_epoch=scores.best_epoch)
    test = scores.splits["test"]
    if test.confusion:
        draw_confusion(test.confusion, test.label_names, run.figures / "confusion.png")


def _score_baselines(
    names: Sequence[str], scorer: Scorer, prepared: Prepared, learner: Learner, *, progress: Progress
) -> dict[str, dict[str, SplitScores]]:
    features = _features(prepared, learner, progress=progress) if "frozen_encoder" in names else {}
    inputs = {
        split: Inputs(texts=rows["text"][:], features=features.get(split)) for split, rows in prepared.splits.items()
    }
    known = {split: Labelled(inputs[split], reference_array(prepared, split)) for split in ("train", "validation")}
    labels = prepared.labels
    scored: dict[str, dict[str, SplitScores]] = {}
    for name in progress.bar(iterable=list(names), desc="baselines", unit="baseline"):
        fitted = BASELINES[name](
            known["train"], known["validation"], classes=len(labels.names), multi_label=labels.multi_label
        )
        scored[name] = {}
        for split in SCORED_SPLITS:
            probabilities = fitted.predict_probabilities(inputs[split])
            scorer.write(scorer.run.baseline_predictions(name, split), probabilities, split)
            scored[name][split] = scorer.score(probabilities, split)
    return scored


def _features(prepared: Prepared, learner: Learner, *, progress: Progress) -> dict[str, Array]:
    """Mean-pooled features of the encoder before fine-tuning; built again, because training changed the other."""
    encoder = learner.fresh_model()
    features = {}
    for split in prepared.splits:
        windows = window_lists(learner.windows[split])
        with progress.bar(total=len(windows), desc=f"frozen encoder on {split}", unit="document") as bar:
            features[split] = document_features(encoder, windows, pad_id=learner.pad_id, on_documents=bar.update)
    return features
