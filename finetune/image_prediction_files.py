"""Images in; scores, latents and reconstructions out. Rows keep the order of the input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.data.image_files import read_new_images
from finetune.errors import DataError, Problem
from finetune.image_grid import Pixels, png, save_grid, write_bytes
from finetune.image_predictor import ImagePredictor, ImageScores, Latents
from finetune.image_requests import RECONSTRUCTIONS_RECORD, model_name
from finetune.image_samples import slug
from finetune.output_folder import written_folder
from finetune.prediction_files import Row, write_columns
from finetune.progress import Progress
from finetune.recipe_image import ImageData
from finetune.runs import disk_faults, write_json, write_json_lines

DECIMALS = 6
MOST_IN_A_GRID = 64
PAIRS_ACROSS = 4  # an original and its reconstruction side by side


@dataclass(frozen=True)
class Looked:
    """What the model says of given images; latents and reconstructions are a VAE's."""

    names: Sequence[str]
    pixels: Pixels
    scores: ImageScores
    latents: Latents | None
    condition: str

    def rows(self) -> list[Row]:
        """One an image: its name, the label or caption it was scored under, and its scores."""
        rows: list[Row] = [{"image": name} for name in self.names]
        for place, row in enumerate(rows):
            if self.scores.asked is not None:
                row[self.condition] = self.scores.asked[place]
            row |= {name: round(float(values[place]), DECIMALS) for name, values in self.scores.columns.items()}
        return rows


def predict_images(
    target: Path, path: Path, *, output: Path | None, label: str | None, caption: str | None, progress: Progress
) -> Path | list[Row]:
    """Score the images of a file, a folder or an archive; returns rows, or writes `output`: a table, or of a VAE a
    folder of originals and reconstructions.

    A table of a VAE holds the latents too. The caller has asked `check_looking`. Raises DataError for what is no image.
    """
    predictor = ImagePredictor.load(target)
    image = predictor.settings.image
    with input_words():
        pixels, names = read_new_images(
            path,
            size=image.size,
            channels=image.channel_count,
            resize=image.resize,
            most_pixels=ImageData.model_fields["most_pixels"].default,
            say=progress.say,
        )
    asked = predictor.asked([label] if label else (), [caption] if caption else ())
    progress.say(f"scoring {len(names):,} images")
    scores = predictor.score(pixels, asked)
    latents = predictor.encode(pixels, scores.asked) if predictor.settings.kind == "vae" and output else None
    looked = Looked(names, pixels, scores, latents, image.condition)
    if output is None:
        return looked.rows()
    if output.suffix:
        with disk_faults(output):
            _write_table(output, looked)
    else:
        _write_folder(output, looked, predictor.reconstruct(pixels, scores.asked), target=target)
    return output


@contextlib.contextmanager
def input_words() -> Iterator[None]:
    """In a DataError the option of the command line, in place of the recipe's key."""
    try:
        yield
    except DataError as error:
        raise DataError.of(
            [Problem(one.where.replace("data.source", "--input"), one.what, one.do) for one in error.problems]
        ) from error


def _write_table(output: Path, looked: Looked) -> None:
    rows, latents = looked.rows(), looked.latents
    if output.suffix == ".jsonl":
        more = (
            [{"latent": [round(float(x), DECIMALS) for x in row]} for row in latents]
            if latents is not None
            else [{}] * len(rows)
        )
        write_json_lines(output, [{**row, **each} for row, each in zip(rows, more, strict=True)])
        return
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
    if latents is not None:
        rounded = latents.astype(float).round(DECIMALS)
        columns |= {f"latent_{number}": rounded[:, number].tolist() for number in range(latents.shape[1])}
    write_columns(output, columns)


def _write_folder(output: Path, looked: Looked, made: Pixels, *, target: Path) -> None:
    """`0001-NAME-original.png` beside `0001-NAME-reconstruction.png`, a grid of such pairs, and the scores."""
    with written_folder(output, record=RECONSTRUCTIONS_RECORD) as staging:
        rows = looked.rows()
        for place, (row, original, again) in enumerate(zip(rows, looked.pixels, made, strict=True), start=1):
            stem = f"{place:04d}-{slug(Path(row['image']).stem)}"
            row |= {"original": f"{stem}-original.png", "reconstruction": f"{stem}-reconstruction.png"}
            write_bytes(staging / row["original"], png(original))
            write_bytes(staging / row["reconstruction"], png(again))
        pairs = np.stack([looked.pixels, made], axis=1).reshape(-1, *made.shape[1:])
        save_grid(staging / "grid.png", pairs[: 2 * MOST_IN_A_GRID], columns=2 * PAIRS_ACROSS)
        record = {"kind": "reconstructions", "generated": True, "run": model_name(target), "images": rows}
        write_json(staging / RECONSTRUCTIONS_RECORD, record)
