"""What a score rests on: the data and what was done to it, who looked at the test split, machine and recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.progress import size_text
from finetune.report.page import Child, Markup, joined, tag
from finetune.report.parts import (
    Column,
    by_split,
    count,
    duration,
    facts,
    foot,
    label,
    notes,
    share,
    table,
)
from finetune.report.strings import Words
from finetune.run_files import RunInfo
from finetune.runs import Json

MOST_LABELS = 200
MOST_PAIRS = 5
CHARACTERS = ("median", "p90", "p95", "p99", "max")
TOKENS = (
    *("documents", "tokens", "window_tokens", "median", "p90", "p95", "p99", "longest", "over_one_window"),
    *("windows_mean", "windows_most", "truncation_tokens"),
)
FAMILIES = (
    *("exact_families", "rows_in_exact_families", "near_families", "rows_in_families", "largest"),
    *("rows_too_short_to_compare", "rows_too_plain_to_compare"),
)
COUNTED_LEAKS = ("exact", "near", "in_groups", "leaking")


def data(report: Json, words: Words) -> list[Child]:
    """Sources, how images were read, cleaning, duplicate families, splits and labels."""
    return [
        _sources(report, words),
        _images(report, words),
        _cleaning(report, words),
        _families(report, words),
        _splits(report, words),
        _labels(report, words),
        _augmentation(report, words),
        notes([*report.get("notes", []), *report.get("warnings", [])], words),
    ]


def _sources(report: Json, words: Words) -> Markup | None:
    rows: list[list[Child]] = [
        [label(each.get("name")), count(each.get("rows")), count(each.get("bytes")), label(each.get("encoding") or ""),
         tag("code", str(each.get("sha256") or ""), class_="sha")]
        for each in report.get("files", [])
    ]  # fmt: skip
    columns = [
        Column(words("source")), Column(words("rows")), Column(words("bytes")), Column(words("encoding"), "t"),
        Column("sha256", "t"),
    ]  # fmt: skip
    return _headed(words("sources"), table(None, columns, rows))


def _images(report: Json, words: Words) -> Markup | None:
    """What became of images on their way to the network; nothing of a table of texts."""
    found = report.get("images") or {}
    sizes = [" × ".join(f"{side:,}" for side in found[key]) for key in ("smallest", "largest") if found.get(key)]
    original = words("image_facts.sizes", least=sizes[0], most=sizes[-1]) if len({*sizes}) > 1 else "".join(sizes[:1])
    changed = [f"{what}: {count(images)}" for what, images in (found.get("changed") or {}).items()]
    pixels = [
        words("image_facts.per_channel", mean=f"{mean:.3f}", deviation=f"{deviation:.3f}")
        for mean, deviation in zip(found.get("train_mean", []), found.get("train_deviation", []), strict=True)
    ]
    listed = facts(
        [
            (words("image_facts.resizing"), found.get("resizing")),
            (words("image_facts.values"), found.get("values")),
            (words("image_facts.original"), original),
            (words("image_facts.changed"), "; ".join(changed)),
            (words("image_facts.skipped"), count(found.get("skipped") or None)),
            (words("image_facts.pixels"), "; ".join(pixels)),
        ]
    )
    return _headed(words("image_facts"), listed)


def _cleaning(report: Json, words: Words) -> Markup | None:
    steps = report.get("cleaning", [])
    rows: list[list[Child]] = [
        [label(each.get("name")), *(count(each.get(key)) for key in ("changed", "dropped", "rows_after"))]
        for each in steps
    ]
    columns = [Column(words(key)) for key in ("cleaning.step", "cleaning.changed", "cleaning.dropped", "cleaning.left")]
    told = notes([f"{each.get('name')}: {note}" for each in steps for note in each.get("notes", [])], words)
    return _headed(words("cleaning"), table(words("cleaning.caption"), columns, rows), told)


def _families(report: Json, words: Words) -> Markup | None:
    found = report.get("duplicate_families") or {}
    listed = facts([(words(f"families.{key}"), count(found[key])) for key in FAMILIES if key in found])
    return _headed(words("families"), listed, foot(words("families.about")))


def _splits(report: Json, words: Words) -> Markup | None:
    found = report.get("splits") or {}
    shares, groups = found.get("shares") or {}, report.get("groups") or {}
    rows: list[list[Child]] = [
        [words.known("split", name), count(size), share(shares.get(name)), count(groups.get(name) or None)]
        for name, size in (found.get("sizes") or {}).items()
    ]
    columns = [Column(words(key)) for key in ("split", "documents", "share", "groups")]
    return _headed(words("splits"), table(None, columns, rows), notes(found.get("notes", []), words))


def _labels(report: Json, words: Words) -> Markup | None:
    counts: Mapping[str, Mapping[str, int]] = report.get("label_counts") or {}
    names = list(report.get("labels") or dict.fromkeys(name for each in counts.values() for name in each))
    rows: list[list[Child]] = [
        [label(name), *(count(each.get(name, 0)) for each in counts.values())] for name in names[:MOST_LABELS]
    ]
    columns = [Column(words("label")), *(Column(words.known("split", split)) for split in counts)]
    hidden = len(names) - MOST_LABELS
    more = foot(words("labels.hidden", n=f"{hidden:,}")) if hidden > 0 else None
    return _headed(words("labels.counts"), table(None, columns, rows) if counts else None, more)


def _augmentation(report: Json, words: Words) -> Markup | None:
    found = report.get("augmentation") or {}
    plain = [(key.replace("_", " "), value) for key, value in found.items() if isinstance(value, int | float | str)]
    return _headed(words("augmentation"), facts([(key, label(count(value))) for key, value in plain]))


def leaks(report: Json, words: Words) -> list[Child]:
    """What later splits share with earlier ones: as the splits were brought, and as they are now."""
    found = report.get("leaks") or {}
    left = found.get("left") or []
    if not found:
        return []
    total = sum(int(each.get("leaking") or 0) for each in left)
    return [
        tag("p", words("leaks.clean") if not total else words("leaks.found", n=f"{total:,}")),
        tag("p", words("leaks.policy", policy=str(found["policy"]))) if found.get("brought") is not None else None,
        _overlaps(words("leaks.brought"), found.get("brought") or [], words),
        _overlaps(words("leaks.left"), left, words),
    ]


def _overlaps(caption: str, overlaps: Sequence[Mapping[str, Any]], words: Words) -> Markup | None:
    rows: list[list[Child]] = [
        [f"{words.known('split', str(each.get('earlier')))} → {words.known('split', str(each.get('later')))}",
         count(each.get("rows")), *(count(each.get(kind)) for kind in COUNTED_LEAKS)]
        for each in overlaps
    ]  # fmt: skip
    columns = [Column(words("leaks.splits")), Column(words("leaks.rows"))]
    columns += [Column(words(f"leaks.{kind}")) for kind in COUNTED_LEAKS]
    pairs = [
        words("leaks.pair", one=label(pair.get("origin")), other=label(pair.get("twin")),
              similarity=f"{pair.get('similarity') or 0:.2f}")
        for each in overlaps
        for pair in [*each.get("exact_pairs", []), *each.get("near_pairs", [])]
    ]  # fmt: skip
    shown = tag("ul", [tag("li", pair) for pair in pairs[:MOST_PAIRS]], class_="notes") if pairs else None
    return joined(table(caption, columns, rows), shown) if rows else None


def lengths(report: Json, words: Words) -> list[Child]:
    """How long the documents are in tokens, and what truncation would lose; without windows, in characters."""
    windows: Mapping[str, Mapping[str, Any]] = report.get("windows") or {}
    audits = {name: each["lengths"] for name, each in windows.items() if each.get("lengths")}
    audits = audits or {name: each for name, each in windows.items() if isinstance(each, Mapping)}
    characters = report.get("characters") or {}
    cut = sum(int(each.get("tokens_cut") or 0) for each in windows.values())
    cut_documents = sum(int(each.get("documents_cut") or 0) for each in windows.values())
    told = words("lengths.cut", tokens=f"{cut:,}", documents=f"{cut_documents:,}") if cut else words("lengths.whole")
    return [
        tag("p", told) if windows else None,
        length_table(words("lengths.in_tokens"), audits, length_names(TOKENS, words), words),
        length_table(words("lengths.in_characters"), characters, length_names(CHARACTERS, words), words),
    ]


def length_names(keys: Sequence[str], words: Words) -> dict[str, str]:
    return {key: words(f"lengths.{key}") for key in keys}


def length_table(
    caption: str, found: Mapping[str, Mapping[str, object]], names: Mapping[str, str], words: Words
) -> Markup | None:
    """A row for each figure of `names` (key -> words), a column for each split; None for no rows."""
    rows = by_split(found, names)
    columns = [Column(words("lengths.figure")), *(Column(words.known("split", split)) for split in found)]
    return table(caption, columns, rows) if rows else None


def openings(found: Sequence[Json], words: Words) -> list[Child]:
    """Every look at the test split."""
    rows: list[list[Child]] = [
        [str(each.get("when", "")), words.known("opened_by", str(each.get("by", ""))), count(each.get("documents"))]
        for each in found
    ]
    told = words("openings.once") if len(found) == 1 else words("openings.times", n=len(found))
    columns = [Column(words("openings.when")), Column(words("openings.by"), "t"), Column(words("documents"))]
    return [tag("p", told if found else words("openings.never")), table(None, columns, rows)]


def environment(info: RunInfo, words: Words) -> list[Child]:
    seconds = [(words("env.seconds", what=words.known("stage", key)), duration(v)) for key, v in info.seconds.items()]
    listed = facts(
        [
            (words("env.started"), info.started),
            (words("env.finished"), info.finished),
            (words("env.device"), info.device),
            (words("env.platform"), info.platform),
            (words("env.processes"), count(info.processes)),
            (words("env.threads"), count(info.threads)),
            (words("env.model"), info.model_origin),
            (words("env.parameters"), count(info.parameters)),
            (words("env.trainable"), count(info.trainable_parameters)),
            (words("env.optimizer"), size_text(info.optimizer_bytes) if info.optimizer_bytes else None),
            (words("env.memory"), size_text(info.peak_memory_bytes) if info.peak_memory_bytes else None),
            (words("env.steps"), count(info.steps)),
            (words("env.tokens"), count(info.training_tokens)),
            (words("env.padding"), share(info.padding_share)),
            (words("env.fill"), share(info.fill_rate)),
            *seconds,
            (words("env.seed"), str(info.seed)),
            (words("env.git"), tag("code", info.git_revision) if info.git_revision else None),
            (words("env.data"), tag("code", info.data_fingerprint, class_="sha")),
        ]
    )
    versions: list[list[Child]] = [[name, version] for name, version in info.versions.items()]
    columns = [Column(words("env.package")), Column(words("env.version"), "t")]
    return [listed, table(words("env.versions"), columns, versions)]


def recipe(text: str, words: Words) -> list[Child]:
    if not text:
        return []
    return [tag("p", words("recipe.about")), tag("pre", tag("code", text.rstrip("\n")))]


def _headed(heading: str, *blocks: Markup | None) -> Markup | None:
    """Blocks under a small heading; None when the first of them is empty."""
    return joined(tag("h3", heading), blocks) if blocks[0] is not None else None
