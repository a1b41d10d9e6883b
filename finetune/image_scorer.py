"""Drawn images -> scores, each with its counts, its features and what its interval covers.

One ImageScorer serves the model at every epoch and at the end, its baselines, and real images against real ones, so
that all of them are judged by the same lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from finetune.data.image_prepare import PreparedImages
from finetune.errors import RecipeError
from finetune.image.features import ImageFeatures, inception_features, judge_features, pixel_features
from finetune.image.judges import Judge, train_judge
from finetune.image.likelihood import Likelihood, measure_likelihood
from finetune.image.vae import Vae
from finetune.image_conditions import (
    MOST_DRAWN,
    SEEDS,
    Classes,
    Draw,
    Pixels,
    Wanted,
    group_numbers,
    told_of,
    training_rows,
    wanted_for,
    wanted_to_teach,
)
from finetune.recipe import ImageRecipe, image_recipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Score, SplitScores
from finetune.scores.bootstrap import Interval
from finetune.scores.images import (
    IMAGE_METRICS,
    bits_per_dimension,
    frechet_distance,
    frechet_refusal,
    kernel_distance,
    manifolds,
    neighbours_refusal,
)
from finetune.scores.intervals import bootstrap_mean, wilson

OF_LIKELIHOOD = ("loss", "elbo", "bits_per_dimension", "reconstruction_error")
OF_CLASSES = ("conditional_accuracy", "train_on_synthetic")
OF_NEIGHBOURS = ("precision", "recall", "coverage")
REAL_HELD = "the interval covers the drawn images; the real ones are held"
DRAWN_HELD = "the interval covers the real images of the split; the drawn ones are held"
FEW_FOR_NEIGHBOURS = 20  # images for each neighbour; with fewer, of 13 images say, noise was covered by all
JUDGES_KEPT = 4
_JUDGES: dict[tuple[str, int], Judge] = {}  # by data and seed: epochs, scores and baselines of a run share one

Numbers = npt.NDArray[np.float64]
Hits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """The scores, and (real images,) numbers of the split's images for those scores that are a mean over them."""

    scores: dict[str, Score]
    by_image: dict[str, Numbers] = field(default_factory=dict)

    def __or__(self, other: Measured) -> Measured:
        return Measured(self.scores | other.scores, self.by_image | other.by_image)

    @property
    def split_scores(self) -> SplitScores:
        """The scores in the order of IMAGE_METRICS."""
        return SplitScores(scores={name: self.scores[name] for name in IMAGE_METRICS if name in self.scores})


