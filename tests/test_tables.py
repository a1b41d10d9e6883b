"""Tables: a value stays as it stands, and what is wrong is said with its line, what was found and what to do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_tables import check_read, check_refused, load, message, parquet, rows

from finetune.data.sources import ColumnMap
from finetune.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
GB = "text,label\n今天的房间很干净，服务也好,好\n隔音太差了，不会再来,坏\n".encode("gb18030")


GOOD: dict[str, tuple[str, bytes, list[tuple[object, object, str]], str]] = {
    "A03 UTF-8 with a mark": ("d.csv", b"\xef\xbb\xbftext,label\na,x\n", [("a", "x", "d.csv:2")], ""),
    "A04 UTF-16": ("d.csv", "text,label\n好,x\n".encode("utf-16"), [("好", "x", "d.csv:2")], "read as UTF-16"),
    "A17 semicolons": ("d.csv", b"text;label\na;x\n", [("a", "x", "d.csv:2")], "separated by ';'"),
    "A17 tabs": ("d.csv", b"text\tlabel\na, b\tx\n", [("a, b", "x", "d.csv:2")], "separated by a tab"),
    "A19 index column": ("d.csv", b",text,label\n0,a,x\n", [("a", "x", "d.csv:2")], "column 1 has no name"),
    "A21 quoted line ends": (
        "d.csv", b'text,label\n"a\nb",x\nc,y\n', [("a\nb", "x", "d.csv:2"), ("c", "y", "d.csv:4")], ""),
    "A22 lone carriage returns": (
        "d.csv", b"text,label\ra,x\rb,y\r", [("a", "x", "d.csv:2"), ("b", "y", "d.csv:3")], ""),
    "A23 words that look like nothing": (
        "d.csv", b"text,label\nNA,null\nNone,nan\n", [("NA", "null", "d.csv:2"), ("None", "nan", "d.csv:3")], ""),
    "A24 digits": ("d.csv", b"text,label\n0456,01\n", [("0456", "01", "d.csv:2")], ""),
    "blank lines": ("d.csv", b"text,label\n\na,x\n\n", [("a", "x", "d.csv:3")], "2 blank lines"),
    "empty cells": ("d.csv", b"text,label\n,x\na,\n", [("", "x", "d.csv:2"), ("a", None, "d.csv:3")], ""),
    "gzip by name": ("d.csv.gz", gzip.compress(b"text,label\na,x\n"), [("a", "x", "d.csv.gz:2")], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_read_as_it_stands(case: str, tmp_path: Path) -> None:
    check_read(tmp_path, *GOOD[case])


BAD: dict[str, tuple[str, bytes, list[str]]] = {
    "A01": ("d.csv", b"text,label\na,x\na, b,x\n", ["d.csv:3: 3 fields, header has 2. Quote text that"]),
    "A02": ("d.csv", b"text,label\na,x\nb\nc\n", ["d.csv:3: 1 field, header has 2: column 'label' is empty", ":4"]),
    "A08": ("d.csv", b"text,label\ncaf\xe9,x\n", ["d.csv:2: byte 0xE9 at column 4 is not UTF-8 (nor GB18030)"]),
    "A08 decodes as rare characters": ("d.csv", b"text,label\n\xe9lan,x\n", ["d.csv:2: byte 0xE9 at column 1 is not"]),
    "A10": ("d.csv", PNG, ["d.csv: looks like a PNG image, not a table"]),
    "A11 gzip": ("d.csv", gzip.compress(b"text,label\na,x\n"), ["looks like a gzip archive", "Name it d.csv.gz"]),
    "A11 zip": ("d.csv", b"PK\x03\x04" + bytes(9), ["looks like a zip archive or an Excel workbook"]),
    "A11 not gzip": ("d.csv.gz", b"text,label\na,x\n", ["d.csv.gz: is not a gzip archive. Name it d.csv."]),
    "A11 cut gzip": ("d.csv.gz", gzip.compress(b"text,label\na,x\n" * 99)[:-9], ["is damaged or incomplete"]),
    "A12": ("d.csv", b"", ["d.csv: the file is empty"]),
    "A12 only a mark": ("d.csv", b"\xef\xbb\xbf", ["d.csv: the file is empty"]),
    "A13": ("d.csv", b"text,label\n", ["d.csv: the file has a header but no rows"]),
    "A13 parquet": ("d.parquet", parquet({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}),
                    ["d.parquet: the file has columns but no rows"]),
    "A14": ("d.csv", b"good film,pos\nbad film,neg\n",
            ["no column 'text' in d.csv. Columns found: 'good film', 'pos'. Is the header missing?", "columns.label"]),
    "A15": ("d.csv", b"texts,label\na,x\n", ["data.columns.text: no column 'text'", "Did you mean 'texts'?"]),
    "A15 parquet": ("d.parquet", parquet({"text": ["a"], "lable": ["x"]}), ["Did you mean 'lable'?"]),
    "A16": ("d.csv", b"text,text,label\na,b,x\n", ["d.csv: column 'text' appears twice"]),
    "A18": ("d.csv", b"text,label\na,x,\nb,y,\n", ["d.csv: the rows have one field more than the header (line 2"]),
    "A20 at the end": ("d.csv", b'text,label\na,x\n"b,y\nc,z\n', ["d.csv:3: a quote opens here and never closes"]),
    "A20 second field": ("d.csv", b'text,label\n"a\nb","y\nc,z\n', ["d.csv:3: a quote opens here and never closes"]),
    "A20 mid": ("d.csv", b'text,label\n"a,x\nb,y\n"c, d",z\n', ["d.csv:2: a quote opens here and closes in line 4"]),
    "A26 parquet": ("d.parquet", parquet({"text": [1, 2], "label": ["x", "y"]}), ["d.parquet:2: 'text' is a number"]),
    "A32": ("d.parquet", b"PAR1 and no more", ["d.parquet: is damaged or incomplete (Parquet"]),
    "A32 cut": ("d.parquet", parquet({"text": ["a"], "label": ["x"]})[:-20], ["d.parquet: is damaged or incomplete"]),
    "A32 arrow": ("d.arrow", b"ARROW1\0\0 and no more", ["d.arrow: is damaged or incomplete"]),
    "A34 format": ("d.xlsx", b"PK", ["d.xlsx: unknown format '.xlsx'. Accepted: .csv"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused_with_what_and_where(case: str, tmp_path: Path) -> None:
    check_refused(tmp_path, *BAD[case])


def test_a_thousand_broken_rows_show_twenty(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\nok,x\n" + "a,b,c,d\n" * 5000)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    shown = caught.value.render().splitlines()
    assert len(shown) == 21
    assert shown[0].startswith("error: d.csv:3: 4 fields")


def test_gb18030_is_read_and_said(tmp_path: Path) -> None:  # A05
    (tmp_path / "d.csv").write_bytes(GB)
    loaded = load(tmp_path)
    assert rows(loaded)[1][1:3] == ("隔音太差了，不会再来", "坏")
    assert loaded.notes == ["d.csv: read as GB18030"]
    assert loaded.files[0].encoding == "gb18030"


def test_an_encoding_may_be_given_but_not_against_the_file(tmp_path: Path) -> None:  # A06, A07
    (tmp_path / "d.csv").write_bytes("text,label\ncafé,x\n".encode("latin-1"))
    assert rows(load(tmp_path, encoding="latin-1"))[0][1] == "café"
    assert "data.encoding: 'utf-9' is not a text encoding" in message(tmp_path, encoding="utf-9")
    assert "is not a text encoding" in message(tmp_path, encoding="base64")
    assert "d.csv:2: byte 0xE9 at column 4 is not gb18030" in message(tmp_path, encoding="gb18030")
    (tmp_path / "d.csv").write_text("text,label\n今天,x\n", encoding="utf-8")
    assert "d.csv: the file is valid UTF-8, but data.encoding is gb18030" in message(tmp_path, encoding="gb18030")
    assert rows(load(tmp_path, encoding="utf8"))[0][1] == "今天"
    (tmp_path / "d.csv").write_text("text,label\nplain,x\n", encoding="ascii")
    assert rows(load(tmp_path, encoding="gb18030"))[0][1] == "plain"


def test_a_broken_byte_far_into_the_file_has_its_line(tmp_path: Path) -> None:
    lines = "text,label\r\n" + "好的好的好的好的,x\r\n" * 60_000  # longer than one chunk, with line ends at its edge
    (tmp_path / "d.csv").write_bytes(lines.encode() + b"ab\xff,x\r\n")
    assert "d.csv:60002: byte 0xFF at column 3" in message(tmp_path)


def test_a_long_document_is_read(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\n" + "word " * 60_000 + ",x\n")
    assert len(str(rows(load(tmp_path))[0][1])) == 300_000


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_multi_label(suffix: str, tmp_path: Path) -> None:
    labels = [["b", "a"], [], ["c"]]
    path = tmp_path / f"d.{suffix}"
    if suffix == "csv":
        path.write_text("text,label\nx,b| a \nx,\nx,c\n")
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps({"text": "x", "label": each}) + "\n" for each in labels))
    else:
        path.write_bytes(parquet({"text": ["x"] * 3, "label": pa.array(labels, pa.list_(pa.string()))}))
    loaded = load(tmp_path, path.name, multi_label=True)
    assert [[label.strip() for label in row[2]] for row in rows(loaded)] == labels  # type: ignore[attr-defined]
    assert loaded.splits["all"].features["label"] == datasets.List(datasets.Value("string"))
    assert bool(loaded.notes) == (suffix == "csv")  # an empty cell is read as no label, and that is said


def test_arrow_streams_categories_and_class_numbers(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    dataset.save_to_disk(str(tmp_path / "saved"))
    (stream,) = (tmp_path / "saved").glob("*.arrow")
    assert [row[2] for row in rows(load(stream.parent, stream.name))] == ["pos", "neg"]
    several = datasets.Features(features | {"label": datasets.List(features["label"])})
    dataset = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [[1, 0], [], [0]]}, features=several)
    dataset.to_parquet(str(tmp_path / "several.parquet"))
    loaded = load(tmp_path, "several.parquet", multi_label=True)
    assert [row[2] for row in rows(loaded)] == [["pos", "neg"], [], ["neg"]]
    table = pa.table(
        {"text": pa.array(["a", "b"], pa.large_string()), "label": pa.array(["x", "y"]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "d.parquet")
    assert [row[1:3] for row in rows(load(tmp_path, "d.parquet"))] == [("a", "x"), ("b", "y")]


def test_blank_labels_among_others_are_counted(tmp_path: Path) -> None:
    labels = '["a", null]', '["", " "]', '"a||b"', "[]", '" "'
    (tmp_path / "d.jsonl").write_text("".join(f'{{"text": "t", "label": {each}}}\n' for each in labels))
    loaded = load(tmp_path, "d.jsonl", multi_label=True)
    assert [row[2] for row in rows(loaded)] == [["a"], [], ["a", "b"], [], []]
    assert loaded.notes == [
        "d.jsonl: 1 empty label cells read as no label at all",
        "d.jsonl: 4 empty labels beside or instead of others left out",
    ]


def test_utf_16_without_a_mark_is_named(tmp_path: Path) -> None:  # A04
    for codec in ("utf-16-le", "utf-16-be"):
        for text in ("text,label\nplain,x\n", "文本,label\n" + "今天的房间很干净,好\n" * 30):
            (tmp_path / "d.csv").write_bytes(text.encode(codec))
            told = message(tmp_path)
            assert "d.csv: looks like UTF-16 without a byte order mark" in told
            assert f"encoding: {codec}" in told
        (tmp_path / "d.csv").write_bytes("text,label\nplain,x\n".encode(codec))
        assert rows(load(tmp_path, encoding=codec))[0][1:3] == ("plain", "x")


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.json"])
def test_nul_bytes_reach_the_cleaning_unless_the_file_is_binary(name: str, tmp_path: Path) -> None:  # A09
    def write(count: int, of: int) -> None:
        texts = ["a\0b" if row < count else f"text {row}" for row in range(of)]
        records = [json.dumps({"text": text, "label": "x"}).replace("\\u0000", "\0") for text in texts]
        content = {
            "d.csv": "text,label\n" + "".join(f"{text},x\n" for text in texts),
            "d.jsonl": "\n".join(records),
            "d.json": f"[{','.join(records)}]",
        }
        (tmp_path / name).write_text(content[name], newline="")

    write(3, of=10)
    loaded = load(tmp_path, name)
    assert [row[1] for row in rows(loaded)[:4]] == ["a\0b", "a\0b", "a\0b", "text 3"]
    assert loaded.notes == [f"{name}: NUL bytes in 3 rows"]
    write(4, of=10)
    assert f"{name}: NUL bytes in 4 of 10 rows: this looks like a binary file" in message(tmp_path, name)
    write(4, of=4000)
    assert len(rows(load(tmp_path, name))) == 4000


def test_a_very_long_text(tmp_path: Path) -> None:  # A33
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "' + "b" * 3_000_000 + '", "label": 1}\n')
    told = message(tmp_path, "d.jsonl")
    assert told.startswith("d.jsonl:2: 'text' has 3,000,000 characters, more than data.most_characters (1,000,000).")
    loaded = load(tmp_path, "d.jsonl", most_characters=3_000_000)
    assert loaded.warnings == ["d.jsonl: line 2 has 3,000,000 characters"]
    assert "(2)" in message(tmp_path, "d.jsonl", most_characters=2)


def test_numeric_columns(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label,stars,price\na,x,4.5,-1e3\nb,y, ,0456\n")
    rows_ = load(tmp_path, numeric=("stars", "price")).splits["all"]
    assert rows_.features["stars"] == datasets.Value("float64")
    assert (rows_["stars"][:], rows_["price"][:]) == ([4.5, None], [-1000.0, 456.0])
    (tmp_path / "d.jsonl").write_text('{"text": "a", "label": 1, "n": 2}\n{"text": "b", "label": 1, "n": null}\n')
    assert load(tmp_path, "d.jsonl", numeric=["n"]).splits["all"]["n"][:] == [2.0, None]
    assert "data.numeric: no column 'star' in d.csv" in message(tmp_path, numeric=["star"])
    assert "data.numeric: 'label' is the name of a column that every" in message(tmp_path, numeric=["label"])


@pytest.mark.parametrize("value", ['"1,5"', '"good"', '"nan"', '"1_000"', "true", "[1]", '"inf"', "1e999", "1" * 400])
def test_what_is_no_number_is_refused_with_its_line(value: str, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(f'{{"text": "a", "label": 1, "n": 1}}\n{{"text": "b", "label": 1, "n": {value}}}')
    assert "d.jsonl:2: 'n' is" in message(tmp_path, "d.jsonl", numeric=["n"])


def test_zip_is_not_read_and_gz_only_by_name(tmp_path: Path) -> None:  # A11
    (tmp_path / "d.csv.zip").write_bytes(b"PK\x03\x04" + bytes(30))
    assert "d.csv.zip: unknown format '.zip'. Unpack it; of archives only .gz is read." in message(
        tmp_path, "d.csv.zip"
    )
    (tmp_path / "d.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    assert "unknown format '.gz'. Accepted: .csv" in message(tmp_path, "d.parquet.gz")


def test_fields_of_structs_are_columns(tmp_path: Path) -> None:
    records = [{"review": {"body": "a", "by": {"name": "Ana"}}, "label": "x"}, {"review": None, "label": "y"}]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "d.parquet")
    with pa.ipc.new_file(str(tmp_path / "d.arrow"), pa.Table.from_pylist(records).schema) as writer:
        writer.write_table(pa.Table.from_pylist(records))
    for name in ("d.parquet", "d.arrow"):
        loaded = load(tmp_path, name, columns=ColumnMap(text="review.body", group="review.by.name"))
        assert [row[1:4] for row in rows(loaded)] == [("a", "x", "Ana"), (None, "y", None)]


def test_a_large_record_batch_is_read_in_slices(tmp_path: Path) -> None:
    table = pa.table({"text": ["word " * 20_000 + str(row) for row in range(200)], "label": ["x"] * 200})
    with pa.ipc.new_file(str(tmp_path / "d.arrow"), table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, tmp_path / "d.parquet")
    for name in ("d.arrow", "d.parquet"):
        read = load(tmp_path, name).splits["all"]
        assert read["text"][199].endswith("word 199")
        assert read.data.table.column("text").num_chunks > 3  # four megabytes at a time


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("euc_kr", "객실이 매우 깨끗하고 직원들이 친절했습니다 다음에 또 오고 싶어요 위치도 좋고 조식도 맛있었습니다"),
        ("euc_jp", "部屋はとても清潔でスタッフも親切でした。また泊まりたいと思います。朝食もおいしかったです。"),
    ],
)
def test_korean_and_japanese_are_not_taken_for_chinese(tmp_path: Path, encoding: str, text: str) -> None:
    content = f"text,label\n{text},good\n{text[::-1]},bad\n".encode(encoding)
    content.decode("gb18030")  # it would decode
    (tmp_path / "d.csv").write_bytes(content)
    assert "is not UTF-8 (nor GB18030)" in message(tmp_path) and "data.encoding: latin-1" in message(tmp_path)
    assert [row[1] for row in rows(load(tmp_path, encoding=encoding))] == [text, text[::-1]]
