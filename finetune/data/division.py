"""Which rows become train, validation and test: one source is divided, parts the user brought are checked and kept.

A part the user brought stays whole but for its leaks, which `data.leaks` settles; a missing one is taken from train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from finetune.data.blocks import Numbers, RowLabels, blocks_of, column_numbers
from finetune.data.leaks import LeakReport, Policy, find_leaks, settle_leaks
from finetune.data.near_duplicates import Families, text_similarity
from finetune.data.parts import WHOLE
from finetune.data.row_streams import selected
from finetune.data.splits import assign_splits, split_off, split_report
from finetune.errors import DataError
from finetune.progress import WARNING
from finetune.recipe import SPLITS, Split


@dataclass(frozen=True)
class Division:
    """The three splits with the duplicate families of their rows, shape (rows of the split,), numbered over all.

    `report` is what data.json says under `splits`, `leaks` what it says under `leaks`; `notes` are for the user.
    """

    splits: dict[str, Dataset]
    family: dict[str, Numbers]
    report: dict[str, Any]
    leaks: dict[str, Any]
    notes: list[str]


def divide(parts: Mapping[str, Dataset], families: Families, *, settings: Split, leaks: Policy, seed: int) -> Division:
    """The splits out of the cleaned parts: one named `all`, or train with or without validation and test.

    `families` numbers the rows of all parts, one below the other. Raises DataError where rows, groups or classes are
    too few, and GateFailed for leaks between the parts where `leaks` says so.
    """
    starts = np.cumsum([len(rows) for rows in parts.values()])[:-1]
    drawn = _Drawn(
        splits=dict(parts),
        family=dict(zip(parts, np.split(families.family, starts), strict=True)),
        exact=dict(zip(parts, np.split(families.exact, starts), strict=True)),
    )
    if WHOLE in parts:
        brought, notes, ratios = None, [], settings.shares
        drawn = drawn.cut(WHOLE, _assigned(drawn, settings=settings, seed=seed), names=SPLITS)
    else:
        brought = drawn.leaks()
        settled = settle_leaks(parts, brought, family=drawn.family, exact=drawn.exact, policy=leaks)
        drawn = _Drawn(settled.splits, settled.family, settled.exact)
        drawn, taken = _with_missing_parts(drawn, settings=settings, seed=seed)
        notes = [*settled.notes, *taken]
        rows = sum(map(len, drawn.splits.values()))
        ratios = {name: len(drawn.splits[name]) / rows for name in SPLITS}
    report = _report(drawn, ratios=ratios, stratify=settings.stratify)
    left = drawn.leaks()
    return Division(
        splits=drawn.splits,
        family=drawn.family,
        report=dict(report),
        leaks={
            "policy": leaks,
            "brought": brought.to_json() if brought is not None else None,
            "left": left.to_json(),
        },
        notes=[*notes, *report["notes"]],
    )


@dataclass(frozen=True)
class _Drawn:
    """Splits on their way, each with the numbers of its rows' families and texts."""

    splits: dict[str, Dataset]
    family: dict[str, Numbers]
    exact: dict[str, Numbers]

    def leaks(self) -> LeakReport:
        return find_leaks(self.splits, family=self.family, exact=self.exact, similarity=text_similarity)

    def cut(self, name: str, assigned: np.ndarray, *, names: tuple[str, ...]) -> _Drawn:
        """The split `name` cut into `names` by the name of each of its rows; the others stay."""
        rows_of = {each: np.flatnonzero(assigned == each) for each in names}
        splits, family, exact = dict(self.splits), dict(self.family), dict(self.exact)
        rows, families, texts = splits.pop(name), family.pop(name), exact.pop(name)
        splits |= {each: selected(rows, numbers) for each, numbers in rows_of.items()}
        family |= {each: families[numbers] for each, numbers in rows_of.items()}
        exact |= {each: texts[numbers] for each, numbers in rows_of.items()}
        ordered = [each for each in SPLITS if each in splits]
        return _Drawn(
            {each: splits[each] for each in ordered},
            {each: family[each] for each in ordered},
            {each: exact[each] for each in ordered},
        )


