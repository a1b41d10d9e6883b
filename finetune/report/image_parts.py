"""What only an image model's page has: grids by epoch, nearest training images, what lies between, and the game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.image_grid import reduced
from finetune.report.page import Child, Markup, joined, picture, tag
from finetune.report.parts import Block, facts, foot, label, share
from finetune.report.plots import Line, line_plot, points_of, thinned
from finetune.report.sentences import number
from finetune.report.story import Grid, Pictures
from finetune.report.strings import Words
from finetune.run_files import Neighbours

MOST_EPOCHS = 6
PICTURE_PIXELS = 768  # across, in the page; the files in the run folder are as they were drawn
SUSPICIOUS_NEAR = 0.15  # three times what new images have
MOST_ASKED = 40


def blocks(pictures: Pictures | None, best_epoch: float | None, words: Words) -> list[Block]:
    """The sections of a run that draws."""
    if pictures is None:
        return []
    between, again = words("interpolation.about"), words("reconstructions.about", split=_split(pictures, words))
    return [
        ("grids", words("grids"), _grids(pictures.grids, best_epoch, words)),
        ("nearest", words("nearest"), _nearest(pictures, words)),
        (
            "reconstructions",
            words("reconstructions"),
            _figure(pictures.reconstructions, "reconstructions", again, words),
        ),
        ("interpolation", words("interpolation"), _figure(pictures.interpolation, "interpolation", between, words)),
    ]


def game_plots(history: Sequence[Mapping[str, Any]], *, best_epoch: float | None, words: Words) -> list[Markup]:
    """Losses of generator and discriminator, and what the latter takes for real; nothing of a model without a game."""
    figures = []
    for title, first, second in (
        ("game", ("generator", "generator_loss"), ("discriminator", "discriminator_loss")),
        ("judged", ("judged_real", "d_real"), ("judged_drawn", "d_drawn")),
    ):
        lines = [
            Line(words(f"plot.{name}"), thinned(points_of(history, key)), style)
            for (name, key), style in ((first, "blue thin"), (second, "orange thin"))
        ]
        if any(line.points for line in lines):
            figures.append(line_plot(words(f"plot.{title}"), lines, mark=best_epoch, words=words, least_span=0.1))
    return figures


def glossary(metrics: Sequence[str], words: Words) -> Markup | None:
    """What the scores of drawn images say, each in a line."""
    found = [(name, words.known("drawn_score", name)) for name in metrics]
    listed = facts([(name, told) for name, told in found if told != name])
    return joined(tag("h3", words("score.about")), listed) if listed else None


def is_suspicious(found: Neighbours) -> bool:
    """Whether drawn images are nearer to training images than new ones would be."""
    return found.near_share > SUSPICIOUS_NEAR or found.copies > 0


def _grids(grids: Sequence[Grid], best_epoch: float | None, words: Words) -> list[Child]:
    """The grid of the chosen epoch first and large, then some of all epochs side by side."""
    if not grids:
        return []
    chosen = next((grid for grid in grids if grid.epoch == best_epoch), grids[-1])
    others = _spread([grid for grid in grids if grid is not chosen], MOST_EPOCHS)
    asked = list(dict.fromkeys(chosen.asked))[:MOST_ASKED]
    hidden = len(grids) - len(others) - 1
    return [
        tag("p", words("grids.about")),
        _shown(chosen.png, words("alt.grid", epoch=f"{chosen.epoch:g}"), _epoch(chosen, best_epoch, words)),
        tag("p", words("grids.asked", asked=words.listed(list(map(label, asked)))), class_="small") if asked else None,
        tag(
            "div",
            [
                _shown(grid.png, words("alt.grid", epoch=f"{grid.epoch:g}"), _epoch(grid, best_epoch, words))
                for grid in others
            ],
            class_="panels",
        )
        if others
        else None,
        foot(words("grids.hidden", shown=len(others) + 1, all=len(grids))) if hidden else None,
    ]


def _spread(grids: Sequence[Grid], most: int) -> list[Grid]:
    """At most so many, evenly spread, with the first and the last."""
    if len(grids) <= most:
        return list(grids)
    return [grids[place] for place in sorted({round(step * (len(grids) - 1) / (most - 1)) for step in range(most)})]


def _epoch(grid: Grid, best_epoch: float | None, words: Words) -> str:
    return words("grids.best" if grid.epoch == best_epoch else "grids.epoch", epoch=f"{grid.epoch:g}")


def _nearest(pictures: Pictures, words: Words) -> list[Child]:
    """Whether it is memorising: the drawn images nearest to training images, and how near real ones are."""
    found = pictures.neighbours
    if pictures.nearest is None or found is None:
        return []
    split = _split(pictures, words)
    key = "nearest.more" if is_suspicious(found) else "nearest.usual"
    numbers = facts(
        [
            (words("nearest.median_drawn", training=f"{found.training:,}"), number(found.median_drawn)),
            (words("nearest.median_real", real=f"{found.real:,}", split=split), number(found.median_real)),
        ]
    )
    return [
        tag("p", words(key, share=share(found.near_share), drawn=f"{found.drawn:,}", split=split)),
        tag("p", words("nearest.copies", n=f"{found.copies:,}")) if found.copies else None,
        _shown(pictures.nearest, words("alt.nearest"), words("nearest.about")),
        numbers,
        foot(words("nearest.distance")),
    ]


def _split(pictures: Pictures, words: Words) -> str:
    """The split of the real images; without neighbours the one that is left, test."""
    return words.known("split", pictures.neighbours.split if pictures.neighbours is not None else "test")


def _figure(png: bytes | None, name: str, about: str, words: Words) -> list[Child]:
    return [_shown(png, words(f"alt.{name}"), about)] if png is not None else []


def _shown(png: bytes, alt: str, caption: str) -> Markup:
    shown = picture(reduced(png, most_pixels=PICTURE_PIXELS), alt=alt)
    return tag("figure", shown, tag("figcaption", caption), class_="picture")
