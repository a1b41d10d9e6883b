"""From a recipe to prepared splits: read, cleaned, labelled, divided, fingerprinted, and told in data.json.

The one place that knows the order of the data steps. It needs no model and no torch; windows are cut later, by the
model's own tokenizer.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt

from finetune.data.cleaning import StepReport, check_texts, clean, progress_bars
from finetune.data.corpora import CORPORA
from finetune.data.duplicates import content_hash, families
from finetune.data.labels import LabelMap, read_labels
from finetune.data.sources import ColumnMap, Loaded, load_examples
from finetune.data.splits import assign_splits, split_off, split_report
from finetune.errors import DataError, GateFailed, Problem, listed
from finetune.progress import Progress
from finetune.recipe import SPLITS, Columns, Split
from finetune.recipe_file import LoadedRecipe
from finetune.runs import Json

WHOLE = "all"
ROWS_WORTH_A_BAR = 10_000  # fewer are cleaned in about a second


@dataclass(frozen=True)
class Prepared:
    """The three splits. Each dataset has id, text, label, group, origin; `encoded` has their label numbers, row by row.

    `families` numbers exact duplicates over all splits in the order train, validation, test. `report` is data.json.
    """

    splits: dict[str, datasets.Dataset]
    labels: LabelMap
    encoded: dict[str, list[Any]]
    families: dict[str, npt.NDArray[np.int64]]
    fingerprint: str
    report: Json
    warnings: list[str]

    def split_table(self) -> dict[str, list[Any]]:
        """Columns of splits.parquet: who went where, never a text."""
        table: dict[str, list[Any]] = {key: [] for key in ("id", "content_hash", "group", "family", "split", "fold")}
        for name, rows in self.splits.items():
            table["id"].extend(rows["id"])
            table["content_hash"].extend(content_hash(text) for text in rows["text"])
            table["group"].extend(rows["group"])
            table["family"].extend(self.families[name].tolist())
            table["split"].extend([name] * len(rows))
            table["fold"].extend([None] * len(rows))
        return table


def prepare(loaded: LoadedRecipe, *, progress: Progress) -> Prepared:
    """Run the data half of a recipe. Raises DataError or EnvironmentFault; writes nothing."""
    recipe = loaded.recipe
    data = recipe.data
    source = load_examples(
        data.source,
        columns=column_map(data.columns),
        base=loaded.base,
        multi_label=data.multi_label,
        encoding=data.encoding,
        limit=data.limit,
        seed=recipe.seed,
        corpora=_watched_corpora(progress),
    )
    for note in source.notes:
        progress.say(note)
    takes_long = sum(map(len, source.splits.values())) > ROWS_WORTH_A_BAR
    cleaned, steps = clean(source.splits, recipe.cleaning, progress=takes_long and not progress.quiet)
    check_texts(cleaned)
    labels, label_warnings = read_labels(cleaned, multi_label=data.multi_label, expected=data.labels)
    named = {name: with_label_names(rows, labels) for name, rows in cleaned.items()}
    splits, split_notes = divide(named, settings=data.split, seed=recipe.seed)
    splits = {name: splits[name] for name in SPLITS}
    texts = [text for rows in splits.values() for text in rows["text"]]
    family_of_row = families(texts)
    bounds = np.cumsum([len(rows) for rows in splits.values()])[:-1]
    family_parts = dict(zip(splits, np.split(family_of_row, bounds), strict=True))
    encoded = {name: [labels.encode(label) for label in rows["label"]] for name, rows in splits.items()}
    cleaning_notes = [note for step in steps for note in step.notes]
    report = _report(source, steps, splits, labels, family_parts, settings=data.split)
    warnings = [*source.warnings, *label_warnings, *cleaning_notes, *split_notes, *report["splits"]["notes"]]
    return Prepared(
        splits=splits,
        labels=labels,
        encoded=encoded,
        families=family_parts,
        fingerprint=_fingerprint(splits),
        report=report | {"warnings": warnings},
        warnings=warnings,
    )


def column_map(columns: Columns) -> ColumnMap:
    return ColumnMap(text=columns.text, label=columns.label, group=columns.group, id=columns.id)


def with_label_names(rows: datasets.Dataset, labels: LabelMap) -> datasets.Dataset:
    """The rows with every label written as the label map names it: `TRUE` as `true`, ` pos` as `pos`."""

    def names(label: Any) -> Any:
        number = labels.encode(label)
        return [labels.names[each] for each in number] if isinstance(number, list) else labels.names[number]

    given = rows["label"][:]
    written = [names(label) for label in given]
    if written == given:
        return rows
    with progress_bars(False):
        renamed = rows.remove_columns("label").add_column("label", written, feature=rows.features["label"])
    return renamed.select_columns(rows.column_names)


def divide(
    splits: dict[str, datasets.Dataset], *, settings: Split, seed: int
) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """One piece becomes three splits; a part the user brought stays whole, and a missing one is taken from train."""
    if WHOLE in splits:
        rows = splits[WHOLE]
        assigned = assign_splits(
            _label_keys(rows),
            ratios=settings.shares,
            groups=rows["group"],
            families=families(rows["text"]),
            stratify=settings.stratify,
            seed=seed,
        )
        return {name: rows.select(np.flatnonzero(assigned == name)) for name in SPLITS}, []
    _refuse_shared_groups(splits)
    divided, notes = dict(splits), []
    for missing in [name for name in ("test", "validation") if name not in divided]:
        rows = divided["train"]
        share = settings.shares[missing] / (1 - sum(settings.shares[name] for name in divided if name != "train"))
        taken = split_off(
            _label_keys(rows),
            share=share,
            seed=seed,
            groups=rows["group"],
            families=families(rows["text"]),
            stratify=settings.stratify,
        )
        divided["train"] = rows.select(np.flatnonzero(taken == "train"))
        divided[missing] = rows.select(np.flatnonzero(taken == "validation"))
        notes.append(f"no {missing} part was given: {len(divided[missing])} rows were taken from train")
    for name in SPLITS:
        if not len(divided[name]):
            raise DataError(f"data.source.{name}", "has no rows")
    return divided, notes


def _refuse_shared_groups(splits: dict[str, datasets.Dataset]) -> None:
    """Parts the user brought must keep each group on one side. Raises GateFailed naming what would leak."""
    groups = {name: {group for group in rows["group"] if group is not None} for name, rows in splits.items()}
    problems = [
        Problem(
            "data.columns.group",
            f"{len(shared):,} groups are both in {one} and in {other} ({listed(sorted(shared), most=3)})",
            "Give each group to one part, bring the data as one source, or leave the group out.",
        )
        for one, other in itertools.combinations(groups, 2)
        if (shared := groups[one] & groups[other])
    ]
    if problems:
        raise GateFailed.of(problems)


def _watched_corpora(progress: Progress) -> dict[str, Callable[[], Iterable[dict[str, str]]]]:
    """The built-in corpora, each behind a bar: reading a library takes seconds."""

    def watched(name: str) -> Callable[[], Iterable[dict[str, str]]]:
        return lambda: progress.bar(iterable=CORPORA[name](), desc=f"reading {name}", unit="text", leave=False)

    return {name: watched(name) for name in CORPORA}


def _label_keys(rows: datasets.Dataset) -> list[str | tuple[str, ...]]:
    return [tuple(label) if isinstance(label, list) else str(label) for label in rows["label"]]


def _fingerprint(splits: dict[str, datasets.Dataset]) -> str:
    """sha256 over every row's split, id, text, label and group, in order."""
    digest = hashlib.sha256()
    for name, rows in splits.items():
        for row in rows:
            parts = (name, row["id"], row["text"], repr(row["label"]), row["group"] or "")
            digest.update("\x1f".join(parts).encode("utf-8", errors="surrogatepass") + b"\x1e")
    return digest.hexdigest()


