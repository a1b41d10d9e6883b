"""Folds: blocks stay whole, every fold has rows, sizes and classes are even, and what is not is said."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.blocks import RowLabels
from finetune.data.splits import LARGEST_DEVIATION, assign_folds, blocks_of, fold_report
from finetune.errors import DataError


@given(st.lists(st.integers(5, 60), min_size=1, max_size=6), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_without_groups_every_class_is_even_to_within_one_row(sizes: list[int], folds: int, seed: int) -> None:
    labels = [f"c{number}" for number, size in enumerate(sizes) for _ in range(size)]
    assigned = assign_folds(labels, folds=folds, seed=seed)
    counts = Counter(zip(labels, assigned.tolist(), strict=True))
    for number, size in enumerate(sizes):
        assert all(abs(counts[f"c{number}", fold] - size / folds) < 1 for fold in range(folds))
    assert set(assigned.tolist()) == set(range(folds))


rows_with_groups = st.lists(
    st.tuples(
        st.sampled_from(["x", "y"]),
        st.one_of(st.none(), st.sampled_from([f"g{i}" for i in range(12)])),
        st.integers(0, 40),
    ),
    min_size=1,
    max_size=80,
)


@settings(deadline=None)
@given(rows_with_groups, st.integers(2, 6), st.integers(0, 1000), st.booleans())
def test_no_group_and_no_family_straddles_and_every_fold_has_rows(
    rows: list[tuple[str, str | None, int]], folds: int, seed: int, stratify: bool
) -> None:
    labels = [label for label, _, _ in rows]
    groups = [group for _, group, _ in rows]
    families = np.array([family for _, _, family in rows], dtype=np.int64)
    block = blocks_of(len(rows), groups=groups, families=families)
    enough = len(set(block.tolist())) >= folds and (not stratify or min(Counter(labels).values()) >= folds)
    arguments = {"folds": folds, "groups": groups, "families": families, "stratify": stratify}
    try:
        assigned = assign_folds(labels, seed=seed, **arguments)  # type: ignore[arg-type]
    except DataError:
        assert not enough
        return
    assert enough
    assert assigned.shape == (len(rows),)
    assert set(assigned.tolist()) == set(range(folds))
    for keys in (groups, families.tolist()):
        sides: dict[object, set[int]] = {}
        for key, fold in zip(keys, assigned.tolist(), strict=True):
            sides.setdefault(key, set()).add(fold)
        assert all(len(found) == 1 for key, found in sides.items() if key is not None)
    assert (assigned == assign_folds(labels, seed=seed, **arguments)).all()  # type: ignore[arg-type]
    report = fold_report(assigned, labels=labels, folds=folds, groups=groups, families=families, stratify=stratify)
    explained = any(note.startswith("sizes are up to") for note in report["notes"])
    assert explained == (report["largest_deviation"] > LARGEST_DEVIATION)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 10), st.integers(1, 4), st.integers(1, 6))
def test_small_blocks_give_even_folds_that_the_seed_decides(seed: int, folds: int, classes: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    families = np.repeat(np.arange(1200), rng.integers(1, largest + 1, 1200))
    labels = [f"c{i}" for i in rng.integers(0, classes, len(families))]
    assigned = assign_folds(labels, folds=folds, families=families, seed=seed)
    report = fold_report(assigned, labels=labels, folds=folds, families=families)
    assert report["largest_deviation"] <= LARGEST_DEVIATION
    assert report["notes"] == []
    assert list(report["sizes"]) == [f"fold {number}" for number in range(folds)]
    assert sum(report["sizes"].values()) == len(labels)
    assert (assigned != assign_folds(labels, folds=folds, families=families, seed=seed + 1)).any()
    totals = Counter(labels)
    for (label, _), count in Counter(zip(labels, assigned.tolist(), strict=True)).items():
        assert abs(count / totals[label] - 1 / folds) < 0.03


def test_as_many_blocks_as_folds_is_one_block_a_fold() -> None:
    labels = ["x"] * 30 + ["y"] * 30
    groups = ["a"] * 25 + ["b"] * 5 + ["c"] * 25 + ["d"] * 4 + ["e"]
    for seed in range(10):
        assigned = assign_folds(labels, folds=5, groups=groups, seed=seed)
        assert len(set(zip(groups, assigned.tolist(), strict=True))) == len(set(assigned.tolist())) == 5


def test_a_class_in_fewer_blocks_than_folds_is_noted() -> None:
    labels = ["x"] * 60 + ["rare"] * 6
    groups = [f"g{i // 3}" for i in range(60)] + ["r1"] * 3 + ["r2"] * 3
    for seed in range(10):
        assigned = assign_folds(labels, folds=4, groups=groups, seed=seed)
        held = sorted(set(assigned[60:].tolist()))
        assert len(held) == 2
        missing = ", ".join(str(fold) for fold in range(4) if fold not in held)
        notes = fold_report(assigned, labels=labels, folds=4, groups=groups)["notes"]
        assert f"warning: class 'rare' has no row in fold {missing}" in notes


def test_a_rare_class_is_not_moved_into_a_full_fold() -> None:
    labels = ["x"] * 60 + ["rare"] * 6
    groups = ["huge"] * 40 + [f"g{i}" for i in range(20)] + ["r1"] * 3 + ["r2"] * 3
    for seed in range(10):
        assigned = assign_folds(labels, folds=4, groups=groups, seed=seed)
        # Train comes before validation; no fold comes before another, so fold 0 has no claim to what is rare.
        assert assigned[0] not in assigned[60:]
        assert assigned[60] != assigned[63]


def test_a_class_that_one_fold_holds_alone_is_a_warning() -> None:
    labels = ["x"] * 60 + ["rare"] * 6
    groups = [f"g{i // 3}" for i in range(60)] + ["r"] * 6
    assigned = assign_folds(labels, folds=3, groups=groups, seed=0)
    assert (
        f"warning: only fold {assigned[60]} has rows of class 'rare'; nothing teaches it when that is held out"
        in fold_report(assigned, labels=labels, folds=3, groups=groups)["notes"]
    )


def test_a_huge_group_is_the_stated_reason() -> None:
    groups = ["huge"] * 60 + [f"g{i}" for i in range(40)]
    labels = ["x", "y"] * 50
    assigned = assign_folds(labels, folds=5, groups=groups, seed=0)
    assert fold_report(assigned, labels=labels, folds=5, groups=groups)["notes"] == [
        "sizes are up to 40.0 points from the request: "
        "groups and duplicate families stay whole, the largest of 60 of 100 rows"
    ]


def test_classes_with_too_few_rows_are_all_named() -> None:
    with pytest.raises(DataError) as caught:
        assign_folds(["a"] * 50 + ["b"] + ["c"] * 4, folds=5, seed=0)
    assert [str(problem) for problem in caught.value.problems] == [
        "data.split.stratify: class 'b' has 1 row; a stratified split into 5 folds needs at least 5 of each class. "
        "Add rows, merge or remove the class, or set data.split.stratify: false.",
        "data.split.stratify: class 'c' has 4 rows; a stratified split into 5 folds needs at least 5 of each class. "
        "Add rows, merge or remove the class, or set data.split.stratify: false.",
    ]
    assert len(assign_folds(["a"] * 50 + ["b"], folds=5, stratify=False, seed=0)) == 51


@pytest.mark.parametrize(
    ("rows", "groups", "found"),
    [
        (4, None, "4 rows"),
        (0, None, "0 rows"),
        (30, ["a"] * 15 + ["b"] * 15, "30 rows in 2 blocks (a group or a family of duplicates stays whole)"),
    ],
)
def test_fewer_rows_or_groups_than_folds_are_refused(rows: int, groups: list[str] | None, found: str) -> None:
    with pytest.raises(DataError) as caught:
        assign_folds(["a"] * rows, folds=5, groups=groups, seed=0)
    assert str(caught.value) == (
        f"folds: too few to split into 5 folds. Found: {found}, and at least 5 are needed. "
        "Add rows, or use fewer folds."
    )


@pytest.mark.parametrize("folds", [1, 0, -3])
def test_fewer_than_two_folds_are_refused(folds: int) -> None:
    with pytest.raises(DataError, match=f"folds: at least 2 are needed. Found: {folds}"):
        assign_folds(["a"] * 10, folds=folds, seed=0)


def test_two_hundred_thousand_rows_take_a_moment() -> None:
    rng = np.random.default_rng(0)
    labels = RowLabels(200_000, ("neg", "pos"), np.arange(200_000), rng.integers(0, 2, 200_000))
    before = time.process_time()
    assigned = assign_folds(labels, folds=10, families=rng.integers(0, 60_000, 200_000), seed=0)
    assert time.process_time() - before < 4  # a tenth of a second on a quiet machine
    assert np.abs(np.bincount(assigned) / 200_000 - 0.1).max() < 0.001
