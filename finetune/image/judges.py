"""A judge: a small classifier of images that says what a drawn image shows, and in whose features distances are taken.

It is trained in seconds, always on the CPU and from a seed, so that the same images make the same judge and the same
drawing gets the same score.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from finetune.scores.images import thumbnails

FEATURES = 64  # of the last hidden layer
WIDTH = 32  # channels of the first convolution; twice as many in the later ones
STEPS, BATCH = 500, 64
PEAK_LEARNING_RATE = 3e-3
SMALLEST_SIDE = 4  # of the maps that are read out
LARGE_SIDE = 16  # from here on the first convolution halves the side
IMAGES_AT_ONCE = 512

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Judge:
    """A trained classifier of uint8 images (N, C, S, S); class numbers are those of its training labels."""

    network: JudgeNetwork
    trained_on: int

    def classes(self, pixels: Pixels) -> npt.NDArray[np.int64]:
        """(N,) class numbers."""
        found = [self.network(part).argmax(dim=1) for part in _parts(pixels)]
        return torch.cat(found).numpy()

    def features(self, pixels: Pixels) -> Floats:
        """(N, FEATURES) numbers of the last hidden layer, none below 0."""
        return torch.cat([self.network.hidden(part) for part in _parts(pixels)]).numpy()

    def is_right(self, pixels: Pixels, labels: np.ndarray) -> npt.NDArray[np.bool_]:
        """(N,) whether it takes each image for what `labels`, (N,) class numbers, say."""
        right: npt.NDArray[np.bool_] = self.classes(pixels) == labels
        return right


class JudgeNetwork(nn.Module):
    """Convolutions that halve the side until it is 4 or less, one hidden layer, and a score for each class."""

    def __init__(self, *, size: int, channels: int, classes: int) -> None:
        super().__init__()
        stride = 2 if size > LARGE_SIDE else 1
        layers: list[nn.Module] = [nn.Conv2d(channels, WIDTH, 3, stride=stride, padding=1), nn.ReLU()]
        side, width = -(-size // stride), WIDTH
        while side > SMALLEST_SIDE:
            layers += [nn.Conv2d(width, 2 * WIDTH, 3, stride=2, padding=1), nn.BatchNorm2d(2 * WIDTH), nn.ReLU()]
            side, width = -(-side // 2), 2 * WIDTH
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side**2, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, classes)

    def hidden(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, C, S, S) in 0..1 -> (N, FEATURES)."""
        features: torch.Tensor = self.body(2 * pixels - 1)
        return features

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, C, S, S) in 0..1 -> (N, classes) scores before the softmax."""
        scores: torch.Tensor = self.head(self.hidden(pixels))
        return scores


def train_judge(pixels: Pixels, labels: np.ndarray, *, classes: int, seed: int, steps: int | None = None) -> Judge:
    """A judge of uint8 images (N, C, S, S) and their class numbers (N,), after `steps` of Adam in one cycle.

    The default is STEPS, however many images there are, so that judges of few and of many images are trained alike.

    Images above 32 pixels a side are averaged down first (`thumbnails`): detail below that it does not see. The random
    state of torch is left as it was. Raises ValueError for no image, or another number of labels.
    """
    if len(pixels) == 0 or len(pixels) != len(labels):
        raise ValueError(f"needs images, and a label for each; found {len(pixels)} and {len(labels)}")
    steps, small = steps or STEPS, thumbnails(pixels[:1]).shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = JudgeNetwork(size=small, channels=pixels.shape[1], classes=classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_LEARNING_RATE, total_steps=steps)
    for rows in _shuffled(len(pixels), steps=steps, seed=seed):
        wanted = torch.from_numpy(np.asarray(labels)[rows].astype(np.int64))
        loss = functional.cross_entropy(network(torch.from_numpy(thumbnails(pixels[rows]))), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return Judge(network.eval().requires_grad_(False), trained_on=len(pixels))


def _shuffled(images: int, *, steps: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of each step, ascending, which is how a file on disk is read fastest."""
    generator = np.random.default_rng([seed, images])
    waiting = np.zeros(0, dtype=np.int64)
    for _ in range(steps):
        while len(waiting) < BATCH:
            waiting = np.concatenate([waiting, generator.permutation(images)])
        rows, waiting = waiting[:BATCH], waiting[BATCH:]
        yield np.sort(rows)


def _parts(pixels: Pixels) -> Iterator[torch.Tensor]:
    for start in range(0, len(pixels), IMAGES_AT_ONCE):
        yield torch.from_numpy(thumbnails(pixels[start : start + IMAGES_AT_ONCE]))
