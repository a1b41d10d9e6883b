"""The page of one run: the verdict, the scores and the curves first, then everything they rest on."""

from __future__ import annotations

from finetune.report import data_parts, image_parts, label_parts, score_parts, text_parts
from finetune.report.page import Child, Markup, joined, tag
from finetune.report.parts import Block, command, facts, framed, notes, train_command
from finetune.report.plots import history_plots
from finetune.report.sentences import evidence_rows, outcome, verdict_sentences
from finetune.report.story import Story
from finetune.report.strings import Language, Words
from finetune.runs import Run


def render_run(run: Run, language: Language) -> str:
    """The whole page as HTML. Raises CheckpointError when the folder holds no scores."""
    story = Story.read(run)
    words = Words(language, of_images=story.draws)
    slices = label_parts.slices(story.analysis, story.shown, story.metric, words)
    parts: list[Block] = [
        *_about(story, words),
        ("slices", words("slices"), slices),
        ("errors", words("errors"), label_parts.errors(story.analysis, words)),
        ("scores", words("scores.all"), score_parts.all_scores(story, words)),
        ("decoding", words("decoding"), _decoding(story, words)),
        ("suggestions", words("suggestions"), _suggestions(story, words)),
        ("data", words("data"), data_parts.data(story.data, words)),
        ("leaks", words("leaks"), data_parts.leaks(story.data, words)),
        _lengths(story, words),
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
        [*score_parts.headline(story, words), _curves(story, words), *score_parts.more_scores(story, words)],
        parts,
        words=words,
    )


def _about(story: Story, words: Words) -> list[Block]:
    """What is looked at after the scores: labels, texts or images."""
    if story.draws:
        return image_parts.blocks(story.pictures, story.scores.best_epoch, words)
    return _about_texts(story, words) if story.writes else _about_labels(story, words)


def _about_labels(story: Story, words: Words) -> list[Block]:
    return [
        ("labels", words("labels"), label_parts.labels(story.shown, words)),
        ("calibration", words("calibration"), label_parts.calibration(story.scores.calibration, words)),
    ]


def _about_texts(story: Story, words: Words) -> list[Block]:
    form = str(story.data.get("form"))
    written = text_parts.samples(story.samples, story.scores.best_epoch, form, words)
    return [
        ("samples", words("samples"), written),
        ("texts", words("texts"), text_parts.best_and_worst(story.analysis, form, words)),
    ]


def _decoding(story: Story, words: Words) -> list[Child]:
    if not story.writes:
        return []
    generation = story.settings.get("generation") or {}
    form = str(story.data.get("form"))
    return text_parts.decoding(generation, form, story.info.seed, story.shown, story.split, words)


def _lengths(story: Story, words: Words) -> Block:
    if story.writes:
        return ("sequences", words("sequences"), text_parts.sequences(story.data, story.info.fill_rate, words))
    return ("lengths", words("lengths"), data_parts.lengths(story.data, words))


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


def _curves(story: Story, words: Words) -> Markup | None:
    figures = history_plots(story.history, metric=story.metric, best_epoch=story.scores.best_epoch, words=words)
    if story.draws:
        figures = [*image_parts.game_plots(story.history, best_epoch=story.scores.best_epoch, words=words), *figures]
    return tag("div", figures, class_="panels") if figures else None


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
    numbers = facts(evidence_rows(fit, story.metric, words))
    return [*blocks, joined(tag("h3", words("suggestions.numbers")), numbers) if numbers else None]


def _analysis_notes(story: Story) -> list[str]:
    return story.analysis.notes if story.analysis is not None else []
