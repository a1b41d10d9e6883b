"""What must stay together: rows that share a group or a family of duplicates are one block, and a block is never cut.

Everything here is flat: a million rows are a few arrays of whole numbers, not a million Python objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Label = str | tuple[str, ...]
Groups = Sequence[str | None] | NDArray[np.int64]  # names, or numbers of which a negative one is no group
Numbers = NDArray[np.int64]

NO_VALUE = -1


def blocks_of(rows: int, *, groups: Groups | None, families: Numbers | None) -> Numbers:
    """The block of each row, shape (rows,), numbered from 0: what shares a group or a family, also through others.

    A row whose group is None belongs to no group.
    """
    family = np.arange(rows) if families is None else in_order_of_first(families)
    if groups is None or not rows:
        return family
    group = group_numbers(groups)
    if len(group) != rows or len(family) != rows:
        raise ValueError(f"{rows} rows have {len(group)} groups and {len(family)} families")
    # Families and groups are the nodes of a graph, and every row with a group ties two of them.
    has_group = np.flatnonzero(group >= 0)
    names, number = np.unique(group[has_group], return_inverse=True)
    families_in_all = int(family.max()) + 1
    nodes = families_in_all + len(names)
    ties = (family[has_group], families_in_all + number)
    graph = coo_array((np.ones(len(has_group), dtype=np.int32), ties), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1]
    return in_order_of_first(component[family])


@dataclass(frozen=True)
class RowLabels:
    """The classes of every row: row `rows[i]` has class `names[numbers[i]]`. A row has none, one or several, each once.

    `names` are sorted and each of them occurs; `count` is the number of rows.
    """

    count: int
    names: tuple[str, ...]
    rows: Numbers
    numbers: Numbers

    def __len__(self) -> int:
        return self.count

    @classmethod
    def of(cls, labels: Sequence[Label] | RowLabels) -> RowLabels:
        """From one name, or a tuple of names, for each row."""
        if isinstance(labels, RowLabels):
            return labels
        if all(isinstance(label, str) for label in labels):
            return cls._from_arrow(pa.array(labels, type=pa.large_string()))
        lists = [[label] if isinstance(label, str) else label for label in labels]
        return cls._from_arrow(pa.array(lists, type=pa.large_list(pa.large_string())))

    @classmethod
    def read(cls, parts: Iterable[Dataset]) -> RowLabels:
        """From the column `label` of the parts, one below the other. A null label is none."""
        return cls._from_arrow(_column(parts, "label"))

    @classmethod
    def _from_arrow(cls, column: Any) -> RowLabels:
        count = len(column)
        rows = np.arange(count)
        if pa.types.is_large_list(column.type):
            rows = np.repeat(rows, pc.fill_null(pc.list_value_length(column), 0).to_numpy())
            column = pc.list_flatten(column)
        numbers, values = _numbered(column)
        names = values.to_pylist()
        rows, numbers = rows[numbers >= 0], numbers[numbers >= 0]
        rank = np.empty(len(names), dtype=np.int64)
        rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        # A name that a row repeats counts once, as in a set.
        once = np.unique(rows * max(len(names), 1) + rank[numbers])
        return cls(count, tuple(sorted(names)), *np.divmod(once, max(len(names), 1)))


class BlockCounts:
    """What every block holds: rows of each class, and rows in all in the last column, whose number is `classes`.

    Sparse: block b holds `counts[starts[b]:starts[b + 1]]` rows of the columns `columns[starts[b]:starts[b + 1]]`,
    which are in order. `sizes` are rows, shape (blocks,); `totals` has shape (classes + 1,).
    """

    def __init__(self, block_of_row: Numbers, labels: RowLabels | None) -> None:
        self.classes = 0 if labels is None else len(labels.names)
        self.sizes = np.bincount(block_of_row)
        width = self.classes + 1
        keys, counts = np.arange(len(self.sizes)) * width + self.classes, self.sizes
        if labels is not None:
            of_class, by_class = np.unique(block_of_row[labels.rows] * width + labels.numbers, return_counts=True)
            keys, counts = np.concatenate([keys, of_class]), np.concatenate([counts, by_class])
            order = np.argsort(keys)
            keys, counts = keys[order], counts[order]
        self.counts = counts
        self.owners, self.columns = np.divmod(keys, width)
        self.starts = np.searchsorted(self.owners, np.arange(len(self.sizes) + 1))
        self.totals = np.bincount(self.columns, weights=counts, minlength=width)

    def __len__(self) -> int:
        return len(self.sizes)

    def items(self, block: int) -> tuple[Numbers, Numbers]:
        """The columns that a block has rows of, and how many."""
        span = slice(self.starts[block], self.starts[block + 1])
        return self.columns[span], self.counts[span]

    def kinds(self, rng: np.random.Generator) -> list[Numbers]:
        """Blocks of equal contents together, larger ones first; within a factor of two of size the order is drawn."""
        drawn = rng.permutation(len(self))
        kind, first, number = np.unique(self._contents()[drawn], return_index=True, return_inverse=True)
        # Sizes alone would put the same blocks in the same split under every seed, so magnitudes are compared, and what
        # ties keeps the drawn order.
        magnitude = np.frexp(self.sizes[drawn[first]].astype(np.float64))[1]
        order = np.lexsort((first, -magnitude))
        rank = np.empty(len(kind), dtype=np.int64)
        rank[order] = np.arange(len(kind))
        members = drawn[np.argsort(rank[number], kind="stable")]
        return np.split(members, np.cumsum(np.bincount(rank[number]))[:-1])

    def _contents(self) -> Numbers:
        """A number for each block, equal for blocks of equal contents. Shape (blocks,)."""
        item = np.unique(self.columns * (int(self.counts.max()) + 1) + self.counts, return_inverse=True)[1]
        lengths = np.diff(self.starts)
        contents = np.zeros(len(self), dtype=np.int64)
        longer, position = np.arange(len(self)), 0
        # Item by item: blocks stay equal while their items do. The column of all rows ends every block, so no block's
        # items begin another's.
        while len(longer):
            pairs = contents[longer] * (int(item.max()) + 1) + item[self.starts[longer] + position]
            contents[longer] = int(contents.max()) + 1 + np.unique(pairs, return_inverse=True)[1]
            position += 1
            longer = longer[lengths[longer] > position]
        return contents


def column_numbers(parts: Iterable[Dataset], column: str) -> Numbers:
    """A number for each value of a text column of the parts, one below the other; -1 for null. Shape (rows,)."""
    return _numbered(_column(parts, column))[0]


def group_numbers(groups: Groups) -> Numbers:
    """The groups as numbers, a negative one for a row without a group. Shape (rows,)."""
    if isinstance(groups, np.ndarray) and groups.dtype.kind == "i":
        return groups
    return _numbered(pa.array(groups, type=pa.large_string()))[0]


def in_order_of_first(keys: Numbers) -> Numbers:
    """The keys renumbered 0, 1, 2 ... in the order in which they first appear. Shape (rows,)."""
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number]


def _column(parts: Iterable[Dataset], name: str) -> Any:
    """One column of all parts as one Arrow array of strings, or of lists of strings, with 64-bit offsets."""
    picked = [(rows.data.column(name), rows._indices) for rows in parts]
    lists = any(pa.types.is_list(column.type) or pa.types.is_large_list(column.type) for column, _ in picked)
    kind = pa.large_list(pa.large_string()) if lists else pa.large_string()
    taken = []
    for column, indices in picked:
        # Read in batches, a million selected rows would arrive as a million chunks, and in minutes.
        values = column.cast(kind).combine_chunks()
        taken.append(values if indices is None else values.take(indices.column(0).combine_chunks()))
    return pa.concat_arrays(taken) if taken else pa.array([], type=kind)


def _numbered(column: Any) -> tuple[Numbers, Any]:
    """A number for each value, -1 for null, and the values by number (an Arrow array: there may be a million)."""
    encoded = column.dictionary_encode()
    return pc.fill_null(encoded.indices, NO_VALUE).to_numpy().astype(np.int64), encoded.dictionary
