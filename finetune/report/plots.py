"""Plots as inline SVG: small, the same for the same numbers, coloured by the style of the page.

Every plot stands beside the numbers it draws; what has no numbers beside it says them in its label for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from finetune.report.page import Markup, tag
from finetune.report.sentences import number
from finetune.report.strings import Words
from finetune.run_files import Reliability, Score
from finetune.scores.text_metrics import LOSS_METRICS, TEXT_METRICS

WIDTH, HEIGHT = 420, 236
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 26, 34
MOST_POINTS = 160  # of a line; more are averaged, so that a long run has a small page
STRIP_WIDTH, STRIP_HEIGHT = 190, 26
# A tenth of what a score can reach fills the plot at most: a wobble of a hundredth must not look like a cliff.
LEAST_SPAN = 0.1
STEPS = (1.0, 2.0, 5.0, 10.0)

Point = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """From numbers low..high to places first..last on the drawing; a number outside is drawn at the edge."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.first + min(max(share, 0.0), 1.0) * (self.last - self.first), 1)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that enclose low..high, a step of 1, 2 or 5 apart."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):  # one number: no scale of its own
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in STEPS if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


@dataclass(frozen=True)
class Line:
    """A named line of a plot; `dots` marks its points."""

    name: str
    points: Sequence[Point]
    style: str
    dots: bool = False


def history_plots(history: Sequence[Mapping[str, Any]], *, metric: str, best_epoch: float | None, words: Words) -> list[
    Markup
]:  # fmt: skip
    """Loss of training and validation, and the selection metric, over the epochs; nothing for an empty history.

    Where the loss chose the epoch of a text generator, BLEU stands beside it.
    """
    figures = []
    training, validation = points_of(history, "loss"), points_of(history, "eval_loss")
    if training or validation:
        lines = [
            Line(words("plot.training"), thinned(training), "orange thin"),
            Line(words("plot.validation"), thinned(validation), "blue", dots=True),
        ]
        figures.append(line_plot(words("plot.loss"), lines, mark=best_epoch, words=words))
    shown, title = (metric, "plot.metric") if metric != "loss" else ("bleu", "plot.beside")
    if scores := points_of(history, f"eval_{shown}"):
        line = Line(words("plot.validation"), thinned(scores), "blue", dots=True)
        figures.append(
            line_plot(
                words(title, metric=shown), [line], mark=best_epoch, words=words, metric=shown,
                least_span=_least_span(shown),
            )
        )  # fmt: skip
    return figures


def _least_span(metric: str) -> float:
    """A tenth of what the score can reach; nothing for one without end, such as a perplexity."""
    found = (TEXT_METRICS | LOSS_METRICS).get(metric)
    if found is None:
        return LEAST_SPAN
    return LEAST_SPAN * found.highest if math.isfinite(found.highest) else 0.0


def line_plot(
    title: str,
    lines: Sequence[Line],
    *,
    mark: float | None,
    words: Words,
    metric: str | None = None,
    least_span: float = 0.0,
    across: str = "plot.epoch",
) -> Markup:
    """Lines over epochs, or what `across` names, with a legend.

    `mark` is the epoch of the best model, `metric` what y is, `least_span` the least height of y.
    """
    lines = [line for line in lines if line.points]
    xs = [x for line in lines for x, _ in line.points]
    up = [y for line in lines for _, y in line.points]
    columns, rows = ticks(0.0, max(xs)), ticks(*_widened(min(up), max(up), least=least_span))
    x = Scale(0.0, max(xs), LEFT, WIDTH - RIGHT)
    y = Scale(rows[0], rows[-1], HEIGHT - BOTTOM, TOP)
    drawn: list[Markup] = [*_frame(x, y, columns=[c for c in columns if c <= max(xs)], rows=rows)]
    drawn.append(_text(words(across), WIDTH - RIGHT, HEIGHT - 4, anchor="end"))
    if mark is not None:
        place = x.at(mark)
        anchor = "end" if place > WIDTH * 0.7 else "start"
        drawn.append(tag("line", class_="mark", x1=place, x2=place, y1=TOP, y2=HEIGHT - BOTTOM))
        beside = place + (4 if anchor == "start" else -4)
        drawn.append(_text(words("plot.best", epoch=f"{mark:g}"), beside, TOP + 8, anchor=anchor, class_="strong"))
    for line in lines:
        drawn += _line(line, x, y)
    drawn += _legend(lines)
    ends = [(line.name, number(line.points[0][1], metric), number(line.points[-1][1], metric)) for line in lines]
    spoken = "; ".join(f"{name}: {first} → {last}" for name, first, last in ends)
    return _figure(title, drawn, width=WIDTH, height=HEIGHT, label=f"{title}. {spoken}")


