"""The pictures of a run: they show what the history says, and every label can be read."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from finetune import figures

HISTORY: list[dict[str, float]] = [
    {"step": 10, "epoch": 0.5, "loss": 1.2, "learning_rate": 1e-4},
    {"step": 20, "epoch": 1.0, "loss": 0.9, "learning_rate": 5e-5},
    {"step": 20, "epoch": 1.0, "eval_loss": 0.8, "eval_accuracy": 0.7, "eval_f1_macro": 0.6, "eval_runtime": 3.0},
    {"step": 40, "epoch": 2.0, "eval_loss": 0.9, "eval_accuracy": 0.8, "eval_f1_macro": 0.7, "eval_runtime": 3.0},
    {"step": 40, "epoch": 2.0, "train_loss": 1.0, "train_runtime": 60.0},
]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, to be asked for their lines and texts."""
    figures_saved: list[Figure] = []
    save = figures._save

    def remember(figure: Figure, path: Path) -> None:
        figures_saved.append(figure)
        save(figure, path)

    monkeypatch.setattr(figures, "_save", remember)
    return figures_saved


def _lines(figure: Figure, panel: int) -> dict[str, tuple[list[float], list[float]]]:
    lines = figure.axes[panel].get_lines()
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}  # type: ignore[arg-type]


def test_curves_show_the_history(tmp_path: Path, saved: list[Figure]) -> None:
    path = tmp_path / "figures" / "curves.png"
    figures.draw_curves(HISTORY, path, best_epoch=2)
    losses, scores = _lines(saved[0], 0), _lines(saved[0], 1)
    assert losses["training"] == ([0.5, 1.0], [1.2, 0.9])
    assert losses["validation"] == ([1.0, 2.0], [0.8, 0.9])
    assert list(scores) == ["f1_macro", "accuracy", "best epoch (2)"], "scores only, the familiar ones first"
    assert scores["f1_macro"] == ([1.0, 2.0], [0.6, 0.7])
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"], "no unfinished file stays"


def test_a_step_that_was_run_twice_counts_once(tmp_path: Path, saved: list[Figure]) -> None:
    again: list[Mapping[str, float]] = [*HISTORY, {"step": 20, "epoch": 1.0, "loss": 0.5}]
    figures.draw_curves(again, tmp_path / "curves.png", best_epoch=None)
    assert _lines(saved[0], 0)["training"] == ([0.5, 1.0], [1.2, 0.5])


def test_undefined_values_leave_a_gap(tmp_path: Path, saved: list[Figure]) -> None:
    rows: list[Mapping[str, float]] = [
        {"epoch": 1.0, "eval_roc_auc": None, "eval_loss": math.inf, "eval_accuracy": 0.5},  # type: ignore[dict-item]
        {"epoch": 2.0, "eval_roc_auc": None, "eval_loss": 0.5, "eval_accuracy": 0.6},  # type: ignore[dict-item]
    ]
    figures.draw_curves(rows, tmp_path / "curves.png", best_epoch=None)
    assert math.isnan(_lines(saved[0], 0)["validation"][1][0])
    assert list(_lines(saved[0], 1)) == ["accuracy"], "a score without any value has no curve"


def test_many_scores_are_cut_and_counted(tmp_path: Path, saved: list[Figure]) -> None:
    row = {"epoch": 1.0} | {f"eval_f1_class{number}": 0.5 for number in range(12)} | {"eval_f1_macro": 0.5}
    figures.draw_curves([row], tmp_path / "curves.png", best_epoch=1)
    assert saved[0].axes[1].get_title() == "validation scores (4 of 13)"
    assert "f1_macro" in _lines(saved[0], 1)


def test_an_empty_history_says_so(tmp_path: Path, saved: list[Figure]) -> None:
    figures.draw_curves([], tmp_path / "curves.png", best_epoch=None)
    assert [text.get_text() for axes in saved[0].axes for text in axes.texts] == ["nothing was logged"] * 2


def test_confusion_shows_shares_of_the_row_and_counts(tmp_path: Path, saved: list[Figure]) -> None:
    figures.draw_confusion([[6, 2], [0, 0]], ["neg", "pos"], tmp_path / "confusion.png")
    axes = saved[0].axes[0]
    shares = axes.get_images()[0].get_array()
    assert shares is not None
    assert list(shares[0]) == [0.75, 0.25]
    assert bool(shares.mask[1].all()), "a label without documents has no share"
    assert [text.get_text() for text in axes.texts] == ["6", "2", "0", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["neg", "pos"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("reference", "predicted")


@pytest.mark.filterwarnings("error")
def test_odd_labels_draw_without_boxes_or_formulas(tmp_path: Path) -> None:
    """matplotlib warns about every character that it draws as a box, and fails on a formula that does not end."""
    names = ["体育", "$\\frac{", "two\nlines", "\ud83d\ude00 smile", "😀", "naïve", ""]
    size = len(names)
    matrix = [[int(row == column) for column in range(size)] for row in range(size)]
    figures.draw_confusion(matrix, names, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_chinese_without_a_font_is_written_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    fonts = figures._fonts_for("体育")
    assert len(fonts) == 1
    assert figures._drawable_names(["good", "体育"], fonts) == ["good", "1: \\u4f53\\u80b2"]


def test_chinese_with_a_font_is_drawn_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice alone: fonts are told apart by the characters they have, the well-known family first."""
    installed = [font_manager.FontEntry(fname=f"{name}.ttf", name=name) for name in ("Aaa", "Empty", "SimHei")]
    last_resort = font_manager.FontEntry(fname="Aaa.ttf", name="Last Resort High-Efficiency")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [last_resort, *installed])
    has = {"Aaa.ttf": set(map(ord, "体育")), "SimHei.ttf": set(map(ord, "体育"))}
    monkeypatch.setattr(figures, "_characters", lambda file: has.get(file, set(map(ord, string.printable))))
    assert figures._fonts_for("good 体育")[1:] == ["SimHei"]


@given(st.lists(st.text(), min_size=1, max_size=5, unique=True))
def test_drawn_names_are_short_printable_and_different(names: list[str]) -> None:
    default = [font_manager.FontProperties().get_name()]
    drawn = figures._drawable_names(names, default)
    assert all(name.isprintable() and len(name) <= figures.LONGEST_NAME + len("4: ") for name in drawn)
    assert len({name for name in drawn if ": " in name}) == sum(": " in name for name in drawn)


def test_a_matrix_that_is_not_square_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 rows and columns"):
        figures.draw_confusion([[1, 2]], ["neg", "pos"], tmp_path / "confusion.png")
    assert not list(tmp_path.iterdir())


def test_many_classes_keep_their_names_apart(tmp_path: Path, saved: list[Figure]) -> None:
    size = 70
    matrix = [[int(row == column) for column in range(size)] for row in range(size)]
    figures.draw_confusion(matrix, [f"label {number}" for number in range(size)], tmp_path / "confusion.png")
    axes = saved[0].axes[0]
    assert not axes.texts, "counts would not be readable"
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == ["label 0", "label 2", "label 4"]
