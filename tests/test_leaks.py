"""Leaks between splits: all are found and counted, and the recipe's policy settles them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.leaks import ROWS_COMPARED, LeakReport, Settled, find_leaks, settle_leaks
from finetune.data.splits import assign_splits
from finetune.errors import GateFailed

NAMES = ("train", "validation", "test")
COLUMNS = ("id", "text", "label", "group", "origin")
Row = tuple[int, int, str | None]  # the exact text, its family, its group


def shared_words(one: str, other: str) -> float:
    """Jaccard similarity of two texts' words."""
    first, second = set(one.split()), set(other.split())
    return len(first & second) / max(len(first | second), 1)


def dataset(name: str, rows: list[tuple[str, str | None]]) -> Dataset:
    """Rows of text and group, each from a line of its own; line 1 is the header."""
    features = Features({column: Value("string") for column in COLUMNS})
    texts, groups = [text for text, _ in rows], [group for _, group in rows]
    origins = [f"{name}.csv:{line}" for line in range(2, len(rows) + 2)]
    columns = {"id": origins, "text": texts, "label": ["x"] * len(rows), "group": groups, "origin": origins}
    return Dataset.from_dict(columns, features=features)


class Brought:
    """Splits a user brought, with the families of their rows."""

    def __init__(self, parts: dict[str, list[Row]]) -> None:
        self.splits = {
            name: dataset(name, [(f"text {text} of family {family}", group) for text, family, group in rows])
            for name, rows in parts.items()
        }
        self.exact = {name: np.array([row[0] for row in rows], dtype=np.int64) for name, rows in parts.items()}
        self.family = {name: np.array([row[1] for row in rows], dtype=np.int64) for name, rows in parts.items()}

    def leaks(self, **arguments: Any) -> LeakReport:
        given = {"similarity": shared_words, **arguments}
        return find_leaks(self.splits, family=self.family, exact=self.exact, **given)

    def settle(self, policy: Any) -> Settled:
        return settle_leaks(self.splits, self.leaks(), family=self.family, exact=self.exact, policy=policy)


def example() -> Brought:
    return Brought(
        {
            "train": [(0, 0, "a"), (1, 1, "b"), (2, 1, None), (3, 3, None)],
            "validation": [(4, 4, None), (2, 1, None), (9, 9, "d")],
            "test": [(0, 0, None), (5, 1, "c"), (6, 6, "b"), (7, 4, "c"), (8, 8, None)],
        }
    )


def test_every_kind_of_leak_is_counted_for_every_two_splits() -> None:
    counts = {
        (overlap.earlier, overlap.later): (overlap.exact, overlap.near, overlap.in_groups, overlap.groups)
        for overlap in example().leaks().overlaps
    }
    assert counts == {
        ("train", "validation"): (1, 0, 0, 0),
        ("train", "test"): (1, 1, 1, 1),
        ("validation", "test"): (0, 2, 0, 0),
    }


def test_lines_name_counts_shares_and_the_worst_pairs() -> None:
    assert example().leaks().lines() == [
        "test: 1 of 5 rows (20.0 %) is an exact duplicate of train rows; "
        "for example: test.csv:2 and train.csv:2 (1.00)",
        "test: 1 of 5 rows (20.0 %) is a near duplicate of train rows; worst: test.csv:3 and train.csv:3 (.80)",
        "test: 1 of 5 rows (20.0 %) is in a group that train has too: b",
        "test: 2 of 5 rows (40.0 %) are near duplicates of validation rows; "
        "worst: test.csv:5 and validation.csv:2 (.80), test.csv:3 and validation.csv:3 (.67)",
        "validation: 1 of 3 rows (33.3 %) is an exact duplicate of train rows; "
        "for example: validation.csv:3 and train.csv:4 (1.00)",
    ]


def test_the_most_similar_pair_comes_first_and_texts_are_visible() -> None:
    splits = {
        "train": dataset("train", [("one two three four", None), ("five six seven", None)]),
        "test": dataset("test", [("one two x y", None), ("five six seven\u200b", None), ("five six seven 8", None)]),
    }
    family = {"train": np.array([0, 1]), "test": np.array([0, 1, 1])}
    exact = {"train": np.array([0, 1]), "test": np.array([2, 3, 4])}
    (overlap,) = find_leaks(splits, family=family, exact=exact, similarity=shared_words, most_pairs=2).overlaps
    assert [(pair.origin, pair.twin, pair.similarity) for pair in overlap.near_pairs] == [
        ("test.csv:4", "train.csv:3", 0.75),
        ("test.csv:3", "train.csv:3", 0.5),
    ]
    assert overlap.near_pairs[1].text == "five six seven\\u200b"
    assert overlap.near == 3


