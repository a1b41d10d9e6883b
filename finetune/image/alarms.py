"""Two ways in which an adversarial game is lost while its losses look like any others: told once, with the epoch.

Both are read off the history, so a resumed run raises the same alarms as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.scores.images import LEVELS

ALIKE_SHARE = 0.1  # of the variance of real images, below which drawn ones count as alike
ALIKE_VARIANCE = 1e-9  # of pixels in 0..1: what rounding leaves of none
ALIKE_EVALUATIONS = 2  # one may be that of a generator that has hardly begun
SURE = 0.95  # the discriminator's mean answer to real images, and 1 - SURE to drawn ones, when it has won
SURE_EPOCHS = 3

Row = Mapping[str, Any]


def alarms(rows: Sequence[Row]) -> list[str]:
    """The alarms of a history up to now, each as one sentence that names the epoch it is first true of."""
    return [alarm for alarm in (_collapsed(rows), _lost(rows)) if alarm is not None]


def diversity(drawn: NDArray[np.uint8], real: NDArray[np.uint8], classes: NDArray[np.int64] | None) -> float | None:
    """The variance of drawn images over that of real ones, (N, C, S, S) both, a mean over pixels; about 1 when sound.

    `classes` (N,) are of both: then it is the variance within each, so that one image a class counts as collapsed.
    None where there is nothing to compare: real images that are all alike, or no class with two.
    """
    members = [np.arange(len(real))] if classes is None else [np.flatnonzero(classes == c) for c in np.unique(classes)]
    several = [rows for rows in members if len(rows) > 1]
    if not several:
        return None
    of_drawn, of_real = (_variance(images, several) for images in (drawn, real))
    return of_drawn / of_real if of_real > ALIKE_VARIANCE else None


def _variance(images: NDArray[np.uint8], groups: Sequence[NDArray[np.int64]]) -> float:
    """Of pixels in 0..1, a mean over pixels and groups of rows."""
    return float(np.mean([np.var(images[rows] / (LEVELS - 1), axis=0, ddof=1).mean() for rows in groups]))


def _collapsed(rows: Sequence[Row]) -> str | None:
    judged = [row for row in rows if row.get("eval_diversity") is not None]
    for start in range(len(judged) - ALIKE_EVALUATIONS + 1):
        alike = judged[start : start + ALIKE_EVALUATIONS]
        if all(row["eval_diversity"] < ALIKE_SHARE for row in alike):
            return (
                f"collapse: after epoch {alike[0]['epoch']:g} the drawn images were nearly alike "
                f"({alike[-1]['eval_diversity']:.1%} of the variance of real ones): lower the learning rates, "
                "or raise r1_weight"
            )
    return None


def _lost(rows: Sequence[Row]) -> str | None:
    """The first epochs in a row in which every logged answer was sure and right."""
    sure: dict[int, bool] = {}
    for row in rows:
        if "d_real" in row:
            epoch = int(np.ceil(row["epoch"]))
            sure[epoch] = sure.get(epoch, True) and row["d_real"] > SURE and row["d_drawn"] < 1 - SURE
    epochs = sorted(sure)
    for start in range(len(epochs) - SURE_EPOCHS + 1):
        if all(sure[epoch] for epoch in epochs[start : start + SURE_EPOCHS]):
            return (
                f"the discriminator won: in epochs {epochs[start]} to {epochs[start + SURE_EPOCHS - 1]} it told every "
                "drawn image from a real one, and a generator learns little from that: lower "
                "discriminator_learning_rate, or raise r1_weight"
            )
    return None
