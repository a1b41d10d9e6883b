"""Passages joined are the text again, end at good places, and are never blanks alone; splits follow the file."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.passages import contiguous_splits, cut_passages, passage_spans
from finetune.errors import DataError

TEXT = st.text(st.sampled_from("ab .\n\r\t。，天"), max_size=300)
SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}


def table_of(texts: list[str], **columns: list[Any]) -> datasets.Dataset:
    numbers = range(1, len(texts) + 1)
    rows = {"id": [f"t{n}" for n in numbers], "text": texts, "origin": [f"x.txt:{n}" for n in numbers]}
    return datasets.Dataset.from_dict({**rows, "target": [None] * len(texts), "group": [None] * len(texts), **columns})


@given(text=TEXT, characters=st.integers(1, 60))
def test_passages_joined_are_the_text(text: str, characters: int) -> None:
    spans = passage_spans(text, characters=characters)
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == len(text)
    for start, end in spans:
        passage = text[start:end]
        assert passage.strip() or len(spans) == 1
        assert len(passage.strip()) <= characters
        # What is cut is cut in its last quarter.
        assert end == len(text) or len(passage.lstrip()) >= 3 * characters // 4 or passage[-1].isspace()


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("one two three.\n\nfour five\nsix. seven eight nine", "one two three.\n\n"),
        ("one two three four\nfive. six seven eight nine", "one two three four\n"),
        ("one two three four. five six seven eight nine", "one two three four."),
        ("天气很好我们去公园玩吧好不好呢。我们走吧天气很好我们去", "天气很好我们去公园玩吧好不好呢。"),
        ("one two three, four five six seven eight nine", "one two three, four "),
        ("一" * 50, "一" * 20),
    ],
)
def test_a_passage_ends_where_the_text_does(text: str, first: str) -> None:
    assert text[slice(*passage_spans(text, characters=20)[0])].rstrip(" ") == first.rstrip(" ")


def test_rows_of_passages() -> None:
    rows = table_of(["short", "word " * 30, "more. " * 20], group=[None, None, "g"], label=["a", "b", "c"])
    cut = cut_passages(rows, characters=50)
    assert cut.column_names == rows.column_names
    assert cut["id"][:] == ["t1", "t2#1", "t2#2", "t2#3", "t3#1", "t3#2", "t3#3"]
    assert cut["group"][:] == [None, "t2", "t2", "t2", "g", "g", "g"]
    assert cut["label"][:] == ["a", *"bbb", *"ccc"]
    assert cut["target"][:] == [None] * 7
    assert cut["origin"][:4] == [
        "x.txt:1", "x.txt:2, characters 1-50", "x.txt:2, characters 51-100", "x.txt:2, characters 101-150",
    ]  # fmt: skip
    for number, text in enumerate(rows["text"][:], start=1):
        assert "".join(row["text"] for row in cut if row["id"].split("#")[0] == f"t{number}") == text


def test_passages_of_a_file_are_kept_in_a_file(tmp_path: Path) -> None:
    table_of(["word " * 30]).to_parquet(str(tmp_path / "x.parquet"))
    rows = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "cache"))
    cut, again, other = (cut_passages(rows, characters=characters) for characters in (50, 50, 60))
    assert cut.cache_files == again.cache_files != other.cache_files
    assert cut["text"][:] == again["text"][:] != other["text"][:]
    assert len(cut_passages(rows.select(range(0)), characters=50)) == 0


@given(st.lists(st.integers(1, 40), min_size=3, max_size=40))
def test_contiguous_splits_follow_the_file(lengths: list[int]) -> None:
    rows = table_of(["x" * length for length in lengths])
    total, longest = sum(lengths), max(lengths)
    try:
        splits = contiguous_splits(rows, SHARES)
    except DataError as error:
        assert "in file order" in str(error)
        # A split is only left empty where one document is larger than its share.
        assert longest > 0.15 * total / 2
        return
    assert list(splits) == list(SHARES)
    assert list(itertools.chain.from_iterable(split["id"][:] for split in splits.values())) == rows["id"][:]
    for name, share in SHARES.items():
        characters = sum(map(len, splits[name]["text"][:]))
        assert characters > 0
        assert abs(characters - share * total) <= longest


def test_a_split_without_documents_is_refused() -> None:
    with pytest.raises(DataError, match="validation gets none of the 3 documents when they are divided in file order"):
        contiguous_splits(table_of(["a", "x" * 100, "b"]), SHARES)
    with pytest.raises(DataError, match=r"train gets none of the 0 documents.*data.passage_characters"):
        contiguous_splits(table_of([]), SHARES)
