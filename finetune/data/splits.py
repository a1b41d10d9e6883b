"""Which row goes where: train, validation and test parts, stratified, grouped and seeded.

Rows that share a group (author, file, document) or a family of duplicates are one block, and a block is never cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from finetune.errors import DataError, Problem, listed

Label = str | tuple[str, ...]
LARGEST_DEVIATION = 0.01  # a split whose share is further from the request than this is explained in the report


class SplitReport(TypedDict):
    """What a split came to. Shares are fractions of all rows; `largest_deviation` is a difference of shares."""

    sizes: dict[str, int]
    shares: dict[str, float]
    largest_deviation: float
    blocks: int
    largest_block: int
    notes: list[str]


def assign_splits(
    labels: Sequence[Label],
    *,
    ratios: Mapping[str, float],
    groups: Sequence[str | None] | None = None,
    families: NDArray[np.int64] | None = None,
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
    block_of_row = blocks_of(len(labels), groups=groups, families=families)
    classes = _classes(labels) if stratify else {}
    _refuse_too_few(labels, blocks=len(np.unique(block_of_row)), names=names, stratify=stratify)
    blocks = _Blocks.of(labels, block_of_row, classes)
    shares = np.array([ratios[name] for name in names])
    placed = _place(blocks, shares=shares, rng=np.random.default_rng(seed))
    _fill_missing_classes(blocks, placed, names=names)
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
    labels: Sequence[Label],
    *,
    share: float,
    seed: int,
    groups: Sequence[str | None] | None = None,
    families: NDArray[np.int64] | None = None,
    stratify: bool = True,
) -> NDArray[np.str_]:
    """`train` or `validation` for every row of a train part that came without a validation part; as `assign_splits`."""
    ratios = {"train": 1.0 - share, "validation": share}
    return assign_splits(labels, ratios=ratios, groups=groups, families=families, stratify=stratify, seed=seed)


def split_report(
    assigned: NDArray[np.str_],
    *,
    labels: Sequence[Label],
    ratios: Mapping[str, float],
    groups: Sequence[str | None] | None = None,
    families: NDArray[np.int64] | None = None,
) -> SplitReport:
    """Sizes and shares of an assignment, and notes on what the blocks did not allow."""
    rows = len(assigned)
    sizes = {name: int((assigned == name).sum()) for name in ratios}
    shares = {name: size / rows for name, size in sizes.items()}
    deviation = max(abs(shares[name] - ratio) for name, ratio in ratios.items())
    block_rows = np.unique(blocks_of(rows, groups=groups, families=families), return_counts=True)[1]
    notes = []
    if deviation > LARGEST_DEVIATION:
        reason = (
            f"{len(block_rows)} groups or duplicate families stay whole, the largest of {block_rows.max()} rows"
            if len(block_rows) < rows
            else f"{rows} rows cannot be cut finer"
        )
        notes.append(f"sizes are up to {100 * deviation:.1f} points from the request: {reason}")
    held = {(split, name) for split, label in zip(assigned.tolist(), labels, strict=True) for name in _names(label)}
    for split in (split for split in ratios if sizes[split]):
        missing = [f"'{name}'" for name in _classes(labels) if (split, name) not in held]
        notes += [f"warning: {split} has no row of class {listed(missing)}"] if missing else []
    return SplitReport(
        sizes=sizes,
        shares=shares,
        largest_deviation=deviation,
        blocks=len(block_rows),
        largest_block=int(block_rows.max()),
        notes=notes,
    )


def blocks_of(
    rows: int, *, groups: Sequence[str | None] | None, families: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """The block of each row, shape (rows,), numbered from 0: what shares a group or a family, also through others.

    A row whose group is None belongs to no group.
    """
    parent = list(range(rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    first: dict[tuple[str, str | int], int] = {}
    ties: list[list[tuple[str, str | int] | None]] = []
    if groups is not None:
        ties.append([None if group is None else ("group", group) for group in groups])
    if families is not None:
        ties.append([("family", family) for family in families.tolist()])
    for keys in ties:
        for row, key in enumerate(keys):
            if key is not None:
                one, other = root(row), root(first.setdefault(key, row))
                parent[max(one, other)] = min(one, other)
    roots = np.array([root(row) for row in range(rows)], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


class _Blocks:
    """Blocks as sparse counts: what each holds of every class, and of rows in all (the last column, `classes`)."""

    def __init__(self, columns: list[NDArray[np.int64]], counts: list[NDArray[np.int64]], classes: list[str]) -> None:
        self.columns, self.counts, self.classes = columns, counts, classes
        self.sizes = np.array([count[-1] for count in counts])
        self.totals = np.zeros(len(classes) + 1)
        for column, count in zip(columns, counts, strict=True):
            self.totals[column] += count

    @classmethod
    def of(cls, labels: Sequence[Label], block_of_row: NDArray[np.int64], classes: Mapping[str, int]) -> _Blocks:
        held: list[Counter[int]] = [Counter() for _ in range(int(block_of_row.max()) + 1)]
        for label, block in zip(labels, block_of_row.tolist(), strict=True):
            held[block][len(classes)] += 1
            if classes:
                for name in _names(label):
                    held[block][classes[name]] += 1
        ordered = [sorted(counter.items()) for counter in held]  # the column of all rows comes last
        columns = [np.array([column for column, _ in items]) for items in ordered]
        return cls(columns, [np.array([count for _, count in items]) for items in ordered], list(classes))

    def kinds(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Blocks of equal contents together, larger ones first; within a factor of two of size the order is drawn."""
        alike: dict[bytes, list[int]] = {}
        for block in rng.permutation(len(self.sizes)).tolist():
            alike.setdefault(self.columns[block].tobytes() + self.counts[block].tobytes(), []).append(block)
        # sorted() is stable, so the permutation orders what ties. Sizes alone would put the same blocks in the same
        # split under every seed.
        magnitude = {key: int(self.sizes[kind[0]]).bit_length() for key, kind in alike.items()}
        return [np.array(alike[key]) for key in sorted(alike, key=lambda key: -magnitude[key])]


