"""How far probabilities can be believed, and what is fitted on validation to make them better.

A temperature divides all logits: it changes how sure a model is and not, within one window, which label it prefers. A
threshold belongs to one label of several: from which probability on it is predicted. The decision for a single label
stays the most probable class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.run_files import Reliability, ReliabilityBin
from finetune.scores.classification import checked_labels, checked_probabilities

Floats = npt.NDArray[np.float64]

BINS = 15  # of Guo et al.
LEAST_DOCUMENTS = 50
LEAST_POSITIVES = 30
# 1/8 to 64, eight steps to a doubling; the choice is refined between them.
TEMPERATURES: Floats = 2.0 ** (np.arange(-24, 49) / 8)


def reliability(
    references: np.ndarray, probabilities: np.ndarray, *, multi_label: bool, bins: int = BINS
) -> Reliability:
    """Expected calibration error, log loss, and confidence beside accuracy in `bins` equal parts (low, high] of 0..1.

    references: (n,) class numbers, or (n, C) of 0 and 1 when multi_label. probabilities: (n, C).
    Single label: the confidence of a document is its highest probability, its accuracy whether that class is right.
    Multi-label: each of the n * C decisions counts on its own, with the probability of the label as its confidence and
    whether the document has the label as its accuracy; `documents` of a bin then counts decisions.
    The error is the mean over bins of |accuracy - confidence|, weighted by what is in them (Guo et al., 2017, On
    calibration of modern neural networks, equation 3). Raises ValueError for n = 0 and for what are no probabilities.
    """
    classes = np.asarray(probabilities).shape[-1]
    probabilities = checked_probabilities(probabilities, classes=classes, multi_label=multi_label)
    references = checked_labels(references, classes=classes, multi_label=multi_label, name="references")
    if len(references) == 0 or len(references) != len(probabilities):
        raise ValueError(f"{len(references)} references and {len(probabilities)} probabilities cannot be compared")
    if multi_label:
        confidence, right = probabilities.ravel(), references.ravel()
    else:
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == references
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence, side="left")  # the first edge that is not below
    counts = np.bincount(bin_of, minlength=bins)
    sure = np.bincount(bin_of, weights=confidence, minlength=bins)
    hits = np.bincount(bin_of, weights=right, minlength=bins)
    return Reliability(
        ece=float(np.abs(hits - sure).sum() / counts.sum()),
        log_loss=float(log_losses(references, probabilities, multi_label=multi_label).mean()),
        bins=[
            ReliabilityBin(
                low=float(edges[number]),
                high=float(edges[number + 1]),
                documents=int(count),
                confidence=float(sure[number] / count) if count else None,
                accuracy=float(hits[number] / count) if count else None,
            )
            for number, count in enumerate(counts)
        ],
    )


def log_losses(references: np.ndarray, probabilities: Floats, *, multi_label: bool) -> Floats:
    """Cross-entropy of each document in nats (n,), for multi-label the mean over its labels; shapes as above.

    As in scikit-learn, a probability of 0 counts as the smallest float step.
    """
    if multi_label:
        given_to_truth = np.where(references > 0, probabilities, 1.0 - probabilities)
    else:
        given_to_truth = probabilities[np.arange(len(references)), references][:, None]
    step = float(np.finfo(np.float64).eps)
    losses: Floats = -np.log(given_to_truth.clip(step, 1.0 - step)).mean(axis=1)
    return losses


@dataclass(frozen=True)
class TemperatureLosses:
    """What `documents` documents lose at each temperature, added up, so that any number takes no more memory.

    temperatures (t,) ascend and contain 1. sums (t,): log losses. squared_gains (t,): squares of what a document gains
    against temperature 1.
    """

    temperatures: Floats
    sums: Floats
    squared_gains: Floats
    documents: int = 0

    @classmethod
    def none_yet(cls, temperatures: Floats = TEMPERATURES) -> TemperatureLosses:
        return cls(temperatures, np.zeros(len(temperatures)), np.zeros(len(temperatures)))

    def plus(self, losses: Floats) -> TemperatureLosses:
        """With the log losses (d, t) of d more documents."""
        gains = losses[:, [self.one]] - losses
        return TemperatureLosses(
            self.temperatures,
            self.sums + losses.sum(axis=0),
            self.squared_gains + (gains**2).sum(axis=0),
            self.documents + len(losses),
        )

    @property
    def one(self) -> int:
        """Where temperature 1 is."""
        return int(np.flatnonzero(self.temperatures == 1.0)[0])


def choose_temperature(
    losses: TemperatureLosses, *, least_documents: int = LEAST_DOCUMENTS
) -> tuple[float, str | None]:
    """The temperature of least log loss, and what a reader must know of it: why it is 1, or at its limit.

    Between the steps of the grid the loss is taken as a parabola in the logarithm of the temperature. It is 1

    - below `least_documents`, where chance decides;
    - where the lowest temperature is the best: a validation split without a mistake asks for endless sureness, and says
      nothing of how sure to be of the next document;
    - where the gain is no larger than its standard error over documents. Close to 1 the gain is half of slope * shift,
      so that this is the two-sided test of the slope at |z| <= 2.

    Where the highest is the best it is taken: the sureness of such a model is worth nothing, and showing none is right.
    """
    n, one = losses.documents, losses.one
    if n < least_documents:
        return 1.0, f"no temperature: {n:,} validation documents are too few (at least {least_documents:,})"
    means = losses.sums / n
    best = int(means.argmin())
    if best == 0:
        return 1.0, "no temperature: validation has hardly a mistake, and asks for endless sureness"
    gain = means[one] - means[best]
    error = np.sqrt(max(losses.squared_gains[best] / n - gain**2, 0.0) / n)
    if gain <= error:
        return 1.0, "no temperature: on validation none is better than 1 by more than chance"
    if best == len(means) - 1:
        note = "the highest temperature there is: by validation, the model's sureness says nothing"
        return float(losses.temperatures[best]), note
    step = np.log(losses.temperatures[best - 1 : best + 2] / losses.temperatures[best])
    bend, slope, _ = np.polyfit(step, means[best - 1 : best + 2], 2)
    return round(float(losses.temperatures[best] * np.exp(-slope / (2 * bend))), 6), None


def fit_thresholds(
    references: np.ndarray,
    probabilities: np.ndarray,
    *,
    label_names: Sequence[str],
    least_positives: int = LEAST_POSITIVES,
) -> dict[str, float]:
    """For each label of at least `least_positives` documents the threshold of its highest F1 on these documents.

    references: (n, C) of 0 and 1. probabilities: (n, C). Of thresholds that predict the same documents it is 0.5 where
    that is among them, else the middle between the two neighbouring probabilities (below the lowest: between it and
    0); of different ones with equal F1 the nearest to 0.5, then the lower. For calibrated probabilities the
    best threshold is half of the F1 it reaches, so it is rarely above 0.5 (Lipton et al., 2014, Optimal thresholding
    of classifiers to maximize F1 measure). Raises ValueError for what are no labels or probabilities.
    """
    references = checked_labels(references, classes=len(label_names), multi_label=True, name="references")
    probabilities = checked_probabilities(probabilities, classes=len(label_names), multi_label=True)
    enough = np.flatnonzero(references.sum(axis=0) >= max(least_positives, 1)).tolist()
    return {label_names[label]: _best_threshold(references[:, label], probabilities[:, label]) for label in enough}


def _best_threshold(has_label: np.ndarray, probabilities: Floats) -> float:
    levels, level_of = np.unique(probabilities, return_inverse=True)

    def from_level_up(weights: np.ndarray | None) -> np.ndarray:
        sums: np.ndarray = np.bincount(level_of, weights=weights)[::-1].cumsum()[::-1]
        return sums

    f1 = 2 * from_level_up(has_label) / (from_level_up(None) + has_label.sum())
    below = np.concatenate([[0.0], levels[:-1]])
    middle = (below + levels) / 2
    middle = np.where(middle > below, middle, levels)  # there is no number between two neighbouring floats
    thresholds = np.where((below < 0.5) & (levels >= 0.5), 0.5, middle)
    return float(thresholds[np.lexsort((thresholds, np.abs(thresholds - 0.5), -f1))[0]])
