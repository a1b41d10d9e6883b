"""The page of one run: the verdict, the scores and the curves first, then everything they rest on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import CheckpointError
from finetune.report import data_parts, label_parts
from finetune.report.page import Child, Markup, joined, tag
from finetune.report.parts import (
    HEADLINES,
    Block,
    Column,
    approximate_note,
    command,
    difference_cell,
    facts,
    foot,
    framed,
    metric_heading,
    notes,
    score_cell,
    strip_column,
    table,
    train_command,
)
from finetune.report.plots import history_plots
from finetune.report.sentences import (
    evidence_rows,
    number,
    outcome,
    p_of,
    p_text,
    shown_split,
    strongest_baseline,
    verdict_sentences,
)
from finetune.report.strings import Language, Words
from finetune.run_files import Analysis, PairedTest, RunInfo, Score, Scores, SplitScores
from finetune.runs import Json, Run, read_json_lines
from finetune.scores.paired import compared_metric


@dataclass(frozen=True)
class Story:
    """What a run folder holds, as the page needs it; `split` is the one that the page speaks of."""

    folder: Path
    info: RunInfo
    scores: Scores
    analysis: Analysis | None
    data: Json
    history: list[Json]
    openings: list[Json]
    recipe: str

    @classmethod
    def read(cls, run: Run) -> Story:
        """Raises CheckpointError when the run was never scored."""
        return cls(
            folder=run.folder,
            info=run.read(run.info, RunInfo),
            scores=run.read(run.scores, Scores),
            analysis=run.read(run.analysis, Analysis) if run.analysis.exists() else None,
            data=_data_of(run),
            history=run.history_rows(),
            openings=read_json_lines(run.test_openings),
            recipe=run.recipe.read_text(encoding="utf-8") if run.recipe.exists() else "",
        )

    @property
    def split(self) -> str:
        return shown_split(self.scores)

    @property
    def shown(self) -> SplitScores:
        return self.scores.splits[self.split]

    @property
    def metric(self) -> str:
        return self.scores.metric_for_best_model


def render_run(run: Run, language: Language) -> str:
    """The whole page as HTML. Raises CheckpointError when the folder holds no scores."""
    story, words = Story.read(run), Words(language)
    parts: list[Block] = [
        ("labels", words("labels"), label_parts.labels(story.shown, words)),
        ("calibration", words("calibration"), label_parts.calibration(story.scores.calibration, words)),
        ("slices", words("slices"), label_parts.slices(story.analysis, story.shown, story.metric, words)),
        ("errors", words("errors"), label_parts.errors(story.analysis, words)),
        ("scores", words("scores.all"), _all_scores(story, words)),
        ("suggestions", words("suggestions"), _suggestions(story, words)),
        ("data", words("data"), data_parts.data(story.data, words)),
        ("leaks", words("leaks"), data_parts.leaks(story.data, words)),
        ("lengths", words("lengths"), data_parts.lengths(story.data, words)),
        ("openings", words("openings"), data_parts.openings(story.openings, words)),
        ("notes", words("notes"), [notes([*story.info.notes, *story.scores.notes, *_analysis_notes(story)], words)]),
        ("environment", words("environment"), data_parts.environment(story.info, words)),
        ("recipe", words("recipe"), data_parts.recipe(story.recipe, words)),
    ]
    return framed(
        words("title.run", name=run.folder.absolute().name),
        _header(story, words),
        verdict_sentences(story.scores, language),
        outcome(story.scores),
        [*_headline(story, words), _curves(story, words)],
        parts,
        words=words,
    )


def _data_of(run: Run) -> Json:
    """data.json, which has many shapes; a folder without it is told without its data."""
    try:
        found = json.loads(run.data.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise CheckpointError(str(run.data), "is not JSON") from None
    return found if isinstance(found, dict) else {}


def _header(story: Story, words: Words) -> Markup:
    info = story.info
    documents = next(iter(story.shown.scores.values())).n if story.shown.scores else 0
    known = [
        words.known("task", info.task),
        info.model_origin,
        words(f"documents.{story.split}", n=f"{documents:,}"),
        (info.finished or info.started)[:10],
    ]
    status = words(f"status.{info.status}") if info.status != "complete" else None
    line = " · ".join(fact for fact in [*known, status] if fact)
    return tag("header", tag("h1", story.folder.absolute().name), tag("p", line, class_="meta"))


def _headline(story: Story, words: Words) -> list[Child]:
    """The model above every baseline: the metric that chose with its intervals drawn, then other headline scores."""
    scores, split = story.scores, story.split
    metrics = list(dict.fromkeys([compared_metric(story.metric), *HEADLINES]))
    metrics = [name for name in metrics if name in story.shown.scores]
    rivals = _ordered_baselines(scores, split)
    standing = [story.shown, *(scores.baselines[name][split] for name in rivals)]
    first = [each.scores.get(metrics[0]) if metrics else None for each in standing]
    axis, strips = strip_column(first, ours={0})
    tests = [None, *(scores.baseline_tests.get(name) for name in rivals)]
    names: list[Child] = [words("this_model"), *(_baseline_name(name, scores, words) for name in rivals)]
    rows: list[list[Child]] = [
        [
            name,
            score_cell(each.scores.get(metrics[0])) if metrics else "",
            drawn,
            difference_cell(test) if test else "",
            p_text(p_of(test)) if test else "",
            *(score_cell(each.scores.get(metric)) for metric in metrics[1:]),
        ]
        for name, each, drawn, test in zip(names, standing, strips, tests, strict=True)
    ]
    columns = [
        Column(""),
        Column(metric_heading(metrics[0]) if metrics else ""),
        Column(axis, "plot"),
        Column(_difference_heading(scores, words)),
        Column(words("paired_test")),
        *(Column(metric_heading(metric)) for metric in metrics[1:]),
    ]
    caption = words(f"caption.{split}")
    shown = [
        (metric, score) for each in standing for metric in metrics if (score := each.scores.get(metric)) is not None
    ]
    return [
        table(caption, columns, rows, classes="wide headline", ours=0),
        approximate_note(shown, words),
        foot(_about_intervals(story, metrics, words)),
    ]


def _difference_heading(scores: Scores, words: Words) -> str:
    """A score that cannot be resampled is tested by another one, which is then named."""
    tested = {test.metric for test in scores.baseline_tests.values()} - {compared_metric(scores.metric_for_best_model)}
    return words("ahead_by") + "".join(f" ({metric})" for metric in sorted(tested))


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
    reasons += [f"{metric}: {score.note}" for metric, score in scores if score.note]
    said += [tag("span", f"{reason.rstrip('.')}.", lang=words.foreign) for reason in reasons]
    return [[each, " "] for each in said]


def _curves(story: Story, words: Words) -> Markup | None:
    figures = history_plots(story.history, metric=story.metric, best_epoch=story.scores.best_epoch, words=words)
    return tag("div", figures, class_="panels") if figures else None


def _all_scores(story: Story, words: Words) -> list[Child]:
    """Every score of best/ and last/ on both splits, and the paired tests in full."""
    scores = story.scores
    standing: list[tuple[str, SplitScores]] = []
    for folder, splits in (("best", scores.splits), ("last", scores.last)):
        standing += [(words(f"standing.{folder}_{split}"), splits[split]) for split in ("test", "validation")
                     if split in splits]  # fmt: skip
    metrics = list(dict.fromkeys(metric for _, each in standing for metric in each.scores))
    rows: list[list[Child]] = [
        [metric_heading(metric), *(score_cell(each.scores.get(metric)) for _, each in standing)] for metric in metrics
    ]
    shown = [(metric, score) for _, each in standing for metric, score in each.scores.items()]
    return [
        tag("p", words("scores.about")),
        table(None, [Column(words("metric")), *(Column(name) for name, _ in standing)], rows),
        approximate_note(shown, words),
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
    rows = [[_baseline_name(name, scores, words), *_test_cells(test, words)] for name, test in tests]
    columns = [
        words("baseline"), words("ours"), words("theirs"), words("difference"), words("randomisation"),
        words("holm"), "McNemar", words("only_ours"), words("only_theirs"), words("documents"), words("groups"),
        words("result"),
    ]  # fmt: skip
    caption = words("paired.caption", metric=tests[0][1].metric)
    return joined(
        tag("h3", words("paired")),
        table(caption, [Column(name) for name in columns], rows, classes="headline"),
        foot(words("paired.about")),
    )


def _test_cells(test: PairedTest, words: Words) -> list[Child]:
    return [
        number(test.first),
        number(test.second),
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
    metric = compared_metric(scores.metric_for_best_model)
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
    return score_cell(score)


def _suggestions(story: Story, words: Words) -> list[Child]:
    """Each suggestion as a command to paste, and the numbers of the verdict."""
    fit = story.scores.fit
    if fit is None:
        return []
    blocks: list[Child] = [tag("p", words("suggestions.about"))] if fit.suggestions else []
    for each in fit.suggestions:
        why, language = words.why(fit.state, each.override, each.why)
        blocks += [
            tag("p", why[:1].upper() + why[1:], class_="hint", lang=language),
            command(train_command(story.folder, each.override)),
        ]
    numbers = facts(evidence_rows(fit, words))
    return [*blocks, joined(tag("h3", words("suggestions.numbers")), numbers) if numbers else None]


def _ordered_baselines(scores: Scores, split: str) -> list[str]:
    """The strongest first, the others as the recipe names them."""
    strongest = strongest_baseline(scores)
    names = [name for name, splits in scores.baselines.items() if split in splits]
    return sorted(names, key=lambda name: name != strongest)


def _baseline_name(name: str, scores: Scores, words: Words) -> Child:
    shown = words.known("baseline", name)
    return [shown, tag("code", name) if shown != name else None]


def _analysis_notes(story: Story) -> list[str]:
    return story.analysis.notes if story.analysis is not None else []
