"""A finished image model from a run folder or a model folder: it draws, and a VAE encodes, rebuilds and scores.

Image i of seed s is the same, to the last bit, however many are drawn with it: a latent depends on (seed, i) alone,
and the network always sees full batches of one size, because rounding may depend on the size of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.errors import RecipeError
from finetune.hub_models import find_saved_model
from finetune.image.captions import embed_texts
from finetune.image.drawer import Drawer
from finetune.image.gan import Gan
from finetune.image.likelihood import measure_likelihood
from finetune.image.networks import load_image_model
from finetune.image.style import Style
from finetune.image.vae import Vae
from finetune.image_settings import ImageSettings, read_image_settings
from finetune.scores.images import LEVELS, bits_per_dimension

PIXELS_AT_A_TIME = 64 * 32 * 32  # of a batch
MOST_IMAGES_AT_A_TIME = 64

Pixels = NDArray[np.uint8]
Latents = NDArray[np.float32]
Counted = Callable[[int], object]


@dataclass(frozen=True)
class Asked:
    """What to draw, one entry an image: names of labels, or texts, or nothing of an unconditional model."""

    labels: list[str] | None = None
    texts: list[str] | None = None

    def of(self, place: int) -> str | None:
        """What was asked for image `place`."""
        found = self.texts if self.texts is not None else self.labels
        return None if found is None else found[place % len(found)]


@dataclass(frozen=True)
class ImageScores:
    """Scores of given images, by name, each (N,); `labels` are those under which they score best, where one was sought.

    vae: `elbo` in nats an image, from one sample of its latents, `bits_per_dimension`, and `reconstruction_error`, the
    mean squared difference of pixels in [0, 1]. gan, style: `logit` of the discriminator, which judged it alone.
    """

    columns: dict[str, NDArray[np.float64]]
    asked: list[str] | None


class ImagePredictor:
    """A finished image model with what it says of itself.

    >>> ImagePredictor.load("runs/digits-1").draw(64, seed=0)      # uint8 (64, 1, 8, 8)
    """

    def __init__(self, model: Drawer, settings: ImageSettings, *, base: Path, use_cpu: bool = False) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() and not use_cpu else "cpu")
        self.model = model.to(self.device).eval()  # type: ignore[arg-type]
        self.settings, self.base = settings, base
        self._embedded: dict[str, torch.Tensor] = {}

    @classmethod
    def load(cls, folder: str | Path, *, use_cpu: bool = False) -> ImagePredictor:
        """From a run folder (its best/), or from best/, last/ or a copy of them. Raises ModelError, CheckpointError."""
        path = find_saved_model(folder)
        settings = read_image_settings(path)
        return cls(load_image_model(path), settings, base=path, use_cpu=use_cpu)

    @property
    def images_at_a_time(self) -> int:
        """Fixed for a size of image, so that the same image comes out whatever the count."""
        return max(1, min(MOST_IMAGES_AT_A_TIME, PIXELS_AT_A_TIME // self.settings.image.size**2))

    def asked(self, labels: Sequence[str] = (), prompts: Sequence[str] = ()) -> Asked:
        """What image i shows: the labels or texts given, in turn; without any, every label of the model in turn.

        Raises RecipeError for a model that draws from texts alone and is given none.
        """
        if self.settings.image.condition == "none":
            return Asked()
        names = list(labels) or self.settings.askable
        if not names and not prompts:
            raise RecipeError("command line", "the model draws what a text says, and there is none", "Write --prompt.")
        if self.settings.image.condition == "label":
            return Asked(labels=names)
        texts = list(prompts) or [self.settings.image.caption(name) for name in names]
        return Asked(labels=None if prompts else names, texts=texts)

    def draw(
        self,
        count: int,
        *,
        seed: int,
        asked: Asked | None = None,
        truncation: float = 1.0,
        first: int = 0,
        on_images: Counted = lambda count: None,
    ) -> Pixels:
        """Images first .. first + count - 1 of a seed as uint8 (count, C, S, S).

        `truncation` below 1 makes them more alike and more typical: w is pulled to its mean (style), latents are
        scaled (vae, gan).
        """
        asked = asked if asked is not None else self.asked()
        step, drawn = self.images_at_a_time, list[Pixels]()
        for begin in range(first - first % step, first + count, step):
            latents = self.model.latents(step, seed=seed, first=begin)
            wanted = self._condition([asked.of(begin + row) for row in range(step)], asked)
            with torch.inference_mode():
                pixels = self.model.draw(latents, wanted, truncation=truncation, noise_seed=seed)
            kept = slice(max(first - begin, 0), min(first + count - begin, step))
            drawn.append(as_bytes(pixels)[kept])
            on_images(len(drawn[-1]))
        return np.concatenate(drawn)

    def between(self, seeds: tuple[int, int], *, steps: int, asked: Asked, truncation: float = 1.0) -> Pixels:
        """`steps` images on the way from image 0 of one seed to image 0 of the other, both ends included.

        The way is a straight line through w (style), or a great circle through the latents, whose length a normal
        latent keeps (White 2016, Sampling generative networks). The noise of a style model is that of the first seed.
        """
        ends = [self.model.latents(1, seed=seed) for seed in seeds]
        shares = torch.linspace(0, 1, steps, device=self.device)[:, None]
        wanted = self._condition([asked.of(0)], asked)
        with torch.inference_mode():
            if isinstance(self.model, Style):
                one, other = (self.model.map(end, wanted, truncation=truncation) for end in ends)
                ways = one + (other - one) * shares
                styles = ways[:, None, :].expand(-1, self.model.layers, -1)
                return from_styles(self.model, styles, seed=seeds[0])
            ways = spherical(ends[0], ends[1], shares)
            drawn = [self.model.draw(way[None], wanted, truncation=truncation) for way in ways]
        return as_bytes(torch.cat(drawn))

    def mixed(self, seeds: tuple[int, int], *, asked: Asked, truncation: float = 1.0) -> Pixels:
        """Image 0 of both seeds crossed: the first's styles in the coarsest layers, the other's in the finer ones.

        From all layers of the first down to none; style models only.
        """
        assert isinstance(self.model, Style), "only styles can be mixed"
        wanted = self._condition([asked.of(0)], asked)
        with torch.inference_mode():
            ends = (self.model.latents(1, seed=seed) for seed in seeds)
            one, other = (self.model.map(end, wanted, truncation=truncation) for end in ends)
            kept = range(self.model.layers, -1, -1)
            crossed = torch.cat([self.model.mixed(one, other, crossover=layer) for layer in kept])
            return from_styles(self.model, crossed, seed=seeds[0])

    def reconstruct(self, pixels: Pixels, asked: Sequence[str] | None = None) -> Pixels:
        """What a VAE makes of images (N, C, S, S) from their mean latents."""
        with torch.inference_mode():
            made = [as_bytes(self._vae.reconstruct(part, wanted)) for part, wanted in self._parts(pixels, asked)]
        return np.concatenate(made)

    def encode(self, pixels: Pixels, asked: Sequence[str] | None = None) -> Latents:
        """The mean latents of a VAE, float32 (N, latent_size)."""
        with torch.inference_mode():
            means = [self._vae.encode(part, wanted)[0] for part, wanted in self._parts(pixels, asked)]
        return torch.cat(means).float().cpu().numpy()

    def score(self, pixels: Pixels, asked: Asked) -> ImageScores:
        """Scores of images (N, C, S, S).

        A conditional model scores them under every label or text of `asked`; an image keeps the one under which its
        ELBO, or logit, is highest, and that label is named.
        """
        choices = list(dict.fromkeys(asked.of(place) for place in range(len(asked.texts or asked.labels or [None]))))
        tried = [self._scored(pixels, None if choice is None else [choice] * len(pixels)) for choice in choices]
        deciding = np.stack([next(iter(one.values())) for one in tried])
        best = deciding.argmax(axis=0)
        rows = np.arange(len(pixels))
        columns = {name: np.stack([one[name] for one in tried])[best, rows] for name in tried[0]}
        names = None if choices == [None] else [cast(str, choices[each]) for each in best]
        return ImageScores(columns, names)

    def _scored(self, pixels: Pixels, asked: list[str] | None) -> dict[str, NDArray[np.float64]]:
        """The score that decides comes first."""
        if isinstance(self.model, Gan | Style):
            # One at a time: a discriminator looks at the spread of its batch, and a score is to be of one image.
            with torch.inference_mode():
                parts = self._parts(pixels, asked, at_a_time=1)
                logits = [self.model.discriminator(part, wanted) for part, wanted in parts]
            return {"logit": torch.cat(logits).double().cpu().numpy()}
        wanted = self._condition(asked, self._given(asked)) if asked else None
        found = measure_likelihood(self._vae, pixels, wanted, seed=0)
        bits = {"bits_per_dimension": bits_per_dimension(found.elbo, dimensions=int(np.prod(pixels.shape[1:])))}
        return {
            "elbo": found.elbo,
            **(bits if found.is_bound else {}),
            "reconstruction_error": found.squared_error,
        }

    @property
    def _vae(self) -> Vae:
        assert isinstance(self.model, Vae), "only a VAE has an encoder"
        return self.model

    def _parts(
        self, pixels: Pixels, asked: Sequence[str] | None, *, at_a_time: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """Batches of images in [0, 1], with what is asked of each."""
        step = at_a_time or self.images_at_a_time
        given = self._given(asked) if asked else Asked()
        for begin in range(0, len(pixels), step):
            part = torch.from_numpy(np.ascontiguousarray(pixels[begin : begin + step])).to(self.device)
            wanted = self._condition([given.of(begin + row) for row in range(len(part))], given)
            yield part.float() / (LEVELS - 1), wanted

    def _given(self, asked: Sequence[str]) -> Asked:
        """Names as the model takes them: its labels, or texts."""
        by_text = self.settings.image.condition == "caption"
        return Asked(texts=list(asked)) if by_text else Asked(labels=list(asked))

    def _condition(self, asked: Sequence[str | None], given: Asked) -> torch.Tensor | None:
        """None, class numbers (N,), or embedded texts (N, condition_size)."""
        names = [name for name in asked if name is not None]
        if not names:
            return None
        if given.texts is None:
            return torch.tensor([self.settings.labels.index(name) for name in names], device=self.device)
        # All at once, because the encoder is loaded for them.
        if new := [text for text in dict.fromkeys(given.texts) if text not in self._embedded]:
            rows = embed_texts(new, encoder_name=self.settings.image.text_encoder, base=self.base)
            self._embedded |= dict(zip(new, torch.as_tensor(rows, device=self.device), strict=True))
        return torch.stack([self._embedded[name] for name in names])


def from_styles(model: Style, styles: torch.Tensor, *, seed: int) -> Pixels:
    """Images of a w for every layer (N, layers, L), one at a time and with the same noise for all."""
    return as_bytes(torch.cat([model.draw_from_styles(one[None], noise_seed=seed) for one in styles]))


def spherical(one: torch.Tensor, other: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """(steps, D) points between two vectors (1, D), along the great circle and with lengths in between."""
    cosine = torch.nn.functional.cosine_similarity(one, other).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if torch.sin(angle).abs() < 1e-4:
        return one + (other - one) * shares  # they point the same way, or exactly apart: no great circle is between
    return (torch.sin((1 - shares) * angle) * one + torch.sin(shares * angle) * other) / torch.sin(angle)


def as_bytes(pixels: torch.Tensor) -> Pixels:
    """Images in [0, 1] as the nearest of 256 levels."""
    levels = (pixels.float().clamp(0, 1) * (LEVELS - 1)).round()
    return cast(Pixels, levels.to(torch.uint8).cpu().numpy())
