"""The page of a comparison: finished runs side by side on the same test documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.report.many_sentences import comparison_outcome, comparison_sentences
from finetune.report.page import Child, Markup, joined, tag
from finetune.report.parts import (
    Column,
    approximate_note,
    count,
    difference_cell,
    foot,
    headline_metrics,
    label,
    linked,
    many_page,
    metric_heading,
    notes,
    score_cell,
    strip_column,
    table,
)
from finetune.report.sentences import is_of_image, is_of_text, number, p_text
from finetune.report.strings import Language, Words
from finetune.selection.compare import ChangedSides, ComparedPair, ComparedRun, Comparison

MOST_CHANGED = 30


def render_comparison(comparison: Comparison, folder: Path, language: Language) -> str:
    words = Words(language, of_images=is_of_image(comparison.metric))
    tested = comparison.tests[0].test.metric if comparison.tests else comparison.metric
    ranked = _ranked(comparison)
    return many_page(
        folder,
        comparison.kind,
        [words("documents.test", n=f"{comparison.documents:,}")],
        comparison_sentences(comparison, language),
        comparison_outcome(comparison),
        [_compared_runs(ranked, tested, comparison.metric, folder, words)],
        [
            ("tests", words("pairs"), _pairs(comparison.tests, tested, words)),
            ("changed", words("changed.documents"), [_sides(each, words) for each in comparison.changed]),
            ("scores", words("all_scores"), _run_scores(ranked, words)),
            ("notes", words("notes"), [_left_out(comparison.left_out, words), notes(comparison.notes, words)]),
        ],
        words=words,
    )


def _ranked(comparison: Comparison) -> list[ComparedRun]:
    """The runs by their score, the best first, as the tests have them."""
    names = list(dict.fromkeys(name for pair in comparison.tests for name in (pair.first, pair.second)))
    by_name = {run.name: run for run in comparison.runs}
    return [by_name[name] for name in names if name in by_name] or comparison.runs


def _compared_runs(
    runs: Sequence[ComparedRun], tested: str, metric: str, folder: Path, words: Words
) -> list[Child]:  # fmt: skip
    known = {name for run in runs for name in run.scores}
    metrics = list(dict.fromkeys([tested, *headline_metrics(metric, known)]))
    axis, strips = strip_column([run.scores.get(tested) for run in runs], ours={0})
    rows: list[list[Child]] = [
        [
            linked(run.name, run.folder, folder),
            score_cell(run.scores.get(tested), tested),
            drawn,
            *(score_cell(run.scores.get(name), name) for name in metrics[1:]),
            run.model_origin or "",
            str(run.seed),
            count(run.test_openings),
        ]
        for run, drawn in zip(runs, strips, strict=True)
    ]
    columns = [
        Column(words("run")), Column(metric_heading(tested)), Column(axis, "plot"),
        *(Column(metric_heading(name)) for name in metrics[1:]),
        Column(words("model"), "t"), Column(words("seed")), Column(words("opened")),
    ]  # fmt: skip
    shown = [(name, score) for run in runs for name in metrics if (score := run.scores.get(name)) is not None]
    return [
        table(words("caption.test"), columns, rows, classes="wide headline", ours=0),
        approximate_note(shown, words),
        foot(words("note.intervals")),
    ]


def _pairs(pairs: Sequence[ComparedPair], tested: str, words: Words) -> list[Child]:
    rows: list[list[Child]] = [
        [
            [label(pair.first), " − ", label(pair.second)],
            number(pair.test.first, pair.test.metric),
            number(pair.test.second, pair.test.metric),
            difference_cell(pair.test),
            p_text(pair.test.p),
            p_text(pair.test.p_holm) if pair.test.p_holm is not None else "",
            p_text(pair.test.p_mcnemar) if pair.test.p_mcnemar is not None else "",
            pair.test.only_first_right,
            pair.test.only_second_right,
            words("better" if pair.test.better else "not_better"),
        ]
        for pair in pairs
    ]
    of_text = is_of_text(tested)
    sides = ("first_ahead", "second_ahead") if of_text else ("only_first", "only_second")
    names = ("runs", "first", "second", "difference", "randomisation", "holm", None, *sides)
    columns = [Column(words(name) if name else "McNemar") for name in names]
    made = table(words("paired.caption", metric=tested), [*columns, Column(words("result"))], rows, classes="headline")
    return [made, foot(words("paired.about_texts" if of_text else "paired.about"))] if made else []


def _sides(sides: ChangedSides, words: Words) -> Markup:
    return _changed(sides, words) if sides.metric is None else _better_texts(sides, sides.metric, words)


def _better_texts(sides: ChangedSides, metric: str, words: Words) -> Markup:
    """On how many documents each of two writers is better, and the texts that differ most."""
    counts = table(
        None,
        [Column(""), Column(words("documents"))],
        [
            [words("changed.better", name=label(sides.first)), sides.only_first_right],
            [words("changed.better", name=label(sides.second)), sides.only_second_right],
            [words("changed.equal"), sides.equal],
        ],
    )
    columns = [Column(words("id"), "t"), Column(words("reference"), "t")]
    for side in (sides.first, sides.second):
        columns += [Column(label(side), "t"), Column(metric)]
    documents = table(
        words("changed.documents"),
        columns,
        [
            [
                label(each.id),
                label(each.reference),
                label(each.first),
                _scored(each.first_score, metric),
                label(each.second),
                _scored(each.second_score, metric),
            ]
            for each in sides.documents[:MOST_CHANGED]
        ],
    )
    return joined(
        tag("h3", words("changed", first=label(sides.first), second=label(sides.second))),
        [counts, documents],
        foot(words("changed.by", metric=metric)),
    )


def _scored(score: float | None, metric: str) -> str:
    return "" if score is None else number(score, metric)


def _changed(sides: ChangedSides, words: Words) -> Markup:
    """How many documents only one of two runs gets right, and which."""
    counts = table(
        None,
        [Column(""), Column(words("documents"))],
        [
            [words("changed.both"), sides.both_right],
            [words("changed.only", name=label(sides.first)), sides.only_first_right],
            [words("changed.only", name=label(sides.second)), sides.only_second_right],
            [words("changed.neither"), sides.both_wrong],
        ],
    )
    labels = table(
        words("changed.labels"),
        [Column(words("label")), Column(words("only_first")), Column(words("only_second"))],
        [[label(each.label), each.only_first_right, each.only_second_right] for each in sides.by_label],
    )
    shown = sides.documents[:MOST_CHANGED]
    documents = table(
        words("changed.documents"),
        [Column(words(name), "t") for name in ("id", "group", "reference")]
        + [Column(label(sides.first), "t"), Column(label(sides.second), "t")],
        [
            [
                label(each.id),
                label(each.group or ""),
                label(each.reference),
                *_said(each.first, each.second, each.right),
            ]
            for each in shown
        ],
    )
    hidden = sides.only_first_right + sides.only_second_right - len(shown)
    return joined(
        tag("h3", words("changed", first=label(sides.first), second=label(sides.second))),
        [counts, labels, documents],
        foot(words("changed.hidden", n=f"{hidden:,}")) if hidden > 0 else None,
    )


def _said(first: object, second: object, right: str) -> list[Child]:
    styles = ("right-label", "wrong") if right == "first" else ("wrong", "right-label")
    return [tag("span", label(text), class_=style) for text, style in zip((first, second), styles, strict=True)]


def _run_scores(runs: Sequence[ComparedRun], words: Words) -> list[Child]:
    metrics = list(dict.fromkeys(name for run in runs for name in run.scores))
    rows: list[list[Child]] = [
        [metric_heading(name), *(score_cell(run.scores.get(name), name) for run in runs)] for name in metrics
    ]
    return [table(None, [Column(words("metric")), *(Column(label(run.name)) for run in runs)], rows)]


def _left_out(left_out: Mapping[str, int], words: Words) -> Markup | None:
    some = [f"{label(name)} {n:,}" for name, n in left_out.items() if n]
    return tag("p", words("left_out", runs=words.listed(some))) if some else None
