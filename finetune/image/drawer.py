"""What all image models share: the settings of the picture, latents that belong to their row, and how one is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from finetune.image.blocks import Asked

Condition = Literal["none", "label", "caption"]


class ImageConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """config.json of an image model. Pixels are numbers of 0..1 outside, and of -1..1 inside the networks that read.

    `labels` counts the classes it can be asked for (0 without), whose names are in `id2label`; `condition_size` is the
    length of the text embeddings it can be asked with (0 without).
    """

    size: int = 32
    channels: int = 1
    condition: Condition = "none"
    labels: int = 0
    condition_size: int = 0
    latent_size: int = 32
    width: int = 32


class Drawer(PreTrainedModel, ABC):  # type: ignore[no-untyped-call]
    """A model that draws images (N, C, S, S) of 0..1 from latents (N, L), and from what it is asked for.

    A condition is None, class numbers (N,), or text embeddings (N, D), as `config.condition` says.
    """

    config_class = ImageConfig
    main_input_name = "pixels"
    config: ImageConfig

    def _init_weights(self, module: nn.Module) -> None:
        """The layers have set their own weights; transformers would set them again."""

    def latents(self, count: int, *, seed: int, first: int = 0) -> Tensor:
        """Standard normal numbers (count, latent_size); row i depends on (seed, first + i) alone."""
        size = self.config.latent_size
        rows = [np.random.default_rng([seed, first + row]).standard_normal(size) for row in range(count)]
        return torch.tensor(np.array(rows).reshape(count, size), dtype=torch.float32, device=self.device)

    @abstractmethod
    def draw(
        self, latents: Tensor, condition: Tensor | None = None, *, truncation: float = 1.0, noise_seed: int = 0
    ) -> Tensor:
        """Images (N, C, S, S) in 0..1, each from its own row alone, in training and evaluation mode alike.

        Below 1, `truncation` brings them closer to the average image: less variety, fewer failures.
        """


def asked(config: ImageConfig, size: int) -> Asked | None:
    """The layer that turns what is asked for into `size` numbers; None for a model that is asked for nothing."""
    if config.condition == "none":
        return None
    return Asked(labels=config.labels, condition_size=config.condition_size, size=size)
