"""Which rows become train, validation and test: one source is divided, parts the user brought are checked and kept.

A part the user brought stays whole but for its leaks, which `data.leaks` settles; a missing one is taken from train.
In cross-validation a fold is the test split: of one source all rows are folded, of brought parts train and validation,
and a brought test part stays closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from finetune.data.blocks import Numbers, RowLabels, blocks_of, column_numbers
from finetune.data.leaks import LeakReport, Policy, Similarity, find_leaks, settle_leaks
from finetune.data.near_duplicates import Families, text_similarity
from finetune.data.parts import WHOLE
from finetune.data.row_streams import selected
from finetune.data.splits import assign_folds, assign_splits, fold_report, split_off, split_report
from finetune.errors import DataError
from finetune.progress import WARNING
from finetune.recipe_data import SPLITS, Fold, Form, Shares, Split


@dataclass(frozen=True)
class Division:
    """The three splits with the duplicate families of their rows, shape (rows of the split,), numbered over all.

    `folds` is the fold of each row, from 0, or None without folds. `report` is what data.json says under `splits`,
    `leaks` under `leaks`, `fold_report` under `fold` or `folds`; `notes` are for the user.
    """

    splits: dict[str, Dataset]
    family: dict[str, Numbers]
    report: dict[str, Any]
    leaks: dict[str, Any]
    notes: list[str]
    folds: dict[str, Numbers] | None = None
    fold_report: dict[str, Any] | None = None


def divide(
    parts: Mapping[str, Dataset],
    families: Families,
    *,
    settings: Shares,
    leaks: Policy,
    seed: int,
    fold: Fold | None = None,
    folds: int | None = None,
    form: Form | None = None,
    similarity: Similarity = text_similarity,
) -> Division:
    """The splits out of the cleaned parts: one named `all`, or train with or without validation and test.

    `families` numbers the rows of all parts, one below the other. `fold` is held out as the test split; `folds` only
    numbers as many folds over all rows, whatever their split; of one source both number them alike. `form` says what
    a row of text to write holds, for leaks are shown with how alike two rows are: `similarity` of two `text`, which
    for images are their ids. Raises DataError
    where rows, groups or classes are too few, and GateFailed for leaks between the parts where `leaks` says so.
    """
    starts = np.cumsum([len(rows) for rows in parts.values()])[:-1]
    drawn = _Drawn(
        splits=dict(parts),
        family=dict(zip(parts, np.split(families.family, starts), strict=True)),
        exact=dict(zip(parts, np.split(families.exact, starts), strict=True)),
        form=form,
        similarity=similarity,
    )
    brought, notes = None, []
    if WHOLE not in parts:
        drawn = drawn.pooled() if fold is not None else drawn
        brought = drawn.leaks()
        settled = settle_leaks(drawn.splits, brought, family=drawn.family, exact=drawn.exact, policy=leaks)
        drawn = replace(drawn, splits=settled.splits, family=settled.family, exact=settled.exact)
        notes = settled.notes
    if fold is not None:
        cut, told = _with_fold_held_out(drawn, fold, settings=settings, seed=seed)
    else:
        drawn = drawn.numbered(folds, settings=settings, seed=seed) if folds is not None else drawn
        cut, told = _cut_or_completed(drawn, settings=settings, seed=seed)
    report = _report(cut, ratios=_ratios(cut, WHOLE in parts, settings, fold), stratify=_stratifies(settings))
    numbered = _fold_report(cut, fold, folds, stratify=_stratifies(settings), seed=seed) if cut.fold else None
    # Sizes are told with the splits; a class that only one fold has is told of every fold.
    uneven = [note for note in numbered["notes"] if note.startswith(WARNING)] if numbered and fold else []
    left = cut.leaks()
    return Division(
        splits=cut.splits,
        family=cut.family,
        report=dict(report),
        leaks={
            "policy": leaks,
            "brought": brought.to_json() if brought is not None else None,
            "left": left.to_json(),
        },
        notes=[*notes, *told, *report["notes"], *uneven],
        folds=cut.fold or None,
        fold_report=numbered,
    )


def fold_seed(seed: int, *, repeat: int) -> int:
    """The seed of a repeat's folds: that of the split itself for the first, another for each later one."""
    return seed if repeat == 1 else int(np.random.SeedSequence((seed, repeat)).generate_state(1)[0])