def test_the_json_has_counts_shares_and_pairs_also_where_nothing_leaks() -> None:
    written = json.loads(json.dumps(example().leaks().to_json()))
    assert [(each["earlier"], each["later"]) for each in written] == [
        ("train", "validation"),
        ("train", "test"),
        ("validation", "test"),
    ]
    assert written[1]["shares"] == {"exact": 0.2, "near": 0.2, "in_groups": 0.2, "leaking": 0.6}
    assert written[1]["exact_pairs"][0]["twin_text"] == "text 0 of family 0"
    clean = Brought({"train": [(0, 0, "a")], "test": [(1, 1, None), (2, 2, None)]}).leaks()
    assert clean.lines() == []
    assert clean.to_json()[0]["shares"]["leaking"] == 0


def test_texts_are_read_for_few_pairs_however_many_leak() -> None:
    calls = Counter[str]()

    def counted(one: str, other: str) -> float:
        calls["similarity"] += 1
        return shared_words(one, other)

    rows: dict[str, list[Row]] = {
        "train": [(i, 0, None) for i in range(3000)],
        "test": [(5000 + i, 0, None) for i in range(2000)],
    }
    (overlap,) = Brought(rows).leaks(similarity=counted).overlaps
    assert overlap.near == 2000
    assert len(overlap.near_pairs) == 5
    assert 0 < calls["similarity"] <= 3 * ROWS_COMPARED


def test_refuse_names_everything_that_leaks_and_the_remedy() -> None:
    with pytest.raises(GateFailed) as caught:
        example().settle("refuse")
    shown = [str(problem) for problem in caught.value.problems]
    assert len(shown) == 5
    assert shown[1] == (
        "data.source.test: 1 of 5 rows (20.0 %) is a near duplicate of train rows; "
        "worst: test.csv:3 and train.csv:3 (.80)."
    )
    assert shown[-1].endswith(
        "Set data.leaks: move to give these rows to train or validation, data.leaks: warn to go on, "
        "or repair the files."
    )
    assert caught.value.exit_code == 1


def test_refuse_lets_a_leak_into_validation_pass_with_a_warning() -> None:
    brought = Brought({"train": [(0, 0, None), (1, 1, None)], "validation": [(0, 0, None)], "test": [(2, 2, None)]})
    settled = brought.settle("refuse")
    assert settled.notes == [
        "warning: validation: 1 of 1 rows (100.0 %) is an exact duplicate of train rows; "
        "for example: validation.csv:2 and train.csv:2 (1.00)"
    ]
    assert all(settled.splits[name] is brought.splits[name] for name in NAMES)


def test_warn_changes_nothing_and_says_everything() -> None:
    brought = example()
    settled = brought.settle("warn")
    assert settled.notes == [f"warning: {line}" for line in brought.leaks().lines()]
    assert all(settled.splits[name] is brought.splits[name] for name in NAMES)


def test_move_gives_whole_families_and_groups_to_the_first_split_that_has_any() -> None:
    settled = example().settle("move")
    # test.csv:5 has the group of test.csv:3, which goes to train, and so its family in validation goes with it.
    assert {name: rows["origin"][:] for name, rows in settled.splits.items()} == {
        "train": [
            *("train.csv:2", "train.csv:3", "train.csv:4", "train.csv:5"),
            *("validation.csv:2", "validation.csv:3"),
            *("test.csv:2", "test.csv:3", "test.csv:4", "test.csv:5"),
        ],
        "validation": ["validation.csv:4"],
        "test": ["test.csv:6"],
    }
    assert settled.notes == [
        "validation: 2 of 3 rows (66.7 %) were moved to train, which has their text or group, "
        "directly or through others",
        "test: 4 of 5 rows (80.0 %) were moved to train, which has their text or group, directly or through others",
    ]


def test_move_prefers_validation_to_test() -> None:
    brought = Brought({"train": [(0, 0, None)], "validation": [(1, 1, None)], "test": [(1, 1, None), (2, 2, None)]})
    settled = brought.settle("move")
    assert {name: len(rows) for name, rows in settled.splits.items()} == {"train": 1, "validation": 2, "test": 1}


