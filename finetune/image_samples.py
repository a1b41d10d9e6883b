"""What `sample` writes: drawn images as single PNG files and as a grid, and a record of how each of them came about."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.image_grid import Pixels, png, save_grid, write_bytes
from finetune.image_predictor import Asked, ImagePredictor
from finetune.image_requests import SAMPLES_RECORD, SampleRequest, model_name
from finetune.image_settings import ImageSettings
from finetune.output_folder import written_folder
from finetune.progress import Progress
from finetune.runs import Json, write_json
from finetune.saved_models import saved_model

GRID = "grid.png"
SLUG_CHARACTERS = 40


@dataclass(frozen=True)
class SampleFolder:
    """What was written: the folder, its files in the order of the images, and the record."""

    folder: Path
    files: list[Path]
    grid: Path
    record: Json


def write_samples(target: Path, request: SampleRequest, folder: Path, *, progress: Progress) -> SampleFolder:
    """Draw, and write every image, grid.png and samples.json into a folder of their own, as a whole.

    The caller has asked `check_request` and `check_output_folder`.
    """
    predictor = ImagePredictor.load(target)
    asked = predictor.asked(request.labels, request.prompts)
    pixels = _drawn(predictor, request, asked, progress)
    stems = [_stem(request, place, len(pixels)) + _suffix(asked, request, place) for place in range(len(pixels))]
    names = [f"{stem}.png" for stem in stems]
    record = _record(target, predictor.settings, request, asked, names)
    with written_folder(folder, record=SAMPLES_RECORD) as staging:
        for name, image in zip(names, pixels, strict=True):
            write_bytes(staging / name, png(image))
        save_grid(staging / GRID, pixels, columns=len(pixels) if request.way != "draw" else None)
        write_json(staging / SAMPLES_RECORD, record)
    return SampleFolder(folder, [folder / name for name in names], folder / GRID, record)


def slug(text: str) -> str:
    """A label or a text as a part of a file name."""
    return re.sub(r"[^\w]+", "-", text).strip("-_")[:SLUG_CHARACTERS].strip("-") or "unnamed"


def _drawn(predictor: ImagePredictor, request: SampleRequest, asked: Asked, progress: Progress) -> Pixels:
    if request.way == "draw":
        with progress.bar(total=request.count, desc="drawing", unit="image") as bar:
            return predictor.draw(
                request.count, seed=request.seeds[0], asked=asked, truncation=request.truncation, on_images=bar.update
            )
    pair = (request.seeds[0], request.seeds[1])
    if request.way == "mix":
        return predictor.mixed(pair, asked=asked, truncation=request.truncation)
    return predictor.between(pair, steps=request.count, asked=asked, truncation=request.truncation)


def _stem(request: SampleRequest, place: int, count: int) -> str:
    """`seed0-0007`, `seed3-to-seed4-02of08`, or `seed3-below-seed4-05`, which has five coarse layers of seed 3."""
    if request.way == "draw":
        return f"seed{request.seeds[0]}-{place:04d}"
    one, other = request.seeds
    if request.way == "interpolate":
        return f"seed{one}-to-seed{other}-{place + 1:02d}of{count:02d}"
    return f"seed{one}-below-seed{other}-{count - 1 - place:02d}"


def _suffix(asked: Asked, request: SampleRequest, place: int) -> str:
    """`-label-3`, or what was asked in words."""
    shown = place if request.way == "draw" else 0
    if asked.labels is not None:
        return f"-label-{slug(asked.labels[shown % len(asked.labels)])}"
    return f"-{slug(asked.texts[shown % len(asked.texts)])}" if asked.texts is not None else ""


def _record(target: Path, settings: ImageSettings, request: SampleRequest, asked: Asked, names: Sequence[str]) -> Json:
    rows = []
    for place, name in enumerate(names):
        shown = place if request.way == "draw" else 0
        row: Json = {"file": name}
        if request.way == "draw":
            row["number"] = place
        if asked.labels is not None:
            row["label"] = asked.labels[shown % len(asked.labels)]
        if asked.texts is not None:
            row["prompt"] = asked.texts[shown % len(asked.texts)]
        rows.append(row)
    return {
        "kind": "samples",
        "generated": True,
        "run": model_name(target),
        "model": settings.kind,
        "weights_sha256": weights_of(target),
        "way": request.way,
        "seeds": list(request.seeds),
        "truncation": request.truncation,
        "images": rows,
    }


def weights_of(target: Path) -> str | None:
    """sha256 of the weights, as the run wrote it down; None of a model outside a run."""
    model = saved_model(target)
    try:
        scores = json.loads((model.parent / "scores.json").read_text(encoding="utf-8"))
        return str(scores["weights"][model.name])
    except (OSError, ValueError, KeyError, TypeError):
        return None
