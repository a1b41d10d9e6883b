"""Where the tasks part: who prepares data, builds a learner, fits it and scores its models. All else is one road."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune.classifier_learner import build_classifier_learner
from finetune.data import prepare as documents
from finetune.data.image_prepare import prepare_images
from finetune.data.own_functions import own_function_texts
from finetune.errors import RecipeError
from finetune.image_learner import build_image_learner, fit_images
from finetune.image_scoring import rescore_images, score_images
from finetune.learner import Learner, PreparedData
from finetune.progress import Progress
from finetune.recipe import ClassifierRecipe, TextRecipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Calibration, Scores, SplitScores
from finetune.runs import Run
from finetune.scoring import rescore_classifier, score_classifier
from finetune.text_scoring import rescore_writer, score_writer
from finetune.training import trainer
from finetune.training.checkpoints import Checkpoint
from finetune.training.plan import FitResult, Plan
from finetune.writer_learner import build_writer_learner


@dataclass(frozen=True)
class Branch:
    """What one task does in its own way; the functions below tell what each is given and gives back."""

    prepare: Callable[..., PreparedData]
    build_learner: Callable[..., Learner]
    fit: Callable[..., FitResult]
    score_run: Callable[..., Scores]
    rescore: Callable[..., SplitScores]


def prepare(loaded: LoadedRecipe, *, progress: Progress) -> Any:
    """Read, check, divide and fingerprint the data of a recipe. Raises DataError, RecipeError, GateFailed for leaks."""
    return BRANCHES[loaded.recipe.task].prepare(loaded, progress=progress)


def build_learner(loaded: LoadedRecipe, prepared: Any, *, progress: Progress) -> Learner:
    """Find or build the model and make the data ready for it. Raises ModelError, RecipeError, DataError."""
    return BRANCHES[loaded.recipe.task].build_learner(loaded, prepared, progress=progress)


def fit(loaded: LoadedRecipe, learner: Learner, plan: Plan[Any, Any], *, resume: Checkpoint | None) -> FitResult:
    """Train the learner's model as the plan says; leaves the best weights in it.

    Raises Stopped (saved and resumable), TrainingFailed (not finite), EnvironmentFault (disk full), and Pruned.
    """
    return BRANCHES[loaded.recipe.task].fit(learner.model, plan, resume=resume)


def score_run(
    run: Run,
    loaded: LoadedRecipe,
    prepared: Any,
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
    run: Run, loaded: LoadedRecipe, prepared: Any, *, split: str, model: str, progress: Progress
) -> SplitScores:
    """Scores of best/ or last/ on one split of the run, predicted again from the saved files."""
    return BRANCHES[loaded.recipe.task].rescore(run, loaded, prepared, split=split, model=model, progress=progress)


def files_of_recipe(loaded: LoadedRecipe) -> dict[str, str]:
    """Name -> text of files without which the recipe could not be repeated: cleaning functions of the user's own."""
    recipe = loaded.recipe
    return own_function_texts(recipe.cleaning, loaded.base) if isinstance(recipe, TextRecipe) else {}


def prepare_documents(loaded: LoadedRecipe, *, progress: Progress) -> documents.Prepared:
    """As data/prepare.py does, but for columns that no model here looks at. Raises RecipeError for those."""
    if isinstance(loaded.recipe, ClassifierRecipe) and loaded.recipe.data.numeric:
        what = "the models here read text, and would not look at numeric columns"
        raise RecipeError(loaded.where("data", "numeric"), what, "Leave it out, or use finetune prepare.")
    return documents.prepare(loaded, progress=progress)


CLASSIFIER = Branch(prepare_documents, build_classifier_learner, trainer.fit, score_classifier, rescore_classifier)
WRITER = Branch(prepare_documents, build_writer_learner, trainer.fit, score_writer, rescore_writer)
DRAWER = Branch(prepare_images, build_image_learner, fit_images, score_images, rescore_images)
BRANCHES: dict[str, Branch] = {
    "text-classification": CLASSIFIER,
    "text-generation": WRITER,
    "seq2seq": WRITER,
    "image-generation": DRAWER,
}
