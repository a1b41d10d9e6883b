"""Splits: nothing straddles, shares are kept, and what cannot be kept is said."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.splits import assign_splits, blocks_of, split_off, split_report
from finetune.errors import DataError

RATIOS = {"train": 0.70, "validation": 0.15, "test": 0.15}


@given(st.lists(st.integers(3, 60), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_without_groups_every_class_has_its_share_to_within_one_row(sizes: list[int], seed: int) -> None:
    labels = [f"c{number}" for number, size in enumerate(sizes) for _ in range(size)]
    assigned = assign_splits(labels, ratios=RATIOS, seed=seed)
    counts = Counter(zip(labels, assigned.tolist(), strict=True))
    for number, size in enumerate(sizes):
        for split, ratio in RATIOS.items():
            count = counts[f"c{number}", split]
            assert count >= 1
            # Three or four rows cannot be shared 70/15/15 with one in every part and stay nearer than this.
            assert abs(count - ratio * size) < (1 + 1e-9 if size > 4 else 1.2)
    for split, ratio in RATIOS.items():
        assert abs((assigned == split).sum() - ratio * len(labels)) <= 1.2 * len(sizes)


def test_round_numbers_are_met_exactly() -> None:
    assigned = assign_splits(["a"] * 200 + ["b"] * 100, ratios=RATIOS, seed=1)
    assert Counter(assigned[:200].tolist()) == {"train": 140, "validation": 30, "test": 30}
    assert Counter(assigned[200:].tolist()) == {"train": 70, "validation": 15, "test": 15}


def test_many_small_classes_do_not_tilt_the_sizes() -> None:
    labels = [f"c{i % 100}" for i in range(700)]
    report = split_report(assign_splits(labels, ratios=RATIOS, seed=0), labels=labels, ratios=RATIOS)
    assert report["largest_deviation"] <= 0.01


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
@given(rows_with_groups, st.integers(0, 1000), st.booleans())
def test_no_group_and_no_family_straddles(rows: list[tuple[str, str | None, int]], seed: int, stratify: bool) -> None:
    labels = [label for label, _, _ in rows]
    groups = [group for _, group, _ in rows]
    families = np.array([family for _, _, family in rows], dtype=np.int64)
    arguments = {"ratios": RATIOS, "groups": groups, "families": families, "stratify": stratify, "seed": seed}
    try:
        assigned = assign_splits(labels, **arguments)  # type: ignore[arg-type]
    except DataError:
        blocks = blocks_of(len(rows), groups=groups, families=families)
        # Two classes can need two blocks in train, so up to four blocks may leave a split without any.
        assert len(set(blocks.tolist())) < (5 if stratify else 3) or min(Counter(labels).values()) < 3
        return
    assert len(assigned) == len(rows)
    assert set(assigned.tolist()) == set(RATIOS)
    for keys in (groups, families.tolist()):
        sides: dict[object, set[str]] = {}
        for key, split in zip(keys, assigned.tolist(), strict=True):
            sides.setdefault(key, set()).add(split)
        assert all(len(found) == 1 for key, found in sides.items() if key is not None)
    assert (assigned == assign_splits(labels, **arguments)).all()  # type: ignore[arg-type]


def test_blocks_join_through_others() -> None:
    groups = ["a", "a", None, "b", None, None]
    families = np.array([0, 1, 2, 1, 4, 2])  # row 3 repeats row 1, so groups a and b are one block
    assert blocks_of(6, groups=groups, families=families).tolist() == [0, 0, 1, 0, 2, 1]
    assert blocks_of(3, groups=None, families=None).tolist() == [0, 1, 2]


def test_seeds_differ_and_large_groups_do_not_always_go_to_train() -> None:
    groups = ["big"] * 60 + [f"g{i // 20}" for i in range(540)]
    labels = ["x", "y"] * 300
    sides = {str(assign_splits(labels, ratios=RATIOS, groups=groups, seed=seed)[100]) for seed in range(20)}
    assert len(sides) > 1


def test_groups_of_uneven_size_keep_sizes_and_classes_near_the_request() -> None:
    rng = np.random.default_rng(3)
    labels, groups = [], []
    for group, size in enumerate(rng.zipf(1.8, 600).clip(max=120)):
        groups += [f"g{group}"] * int(size)
        labels += [f"c{rng.integers(5)}"] * int(size)
    assigned = assign_splits(labels, ratios=RATIOS, groups=groups, seed=5)
    report = split_report(assigned, labels=labels, ratios=RATIOS, groups=groups)
    assert report["largest_deviation"] <= 0.01
    assert report["notes"] == []
    totals = Counter(labels)
    for (label, split), count in Counter(zip(labels, assigned.tolist(), strict=True)).items():
        assert abs(count / totals[label] - RATIOS[split]) < 0.06


def test_a_huge_group_is_the_stated_reason() -> None:
    labels = ["x", "y"] * 50
    groups = ["huge"] * 90 + [f"g{i}" for i in range(10)]
    assigned = assign_splits(labels, ratios=RATIOS, groups=groups, seed=0)
    report = split_report(assigned, labels=labels, ratios=RATIOS, groups=groups)
    assert report["sizes"]["train"] == 90
    assert report["notes"] == [
        "sizes are up to 20.0 points from the request: "
        "11 groups or duplicate families stay whole, the largest of 90 rows"
    ]


def test_a_class_in_too_few_groups_goes_to_train_and_test_and_is_noted() -> None:
    labels = ["x"] * 60 + ["rare"] * 6
    groups = [f"g{i // 3}" for i in range(60)] + ["r1"] * 3 + ["r2"] * 3
    for seed in range(10):
        assigned = assign_splits(labels, ratios=RATIOS, groups=groups, seed=seed)
        assert set(assigned[60:].tolist()) == {"train", "test"}
        notes = split_report(assigned, labels=labels, ratios=RATIOS, groups=groups)["notes"]
        assert "warning: validation has no row of class 'rare'" in notes
    one_group = [*groups[:60], *["r1"] * 6]
    assert set(assign_splits(labels, ratios=RATIOS, groups=one_group, seed=0)[60:].tolist()) == {"train"}


def test_a_class_in_enough_groups_is_everywhere() -> None:
    labels = ["x"] * 300 + ["rare"] * 3
    groups = [f"g{i // 3}" for i in range(300)] + ["g1", "g2", "g3"]
    for seed in range(20):
        assigned = assign_splits(labels, ratios=RATIOS, groups=groups, seed=seed)
        assert set(assigned[300:].tolist()) == set(RATIOS)


def test_classes_with_too_few_rows_are_all_named() -> None:
    with pytest.raises(DataError) as caught:
        assign_splits(["a"] * 50 + ["b"] + ["c"] * 2, ratios=RATIOS, seed=0)
    assert [str(problem) for problem in caught.value.problems] == [
        "data.split.stratify: class 'b' has 1 row; a stratified split into train, validation, test needs at least 3 of "
        "each class. Add rows, merge or remove the class, or set data.split.stratify: false.",
        "data.split.stratify: class 'c' has 2 rows; a stratified split into train, validation, test needs at least 3 "
        "of each class. Add rows, merge or remove the class, or set data.split.stratify: false.",
    ]
    assert len(assign_splits(["a"] * 50 + ["b"], ratios=RATIOS, stratify=False, seed=0)) == 51


@pytest.mark.parametrize(("rows", "groups"), [(2, None), (0, None), (30, ["a"] * 15 + ["b"] * 15)])
def test_fewer_rows_or_groups_than_splits_are_refused(rows: int, groups: list[str] | None) -> None:
    with pytest.raises(DataError, match=r"data.split: too few to split into train, validation, test. Found: \d+ rows"):
        assign_splits(["a"] * rows, ratios=RATIOS, groups=groups, stratify=False, seed=0)


def test_groups_that_train_needs_all_of_are_refused() -> None:
    with pytest.raises(DataError, match=r"no group is left for \w+ when train has every class. Found: 6 rows"):
        assign_splits(list("xxxyyy"), ratios=RATIOS, groups=["a", "a", "b", "c", "c", "c"], seed=0)


def test_three_rows_fill_three_splits() -> None:
    assert set(assign_splits(["a"] * 3, ratios=RATIOS, seed=0).tolist()) == set(RATIOS)


def test_several_labels_a_row_are_each_stratified() -> None:
    rng = np.random.default_rng(0)
    labels = [tuple(f"m{i}" for i in np.flatnonzero(rng.random(6) < 0.25)) for _ in range(1000)]
    assigned = assign_splits(labels, ratios=RATIOS, seed=0)
    totals = Counter(name for label in labels for name in label)
    counts = Counter((n, s) for label, s in zip(labels, assigned.tolist(), strict=True) for n in label)
    for split, ratio in RATIOS.items():
        assert all(abs(counts[name, split] / totals[name] - ratio) < 0.02 for name in totals)


def test_split_off_takes_a_validation_part_out_of_train() -> None:
    labels = ["a"] * 80 + ["b"] * 20
    assigned = split_off(labels, share=0.1, seed=2)
    assert Counter(assigned[:80].tolist()) == {"train": 72, "validation": 8}
    assert Counter(assigned[80:].tolist()) == {"train": 18, "validation": 2}


def test_a_split_of_share_zero_stays_empty() -> None:
    ratios = {"train": 0.8, "validation": 0.2, "test": 0.0}
    assigned = assign_splits(["a"] * 10, ratios=ratios, seed=0)
    assert Counter(assigned.tolist()) == {"train": 8, "validation": 2}
    assert split_report(assigned, labels=["a"] * 10, ratios=ratios)["notes"] == []


def test_a_hundred_thousand_rows_in_twenty_thousand_groups_take_seconds() -> None:
    rng = np.random.default_rng(0)
    labels = [f"c{i}" for i in rng.integers(0, 20, 100_000)]
    groups = [f"g{i}" for i in rng.integers(0, 20_000, 100_000)]
    before = time.process_time()
    assign_splits(labels, ratios=RATIOS, groups=groups, seed=0)
    assert time.process_time() - before < 6  # a second on a quiet machine
