"""How far drawn images are from real ones, and how much of them they cover: numbers in, numbers out.

Every score but the nearest neighbours is computed on features, (N, D) numbers of N images, whoever made them; so a
value means something beside other values on the same features and from the same counts, and nothing alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Nats = TypeVar("Nats", float, Floats)

# The direction of every metric of drawn images: is more better?
IMAGE_METRICS: dict[str, bool] = {
    "loss": False,
    "elbo": True,
    "bits_per_dimension": False,
    "reconstruction_error": False,
    "frechet_distance": False,
    "kernel_distance": False,
    "precision": True,
    "recall": True,
    "coverage": True,
    "conditional_accuracy": True,
    "train_on_synthetic": True,
    "fid": False,
    "kid": False,
}
LEVELS = 256  # of a pixel
# Numbers in one block of distances, 8 bytes each.
NUMBERS_PER_BLOCK = 4_000_000
# Sides of images between which pixel distances are taken; larger ones are averaged down to about this.
LARGEST_COMPARED_SIDE = 32


@dataclass(frozen=True)
class Manifolds:
    """Image by image: is it where images of the other kind are?

    precise: (drawn,) the drawn image lies in the ball of some real image. recalled: (real,) the real image lies in
    the ball of some drawn image. covered: (real,) some drawn image lies in the ball of this real image.
    """

    precise: npt.NDArray[np.bool_]
    recalled: npt.NDArray[np.bool_]
    covered: npt.NDArray[np.bool_]


def frechet_distance(real: np.ndarray, drawn: np.ndarray) -> float:
    """Between Gaussians fitted to two sets of features, (N, D) and (M, D): |m - n|^2 + tr(A + B - 2 (A B)^(1/2)).

    Dowson and Landau, 1982; on Inception features the FID of Heusel et al., 2017. Covariances divide by N - 1. The
    trace of the root of A B is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric: no
    complex rest has to be thrown away.
    Raises ValueError as `frechet_refusal` says, and for features that do not go together.
    """
    real, drawn = _pair(real, drawn)
    if refusal := frechet_refusal(len(real), len(drawn), features=real.shape[1]):
        raise ValueError(refusal)
    means = real.mean(axis=0) - drawn.mean(axis=0)
    first, second = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (real, drawn))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    # Rounding may leave a distance of -1e-15.
    return max(0.0, float(means @ means + np.trace(first) + np.trace(second) - 2 * shared))


def frechet_refusal(real: int, drawn: int, *, features: int) -> str | None:
    """Why a covariance of so many images says nothing; None where it does.

    That of N images has a rank of N - 1 at most: with no more images than features the rest is guessed as zero, and
    the distance falls with the number of images.
    """
    fewest = min(real, drawn)
    if fewest > features:
        return None
    return (
        f"a covariance of {features:,} features needs more images than that, found {fewest:,}; "
        "kernel_distance needs no covariance"
    )


def kernel_distance(real: np.ndarray, drawn: np.ndarray) -> float:
    """The unbiased squared maximum mean discrepancy of (N, D) and (M, D) features, kernel (x . y / D + 1)^3.

    Gretton et al., 2012, equation 3; on Inception features the KID of Bińkowski et al., 2018, here over all pairs
    instead of a mean over subsets, which has the same expectation and varies less. Unbiased: at equal distributions it
    is 0 in the mean, and often a little below. Raises ValueError for fewer than two images of a kind.
    """
    real, drawn = _pair(real, drawn)
    if min(len(real), len(drawn)) < 2:
        raise ValueError("a kernel distance needs two images of each kind")
    within = [
        (_kernel_sum(each, each) - _kernel_of_itself(each)) / (len(each) * (len(each) - 1)) for each in (real, drawn)
    ]
    return within[0] + within[1] - 2 * _kernel_sum(real, drawn) / (len(real) * len(drawn))


def manifolds(real: np.ndarray, drawn: np.ndarray, *, neighbours: int) -> Manifolds:
    """Which images of (N, D) real and (M, D) drawn features lie where images of the other kind are.

    The ball of an image reaches to its `neighbours`-th nearest image of its own kind, itself not counted. The shares
    are precision and recall (Kynkäänniemi et al., 2019) and coverage (Naeem et al., 2020).
    Raises ValueError as `neighbours_refusal` says.
    """
    real, drawn = _pair(real, drawn)
    if refusal := neighbours_refusal(len(real), len(drawn), neighbours=neighbours):
        raise ValueError(refusal)
    real_reach, drawn_reach = (_reaches(each, neighbours) for each in (real, drawn))
    precise = np.zeros(len(drawn), dtype=bool)
    recalled, covered = (np.zeros(len(real), dtype=bool) for _ in range(2))
    for rows, squares in _distance_blocks(real, drawn):
        inside = squares <= real_reach[rows, None]
        precise |= inside.any(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (squares <= drawn_reach).any(axis=1)
    return Manifolds(precise=precise, recalled=recalled, covered=covered)


def neighbours_refusal(real: int, drawn: int, *, neighbours: int) -> str | None:
    """Why so many images have no `neighbours`-th neighbour; None where they have."""
    fewest = min(real, drawn)
    if fewest > neighbours:
        return None
    return f"the {neighbours} nearest neighbours of an image need more images than that, found {fewest:,}"


def nearest_real(drawn: np.ndarray, train: np.ndarray) -> tuple[Floats, npt.NDArray[np.int64]]:
    """For each drawn image, (N, C, S, S) bytes, the distance to the nearest training image, and its number.

    The distance is the root of the mean squared difference of pixels, 0..1, after images above 32 pixels a side are
    averaged down (`thumbnails`); 0 is a copy. Of equally near ones the first is named.
    """
    wanted = _flat(drawn)
    least, nearest = np.full(len(wanted), np.inf), np.zeros(len(wanted), dtype=np.int64)
    step = max(1, NUMBERS_PER_BLOCK // max(wanted.shape[1], len(wanted)))
    for start in range(0, len(train), step):
        some = _flat(train[start : start + step])
        for rows, squares in _distance_blocks(wanted, some):
            best = squares.argmin(axis=1)
            # The sum of squares by a product is exact to 1e-7 or so; a copy must have distance 0.
            exact = ((wanted[rows] - some[best]) ** 2).mean(axis=1)
            closer = exact < least[rows]
            least[rows] = np.where(closer, exact, least[rows])
            nearest[rows] = np.where(closer, best + start, nearest[rows])
    return np.sqrt(least), nearest


def thumbnails(pixels: np.ndarray, *, most: int = LARGEST_COMPARED_SIDE) -> npt.NDArray[np.float32]:
    """(N, C, S, S) bytes as shares of white, averaged over squares so that the side is below twice `most`."""
    shares: npt.NDArray[np.float32] = pixels.astype(np.float32) / np.float32(LEVELS - 1)
    factor = max(1, shares.shape[-1] // most)
    if factor == 1:
        return shares
    side = shares.shape[-1] // factor
    cut = shares[..., : side * factor, : side * factor]
    averaged: npt.NDArray[np.float32] = cut.reshape(*cut.shape[:2], side, factor, side, factor).mean(axis=(3, 5))
    return averaged


def bits_per_dimension(elbo: Nats, *, dimensions: int) -> Nats:
    """Of images of `dimensions` numbers whose probability has the lower bound `elbo` in nats: -elbo / (D ln 2)."""
    return -elbo / (dimensions * math.log(2.0))


def _pair(real: np.ndarray, drawn: np.ndarray) -> tuple[Floats, Floats]:
    both = np.asarray(real, dtype=np.float64), np.asarray(drawn, dtype=np.float64)
    if any(each.ndim != 2 for each in both) or both[0].shape[1] != both[1].shape[1]:
        raise ValueError("features must be two tables with the same number of columns")
    if not all(np.isfinite(each).all() for each in both):
        raise ValueError("features must be finite numbers")
    return both


def _distance_blocks(left: Floats, right: Floats) -> Iterator[tuple[slice, Floats]]:
    """Blocks of squared distances (rows of left, all of right), and which rows they are."""
    norms = (right**2).sum(axis=1)
    step = max(1, NUMBERS_PER_BLOCK // max(1, len(right)))
    for start in range(0, len(left), step):
        rows = slice(start, start + step)
        squares = (left[rows] ** 2).sum(axis=1)[:, None] + norms - 2 * left[rows] @ right.T
        yield rows, squares.clip(0)


def _reaches(features: Floats, neighbours: int) -> Floats:
    """(N,) squared distance of each image to its k-th nearest other one."""
    reaches = np.empty(len(features))
    for rows, squares in _distance_blocks(features, features):
        own = np.arange(len(features))[rows]
        squares[np.arange(len(own)), own] = -1.0  # itself comes first, whatever rounding says
        reaches[rows] = np.partition(squares, neighbours, axis=1)[:, neighbours]
    return reaches


def _kernel_sum(left: Floats, right: Floats) -> float:
    step = max(1, NUMBERS_PER_BLOCK // len(right))
    blocks = (left[start : start + step] for start in range(0, len(left), step))
    return float(sum((((block @ right.T) / left.shape[1] + 1) ** 3).sum() for block in blocks))


def _kernel_of_itself(features: Floats) -> float:
    return float((((features**2).sum(axis=1) / features.shape[1] + 1) ** 3).sum())


def _flat(pixels: np.ndarray) -> Floats:
    small = thumbnails(np.asarray(pixels))
    return small.reshape(len(small), -1).astype(np.float64)
