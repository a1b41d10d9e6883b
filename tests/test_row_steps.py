"""Row steps: which rows go or are filled in, with their counts, their origins and their reasons."""

from __future__ import annotations

from collections import Counter
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cleaning import clean, steps, table

from finetune.data.cleaning import StepReport
from finetune.data.row_steps import ROW_STEPS, language_of
from finetune.errors import DataError


def one(step: object, **splits: Any) -> tuple[dict[str, list[Any]], StepReport]:
    """The texts left after one step, and its report."""
    cleaned, (report,) = clean(splits, steps(step))
    return {split: rows["text"][:] for split, rows in cleaned.items()}, report


def test_fill_missing_fills_only_what_is_missing() -> None:
    texts, report = one({"fill_missing": "unknown"}, train=table(["a", None, ""]), test=table(["b"], name="b.csv"))
    # A table can write a missing text only as an empty one.
    assert texts == {"train": ["a", "unknown", "unknown"], "test": ["b"]}
    assert (report.name, report.changed, report.dropped) == ("fill_missing: unknown", 2, 0)
    assert report.examples == [{"origin": f"a.csv:{line}", "before": "", "after": "unknown"} for line in (3, 4)]


def test_fill_missing_fills_a_column_without_any_text() -> None:
    rows = table([None, None]).cast_column("text", datasets.Value("string"))
    assert one({"fill_missing": "x"}, train=rows)[0] == {"train": ["x", "x"]}


def test_drop_missing_wants_a_text_and_a_label() -> None:
    texts, report = one("drop_missing", train=table(["a", None, "c", ""], ["x", "y", None, "x"]))
    assert texts == {"train": ["a"]}
    assert report.notes == ["train: 3 rows without a text or a label dropped"]
    told = ["dropped: no text", "dropped: no label", "dropped: no text"]
    assert [example["after"] for example in report.examples] == told
    assert one("drop_missing", train=table(["a", "b"], [["x"], []]))[0] == {"train": ["a", "b"]}


def test_drop_empty_tells_each_split() -> None:
    rows = [f"row {i}" for i in range(40)]
    texts, report = one("drop_empty", train=table([*rows, " \n"]), test=table([*rows, None], name="b.csv"))
    assert [len(kept) for kept in texts.values()] == [40, 40]
    assert report.notes == ["train: 1 empty texts dropped", "test: 1 empty texts dropped"]
    assert [example["origin"] for example in report.examples] == ["a.csv:42", "b.csv:42"]


def test_many_empty_texts_are_refused_with_their_origins() -> None:
    rows = [f"row {i}" for i in range(28)]
    with pytest.raises(DataError, match=r"2 of 30 texts are empty, more than 5%. Found: a.csv:2, a.csv:3. Is"):
        one("drop_empty", train=table(["", None, *rows]))
    with pytest.raises(DataError, match=r"8 of 36 texts are empty.* a.csv:6 and 3 more. Is"):
        one("drop_empty", train=table([""] * 8 + rows))


def test_length_is_counted_in_characters_and_a_missing_text_has_none() -> None:
    rows = ["中文字", "ab", "abcd", None]
    texts, report = one({"drop_short": 3}, train=table(rows))
    assert texts == {"train": ["中文字", "abcd", None]}
    assert (report.name, report.notes) == ("drop_short: 3", ["train: 1 texts under 3 characters dropped"])
    assert report.examples == [{"origin": "a.csv:3", "before": "ab", "after": "dropped: 2 characters"}]
    texts, report = one({"drop_long": 3}, train=table(rows))
    assert texts == {"train": ["中文字", "ab", None]}
    assert report.notes == ["train: 1 texts over 3 characters dropped"]


