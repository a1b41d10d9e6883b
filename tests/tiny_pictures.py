"""Small pictures as files, trees, archives and idx files, and an image recipe over them."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.data.image_prepare import PreparedImages, prepare_images
from finetune.progress import SILENT
from finetune.recipe_file import LoadedRecipe, load_recipe

Pixels = NDArray[np.uint8]


def noise(count: int, *, size: int = 8, seed: int = 0, channels: int = 1) -> Pixels:
    """Distinct pictures, (count, size, size) or (count, size, size, 3), that resemble each other in nothing."""
    shape = (count, size, size) if channels == 1 else (count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(picture: Pixels | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def tree(classes: Sequence[str] = ("cat", "dog"), *, each: int = 10, size: int = 8, seed: int = 0) -> dict[str, bytes]:
    """`cat/0.png` and so on: a folder for each class."""
    pictures = iter(noise(len(classes) * each, size=size, seed=seed))
    return {f"{name}/{number}.png": encoded(next(pictures)) for name in classes for number in range(each)}


def below(start: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{start}/{name}": content for name, content in files.items()}


def write_tree(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(
    path: Path, files: Mapping[str, bytes], *, mode: str = "w:gz", more: Sequence[tarfile.TarInfo] = ()
) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more:
            archive.addfile(member)
    return path


def idx_bytes(values: Pixels) -> bytes:
    return b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx(
    folder: Path, images: Pixels, labels: Pixels | None, *, start: str = "train", zipped: bool = True
) -> Path:
    end, pack = (".gz", gzip.compress) if zipped else ("", bytes)
    path = folder / f"{start}-images-idx3-ubyte{end}"
    path.write_bytes(pack(idx_bytes(images)))
    if labels is not None:
        (folder / f"{start}-labels-idx1-ubyte{end}").write_bytes(pack(idx_bytes(labels)))
    return path


def image_recipe_file(folder: Path, source: str, *, data: str = "", image: str = "size: 8") -> LoadedRecipe:
    """A recipe of images; the source is line 3."""
    text = f"task: image-generation\ndata:\n  source: {source}\n{data}image: {{{image}}}\n"
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def prepared(folder: Path, source: str, **options: str) -> PreparedImages:
    return prepare_images(image_recipe_file(folder, source, **options), progress=SILENT)
