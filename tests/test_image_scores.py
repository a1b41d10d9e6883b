"""Distances and shares of drawn images, against closed forms and against loops that say the definition again."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from finetune.recipe_image import ImageMetric
from finetune.scores.images import (
    IMAGE_METRICS,
    bits_per_dimension,
    frechet_distance,
    frechet_refusal,
    kernel_distance,
    manifolds,
    nearest_real,
    thumbnails,
)
from finetune.scores.paired import greater_is_better

RANDOM = np.random.default_rng(0)


def with_moments(mean: np.ndarray, covariance: np.ndarray, *, count: int = 50) -> np.ndarray:
    """Samples (count, D) whose own mean and covariance are just these."""
    raw = RANDOM.standard_normal((count, len(mean)))
    centred = raw - raw.mean(axis=0)
    white = centred @ linalg.inv(linalg.sqrtm(np.cov(centred, rowvar=False)).real)
    return mean + white @ linalg.sqrtm(covariance).real


def test_every_metric_of_a_recipe_has_a_direction() -> None:
    assert tuple(IMAGE_METRICS) == get_args(ImageMetric)
    assert greater_is_better("recall") and greater_is_better("elbo")
    assert not greater_is_better("kernel_distance") and not greater_is_better("bits_per_dimension")


def test_frechet_distance_of_gaussians_with_known_moments() -> None:
    one, other = np.array([4.0, 1.0, 0.25]), np.array([1.0, 9.0, 0.25])
    shift = np.array([1.0, -2.0, 0.5])
    real, drawn = with_moments(np.zeros(3), np.diag(one)), with_moments(shift, np.diag(other), count=70)
    expected = shift @ shift + ((np.sqrt(one) - np.sqrt(other)) ** 2).sum()
    assert frechet_distance(real, drawn) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_is_the_textbook_formula_with_a_matrix_root() -> None:
    real = RANDOM.standard_normal((40, 6)) @ RANDOM.standard_normal((6, 6))
    drawn = RANDOM.standard_normal((60, 6)) @ RANDOM.standard_normal((6, 6)) + 1
    first, second = np.cov(real, rowvar=False), np.cov(drawn, rowvar=False)
    means = real.mean(axis=0) - drawn.mean(axis=0)
    expected = means @ means + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert frechet_distance(real, drawn) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(drawn, real) == pytest.approx(expected, rel=1e-6)


def test_a_covariance_of_no_more_images_than_features_is_refused_and_the_alternative_named() -> None:
    few = RANDOM.standard_normal((8, 8))
    with pytest.raises(ValueError, match="8 features needs more images than that, found 8; kernel_distance"):
        frechet_distance(few, RANDOM.standard_normal((100, 8)))
    assert frechet_refusal(9, 9, features=8) is None


def test_a_feature_that_is_always_the_same_does_no_harm() -> None:
    real = np.hstack([RANDOM.standard_normal((30, 2)), np.zeros((30, 2))])
    assert frechet_distance(real, real + np.array([0, 0, 3, 0])) == pytest.approx(9)


def test_kernel_distance_is_the_unbiased_statistic() -> None:
    real, drawn = RANDOM.standard_normal((7, 3)), RANDOM.standard_normal((5, 3)) + 1

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    def within(points: np.ndarray) -> float:
        pairs = [kernel(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]
        return float(np.mean(pairs))

    across = np.mean([kernel(x, y) for x in real for y in drawn])
    assert kernel_distance(real, drawn) == pytest.approx(within(real) + within(drawn) - 2 * across, rel=1e-10)


def test_kernel_distance_of_equal_distributions_is_zero_in_the_mean() -> None:
    values = [kernel_distance(*RANDOM.standard_normal((2, 30, 4))) for _ in range(300)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0
    assert kernel_distance(RANDOM.standard_normal((30, 4)), RANDOM.standard_normal((30, 4)) + 2) > 10 * np.std(values)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 4), n=st.integers(5, 20), m=st.integers(5, 20))
def test_manifolds_say_what_the_definitions_say(seed: int, k: int, n: int, m: int) -> None:
    random = np.random.default_rng(seed)
    real, drawn = random.standard_normal((n, 2)), random.standard_normal((m, 2)) * 1.5
    found = manifolds(real, drawn, neighbours=k)

    def reach(points: np.ndarray, own: int) -> float:
        return sorted(np.linalg.norm(points[own] - point) for i, point in enumerate(points) if i != own)[k - 1]

    def near(x: np.ndarray, y: np.ndarray, radius: float) -> bool:
        return bool(np.linalg.norm(x - y) <= radius)

    real_reach, drawn_reach = [reach(real, i) for i in range(n)], [reach(drawn, i) for i in range(m)]
    assert found.precise.tolist() == [any(near(x, real[i], real_reach[i]) for i in range(n)) for x in drawn]
    assert found.recalled.tolist() == [any(near(x, drawn[i], drawn_reach[i]) for i in range(m)) for x in real]
    assert found.covered.tolist() == [any(near(real[i], x, real_reach[i]) for x in drawn) for i in range(n)]


def test_one_image_over_and_over_is_precise_and_recalls_nothing() -> None:
    real = RANDOM.standard_normal((50, 4))
    found = manifolds(real, np.tile(real.mean(axis=0), (50, 1)), neighbours=3)
    assert found.precise.all()
    assert not found.recalled.any()


def test_too_few_images_for_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the 5 nearest neighbours .* found 5"):
        manifolds(np.zeros((5, 2)), np.zeros((50, 2)), neighbours=5)


@pytest.mark.parametrize("bad", [np.full((9, 2), np.nan), np.zeros((9, 3)), np.zeros(9)])
def test_features_that_do_not_go_together_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="features must be"):
        kernel_distance(np.zeros((9, 2)), bad)


def test_nearest_real_image_by_loops_and_copies_are_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.scores.images.NUMBERS_PER_BLOCK", 700)  # several blocks of each kind
    train = RANDOM.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    drawn = RANDOM.integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
    drawn[3] = train[17]
    distances, numbers = nearest_real(drawn, train)
    every = np.sqrt((((drawn[:, None].astype(float) - train[None]) / 255) ** 2).mean(axis=(2, 3, 4)))
    assert numbers.tolist() == every.argmin(axis=1).tolist()
    assert distances == pytest.approx(every.min(axis=1), abs=1e-6)
    assert (distances[3], numbers[3]) == (0.0, 17)


def test_thumbnails_average_squares_of_large_images_only() -> None:
    large = RANDOM.integers(0, 256, (2, 3, 70, 70), dtype=np.uint8)
    small = thumbnails(large)
    assert small.shape == (2, 3, 35, 35)
    assert small[1, 2, 0, 1] == pytest.approx(large[1, 2, 0:2, 2:4].mean() / 255)
    assert thumbnails(large[..., :28, :28]).shape == (2, 3, 28, 28)


def test_a_fair_guess_among_256_levels_costs_8_bits_a_dimension() -> None:
    assert bits_per_dimension(np.array([-64 * np.log(256)]), dimensions=64) == pytest.approx([8.0])
    assert bits_per_dimension(-3 * 64 * np.log(256), dimensions=3 * 64) == pytest.approx(8.0)
