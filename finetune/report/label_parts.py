"""Where a model is right and wrong: labels taken for one another, calibration, slices, and documents to read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.report.page import Child, Markup, joined, tag
from finetune.report.parts import (
    Column,
    approximate_note,
    foot,
    label,
    metric_heading,
    range_cell,
    score_cell,
    scrolling,
    share,
    strip_column,
    table,
)
from finetune.report.plots import reliability_plot
from finetune.report.sentences import number
from finetune.report.strings import Words
from finetune.run_files import Analysis, Calibration, Score, ShownDocument, Slice, SplitScores
from finetune.scores.slices import BLANK, MANY_WINDOWS, OTHERS

MOST_LABELS_OF_A_MATRIX = 30
MOST_UPRIGHT_HEADINGS = 4  # more labels than this have their headings turned
MOST_CONFUSIONS = 10
MOST_CONFUSIONS_WITHOUT_MATRIX = 30
MOST_SLICES = 60
SHADES = (0.02, 0.12, 0.30, 0.55, 0.80)  # shares of a row at which the next darker shade begins
METRICS_OF_SLICES = 3
TOKENS = re.compile(r"([\d,]+)(?: to ([\d,]+))? tokens")


def labels(split: SplitScores, words: Words) -> list[Child]:
    """The confusion matrix, or the pairs most often confused, and the rates of every label."""
    rows = split.per_class
    small = len(split.label_names) <= MOST_LABELS_OF_A_MATRIX
    most = MOST_CONFUSIONS if small else MOST_CONFUSIONS_WITHOUT_MATRIX
    return [
        _matrix(split.confusion, split.label_names, words) if split.confusion and small else None,
        _confusions(split.confusion, split.label_names, most, words) if split.confusion else None,
        None if split.confusion else tag("p", words("confusion.none")),
        _quality(rows, words),
        _rates(rows, words),
    ]


def _matrix(confusion: Sequence[Sequence[int]], names: Sequence[str], words: Words) -> Markup:
    turned = "up" if len(names) > MOST_UPRIGHT_HEADINGS else "n"
    head = tag("tr", tag("td"), [tag("th", label(name), scope="col", class_=turned, title=name) for name in names])
    lines: list[Child] = []
    for number_of_row, (name, counts) in enumerate(zip(names, confusion, strict=True)):
        total = sum(counts)
        cells = [
            tag("td", found, class_=f"s{_shade(found, total)}" + (" right" if column == number_of_row else ""))
            for column, found in enumerate(counts)
        ]
        lines.append([tag("tr", tag("th", label(name), scope="row", title=name), cells), "\n"])
    caption = words("confusion.caption")
    whole = tag(
        "table", tag("caption", tag("span", caption)), tag("thead", head), tag("tbody", lines), class_="confusion"
    )
    return joined(tag("h3", words("confusion")), scrolling(whole, words("confusion")))


def _shade(found: int, total: int) -> int:
    return sum(found / total >= edge for edge in SHADES) if found and total else 0


def _confusions(confusion: Sequence[Sequence[int]], names: Sequence[str], most: int, words: Words) -> Markup | None:
    """The pairs of labels that were confused most often."""
    wrong = [
        (found, row, column)
        for row, counts in enumerate(confusion)
        for column, found in enumerate(counts)
        if found and row != column
    ]
    wrong.sort(key=lambda each: (-each[0], each[1], each[2]))
    rows: list[list[Child]] = [
        [label(names[row]), label(names[column]), found, share(found / sum(confusion[row]))]
        for found, row, column in wrong[:most]
    ]
    if not rows:
        return None
    columns = [
        Column(words("reference"), "t"),
        Column(words("taken_for"), "t"),
        Column(words("documents")),
        Column(words("share_of_reference")),
    ]
    caption = words("confusions.caption", shown=len(rows), all=f"{len(wrong):,}")
    return joined(tag("h3", words("confusions")), table(caption, columns, rows))


def _quality(rows: Sequence[Mapping[str, Any]], words: Words) -> Markup | None:
    """Precision, recall and F1 with intervals; the label's F1 drawn."""
    if not rows:
        return None
    scores = [_score_of(row, "f1") for row in rows]
    axis, strips = strip_column(scores, ours=None)
    cells: list[list[Child]] = [
        [label(row["label"]), row.get("support"), *(_cell(row, name) for name in ("precision", "recall", "f1")), drawn]
        for row, drawn in zip(rows, strips, strict=True)
    ]
    columns = [
        Column(words("label")), Column(words("support")), Column(words("precision")), Column(words("recall")),
        Column("F1"), Column(axis, "plot"),
    ]  # fmt: skip
    return joined(tag("h3", words("quality")), table(words("quality.caption"), columns, cells))


