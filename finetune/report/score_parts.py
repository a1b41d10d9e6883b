"""The scores of a run: the model above its baselines, and below every score, every paired test, every baseline."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.report import image_parts, text_parts
from finetune.report.page import Child, Markup, joined, tag
from finetune.report.parts import (
    MORE_IMAGE_HEADLINES,
    MORE_TEXT_HEADLINES,
    Column,
    approximate_note,
    breakable,
    difference_cell,
    foot,
    headline_metrics,
    is_written,
    metric_heading,
    notes,
    score_cell,
    strip_column,
    table,
)
from finetune.report.sentences import is_of_image, is_of_text, number, p_of, p_text, strongest_baseline, tested_metric
from finetune.report.story import Story
from finetune.report.strings import Words
from finetune.run_files import PairedTest, Score, Scores, SplitScores


def headline(story: Story, words: Words) -> list[Child]:
    """The model above every baseline: the metric that chose with its intervals drawn, then other headline scores."""
    scores, split = story.scores, story.split
    metrics = headline_metrics(tested_metric(scores), story.shown.scores)
    rivals = _ordered_baselines(scores, split)
    standing = [story.shown, *(scores.baselines[name][split] for name in rivals)]
    first = [each.scores.get(metrics[0]) if metrics else None for each in standing]
    axis, strips = strip_column(first, ours={0})
    if story.draws:  # no two of its columns say the same, so all of them are needed, and there is no room to draw
        axis, strips = "", ["" for _ in standing]
    tests = [None, *(scores.baseline_tests.get(name) for name in rivals)]
    several = len({test.metric for test in scores.baseline_tests.values()}) > 1
    rows: list[list[Child]] = [
        [
            name,
            score_cell(each.scores.get(metrics[0]), metrics[0]) if metrics else "",
            drawn,
            difference_cell(test, named=several) if test else "",
            p_text(p_of(test)) if test else "",
            *(score_cell(each.scores.get(metric), metric) for metric in metrics[1:]),
        ]
        for name, each, drawn, test in zip(_standing_names(story, words), standing, strips, tests, strict=True)
    ]
    columns = [
        Column(""),
        Column(_heading(metrics[0], story) if metrics else ""),
        Column(axis, "plot"),
        Column(_difference_heading(scores, words)),
        Column(words("paired_test")),
        *(Column(_heading(metric, story)) for metric in metrics[1:]),
    ]
    caption = words(f"caption.{split}")
    shown = [
        (metric, score) for each in standing for metric in metrics if (score := each.scores.get(metric)) is not None
    ]
    return [
        table(caption, columns, rows, classes="wide headline", ours=0),
        approximate_note(shown, words),
        foot(_about_intervals(story, metrics, words), [[each, " "] for each in _tested_otherwise(scores, words)]),
    ]


def more_scores(story: Story, words: Words) -> list[Child]:
    """Of texts and images, what else is soon asked for: the model above the baselines once more."""
    if not (is_written(story.shown.scores) or story.draws):
        return []
    told = headline_metrics(tested_metric(story.scores), story.shown.scores)
    more = MORE_IMAGE_HEADLINES if story.draws else MORE_TEXT_HEADLINES
    metrics = [name for name in more if name in story.shown.scores and name not in told]
    rivals = [story.scores.baselines[name][story.split] for name in _ordered_baselines(story.scores, story.split)]
    rows: list[list[Child]] = [
        [name, *(score_cell(each.scores.get(metric), metric) for metric in metrics)]
        for name, each in zip(_standing_names(story, words), [story.shown, *rivals], strict=True)
    ]
    columns = [Column(""), *(Column(_heading(metric, story)) for metric in metrics)]
    caption, about = ("caption.more_images", "note.images") if story.draws else ("caption.more", "note.directions")
    return [
        table(words(caption), columns, rows, classes="wide headline", ours=0),
        foot(words(about)),
    ]


def _heading(metric: str, story: Story) -> Child:
    """Scores of images have long names, of which many stand side by side."""
    heading = metric_heading(metric)
    return breakable(heading) if story.draws else heading


def _standing_names(story: Story, words: Words) -> list[Child]:
    """The model and the baselines, as the rows of the headline name them."""
    rivals = _ordered_baselines(story.scores, story.split)
    return [words("this_model"), *(_baseline_name(name, story.scores, words) for name in rivals)]


def _difference_heading(scores: Scores, words: Words) -> str:
    """A score that cannot be resampled is tested by another one, which is then named; of several each cell names it."""
    tested = {test.metric for test in scores.baseline_tests.values()}
    other = tested - {tested_metric(scores)} if len(tested) == 1 else set[str]()
    return words("ahead_by") + "".join(f" ({metric})" for metric in sorted(other))


def _tested_otherwise(scores: Scores, words: Words) -> list[str]:
    """Baselines that have no loss, or one that does not compare, and what they were compared by."""
    tests, usual = scores.baseline_tests, tested_metric(scores)
    metrics = list(dict.fromkeys(test.metric for test in tests.values()))
    return [
        words(
            "note.tested_by",
            names=words.listed([name for name, test in tests.items() if test.metric == metric]),
            metric=usual,
            tested=metric,
        )
        for metric in (metrics if len(metrics) > 1 else [])
        if metric != usual
    ]


def _about_intervals(story: Story, metrics: Sequence[str], words: Words) -> list[Child]:
    """What the intervals cover, and why a score has none."""
    scores = [(metric, story.shown.scores[metric]) for metric in metrics]
    without = [metric for metric, score in scores if score.value is not None and score.low is None]
    said: list[Child] = []
    if len(without) < len(scores):
        said.append(words("note.intervals" if story.split == "test" else "note.intervals_validation"))
        if without:
            said.append(words("note.without", metrics=words.listed(without)))
    else:
        said.append(words("note.no_intervals"))
    reasons = [note for note in story.scores.notes if note.startswith(f"{story.split}:")]
    # What an image score was made from stands below, with every score.
    reasons += [f"{metric}: {note}" for metric, score in scores
                if (note := score.note) and not (story.draws and score.value is not None)]  # fmt: skip
    said += [tag("span", f"{reason.rstrip('.')}.", lang=words.foreign) for reason in reasons]
    return [[each, " "] for each in said]


def all_scores(story: Story, words: Words) -> list[Child]:
    """Every score of best/ and last/ on both splits, and the paired tests in full."""
    scores = story.scores
    standing: list[tuple[str, SplitScores]] = []
    for folder, splits in (("best", scores.splits), ("last", scores.last)):
        standing += [(words(f"standing.{folder}_{split}"), splits[split]) for split in ("test", "validation")
                     if split in splits]  # fmt: skip
    metrics = list(dict.fromkeys(metric for _, each in standing for metric in each.scores))
    rows: list[list[Child]] = [
        [_heading(metric, story), *(score_cell(each.scores.get(metric), metric) for _, each in standing)]
        for metric in metrics
    ]
    shown = [(metric, score) for _, each in standing for metric, score in each.scores.items()]
    return [
        tag("p", words("scores.about")),
        table(None, [Column(words("metric")), *(Column(name) for name, _ in standing)], rows),
        approximate_note(shown, words),
        text_parts.glossary(metrics, words) if story.writes else None,
        image_parts.glossary(metrics, words) if story.draws else None,
        _score_notes(story.shown, words),
        _paired_tests(scores, words),
        _baseline_scores(scores, words),
    ]


def _score_notes(split: SplitScores, words: Words) -> Markup | None:
    return notes([f"{metric}: {score.note}" for metric, score in split.scores.items() if score.note], words)


def _paired_tests(scores: Scores, words: Words) -> Child:
    tests = list(scores.baseline_tests.items())
    if not tests:
        return None
    of_text, of_image = (asked(tests[0][1].metric) for asked in (is_of_text, is_of_image))
    metrics = list(dict.fromkeys(test.metric for _, test in tests))
    rows = [
        [_baseline_name(name, scores, words), test.metric if len(metrics) > 1 else "", *_test_cells(test, words)]
        for name, test in tests
    ]
    columns = [
        words("baseline"), words("metric"), words("ours"), words("theirs"), words("difference"),
        words("randomisation"), words("holm"), "McNemar", words("ahead_ours" if of_text or of_image else "only_ours"),
        words("ahead_theirs" if of_text or of_image else "only_theirs"), words("documents"),
        words("groups"), words("result"),
    ]  # fmt: skip
    caption = words("paired.caption", metric=words.listed(metrics))
    return joined(
        tag("h3", words("paired")),
        table(caption, [Column(name) for name in columns], rows, classes="headline"),
        foot(words("paired.about_texts" if of_text else "paired.about_images" if of_image else "paired.about")),
    )


def _test_cells(test: PairedTest, words: Words) -> list[Child]:
    return [
        number(test.first, test.metric),
        number(test.second, test.metric),
        difference_cell(test),
        p_text(test.p),
        p_text(test.p_holm) if test.p_holm is not None else "",
        p_text(test.p_mcnemar) if test.p_mcnemar is not None else "",
        test.only_first_right,
        test.only_second_right,
        test.documents,
        test.groups if test.groups is not None else "",
        words("better" if test.better else "not_better"),
    ]


def _baseline_scores(scores: Scores, words: Words) -> Child:
    """What each baseline has on validation, by which the strongest is named."""
    metric = tested_metric(scores)
    rows: list[list[Child]] = [
        [_baseline_name(name, scores, words), *(_split_cell(splits, split, metric) for split in ("test", "validation"))]
        for name, splits in scores.baselines.items()
    ]
    if not any(row[2] for row in rows):
        return None
    columns = [Column(words("baseline")), Column(words("split.test")), Column(words("split.validation"))]
    return joined(tag("h3", words("baselines")), table(words("baselines.caption", metric=metric), columns, rows))


def _split_cell(splits: dict[str, SplitScores], split: str, metric: str) -> Child:
    score: Score | None = splits[split].scores.get(metric) if split in splits else None
    return score_cell(score, metric)


def _ordered_baselines(scores: Scores, split: str) -> list[str]:
    """The strongest first, the others as the recipe names them."""
    strongest = strongest_baseline(scores)
    names = [name for name, splits in scores.baselines.items() if split in splits]
    return sorted(names, key=lambda name: name != strongest)


def _baseline_name(name: str, scores: Scores, words: Words) -> Child:
    shown = words.known("baseline", name)
    return [shown, tag("code", name) if shown != name else None]
