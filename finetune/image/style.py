"""A style-based generator: a mapping network to w, layers modulated by w, noise, and a sum of pictures of every size.

Karras et al. 2019, and 2020 for modulated convolutions and skip connections. Two parts of the latter are left out: path
length regularisation, and its filter for resampling, for which bilinear interpolation stands.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.image.blocks import channels_of, concatenated, sizes_of
from finetune.image.drawer import Drawer, ImageConfig, asked
from finetune.image.gan import Discriminator
from finetune.training.batches import keyed_seed

MAPPING_RATE = 0.01  # of the mapping network's learning rate
AVERAGE_DECAY = 0.998  # of the average w, a training step


class StyleConfig(ImageConfig):  # type: ignore[no-untyped-call]
    """`mapping_layers` from z to w, `style_mixing`, the share of training images of two w, and `spectral_norm`."""

    model_type = "finetune_style"

    latent_size: int = 512
    mapping_layers: int = 8
    style_mixing: float = 0.5
    spectral_norm: bool = False


class Style(Drawer):  # type: ignore[no-untyped-call]
    """`generator` (`mapping`, `synthesis`) and `discriminator`; a saved generator is the averaged one."""

    config_class = StyleConfig
    config: StyleConfig

    def __init__(self, config: StyleConfig) -> None:
        super().__init__(config)
        self.generator = StyleGenerator(config)
        self.discriminator = Discriminator(config, spectral=config.spectral_norm)
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def layers(self) -> int:
        """The layers that w enters, from the coarsest to the finest."""
        return self.generator.synthesis.layers

    @torch.no_grad()
    def map(self, latents: Tensor, condition: Tensor | None = None, *, truncation: float = 1.0) -> Tensor:
        """z (N, L) -> w (N, L); truncation moves w towards the average w, of its class where classes are asked for."""
        w: Tensor = self.generator.mapping(latents, condition)
        average = self.generator.mapping.average_of(condition)
        return average + truncation * (w - average)

    def mixed(self, first: Tensor, second: Tensor, *, crossover: int) -> Tensor:
        """Styles (N, layers, L): w of `first` in the layers before `crossover`, of `second` from there on."""
        coarse = (torch.arange(self.layers, device=first.device) < crossover)[None, :, None]
        return torch.where(coarse, first[:, None, :], second[:, None, :])

    @torch.no_grad()
    def draw_from_styles(self, styles: Tensor, *, noise_seed: int = 0) -> Tensor:
        """Images (N, C, S, S) in 0..1 of a w for every layer (N, layers, L); all rows are given the same noise."""
        image: Tensor = self.generator.synthesis(styles, noise_seed=noise_seed)
        return image.clamp(0, 1)

    @torch.no_grad()
    def draw(
        self, latents: Tensor, condition: Tensor | None = None, *, truncation: float = 1.0, noise_seed: int = 0
    ) -> Tensor:
        """Truncation is that of `map`, of all layers."""
        w = self.map(latents, condition, truncation=truncation)
        return self.draw_from_styles(w[:, None, :].expand(-1, self.layers, -1), noise_seed=noise_seed)


class StyleGenerator(nn.Module):
    """As a training step calls it: z and condition -> images, about 0..1 and not clamped, of fresh noise.

    In training mode the average w follows, and a share of the images is of two w. Both are for training alone.
    """

    def __init__(self, config: StyleConfig) -> None:
        super().__init__()
        self.mixing = config.style_mixing
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)

    def forward(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        w = self.mapping(latents, condition)
        styles = w[:, None, :].expand(-1, self.synthesis.layers, -1)
        if self.training:
            self.mapping.follow(w, condition)
            styles = self._mix(styles, condition)
        image: Tensor = self.synthesis(styles, noise_seed=None)
        return image

    def _mix(self, styles: Tensor, condition: Tensor | None) -> Tensor:
        """From a random layer on, the w of other latents; in images that are not to be mixed, from no layer on."""
        count, layers, size = styles.shape
        other = self.mapping(torch.randn(count, size, device=styles.device, dtype=styles.dtype), condition)
        crossover = torch.randint(1, layers + 1, (count, 1), device=styles.device)
        crossover[torch.rand(count, device=styles.device) >= self.mixing] = layers
        coarse = torch.arange(layers, device=styles.device) < crossover
        return torch.where(coarse[:, :, None], styles, other[:, None, :])


class Mapping(nn.Module):
    """z (N, L) of length √L, with what is asked for behind it -> w (N, L), through fully connected layers."""

    average: Tensor

    def __init__(self, config: StyleConfig) -> None:
        super().__init__()
        size = config.latent_size
        self.asked = asked(config, size)
        sizes = [size if self.asked is None else 2 * size] + [size] * config.mapping_layers
        self.layers = nn.ModuleList(ScaledLinear(before, after, rate=MAPPING_RATE) for before, after in pairwise(sizes))
        # The average of each class, or of all where no class is asked for; truncation goes towards it.
        self.register_buffer("average", torch.zeros(max(config.labels, 1), size))

    def forward(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        w = concatenated(F.normalize(latents) * math.sqrt(latents.shape[1]), self.asked, condition)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), 0.2) * math.sqrt(2)
        return w

    def average_of(self, condition: Tensor | None) -> Tensor:
        """(N, L), or (1, L) where the average is one for all."""
        by_label = condition is not None and condition.ndim == 1
        return self.average[condition] if by_label else self.average

    @torch.no_grad()
    def follow(self, w: Tensor, condition: Tensor | None) -> None:
        """Moves the averages towards the means of this step's w."""
        by_label = condition is not None and condition.ndim == 1
        rows = condition if by_label and condition is not None else torch.zeros_like(w[:, 0], dtype=torch.long)
        members = F.one_hot(rows, len(self.average)).to(w).T
        seen = members.sum(dim=1, keepdim=True)
        means = torch.where(seen > 0, members @ w / seen.clamp(min=1), self.average)
        self.average.lerp_(means.to(self.average), 1 - AVERAGE_DECAY)


