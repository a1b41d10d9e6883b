"""What the user is told of duplicate families: very large ones, and near duplicates whose labels differ."""

from __future__ import annotations

import datasets
import numpy as np

from finetune.data.blocks import column_numbers
from finetune.data.near_duplicates import Families

LARGE_FAMILY_SHARE = 0.05
EXCERPT_CHARACTERS = 80
CONFLICTS_SHOWN = 3


def large_family_notes(families: Families, rows: datasets.Dataset) -> list[str]:
    """A sentence for each family above 5 % of the rows, the largest first."""
    notes = []
    total = len(rows)
    for row in np.argsort(-families.sizes, kind="stable"):
        size = int(families.sizes[row])
        if size <= max(1, LARGE_FAMILY_SHARE * total):
            break
        first = rows[int(row)]
        words = " ".join((first["text"] or "").split())
        excerpt = words if len(words) <= EXCERPT_CHARACTERS else words[:EXCERPT_CHARACTERS] + "…"
        notes.append(
            f"{size:,} of {total:,} rows ({size / total:.0%}) are one family of duplicates, like {first['origin']}: "
            f"{excerpt!r}. They stay in one split; a template or a disclaimer that fills texts is better cleaned away."
        )
    return notes


def near_conflict_notes(families: Families, rows: datasets.Dataset) -> list[str]:
    """A sentence when near duplicates carry different labels, where a row has one label: then one may be wrong."""
    if rows.features["label"] != datasets.Value("string"):
        return []
    label, family, exact = column_numbers([rows], "label"), families.family, families.exact
    # Rows of one text are what drop_conflicts and its warning speak of.
    differing = np.flatnonzero((label != label[family]) & (exact != exact[family]))
    if not len(differing):
        return []
    pairs = ((rows[int(row)]["origin"], rows[int(family[row])]["origin"]) for row in differing[:CONFLICTS_SHOWN])
    count = len(np.unique(family[differing]))
    told = "1 family of near duplicates carries" if count == 1 else f"{count:,} families of near duplicates carry"
    return [f"{told} different labels: see {', '.join(f'{one} and {other}' for one, other in pairs)}"]
