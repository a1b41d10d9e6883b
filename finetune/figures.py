"""Pictures of one run: how the loss and the scores went, and which label was taken for which.

matplotlib is imported when the first picture is drawn, and used without pyplot: no window, no state that is shared.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 130
MOST_SCORES_DRAWN = 4
MOST_CLASSES_WITH_COUNTS = 30
MOST_CLASSES_WITH_NAMES = 60
LONGEST_NAME = 24
FIRST_SCORES = ("eval_f1_macro", "eval_accuracy", "eval_f1_weighted", "eval_matthews")
# Scores of written text that share a scale; a perplexity, or a loss, has one of its own.
TEXT_SCALES = (
    ("eval_bleu", "eval_chrf"),
    ("eval_rouge_l", "eval_rouge_1", "eval_rouge_2", "eval_exact_match", "eval_distinct_1", "eval_distinct_2",
     "eval_repetition"),
)  # fmt: skip
# Of drawn images: shares are drawn together, and a distance that chose the epoch by itself, for its scale is its own.
IMAGE_SHARES = (
    "eval_coverage",
    "eval_recall",
    "eval_precision",
    "eval_conditional_accuracy",
    "eval_train_on_synthetic",
)
IMAGE_DISTANCES = ("eval_kernel_distance", "eval_frechet_distance", "eval_kid", "eval_fid")
# Families that draw Chinese well where they are installed; any other font that has the characters will do.
CHINESE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei", "SimHei"),
    *(
        "WenQuanYi Micro Hei",
        "WenQuanYi Zen Hei",
        "Hiragino Sans GB",
        "Heiti SC",
        "Arial Unicode MS",
        "Droid Sans Fallback",
    ),
)


def draw_curves(
    history: Sequence[Mapping[str, float]], path: Path, *, best_epoch: float | None, metric: str | None = None
) -> None:
    """Write a PNG with two panels over the epochs: training and validation loss; validation scores.

    `metric` chose the epoch; of written text only scores on its scale are drawn (with None or a loss, BLEU and chrF).

    `history` holds the rows of history.jsonl: `{"step": 10, "epoch": 0.1, "loss": 1.2}` of a logged step and
    `{"step": 170, "epoch": 1.0, "eval_loss": 0.8, "eval_f1_macro": 0.6}` of an evaluation. Values that are missing,
    null or not finite leave a gap. `best_epoch` is marked in both panels; None where no epoch was chosen.
    """
    figure = _new_figure(width_inches=11, height_inches=4.2)
    losses, scores = figure.subplots(1, 2, sharex=True)
    _draw_losses(losses, history)
    _draw_scores(scores, history, metric)
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="black", linestyle=":", linewidth=1.2, label=f"best epoch ({best_epoch:g})")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, framealpha=0.85)
        else:
            axes.text(0.5, 0.5, "nothing was logged", ha="center", va="center", transform=axes.transAxes, color="grey")
    _save(figure, path)


def draw_confusion(matrix: Sequence[Sequence[int]], label_names: Sequence[str], path: Path) -> None:
    """Write a PNG of a confusion matrix: rows are references, columns predictions, cells counts of documents.

    The colour is the share of the row, so that a rare label is seen as well as a frequent one; a label without
    documents has a grey row. Names are drawn in a font that has their characters; where none is installed, and for
    control characters, the character's number stands instead (`0: \\u4f53\\u80b2`), never an empty box.
    Raises ValueError where the matrix is not square with one row a label.
    """
    if len(matrix) != len(label_names) or any(len(row) != len(label_names) for row in matrix):
        raise ValueError(f"the confusion matrix must have {len(label_names)} rows and columns, one a label")
    fonts = _fonts_for("".join(label_names))
    side_inches = min(max(4.0, 0.42 * len(label_names) + 2.0), 18.0)
    figure = _new_figure(width_inches=side_inches + 1.6, height_inches=side_inches + 0.4)
    axes = figure.subplots()
    shares = [[count / sum(row) if sum(row) else math.nan for count in row] for row in matrix]
    axes.set_facecolor("lightgrey")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04, label="share of the reference label")
    axes.set_xlabel("predicted")
    axes.set_ylabel("reference")
    axes.set_title(f"{sum(map(sum, matrix))} documents", fontsize=10)
    _name_the_ticks(axes, _drawable_names(label_names, fonts), fonts)
    if len(label_names) <= MOST_CLASSES_WITH_COUNTS:
        _write_counts(axes, matrix, shares)
    _save(figure, path)


def _draw_losses(axes: Axes, history: Sequence[Mapping[str, float]]) -> None:
    axes.set_title("loss", fontsize=10)
    axes.set_ylabel("loss")
    for key, name, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        epochs, values = _series(history, key)
        if epochs:
            axes.plot(epochs, values, style, label=name, linewidth=1.4, markersize=4)


def _draw_scores(axes: Axes, history: Sequence[Mapping[str, float]], metric: str | None) -> None:
    names = _on_one_scale(_score_names(history), f"eval_{metric}")
    shown = names[:MOST_SCORES_DRAWN]
    hidden = f" ({len(shown)} of {len(names)})" if len(shown) < len(names) else ""
    axes.set_title(f"validation scores{hidden}", fontsize=10)
    axes.set_ylabel("score")
    for key, marker in zip(shown, "osD^vPX*", strict=False):
        epochs, values = _series(history, key)
        # Later curves are drawn smaller: accuracy and micro F1 are often equal, and the one below must stay visible.
        scale = 1 - shown.index(key) / (2 * MOST_SCORES_DRAWN)
        axes.plot(epochs, values, f"{marker}-", label=key.removeprefix("eval_"), linewidth=1.5, markersize=9 * scale)


def _score_names(history: Sequence[Mapping[str, float]]) -> list[str]:
    """The evaluated scores, the two that everybody looks for first; losses and speeds are no scores."""
    keys = dict.fromkeys(key for row in history for key in row if key.startswith("eval_"))
    no_score = ("loss", "runtime", "_per_second", "_time")
    names = [key for key in keys if not key.endswith(no_score) and any(map(math.isfinite, _series(history, key)[1]))]
    return sorted(names, key=lambda key: FIRST_SCORES.index(key) if key in FIRST_SCORES else len(FIRST_SCORES))


def _on_one_scale(names: list[str], chosen: str) -> list[str]:
    """Of text and images the score that chose the epoch and those drawn on its scale; of labels all, which go to 1."""
    if "eval_kernel_distance" in names or "eval_kid" in names:
        return [chosen] if chosen in IMAGE_DISTANCES else [name for name in IMAGE_SHARES if name in names]
    if not {"eval_perplexity", "eval_chrf"} & set(names):
        return names
    scale = next((scale for scale in TEXT_SCALES if chosen in scale), TEXT_SCALES[0])
    if chosen in names and chosen not in scale:
        return [chosen]
    return [name for name in dict.fromkeys((chosen, *scale)) if name in names] or names[:1]


def _series(history: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """(epochs, values) of one key. A step that was run again after a resume counts once, the later row."""
    value_at = {row["epoch"]: row[key] for row in history if key in row and "epoch" in row}
    epochs = sorted(value_at)
    return epochs, [_number(value_at[epoch]) for epoch in epochs]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _name_the_ticks(axes: Axes, names: Sequence[str], fonts: list[str]) -> None:
    # Beyond this, names would cover each other: every n-th stays, and the eye counts between.
    every = math.ceil(len(names) / MOST_CLASSES_WITH_NAMES)
    positions = range(0, len(names), every)
    shown = [names[position] for position in positions]
    # A label may hold a dollar sign, which matplotlib would read as the begin of a formula.
    style: dict[str, Any] = {"fontfamily": fonts, "fontsize": 9 if len(names) <= 20 else 7, "parse_math": False}
    axes.set_xticks(positions, shown, rotation=45, ha="right", rotation_mode="anchor", **style)
    axes.set_yticks(positions, shown, **style)


def _write_counts(axes: Axes, matrix: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> None:
    size = 9 if len(matrix) <= 12 else 6
    for row, counts in enumerate(matrix):
        for column, count in enumerate(counts):
            colour = "white" if shares[row][column] > 0.55 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=colour)


def _fonts_for(text: str) -> list[str]:
    """Families to draw `text` with: the default first, then as few others as have the characters that it lacks."""
    from matplotlib import font_manager

    default = font_manager.FontProperties().get_name()
    families = [default]
    missing = _visible(text) - _characters_of(default)
    if not missing:
        return families
    preferred = {name: rank for rank, name in enumerate(CHINESE_FONTS)}
    # The "last resort" fonts that come with matplotlib claim every character, and draw each as a box.
    installed = {
        font.name: font.fname for font in font_manager.fontManager.ttflist if not font.name.startswith("Last Resort")
    }
    for name in sorted(installed, key=lambda name: (preferred.get(name, len(preferred)), name)):
        drawn = missing & _characters(installed[name])
        if drawn:
            families.append(name)
            missing -= drawn
        if not missing:
            break
    return families


def _drawable_names(label_names: Sequence[str], fonts: Iterable[str]) -> list[str]:
    """The names as they can be drawn: without line breaks, at most 24 characters, numbered where they were changed."""
    known = set().union(*(_characters_of(family) for family in fonts))
    names = []
    for number, name in enumerate(label_names):
        written = "".join(letter if _is_drawn(letter, known) else f"\\u{ord(letter):04x}" for letter in name)
        if len(written) > LONGEST_NAME:
            written = written[: LONGEST_NAME - 1] + "…"
        # The number keeps apart two long names that begin alike.
        names.append(written if written == name else f"{number}: {written}")
    return names


def _is_drawn(letter: str, known: set[int]) -> bool:
    return letter == " " or (letter.isprintable() and ord(letter) in known)


def _visible(text: str) -> set[int]:
    return {ord(letter) for letter in text if letter.isprintable() and letter != " "}


def _characters_of(family: str) -> set[int]:
    from matplotlib import font_manager

    return _characters(font_manager.findfont(font_manager.FontProperties(family=[family])))


def _characters(font_file: str) -> set[int]:
    """The code points that a font file has a shape for; none where the file cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return set(FT2Font(font_file).get_charmap())
    except (OSError, RuntimeError):
        return set()


def _new_figure(*, width_inches: float, height_inches: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), dpi=DOTS_PER_INCH, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    """Write the PNG whole or not at all; the folder is made where it is missing."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        file.write(picture.getvalue())
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