class Synthesis(nn.Module):
    """Styles (N, layers, L) -> images: a learned square, doubled; each size adds its picture to that of the last."""

    def __init__(self, config: StyleConfig) -> None:
        super().__init__()
        base, doublings = sizes_of(config.size)
        widths = channels_of(config.width, doublings)[::-1]
        self.size = config.size
        self.layers = 2 * doublings + 1
        self.start = nn.Parameter(torch.randn(1, widths[0], base, base))
        inputs = [widths[0]] + [width for pair in pairwise(widths) for width in pair]
        outputs = [widths[0]] + [width for width in widths[1:] for _ in range(2)]
        self.convolutions = nn.ModuleList(
            ModulatedConv(before, after, style=config.latent_size)
            for before, after in zip(inputs, outputs, strict=True)
        )
        self.pictures = nn.ModuleList(
            ModulatedConv(width, config.channels, style=config.latent_size, picture=True) for width in widths
        )

    def forward(self, styles: Tensor, *, noise_seed: int | None) -> Tensor:
        """With a `noise_seed` every row is given the same noise; without one, each its own."""
        x = self.start.expand(len(styles), -1, -1, -1)
        x = self.convolutions[0](x, styles[:, 0], self._noise(x, 0, noise_seed))
        image = self.pictures[0](x, styles[:, 0])
        for level, picture in enumerate(self.pictures[1:]):
            x = _enlarged(x)
            for layer in (2 * level + 1, 2 * level + 2):
                x = self.convolutions[layer](x, styles[:, layer], self._noise(x, layer, noise_seed))
            image = _enlarged(image) + picture(x, styles[:, 2 * level + 2])
        pixels: Tensor = (image[:, :, : self.size, : self.size] + 1) / 2
        return pixels

    @staticmethod
    def _noise(x: Tensor, layer: int, seed: int | None) -> Tensor:
        if seed is None:
            return torch.randn(len(x), 1, *x.shape[2:], device=x.device, dtype=x.dtype)
        generator = torch.Generator().manual_seed(keyed_seed(seed, layer))
        return torch.randn(1, 1, *x.shape[2:], generator=generator).to(x)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by the style, and its output to unit variance again; then noise.

    Scaling weights w' = s · w, and dividing by their length, is scaling the input by s and the output by 1 / length
    (Karras et al. 2020, equations 1 to 3): a plain convolution of the whole batch. A `picture` is 1x1 and only scaled.
    """

    def __init__(self, inputs: int, outputs: int, *, style: int, picture: bool = False) -> None:
        super().__init__()
        self.picture = picture
        side = 1 if picture else 3
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))
        self.style = ScaledLinear(style, inputs, bias=1.0)
        if not picture:
            self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        weight = self.weight / math.sqrt(self.weight[0].numel())
        scale = self.style(style)
        x = F.conv2d(x * scale[:, :, None, None], weight, padding=weight.shape[-1] // 2)
        if self.picture:
            return x + self.bias
        lengths = scale.square() @ weight.square().sum(dim=(2, 3)).T
        x = x * (lengths + 1e-8).rsqrt()[:, :, None, None]
        if noise is not None:
            x = x + self.noise_strength * noise
        return F.leaky_relu(x + self.bias, 0.2) * math.sqrt(2)


class ScaledLinear(nn.Module):
    """A linear layer that stores weights of variance 1 and scales them when used (Karras et al. 2018, section 4.1).

    So Adam, which moves every weight alike, moves all layers alike; `rate` slows a layer against the others.
    """

    def __init__(self, inputs: int, outputs: int, *, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
