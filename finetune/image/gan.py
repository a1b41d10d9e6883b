"""A generator that paints from random numbers and a discriminator that judges: the adversarial game.

Goodfellow et al. 2014; residual blocks and spectral normalisation as in Miyato et al. 2018. What is asked for enters
the judgement by projection (Miyato and Koyama 2018).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.image.blocks import Painter, Reader, concatenated, normalise_spectrally
from finetune.image.drawer import Drawer, ImageConfig, asked


class GanConfig(ImageConfig):  # type: ignore[no-untyped-call]
    """`spectral_norm` of the discriminator's weights."""

    model_type = "finetune_gan"

    spectral_norm: bool = True


class Generator(nn.Module):
    """Latents (N, L), and what is asked for -> images (N, C, S, S) in 0..1."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        told = min(config.latent_size, 64) if config.condition != "none" else 0
        self.asked = asked(config, told)
        self.painter = Painter(
            inputs=config.latent_size + told, size=config.size, channels=config.channels, width=config.width
        )

    def forward(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        image: Tensor = self.painter(concatenated(latents, self.asked, condition))
        return image.sigmoid()


class Discriminator(nn.Module):
    """Images (N, C, S, S) in 0..1 -> logits (N,), high for what looks real and is what was asked for.

    logit = v · h + e(condition) · h, where h are the summed features of the last layer. One of its features is the
    spread of the batch (Karras et al. 2018), by which images that are all alike are told from real ones: here alone
    does a row depend on the others.
    """

    def __init__(self, config: ImageConfig, *, spectral: bool) -> None:
        super().__init__()
        self.reader = Reader(size=config.size, channels=config.channels, width=config.width, norm=False)
        self.last = nn.Conv2d(self.reader.features + 1, self.reader.features, 3, padding=1)
        self.real = nn.Linear(self.reader.features, 1)
        self.asked = asked(config, self.reader.features)
        if self.asked is not None:
            # As small as the other weights, so that at first both parts of the logit count alike.
            nn.init.normal_(self.asked.table.weight, std=self.reader.features**-0.5)
        if spectral:
            normalise_spectrally(self)

    def forward(self, pixels: Tensor, condition: Tensor | None = None) -> Tensor:
        features = F.leaky_relu(with_spread(self.reader(2 * pixels - 1)), 0.2)
        features = F.leaky_relu(self.last(features), 0.2).sum(dim=(2, 3))
        logits: Tensor = self.real(features).squeeze(1)
        if self.asked is not None:
            logits = logits + (self.asked(condition) * features).sum(dim=1)
        return logits


class Gan(Drawer):  # type: ignore[no-untyped-call]
    """`generator` and `discriminator`, which train against each other; a saved generator is the averaged one."""

    config_class = GanConfig
    config: GanConfig

    def __init__(self, config: GanConfig) -> None:
        super().__init__(config)
        self.generator = Generator(config)
        self.discriminator = Discriminator(config, spectral=config.spectral_norm)
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def draw(
        self, latents: Tensor, condition: Tensor | None = None, *, truncation: float = 1.0, noise_seed: int = 0
    ) -> Tensor:
        """Truncation multiplies the latents."""
        image: Tensor = self.generator(truncation * latents, condition)
        return image


def with_spread(x: Tensor) -> Tensor:
    """One more channel (N, C + 1, S, S): the deviation of every feature over the batch, averaged to one number."""
    # The small number keeps the root differentiable, twice, where the batch is one image or all alike.
    spread = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], dim=1)
