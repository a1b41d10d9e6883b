"""Folders of texts: a class for each sub-folder, splits where there are, and everything else is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_tables import load, message, rows

from finetune.data.sources import ColumnMap

EXAMPLES = Path(__file__).parent.parent / "data"


def write(folder: Path, **texts: str) -> None:
    """Files by name, with `__` for the slash: pos__a="text" is pos/a.txt."""
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    write(tmp_path / "reviews", pos__b="good\n", pos__a="very\tgood", neg__c="", 坏__d="不好")
    (tmp_path / "reviews/neg/gb.txt").write_bytes("隔音太差了，不会再来".encode("gb18030"))
    (tmp_path / "reviews/neg/mark.TXT").write_bytes(b"\xef\xbb\xbfbad")
    for junk in (".DS_Store", "pos/Thumbs.db", ".git/x.txt", "README.txt"):
        (tmp_path / "reviews" / junk).parent.mkdir(exist_ok=True)
        (tmp_path / "reviews" / junk).write_text("junk")
    loaded = load(tmp_path, "reviews", columns=ColumnMap(group="file"))
    assert [row[:4] for row in rows(loaded)] == [
        ("reviews/neg/c.txt", "", "neg", "neg/c.txt"),
        ("reviews/neg/gb.txt", "隔音太差了，不会再来", "neg", "neg/gb.txt"),
        ("reviews/neg/mark.TXT", "bad", "neg", "neg/mark.TXT"),
        ("reviews/pos/a.txt", "very\tgood", "pos", "pos/a.txt"),
        ("reviews/pos/b.txt", "good\n", "pos", "pos/b.txt"),
        ("reviews/坏/d.txt", "不好", "坏", "坏/d.txt"),
    ]
    assert all(row[0] == row[4] for row in rows(loaded))
    assert loaded.notes == [
        "reviews: 4 files that are no texts of a class ignored: .DS_Store, .git/x.txt, README.txt and 1 more",
        "reviews: 1 texts read as GB18030",
    ]
    assert (loaded.files[0].name, loaded.files[0].rows, loaded.files[0].encoding) == ("reviews", 6, "gb18030, utf-8")


def test_what_is_wrong_with_a_folder_of_texts(tmp_path: Path) -> None:
    write(tmp_path / "reviews", pos__a="good", neg__b="bad")
    (tmp_path / "reviews/neutral").mkdir()
    (tmp_path / "reviews/neutral/.DS_Store").write_text("junk")
    (tmp_path / "reviews/neg/c.txt").write_bytes(b"caf\xe9 \xff")
    told = message(tmp_path, "reviews")
    assert "reviews/neutral: the class folder has no .txt file. Fill it, or remove it." in told
    assert "reviews/neg/c.txt:1: byte 0xE9 at column 4 is not UTF-8 (nor GB18030)" in told
    write(tmp_path / "reviews", pos__more__c="deep")
    assert "reviews: pos/more is a folder inside a class folder" in message(tmp_path, "reviews")
    assert "no column 'review' in reviews. Columns found: 'text', 'label', 'file'" in message(
        tmp_path, "reviews", columns=ColumnMap(text="review")
    )
    write(tmp_path / "flat", a="no class")
    assert "flat: the folder has no class folders" in message(tmp_path, "flat")
    assert [row[:2] for row in rows(load(tmp_path, "flat", labelled=False))] == [("flat/a.txt", "no class")]


@pytest.mark.parametrize("name", ["validation", "Val", "dev"])
def test_splits_that_a_folder_brings(name: str, tmp_path: Path) -> None:
    write(tmp_path / "reviews", train__pos__a="1", train__neg__b="2", test__pos__a="3")
    write(tmp_path / "reviews", **{f"{name}__neg__a": "4"})
    (tmp_path / "reviews/README").write_text("junk")
    loaded = load(tmp_path, "reviews")
    assert list(loaded.splits) == ["train", "validation", "test"]
    assert rows(loaded, "test") == [("reviews/test/pos/a.txt", "3", "pos", None, "reviews/test/pos/a.txt")]
    assert [row[:3] for row in rows(loaded, "validation")] == [(f"reviews/{name}/neg/a.txt", "4", "neg")]
    assert [row[1] for row in rows(load(tmp_path, {"train": "reviews"}), "train")] == ["2", "1"]
    assert [row[1] for row in rows(load(tmp_path, {"train": "reviews/test"}), "train")] == ["3"]
    (tmp_path / "reviews/test/pos/a.txt").unlink()
    assert "reviews: test: named like a split, but without class folders" in message(tmp_path, "reviews")


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    write(tmp_path / "areas", test__a="1", other__a="2")
    assert [row[2] for row in rows(load(tmp_path, "areas"))] == ["other", "test"]
    write(tmp_path / "texts", train__a="1", test__a="2")
    assert "texts: test, train: named like a split, but without class folders" in message(tmp_path, "texts")


def test_a_changed_folder_is_read_again(tmp_path: Path) -> None:
    write(tmp_path / "reviews", pos__a="good", neg__b="bad")
    assert len(rows(load(tmp_path, "reviews"))) == 2
    write(tmp_path / "reviews", neg__b="worse")
    assert [row[1] for row in rows(load(tmp_path, "reviews"))] == ["worse", "good"]
    (tmp_path / "reviews/neutral").mkdir()
    assert "the class folder has no .txt file" in message(tmp_path, "reviews")


def test_the_example_folder_holds_the_example_reviews() -> None:
    folder, table = rows(load(EXAMPLES, "reviews-folder")), rows(load(EXAMPLES, "reviews.csv"))
    assert sorted(row[1:3] for row in folder) == sorted(row[1:3] for row in table)
