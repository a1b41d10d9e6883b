"""The baselines of a run: fitted on its training split, scored on the same documents, tested against the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.classifier_learner import ClassifierLearner, window_lists
from finetune.data.labels import LabelMap
from finetune.data.prepare import Prepared
from finetune.progress import Progress
from finetune.run_files import PairedTest, SplitScores
from finetune.runs import Run
from finetune.scorer import Array, Predicted, Scorer, group_array, reference_array, write_predictions
from finetune.scores.baselines import BASELINES, Baseline, Inputs, Labelled
from finetune.scores.calibration import fit_thresholds
from finetune.scores.classification import score_classification
from finetune.scores.paired import TESTED_INSTEAD, Judged, compared_metric, greater_is_better, paired_test
from finetune.tasks.base import Floats
from finetune.training.inference import document_features


@dataclass(frozen=True)
class Opponents:
    """Baseline -> split -> what it said, and its scores."""

    predicted: dict[str, dict[str, Predicted]]
    scores: dict[str, dict[str, SplitScores]]

    def strongest(self, metric: str) -> str | None:
        """The name of the baseline that is best on validation; None without any."""
        metric = compared_metric(metric)
        values = {name: by_split["validation"].scores[metric].value for name, by_split in self.scores.items()}
        known = {name: value for name, value in values.items() if value is not None}
        if not known:
            return None
        sign = 1 if greater_is_better(metric) else -1
        return max(known, key=lambda name: sign * known[name])


def fit_opponents(
    names: Sequence[str],
    scorer: Scorer,
    learner: ClassifierLearner,
    *,
    run: Run,
    splits: Sequence[str],
    thresholds_for: str | None = None,
    progress: Progress,
) -> Opponents:
    """Fit every baseline on train (and, for its strength, validation), predict `splits`, write predictions down.

    `thresholds_for` is the selection metric of a recipe whose model gets thresholds; see `opponent_thresholds`.
    """
    prepared = scorer.prepared
    features = _features(prepared, learner, progress=progress) if "frozen_encoder" in names else {}
    inputs = {
        split: Inputs(texts=rows["text"][:], features=features.get(split)) for split, rows in prepared.splits.items()
    }
    known = {split: Labelled(inputs[split], reference_array(prepared, split)) for split in ("train", "validation")}
    labels = prepared.labels
    made = Opponents({}, {})
    for name in progress.bar(iterable=list(names), desc="baselines", unit="baseline"):
        fitted = BASELINES[name](
            known["train"], known["validation"], classes=len(labels.names), multi_label=labels.multi_label
        )
        thresholds = opponent_thresholds(fitted, known["validation"], labels, metric=thresholds_for)
        made.predicted[name] = {
            split: Predicted(fitted.predict_probabilities(inputs[split]), thresholds=thresholds) for split in splits
        }
        made.scores[name] = {}
        for split, predicted in made.predicted[name].items():
            write_predictions(run.baseline_predictions(name, split), prepared, predicted, split, run=run)
            made.scores[name][split] = scorer.score(predicted, split)
    return made


def opponent_thresholds(
    fitted: Baseline, validation: Labelled, labels: LabelMap, *, metric: str | None
) -> Floats | None:
    """From which probability on a baseline predicts each of several labels, (C,); None is 0.5, as without `metric`.

    They are fitted on validation as those of the model are: a model that knows nothing but may predict a rare label at
    0.2 would else beat every baseline that waits for 0.5. Where `metric` is better at 0.5 on validation, it stays that.
    """
    if metric is None or not labels.multi_label:
        return None
    tested, names = TESTED_INSTEAD.get(metric, compared_metric(metric)), labels.names
    said = fitted.predict_probabilities(validation.inputs)
    chosen = fit_thresholds(validation.labels, said, label_names=names)
    thresholds = np.array([chosen.get(name, 0.5) for name in names])

    def score(thresholds: Floats | None) -> float:
        scored = score_classification(
            validation.labels, said, label_names=names, multi_label=True, thresholds=thresholds
        )
        return (1 if greater_is_better(tested) else -1) * (scored.values[tested] or 0.0)

    return thresholds if score(thresholds) >= score(None) else None


def paired_tests(
    predicted: Predicted, opponents: Mapping[str, Predicted], scorer: Scorer, split: str, *, metric: str
) -> dict[str, PairedTest]:
    """The model (first) against each baseline (second) on the same documents."""
    prepared = scorer.prepared
    multi_label = prepared.labels.multi_label

    def judged(one: Predicted) -> Judged:
        return Judged(one.decisions(multi_label=multi_label), one.probabilities)

    return {
        name: paired_test(
            reference_array(prepared, split),
            judged(predicted),
            judged(theirs),
            classes=len(prepared.labels.names),
            metric=compared_metric(metric),
            groups=group_array(prepared, split),
            resamples=scorer.bootstrap,
            seed=scorer.seed,
            multi_label=multi_label,
        )
        for name, theirs in opponents.items()
    }


def beats_all(tests: Mapping[str, PairedTest]) -> bool | None:
    """Better than every baseline by its paired test; None where there is no baseline."""
    return all(test.better for test in tests.values()) if tests else None


def _features(prepared: Prepared, learner: ClassifierLearner, *, progress: Progress) -> dict[str, Array]:
    """Mean-pooled features of the encoder before fine-tuning; built again, because training changed the other."""
    encoder = learner.fresh_model()
    features = {}
    for split in prepared.splits:
        windows = window_lists(learner.windows[split])
        with progress.bar(total=len(windows), desc=f"frozen encoder on {split}", unit="document") as bar:
            features[split] = document_features(encoder, windows, pad_id=learner.pad_id, on_documents=bar.update)
    return features