@given(st.lists(st.text(max_size=8), min_size=1, max_size=30), st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_no_row_is_lost_between_short_and_long(texts: list[str], length: int) -> None:
    short, long = ([*texts, "x" * keep] for keep in (length + 1, length - 1))
    kept_long = one({"drop_short": length + 1}, train=table(short))[0]["train"]
    kept_short = one({"drop_long": length}, train=table([*long, "y"]))[0]["train"]
    assert Counter(kept_long) + Counter(kept_short) == Counter([*short, *long[len(texts) :], "y"])


ENGLISH = "The meeting was moved to Thursday because of the weather."
GERMAN = "Die Sitzung wurde wegen des Wetters auf Donnerstag verschoben."
CHINESE = "由于天气原因，会议改到星期四举行。"


def test_keep_language_drops_the_others_and_counts_what_is_too_short_to_tell() -> None:
    texts, report = one(
        {"keep_language": ["en", "zh"]}, train=table([ENGLISH, GERMAN, CHINESE, "ok", "好", "12 34", None])
    )
    assert texts == {"train": [ENGLISH, CHINESE, "ok", "好", "12 34", None]}
    assert report.name == "keep_language: en, zh"
    assert report.notes == [
        "train: 1 texts not in en or zh dropped",
        "train: 3 texts too short to tell their language were kept",
        "train: texts in other languages: de 1",
    ]
    assert report.examples == [{"origin": "a.csv:3", "before": GERMAN, "after": "dropped: language de"}]
    assert one({"keep_language": "de"}, train=table([ENGLISH, GERMAN]))[0] == {"train": [GERMAN]}


def test_a_language_needs_twenty_bytes_of_letters() -> None:
    assert language_of("a" * 19 + " 123 !!!") == "?"
    assert language_of("the weather is lovely today") == "en"
    assert language_of("今天天气很") == "?"
    assert language_of("服务太差" * 5) == "zh"  # among all languages it would be Wu, which has no two-letter code
    assert language_of("今天天气很好，我们去公园") == "zh"


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(DataError, match=r"cleaning.keep_language: no language has the code 'xx'"):
        one({"keep_language": ["en", "xx"]}, train=table([ENGLISH]))


def test_train_wins_over_test_whatever_the_order_of_the_splits() -> None:
    texts, report = one(
        "drop_duplicates",
        test=table(["B", "c", "d", "d"], name="test.csv"),
        validation=table(["c", "e"], name="val.csv"),
        train=table(["a", "b"], name="train.csv"),
    )
    assert texts == {"test": ["d"], "validation": ["c", "e"], "train": ["a", "b"]}
    assert report.notes == [
        "test: 1 row repeats a row of train and was removed",
        "test: 1 row repeats a row of validation and was removed",
        "test: 1 row repeats an earlier row and was removed",
    ]


def test_equal_texts_with_different_labels_are_a_warning_with_origins() -> None:
    train = table(["a", "A", "b", "b", "c"], ["x", "y", "x", " x", None])
    test = table(["c", "b", "q"], ["x", "z", "z"], name="test.csv")
    assert one("drop_duplicates", train=train, test=test)[1].notes[-1] == (
        "warning: 2 texts occur with different labels; the first label was kept (see a.csv:3, test.csv:3)"
    )


def test_label_lists_are_compared_as_sets() -> None:
    rows = table(["a", "a", "b"], [["x", "y"], ["y", "x"], ["x"]])
    assert one("drop_duplicates", train=rows)[1].notes == ["train: 1 row repeats an earlier row and was removed"]


def test_true_and_its_other_spellings_are_no_conflict() -> None:
    # The label map takes them for one class, so no row of them may go.
    rows = table(["a", "a", "b", "b", "c"], ["TRUE", "true", "True", "FALSE", None])
    texts, report = one({"drop_conflicts": "drop"}, train=rows)
    assert texts == {"train": ["a", "a", "c"]}
    assert report.notes[-1] == "1 texts occur with different labels"
    texts, _ = one({"drop_conflicts": "drop"}, train=table(["a", "a", "b"], ["TRUE", "true", "x"]))
    assert texts == {"train": ["b"]}


CONFLICTS = (
    ["a", "A ", "a", "b", "b", "c", "c", "d", "e", "e", "a"],
    ["x", "y", "x", "x", "y", "x", "x", "y", "x", None, None],
)


def test_the_majority_of_a_conflict_is_kept_and_a_tie_is_dropped() -> None:
    cleaned, (report,) = clean({"train": table(*CONFLICTS)}, steps("drop_conflicts"))
    kept = list(zip(cleaned["train"]["text"], cleaned["train"]["label"], strict=True))
    assert kept == [
        ("a", "x"), ("a", "x"), ("c", "x"), ("c", "x"), ("d", "y"), ("e", "x"), ("e", None),
    ]  # fmt: skip
    assert (report.name, report.dropped) == ("drop_conflicts: majority", 4)
    assert report.notes == [
        "train: 4 rows of texts with different labels dropped",
        "2 texts occur with different labels",
        "1 of them have no most frequent label: all their rows were dropped",
    ]
    assert report.examples[0] == {
        "origin": "a.csv:3", "before": "A ", "after": "dropped: label 'y', but the same text has other labels",
    }  # fmt: skip


def test_conflicts_may_all_be_dropped_or_refused() -> None:
    texts, report = one({"drop_conflicts": "drop"}, train=table(*CONFLICTS))
    assert texts == {"train": ["c", "c", "d", "e", "e"]}
    assert report.notes[1:] == ["2 texts occur with different labels"]
    with pytest.raises(DataError) as refused:
        one({"drop_conflicts": "refuse"}, train=table(*CONFLICTS))
    assert str(refused.value) == (
        "cleaning.drop_conflicts: 2 texts occur with different labels. Found: a.csv:2 ('x') and a.csv:3 ('y'); "
        "a.csv:5 ('x') and a.csv:6 ('y'). Correct the labels, or choose drop_conflicts: majority."
    )
    assert one({"drop_conflicts": "refuse"}, train=table(["a", "a"]))[0] == {"train": ["a", "a"]}


def test_conflicts_are_found_across_splits() -> None:
    splits = {"train": table(["a", "b"], ["x", "x"]), "test": table(["a", "c"], ["y", "x"], name="test.csv")}
    assert one({"drop_conflicts": "drop"}, **splits)[0] == {"train": ["b"], "test": ["c"]}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "z", None])), max_size=25))
