"""What the pages are made of: sections, tables that scroll in their own box, scores with their intervals, notes."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from finetune.data.text_steps import visible
from finetune.progress import WARNING
from finetune.report import plots
from finetune.report.page import Child, Markup, document, tag
from finetune.report.sentences import (
    Outcome,
    Tested,
    coverages,
    difference_text,
    interval_text,
    is_of_images,
    number,
)
from finetune.report.strings import Words
from finetune.run_files import Score
from finetune.scores.paired import greater_is_better

LONGEST_LABEL = 200
HEADLINES = ("accuracy", "f1_macro", "log_loss")  # beside the metric that chose the epoch
TEXT_HEADLINES = ("loss", "bleu", "chrf")  # of written text
IMAGE_HEADLINES = ("coverage", "recall", "conditional_accuracy", "train_on_synthetic")  # of drawn images
MORE_IMAGE_HEADLINES = (
    *("elbo", "bits_per_dimension", "reconstruction_error", "fid", "kid", "kernel_distance", "frechet_distance"),
    "precision",
)
MORE_TEXT_HEADLINES = ("perplexity", "nats_per_character", "rouge_l", "exact_match", "length_ratio", "cut_share")

Block = tuple[str, str, Sequence[Child]]  # anchor, heading, what is under it


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and whether it holds numbers (n), text (t) or a plot."""

    heading: Child
    kind: str | None = "n"


def framed(
    title: str,
    header: Markup,
    sentences: Sequence[str],
    outcome: Outcome,
    first: Sequence[Child],
    blocks: Sequence[Block],
    *,
    words: Words,
) -> str:
    """A whole page: verdict, what belongs on the first screen, links, then the blocks that have something in them."""
    sections = [
        (anchor, heading, made) for anchor, heading, inside in blocks if (made := _section(anchor, heading, inside))
    ]
    links: list[Child] = [[tag("a", heading, href=f"#{anchor}"), " "] for anchor, heading, _ in sections]
    return document(
        title,
        [header, "\n", verdict(sentences, outcome), "\n", first, "\n"],
        tag("nav", links, aria_label=words("contents")) if links else None,
        [["\n", made] for *_, made in sections],
        words=words,
    )


def many_page(
    folder: Path,
    kind: str,
    about: Sequence[str | None],
    sentences: Sequence[str],
    outcome: Outcome,
    first: Sequence[Child],
    blocks: Sequence[Block],
    *,
    words: Words,
) -> str:
    """The page of a folder of several runs; `about` is what stands under its name."""
    name, shown = folder.absolute().name, words(f"kind.{kind}")
    meta = " · ".join(part for part in [shown, *about] if part)
    header = tag("header", tag("h1", name), tag("p", meta, class_="meta"))
    title = words("title.many", name=name, kind=shown)
    return framed(title, header, sentences, outcome, first, blocks, words=words)


def linked(name: str, place: str, folder: Path) -> Child:
    """The name of a run, linked to its report where there is one."""
    if Path(place).is_absolute() or not (folder / place / "report.html").is_file():
        return label(name)
    return tag("a", label(name), href=f"{quote(place)}/report.html")


def _section(anchor: str, heading: str, blocks: Sequence[Child]) -> Markup | None:
    filled = [block for block in blocks if block]
    return tag("section", "\n", tag("h2", heading), "\n", filled, "\n", id=anchor) if filled else None


def verdict(sentences: Sequence[str], outcome: Outcome) -> Markup:
    return tag("div", [tag("p", sentence) for sentence in sentences], class_=f"verdict {outcome}", role="note")


def table(
    caption: str | None,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Child]],
    *,
    classes: str | None = None,
    ours: int | None = None,
) -> Markup | None:
    """A table whose first cells head their rows; columns that are empty in every row are left out.

    `ours` is the number of the row in bold. None for no rows.
    """
    kept = [i for i in range(len(columns)) if any(row[i] not in (None, "") for row in rows)]
    if not kept:
        return None
    head = tag("tr", [_heading(columns[i], first=i == kept[0]) for i in kept])
    lines = [
        tag(
            "tr",
            [
                tag("th", row[i], scope="row", class_="name")
                if i == kept[0]
                else tag("td", row[i], class_=columns[i].kind)
                for i in kept
            ],
            class_="ours" if index == ours else None,
        )
        for index, row in enumerate(rows)
    ]
    inside = [tag("caption", tag("span", caption)) if caption else None, tag("thead", head), "\n"]
    whole = tag("table", inside, tag("tbody", [[line, "\n"] for line in lines]), class_=classes)
    return scrolling(whole, caption)


def _heading(column: Column, *, first: bool) -> Markup:
    if column.heading == "":
        return tag("td")
    return tag("th", column.heading, scope="col", class_=None if first else column.kind)


def scrolling(inside: Markup, label: str | None) -> Markup:
    """A box of its own for what may be wider than a phone; the keyboard can scroll it."""
    return tag("div", inside, class_="scroll", tabindex=0, role="group", aria_label=label)


def score_cell(score: Score | None, metric: str | None = None) -> Child:
    if score is None:
        return ""
    if score.value is None:
        return tag("span", "n/a", title=score.note)
    interval = interval_text(score, metric)
    return [number(score.value, metric), tag("span", " ", interval, class_="ci") if interval else None]


