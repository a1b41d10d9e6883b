"""What leaks from one split into a later one: texts that repeat, exactly or nearly, and groups that both hold.

A score on rows the model has seen measures memory. Splits this house made have no leaks, and the report is the proof;
splits the user brought are checked, and settled as the recipe says.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray

from finetune.data.blocks import Numbers, blocks_of, column_numbers
from finetune.data.row_streams import selected
from finetune.data.text_steps import visible
from finetune.data.written_examples import whole_text
from finetune.errors import GateFailed, Problem, listed
from finetune.recipe_data import Form

GUARDED = "test"  # a leak into it falsifies the reported score; one into validation only blunts the choice of the epoch
# Texts are read for the pairs shown only, so the worst pairs are those of a sample where very many rows leak.
ROWS_COMPARED = 200
TWINS_COMPARED = 3
PAIRS_IN_A_LINE = 3
GROUPS_SHOWN = 3

Policy = Literal["refuse", "move", "warn"]
Similarity = Callable[[str, str], float]
RowSimilarity = Callable[[Mapping[str, Any], Mapping[str, Any]], float]


@dataclass(frozen=True)
class LeakPair:
    """A row of the later split and a twin in the earlier one; texts shortened and made visible; similarity 0 to 1."""

    origin: str
    twin: str
    similarity: float
    text: str
    twin_text: str


@dataclass(frozen=True)
class Overlap:
    """What the later of two splits shares with the earlier one. Counts are rows of the later split, of `rows` in all.

    A row of `exact` has the same text as a row of the earlier split; one of `near` only the same family; one of
    `in_groups` a group that both hold. `leaking` counts a row of several kinds once. Pairs are the most similar first.
    """

    earlier: str
    later: str
    rows: int
    exact: int
    near: int
    in_groups: int
    leaking: int
    groups: int
    groups_shown: tuple[str, ...]
    exact_pairs: tuple[LeakPair, ...]
    near_pairs: tuple[LeakPair, ...]

    def sentences(self) -> list[str]:
        """One for each kind of leak: `12 of 1,000 rows (1.2 %) are near duplicates of train rows; worst: ...`."""
        said = []
        if self.exact:
            kind = "is an exact duplicate" if self.exact == 1 else "are exact duplicates"
            pairs = _pairs_line(self.exact_pairs)
            said.append(f"{self._share(self.exact)} {kind} of {self.earlier} rows; for example: {pairs}")
        if self.near:
            kind = "is a near duplicate" if self.near == 1 else "are near duplicates"
            said.append(
                f"{self._share(self.near)} {kind} of {self.earlier} rows; worst: {_pairs_line(self.near_pairs)}"
            )
        if self.in_groups:
            kind = f"{'is' if self.in_groups == 1 else 'are'} in a group that {self.earlier} has too"
            more = f" and {self.groups - len(self.groups_shown)} more" if self.groups > len(self.groups_shown) else ""
            said.append(f"{self._share(self.in_groups)} {kind}: {', '.join(self.groups_shown)}{more}")
        return said

    def to_json(self) -> dict[str, Any]:
        """For data.json: the fields, and the shares of the later split's rows."""
        shares = {kind: getattr(self, kind) / max(self.rows, 1) for kind in ("exact", "near", "in_groups", "leaking")}
        return asdict(self) | {"shares": shares}

    def _share(self, count: int) -> str:
        return f"{count:,} of {self.rows:,} rows ({_percent(count / self.rows)})"


@dataclass(frozen=True)
class LeakReport:
    """The overlap of every two splits, in the order of the splits."""

    overlaps: tuple[Overlap, ...]

    def leaking(self) -> list[Overlap]:
        """The overlaps that hold anything, those into test first."""
        return sorted((each for each in self.overlaps if each.leaking), key=lambda each: each.later != GUARDED)

    def lines(self) -> list[str]:
        """For the screen: `test: 12 of 1,000 rows (1.2 %) are ...`; empty when nothing leaks."""
        return [f"{overlap.later}: {said}" for overlap in self.leaking() for said in overlap.sentences()]

    def to_json(self) -> list[dict[str, Any]]:
        return [overlap.to_json() for overlap in self.overlaps]


