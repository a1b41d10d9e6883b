"""The images that are learnt from: what each shows, their order, and the changes made to them on the way.

Order, captions and changes depend on (seed, epoch, step) alone: a resumed run sees what an uninterrupted one does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.image.augment import Augment
from finetune.scores.images import LEVELS


@dataclass(frozen=True)
class Asking:
    """What can be asked for when an image is drawn, and what each image of a split stands for.

    `choices` (N, T): for each image the T things it may be called, of which one is taken at a time. They are class
    numbers, or rows of `texts`, embeddings (R, D), where that is given.
    """

    choices: NDArray[np.int64]
    texts: Tensor | None = None

    def of(self, numbers: NDArray[np.int64], *, generator: torch.Generator | None = None) -> Tensor:
        """Class numbers (n,) or embeddings (n, D) for these images; without a `generator` the first of their names."""
        several = self.choices.shape[1]
        places = (
            torch.randint(several, (len(numbers),), generator=generator).numpy()
            if generator is not None and several > 1
            else np.zeros(len(numbers), dtype=np.int64)
        )
        chosen = torch.from_numpy(self.choices[numbers, places])
        return chosen if self.texts is None else self.texts[chosen]


@dataclass(frozen=True)
class TrainingImages:
    """`pixels` is uint8 (N, C, S, S), in memory or on the disk; `asking` is None where a model is asked for nothing."""

    pixels: NDArray[np.uint8]
    augment: Augment
    asking: Asking | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(
        self, numbers: NDArray[np.int64], *, device: torch.device, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Images (n, C, S, S) as they are, in 0..1, and what they are asked by."""
        asked = self.asking.of(numbers, generator=generator).to(device) if self.asking is not None else None
        return as_shares(self.pixels[numbers], device), asked


def as_shares(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Bytes (N, C, S, S) as shares of white, laid out as convolutions want them."""
    moved = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    return (moved.float() / (LEVELS - 1)).contiguous(memory_format=torch.channels_last)


def order_of_epoch(images: int, *, passes: int, per_step: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """(steps, per_step) image numbers: `passes` shufflings one after the other, the last step filled from the start.

    Full steps alone, because a discriminator looks at its batch as a whole.
    """
    shuffled = [np.random.default_rng([seed, epoch, each]).permutation(images) for each in range(passes)]
    steps = steps_of_epoch(images, passes=passes, per_step=per_step)
    return np.resize(np.concatenate(shuffled), (steps, per_step))


def steps_of_epoch(images: int, *, passes: int, per_step: int) -> int:
    return -(-images * passes // per_step)