class ImageScorer:
    """Made of prepared images and their recipe; the judge and the features are made on first use and kept."""

    def __init__(self, prepared: PreparedImages, recipe: ImageRecipe, *, base: Path = Path(), where: str = "") -> None:
        self.prepared, self.recipe, self.base = prepared, recipe, base
        self._inception_where = where or "evaluation.inception"
        self._features: ImageFeatures | None = None
        self._real: dict[str, npt.NDArray[np.float32]] = {}
        self._right: dict[str, Hits] = {}
        self._told: dict[str, torch.Tensor | None] = {}

    def conditions(self, split: str) -> Wanted:
        """What to ask for when drawing for a split."""
        return wanted_for(self.prepared, self.recipe, split)

    def evaluate(self, draw: Draw, split: str = "validation", *, model: object = None) -> dict[str, float | None]:
        """The values alone, as the history has them after each epoch; of a VAE, given as `model`, its likelihood too.

        train_on_synthetic, which trains a classifier, and what is measured in Inception's features are left out unless
        they choose the epoch.
        """
        chosen, found = self.recipe.training.metric_for_best_model, Measured({})
        if isinstance(model, Vae):
            found = self.measure_likelihood(self.likelihood(model, split), split, intervals=False)
        if self.recipe.evaluation.features != "inception" or chosen in ("fid", "kid", *OF_NEIGHBOURS, *OF_CLASSES):
            wanted = self.conditions(split)
            student = self.student(draw) if chosen == "train_on_synthetic" else None
            found |= self.measure(draw(wanted), wanted.classes, split, student=student, intervals=False)
        values = {name: score.value for name, score in found.split_scores.scores.items()}
        return {name: value for name, value in values.items() if value is not None or name == chosen}

    def score(
        self,
        pixels: Pixels,
        classes: Classes | None,
        split: str,
        *,
        student: Judge | None = None,
        likelihood: Likelihood | None = None,
    ) -> SplitScores:
        """The scores of images drawn as `conditions(split)` asks, against the real images of the split."""
        return self.measure(pixels, classes, split, student=student, likelihood=likelihood).split_scores

    def measure(
        self,
        pixels: Pixels,
        classes: Classes | None,
        split: str,
        *,
        student: Judge | None = None,
        likelihood: Likelihood | None = None,
        intervals: bool = True,
    ) -> Measured:
        """Everything of one set of drawn images; a score that is undefined has no value, and its note says why.

        classes: (N,) class numbers of what was asked for. `student`: as `student` makes it. A VAE's `likelihood` is
        that of the split's images.
        """
        found = self._distances(pixels, split, intervals=intervals)
        if likelihood is not None:
            found |= self.measure_likelihood(likelihood, split, intervals=intervals)
        return (
            found
            | Measured({"conditional_accuracy": self._accuracy(pixels, classes, split)})
            | self._taught(student, split)
        )

    def floor(self, split: str) -> SplitScores:
        """Real against real: training images in the place of drawn ones, of the same classes and as many.

        conditional_accuracy is that of the judge on the split's own images, and train_on_synthetic that of a
        classifier trained on real ones, which is the same number.
        """
        train, wanted = self.prepared.splits["train"], self.conditions(split)
        rows = np.unique(training_rows(wanted, train, seed=self.recipe.seed))  # none twice, where there are few
        found = self._distances(train.pixels[rows], split)
        if self.judge is not None:
            note = f"a classifier trained on {self.judge.trained_on:,} real images, on those of {split}"
            right = self._share(self.judge_is_right(split), split, note=note)
            found |= Measured(dict.fromkeys(OF_CLASSES, right))
        return found.split_scores

    # ---- the judge and its kin

    @property
    def judge(self) -> Judge | None:
        """The classifier of real training images; None where they have no labels, or one alone."""
        train, classes = self.prepared.splits["train"], len(self.prepared.labels.names)
        if train.labels is None or classes < 2:
            return None
        key = (self.prepared.fingerprint, self.recipe.seed)
        if key not in _JUDGES:
            while len(_JUDGES) >= JUDGES_KEPT:
                del _JUDGES[next(iter(_JUDGES))]
            _JUDGES[key] = train_judge(train.pixels, train.labels, classes=classes, seed=self.recipe.seed)
        return _JUDGES[key]

    def judge_is_right(self, split: str) -> Hits:
        """(real images,) whether the judge is right on the images of a split."""
        table, judge = self.prepared.splits[split], self.judge
        assert judge is not None and table.labels is not None
        if split not in self._right:
            self._right[split] = judge.is_right(table.pixels, table.labels)
        return self._right[split]

    def student(self, draw: Draw) -> Judge | None:
        """A classifier like the judge, trained on drawn images alone; None where nobody says what they show."""
        if self.no_classes is not None:
            return None
        wanted = wanted_to_teach(self.prepared, self.recipe)
        assert wanted.classes is not None
        classes, seed = len(self.prepared.labels.names), self.recipe.seed
        return train_judge(draw(wanted), wanted.classes, classes=classes, seed=seed)

    @property
    def no_classes(self) -> str | None:
        """Why there is no accuracy of classes; None where there is."""
        if self.recipe.image.condition == "none":
            return "the model is not asked for anything (image.condition: none)"
        if self.judge is None:
            return "there are no labels, or one alone, to train a classifier on"
        return None

    def _accuracy(self, pixels: Pixels, classes: Classes | None, split: str) -> Score:
        if self.no_classes is not None or self.judge is None or classes is None:
            return Score(value=None, n=0, note=self.no_classes or "nobody said what these images show")
        right = self.judge.is_right(pixels, classes)
        note = (
            "drawn images that a classifier of real ones takes for what was asked; it is right on "
            f"{self.judge_is_right(split).mean():.3f} of the real images of {split}; {REAL_HELD}. "
            "It does not see a lack of variety: recall and train_on_synthetic do"
        )
        low, high = wilson(int(right.sum()), len(right))
        return Score(value=float(right.mean()), low=low, high=high, n=len(right), note=note)

    def _taught(self, student: Judge | None, split: str) -> Measured:
        if student is None:
            reason = self.no_classes or "not measured: nothing was drawn to train a classifier on"
            return Measured({"train_on_synthetic": Score(value=None, n=0, note=reason)})
        table = self.prepared.splits[split]
        assert table.labels is not None and self.judge is not None
        right = student.is_right(table.pixels, table.labels)
        note = (
            f"trained on {student.trained_on:,} drawn images, tested on the real ones; "
            f"{self.judge_is_right(split).mean():.3f} when trained on {self.judge.trained_on:,} real ones; {DRAWN_HELD}"
        )
        return Measured(
            {"train_on_synthetic": self._share(right, split, note=note)}, {"train_on_synthetic": right.astype(float)}
        )

    # ---- likelihood

    def likelihood(self, model: Vae, split: str) -> Likelihood:
        """What a VAE makes of the real images of a split, each told by its own label or caption."""
        if split not in self._told:
            self._told[split] = told_of(self.prepared, self.recipe, split, base=self.base)
        pixels, seed = self.prepared.splits[split].pixels, self.recipe.seed + SEEDS[split]
        return measure_likelihood(model, pixels, self._told[split], seed=seed)

    def measure_likelihood(self, found: Likelihood, split: str, *, intervals: bool = True) -> Measured:
        """Means over the images of a split."""
        named = {
            "loss": (found.loss, "nats an image, as trained"),
            "elbo": (found.elbo, found.meaning),
            "reconstruction_error": (found.squared_error, "mean squared error of pixels 0..1, from the mean latents"),
        }
        scores = {
            name: self._mean(values, split, note=note, intervals=intervals) for name, (values, note) in named.items()
        }
        bits = Score(
            value=None, n=len(found.elbo), note="the Bernoulli likelihood bounds no probability of grey pixels"
        )
        if found.is_bound:
            elbo, dimensions = scores["elbo"], int(np.prod(self.prepared.splits[split].pixels.shape[1:]))
            value, low, high = (
                None if nats is None else bits_per_dimension(nats, dimensions=dimensions)
                for nats in (elbo.value, elbo.high, elbo.low)
            )
            note = "bits for each number of an image of 256 levels, by the elbo; 8 is no compression"
            bits = Score(value=value, low=low, high=high, n=elbo.n, note=note)
        return Measured(scores | {"bits_per_dimension": bits}, {name: values for name, (values, _) in named.items()})

    # ---- distances

    @property
    def features(self) -> ImageFeatures:
        """What distances are measured in. Raises as `inception_features`."""
        if self._features is None:
            self._features = self._made_features()
        return self._features

    def _made_features(self) -> ImageFeatures:
        pixels, evaluation = self.prepared.splits["train"].pixels, self.recipe.evaluation
        if evaluation.features == "inception":
            where, use_cpu = self._inception_where, self.recipe.training.use_cpu
            return inception_features(evaluation.inception, base=self.base, where=where, use_cpu=use_cpu)
        if evaluation.features == "classifier" and self.judge is not None:
            return judge_features(self.judge, pixels[:MOST_DRAWN])
        return pixel_features(channels=pixels.shape[1], side=pixels.shape[-1])

    def real_features(self, split: str) -> npt.NDArray[np.float32]:
        """(N, D) features of the real images of a split, at most 10,000 of them."""
        if split not in self._real:
            self._real[split] = self.features(self.prepared.splits[split].pixels[:MOST_DRAWN])
        return self._real[split]

    def _distances(self, pixels: Pixels, split: str, *, intervals: bool = True) -> Measured:
        features, real = self.features, self.real_features(split)
        drawn, n = features(pixels), len(real)
        counts = f"{len(drawn):,} drawn against {n:,} real images of {split}, in {features.description}"
        refused = frechet_refusal(n, len(drawn), features=features.size)
        frechet, kernel = ("fid", "kid") if features.name == "inception" else ("frechet_distance", "kernel_distance")
        named = f"{refused}; {counts}".replace("kernel_distance", kernel) if refused else f"{counts}; no interval"
        value = None if refused else frechet_distance(real, drawn)
        scores = {frechet: Score(value=value, n=n, note=named)}
        note = f"{counts}; unbiased, over all pairs; no interval"
        scores[kernel] = Score(value=kernel_distance(real, drawn), n=n, note=note)
        return Measured(scores) | self._neighbours(real, drawn, split, counts=counts, intervals=intervals)

    def _neighbours(self, real: np.ndarray, drawn: np.ndarray, split: str, *, counts: str, intervals: bool) -> Measured:
        k = self.recipe.evaluation.neighbours
        if few := neighbours_refusal(len(real), len(drawn), neighbours=k):
            return Measured({name: Score(value=None, n=len(real), note=few) for name in OF_NEIGHBOURS})
        inside, note = manifolds(real, drawn, neighbours=k), f"{counts}, {k} neighbours"
        if min(len(real), len(drawn)) < FEW_FOR_NEIGHBOURS * k:
            note += ", of so few images that a ball reaches far: read it as rough"
        hits, total = int(inside.precise.sum()), len(inside.precise)
        low, high = wilson(hits, total) if intervals else (None, None)
        precision = Score(value=hits / total, low=low, high=high, n=total, note=f"{note}; {REAL_HELD}")
        of_real = {"recall": inside.recalled, "coverage": inside.covered}
        shares = {
            name: self._share(each, split, note=f"{note}; {DRAWN_HELD}", intervals=intervals)
            for name, each in of_real.items()
        }
        by_image = {name: each.astype(np.float64) for name, each in of_real.items()}
        return Measured({"precision": precision, **shares}, by_image)

    # ---- means over the images of a split

    def _mean(self, values: Numbers, split: str, *, note: str, intervals: bool = True) -> Score:
        low, high = (self._bootstrap(values, split) if intervals else None) or (None, None)
        return Score(value=float(values.mean()), low=low, high=high, n=len(values), note=note)

    def _share(self, hits: Hits, split: str, *, note: str, intervals: bool = True) -> Score:
        """Wilson's interval, or the bootstrap over groups where images have groups."""
        if not intervals or group_numbers(self.prepared.splits[split]) is not None:
            return self._mean(hits.astype(np.float64), split, note=note, intervals=intervals)
        low, high = wilson(int(hits.sum()), len(hits))
        return Score(value=float(hits.mean()), low=low, high=high, n=len(hits), note=note)

    def _bootstrap(self, values: Numbers, split: str) -> Interval | None:
        groups, resamples = group_numbers(self.prepared.splits[split]), self.recipe.evaluation.bootstrap
        if not resamples:
            return None
        kept = None if groups is None else groups[: len(values)]
        return bootstrap_mean(values, groups=kept, resamples=resamples, seed=self.recipe.seed)


