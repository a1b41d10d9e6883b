"""The last screen of a run: per-class and overall test scores beside the baselines, read from the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import east_asian_width

from finetune.data.text_steps import visible
from finetune.progress import WARNING
from finetune.runs import Json, Run, RunInfo, Score, Scores, SplitScores, read_json_lines

HEADLINES = ("accuracy", "f1_macro", "f1_weighted", "roc_auc", "log_loss", "loss")
LOSSES = ("loss", "log_loss", "error_rate")
MOST_CLASSES = 30
BEST_ROW = "this model (best/)"


def render_summary(run: Run) -> str:
    """The whole screen as text."""
    info, scores = run.read(run.info, RunInfo), run.read(run.scores, Scores)
    split = scores.splits["test"]
    notes = "\n".join(_note(note) for note in (*info.notes, *scores.notes))
    parts = [
        verdict(scores),
        f"Test: {_count(split)} documents, never used for choosing; {openings(run.folder)}.",
        render_scores(split, scores.baselines),
        render_classes(split),
        _chosen(scores),
        notes,
        _time(info),
        f"Run folder: {run.folder}",
    ]
    return "\n\n".join(part for part in parts if part)


def verdict(scores: Scores) -> str:
    """One sentence: the model against the baseline that is strongest on validation, by the selection metric."""
    metric = scores.metric_for_best_model
    rising = metric not in LOSSES
    known = {
        name: value
        for name, by_split in scores.baselines.items()
        if (score := by_split["validation"].scores.get(metric)) is not None and (value := score.value) is not None
    }
    ours = scores.splits["test"].scores[metric]
    if not known or ours.value is None:
        return ""
    strongest = max(known, key=lambda name: known[name] if rising else -known[name])
    theirs = scores.baselines[strongest]["test"].scores[metric]
    if theirs.value is None:
        return ""
    better = ours.value > theirs.value if rising else ours.value < theirs.value
    opening = "This model is ahead of" if better else "This model does NOT beat"
    values = f"test {metric} {_with_interval(ours)} against {_with_interval(theirs)}"
    text = f"{opening} the strongest baseline, {strongest}: {values}."
    return text + (" The intervals overlap: the difference may be chance." if better and _overlap(ours, theirs) else "")


def _overlap(one: Score, other: Score) -> bool:
    bounds = (one.low, one.high, other.low, other.high)
    if None in bounds:
        return False
    return max(one.low or 0.0, other.low or 0.0) <= min(one.high or 0.0, other.high or 0.0)


def render_scores(split: SplitScores, baselines: Mapping[str, Mapping[str, SplitScores]]) -> str:
    """A row for the model and each baseline, a column for each headline score with its 95 % interval."""
    names = [name for name in HEADLINES if name in split.scores]
    rows = [[BEST_ROW, *(_with_interval(split.scores[name]) for name in names)]]
    for baseline, by_split in baselines.items():
        theirs = by_split["test"].scores
        rows.append([baseline, *(_with_interval(theirs[name]) if name in theirs else "" for name in names)])
    return table(["", *names], rows)


def render_classes(split: SplitScores) -> str:
    """Precision, recall, F1, the four rates and the support of every label."""
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


def _chosen(scores: Scores) -> str:
    metric = scores.metric_for_best_model
    validation = scores.splits["validation"].scores.get(metric)
    value = f", {metric} {_cell(validation.value)} on validation" if validation is not None else ""
    return f"Best epoch: {scores.best_epoch:g} (step {scores.best_step}{value})." if scores.best_epoch else ""


def _time(info: RunInfo) -> str:
    seconds = ", ".join(f"{name} {_minutes(value)}" for name, value in info.seconds.items())
    padding = f"; padding {info.padding_share:.1%} of all tokens" if info.padding_share is not None else ""
    return f"{info.steps} steps on {info.device}, {seconds}{padding}."


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def openings(folder: str | Path) -> str:
    """How often the test split of a run was looked at: `opened once`."""
    count = len(read_json_lines(Run(folder).test_openings))
    return "opened once" if count == 1 else f"opened {count} times"


def _note(text: str) -> str:
    warning = text.removeprefix(WARNING)
    return f"Warning: {warning}" if warning != text else f"Note: {text}"


def _count(split: SplitScores) -> int:
    return next(iter(split.scores.values())).n


def _with_interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return _cell(score.value)
    return f"{_cell(score.value)} [{_cell(score.low)}, {_cell(score.high)}]"


def _cell(value: object) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _width(text: str) -> int:
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