def _rates(rows: Sequence[Mapping[str, Any]], words: Words) -> Markup | None:
    """The four counts and the four rates of every label against the rest."""
    cells: list[list[Child]] = [
        [label(row["label"]), *(row.get(name) for name in ("tp", "fp", "tn", "fn")),
         *(_cell(row, name) for name in ("tpr", "fpr", "tnr", "fnr"))]
        for row in rows
    ]  # fmt: skip
    names = ["TP", "FP", "TN", "FN", "TPR", "FPR", "TNR", "FNR"]
    made = table(words("rates.caption"), [Column(words("label")), *(Column(name) for name in names)], cells)
    return joined(tag("h3", words("rates")), made, foot(words("rates.about"))) if made else None


def _cell(row: Mapping[str, Any], name: str) -> Child:
    return range_cell(row.get(name), _ends(row, name))


def _ends(row: Mapping[str, Any], name: str) -> Sequence[float | None]:
    """The interval of a share; TPR is recall, and the two rates of misses are the rest to 1."""
    found: Mapping[str, Sequence[float | None]] = row.get("intervals") or {}
    if name in found:
        return found[name]
    if name == "tpr":
        return found.get("recall", (None, None))
    if name in ("fnr", "tnr"):
        low, high = _ends(row, "tpr" if name == "fnr" else "fpr")
        return (None, None) if low is None or high is None else (1 - high, 1 - low)
    return (None, None)


def _score_of(row: Mapping[str, Any], name: str) -> Score:
    ends = _ends(row, name)
    return Score(value=row.get(name), low=ends[0], high=ends[1], n=int(row.get("support") or 0))


def calibration(fitted: Calibration | None, words: Words) -> list[Child]:
    """The temperature, the reliability before and after, and the thresholds of several labels."""
    if fitted is None:
        return []
    rows: list[list[Child]] = [
        [words(f"calibration.{name}"), number(each.ece), number(each.log_loss)]
        for name, each in (("before", fitted.before), ("after", fitted.after))
        if each is not None
    ]
    columns = [Column(""), Column(words("calibration.ece")), Column(words("calibration.log_loss"))]
    thresholds: list[list[Child]] = [[label(name), number(value)] for name, value in fitted.thresholds.items()]
    plotted = reliability_plot(fitted.before, fitted.after, words=words) if rows else None
    told: list[Child] = [
        [tag("p", sentence) for sentence in _temperature(fitted, words)],
        tag("p", fitted.note, lang=words.foreign) if fitted.note else None,
        table(words("calibration.caption"), columns, rows) if rows else tag("p", words("calibration.closed")),
        table(
            words("thresholds.caption"), [Column(words("label")), Column(words("threshold"))], thresholds
        ),
    ]  # fmt: skip
    return [tag("div", plotted, tag("div", told), class_="panels")] if plotted else told


def _temperature(fitted: Calibration, words: Words) -> list[str]:
    if fitted.temperature == 1:
        return [words("calibration.unchanged")]
    held = words("calibration.folded" if fitted.folded else "calibration.not_folded")
    return [words("calibration.about", temperature=number(fitted.temperature)), held]


