"""data.json: what was read, cleaned, found twice and divided, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import datasets
import numpy as np
import pyarrow.compute as pc

from finetune.data.blocks import column_numbers
from finetune.data.cleaning import StepReport
from finetune.data.division import Division
from finetune.data.labels import LabelMap
from finetune.data.near_duplicates import Families
from finetune.data.row_streams import Splits, batches, values
from finetune.data.sources import Loaded
from finetune.data.written_examples import chat_messages
from finetune.recipe_data import Form
from finetune.runs import Json

LENGTH_PERCENTILES = {"median": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}


def data_report(
    source: Loaded,
    steps: Sequence[StepReport],
    families: Families,
    division: Division,
    splits: Splits,
    *,
    labels: LabelMap,
    form: Form | None,
) -> Json:
    """The parts of data.json but what was learnt from train; `splits` are the finished ones.

    What `splits`, `duplicate_families` and `leaks` say is of the rows before copies were added. Of text to write there
    are no labels, but its form and the lengths of its targets.
    """
    told: Json = {"labels": list(labels.names), "multi_label": labels.multi_label}
    counts: Json = {"label_counts": {name: _label_counts(rows) for name, rows in splits.items()}}
    lengths: Json = {"characters": {name: _lengths(rows, "text", form) for name, rows in splits.items()}}
    if form is not None:
        told, counts = {"form": form}, {}
    if form not in (None, "text"):
        lengths["target_characters"] = {name: _lengths(rows, "target", form) for name, rows in splits.items()}
    return {
        "format_version": 1,
        "files": [asdict(item) for item in source.files],
        "notes": source.notes,
        "cleaning": [asdict(step) for step in steps],
        **told,
        "splits": division.report,
        **counts,
        "groups": {name: int(column_numbers([rows], "group").max(initial=-1)) + 1 for name, rows in splits.items()},
        **lengths,
        "duplicate_families": told_of_families(families, uncompared="rows_too_short_to_compare"),
        "leaks": division.leaks,
        **_told_of_folds(division),
    }


def told_of_families(families: Families, *, uncompared: str) -> Json:
    """What data.json says of families; `uncompared` is the name of the rows that had too little to be compared by."""
    exact_rows = np.bincount(families.exact, minlength=1)
    return {
        "exact_families": families.exact_families,
        "rows_in_exact_families": int(exact_rows[exact_rows > 1].sum()),
        "near_families": families.near_families,
        "rows_in_families": int(families.sizes[families.sizes > 1].sum()),
        "largest": families.largest,
        uncompared: families.short,
    }


def _told_of_folds(division: Division) -> Json:
    """`fold` tells of the one held out, counted from 1; `folds` of folds that are only a column, counted from 0."""
    report = division.fold_report
    return {} if report is None else {"fold" if "fold" in report else "folds": report}


def _label_counts(rows: datasets.Dataset) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for label in values(rows, "label"):
        counts.update(label if isinstance(label, list) else [label])
    return dict(sorted(counts.items()))


def _lengths(rows: datasets.Dataset, column: str, form: Form | None) -> dict[str, int]:
    """Percentiles of the lengths in characters; of a chat, what its messages say."""
    if form == "chat" and column == "text":
        chats = map(chat_messages, values(rows, column))
        lengths = np.array([sum(len(message["content"]) for message in messages) for messages in chats])
    else:
        lengths = np.concatenate([pc.utf8_length(texts).to_numpy() for texts in batches(rows, column)])
    return {name: int(np.percentile(lengths, share)) for name, share in LENGTH_PERCENTILES.items()}
