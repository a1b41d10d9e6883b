"""Which row goes where: train, validation and test parts, and folds; stratified, grouped and seeded.

Rows that share a group (author, file, document) or a family of duplicates are one block, and a block is never cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from finetune.data.blocks import BlockCounts, Groups, Label, Numbers, RowLabels, blocks_of
from finetune.errors import DataError, Problem, listed

LARGEST_DEVIATION = 0.01  # a part whose share is further from the request than this is explained in the report
FEWEST_FOLDS = 2
MOST_CLASSES_APART = 5  # of the classes that are too rare; more are one message


class SplitReport(TypedDict):
    """What a split came to. Shares are fractions of all rows; `largest_deviation` is a difference of shares."""

    sizes: dict[str, int]
    shares: dict[str, float]
    largest_deviation: float
    blocks: int
    largest_block: int
    notes: list[str]


def assign_splits(
    labels: Sequence[Label] | RowLabels,
    *,
    ratios: Mapping[str, float],
    groups: Groups | None = None,
    families: Numbers | None = None,
    stratify: bool = True,
    seed: int,
) -> NDArray[np.str_]:
    """The split name of every row, shape (rows,); the same for the same arguments.

    `ratios` are shares that sum to 1, by split name. Stratified without blocks, each class has its exact share
    in each split to within one row. With blocks, larger ones are placed first, each where the class counts then come
    nearest to the request. A class in fewer blocks than splits goes to train first, then test; what it misses is a
    note of `split_report`. Raises DataError when the rows or blocks are too few to fill every split, or, stratified,
    when a class has fewer rows than there are splits.
    """
    names = [name for name, share in ratios.items() if share > 0]
    classes = RowLabels.of(labels)
    block_of_row = blocks_of(len(labels), groups=groups, families=families)
    blocks = BlockCounts(block_of_row, classes if stratify else None)
    do = "Add rows, or name a file for every split."
    _refuse_too_few(
        blocks, classes if stratify else None, parts=len(names), into=listed(names), key="data.split", do=do
    )
    shares = np.array([ratios[name] for name in names])
    placed = _place(blocks, shares=shares, rng=np.random.default_rng(seed))
    by_need = sorted(range(len(names)), key=lambda split: _NEED.get(names[split], len(_NEED)))
    _fill_missing_classes(blocks, placed, parts=by_need, ranked=True)
    empty = [name for number, name in enumerate(names) if not (placed == number).any()]
    if empty:
        raise DataError(
            "data.split",
            f"no group is left for {listed(empty)} when train has every class. "
            f"Found: {len(labels)} rows in {len(placed)} groups",
            "Add groups, merge classes, or name a file for every split.",
        )
    return np.array(names)[placed[block_of_row]]


def split_off(
    labels: Sequence[Label] | RowLabels,
    *,
    share: float,
    seed: int,
    groups: Groups | None = None,
    families: Numbers | None = None,
    stratify: bool = True,
) -> NDArray[np.str_]:
    """`train` or `validation` for every row of a train part that came without a validation part; as `assign_splits`."""
    ratios = {"train": 1.0 - share, "validation": share}
    return assign_splits(labels, ratios=ratios, groups=groups, families=families, stratify=stratify, seed=seed)


def split_report(
    assigned: NDArray[np.str_],
    *,
    labels: Sequence[Label] | RowLabels,
    ratios: Mapping[str, float],
    groups: Groups | None = None,
    families: Numbers | None = None,
    stratify: bool = True,
) -> SplitReport:
    """Sizes and shares of an assignment, and notes on what the blocks and classes did not allow."""
    place = np.full(len(assigned), -1)
    for number, name in enumerate(ratios):
        place[assigned == name] = number
    classes = RowLabels.of(labels)
    block_of_row = blocks_of(len(place), groups=groups, families=families)
    report = _report(place, ratios, block_of_row=block_of_row, stratify=stratify)
    held = _classes_held(place, classes, parts=len(ratios))
    for number, name in enumerate(ratios):
        if report["sizes"][name] and not held[number].all():
            missing = [f"'{classes.names[column]}'" for column in np.flatnonzero(held[number] == 0)]
            report["notes"].append(f"warning: {name} has no row of class {listed(missing)}")
    return report


def assign_folds(
    labels: Sequence[Label] | RowLabels,
    *,
    folds: int,
    groups: Groups | None = None,
    families: Numbers | None = None,
    stratify: bool = True,
    seed: int,
) -> Numbers:
    """The fold of every row, 0 to folds - 1, shape (rows,); the same for the same arguments.

    As `assign_splits` with an equal share for each fold: blocks stay whole, every fold has rows, and every class is in
    every fold where its blocks allow it. What they do not allow is a note of `fold_report`. Raises DataError for fewer
    than two folds, fewer rows or blocks than folds, or, stratified, a class with fewer rows than folds.
    """
    if folds < FEWEST_FOLDS:
        raise DataError("folds", f"at least {FEWEST_FOLDS} are needed. Found: {folds}")
    classes = RowLabels.of(labels) if stratify else None
    block_of_row = blocks_of(len(labels), groups=groups, families=families)
    blocks = BlockCounts(block_of_row, classes)
    do = "Add rows, or use fewer folds."
    _refuse_too_few(blocks, classes, parts=folds, into=f"{folds} folds", key="folds", do=do)
    # With equal shares an empty fold misses most of everything, so blocks go there first, and none stays empty.
    placed = _place(blocks, shares=np.full(folds, 1 / folds), rng=np.random.default_rng(seed))
    _fill_missing_classes(blocks, placed, parts=range(folds), ranked=False)
    return placed[block_of_row]


def fold_report(
    assigned: Numbers,
    *,
    labels: Sequence[Label] | RowLabels,
    folds: int,
    groups: Groups | None = None,
    families: Numbers | None = None,
    stratify: bool = True,
    first: int = 0,
) -> SplitReport:
    """Sizes and shares of folds, named `fold 0` and so on, and notes on what the blocks and classes did not allow.

    `first` is what the first fold is called.
    """
    ratios = {f"fold {first + number}": 1 / folds for number in range(folds)}
    classes = RowLabels.of(labels)
    block_of_row = blocks_of(len(assigned), groups=groups, families=families)
    report = _report(assigned, ratios, block_of_row=block_of_row, stratify=stratify)
    held = _classes_held(assigned, classes, parts=folds) > 0
    for column, name in enumerate(classes.names):
        holders = np.flatnonzero(held[:, column])
        if len(holders) == 1:
            only = f"only fold {first + holders[0]} has rows of class '{name}'"
            report["notes"].append(f"warning: {only}; nothing teaches it when that is held out")
        elif len(holders) < folds:
            missing = listed(first + np.flatnonzero(~held[:, column]))
            report["notes"].append(f"warning: class '{name}' has no row in fold {missing}")
    return report


def _report(place: Numbers, ratios: Mapping[str, float], *, block_of_row: Numbers, stratify: bool) -> SplitReport:
    rows = len(place)
    counts = np.bincount(place[place >= 0], minlength=len(ratios))
    sizes = {name: int(count) for name, count in zip(ratios, counts, strict=True)}
    shares = {name: size / rows for name, size in sizes.items()}
    deviation = max(abs(shares[name] - ratio) for name, ratio in ratios.items())
    block_rows = np.bincount(block_of_row)
    notes = []
    if deviation > LARGEST_DEVIATION:
        why = _why_uneven(block_of_row, np.array([ratio for ratio in ratios.values() if ratio > 0]), stratify)
        notes.append(f"sizes are up to {100 * deviation:.1f} points from the request: {why}")
    return SplitReport(
        sizes=sizes,
        shares=shares,
        largest_deviation=deviation,
        blocks=len(block_rows),
        largest_block=int(block_rows.max()),
        notes=notes,
    )


def _why_uneven(block_of_row: Numbers, shares: NDArray[np.float64], stratify: bool) -> str:
    """What kept the sizes from the request: the classes, when the same blocks come near enough without them."""
    blocks = BlockCounts(block_of_row, None)
    if stratify:
        placed = _place(blocks, shares=shares, rng=np.random.default_rng(0))
        reached = np.bincount(placed, weights=blocks.sizes, minlength=len(shares)) / len(block_of_row)
        if np.abs(reached - shares).max() <= LARGEST_DEVIATION:
            return "every class is shared out too, which came before the sizes"
    if len(blocks) == len(block_of_row):
        return f"{len(block_of_row)} rows cannot be cut finer"
    return f"groups and duplicate families stay whole, the largest of {blocks.sizes.max()} of {len(block_of_row)} rows"


def _classes_held(place: Numbers, classes: RowLabels, *, parts: int) -> Numbers:
    """Rows of each class in each part, shape (parts, classes)."""
    width = len(classes.names)
    part = place[classes.rows]
    keys = (part * width + classes.numbers)[part >= 0]
    return np.bincount(keys, minlength=parts * width).reshape(parts, width)


def _place(blocks: BlockCounts, *, shares: NDArray[np.float64], rng: np.random.Generator) -> Numbers:
    """The part of every block, shape (blocks,)."""
    targets = np.outer(shares, blocks.totals)
    filled = np.zeros_like(targets)
    weights = 1.0 / targets  # chi-square: a row too many counts more where few are wanted
    # Small errors of many classes, each too light to count, would add up to a wrong size. A quarter of the number of
    # classes keeps sizes within a point for a hundred small classes, and does not disturb the classes of a few.
    weights[:, -1] *= max(1.0, blocks.classes / 4)
    placed = np.empty(len(blocks), dtype=np.int64)
    for kind in blocks.kinds(rng):
        columns, counts = blocks.items(kind[0])
        by_class = slice(None, -1) if len(columns) > 1 else slice(None)
        wanted = ((targets - filled)[:, columns[by_class]] * counts[by_class]).sum(axis=1).clip(min=0.0)
        wanted = wanted / wanted.sum() if wanted.sum() > 0 else shares
        # The whole part of what each split wants is certain; only the remainder, under one block a split, is decided.
        certain = np.floor(len(kind) * wanted + 1e-9).astype(np.int64)
        placed[kind[: certain.sum()]] = np.repeat(np.arange(len(shares)), certain)
        filled[:, columns] += certain[:, None] * counts
        served = np.zeros(len(shares), dtype=bool)
        for block in kind[certain.sum() :]:
            missing = targets[:, columns] - filled[:, columns]
            cost = ((counts * counts - 2 * counts * missing) * weights[:, columns]).sum(axis=1)
            cost[served] = np.inf
            best = int(cost.argmin())
            placed[block], served[best] = best, True
            filled[best, columns] += counts
    return placed


def _fill_missing_classes(blocks: BlockCounts, placed: Numbers, *, parts: Sequence[int], ranked: bool) -> None:
    """Moves small blocks so that every part has rows and every class, where the blocks allow it.

    `parts` are served in this order. A class too rare for all of them goes to the first ones if they are `ranked`, as
    splits are; folds are not, and there it stays where it is.
    """
    width = blocks.classes + 1
    keys = placed[blocks.owners] * width + blocks.columns
    held = np.bincount(keys, minlength=len(parts) * width).reshape(len(parts), width)  # blocks, not rows
    if held.all():
        return
    by_column = np.lexsort((blocks.owners, blocks.sizes[blocks.owners], blocks.columns))  # smaller blocks first
    starts = np.searchsorted(blocks.columns[by_column], np.arange(width + 1))
    for column in np.argsort(held.sum(axis=0), kind="stable").tolist():  # the rarest class has the least choice
        holders = blocks.owners[by_column[starts[column] : starts[column + 1]]]
        enough = held[:, column].sum() >= len(parts)
        for rank, needy in enumerate(parts):
            if held[needy, column]:
                continue
            # A class too rare for every split is taken whole from a split that needs it less.
            kept = np.ones(len(parts), dtype=np.int64)
            kept[parts[rank:]] = 1 if enough or not ranked else 0
            spare = holders[held[placed[holders], column] > kept[placed[holders]]]
            spared = (block for block in spare.tolist() if _can_leave(block, blocks, held[placed[block]], column))
            block = next(spared, None)
            if block is None:
                continue
            columns = blocks.items(block)[0]
            held[placed[block], columns] -= 1
            held[needy, columns] += 1
            placed[block] = needy


def _can_leave(block: int, blocks: BlockCounts, held: Numbers, column: int) -> bool:
    """Whether the part that has the block keeps every other class without it. `held` has shape (classes + 1,)."""
    columns = blocks.items(block)[0]
    return bool((held[columns[columns != column]] > 1).all())


def _refuse_too_few(
    blocks: BlockCounts, classes: RowLabels | None, *, parts: int, into: str, key: str, do: str
) -> None:
    """Raises DataError for fewer rows or blocks than parts, or, given the classes to stratify by, rows of a class."""
    rows = int(blocks.sizes.sum())
    if len(blocks) < parts:
        kept = f"{len(blocks)} block{'' if len(blocks) == 1 else 's'} (a group or a family of duplicates stays whole)"
        found = f"{rows} rows" if len(blocks) == rows else f"{rows} rows in {kept}"
        raise DataError(key, f"too few to split into {into}. Found: {found}, and at least {parts} are needed", do)
    if classes is None:
        return
    counts = zip(classes.names, np.bincount(classes.numbers).tolist(), strict=True)
    rare = [f"class '{name}' has {count} {'row' if count == 1 else 'rows'}" for name, count in counts if count < parts]
    if len(rare) > MOST_CLASSES_APART:
        some = listed(rare, most=MOST_CLASSES_APART)
        rare = [f"{len(rare):,} of {len(classes.names):,} classes have too few rows ({some})"]
    needed = f"a stratified split into {into} needs at least {parts} of each class"
    do = "Add rows, merge or remove the class, or set data.split.stratify: false."
    if rare:
        raise DataError.of([Problem("data.split.stratify", f"{each}; {needed}", do) for each in rare])


# A class that only test has cannot be learnt, one that only train has cannot be scored: validation gives way first.
_NEED = {"train": 0, "test": 1, "validation": 2}