def find_leaks(
    splits: Mapping[str, Dataset],
    *,
    family: Mapping[str, Numbers],
    exact: Mapping[str, Numbers],
    similarity: Similarity,
    most_pairs: int = 5,
    form: Form | None = None,
) -> LeakReport:
    """What every split shares with each one before it; `splits` are in the order train, validation, test.

    `family` and `exact` number the duplicates over all splits, by split, shape (rows of the split,): equal numbers are
    one family, or one text. Every text of an exact number is of one family. `similarity` of two texts is 0 to 1; of
    rows of a `form` it is that of source and target together.
    """
    starts = np.cumsum([len(rows) for rows in splits.values()])[:-1]
    groups = np.split(column_numbers(splits.values(), "group"), starts)
    parts = [
        _Part(name, rows, family[name], exact[name], group)
        for (name, rows), group in zip(splits.items(), groups, strict=True)
    ]
    pairs = itertools.combinations(parts, 2)

    def alike(*rows: Mapping[str, Any]) -> float:
        one, other = (whole_text(row["text"], row.get("target"), form=form) for row in rows)
        return similarity(one, other)

    return LeakReport(tuple(_overlap(earlier, later, alike, most_pairs) for earlier, later in pairs))


@dataclass(frozen=True)
class Settled:
    """The splits to go on with, their families and texts by number as before, and what to tell the user."""

    splits: dict[str, Dataset]
    family: dict[str, Numbers]
    exact: dict[str, Numbers]
    notes: list[str]


def settle_leaks(
    splits: Mapping[str, Dataset],
    report: LeakReport,
    *,
    family: Mapping[str, Numbers],
    exact: Mapping[str, Numbers],
    policy: Policy,
) -> Settled:
    """What becomes of splits with leaks, by the recipe's `data.leaks`; `report` is theirs, from `find_leaks`.

    refuse: GateFailed when anything leaks into test; leaks into validation are warnings. warn: all are warnings.
    move: a family or group in several splits goes wholly to the first of them, with all that it is tied to, so that
    afterwards nothing leaks; GateFailed when a split would be empty. Train only grows, so no class leaves it.
    """
    if policy == "refuse" and any(overlap.later == GUARDED for overlap in report.leaking()):
        raise GateFailed.of(_problems(report))
    if policy == "move" and report.leaking():
        return _moved(splits, family=family, exact=exact)
    return Settled(dict(splits), dict(family), dict(exact), [f"warning: {line}" for line in report.lines()])


@dataclass(frozen=True)
class _Part:
    name: str
    rows: Dataset
    family: Numbers
    exact: Numbers
    group: Numbers  # negative: no group


def _overlap(earlier: _Part, later: _Part, similarity: RowSimilarity, most_pairs: int) -> Overlap:
    exact = np.isin(later.exact, earlier.exact)
    near = np.isin(later.family, earlier.family) & ~exact
    groups, first = np.unique(later.group, return_index=True)
    shared = (groups >= 0) & np.isin(groups, earlier.group)
    in_groups = np.isin(later.group, groups[shared])
    return Overlap(
        earlier=earlier.name,
        later=later.name,
        rows=len(later.rows),
        exact=int(exact.sum()),
        near=int(near.sum()),
        in_groups=int(in_groups.sum()),
        leaking=int((exact | near | in_groups).sum()),
        groups=int(shared.sum()),
        groups_shown=tuple(visible(later.rows[int(row)]["group"]) for row in np.sort(first[shared])[:GROUPS_SHOWN]),
        exact_pairs=tuple(_exact_pair(earlier, later, row) for row in np.flatnonzero(exact)[:most_pairs]),
        near_pairs=tuple(_near_pairs(earlier, later, np.flatnonzero(near), similarity)[:most_pairs]),
    )


def _exact_pair(earlier: _Part, later: _Part, row: int) -> LeakPair:
    twin = np.flatnonzero(earlier.exact == later.exact[row])[0]
    return _pair(later.rows[int(row)], earlier.rows[int(twin)], 1.0)