@dataclass(frozen=True)
class _Drawn:
    """Splits on their way, each with the numbers of its rows' families and texts and, once drawn, of their folds."""

    splits: dict[str, Dataset]
    family: dict[str, Numbers]
    exact: dict[str, Numbers]
    fold: dict[str, Numbers] = field(default_factory=dict)
    form: Form | None = None
    similarity: Similarity = text_similarity

    def leaks(self) -> LeakReport:
        return find_leaks(self.splits, family=self.family, exact=self.exact, similarity=self.similarity, form=self.form)

    def numbered(self, folds: int, *, settings: Shares, seed: int) -> _Drawn:
        """The same with `folds` folds over all rows, one split below the other."""
        parts = list(self.splits.values())
        assigned = assign_folds(
            RowLabels.read(parts),
            folds=folds,
            groups=column_numbers(parts, "group"),
            families=np.concatenate(list(self.family.values())),
            stratify=_stratifies(settings),
            seed=seed,
        )
        starts = np.cumsum([len(rows) for rows in parts])[:-1]
        return replace(self, fold=dict(zip(self.splits, np.split(assigned, starts), strict=True)))

    def pooled(self) -> _Drawn:
        """Train and validation as one part named train; a test part stays beside it."""
        pool = [name for name in self.splits if name != "test"]
        rows = {"train": concatenate_datasets([self.splits[name] for name in pool])}
        family = {"train": np.concatenate([self.family[name] for name in pool])}
        exact = {"train": np.concatenate([self.exact[name] for name in pool])}
        for name in self.splits.keys() - pool:
            rows[name], family[name], exact[name] = self.splits[name], self.family[name], self.exact[name]
        return replace(self, splits=rows, family=family, exact=exact, fold={})

    def only(self, name: str) -> _Drawn:
        family, exact = {name: self.family[name]}, {name: self.exact[name]}
        return replace(self, splits={name: self.splits[name]}, family=family, exact=exact, fold={})

    def cut(self, name: str, assigned: np.ndarray, *, names: tuple[str, ...]) -> _Drawn:
        """The split `name` cut into `names` by the name of each of its rows; the others stay."""
        rows_of = {each: np.flatnonzero(assigned == each) for each in names}

        def shared_out(by_split: dict[str, Numbers]) -> dict[str, Numbers]:
            if not by_split:
                return {}
            whole = by_split | {each: by_split[name][numbers] for each, numbers in rows_of.items()}
            return {each: whole[each] for each in SPLITS if each in splits}

        splits = {each: rows for each, rows in self.splits.items() if each != name}
        splits |= {each: selected(self.splits[name], numbers) for each, numbers in rows_of.items()}
        return _Drawn(
            {each: splits[each] for each in SPLITS if each in splits},
            shared_out(self.family),
            shared_out(self.exact),
            shared_out(self.fold),
            self.form,
            self.similarity,
        )


def _stratifies(settings: Shares) -> bool:
    return isinstance(settings, Split) and settings.stratify


def _cut_or_completed(drawn: _Drawn, *, settings: Shares, seed: int) -> tuple[_Drawn, list[str]]:
    if WHOLE in drawn.splits:
        return drawn.cut(WHOLE, _assigned(drawn, settings=settings, seed=seed), names=SPLITS), []
    return _with_missing_parts(drawn, settings=settings, seed=seed)