def test_move_without_a_leak_changes_nothing() -> None:
    brought = Brought({"train": [(0, 0, "a")], "test": [(1, 1, None)]})
    settled = brought.settle("move")
    assert settled.notes == []
    assert settled.splits["test"] is brought.splits["test"]


def test_move_refuses_to_empty_a_split() -> None:
    brought = Brought({"train": [(0, 0, None)], "validation": [(1, 1, None)], "test": [(0, 0, None), (5, 0, None)]})
    with pytest.raises(GateFailed) as caught:
        brought.settle("move")
    assert str(caught.value) == (
        "data.leaks: move would leave no row in test: all share a text or a group with an earlier split, directly or "
        "through others. Bring other rows, or name no file for it and it is taken from train."
    )


def test_moved_rows_have_a_fingerprint_of_what_was_moved() -> None:
    def fingerprint(families: list[int]) -> str:
        brought = Brought({"train": [(0, 0, None), (1, 1, None)], "test": [(2, 2, None), (3, 3, None), (4, 4, None)]})
        brought.family["test"] = np.array(families)
        return str(brought.settle("move").splits["train"]._fingerprint)

    assert fingerprint([0, 3, 4]) == fingerprint([0, 3, 4]) != fingerprint([2, 0, 4])


def test_labels_of_several_names_and_missing_groups_move_too() -> None:
    features = Features({name: Value("string") for name in COLUMNS} | {"label": List(Value("string"))})
    one = {"id": ["1"], "text": ["a"], "label": [["x", "y"]], "group": [None], "origin": ["a.csv:2"]}
    two = {"id": ["2", "3"], "text": ["a", None], "label": [["x"], []], "group": [None, None], "origin": ["b", "c"]}
    splits = {"train": Dataset.from_dict(one, features=features), "test": Dataset.from_dict(two, features=features)}
    numbers = {"train": np.array([0]), "test": np.array([0, 2])}
    report = find_leaks(splits, family=numbers, exact=numbers, similarity=shared_words)
    settled = settle_leaks(splits, report, family=numbers, exact=numbers, policy="move")
    assert settled.splits["train"]["label"][:] == [["x", "y"], ["x"]]
    assert settled.family["test"].tolist() == settled.exact["test"].tolist() == [2]


some_rows = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.integers(0, 60),
        st.one_of(st.none(), st.none(), st.sampled_from([f"g{i}" for i in range(25)])),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(some_rows)
def test_after_move_nothing_leaks_and_no_row_is_lost_or_doubled(drawn: list[tuple[str, int, str | None]]) -> None:
    parts: dict[str, list[Row]] = {
        name: [(text, text // 3, group) for split, text, group in drawn if split == name] for name in NAMES
    }
    for number, name in enumerate(NAMES):
        parts[name].append((100 + number, 100 + number, None))  # no split can become empty
    brought = Brought(parts)
    leaked = bool(brought.leaks().lines())
    settled = brought.settle("move")
    brought_origins = [origin for rows in brought.splits.values() for origin in rows["origin"]]
    settled_origins = [origin for rows in settled.splits.values() for origin in rows["origin"]]
    assert Counter(brought_origins) == Counter(settled_origins)
    assert len(settled.splits["test"]) <= len(brought.splits["test"])
    after = find_leaks(settled.splits, family=settled.family, exact=settled.exact, similarity=shared_words)
    assert after.lines() == []
    assert bool(settled.notes) == leaked
    family_of = {
        origin: int(number)
        for name in NAMES
        for origin, number in zip(brought.splits[name]["origin"], brought.family[name], strict=True)
    }
    for name, rows in settled.splits.items():
        assert [family_of[origin] for origin in rows["origin"]] == settled.family[name].tolist()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_splits_of_our_own_have_no_leak(seed: int) -> None:
    rng = np.random.default_rng(seed)
    exact = rng.integers(0, 60, 120)
    family, groups = exact // 2, [f"g{i}" if i < 20 else None for i in rng.integers(0, 60, 120)]
    ratios = {"train": 0.6, "validation": 0.2, "test": 0.2}
    assigned = assign_splits(["x"] * 120, ratios=ratios, groups=groups, families=family, seed=seed)
    rows = {name: np.flatnonzero(assigned == name).tolist() for name in NAMES}
    parts = {name: [(int(exact[row]), int(family[row]), groups[row]) for row in rows[name]] for name in NAMES}
    assert Brought(parts).leaks().lines() == []
