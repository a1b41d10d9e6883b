"""Where the tasks part: who builds the learner of a recipe, and who scores its models. All else is one road."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune.classifier_learner import build_classifier_learner
from finetune.data.prepare import Prepared
from finetune.learner import Learner
from finetune.progress import Progress
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Calibration, Scores, SplitScores
from finetune.runs import Run
from finetune.scoring import rescore_classifier, score_classifier
from finetune.text_scoring import rescore_writer, score_writer
from finetune.training.plan import FitResult
from finetune.writer_learner import build_writer_learner


@dataclass(frozen=True)
class Branch:
    """What one task does in its own way; the functions below tell what each is given and gives back."""

    build_learner: Callable[..., Learner]
    score_run: Callable[..., Scores]
    rescore: Callable[..., SplitScores]


def build_learner(loaded: LoadedRecipe, prepared: Prepared, *, progress: Progress) -> Learner:
    """Find or build the model and cut the texts with its tokenizer. Raises ModelError, RecipeError, DataError."""
    return BRANCHES[loaded.recipe.task].build_learner(loaded, prepared, progress=progress)


def score_run(
    run: Run,
    loaded: LoadedRecipe,
    prepared: Prepared,
    learner: Learner,
    result: FitResult,
    *,
    calibration: Calibration | None = None,
    open_test: bool = True,
    progress: Progress,
) -> Scores:
    """Load best/ and last/ afresh, open the test split once, fit the baselines, write scores, predictions, figures.

    Without `open_test` the validation split alone is scored, and no baseline is fitted.
    """
    return BRANCHES[loaded.recipe.task].score_run(
        run, loaded, prepared, learner, result, calibration=calibration, open_test=open_test, progress=progress
    )


def rescore(
    run: Run, loaded: LoadedRecipe, prepared: Prepared, *, split: str, model: str, progress: Progress
) -> SplitScores:
    """Scores of best/ or last/ on one split of the run, predicted again from the saved files."""
    return BRANCHES[loaded.recipe.task].rescore(run, loaded, prepared, split=split, model=model, progress=progress)


CLASSIFIER = Branch(build_classifier_learner, score_classifier, rescore_classifier)
WRITER = Branch(build_writer_learner, score_writer, rescore_writer)
BRANCHES: dict[str, Branch] = {"text-classification": CLASSIFIER, "text-generation": WRITER, "seq2seq": WRITER}
