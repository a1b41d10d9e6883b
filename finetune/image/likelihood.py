"""How probable a VAE finds given images, as a lower bound in nats, and how well it rebuilds them.

An image of 256 levels has a probability, at most 1; a density over 0..1 may exceed 1, and grows without limit where a
model is sure of a grey level. So the Gaussian of a pixel is integrated over its level here, with the tails going to the
first and the last (Ho, Jain and Abbeel, 2020, equation 13): the probabilities of all 256 levels add up to 1, and the
ELBO is a bound for data of 256 levels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from finetune.image.losses import divergence_nats, reconstruction_nats
from finetune.image.vae import Vae
from finetune.scores.images import LEVELS

IMAGES_AT_ONCE = 64

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Likelihood:
    """(N,) each. elbo: nats, a true sum over pixels and latents, one sample of the latents an image, whatever beta was.

    loss: what training minimises of the image, in nats. squared_error: mean over its pixels, 0..1, of the square of the
    difference to the image rebuilt from the mean latents. is_bound: the ELBO bounds log p of an image of 256 levels;
    not so of the Bernoulli likelihood, where grey counts as a share of white.
    """

    elbo: Floats
    loss: Floats
    squared_error: Floats
    is_bound: bool

    @property
    def meaning(self) -> str:
        """What the ELBO is, in words."""
        if self.is_bound:
            return (
                "nats an image: a lower bound of log P of its 256 levels, discretised likelihood, one sample of latents"
            )
        return "nats an image; grey counts as a share of white, so it bounds no probability of a grey image"


@torch.no_grad()
def measure_likelihood(
    model: Vae, pixels: npt.NDArray[np.uint8], condition: Tensor | None = None, *, seed: int
) -> Likelihood:
    """Of images (N, C, S, S) and what each is asked by: None, class numbers (N,), or embeddings (N, D).

    The latents' noise of an image depends on `seed` and on its pixels alone: its scores are the same wherever it
    stands, and for every model and condition the noise is the same. `model` is left in evaluation mode or training
    mode as it was.
    """
    device, was_training = next(model.parameters()).device, model.training
    model.train(False)
    found: list[Tensor] = []
    try:
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            rows = slice(start, start + IMAGES_AT_ONCE)
            levels = torch.from_numpy(np.array(pixels[rows])).to(device)
            told = None if condition is None else condition[rows].to(device)
            noise = latent_noise(pixels[rows], size=model.config.latent_size, seed=seed).to(device)
            found.append(_of_batch(model, levels, told, noise).double().cpu())
    finally:
        model.train(was_training)
    elbo, loss, error = torch.cat(found, dim=1).numpy()
    return Likelihood(
        elbo=elbo,
        loss=loss,
        squared_error=error,
        is_bound=model.config.likelihood != "bernoulli",
    )


def latent_noise(pixels: npt.NDArray[np.uint8], *, size: int, seed: int) -> Tensor:
    """(N, size) standard normal numbers, drawn for each image from `seed` and the sha256 of its pixels."""
    keys = (hashlib.sha256(b"%d " % seed + np.ascontiguousarray(image).tobytes()).digest() for image in pixels)
    rows = [np.random.default_rng(int.from_bytes(key, "big")).standard_normal(size, dtype=np.float32) for key in keys]
    return torch.from_numpy(np.stack(rows))


def level_nats(levels: Tensor, means: Tensor, log_deviation: Tensor) -> Tensor:
    """-log P of each image (N,) of `levels` 0..255 under Gaussians of pixels with `means` and deviation in 0..1.

    P of a level is the Gaussian's mass within half a level of it; the first and the last take the tails.
    """
    deviation = torch.exp(log_deviation.double()) * (LEVELS - 1)
    centred = levels.double() - means.double() * (LEVELS - 1)
    # Log of a difference of two normal tails; on the side where both are small, which is exact.
    mirrored = torch.where(centred > 0, -1.0, 1.0)
    upper, lower = ((mirrored * centred + half) / deviation for half in (0.5, -0.5))
    first, last = (torch.where(mirrored > 0, levels == low, levels == LEVELS - 1 - low) for low in (0, LEVELS - 1))
    log_upper = torch.where(last, 0.0, torch.special.log_ndtr(upper))
    log_lower = torch.where(first, -torch.inf, torch.special.log_ndtr(lower))
    each = log_upper + torch.log(-torch.expm1((log_lower - log_upper).clamp(max=-1e-12)))
    return -each.flatten(1).sum(dim=1)


def _of_batch(model: Vae, levels: Tensor, condition: Tensor | None, noise: Tensor) -> Tensor:
    """(3, N): ELBO, loss, squared error."""
    pixels = levels.float() / (LEVELS - 1)
    mean, log_variance = model.encode(pixels, condition)
    logits = model.decode(mean + torch.exp(0.5 * log_variance) * noise, condition)
    deviation = model.pixel_log_deviation()
    reconstruction, divergence = reconstruction_nats(pixels, logits, deviation), divergence_nats(mean, log_variance)
    nats = reconstruction.double() if deviation is None else level_nats(levels, logits.sigmoid(), deviation)
    loss = reconstruction + model.config.beta * divergence
    rebuilt = model.decode(mean, condition).sigmoid()
    error = functional.mse_loss(rebuilt, pixels, reduction="none").flatten(1).mean(dim=1)
    return torch.stack([-(nats + divergence.double()), loss.double(), error.double()])
