"""Scores of an image run: the saved models, loaded afresh, beside cheap baselines and real images against real ones.

The reported score comes from the files in best/, so a fault of saving or loading would show as a wrong score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.image_prepare import PreparedImages
from finetune.figures import draw_curves
from finetune.image.vae import Vae
from finetune.image_conditions import drawing
from finetune.image_figures import draw_image_figures
from finetune.image_learner import ImageLearner
from finetune.image_opponents import (
    COPIES,
    FLOOR,
    beats_them,
    measure_opponents,
    paired_image_test,
    tested_metric,
)
from finetune.image_predictor import ImagePredictor
from finetune.image_scorer import ImageScorer, Measured, image_scorer
from finetune.model_folder import weights_sha256
from finetune.progress import Progress
from finetune.recipe import ImageRecipe, image_recipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Calibration, FitVerdict, Scores, SplitScores
from finetune.runs import Run, disk_faults, write_json
from finetune.scores.fit_course import FitSettings
from finetune.scores.fit_verdict import judge_fit
from finetune.scoring import SCORED_SPLITS, selection_note
from finetune.training.plan import FitResult

NO_DROPOUT_ADVICE = 1.0  # these models have no dropout to raise


def score_images(
    run: Run,
    loaded: LoadedRecipe,
    prepared: PreparedImages,
    learner: ImageLearner,
    result: FitResult,
    *,
    calibration: Calibration | None = None,
    open_test: bool = True,
    progress: Progress,
) -> Scores:
    """What `branches.score_run` says, for images; nothing of them is calibrated."""
    splits = SCORED_SPLITS if open_test else SCORED_SPLITS[:1]
    recipe, scorer = image_recipe(loaded.recipe), learner.scorer
    if open_test:
        run.record_test_opening(by="train", documents=len(prepared.splits["test"]))
    use_cpu = recipe.training.use_cpu
    best = last = measure_saved(run.best, scorer, splits=splits, use_cpu=use_cpu, progress=progress)
    if result.best_step != result.steps:
        last = measure_saved(run.last, scorer, splits=splits, use_cpu=use_cpu, progress=progress)
    scores = Scores(
        metric_for_best_model=recipe.training.metric_for_best_model,
        best_epoch=result.best_epoch,
        best_step=result.best_step,
        splits={split: best.measured[split].split_scores for split in splits},
        last={split: last.measured[split].split_scores for split in splits},
        baselines={},
        weights={which.name: weights_sha256(which) for which in (run.best, run.last)},
        fit=_judged(run, recipe, prepared, best, result),
        notes=[selection_note(recipe.training.load_best_model_at_end, open_test=open_test)],
    )
    if open_test:
        scores = _beside_baselines(scores, best, scorer, progress=progress)
    with disk_faults(run.folder):
        write_json(run.scores, scores)
        run.figures.mkdir(exist_ok=True)
        metric, curves = scores.metric_for_best_model, run.figures / "curves.png"
        draw_curves(run.history_rows(), curves, best_epoch=scores.best_epoch, metric=metric)
        if recipe.report.examples:  # 0 keeps the images of others out of the run folder
            draw_image_figures(run, best.predictor, prepared, split=splits[-1], seed=recipe.seed)
    return scores


def rescore_images(
    run: Run, loaded: LoadedRecipe, prepared: PreparedImages, *, split: str, model: str, progress: Progress
) -> SplitScores:
    """What `branches.rescore` says, for images: drawn again from the saved files."""
    if split == "test":
        run.record_test_opening(by="evaluate", documents=len(prepared.splits["test"]))
    scorer, use_cpu = image_scorer(loaded, prepared), loaded.recipe.training.use_cpu
    saved = measure_saved(run.folder / model, scorer, splits=[split], use_cpu=use_cpu, progress=progress)
    return saved.measured[split].split_scores


@dataclass(frozen=True)
class Saved:
    """The model of a folder, and by split what was measured of it."""

    predictor: ImagePredictor
    measured: dict[str, Measured]

    @property
    def spread(self) -> float | None:
        """The standard deviation of the loss over validation images, as a share of its mean; None without a loss."""
        losses = self.measured["validation"].by_image.get("loss") if "validation" in self.measured else None
        return None if losses is None or losses.mean() <= 0 else float(losses.std() / losses.mean())


def measure_saved(
    folder: Path, scorer: ImageScorer, *, splits: Sequence[str], use_cpu: bool, progress: Progress
) -> Saved:
    """Let the model in `folder`, loaded from its files, draw what each split asks for, and measure it."""
    predictor = ImagePredictor.load(folder, use_cpu=use_cpu)
    draw, found = drawing(predictor), Saved(predictor, {})
    student = scorer.student(draw)
    for split in progress.bar(iterable=list(splits), desc=f"scoring {folder.name}/", unit="split"):
        wanted = scorer.conditions(split)
        likelihood = scorer.likelihood(predictor.model, split) if isinstance(predictor.model, Vae) else None
        found.measured[split] = scorer.measure(
            draw(wanted), wanted.classes, split, student=student, likelihood=likelihood
        )
    return found


def _beside_baselines(scores: Scores, best: Saved, scorer: ImageScorer, *, progress: Progress) -> Scores:
    """The scores with those of the baselines and of real images, and the model tested against the baselines on test."""
    names = scorer.recipe.evaluation.baselines
    opponents = measure_opponents(names, scorer, splits=SCORED_SPLITS, progress=progress)
    tests = {
        name: test
        for name, by_split in opponents.measured.items()
        if (test := paired_image_test(best.measured["test"], by_split["test"], scorer, "test")) is not None
    }
    tested = tested_metric(scores.metric_for_best_model)
    rule = f"baselines are tested by {tested}, real image by real image"
    copies = f"; {COPIES} stands for a model that copies, and need not be beaten" if COPIES in names else ""
    return scores.model_copy(
        update={
            "baselines": {
                **{name: {s: one.split_scores for s, one in rows.items()} for name, rows in opponents.measured.items()},
                FLOOR: {split: scorer.floor(split) for split in SCORED_SPLITS},
            },
            "baseline_tests": tests,
            "strongest_baseline": opponents.strongest(tested),
            "beats_baselines": beats_them(tests),
            "notes": [
                *scores.notes,
                *([rule + copies] if names else []),
                f"{FLOOR}: training images against the split",
            ],
        }
    )


def _judged(
    run: Run, recipe: ImageRecipe, prepared: PreparedImages, best: Saved, result: FitResult
) -> FitVerdict | None:
    """What the loss of a VAE says of the training; the losses of two sides of a game say nothing, and get no verdict.

    The loss is a code length, which is 0 for one who knows all, so shares of it mean something. Those of images spread
    less than by their mean: n images tell it as exactly as n / spread^2 documents do.
    """
    if best.spread is None:
        return None
    history, training = run.history_rows(), recipe.training
    epochs = max((float(row.get("epoch", 0)) for row in history), default=0.0)
    adam = training.optim == "adam"  # which takes no weight decay
    settings = FitSettings(
        num_train_epochs=training.num_train_epochs,
        learning_rate=training.learning_rate,
        weight_decay=1.0 if adam else training.weight_decay,
        training_documents=len(prepared.splits["train"]),
        from_scratch=recipe.model.name is None,
        has_augmentation=True,
        stopped_early=training.max_steps is None and epochs < training.num_train_epochs - 0.01,
        validation_documents=round(len(prepared.splits["validation"]) / max(best.spread, 1e-3) ** 2),
        documents_per_step=training.per_device_train_batch_size,
        dropout=NO_DROPOUT_ADVICE,
        limit=recipe.data.limit,
        early_stopping_patience=training.early_stopping_patience,
        max_steps=training.max_steps,
        keeps_best=training.load_best_model_at_end,
        warmup_steps=training.warmup_steps,
        max_grad_norm=training.max_grad_norm,
        has_labels=False,
        has_attention_dropout=False,
    )
    verdict = judge_fit(
        history,
        metric="loss",
        greater_is_better=False,
        best_epoch=result.best_epoch,
        majority_score=None,
        settings=settings,
    )
    told = [each.model_copy(update={"why": each.why.replace("documents", "images")}) for each in verdict.suggestions]
    return verdict.model_copy(update={"suggestions": told})