def _place(blocks: _Blocks, *, shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The split number of every block."""
    targets = np.outer(shares, blocks.totals)
    filled = np.zeros_like(targets)
    weights = 1.0 / targets  # chi-square: a row too many counts more where few are wanted
    # Small errors of many classes, each too light to count, would add up to a wrong size. A quarter of the number of
    # classes keeps sizes within a point for a hundred small classes, and does not disturb the classes of a few.
    weights[:, -1] *= max(1.0, len(blocks.classes) / 4)
    placed = np.empty(len(blocks.sizes), dtype=np.int64)
    for kind in blocks.kinds(rng):
        columns, counts = blocks.columns[kind[0]], blocks.counts[kind[0]]
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


def _fill_missing_classes(blocks: _Blocks, placed: NDArray[np.int64], *, names: list[str]) -> None:
    """Moves small blocks so that every split has every class where its blocks allow it, train before test."""
    held = np.zeros((len(names), len(blocks.classes) + 1), dtype=np.int64)  # blocks, not rows, of each class by split
    for block, columns in enumerate(blocks.columns):
        held[placed[block], columns] += 1
    if held.all():
        return
    holders: dict[int, list[int]] = {}
    for block in np.argsort(blocks.sizes, kind="stable").tolist():
        for column in blocks.columns[block].tolist():
            holders.setdefault(column, []).append(block)
    needy_first = sorted(range(len(names)), key=lambda split: _NEED.get(names[split], len(_NEED)))
    for column in np.argsort(held.sum(axis=0), kind="stable").tolist():  # the rarest class has the least choice
        enough = held[:, column].sum() >= len(names)
        for rank, needy in enumerate(needy_first):
            if held[needy, column]:
                continue
            # A class too rare for every split is taken whole from a split that needs it less.
            kept = np.array([1 if enough or split in needy_first[:rank] else 0 for split in range(len(names))])
            for block in holders[column]:
                giver, columns = placed[block], blocks.columns[block]
                others = columns[columns != column]
                if held[giver, column] > kept[giver] and (held[giver, others] > 1).all():
                    held[giver, columns] -= 1
                    held[needy, columns] += 1
                    placed[block] = needy
                    break


def _refuse_too_few(labels: Sequence[Label], *, blocks: int, names: list[str], stratify: bool) -> None:
    parts = len(names)
    if blocks < parts:
        found = f"{len(labels)} rows" if blocks == len(labels) else f"{len(labels)} rows in {blocks} groups"
        raise DataError(
            "data.split",
            f"too few to split into {listed(names)}. Found: {found}, and at least {parts} are needed",
            "Add rows, or name a file for every split.",
        )
    if not stratify:
        return
    counts = Counter(name for label in labels for name in _names(label))
    problems = [
        Problem(
            "data.split.stratify",
            f"class '{name}' has {count} {'row' if count == 1 else 'rows'}; a stratified split into {listed(names)} "
            f"needs at least {parts} of each class",
            "Add rows, merge or remove the class, or set data.split.stratify: false.",
        )
        for name, count in sorted(counts.items())
        if count < parts
    ]
    if problems:
        raise DataError.of(problems)


def _classes(labels: Sequence[Label]) -> dict[str, int]:
    names = {name for label in labels for name in _names(label)}
    return {name: number for number, name in enumerate(sorted(names))}


def _names(label: Label) -> set[str]:
    return {label} if isinstance(label, str) else set(label)


# A class that only test has cannot be learnt, one that only train has cannot be scored: validation gives way first.
_NEED = {"train": 0, "test": 1, "validation": 2}
