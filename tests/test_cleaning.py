"""Cleaning: every step counts what it did, does it once, and refuses what is no longer data."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.cleaning import STEPS, check_texts, clean, fixed_unicode, normalized_whitespace, visible
from finetune.errors import DataError

ALL = ["fix_unicode", "normalize_whitespace", "drop_empty", "drop_duplicates"]


def table(texts: list[str | None], labels: list[Any] | None = None, name: str = "a.csv") -> Dataset:
    rows = range(len(texts))
    return Dataset.from_dict(
        {
            "id": [f"{name}-{i}" for i in rows],
            "text": texts,
            "label": labels or ["x"] * len(texts),
            "group": [None] * len(texts),
            "origin": [f"{name}:{i + 2}" for i in rows],
        }
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("schÃ¶n", "schön"),
        ("a\x00b", "ab"),
        ("\u202eevil\u202c", "evil"),
        ("\ufeffze\u200bro\u00ad", "zero"),
        ("ab\u200dc", "abc"),
        ("ＡＢＣ１２３", "ABC123"),
        ("one\r\ntwo\rthree\x0cfour", "one\ntwo\nthree\nfour"),
    ],
)
def test_fix_unicode_repairs(before: str, after: str) -> None:
    assert fixed_unicode(before) == after


@pytest.mark.parametrize("text", ["می\u200cخواهم", "👩\u200d💻", "今天很好", "&lt;b&gt; “quoted”\tx", "naïve café"])
def test_fix_unicode_leaves_alone(text: str) -> None:
    assert fixed_unicode(text) == text


def test_whitespace_keeps_paragraphs() -> None:
    assert normalized_whitespace("  a \t b\u3000c \r\n\n\n\n d\n") == "a b c\n\nd"


TROUBLE = st.sampled_from("Ã©â€™\x00\u200d\u200c\u202e\u0085\u2028ﬁ\r\n \u3000")
MESSY = st.text(alphabet=st.one_of(st.characters(), TROUBLE))


@given(MESSY)
def test_fix_unicode_is_idempotent(text: str) -> None:
    assert fixed_unicode(fixed_unicode(text)) == fixed_unicode(text)


@given(MESSY)
def test_normalize_whitespace_is_idempotent(text: str) -> None:
    assert normalized_whitespace(normalized_whitespace(text)) == normalized_whitespace(text)


def test_every_step_is_counted_and_repeating_all_changes_nothing() -> None:
    texts = [f"row {i}" for i in range(40)] + ["ok\x00 then", "two  spaces", "  ", "row 1", "ROW 2"]
    cleaned, reports = clean({"train": table(texts)}, ALL)
    assert [(r.name, r.changed, r.dropped, r.rows_before, r.rows_after) for r in reports] == [
        ("fix_unicode", 1, 0, 45, 45),
        ("normalize_whitespace", 2, 0, 45, 45),
        ("drop_empty", 0, 1, 45, 44),
        ("drop_duplicates", 0, 2, 44, 42),
    ]
    assert reports[0].notes == ["NUL bytes removed from 1 rows"]
    assert reports[0].examples == [{"origin": "a.csv:42", "before": "ok\\x00 then", "after": "ok then"}]
    assert reports[3].examples[0] == {"origin": "a.csv:45", "before": "row 1", "after": "dropped: repeats a.csv:3"}
    assert cleaned["train"]["text"][40:] == ["ok then", "two spaces"]
    again, reports = clean(cleaned, ALL)
    assert again["train"].to_dict() == cleaned["train"].to_dict()
    assert all(r.changed == r.dropped == 0 and not r.notes for r in reports)


def test_a_null_text_stays_null_until_it_is_dropped() -> None:
    rows = table([None] + [f"row {i}" for i in range(30)])
    assert clean({"train": rows}, ALL[:2])[0]["train"]["text"][0] is None
    assert len(clean({"train": rows}, ALL)[0]["train"]) == 30


def test_train_wins_over_test_whatever_the_order_of_the_splits() -> None:
    splits = {
        "test": table(["B", "c", "d", "d"], name="test.csv"),
        "validation": table(["c", "e"], name="val.csv"),
        "train": table(["a", "b"], name="train.csv"),
    }
    cleaned, (report,) = clean(splits, ["drop_duplicates"])
    assert {split: rows["text"][:] for split, rows in cleaned.items()} == {
        "train": ["a", "b"],
        "validation": ["c", "e"],
        "test": ["d"],
    }
    assert report.notes == [
        "test: 1 rows repeat a row of train and were removed",
        "test: 1 rows repeat a row of validation and were removed",
        "test: 1 rows repeat an earlier row and were removed",
    ]


def test_equal_texts_with_different_labels_are_a_warning_with_origins() -> None:
    train = table(["a", "A", "b", "b", "c"], ["x", "y", "x", "x", None])
    test = table(["c", "b"], ["x", "z"], name="test.csv")
    notes = clean({"train": train, "test": table(["c", "b", "q"], ["x", "z", "z"], name="test.csv")}, ALL)[1][3].notes
    assert notes[-1] == (
        "warning: 2 texts occur with different labels; the first label was kept (see a.csv:3, test.csv:3)"
    )
    with pytest.raises(DataError, match="no row of test is left"):
        clean({"train": train, "test": test}, ALL)


def test_label_lists_are_compared_as_sets() -> None:
    rows = table(["a", "a", "b"], [["x", "y"], ["y", "x"], ["x"]])
    assert clean({"train": rows}, ["drop_duplicates"])[1][0].notes == [
        "train: 1 rows repeat an earlier row and were removed"
    ]


def test_many_empty_texts_are_refused_with_their_origins() -> None:
    with pytest.raises(DataError, match=r"2 of 30 texts are empty, more than 5%. Found: a.csv:2, a.csv:3"):
        clean({"train": table(["", None] + [f"row {i}" for i in range(28)])}, ALL)


def test_a_binary_file_is_refused() -> None:
    with pytest.raises(DataError, match="NUL bytes in the text of 4 of 20 rows"):
        clean({"train": table(["\x00"] * 4 + ["a"] * 16)}, ["fix_unicode"])


def test_check_texts_names_the_rows() -> None:
    check_texts({"train": table(["a"])})
    with pytest.raises(DataError, match=r"^b.csv:3: the text is empty. Found: 2 such rows \(b.csv:3, b.csv:4\). Fill"):
        check_texts({"train": table(["a"]), "test": table(["b", " ", None], name="b.csv")})


def test_an_edited_row_is_cleaned_anew_even_under_the_same_fingerprint() -> None:
    first, second = table(["a  b"]), table(["c  d"])
    second._fingerprint = first._fingerprint
    for rows, expected in ((first, "a b"), (second, "c d")):
        assert clean({"train": rows}, ["normalize_whitespace"])[0]["train"]["text"][:] == [expected]


def test_rows_on_disk_are_cleaned_anew_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table(["a  b"]).save_to_disk(tmp_path / "rows")
    rows = datasets.load_from_disk(tmp_path / "rows")
    assert clean({"train": rows}, ["normalize_whitespace"])[0]["train"]["text"][:] == ["a b"]
    monkeypatch.setattr("finetune.data.cleaning.normalized_whitespace", str.upper)
    assert clean({"train": rows}, ["normalize_whitespace"])[0]["train"]["text"][:] == ["A  B"]


def test_bars_show_only_when_asked_and_the_setting_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = datasets.are_progress_bars_disabled()
    clean({"train": table(["a  b"])}, ["normalize_whitespace"])
    assert capfd.readouterr().err == ""
    clean({"train": table(["a  b"])}, ["normalize_whitespace"], progress=True)
    assert "normalize_whitespace (train)" in capfd.readouterr().err
    assert datasets.are_progress_bars_disabled() == before


def test_visible_writes_what_does_not_show() -> None:
    assert visible("a\u202eb\n中") == "a\\u202eb\\n中"
    assert len(visible("x" * 500)) == 160


def test_the_steps_are_those_of_the_recipe() -> None:
    assert list(STEPS) == ALL
