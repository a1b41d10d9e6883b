"""Figures of an image run: the drawn images nearest to training images, what lies between two, and reconstructions.

They are of the model as it was saved, and say what no score does: whether it draws its training images again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from finetune.data.image_prepare import PreparedImages
from finetune.image_grid import Pixels, save_grid
from finetune.image_predictor import Asked, ImagePredictor
from finetune.run_files import Neighbours, ShownNeighbour
from finetune.runs import Run, write_json
from finetune.scores.images import nearest_real

MOST_COMPARED = 1000  # drawn images, and real ones
SHOWN_NEIGHBOURS = 16
NEAR_SHARE = 0.05  # of the real images, by which "near" is measured
WAYS, STEPS = 6, 10  # rows and columns of the interpolation
SHOWN_RECONSTRUCTIONS = 32
PAIRS_ACROSS = 4


def draw_image_figures(
    run: Run, predictor: ImagePredictor, prepared: PreparedImages, *, split: str, seed: int
) -> Neighbours | None:
    """Write nearest.png, nearest.json, interpolation.png and, of a VAE, reconstructions.png into figures/.

    `split` are the real images that stand beside: test, or validation where test is closed. None of a model that draws
    from texts of its own alone, of which nothing is drawn without one.
    """
    settings = predictor.settings
    if settings.image.condition == "caption" and not settings.askable:
        return None
    asked = predictor.asked()
    found = nearest_images(run, predictor, prepared, split=split, seed=seed, asked=asked)
    ways = [predictor.between((seed + 2 * way, seed + 2 * way + 1), steps=STEPS, asked=_only(asked, way))
            for way in range(WAYS)]  # fmt: skip
    save_grid(run.figures / "interpolation.png", np.concatenate(ways), columns=STEPS)
    if settings.kind == "vae":
        _draw_reconstructions(run, predictor, prepared, split=split)
    return found


def nearest_images(
    run: Run, predictor: ImagePredictor, prepared: PreparedImages, *, split: str, seed: int, asked: Asked
) -> Neighbours:
    """How near drawn and real images are to the training images; the nearest drawn ones become nearest.png."""
    train, real = prepared.splits["train"], prepared.splits[split].pixels[:MOST_COMPARED]
    drawn = predictor.draw(min(MOST_COMPARED, max(len(real), SHOWN_NEIGHBOURS)), seed=seed, asked=asked)
    distances, places = nearest_real(drawn, train.pixels)
    usual, _ = nearest_real(np.asarray(real), train.pixels)
    near = float(np.quantile(usual, NEAR_SHARE))
    order = np.argsort(distances, kind="stable")[:SHOWN_NEIGHBOURS]
    pairs = np.concatenate([drawn[order], np.asarray(train.pixels[places[order]])])
    save_grid(run.figures / "nearest.png", pairs, columns=len(order))
    found = Neighbours(
        split=split,
        drawn=len(drawn),
        real=len(real),
        training=len(train),
        median_drawn=float(np.median(distances)),
        median_real=float(np.median(usual)),
        near_distance=near,
        near_share=float((distances < near).mean()),
        copies=int((distances == 0).sum()),
        shown=[
            ShownNeighbour(asked=asked.of(place), nearest=train.ids[places[place]], distance=float(distances[place]))
            for place in map(int, order)
        ],
    )
    write_json(run.figures / "nearest.json", found)
    return found


def _draw_reconstructions(run: Run, predictor: ImagePredictor, prepared: PreparedImages, *, split: str) -> None:
    """Real images, each followed by its reconstruction under its own label."""
    table = prepared.splits[split]
    pixels = np.asarray(table.pixels[:SHOWN_RECONSTRUCTIONS])
    again = predictor.reconstruct(pixels, _labels_of(predictor, table.labels, len(pixels)))
    pairs: Pixels = np.stack([pixels, again], axis=1).reshape(-1, *pixels.shape[1:])
    save_grid(run.figures / "reconstructions.png", pairs, columns=2 * PAIRS_ACROSS)


def _labels_of(predictor: ImagePredictor, labels: NDArray[np.int64] | None, count: int) -> list[str] | None:
    """What the first images are asked by: names of labels, or their captions."""
    settings = predictor.settings
    if settings.image.condition == "none" or labels is None:
        return None
    names = [settings.labels[number] for number in labels[:count]]
    return names if settings.image.condition == "label" else [settings.image.caption(name) for name in names]


def _only(asked: Asked, place: int) -> Asked:
    """What image `place` was asked for, for every image of a way."""
    labels, texts = ([each[place % len(each)]] if each else None for each in (asked.labels, asked.texts))
    return Asked(labels=labels, texts=texts)
