"""Image runs side by side: their scores as they are, because sets of drawn images have no documents to be paired by."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.errors import CheckpointError, RecipeError
from finetune.progress import WARNING
from finetune.recipe import image_recipe
from finetune.runs import read_table
from finetune.scores.images import IMAGE_METRICS
from finetune.selection.aligned_runs import AlignedRun, FinishedRun, folders

# Scores that are taken in features, or by a classifier, of this run's own making.
MEASURED_BY = ("features", "inception", "count", "neighbours")
NO_TEST = (
    "no paired test: what each real image was worth to a run is not kept, so a difference may be chance; intervals "
    "that do not overlap are the only sign here"
)


def read_image_runs(finished: Sequence[FinishedRun], *, intersection: bool) -> list[AlignedRun]:
    """The runs with their test images. Raises CheckpointError where those differ, and RecipeError for `intersection`:
    the score of a set is that of the whole set.
    """
    if intersection:
        what = "image runs are scored on whole splits, which cannot be cut to what they share"
        raise RecipeError("command line: --intersection", what, "Leave it out.")
    runs = [_aligned(one) for one in finished]
    for run in runs[1:]:
        if sorted(run.keys) != sorted(runs[0].keys):
            what, do = "have different test images", "The same source, data.limit and data.split.seed give the same."
            raise CheckpointError(folders(runs[0], run), what, do)
    return runs


def image_metrics(runs: Sequence[AlignedRun]) -> list[str]:
    """The scores that a run has, in the order of IMAGE_METRICS."""
    return [name for name in IMAGE_METRICS if any(name in run.finished.scores.splits["test"].scores for run in runs)]


def usual_metric(runs: Sequence[AlignedRun]) -> str:
    """The metric that chose the first run's epoch; coverage where a run has no such score, as a game has no elbo."""
    chosen = runs[0].finished.scores.metric_for_best_model
    found = [run.finished.scores.splits["test"].scores.get(chosen) for run in runs]
    return chosen if all(score is not None and score.value is not None for score in found) else "coverage"


def image_notes(runs: Sequence[AlignedRun]) -> list[str]:
    """What keeps the scores from comparing."""
    notes = [NO_TEST]
    settings = [image_recipe(run.recipe).evaluation.model_dump(include=set(MEASURED_BY)) for run in runs]
    differ = [name for name in MEASURED_BY if len({repr(each[name]) for each in settings}) > 1]
    differ += ["seed"] if len({run.recipe.seed for run in runs}) > 1 else []
    if differ:
        why = ", ".join("seed, which also makes the classifier" if name == "seed" else f"evaluation.{name}"
                        for name in differ)  # fmt: skip
        notes.insert(0, f"{WARNING}distances and accuracies were not measured alike (different {why})")
    return notes


def _aligned(finished: FinishedRun) -> AlignedRun:
    table = read_table(finished.run.splits, columns=("id", "group", "content_hash", "split"))
    rows = [row for row, split in enumerate(table["split"]) if split == "test"]
    return AlignedRun(
        finished=finished,
        ids=[table["id"][row] for row in rows],
        groups=[table["group"][row] for row in rows],
        keys=[(table["content_hash"][row], 0) for row in rows],
    )
