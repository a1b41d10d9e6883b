"""What the image models minimise, as plain functions of tensors: the two terms of the ELBO, the adversarial losses, R1.

Sums are true sums over pixels and latents, in nats per image; means are over images alone.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Likelihood = Literal["bernoulli", "gaussian", "learned_variance"]
AdversarialLoss = Literal["non_saturating", "hinge"]

# The levels of 8 bits are 1/255 apart, so that a density over 0..1 is a probability of about density / 255 a level.
STEPS = 255
FIXED_DEVIATION = 0.1  # of a pixel in 0..1, for the Gaussian likelihood of fixed variance


def reconstruction_nats(pixels: Tensor, logits: Tensor, log_deviation: Tensor | None) -> Tensor:
    """-log p(pixels | latents) of each image (N,), summed over its pixels; both (N, C, S, S), pixels in 0..1.

    The mean of a pixel is sigmoid(logits). `log_deviation` None is the Bernoulli likelihood, in which a grey pixel
    counts as a share of white (Kingma and Welling 2014, appendix C.1): no probability of a grey image. Otherwise a
    Gaussian of that deviation, per level of the 8 bits: -log N(x; mean, deviation²) + log 255.
    """
    if log_deviation is None:
        each = F.binary_cross_entropy_with_logits(logits, pixels, reduction="none")
    else:
        distance = (pixels - logits.sigmoid()) * torch.exp(-log_deviation)
        each = 0.5 * distance.square() + log_deviation + 0.5 * math.log(2 * math.pi) + math.log(STEPS)
    return each.flatten(1).sum(dim=1)


def divergence_nats(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) of each image (N,), summed over its latents (N, L).

    Kingma and Welling 2014, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1)


def discriminator_loss(real: Tensor, drawn: Tensor, *, loss: AdversarialLoss) -> Tensor:
    """What the discriminator minimises, from its logits (N,) of real and of drawn images.

    non_saturating: softplus(-real) + softplus(drawn) (Goodfellow 2014); hinge: relu(1 - real) + relu(1 + drawn) (Lim
    and Ye 2017).
    """
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + drawn).mean()
    return F.softplus(-real).mean() + F.softplus(drawn).mean()


def generator_loss(drawn: Tensor, *, loss: AdversarialLoss) -> Tensor:
    """What the generator minimises, from the logits (N,) of its images: -drawn for hinge, else softplus(-drawn)."""
    return -drawn.mean() if loss == "hinge" else F.softplus(-drawn).mean()


def r1(logits: Tensor, pixels: Tensor) -> Tensor:
    """The mean over images of the squared gradient of the logit by the pixels (Mescheder 2018), to be trained through.

    `pixels` are real, in 0..1, and require a gradient. The papers' pixels run from -1 to 1, and gradients by those are
    half as large: the result is in the papers' unit. Its part of the loss is weight / 2 · r1, times the interval.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), pixels, create_graph=True)
    return (gradient / 2).square().flatten(1).sum(dim=1).mean()