def _report(
    source: Loaded,
    steps: list[StepReport],
    splits: dict[str, datasets.Dataset],
    labels: LabelMap,
    family_parts: dict[str, npt.NDArray[np.int64]],
    *,
    settings: Split,
) -> Json:
    assigned = np.concatenate([np.full(len(rows), name) for name, rows in splits.items()])
    keys = [key for rows in splits.values() for key in _label_keys(rows)]
    groups = [group for rows in splits.values() for group in rows["group"]]
    sizes = Counter(np.concatenate(list(family_parts.values())).tolist())
    return {
        "format_version": 1,
        "files": [asdict(item) for item in source.files],
        "notes": source.notes,
        "cleaning": [asdict(step) for step in steps],
        "labels": list(labels.names),
        "multi_label": labels.multi_label,
        "splits": split_report(
            assigned,
            labels=keys,
            ratios=settings.shares if WHOLE in source.splits else {n: len(r) / len(keys) for n, r in splits.items()},
            groups=groups,
            families=np.concatenate(list(family_parts.values())),
        ),
        "label_counts": {name: _label_counts(rows) for name, rows in splits.items()},
        "groups": {name: len({group for group in rows["group"] if group is not None}) for name, rows in splits.items()},
        "duplicate_families": {
            "families": sum(size > 1 for size in sizes.values()),
            "rows": sum(s for s in sizes.values() if s > 1),
        },
    }


def _label_counts(rows: datasets.Dataset) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for label in rows["label"]:
        counts.update(label if isinstance(label, list) else [label])
    return dict(sorted(counts.items()))
