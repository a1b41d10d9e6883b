"""What a look at a table finds: the text, the label, the group, the language; and what it says when nothing fits."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data import guess as guessing
from finetune.data.guess import Guess, cautions, guess_table, languages_of
from finetune.errors import DataError

SENTENCE = "the room was clean and staff at this small hotel were kind but breakfast came late again today"
WORDS = SENTENCE.split()


def texts(rows: int, words: int = 12) -> list[str]:
    """English sentences, all different."""
    return [
        " ".join(WORDS[(row * 7 + word * (row % 5 + 1)) % 17] for word in range(words)) + f" {row}"
        for row in range(rows)
    ]


def table(folder: Path, columns: Mapping[str, Sequence[Any]], name: str = "data.csv") -> Path:
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def looked(folder: Path, **columns: Sequence[Any]) -> Guess:
    return guess_table(table(folder, columns))


def test_a_plain_table(tmp_path: Path) -> None:
    found = looked(
        tmp_path,
        id=range(100),
        body=texts(100),
        stars=[row % 2 for row in range(100)],
        hotel=[f"hotel {row % 20}" for row in range(100)],
        day=[row % 31 for row in range(100)],
    )
    assert (found.text, found.label, found.groups, found.ids) == ("body", "stars", ("hotel",), ("id",))
    assert (found.rows, found.is_whole, found.problems) == (100, True, ())
    assert next(iter(found.languages)) == "en"
    body = found.column("body")
    assert body.distinct == 100
    assert body.median_characters == sorted(map(len, texts(100)))[50]
    assert found.column("stars").counts == {"0": 50, "1": 50}
    assert found.column("day").kind == "whole numbers"


def as_xml(row: dict[str, str]) -> str:
    return f"<row>{''.join(f'<{name}>{value}</{name}>' for name, value in row.items())}</row>"


def test_every_format_gives_the_same_guess(tmp_path: Path) -> None:
    import h5py

    columns = {"text": texts(60), "label": ["yes", "no"] * 30, "author": [f"a{row % 10}" for row in range(60)]}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    paths = [table(tmp_path, columns)]
    for name, content in (
        ("data.jsonl", "\n".join(map(json.dumps, rows))),
        ("data.json", json.dumps(rows)),
        ("data.tsv", "\n".join("\t".join(row) for row in (columns, *zip(*columns.values(), strict=True)))),
        ("data.xml", f"<all>{''.join(map(as_xml, rows))}</all>"),
    ):  # fmt: skip
        paths.append(tmp_path / name)
        paths[-1].write_text(content, encoding="utf-8")
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    with (
        pa.OSFile(str(tmp_path / "data.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, pa.table(columns).schema) as out,
    ):
        out.write_table(pa.table(columns))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for name, values in columns.items():
            file[name] = values
    paths += [tmp_path / "data.parquet", tmp_path / "data.arrow", tmp_path / "data.h5"]
    for path in paths:
        found = guess_table(path.name, base=tmp_path)
        assert (found.text, found.label, found.groups) == ("text", "label", ("author",)), path.name
        assert {column.name: (column.distinct, column.filled) for column in found.columns} == {
            "text": (60, 60), "label": (2, 60), "author": (10, 60),
        }, path.name  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"sentiment": [0, 1], "verified": [1, 0]}, "sentiment"),  # both have two values: the name decides
        ({"标签": [0, 1, 2], "source": ["a", "b"]}, "标签"),
        ({"label_name": ["a", "b", "c"], "lang": ["en", "de"]}, "label_name"),
        ({"outcome": ["good", "bad"], "price": [1.5, 2.5]}, "outcome"),  # no known name, but few words
        ({"split": ["train", "test"], "class": [1, 2, 3, 4]}, "class"),
        ({"Labels": ["true", "false"]}, "Labels"),
        ({"age": list(range(30))}, None),
        ({"price": [1.5, 2.5]}, None),
        ({"author": ["a", "b", "c"]}, None),
        ({"only": ["one"]}, None),
    ],
)
def test_the_label(columns: dict[str, list[Any]], label: str | None, tmp_path: Path) -> None:
    filled = {name: [values[row % len(values)] for row in range(120)] for name, values in columns.items()}
    assert looked(tmp_path, review=texts(120), **filled).label == label


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"title": texts(50, 6), "abstract": texts(50, 40)}, "abstract"),
        ({"uuid": ["0a" * 30 + str(row) for row in range(50)], "q": texts(50, 3)}, "q"),  # long, but no words
        ({"text": texts(50, 10), "user_about": texts(50, 20)}, "text"),  # the name outweighs some length
        ({"note": [f"酒店第{row}间房很干净" for row in range(50)], "id": range(50)}, "note"),  # words without spaces
        ({"code": [f"x{row}" for row in range(50)]}, None),
        ({"text": ["always the same long sentence"] * 50}, None),
    ],
)
def test_the_text(columns: dict[str, list[Any]], text: str | None, tmp_path: Path) -> None:
    assert looked(tmp_path, **columns, label=["a", "b"] * 25).text == text


def test_several_labels_in_a_list(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"text": text, "tags": ["a", "b"][: row % 3]} for row, text in enumerate(texts(60))]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = guess_table(path)
    assert found.label == "tags"
    assert found.column("tags").kind == "list"
    assert found.column("tags").counts == {"a": 40, "b": 20}


def test_nothing_fits_is_said_with_the_flag(tmp_path: Path) -> None:
    found = looked(tmp_path, en=texts(40), de=[f"Ein Hund läuft im Garten {row}" for row in range(40)])
    [problem] = found.problems
    assert str(problem).startswith("data.csv: no column looks like a label")
    assert "de (text, 40 different values)" in str(problem)
    assert "--label COLUMN" in str(problem)
    assert "--task text-generation" in str(problem)
    bare = looked(tmp_path, a=range(40), b=range(40))
    assert ["--text" in str(bare.problems[0]), "--label" in str(bare.problems[1])] == [True, True]


def test_only_the_first_rows_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guessing, "MOST_ROWS", 30)
    found = looked(tmp_path, text=texts(40), label=["a", "b"] * 20)
    assert (found.rows, found.is_whole, found.column("text").filled) == (30, False, 30)
    whole = looked(tmp_path, text=texts(30), label=["a", "b"] * 15)
    assert (whole.rows, whole.is_whole) == (30, True)


def test_cautions(tmp_path: Path) -> None:
    labels = ["a"] * 30 + ["b"] * 27 + ["rare", "", ""]
    found = looked(tmp_path, text=[*texts(59), ""], label=labels)
    told = "; ".join(cautions(found, text="text", label="label"))
    assert "1 of 60 rows without text" in told
    assert "2 of 60 rows without label" in told
    assert "fewer than 3 rows cannot be in every split: 'rare'" in told
    assert "59 different values" not in told
    assert cautions(looked(tmp_path, text=texts(9), label=["a"] * 9), text="text", label="label") == [
        "label has 1 value: there is nothing to tell apart"
    ]


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["The room was clean and the staff were very kind.", "Breakfast came late, which was a pity."], "en"),
        (["Das Zimmer war sauber und das Personal sehr freundlich.", "Das Frühstück kam leider zu spät."], "de"),
        (["房间很干净，前台也很热情。", "早餐太差。iPhone"], "zh"),
        (["秦川雄帝宅，函谷壯皇居。"], "zh"),
        (["部屋はとてもきれいでした。"], "ja"),
        (["방이 아주 깨끗했어요."], "ko"),
    ],
)
def test_languages(texts: list[str], language: str) -> None:
    assert languages_of(texts) == {language: 1.0}


def test_texts_without_letters_have_no_language() -> None:
    assert languages_of(["123", "?!", ""]) == {}


def test_a_file_that_training_would_refuse_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ragged.csv"
    path.write_text("text,label\na b c,x\nd e f,y,z\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"ragged\.csv:3"):
        guess_table(path)


@pytest.mark.parametrize(
    ("name", "what"), [("dta.csv", "Did you mean 'data.csv'"), (".", "folder"), ("notes.txt", "format")]
)
def test_what_is_no_table_is_refused(name: str, what: str, tmp_path: Path) -> None:
    table(tmp_path, {"text": ["a"]})
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=what):
        guess_table(name, base=tmp_path)