def _assigned(drawn: _Drawn, *, settings: Split, seed: int) -> np.ndarray:
    rows = drawn.splits[WHOLE]
    return assign_splits(
        RowLabels.read([rows]),
        ratios=settings.shares,
        groups=column_numbers([rows], "group"),
        families=drawn.family[WHOLE],
        stratify=settings.stratify,
        seed=seed,
    )


def _with_missing_parts(drawn: _Drawn, *, settings: Split, seed: int) -> tuple[_Drawn, list[str]]:
    notes = []
    for missing in [name for name in ("test", "validation") if name not in drawn.splits]:
        drawn, told = _with_part_of_train(drawn, missing, settings=settings, seed=seed)
        notes += told
    for name in SPLITS:
        if not len(drawn.splits[name]):
            raise DataError(f"data.source.{name}", "has no rows")
    return drawn, notes


def _with_part_of_train(drawn: _Drawn, missing: str, *, settings: Split, seed: int) -> tuple[_Drawn, list[str]]:
    """The missing split taken from train, and what to tell: how many rows, and why not as many as asked."""
    train, family = drawn.splits["train"], drawn.family["train"]
    share = settings.shares[missing] / (1 - sum(settings.shares[name] for name in drawn.splits if name != "train"))
    free = np.flatnonzero(~_tied_to_others(drawn))
    if share * len(train) >= len(free):
        what = f"{len(train) - len(free):,} of {len(train):,} rows share a text or a group with another part"
        do = f"Name a file for {missing}, or set data.leaks: move."
        raise DataError("data.source.train", f"too few rows are left to take {missing} from: {what}", do)
    rows = selected(train, free)
    taken = split_off(
        RowLabels.read([rows]),
        share=share * len(train) / len(free),
        seed=seed,
        groups=column_numbers([rows], "group"),
        families=family[free],
        stratify=settings.stratify,
    )
    assigned = np.full(len(train), "train", dtype="<U10")
    assigned[free[taken == "validation"]] = missing
    report = split_report(
        assigned,
        labels=RowLabels.read([train]),
        ratios={"train": 1 - share, missing: share},
        groups=column_numbers([train], "group"),
        families=family,
        stratify=settings.stratify,
    )
    drawn = drawn.cut("train", assigned, names=("train", missing))
    # A class that a split misses is told once, of all splits together.
    sizes = [f"{missing}: {note}" for note in report["notes"] if not note.startswith(WARNING)]
    return drawn, [
        f"no {missing} part was given: {len(drawn.splits[missing]):,} rows were taken from train",
        *sizes,
    ]


def _tied_to_others(drawn: _Drawn) -> np.ndarray:
    """Which rows of train share a family or a group with another split, also through others; shape (rows of train,).

    They stay in train: leaks between train and validation may be let be, and must not become leaks into test.
    """
    owner = np.repeat(np.arange(len(drawn.splits)), [len(rows) for rows in drawn.splits.values()])
    groups = column_numbers(drawn.splits.values(), "group")
    block = blocks_of(len(owner), groups=groups, families=np.concatenate(list(drawn.family.values())))
    in_train = owner == list(drawn.splits).index("train")
    return np.isin(block[in_train], block[~in_train])


def _report(drawn: _Drawn, *, ratios: Mapping[str, float], stratify: bool) -> dict[str, Any]:
    parts = [drawn.splits[name] for name in SPLITS]
    return dict(
        split_report(
            np.repeat(list(SPLITS), [len(rows) for rows in parts]),
            labels=RowLabels.read(parts),
            ratios=ratios,
            groups=column_numbers(parts, "group"),
            families=np.concatenate([drawn.family[name] for name in SPLITS]),
            stratify=stratify,
        )
    )