def image_scorer(loaded: LoadedRecipe, prepared: PreparedImages) -> ImageScorer:
    """The scorer of an image recipe."""
    where = loaded.where("evaluation", "inception")
    return ImageScorer(prepared, image_recipe(loaded.recipe), base=loaded.base, where=where)


def check_image_metric(loaded: LoadedRecipe, scorer: ImageScorer, model: object) -> None:
    """Raises RecipeError, before any training, where metric_for_best_model could not be computed.

    And whatever `inception_features` raises, where distances are to be measured in those.
    """
    if scorer.recipe.evaluation.features == "inception":
        _ = scorer.features  # what is missing is told now, not after the training
    metric = scorer.recipe.training.metric_for_best_model
    if reason := metric_refusal(scorer, metric, model):
        where = loaded.where("training", "metric_for_best_model")
        raise RecipeError(where, f"{metric} cannot choose the epoch: {reason}", "Choose another metric.")


def metric_refusal(scorer: ImageScorer, metric: str, model: object) -> str | None:
    """Why a metric has no value for this recipe, data and model; None where it has one."""
    evaluation, real = scorer.recipe.evaluation, len(scorer.prepared.splits["validation"])
    drawn, inception = scorer.conditions("validation").count, evaluation.features == "inception"
    if metric in OF_LIKELIHOOD and not isinstance(model, Vae):
        return "it belongs to a VAE, and this model gives images no probability"
    if metric in OF_LIKELIHOOD:
        no_bound = metric == "bits_per_dimension" and isinstance(model, Vae) and model.config.likelihood == "bernoulli"
        return "the Bernoulli likelihood bounds no probability of grey pixels" if no_bound else None
    if metric in OF_CLASSES:
        return scorer.no_classes
    if metric in OF_NEIGHBOURS:
        return neighbours_refusal(real, drawn, neighbours=evaluation.neighbours)
    if metric in ("fid", "kid") and not inception:
        return f"it is measured in Inception's features, and evaluation.features is {evaluation.features}"
    if metric in ("frechet_distance", "kernel_distance") and inception:
        return "in Inception's features it is called fid or kid"
    if metric in ("frechet_distance", "fid"):
        return frechet_refusal(real, drawn, features=scorer.features.size)
    return None if min(real, drawn) > 1 else "it needs two images of each kind"