def slices(analysis: Analysis | None, overall: SplitScores, metric: str, words: Words) -> list[Child]:
    """Scores of parts of the documents, each kind of part in a table of its own."""
    if analysis is None or not analysis.slices:
        return []
    kinds = list(dict.fromkeys(each.by for each in analysis.slices))
    tables = [_slice_table(kind, [s for s in analysis.slices if s.by == kind], overall, metric, words)
              for kind in kinds]  # fmt: skip
    shown = [(name, score) for each in analysis.slices for name, score in each.scores.items()]
    return [tag("p", words("slices.about")), tables, approximate_note(shown, words)]


def _slice_table(kind: str, parts: Sequence[Slice], overall: SplitScores, metric: str, words: Words) -> Markup:
    found = list(dict.fromkeys(name for each in parts for name in each.scores))
    metrics = sorted(found, key=lambda name: name != metric)[:METRICS_OF_SLICES]
    shown = parts[:MOST_SLICES]
    whole = overall.scores.get(metrics[0]) if metrics else None
    axis, strips = strip_column(
        [each.scores.get(metrics[0]) for each in shown] if metrics else [None] * len(shown),
        ours=None,
        reference=whole.value if whole else None,
    )
    rows: list[list[Child]] = [
        [_slice_name(each, words), each.documents,
         score_cell(each.scores.get(metrics[0]), metrics[0]) if metrics else "", drawn,
         *(score_cell(each.scores.get(name), name) for name in metrics[1:])]
        for each, drawn in zip(shown, strips, strict=True)
    ]  # fmt: skip
    column = kind.removeprefix("column:")
    heading = words("slices.column", name=label(column)) if column != kind else words.known("slices", kind)
    columns = [
        Column(""), Column(words("documents")), Column(metric_heading(metrics[0]) if metrics else ""),
        Column(axis, "plot"), *(Column(metric_heading(name)) for name in metrics[1:]),
    ]  # fmt: skip
    hidden = len(parts) - len(shown)
    return joined(
        tag("h3", heading),
        table(None, columns, rows),
        foot(words("slices.hidden", n=f"{hidden:,}")) if hidden else None,
    )


def _slice_name(each: Slice, words: Words) -> str:
    """A value of the data as it is; what this product calls a slice in the words of the page."""
    if each.by == "length" and (tokens := TOKENS.fullmatch(each.name)):
        low, high = tokens.groups()
        return words("slices.tokens", low=low, high=high) if high else words("slices.tokens_one", low=low)
    named = {OTHERS: "slices.others", BLANK: "slices.blank", MANY_WINDOWS: "slices.many_windows"}
    return words(named[each.name]) if each.name in named else label(each.name)


def errors(analysis: Analysis | None, words: Words) -> list[Child]:
    """Documents to read: the mistakes the model was surest of, and those it hesitated over."""
    if analysis is None:
        return []
    blocks: list[Child] = []
    for kind, shown in (("mistakes", analysis.confident_mistakes), ("hesitant", analysis.hesitant)):
        if shown:
            blocks += [tag("h3", words(f"errors.{kind}")), tag("p", words(f"errors.{kind}_about"))]
            blocks += [_document(each, words) for each in shown]
    return blocks


def _document(each: ShownDocument, words: Words) -> Markup:
    right = each.reference == each.prediction
    style = "right-label" if right else "wrong"
    head: list[Child] = [
        words("prediction"), " ", tag("b", label(each.prediction), class_=style), f" ({share(each.probability)}) · ",
        words("reference"), " ", tag("b", label(each.reference)), f" ({share(each.reference_probability)})",
    ]  # fmt: skip
    where = _named([(words("id"), each.id), (words("group"), each.group)])
    return tag(
        "article",
        tag("p", head, class_="head"),
        tag("blockquote", each.text) if each.text else None,
        tag("p", where, words("errors.passage") if each.is_passage else None, class_="small"),
        class_="case",
    )


def _named(pairs: Sequence[tuple[str, object]]) -> Child:
    return [[name, " ", tag("code", label(value)), " "] for name, value in pairs if value is not None]
