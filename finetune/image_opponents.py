"""The baselines of an image model: cheap ways to draw, measured by the same lines, and what it takes to beat them.

    class_mean        paints the mean of each class: right in what it shows, and without any variety
    pixel_gaussian    draws from a Gaussian of the pixels of each class: variety without shapes
    training_images   hands out training images again: what a model that memorises would score
    real_images       no baseline but the floor: training images against the split, real against real

A model that copies cannot be told from a perfect one by these scores, so nobody has to beat training_images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.data.image_prepare import ImageTable
from finetune.image_conditions import Draw, Pixels, Wanted, group_numbers, rows_by_class, training_rows
from finetune.image_scorer import ImageScorer, Measured
from finetune.progress import Progress
from finetune.recipe_image import ImageBaselineName
from finetune.run_files import PairedTest
from finetune.scores.bootstrap import Units
from finetune.scores.images import LEVELS
from finetune.scores.intervals import summed_units
from finetune.scores.paired import ROUNDING, compare_units, greater_is_better, mcnemar

FLOOR = "real_images"
COPIES = "training_images"
# Scores that are a mean over the real images of a split and that baselines have too, so that a test can pair them.
TESTED = ("coverage", "recall", "train_on_synthetic")
NUMBERS_OF_A_GAUSSIAN = 20_000_000  # pixels of training images that one Gaussian is made of

Painted = Callable[[ImageTable, npt.NDArray[np.int64], int, np.random.Generator], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class ImageOpponents:
    """Baseline -> split -> what was measured."""

    measured: dict[str, dict[str, Measured]]

    def strongest(self, metric: str) -> str | None:
        """The baseline that is best on validation by the tested metric, of those to be beaten; None without any."""
        found = {
            name: by_split["validation"].scores[metric].value
            for name, by_split in self.measured.items()
            if name != COPIES and metric in by_split["validation"].scores
        }
        known = {name: value for name, value in found.items() if value is not None}
        sign = 1 if greater_is_better(metric) else -1
        return max(known, key=lambda name: sign * known[name]) if known else None


def measure_opponents(
    names: Sequence[ImageBaselineName], scorer: ImageScorer, *, splits: Sequence[str], progress: Progress
) -> ImageOpponents:
    """Let every baseline draw what the model is asked for, and measure it as the model is measured."""
    made: dict[str, dict[str, Measured]] = {}
    for name in progress.bar(iterable=list(names), desc="baselines", unit="baseline"):
        draw = baseline_draw(name, scorer)
        student = scorer.student(draw)
        made[name] = {}
        for split in splits:
            wanted = scorer.conditions(split)
            made[name][split] = scorer.measure(draw(wanted), wanted.classes, split, student=student)
    return ImageOpponents(made)


def baseline_draw(name: ImageBaselineName, scorer: ImageScorer) -> Draw:
    """How a baseline draws what is wanted; what it draws depends on the seed of the wish alone."""
    train = scorer.prepared.splits["train"]

    def copy(wanted: Wanted) -> Pixels:
        pixels: Pixels = train.pixels[training_rows(wanted, train, seed=wanted.seed)]
        return pixels

    def paint(wanted: Wanted) -> Pixels:
        random = np.random.default_rng(wanted.seed)
        pixels = np.empty((wanted.count, *train.pixels.shape[1:]), dtype=np.uint8)
        for places, rows in rows_by_class(wanted, train):
            made = PAINTED[name](train, rows, len(places), random)
            pixels[places] = made.clip(0, LEVELS - 1).round().astype(np.uint8)
        return pixels

    return copy if name == COPIES else paint


def tested_metric(metric_for_best_model: str) -> str:
    """What model and baselines are compared by: the metric that chose the epoch where it can be paired, or coverage."""
    return metric_for_best_model if metric_for_best_model in TESTED else "coverage"


def paired_image_test(first: Measured, second: Measured, scorer: ImageScorer, split: str) -> PairedTest | None:
    """`first` against `second` on the same real images of a split; None where one of them was not measured.

    Each real image is covered, recalled, or recognised, or it is not; images (or groups) change sides at random, as
    `compare_units` says, and without groups McNemar's test stands beside.
    """
    metric = tested_metric(scorer.recipe.training.metric_for_best_model)
    if metric not in first.by_image or metric not in second.by_image:
        metric = "coverage"
    sides = [each.by_image.get(metric) for each in (first, second)]
    if sides[0] is None or sides[1] is None:
        return None
    rows = [np.column_stack([side, np.ones(len(side))]) for side in sides if side is not None]
    numbers = group_numbers(scorer.prepared.splits[split])
    groups = None if numbers is None else numbers[: len(rows[0])]

    def units(mirrored: bool) -> Units:
        return summed_units(np.hstack(rows[::-1] if mirrored else rows), groups)

    ahead = sides[0] - sides[1]
    only_one_right = int((ahead > ROUNDING).sum()), int((ahead < -ROUNDING).sum())
    return compare_units(
        units,
        lambda totals: totals[..., 0] / totals[..., 1],
        metric=metric,
        documents=len(rows[0]),
        groups=groups,
        only_one_right=only_one_right,
        p_mcnemar=mcnemar(*only_one_right) if groups is None else None,
        resamples=scorer.recipe.evaluation.bootstrap,
        seed=scorer.recipe.seed,
    )


def beats_them(tests: dict[str, PairedTest]) -> bool | None:
    """Better than every baseline but the copies, each by its paired test; None where there is no such baseline."""
    counted = [test.better for name, test in tests.items() if name != COPIES]
    return all(counted) if counted else None


def _class_mean(
    train: ImageTable, rows: npt.NDArray[np.int64], count: int, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    mean = np.zeros(train.pixels.shape[1:])
    for row in rows:  # one by one, because the images may be more than memory holds
        mean += train.pixels[row] / len(rows)
    return np.repeat(mean[None], count, axis=0)


def _pixel_gaussian(
    train: ImageTable, rows: npt.NDArray[np.int64], count: int, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Mean and covariance of a sample of the images, without the covariance ever being formed: standard normal numbers
    times the centred images, divided by the root of their number less 1, have just that covariance.
    """
    shape = train.pixels.shape[1:]
    most = max(2, NUMBERS_OF_A_GAUSSIAN // int(np.prod(shape)))
    chosen = np.sort(random.choice(rows, size=min(most, len(rows)), replace=False))
    images = train.pixels[chosen].reshape(len(chosen), -1).astype(np.float64)
    mean = images.mean(axis=0)
    noise = random.standard_normal((count, len(chosen))) / np.sqrt(max(1, len(chosen) - 1))
    drawn: npt.NDArray[np.float64] = (mean + noise @ (images - mean)).reshape(count, *shape)
    return drawn


PAINTED: dict[ImageBaselineName, Painted] = {
    "class_mean": _class_mean,
    "pixel_gaussian": _pixel_gaussian,
}