@settings(max_examples=60, deadline=None)
def test_the_majority_is_what_counting_by_hand_gives(rows: list[tuple[str, str | None]]) -> None:
    rows = [*rows, ("other", "x")]
    cleaned, _ = clean({"train": table([t for t, _ in rows], [label for _, label in rows])}, steps("drop_conflicts"))
    expected = []
    for text, label in rows:
        counts = Counter(other for same, other in rows if same == text and other is not None)
        most = [name for name, count in counts.items() if count == max(counts.values())]
        if len(counts) < 2 or most == [label]:
            expected.append((text, label))
    assert list(zip(cleaned["train"]["text"], cleaned["train"]["label"], strict=True)) == expected


ARGUMENTS = {
    "fill_missing": "x", "drop_short": 2, "drop_long": 4, "keep_language": ["en"], "drop_conflicts": "majority",
}  # fmt: skip


@pytest.mark.parametrize("name", ROW_STEPS)
def test_a_row_step_applied_again_changes_nothing(name: str) -> None:
    random = np.random.default_rng(5)
    texts = [[None, "", "a", "A", "bb", "ccc", "ddddd", ENGLISH, GERMAN][i] for i in random.integers(0, 9, 60)]
    if name == "drop_empty":
        texts = [*(text or "word" for text in texts), " "]
    labels = [["x", "y", None][i] for i in random.integers(0, 3, len(texts))]
    step = {name: ARGUMENTS[name]} if name in ARGUMENTS else name
    once, (first,) = clean({"train": table(texts, labels)}, steps(step))
    twice, (second,) = clean(once, steps(step))
    assert first.changed + first.dropped > 0
    assert (second.changed, second.dropped) == (0, 0)
    assert twice["train"] is once["train"]