def reliability_plot(before: Reliability | None, after: Reliability | None, *, words: Words) -> Markup:
    """Share that is right over confidence; on the diagonal the model is as sure as it is right."""
    side = 300
    x, y = Scale(0, 1, LEFT, side - RIGHT), Scale(0, 1, side - BOTTOM, TOP)
    marks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    drawn = [*_frame(x, y, columns=marks, rows=marks)]
    drawn.append(tag("line", class_="axis dash", x1=x.at(0), y1=y.at(0), x2=x.at(1), y2=y.at(1)))
    drawn.append(_text(words("plot.confidence"), side - RIGHT, side - 4, anchor="end"))
    drawn.append(_text(words("plot.share_right"), LEFT, 12))
    told = []
    for name, reliability, style in (("before", before, "orange"), ("after", after, "blue")):
        if reliability is None:
            continue
        filled = [each for each in reliability.bins if each.confidence is not None and each.accuracy is not None]
        points = [(each.confidence or 0.0, each.accuracy or 0.0) for each in filled]
        most = max((each.documents for each in filled), default=1)
        drawn.append(_path(points, x, y, f"{style} thin" + (" dash" if style == "orange" else "")))
        for each, (confidence, accuracy) in zip(filled, points, strict=True):
            radius = round(2.0 + 5.0 * math.sqrt(each.documents / most), 1)
            shape = "dot open" if style == "orange" else "dot"
            drawn.append(tag("circle", class_=shape, cx=x.at(confidence), cy=y.at(accuracy), r=radius))
        told.append(f"{words(f'calibration.{name}')}: ECE {number(reliability.ece)}")
    title = words("plot.reliability")
    return _figure(
        words("plot.reliability_caption"), drawn, width=side, height=side, label=f"{title}. {'; '.join(told)}"
    )


def strip_scale(scores: Sequence[Score], *, others: Sequence[float] = ()) -> Scale | None:
    """One scale for the intervals of several scores; None when there is nothing to draw."""
    values = [v for score in scores for v in (score.value, score.low, score.high) if v is not None]
    if not values:
        return None
    values += others
    ends = ticks(min(values), max(values), most=4)
    return Scale(ends[0], ends[-1], 9, STRIP_WIDTH - 9)


def strip(
    score: Score, scale: Scale, *, style: str, reference: float | None = None, dots: Sequence[float] = ()
) -> Markup:
    """One score as a dot with its interval as a line; the numbers stand beside it.

    `reference` is drawn upright, `dots` are small: the values behind a mean.
    """
    if score.value is None:
        return tag("span")
    middle = STRIP_HEIGHT / 2
    drawn = [tag("line", class_="grid", x1=scale.first, x2=scale.last, y1=middle, y2=middle)]
    if reference is not None:
        place = scale.at(reference)
        drawn.append(tag("line", class_="mark", x1=place, x2=place, y1=0, y2=STRIP_HEIGHT))
    if score.low is not None and score.high is not None:
        ends = [scale.at(score.low), scale.at(score.high)]
        shape = f"line {style}" + (" dash" if score.coverage is not None else "")
        drawn.append(tag("line", class_=shape, x1=ends[0], x2=ends[1], y1=middle, y2=middle))
        drawn += [
            tag("line", class_=f"line {style}", x1=end, x2=end, y1=middle - 4, y2=middle + 4) for end in ends
        ]  # fmt: skip
    drawn += [tag("circle", class_=f"dot faint {style}", cx=scale.at(dot), cy=middle, r=3) for dot in dots]
    drawn.append(tag("circle", class_=f"dot {style}", cx=scale.at(score.value), cy=middle, r=4.5))
    return _strip_svg(drawn, STRIP_HEIGHT)


