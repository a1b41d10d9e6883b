"""Division: blocks stay whole, no row is lost, leaks of brought parts are settled, a missing part is clean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.blocks import blocks_of
from finetune.data.division import Division, divide, fold_seed
from finetune.data.leaks import Policy
from finetune.data.near_duplicates import Families, find_families
from finetune.errors import DataError, GateFailed
from finetune.recipe_data import SPLITS, Fold, Split

COLUMNS = ("id", "text", "label", "group", "origin")
Rows = Sequence[tuple[str, str | None, int]]  # label, group, family


def dataset(texts: list[str], labels: list[str], groups: list[str | None], *, name: str) -> Dataset:
    ids = [f"{name}:{row}" for row in range(len(texts))]
    columns = {"id": ids, "text": texts, "label": labels, "group": groups, "origin": ids}
    return Dataset.from_dict(columns, features=Features({column: Value("string") for column in COLUMNS}))


def parts_of(rows: Rows, homes: list[str]) -> tuple[dict[str, Dataset], Families]:
    """The rows in the parts that `homes` names, and their families; every text differs from every other."""
    parts, numbers = {}, []
    for home in [name for name in ("all", *SPLITS) if name in homes]:
        ours = [row for row, where in zip(rows, homes, strict=True) if where == home]
        numbers += [family for _, _, family in ours]
        texts = [f"{home} {row}" for row in range(len(ours))]
        parts[home] = dataset(texts, [label for label, _, _ in ours], [group for _, group, _ in ours], name=home)
    first = np.array([numbers.index(number) for number in numbers], dtype=np.int64)
    alike = np.ones(len(first), dtype=np.float32)
    return parts, Families(first, np.arange(len(first)), alike, short=0)


def ids(splits: dict[str, Dataset]) -> Counter[str]:
    return Counter(row for rows in splits.values() for row in rows["id"])


def straddling(division: Division) -> int:
    """Blocks of a shared family or group, also through others, that lie in more than one split."""
    groups = [group for rows in division.splits.values() for group in rows["group"]]
    block = blocks_of(len(groups), groups=groups, families=np.concatenate(list(division.family.values())))
    owner = np.repeat(np.arange(len(division.splits)), [len(rows) for rows in division.splits.values()])
    return len(set(zip(block.tolist(), owner.tolist(), strict=True))) - len(set(block.tolist()))


def leaking(overlaps: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    return {(each["earlier"], each["later"]): each["leaking"] for each in overlaps}


some_rows = st.lists(
    st.tuples(
        st.sampled_from(["x", "y"]),
        st.one_of(st.none(), st.sampled_from([f"g{number}" for number in range(20)])),
        st.integers(0, 60),
    ),
    min_size=3,
    max_size=60,
)


@settings(max_examples=100)
@given(some_rows, st.integers(0, 1000), st.booleans())
def test_one_source_is_divided_without_losing_a_row_or_cutting_a_block(rows: Rows, seed: int, stratify: bool) -> None:
    parts, families = parts_of(rows, ["all"] * len(rows))
    try:
        division = divide(parts, families, settings=Split(stratify=stratify), leaks="refuse", seed=seed)
    except DataError:
        groups = [group for _, group, _ in rows]
        blocks = len(set(blocks_of(len(rows), groups=groups, families=families.family).tolist()))
        fewest = min(Counter(label for label, _, _ in rows).values())
        assert blocks < 6 or (stratify and fewest < 3), "refused although there is enough"
        return
    assert list(division.splits) == list(SPLITS) and all(map(len, division.splits.values()))
    assert ids(division.splits) == ids(parts)
    assert straddling(division) == 0
    assert division.leaks["brought"] is None
    assert set(leaking(division.leaks["left"]).values()) == {0} and len(division.leaks["left"]) == 3


@settings(max_examples=60)
@given(some_rows, st.integers(0, 1000), st.integers(2, 4), st.integers(1, 3), st.sampled_from(["all", "brought"]))
def test_each_fold_is_held_out_once_and_no_block_is_cut(
    rows: Rows, seed: int, folds: int, repeat: int, source: str
) -> None:
    homes = ["all"] * len(rows) if source == "all" else [("train", "validation")[row % 2] for row in range(len(rows))]
    parts, families = parts_of(rows, homes)
    arguments: dict[str, Any] = {"settings": Split(stratify=False), "leaks": "refuse", "seed": seed}
    held: Counter[str] = Counter()
    seen: dict[str, set[int]] = {}
    for fold in range(1, folds + 1):
        try:
            division = divide(parts, families, fold=Fold(folds=folds, fold=fold, repeat=repeat), **arguments)
        except DataError:
            groups = [group for rows in parts.values() for group in rows["group"]]
            assert len(set(blocks_of(len(rows), groups=groups, families=families.family).tolist())) < 2 * folds + 2
            return
        assert division.folds is not None and division.fold_report is not None
        assert ids(division.splits) == ids(parts) and straddling(division) == 0
        assert set(division.folds["test"].tolist()) == {fold - 1}
        assert fold - 1 not in {*division.folds["train"].tolist(), *division.folds["validation"].tolist()}
        held.update(division.splits["test"]["id"])
        for name, split in division.splits.items():
            for id, number in zip(split["id"], division.folds[name].tolist(), strict=True):
                seen.setdefault(id, set()).add(number)
        if source == "all" and repeat == 1:
            numbered = divide(parts, families, folds=folds, **arguments)
            assert numbered.folds is not None
            column = {id: number for name, split in numbered.splits.items()
                      for id, number in zip(split["id"], numbered.folds[name].tolist(), strict=True)}  # fmt: skip
            assert all(seen[id] >= {number} for id, number in column.items()), "the folds of prepare --folds"
    assert held == ids(parts), "every document is held out exactly once"
    assert all(len(numbers) == 1 for numbers in seen.values()), "the folds are the same whichever is held out"


@settings(max_examples=150)
@given(some_rows, st.sampled_from(get_args(Policy)), st.integers(0, 1000), st.data())
def test_brought_parts_keep_their_rows_and_a_missing_part_never_leaks(
    rows: Rows, policy: Policy, seed: int, data: st.DataObject
) -> None:
    brought = data.draw(st.sampled_from([("train", "test"), ("train", "validation"), SPLITS, ("train",)]))
    homes = data.draw(st.lists(st.sampled_from(brought), min_size=len(rows), max_size=len(rows)))
    parts, families = parts_of(rows, homes)
    if "train" not in parts:
        return
    arguments: dict[str, Any] = {"settings": Split(stratify=False), "leaks": policy, "seed": seed}
    try:
        division = divide(parts, families, **arguments)
    except (DataError, GateFailed):
        return
    assert list(division.splits) == list(SPLITS)
    assert ids(division.splits) == ids(parts)
    left = leaking(division.leaks["left"])
    for (earlier, later), count in left.items():
        if policy == "move" or not {earlier, later} <= set(parts):
            assert count == 0, (earlier, later)
        elif policy == "refuse" and later == "test":
            assert count == 0
    if policy == "move":
        assert straddling(division) == 0
    if policy != "move":
        for name in set(parts) - {"train"}:
            assert division.splits[name]["id"][:] == parts[name]["id"][:], "a part the user brought stays as it is"
    again = divide(parts, families, **arguments)
    assert [rows["id"][:] for rows in again.splits.values()] == [rows["id"][:] for rows in division.splits.values()]
    assert [r._fingerprint for r in again.splits.values()] == [r._fingerprint for r in division.splits.values()]


def brought(
    train: list[str], test: list[str], *, groups: list[str] | None = None
) -> tuple[dict[str, Dataset], Families]:
    """Parts that the user brought, with labels in turn; `groups` are those of train."""
    nobody: list[str | None] = [None] * max(len(train), len(test))
    given = {"train": [*(groups or nobody[: len(train)])], "test": nobody[: len(test)]}
    parts = {
        name: dataset(texts, [("x", "y")[row % 2] for row in range(len(texts))], given[name], name=name)
        for name, texts in (("train", train), ("test", test))
    }
    whole = dataset(train + test, ["x"] * len(train + test), [None] * len(train + test), name="whole")
    return parts, find_families(whole, similarity=0.7)


TRAIN = [" ".join(f"word{row}of{place}" for place in range(40)) for row in range(20)]
NEAR = TRAIN[3].replace("word3of7 ", "another ")


def test_leaks_refuse_move_and_warn() -> None:
    parts, families = brought(TRAIN, [TRAIN[0], NEAR, *(f"something else entirely {row}" for row in range(8))])
    with pytest.raises(GateFailed) as caught:
        divide(parts, families, settings=Split(), leaks="refuse", seed=1)
    assert "data.source.test: 1 of 10 rows (10.0 %) is an exact duplicate of train rows" in str(caught.value)
    assert "is a near duplicate of train rows; worst: test:1 and train:3" in str(caught.value)

    moved = divide(parts, families, settings=Split(), leaks="move", seed=1)
    assert {"test:0", "test:1"}.isdisjoint(moved.splits["test"]["id"][:])
    assert len(moved.splits["test"]) == 8
    assert leaking(moved.leaks["brought"]) == {("train", "test"): 2}
    assert set(leaking(moved.leaks["left"]).values()) == {0}
    assert any("2 of 10 rows (20.0 %) were moved to train" in note for note in moved.notes)

    warned = divide(parts, families, settings=Split(), leaks="warn", seed=1)
    assert warned.splits["test"]["id"][:] == parts["test"]["id"][:]
    assert leaking(warned.leaks["left"])["train", "test"] == 2
    assert sum(note.startswith("warning: test: 1 of 10 rows") for note in warned.notes) == 2
    assert [each.leaks["policy"] for each in (moved, warned)] == ["move", "warn"]


def test_a_missing_part_is_taken_after_leaks_are_settled_with_its_size_stated() -> None:
    texts = [f"train text number {row}" for row in range(100)]
    groups = ["huge"] * 60 + [f"g{row}" for row in range(40)]
    parts, families = brought(texts, ["of its own", "a second"], groups=groups)
    division = divide(parts, families, settings=Split(), leaks="move", seed=1)
    rows = len(division.splits["validation"])
    assert f"no validation part was given: {rows} rows were taken from train" in division.notes
    assert division.report["sizes"] == {"train": 100 - rows, "validation": rows, "test": 2}
    assert straddling(division) == 0


def test_a_size_that_groups_do_not_allow_is_explained() -> None:
    texts = [f"train text number {row}" for row in range(100)]
    groups = ["a"] * 50 + ["b"] * 50
    parts, families = brought(texts, ["of its own", "a second"], groups=groups)
    division = divide(parts, families, settings=Split(stratify=False), leaks="refuse", seed=1)
    assert len(division.splits["validation"]) == 50
    assert (
        "validation: sizes are up to 32.4 points from the request: "
        "groups and duplicate families stay whole, the largest of 50 of 100 rows"
    ) in division.notes


def test_what_train_shares_with_a_brought_validation_does_not_become_a_leak_into_test() -> None:
    # The last ten of train are near duplicates of validation's: that is let be, and warned of.
    rows: Rows = [("xy"[row % 2], None, row) for row in (*range(40), *range(30, 40))]
    parts, families = parts_of(rows, ["train"] * 40 + ["validation"] * 10)
    for seed in range(5):
        division = divide(parts, families, settings=Split(), leaks="refuse", seed=seed)
        left = leaking(division.leaks["left"])
        assert left == {("train", "validation"): 10, ("train", "test"): 0, ("validation", "test"): 0}
        assert len(division.splits["test"]) == 7  # .15 / .85 of 40


def test_a_train_part_that_is_all_tied_to_others_is_refused() -> None:
    rows: Rows = [("xy"[row % 2], None, row) for row in (*range(10), *range(10))]
    parts, families = parts_of(rows, ["train"] * 10 + ["validation"] * 10)
    with pytest.raises(DataError, match="too few rows are left to take test from: 10 of 10 rows share"):
        divide(parts, families, settings=Split(), leaks="refuse", seed=1)


def test_without_stratification_a_rare_class_is_no_reason_to_refuse() -> None:
    rows: Rows = [*(("x", None, row) for row in range(20)), ("rare", None, 99)]
    parts, families = parts_of(rows, ["all"] * 21)
    with pytest.raises(DataError, match="class 'rare' has 1 row"):
        divide(parts, families, settings=Split(), leaks="refuse", seed=1)
    division = divide(parts, families, settings=Split(stratify=False), leaks="refuse", seed=1)
    assert sum("has no row of class 'rare'" in note for note in division.notes) == 2
    assert ids(division.splits) == ids(parts)


def test_an_empty_brought_part_is_refused() -> None:
    parts, families = brought([f"text {row}" for row in range(9)], [])
    with pytest.raises(DataError, match=r"data.source.test: has no rows"):
        divide(parts, families, settings=Split(stratify=False), leaks="refuse", seed=1)


def test_folds_are_stratified_and_their_rest_keeps_the_share_of_validation() -> None:
    rows: Rows = [("xy"[row % 2], None, row) for row in range(200)]
    parts, families = parts_of(rows, ["all"] * 200)
    arguments: dict[str, Any] = {"settings": Split(), "leaks": "refuse", "seed": 3}
    division = divide(parts, families, fold=Fold(folds=5, fold=2), **arguments)
    assert {name: len(split) for name, split in division.splits.items()} == {"train": 132, "validation": 28, "test": 40}
    assert Counter(division.splits["test"]["label"]) == {"x": 20, "y": 20}
    assert division.fold_report is not None
    assert division.fold_report["sizes"] == {f"fold {fold}": 40 for fold in range(1, 6)}
    assert (division.fold_report["fold"], division.fold_report["seed"], division.notes) == (2, 3, [])
    other = divide(parts, families, fold=Fold(folds=5, fold=2, repeat=2), **arguments)
    assert set(other.splits["test"]["id"]) != set(division.splits["test"]["id"])
    assert fold_seed(3, repeat=1) == 3 and len({fold_seed(3, repeat=repeat) for repeat in range(1, 20)}) == 19


def test_a_brought_test_part_is_settled_with_the_pool_and_then_left_closed() -> None:
    parts, families = brought(TRAIN, [TRAIN[0], *(f"something else entirely {row}" for row in range(8))])
    parts = {"train": parts["train"].select(range(15)), "validation": parts["train"].select(range(15, 20)), **parts}
    parts = {"train": parts["train"].select(range(15)), "validation": parts["validation"], "test": parts["test"]}
    arguments: dict[str, Any] = {"settings": Split(stratify=False), "seed": 1, "fold": Fold(folds=4, fold=1)}
    with pytest.raises(GateFailed, match=r"1 of 9 rows .* is an exact duplicate of train rows"):
        divide(parts, families, leaks="refuse", **arguments)
    for policy, closed in (("warn", 9), ("move", 8)):
        division = divide(parts, families, leaks=policy, **arguments)  # type: ignore[arg-type]
        told = f"the test part that was brought stays closed: its {closed} rows take no part in the folds"
        assert told in division.notes
        held = set(ids(division.splits))
        assert {id for id in held if id.startswith("test")} == ({"test:0"} if policy == "move" else set())
        assert len(held) == 20 + (policy == "move")
        assert set(leaking(division.leaks["left"]).values()) == {0}


def test_too_few_for_the_folds_is_refused_with_the_numbers() -> None:
    fold = Fold(folds=5, fold=1)
    parts, families = parts_of([("xy"[row % 2], f"g{row % 4}", row) for row in range(40)], ["all"] * 40)
    with pytest.raises(DataError, match=r"too few to split into 5 folds\. Found: 40 rows in 4 blocks"):
        divide(parts, families, settings=Split(), leaks="refuse", seed=1, fold=fold)
    parts, families = parts_of([("rare" if row < 3 else "x", None, row) for row in range(40)], ["all"] * 40)
    with pytest.raises(DataError, match="class 'rare' has 3 rows; a stratified split into 5 folds needs at least 5"):
        divide(parts, families, settings=Split(), leaks="refuse", seed=1, fold=fold)
