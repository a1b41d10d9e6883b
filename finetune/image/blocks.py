"""The parts that the image models are made of: one network that reads an image, one that paints it, and what is asked.

A square of any size is drawn from a small one by doubling: 28 = 7·2·2, 32 = 4·2·2·2. Where a size is no such product
the next larger one is drawn and its right and lower margin cut off (30 of 32); reading adds the margin as zeros.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

MOST_CHANNELS = 512  # doubling ends here, unless the width itself is larger


def sizes_of(size: int) -> tuple[int, int]:
    """The side of the smallest square, 4 to 8 (for sizes from 8), and how often it is doubled to reach `size`."""
    doublings = max((size // 4).bit_length() - 1, 0)
    return -(-size // 2**doublings), doublings


def channels_of(width: int, doublings: int) -> list[int]:
    """Channels of each resolution, from the full size down."""
    return [min(width * 2**level, max(width, MOST_CHANNELS)) for level in range(doublings + 1)]


class Asked(nn.Module):
    """What was asked for, as `size` numbers: a row of a table for labels (N,), a linear map for embeddings (N, D)."""

    def __init__(self, *, labels: int, condition_size: int, size: int) -> None:
        super().__init__()
        self.by_label = labels > 0
        self.table = nn.Embedding(labels, size) if labels else nn.Linear(condition_size, size, bias=False)
        # A sentence embedding has length 1; each of its numbers shall be about 1, as latents are.
        self.scale = 1.0 if labels else math.sqrt(condition_size)

    def forward(self, condition: Tensor) -> Tensor:
        rows: Tensor = self.table(condition if self.by_label else condition * self.scale)
        return rows


class Reader(nn.Module):
    """An image (N, C, S, S) -> features (N, `features`, base, base), by residual blocks that halve it (He 2016)."""

    def __init__(self, *, size: int, channels: int, width: int, norm: bool) -> None:
        super().__init__()
        self.base, doublings = sizes_of(size)
        self.margin = self.base * 2**doublings - size
        widths = channels_of(width, doublings)
        self.features = widths[-1]
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            Down(inputs, outputs, norm=norm, halve=True) for inputs, outputs in pairwise(widths)
        )
        self.last = Down(widths[-1], widths[-1], norm=norm, halve=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x: Tensor = self.first(F.pad(pixels, (0, self.margin, 0, self.margin)) if self.margin else pixels)
        for block in self.blocks:
            x = block(x)
        x = self.last(x)
        return x


class Painter(nn.Module):
    """Numbers (N, `inputs`) -> an image (N, C, S, S), unbounded, by residual blocks that double a small square.

    The numbers give the small square, and scale and shift every layer after it (as in Dumoulin et al. 2017), so that
    what is asked for reaches each resolution.
    """

    def __init__(self, *, inputs: int, size: int, channels: int, width: int) -> None:
        super().__init__()
        self.base, doublings = sizes_of(size)
        self.size = size
        widths = channels_of(width, doublings)[::-1]
        self.start = nn.Linear(inputs, widths[0] * self.base**2)
        self.first = Up(widths[0], widths[0], style=inputs, double=False)
        self.blocks = nn.ModuleList(Up(before, after, style=inputs, double=True) for before, after in pairwise(widths))
        self.norm = StyledNorm(widths[-1], style=inputs)
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, numbers: Tensor) -> Tensor:
        x: Tensor = self.start(numbers).view(len(numbers), -1, self.base, self.base)
        x = self.first(x, numbers)
        for block in self.blocks:
            x = block(x, numbers)
        x = self.last(F.leaky_relu(self.norm(x, numbers), 0.2))
        return x[:, :, : self.size, : self.size]


class Down(nn.Module):
    """Two convolutions beside a shortcut; half the size, by averaging, between them. No norm for discriminators."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.norms = nn.ModuleList(_norm(inputs) if norm else nn.Identity() for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(inputs, size, 3, padding=1) for size in (inputs, outputs))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolutions[0](F.leaky_relu(self.norms[0](x), 0.2))
        if self.halve:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        y = self.convolutions[1](F.leaky_relu(self.norms[1](y), 0.2))
        # Two parts of variance 1 make one of variance 1.
        result: Tensor = (self.shortcut(x) + y) / math.sqrt(2)
        return result


class Up(nn.Module):
    """Two convolutions of normalised, scaled and shifted features beside a shortcut, at twice the size."""

    def __init__(self, inputs: int, outputs: int, *, style: int, double: bool) -> None:
        super().__init__()
        self.doubles = double
        self.norms = nn.ModuleList(StyledNorm(size, style=style) for size in (inputs, outputs))
        self.convolutions = nn.ModuleList(nn.Conv2d(size, outputs, 3, padding=1) for size in (inputs, outputs))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        y = F.leaky_relu(self.norms[0](x, style), 0.2)
        if self.doubles:
            x, y = doubled(x), doubled(y)
        y = F.leaky_relu(self.norms[1](self.convolutions[0](y), style), 0.2)
        result: Tensor = (self.shortcut(x) + self.convolutions[1](y)) / math.sqrt(2)
        return result


class StyledNorm(nn.Module):
    """Group normalisation, which knows one image alone, whose scale and shift follow from the style (N, `style`)."""

    def __init__(self, channels: int, *, style: int) -> None:
        super().__init__()
        self.norm = _norm(channels, affine=False)
        self.affine = nn.Linear(style, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.affine(style)[:, :, None, None].chunk(2, dim=1)
        result: Tensor = self.norm(x) * (1 + scale) + shift
        return result


def doubled(x: Tensor) -> Tensor:
    """(N, C, S, S) -> (N, C, 2S, 2S), each pixel four times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def normalise_spectrally(network: nn.Module) -> None:
    """Divides every weight by its largest singular value, which one step of power iteration a forward pass follows.

    Miyato et al. 2018. Its vectors are buffers, saved with the weights; they move in training mode alone.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.Embedding)):
            spectral_norm(module)


def _norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels, affine=affine)


def concatenated(numbers: Tensor, asked: nn.Module | None, condition: Tensor | None) -> Tensor:
    """Latents or features (N, L), with what was asked for behind them where a model is asked."""
    if (asked is None) != (condition is None):
        raise ValueError("a condition was given to a model without one" if asked is None else "a condition is missing")
    return numbers if asked is None else torch.cat([numbers, asked(condition)], dim=1)