def strip_axis(scale: Scale) -> Markup:
    """The numbers above a column of strips: round ones inside the scale, or its ends."""
    marks = [mark for mark in ticks(scale.low, scale.high, most=4) if scale.low <= mark <= scale.high]
    marks = marks if len(marks) > 1 else [scale.low, scale.high]
    shown = marks if len(marks) <= 5 else [marks[0], marks[len(marks) // 2], marks[-1]]
    return _strip_svg([_text(_tick(mark), scale.at(mark), 11, anchor="middle") for mark in shown], 14)


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS points, each the mean of its neighbours; the last is kept as it is."""
    if len(points) <= MOST_POINTS:
        return list(points)
    edges = [round(index * len(points) / MOST_POINTS) for index in range(MOST_POINTS + 1)]
    runs = [points[first:last] for first, last in pairwise(edges)]
    means = [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]
    return [*means[:-1], points[-1]]


def share_bar(share: float) -> Markup:
    """A share of 1 as a bar; the number stands beside it."""
    middle, width = STRIP_HEIGHT / 2, round(max(share, 0.0) * STRIP_WIDTH, 1)
    return _strip_svg([tag("rect", class_="bar", x=0, y=middle - 5, width=width, height=10, rx=2)], STRIP_HEIGHT)


def points_of(history: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """(epoch, value) of every row that has a finite one."""
    rows = [(row.get("epoch"), row.get(name)) for row in history]
    return [(float(x), float(y)) for x, y in rows if x is not None and y is not None and math.isfinite(y)]


def _widened(low: float, high: float, *, least: float) -> Point:
    """low..high, or a span of `least` around them; what is never below 0 has no room there."""
    more = max(least - (high - low), 0.0)
    below = min(more / 2, low) if low >= 0 else more / 2
    return low - below, high + more - below


def _frame(x: Scale, y: Scale, *, columns: Sequence[float], rows: Sequence[float]) -> list[Markup]:
    drawn = []
    for row in rows:
        drawn.append(tag("line", class_="grid", x1=x.first, x2=x.last, y1=y.at(row), y2=y.at(row)))
        drawn.append(_text(_tick(row), x.first - 6, y.at(row) + 4, anchor="end"))
    drawn.append(tag("line", class_="axis", x1=x.first, x2=x.last, y1=y.first, y2=y.first))
    drawn += [_text(_tick(column), x.at(column), y.first + 15, anchor="middle") for column in columns]
    return drawn


def _line(line: Line, x: Scale, y: Scale) -> list[Markup]:
    colour = line.style.split()[0]
    dots = [
        tag("circle", class_=f"dot {colour}", cx=x.at(across), cy=y.at(up), r=3.5 if len(line.points) < 40 else 2)
        for across, up in (line.points if line.dots else line.points[:1] if len(line.points) == 1 else [])
    ]
    return [_path(line.points, x, y, line.style), *dots]


def _path(points: Sequence[Point], x: Scale, y: Scale, style: str) -> Markup:
    places = " ".join(f"{x.at(across):g},{y.at(up):g}" for across, up in points)
    return tag("polyline", class_=f"line {style}", points=places)


def _legend(lines: Sequence[Line]) -> list[Markup]:
    drawn, place = [], float(LEFT)
    for line in lines:
        drawn.append(tag("line", class_=f"line {line.style}", x1=place, x2=place + 18, y1=8, y2=8))
        if line.dots:
            drawn.append(tag("circle", class_=f"dot {line.style.split()[0]}", cx=place + 9, cy=8, r=3.5))
        drawn.append(_text(line.name, place + 24, 12))
        place += 50 + sum(11 if ord(letter) > 0x2E80 else 6 for letter in line.name)
    return drawn


def _text(text: str, x: float, y: float, *, anchor: str = "start", class_: str | None = None) -> Markup:
    return tag("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=class_)


def _tick(value: float) -> str:
    return f"{value:g}"


def _figure(title: str, drawn: Sequence[Markup], *, width: int, height: int, label: str) -> Markup:
    """A drawing with its caption; `label` is what a screen reader says of it."""
    svg = tag("svg", drawn, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)
    return tag("figure", svg, tag("figcaption", title), class_="square" if width == height else None)


def _strip_svg(drawn: Sequence[Markup], height: int) -> Markup:
    box = f"0 0 {STRIP_WIDTH} {height}"
    return tag("svg", drawn, viewBox=box, width=STRIP_WIDTH, height=height, aria_hidden="true")