def _near_pairs(earlier: _Part, later: _Part, near: NDArray[np.intp], similarity: RowSimilarity) -> list[LeakPair]:
    """The best pair of each row that was compared, the most similar first."""
    if not len(near):
        return []
    found = []
    for row in near[np.unique(np.linspace(0, len(near) - 1, num=ROWS_COMPARED).astype(np.int64))]:
        one = later.rows[int(row)]
        twins = np.flatnonzero(earlier.family == later.family[row])[:TWINS_COMPARED]
        others = [earlier.rows[int(twin)] for twin in twins]
        alike = [similarity(one, other) for other in others]
        best = int(np.argmax(alike))
        found.append(_pair(one, others[best], alike[best]))
    return sorted(found, key=lambda pair: -pair.similarity)


def _pair(row: Mapping[str, Any], twin: Mapping[str, Any], similarity: float) -> LeakPair:
    return LeakPair(
        origin=str(row["origin"]),
        twin=str(twin["origin"]),
        similarity=float(similarity),
        text=visible(row["text"] or ""),
        twin_text=visible(twin["text"] or ""),
    )


def _problems(report: LeakReport) -> list[Problem]:
    """One for each kind of leak between each two splits; the remedy closes the last."""
    leaking = report.leaking()
    homes = " or ".join(dict.fromkeys(overlap.earlier for overlap in leaking))
    remedy = f"Set data.leaks: move to give these rows to {homes}, data.leaks: warn to go on, or repair the files."
    said = [(f"data.source.{overlap.later}", sentence) for overlap in leaking for sentence in overlap.sentences()]
    return [Problem(*each) for each in said[:-1]] + [Problem(*said[-1], remedy)]


def _moved(splits: Mapping[str, Dataset], *, family: Mapping[str, Numbers], exact: Mapping[str, Numbers]) -> Settled:
    names = list(splits)
    came_from = np.repeat(np.arange(len(names)), [len(rows) for rows in splits.values()])
    groups = column_numbers(splits.values(), "group")
    block = blocks_of(len(came_from), groups=groups, families=np.concatenate([family[name] for name in names]))
    # Splits follow each other in their order, so the first row of a block lies in the first split that has any of it.
    goes_to = came_from[np.unique(block, return_index=True)[1]][block]
    left = np.bincount(goes_to, minlength=len(names))
    empty = [name for number, name in enumerate(names) if len(splits[name]) and not left[number]]
    if empty:
        raise GateFailed(
            "data.leaks",
            f"move would leave no row in {listed(empty)}: all share a text or a group with an earlier split, "
            "directly or through others",
            "Bring other rows, or name no file for it and it is taken from train.",
        )
    whole = concatenate_datasets(list(splits.values()))
    rows_of = {name: np.flatnonzero(goes_to == number) for number, name in enumerate(names)}
    return Settled(
        splits={name: selected(whole, rows) for name, rows in rows_of.items()},
        family={name: np.concatenate([family[each] for each in names])[rows] for name, rows in rows_of.items()},
        exact={name: np.concatenate([exact[each] for each in names])[rows] for name, rows in rows_of.items()},
        notes=_moves(names, came_from, goes_to),
    )


def _moves(names: list[str], came_from: Numbers, goes_to: Numbers) -> list[str]:
    notes = []
    for (to, home), (number, name) in itertools.combinations(enumerate(names), 2):
        count = int(((came_from == number) & (goes_to == to)).sum())
        rows = int((came_from == number).sum())
        if count:
            share = f"{count:,} of {rows:,} rows ({_percent(count / rows)})"
            moved = f"{'was' if count == 1 else 'were'} moved to {home}, which has their text or group"
            notes.append(f"{name}: {share} {moved}, directly or through others")
    return notes


def _pairs_line(pairs: tuple[LeakPair, ...]) -> str:
    """`test.csv:7 and train.csv:90 (.97)`, for the first few."""
    alike = (f"{pair.similarity:.2f}".removeprefix("0") for pair in pairs)
    named = [f"{pair.origin} and {pair.twin} ({points})" for pair, points in zip(pairs, alike, strict=True)]
    return ", ".join(named[:PAIRS_IN_A_LINE])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "under 0.1 %"
