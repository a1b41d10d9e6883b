"""A variational autoencoder: an encoder to a Gaussian of latents, a decoder to a likelihood of pixels.

Kingma and Welling 2014. Asked for a label or a text, both halves are told it (Sohn et al. 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from finetune.image.blocks import Painter, Reader, concatenated
from finetune.image.drawer import Drawer, ImageConfig, asked
from finetune.image.losses import FIXED_DEVIATION, STEPS, Likelihood, divergence_nats, reconstruction_nats


class VaeConfig(ImageConfig):  # type: ignore[no-untyped-call]
    """`likelihood` of a pixel, and `beta`, the weight of the divergence in the loss (Higgins et al. 2017)."""

    model_type = "finetune_vae"

    likelihood: Likelihood = "learned_variance"
    beta: float = 1.0


@dataclass
class VaeOutput(ModelOutput):
    """`loss` is the mean over images of reconstruction + beta · divergence; the rest (N,) is of each image, in nats.

    elbo = -(reconstruction + divergence), whatever beta is: a lower bound of log p(image).
    """

    loss: Tensor | None = None
    elbo: Tensor | None = None
    reconstruction: Tensor | None = None
    divergence: Tensor | None = None


class Vae(Drawer):  # type: ignore[no-untyped-call]
    """Encoder and decoder. `log_deviation` is one number for all pixels, learned where the likelihood says so."""

    config_class = VaeConfig
    config: VaeConfig

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        told = min(config.latent_size, 64) if config.condition != "none" else 0
        self.encoder = Reader(size=config.size, channels=config.channels, width=config.width, norm=True)
        self.encoder_asked = asked(config, told)
        features = self.encoder.features * self.encoder.base**2
        self.posterior = nn.Linear(features + told, 2 * config.latent_size)
        self.decoder_asked = asked(config, told)
        self.decoder = Painter(
            inputs=config.latent_size + told, size=config.size, channels=config.channels, width=config.width
        )
        if config.likelihood == "learned_variance":
            # One variance, learned with the weights: Rybkin, Daniilidis and Levine 2021.
            self.log_deviation = nn.Parameter(torch.tensor(math.log(FIXED_DEVIATION)))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> VaeOutput:
        """One sample of the latents an image, from `generator` or the global one, and the terms of its ELBO."""
        mean, log_variance = self.encode(pixels, condition)
        device = mean.device if generator is None else generator.device
        noise = torch.randn(mean.shape, generator=generator, device=device).to(mean)
        logits = self.decode(mean + torch.exp(0.5 * log_variance) * noise, condition)
        reconstruction = reconstruction_nats(pixels, logits, self.pixel_log_deviation())
        divergence = divergence_nats(mean, log_variance)
        return VaeOutput(
            loss=(reconstruction + self.config.beta * divergence).mean(),
            elbo=-(reconstruction + divergence),
            reconstruction=reconstruction,
            divergence=divergence,
        )

    def encode(self, pixels: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (N, latent_size) of the latents of images (N, C, S, S) in 0..1."""
        features = self.encoder(2 * pixels - 1).flatten(1)
        mean, log_variance = self.posterior(concatenated(features, self.encoder_asked, condition)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logits (N, C, S, S) of the pixels' means; their deviation is `pixel_log_deviation`."""
        logits: Tensor = self.decoder(concatenated(latents, self.decoder_asked, condition))
        return logits

    def pixel_log_deviation(self) -> Tensor | None:
        """The logarithm of a pixel's deviation in 0..1; None for the Bernoulli likelihood, which has none."""
        if self.config.likelihood == "bernoulli":
            return None
        if self.config.likelihood == "gaussian":
            return torch.tensor(math.log(FIXED_DEVIATION), device=self.device)
        # Narrower than one level of 8 bits, a density would count as a probability above 1.
        return self.log_deviation.clamp(min=-math.log(STEPS))

    @torch.no_grad()
    def reconstruct(self, pixels: Tensor, condition: Tensor | None = None) -> Tensor:
        """The images (N, C, S, S) that the means of the latents stand for."""
        return self.decode(self.encode(pixels, condition)[0], condition).sigmoid()

    @torch.no_grad()
    def draw(
        self, latents: Tensor, condition: Tensor | None = None, *, truncation: float = 1.0, noise_seed: int = 0
    ) -> Tensor:
        """The mean of the pixels, without the noise of the likelihood; truncation multiplies the latents."""
        return self.decode(truncation * latents, condition).sigmoid()
