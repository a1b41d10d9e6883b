"""The last screen of a run, read from its folder: test scores beside the baselines, labels, texts or images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import east_asian_width

from finetune.data.text_steps import visible
from finetune.progress import WARNING
from finetune.report.parts import (
    MORE_IMAGE_HEADLINES,
    MORE_TEXT_HEADLINES,
    TEXT_HEADLINES,
    headline_metrics,
    is_written,
)
from finetune.report.sentences import (
    difference_text,
    is_of_image,
    is_of_images,
    is_of_text,
    p_text,
    plain_score,
    score_text,
    shown_split,
    tested_metric,
    verdict_sentences,
)
from finetune.report.story import read_samples
from finetune.run_files import Calibration, Neighbours, PairedTest, RunInfo, Samples, Scores, ShownText, SplitScores
from finetune.runs import Json, Run, read_json_lines

HEADLINES = ("accuracy", "f1_macro", "f1_weighted", "roc_auc", "log_loss", "loss")
MOST_CLASSES = 30
MOST_SAMPLES = 3
SAMPLE_CHARACTERS = 100


def render_summary(run: Run) -> str:
    """The whole screen as text."""
    info, scores = run.read(run.info, RunInfo), run.read(run.scores, Scores)
    shown = shown_split(scores)
    split = scores.splits[shown]
    notes = "\n".join(_note(note) for note in (*info.notes, *scores.notes))
    parts = [
        "\n".join(verdict_sentences(scores)),
        _opened(run, split) if shown == "test" else f"Validation: {_counted(split)}. Test was not opened.",
        render_scores(split, scores.baselines if shown == "test" else {}, chosen_by=tested_metric(scores)),
        render_tests(scores.baseline_tests),
        render_classes(split),
        _chosen(scores),
        _samples(read_samples(run), scores.best_epoch),
        _pictures(run, scores.best_epoch) if info.task == "image-generation" else "",
        _signed(split),
        _calibrated(scores.calibration),
        notes,
        _time(info),
        f"Run folder: {run.folder}" + (f" (report: {run.report})" if run.report.exists() else ""),
    ]
    return "\n\n".join(part for part in parts if part)


def render_scores(
    split: SplitScores,
    baselines: Mapping[str, Mapping[str, SplitScores]],
    *,
    model: str = "best",
    chosen_by: str = "loss",
) -> str:
    """A row for the model (its folder, best or last) and each baseline, a column for each headline score.

    Scores of written text and of images stand in two tables, the one that chose the epoch first.
    """
    standing = {f"this model ({model}/)": split, **{name: by_split["test"] for name, by_split in baselines.items()}}
    drawn = is_of_images(split.scores)
    if not (drawn or is_written(split.scores)):
        return _score_table(standing, HEADLINES)
    first = headline_metrics(chosen_by, split.scores)
    second = [name for name in (MORE_IMAGE_HEADLINES if drawn else MORE_TEXT_HEADLINES) if name not in first]
    return f"{_score_table(standing, first)}\n\n{_score_table(standing, second)}"


def _score_table(standing: Mapping[str, SplitScores], metrics: Sequence[str]) -> str:
    """The scores that the first has."""
    ours = next(iter(standing.values())).scores
    names = [name for name in metrics if name in ours]
    rows = [
        [who, *(score_text(each.scores[name], name) if name in each.scores else "" for name in names)]
        for who, each in standing.items()
    ]
    return table(["", *names], rows)


def render_tests(tests: Mapping[str, PairedTest]) -> str:
    """The model against each baseline on the same documents, paired; empty without baselines."""
    if not tests:
        return ""
    first, metrics = next(iter(tests.values())), list(dict.fromkeys(test.metric for test in tests.values()))
    kind = "images" if is_of_image(first.metric) else "documents"
    unit = f"{first.documents:,} {kind}" if first.groups is None else f"{first.groups:,} groups of {kind}"
    sides = ("model better on", "baseline better on") if is_of_text(first.metric) or kind == "images" else (
        "only model right", "only baseline right")  # fmt: skip
    header = [f"paired on {unit}: {', '.join(metrics)}", "difference", "p", *sides]
    rows = [
        [f"against {name}" + (f" ({test.metric})" if len(metrics) > 1 else ""), difference_text(test),
         p_text(test.p).removeprefix("p ").removeprefix("= "), str(test.only_first_right), str(test.only_second_right)]
        for name, test in tests.items()
    ]  # fmt: skip
    return table(header, rows)


def render_classes(split: SplitScores) -> str:
    """Precision, recall, F1, the four rates and the support of every label; empty where there are no labels."""
    if not split.per_class:
        return ""
    columns = ("precision", "recall", "f1", "tpr", "fpr", "tnr", "fnr", "support")
    rows = [
        [visible(str(row["label"])), *(_cell(row.get(column)) for column in columns)]
        for row in split.per_class[:MOST_CLASSES]
    ]
    hidden = len(split.per_class) - MOST_CLASSES
    more = f"\n({hidden} more labels in scores.json)" if hidden > 0 else ""
    return table(["label", *columns], rows) + more


def scores_json(run: Run) -> Json:
    """What `--json` prints: where the run is and everything in scores.json."""
    return {"run": str(run.folder), **run.read(run.scores, Scores).model_dump(mode="json")}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first to the left; Chinese characters count as two cells."""
    widths = [max(_width(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell + " " * (width - _width(cell)) if i == 0 else " " * (width - _width(cell)) + cell
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def _opened(run: Run, split: SplitScores) -> str:
    return f"Test: {_counted(split)}, never used for choosing; {openings(run.folder)}.{approximate(split)}"


def approximate(split: SplitScores) -> str:
    """What the ~ before an interval means."""
    marked = {name: score.coverage for name, score in split.scores.items() if score.coverage is not None}
    shown = (*HEADLINES, *TEXT_HEADLINES, *MORE_TEXT_HEADLINES)
    named = [f"{name} {marked[name]:.0%}" for name in dict.fromkeys(shown) if name in marked]
    if not named:
        return ""
    why = "few documents or groups, or rare labels"
    return f"\n~ is approximate: {why}; in simulations of such cases coverage was as low as {', '.join(named)}."


def _calibrated(calibration: Calibration | None) -> str:
    """Temperature, thresholds, and what they did to the calibration error on test."""
    if calibration is None:
        return ""
    if calibration.folded:
        text = f"Calibrated on validation: temperature {calibration.temperature:.2f}, folded into the weights of best/"
    else:
        text = "Calibration: the temperature stays 1"
    if calibration.before is not None and calibration.after is not None:
        errors = [f"{each.ece:.3f}" for each in (calibration.before, calibration.after)]
        moved = f"{errors[0]} -> {errors[1]}" if calibration.folded else errors[0]
        text += f"; expected calibration error on test {moved}"
    thresholds = ", ".join(f"{visible(label)} {value:.2f}" for label, value in calibration.thresholds.items())
    return f"{text}{'; thresholds: ' + thresholds if thresholds else ''}."


def _chosen(scores: Scores) -> str:
    metric = scores.metric_for_best_model
    validation = scores.splits["validation"].scores.get(metric)
    value = f", {metric} {plain_score(validation.value, metric)} on validation" if validation is not None else ""
    return f"Best epoch: {scores.best_epoch:g} (step {scores.best_step}{value})." if scores.best_epoch else ""


def _samples(found: Sequence[Samples], best_epoch: float | None) -> str:
    """What the model in best/ wrote for the first of the documents whose texts are kept."""
    chosen = next((each for each in found if each.epoch == best_epoch), None)
    if chosen is None or not chosen.texts:
        return ""
    shown = "\n\n".join(map(_sample, chosen.texts[:MOST_SAMPLES]))
    return f"Written after epoch {chosen.epoch:g} for validation documents:\n\n{shown}"


def _pictures(run: Run, best_epoch: float | None) -> str:
    """Where to look at what was drawn, and whether it is nearer to the training images than real ones are."""
    grid = run.samples / f"{best_epoch:g}" / "grid.png" if best_epoch is not None else None
    lines = [f"Drawn after epoch {best_epoch:g}: {grid}"] if grid is not None and grid.is_file() else []
    told = run.figures / "nearest.json"
    if told.is_file():
        found = run.read(told, Neighbours)
        lines.append(
            f"Nearer to a training image than 95 % of the real {found.split} images are: {found.near_share:.1%} of "
            f"{found.drawn:,} drawn ones (about 5 % of new images would be); exact copies: {found.copies:,}."
        )
    return "\n".join(lines)


def _sample(text: ShownText) -> str:
    written = text.prediction if text.prediction.strip() else "(nothing)"
    lines = [("given", text.prompt), ("reference", text.reference), ("written", written)]
    shown = "\n".join(f"  {name:<9}  {visible(line, SAMPLE_CHARACTERS)}" for name, line in lines)
    return shown + (" (cut off by the length limit)" if text.cut else "")


def _signed(split: SplitScores) -> str:
    return "\n".join(f"{metric}: {signature}" for metric, signature in split.signatures.items())


def _time(info: RunInfo) -> str:
    seconds = ", ".join(f"{name} {_minutes(value)}" for name, value in info.seconds.items())
    padding = f"; padding {info.padding_share:.1%} of all tokens" if info.padding_share is not None else ""
    filled = f"; blocks filled {info.fill_rate:.1%}" if info.fill_rate is not None else ""
    return f"{info.steps} steps on {info.device}, {seconds}{padding}{filled}."


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def openings(folder: str | Path) -> str:
    """How often the test split of a run was looked at: `opened once`."""
    count = len(read_json_lines(Run(folder).test_openings))
    return "opened once" if count == 1 else f"opened {count} times"


def _note(text: str) -> str:
    warning = text.removeprefix(WARNING)
    return f"Warning: {warning}" if warning != text else f"Note: {text}"


def _counted(split: SplitScores) -> str:
    """`400 documents`, `270 images`."""
    count = next(iter(split.scores.values())).n
    return f"{count} images" if is_of_images(split.scores) else f"{count} documents"


def _cell(value: object) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _width(text: str) -> int:
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