def _with_fold_held_out(drawn: _Drawn, fold: Fold, *, settings: Shares, seed: int) -> tuple[_Drawn, list[str]]:
    """Test is the fold; train and validation are cut from all other rows, in their own proportion."""
    name = WHOLE if WHOLE in drawn.splits else "train"
    notes = []
    if "test" in drawn.splits:
        rows = len(drawn.splits["test"])
        notes.append(f"the test part that was brought stays closed: its {rows:,} rows take no part in the folds")
    seed = fold_seed(seed, repeat=fold.repeat)
    drawn = drawn.only(name).numbered(fold.folds, settings=settings, seed=seed)
    rest = np.flatnonzero(drawn.fold[name] != fold.fold - 1)
    others = selected(drawn.splits[name], rest)
    assigned = np.full(len(drawn.splits[name]), "test", dtype="<U10")
    assigned[rest] = split_off(
        RowLabels.read([others]),
        share=settings.validation / (settings.train + settings.validation),
        seed=seed,
        groups=column_numbers([others], "group"),
        families=drawn.family[name][rest],
        stratify=_stratifies(settings),
    )
    return drawn.cut(name, assigned, names=SPLITS), notes


def _assigned(drawn: _Drawn, *, settings: Shares, seed: int) -> np.ndarray:
    rows = drawn.splits[WHOLE]
    return assign_splits(
        RowLabels.read([rows]),
        ratios=settings.shares,
        groups=column_numbers([rows], "group"),
        families=drawn.family[WHOLE],
        stratify=_stratifies(settings),
        seed=seed,
    )


def _with_missing_parts(drawn: _Drawn, *, settings: Shares, seed: int) -> tuple[_Drawn, list[str]]:
    notes = []
    for missing in [name for name in ("test", "validation") if name not in drawn.splits]:
        drawn, told = _with_part_of_train(drawn, missing, settings=settings, seed=seed)
        notes += told
    for name in SPLITS:
        if not len(drawn.splits[name]):
            raise DataError(f"data.source.{name}", "has no rows")
    return drawn, notes


def _with_part_of_train(drawn: _Drawn, missing: str, *, settings: Shares, seed: int) -> tuple[_Drawn, list[str]]:
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
        stratify=_stratifies(settings),
    )
    assigned = np.full(len(train), "train", dtype="<U10")
    assigned[free[taken == "validation"]] = missing
    report = split_report(
        assigned,
        labels=RowLabels.read([train]),
        ratios={"train": 1 - share, missing: share},
        groups=column_numbers([train], "group"),
        families=family,
        stratify=_stratifies(settings),
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


def _ratios(drawn: _Drawn, one_source: bool, settings: Shares, fold: Fold | None) -> dict[str, float]:
    """The shares asked for; parts that the user brought are as large as they are."""
    if fold is not None:
        learnt = (1 - 1 / fold.folds) / (settings.train + settings.validation)
        return {
            "train": learnt * settings.train,
            "validation": learnt * settings.validation,
            "test": 1 / fold.folds,
        }
    if one_source:
        return settings.shares
    rows = sum(map(len, drawn.splits.values()))
    return {name: len(drawn.splits[name]) / rows for name in SPLITS}


def _fold_report(drawn: _Drawn, fold: Fold | None, folds: int | None, *, stratify: bool, seed: int) -> dict[str, Any]:
    """Sizes of the folds, and notes. A held-out fold is counted from 1, as recipes do; the column `fold` from 0."""
    parts = [drawn.splits[name] for name in SPLITS]
    count = fold.folds if fold is not None else folds
    assert count is not None
    report = fold_report(
        np.concatenate([drawn.fold[name] for name in SPLITS]),
        labels=RowLabels.read(parts),
        folds=count,
        groups=column_numbers(parts, "group"),
        families=np.concatenate([drawn.family[name] for name in SPLITS]),
        stratify=stratify,
        first=0 if fold is None else 1,
    )
    held_out = fold.model_dump() | {"seed": fold_seed(seed, repeat=fold.repeat)} if fold is not None else {}
    return held_out | dict(report)


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