def difference_cell(test: Tested, *, named: bool = False) -> Child:
    """The difference with its interval; `named` says of which score."""
    value, _, interval = difference_text(test).partition(" ")
    metric = [test.metric, " "] if named else None
    return [metric, value, tag("span", " ", interval, class_="ci") if interval else None]


def range_cell(value: object, ends: Sequence[float | None] | None) -> Child:
    """A share of a label with its interval."""
    if not isinstance(value, float | int):
        return "n/a"
    if not ends or ends[0] is None or ends[1] is None:
        return number(float(value))
    return [number(float(value)), tag("span", f" [{number(ends[0])}, {number(ends[1])}]", class_="ci")]


def headline_metrics(first: str, names: Collection[str]) -> list[str]:
    """The metric that chose the epoch, then what is looked at first of labels, of written text or of drawn images."""
    others = TEXT_HEADLINES if is_written(names) else IMAGE_HEADLINES if is_of_images(names) else HEADLINES
    return [name for name in dict.fromkeys([first, *others]) if name in names]


def is_written(names: Container[str]) -> bool:
    """Whether scores of these names are of written text."""
    return "chrf" in names or "perplexity" in names


def metric_heading(metric: str) -> str:
    """The name, with an arrow down where lower is better, and `→1` where 1 is best."""
    if metric == "length_ratio":
        return f"{metric} →1"
    return metric if greater_is_better(metric) else f"{metric} ↓"


def breakable(heading: str) -> Child:
    """A heading that may go on in the next line after an underscore."""
    head, *rest = heading.split("_")
    return [head, [["_", tag("wbr"), part] for part in rest]]


def strip_column(
    scores: Sequence[Score | None],
    *,
    ours: Container[int] | None,
    reference: float | None = None,
    dots: Mapping[int, Sequence[float]] = {},
) -> tuple[Child, list[Child]]:
    """The axis and the strips of a column of scores on one scale.

    `ours` are the rows drawn in blue, None for all; `dots` are the values behind a mean, by row.
    """
    values = [value for each in dots.values() for value in each]
    known = [score for score in scores if score is not None]
    scale = plots.strip_scale(known, others=[*values, *([reference] if reference is not None else [])])
    if scale is None:
        return "", ["" for _ in scores]
    cells: list[Child] = [
        plots.strip(
            score,
            scale,
            style="blue" if ours is None or index in ours else "grey",
            reference=reference,
            dots=dots.get(index, ()),
        )
        if score is not None
        else ""
        for index, score in enumerate(scores)
    ]
    return plots.strip_axis(scale), cells


def approximate_note(scores: Iterable[tuple[str, Score]], words: Words) -> Markup | None:
    """The footnote of ~: how often such intervals contained the truth."""
    found = coverages(scores)
    if not found:
        return None
    shares = sorted(set(found.values()))
    if len(shares) == 1:
        return foot(words("note.approximate", share=shares[0]))
    each = words.listed([f"{name} {share} %" for name, share in found.items()])
    return foot(words("note.approximate_each", shares=each))


def foot(*children: Child) -> Markup:
    return tag("p", *children, class_="foot")


def facts(pairs: Iterable[tuple[str, Child]]) -> Markup | None:
    """Names and values; a value that is None or empty is left out."""
    shown = [(name, value) for name, value in pairs if value not in (None, "")]
    return tag("dl", [[tag("dt", name), tag("dd", value)] for name, value in shown]) if shown else None


def notes(lines: Iterable[str], words: Words) -> Markup | None:
    """Notes as the run wrote them, in English; warnings come first and are marked."""
    unique = list(dict.fromkeys(lines))
    ordered = sorted(unique, key=lambda line: not line.startswith(WARNING))
    items = [
        tag(
            "li",
            [tag("span", words("warning"), class_="warn"), " "] if line.startswith(WARNING) else None,
            tag("span", line.removeprefix(WARNING), lang=words.foreign),
        )
        for line in ordered
    ]
    return tag("ul", items, class_="notes") if items else None


def command(text: str) -> Markup:
    return tag("pre", tag("code", text), class_="command")


def train_command(folder: Path, override: str) -> str:
    """`finetune train runs/hotel-1/recipe.yaml training.num_train_epochs=2`, as a shell reads it."""
    recipe = Path(*folder.absolute().parts[-2:]) / "recipe.yaml"
    return shlex.join(["finetune", "train", str(recipe), override])


def label(text: object) -> str:
    """A label, a group or a column's value, on one line."""
    return visible(" | ".join(map(str, text)) if isinstance(text, list) else str(text), LONGEST_LABEL)


def count(value: object) -> str:
    """`1,260`; 0.31 as it is; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"


def share(value: object) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else ""


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def by_split(found: Mapping[str, Mapping[str, object]], names: Mapping[str, str]) -> list[list[Child]]:
    """A row for each figure of `names` (key -> words), a column for each split."""
    return [
        [shown, *(count(each.get(key)) for each in found.values())]
        for key, shown in names.items()
        if any(key in each for each in found.values())
    ]
