"""Scores of a writer's run: the saved models, loaded afresh, beside cheap baselines on the same documents.

The reported score comes from the files in best/, so a fault of saving or loading would show as a wrong score.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from finetune.data.prepare import Prepared
from finetune.figures import draw_curves
from finetune.model_folder import weights_sha256
from finetune.opponents import beats_all
from finetune.progress import Progress
from finetune.recipe import writer_recipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Calibration, Scores, SplitScores
from finetune.runs import Run, disk_faults, write_json
from finetune.scoring import SCORED_SPLITS, selection_note
from finetune.text_analysis import analyse_texts
from finetune.text_fit import judge_writer
from finetune.text_opponents import fit_text_opponents
from finetune.text_predictor import TextPredictor
from finetune.text_scorer import TextScorer, text_scorer, write_text_predictions
from finetune.training.plan import FitResult
from finetune.training.text_inference import TextPredictions
from finetune.writer_learner import WriterLearner


def score_writer(
    run: Run,
    loaded: LoadedRecipe,
    prepared: Prepared,
    learner: WriterLearner,
    result: FitResult,
    *,
    calibration: Calibration | None = None,
    open_test: bool = True,
    progress: Progress,
) -> Scores:
    """What `branches.score_run` says, for texts."""
    splits = SCORED_SPLITS if open_test else SCORED_SPLITS[:1]
    recipe, scorer = writer_recipe(loaded.recipe), learner.scorer
    if open_test:
        run.record_test_opening(by="train", documents=len(prepared.splits["test"]))
    use_cpu = recipe.training.use_cpu
    best = last = predict_saved_texts(run.best, scorer, splits=splits, use_cpu=use_cpu, progress=progress)
    if result.best_step != result.steps:
        last = predict_saved_texts(run.last, scorer, splits=splits, use_cpu=use_cpu, progress=progress)
    for split, predicted in best.items():
        write_text_predictions(run.predictions(split), prepared, predicted, split, run=run)
    scores = Scores(
        metric_for_best_model=recipe.training.metric_for_best_model,
        best_epoch=result.best_epoch,
        best_step=result.best_step,
        splits={split: scorer.score(best[split], split) for split in splits},
        last={split: scorer.score(last[split], split) for split in splits},
        baselines={},
        weights={which.name: weights_sha256(which) for which in (run.best, run.last)},
        fit=judge_writer(run, recipe, prepared, learner, result),
        notes=[
            *(note for split in splits for note in scorer.notes(split)),
            selection_note(recipe.training.load_best_model_at_end, open_test=open_test),
        ],
    )
    if open_test and recipe.evaluation.baselines:
        scores = _beside_baselines(scores, best, learner, run=run, progress=progress)
    with disk_faults(run.folder):
        write_json(run.scores, scores)
        if open_test:
            analysis = analyse_texts(scorer, "test", best["test"], learner, examples=recipe.report.examples)
            write_json(run.analysis, analysis)
        run.figures.mkdir(exist_ok=True)
        metric, curves = scores.metric_for_best_model, run.figures / "curves.png"
        draw_curves(run.history_rows(), curves, best_epoch=scores.best_epoch, metric=metric)
    return scores


def rescore_writer(
    run: Run, loaded: LoadedRecipe, prepared: Prepared, *, split: str, model: str, progress: Progress
) -> SplitScores:
    """What `branches.rescore` says, for texts."""
    recipe = writer_recipe(loaded.recipe)
    if split == "test":
        run.record_test_opening(by="evaluate", documents=len(prepared.splits["test"]))
    scorer = text_scorer(loaded, prepared)
    use_cpu = recipe.training.use_cpu
    predicted = predict_saved_texts(run.folder / model, scorer, splits=[split], use_cpu=use_cpu, progress=progress)
    return scorer.score(predicted[split], split)


def predict_saved_texts(
    folder: Path, scorer: TextScorer, *, splits: list[str] | tuple[str, ...], use_cpu: bool, progress: Progress
) -> dict[str, TextPredictions]:
    """What the model in `folder`, loaded from its files, makes of whole splits; texts for those the scorer asks for."""
    predictor = TextPredictor.load(folder, use_cpu=use_cpu)
    predictions = {}
    for split in splits:
        rows, written = scorer.prepared.splits[split], scorer.written(split)
        total = len(rows) + len(written)
        with progress.bar(total=total, desc=f"scoring {split} with {folder.name}/", unit="document") as bar:
            predictions[split] = predictor.predict_rows(rows, written=written, on_documents=bar.update)
    return predictions


def _beside_baselines(
    scores: Scores, best: Mapping[str, TextPredictions], learner: WriterLearner, *, run: Run, progress: Progress
) -> Scores:
    """The scores with those of the baselines, and the model tested against each of them on test."""
    metric, scorer = scores.metric_for_best_model, learner.scorer
    names = scorer.evaluation.baselines
    opponents = fit_text_opponents(names, learner, run=run, splits=SCORED_SPLITS, progress=progress)
    tests = {
        name: scorer.paired(best["test"], by_split["test"], "test", metric=metric)
        for name, by_split in opponents.predicted.items()
    }
    found = {
        "baselines": opponents.scores,
        "baseline_tests": tests,
        "strongest_baseline": opponents.strongest(metric),
        "beats_baselines": beats_all(tests),
        "notes": [*scores.notes, *opponents.notes],
    }
    return scores.model_copy(update=found)
