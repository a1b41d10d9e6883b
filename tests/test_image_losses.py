"""What image models minimise, against formulas written a second time with numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from finetune.image.losses import (
    discriminator_loss,
    divergence_nats,
    generator_loss,
    r1,
    reconstruction_nats,
)

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.random((3, 2, 4, 4))
LOGITS = RANDOM.normal(size=(3, 2, 4, 4))
MEANS = 1 / (1 + np.exp(-LOGITS))


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


@pytest.mark.parametrize("deviation", [0.05, 0.1, 0.7])
def test_gaussian_reconstruction_is_the_log_density_per_level_summed_over_pixels(deviation: float) -> None:
    ours = reconstruction_nats(tensor(PIXELS), tensor(LOGITS), tensor(np.log(deviation)))
    density = stats.norm.logpdf(255 * PIXELS, loc=255 * MEANS, scale=255 * deviation).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(ours.numpy(), -density, rtol=1e-10)


def test_gaussian_reconstruction_is_close_to_the_probability_of_the_level() -> None:
    deviation, level, mean = 0.02, 131, 0.5
    edges = ((np.array([level, level + 1]) - 0.5) / 255 - mean) / deviation
    mass = stats.norm.cdf(edges[1]) - stats.norm.cdf(edges[0])
    pixel = tensor([[[[level / 255]]]])
    ours = reconstruction_nats(pixel, tensor([[[[0.0]]]]), tensor(np.log(deviation)))
    assert ours.item() == pytest.approx(-np.log(mass), abs=0.003)


def test_bernoulli_reconstruction_is_the_cross_entropy_in_nats() -> None:
    ours = reconstruction_nats(tensor(PIXELS), tensor(LOGITS), None)
    theirs = -(PIXELS * np.log(MEANS) + (1 - PIXELS) * np.log(1 - MEANS)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12)
    black_or_white = (PIXELS > 0.5).astype(float)
    theirs = -stats.bernoulli.logpmf(black_or_white.astype(int), MEANS).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(reconstruction_nats(tensor(black_or_white), tensor(LOGITS), None).numpy(), theirs)


def test_divergence_is_the_integral_of_its_definition() -> None:
    mean, deviation = 0.7, 0.4

    def integrand(z: float) -> float:
        q = stats.norm(mean, deviation)
        return float(q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z)))

    expected = integrate.quad(integrand, mean - 12 * deviation, mean + 12 * deviation)[0]
    ours = divergence_nats(tensor([[mean, 0.0]]), tensor([[2 * np.log(deviation), 0.0]]))
    assert ours.shape == (1,)
    assert ours.item() == pytest.approx(expected, rel=1e-8)


def test_the_prior_itself_diverges_by_nothing() -> None:
    assert divergence_nats(torch.zeros(2, 5), torch.zeros(2, 5)).tolist() == [0.0, 0.0]


def test_adversarial_losses_in_closed_form() -> None:
    real, drawn = tensor([2.0, -0.5]), tensor([0.3, -3.0])
    sure = stats.logistic.cdf
    non_saturating = -np.log(sure([2.0, -0.5])).mean() - np.log(1 - sure([0.3, -3.0])).mean()
    assert discriminator_loss(real, drawn, loss="non_saturating").item() == pytest.approx(non_saturating)
    assert generator_loss(drawn, loss="non_saturating").item() == pytest.approx(-np.log(sure([0.3, -3.0])).mean())
    # Only what is on the wrong side of the margin counts: 1.5 of the real ones, 1.3 of the drawn ones.
    assert discriminator_loss(real, drawn, loss="hinge").item() == pytest.approx(1.5 / 2 + 1.3 / 2)
    assert generator_loss(drawn, loss="hinge").item() == pytest.approx(2.7 / 2)


def test_non_saturating_loss_still_teaches_a_generator_that_fails() -> None:
    logits = torch.tensor([-30.0], requires_grad=True)
    generator_loss(logits, loss="non_saturating").backward()
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(-1.0)


def test_r1_of_a_quadratic_judge_by_hand() -> None:
    weights = tensor(RANDOM.normal(size=(2, 4, 4))).requires_grad_()
    pixels = tensor(PIXELS).requires_grad_()
    # logit = sum of w · x², by x in 0..1: 2wx; by x in -1..1, half of it.
    penalty = r1((weights * pixels.square()).flatten(1).sum(dim=1), pixels)
    by_hand = (weights.detach().numpy() * PIXELS) ** 2
    assert penalty.item() == pytest.approx(by_hand.sum(axis=(1, 2, 3)).mean())
    penalty.backward()
    assert weights.grad is not None
    np.testing.assert_allclose(weights.grad.numpy(), (2 * weights.detach().numpy() * PIXELS**2).mean(axis=0))
