"""What distances between images are measured in: pixels, the hidden layer of a judge, or Inception's last pool.

A distance means nothing without the name of its features, so whatever computes them says what it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finetune.errors import EnvironmentFault, RecipeError
from finetune.image.judges import FEATURES, Judge
from finetune.scores.images import thumbnails

# The weights behind every published FID: Inception of 2015-12-05, converted from TensorFlow by torch-fidelity.
INCEPTION_SHA256 = "6726825d"  # begins with
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_LAYER, INCEPTION_FEATURES = "2048", 2048
INCEPTION_IMAGES_AT_ONCE = 32

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageFeatures:
    """uint8 images (N, C, S, S) -> (N, size) float32. `description` says in a few words what the numbers are."""

    name: str
    size: int
    description: str
    compute: Callable[[Pixels], Floats]

    def __call__(self, pixels: Pixels) -> Floats:
        found = self.compute(pixels)
        assert found.shape == (len(pixels), self.size), f"{self.name} gave {found.shape}"
        return found


def pixel_features(*, channels: int, side: int) -> ImageFeatures:
    """The pixels themselves, 0..1; images above 32 pixels a side are averaged down first."""
    small = thumbnails(np.zeros((1, channels, side, side), dtype=np.uint8)).shape[-1]
    size = channels * small**2
    reduced = f", averaged down from {side}x{side}" if small < side else ""
    return ImageFeatures(
        name="pixels",
        size=size,
        description=f"{size:,} pixels{reduced}",
        compute=lambda pixels: thumbnails(pixels).reshape(len(pixels), size),
    )


def judge_features(judge: Judge, scale_by: Pixels) -> ImageFeatures:
    """The last hidden layer of a judge, divided by one number: the root mean square it has on `scale_by`.

    A network may scale a hidden layer as it likes and undo that in the next; the division makes values of two judges
    comparable in size. They are still features of one judge: only values of one run stand beside each other.
    """
    root_mean_square = float(np.sqrt(np.square(judge.features(scale_by), dtype=np.float64).mean())) or 1.0
    return ImageFeatures(
        name="classifier",
        size=FEATURES,
        description=f"{FEATURES} features of a small classifier trained on {judge.trained_on:,} real images",
        compute=lambda pixels: (judge.features(pixels) / root_mean_square).astype(np.float32),
    )


def inception_features(weights: str | None, *, base: Path, where: str, use_cpu: bool = False) -> ImageFeatures:
    """The 2,048 numbers of Inception's last pool, from the standard weights: what `fid` and `kid` are measured in.

    `weights` is the file, relative to `base`; None takes the one in torch's cache, and downloads it where it is not
    there. Grey images become three equal channels; the network enlarges images to 299 pixels as TensorFlow 1 does.
    Raises EnvironmentFault without the extra `fid` or the download, RecipeError (at `where`) for a file that is not
    there or has other contents.
    """
    extractor = _extractor_class()
    path = _checked(base / Path(weights).expanduser(), where=where) if weights else _cached(where=where)
    device = torch.device("cuda" if torch.cuda.is_available() and not use_cpu else "cpu")
    network = extractor("inception-v3-compat", [INCEPTION_LAYER], feature_extractor_weights_path=str(path))
    network = network.to(device).eval()

    def compute(pixels: Pixels) -> Floats:
        colour = np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:])) if pixels.shape[1] == 1 else pixels
        found = []
        for start in range(0, len(pixels), INCEPTION_IMAGES_AT_ONCE):
            part = torch.from_numpy(np.array(colour[start : start + INCEPTION_IMAGES_AT_ONCE])).to(device)
            with torch.inference_mode():
                found.append(network(part)[0].float().cpu().numpy())
        return np.concatenate(found)

    return ImageFeatures(
        name="inception",
        size=INCEPTION_FEATURES,
        description=f"Inception 2015-12-05 ({INCEPTION_SHA256}), torch-fidelity {_version()}, resized there to 299x299",
        compute=compute,
    )


def _extractor_class() -> Any:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, OSError, RuntimeError) as error:
        # A torchvision built for another torch fails with errors of the last two kinds.
        raise EnvironmentFault(
            "evaluation.features",
            f"inception needs torch-fidelity, which cannot be imported ({type(error).__name__})",
            "Install it: pip install 'finetune[fid]'. Or use features: classifier and kernel_distance.",
        ) from error
    return FeatureExtractorInceptionV3


def _version() -> str:
    import torch_fidelity

    return str(torch_fidelity.__version__)


def _cached(*, where: str) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written under another name first, and renamed when its sha256 is right.
            torch.hub.download_url_to_file(INCEPTION_ADDRESS, str(path), hash_prefix=INCEPTION_SHA256, progress=False)
        except (OSError, RuntimeError) as error:
            raise EnvironmentFault(
                where,
                f"the Inception weights cannot be downloaded ({type(error).__name__})",
                f"Fetch {INCEPTION_ADDRESS} and name the file in evaluation.inception; or use features: classifier.",
            ) from error
    return _checked(path, where=where)


def _checked(path: Path, *, where: str) -> Path:
    """Only the standard weights make an FID; a pickle of any other contents is not even opened."""
    if not path.is_file():
        raise RecipeError(where, f"no file {path}", f"It is {INCEPTION_FILE} of torch-fidelity; null downloads it.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(INCEPTION_SHA256):
        what = f"{path} has sha256 {found[:8]}..., and the 2015-12-05 weights have {INCEPTION_SHA256}..."
        raise RecipeError(where, what, f"A score by other weights is no fid. Use {INCEPTION_FILE} of torch-fidelity.")
    return path
