"""Sources: every format gives the same examples, and every broken file says what, where, found and what to do."""

from __future__ import annotations

import gzip
import json
import os
import string
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.sources import ColumnMap, Loaded, load_examples
from finetune.data.tables import FORMATS
from finetune.errors import DataError, EnvironmentFault, FinetuneError

EXAMPLES = Path(__file__).parent.parent / "data"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
GB = "text,label\n今天的房间很干净，服务也好,好\n隔音太差了，不会再来,坏\n".encode("gb18030")


def load(base: Path, source: object = "d.csv", **options: object) -> Loaded:
    columns = options.pop("columns", ColumnMap())
    return load_examples(source, columns=columns, base=base, **options)  # type: ignore[arg-type]


def rows(loaded: Loaded, split: str = "all") -> list[tuple[object, ...]]:
    table = loaded.splits[split]
    return list(zip(*(table[name] for name in ("id", "text", "label", "group", "origin")), strict=True))


def message(base: Path, source: object = "d.csv", **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load(base, source, **options)
    return str(caught.value)


def parquet(columns: dict[str, object]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet", "arrow"])
def test_every_format_gives_the_same_examples(suffix: str) -> None:
    columns = ColumnMap(group="author")
    loaded = load(EXAMPLES, f"reviews.{suffix}", columns=columns)
    reference = load(EXAMPLES, "reviews.csv", columns=columns)
    assert [row[1:4] for row in rows(loaded)] == [row[1:4] for row in rows(reference)]
    assert loaded.splits["all"].column_names == ["id", "text", "label", "group", "origin"]
    assert all(feature.dtype == "string" for feature in loaded.splits["all"].features.values())
    (file,) = loaded.files
    assert (file.name, file.rows, file.bytes) == (f"reviews.{suffix}", 26, os.path.getsize(EXAMPLES / file.name))
    assert not loaded.notes
    assert not loaded.warnings


def test_every_format_has_an_example_file() -> None:
    shown = {path.suffix for path in EXAMPLES.iterdir()} | {".ndjson"}
    assert set(FORMATS) <= shown


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
    "types": ("d.jsonl", b'{"text": null, "label": 1}\n\n{"text": "a", "label": NaN}\n',
              [(None, "1", "d.jsonl:1"), ("a", None, "d.jsonl:3")], ""),
    "booleans": ("d.ndjson", b'{"text": "a", "label": true}\n', [("a", "true", "d.ndjson:1")], ""),
    "json under data": ("d.json", b'{"data": [{"text": "a", "label": "x"}]}', [("a", "x", "d.json:1")], ""),
    "json lines named json": ("d.json", b'{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n',
                              [("a", "x", "d.json:1"), ("b", "x", "d.json:2")], "read as JSON lines"),
    "gzip by name": ("d.csv.gz", gzip.compress(b"text,label\na,x\n"), [("a", "x", "d.csv.gz:2")], ""),
    "gzipped json lines": ("d.jsonl.gz", gzip.compress(b'{"text": "a", "label": 0}'), [("a", "0", "d.jsonl.gz:1")], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_read_as_it_stands(case: str, tmp_path: Path) -> None:
    name, content, expected, note = GOOD[case]
    (tmp_path / name).write_bytes(content)
    loaded = load(tmp_path, name)
    assert [(text, label, origin) for _, text, label, _, origin in rows(loaded)] == expected
    assert [row[0] for row in rows(loaded)] == [origin for _, _, origin in expected]  # an id can be looked up
    assert note in " ".join(loaded.notes)
    assert bool(loaded.notes) == bool(note)


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
    "A12 json lines": ("d.jsonl", b"\n\n", ["d.jsonl: the file is empty"]),
    "A12 only a mark": ("d.csv", b"\xef\xbb\xbf", ["d.csv: the file is empty"]),
    "A13": ("d.csv", b"text,label\n", ["d.csv: the file has a header but no rows"]),
    "A13 json": ("d.json", b"[]", ["the list has no rows"]),
    "A13 parquet": ("d.parquet", parquet({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}),
                    ["d.parquet: the file has columns but no rows"]),
    "A14": ("d.csv", b"good film,pos\nbad film,neg\n",
            ["no column 'text' in d.csv. Columns found: 'good film', 'pos'. Is the header missing?", "columns.label"]),
    "A15": ("d.csv", b"texts,label\na,x\n", ["data.columns.text: no column 'text'", "Did you mean 'texts'?"]),
    "A15 json lines": ("d.jsonl", b'{"txt": "a", "label": 1}\n{"txt": "b", "label": 1}\n',
                       ["no column 'text' in d.jsonl. Columns found: 'txt', 'label'. Did you mean 'txt'?"]),
    "A15 parquet": ("d.parquet", parquet({"text": ["a"], "lable": ["x"]}), ["Did you mean 'lable'?"]),
    "A16": ("d.csv", b"text,text,label\na,b,x\n", ["d.csv: column 'text' appears twice"]),
    "A16 json": ("d.jsonl", b'{"text": "a", "text": "b", "label": 1}', ["not valid JSON (a key appears twice)"]),
    "A18": ("d.csv", b"text,label\na,x,\nb,y,\n", ["d.csv: the rows have one field more than the header (line 2"]),
    "A20 at the end": ("d.csv", b'text,label\na,x\n"b,y\nc,z\n', ["d.csv:3: a quote opens here and never closes"]),
    "A20 second field": ("d.csv", b'text,label\n"a\nb","y\nc,z\n', ["d.csv:3: a quote opens here and never closes"]),
    "A20 mid": ("d.csv", b'text,label\n"a,x\nb,y\n"c, d",z\n', ["d.csv:2: a quote opens here and closes in line 4"]),
    "A26 number": ("d.jsonl", b'{"text": "a", "label": 1}\n{"text": 7, "label": 1}', ["d.jsonl:2: 'text' is a number"]),
    "A26 list": ("d.json", b'[{"text": ["a"], "label": 1}]', ["d.json:1: 'text' is a list"]),
    "A26 parquet": ("d.parquet", parquet({"text": [1, 2], "label": ["x", "y"]}), ["d.parquet:2: 'text' is a number"]),
    "A27": ("d.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', ["d.jsonl:2: not valid JSON (Expecting value"]),
    "A27 json": ("d.json", b'[{"text": "a"},\n{]', ["d.json:2: not valid JSON"]),
    "A27 deep": ("d.jsonl", b"[" * 200_000, ["d.jsonl:1: not valid JSON"]),
    "A27 list": ("d.jsonl", b'[{"text": "a", "label": 1}]', ["holds one JSON list", "Name it .json"]),
    "A27 no object": ("d.jsonl", b'{"text": "a", "label": 1}\n3\n', ["d.jsonl:2: is a number, not an object"]),
    "A28": ("d.jsonl", b'{"text": "a", "label": 1}\n{"txt": "b", "label": 1}',
            ["d.jsonl:2: no 'text' (has 'txt', 'label'). Did you mean 'txt'?"]),
    "A29": ("d.jsonl", b'{"text": "a\\ud800", "label": 1}', ["d.jsonl:1: 'text' has half of a character (\\ud800"]),
    "A30": ("d.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n{"text": "c", "label": "y"}',
            ["d.jsonl:2: labels mix text and numbers (line 2)"]),
    "A31": ("d.jsonl", b'{"text": "a", "label": 1}\n' * 12_001 + b'{"text": "a", "label": "x"}', ["(line 12002)"]),
    "A32": ("d.parquet", b"PAR1 and no more", ["d.parquet: is damaged or incomplete (Parquet"]),
    "A32 cut": ("d.parquet", parquet({"text": ["a"], "label": ["x"]})[:-20], ["d.parquet: is damaged or incomplete"]),
    "A32 arrow": ("d.arrow", b"ARROW1\0\0 and no more", ["d.arrow: is damaged or incomplete"]),
    "A34 format": ("d.xlsx", b"PK", ["d.xlsx: unknown format '.xlsx'. Accepted: .csv"]),
    "list as single label": ("d.jsonl", b'{"text": "a", "label": ["x"]}', ["d.jsonl:1: 'label' is a list"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused_with_what_and_where(case: str, tmp_path: Path) -> None:
    name, content, expected = BAD[case]
    (tmp_path / name).write_bytes(content)
    told = message(tmp_path, name)
    for part in expected:
        assert part in told
    assert str(tmp_path) not in told


def test_a_thousand_broken_rows_show_twenty(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\nok,x\n" + "a,b,c,d\n" * 5000)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    shown = caught.value.render().splitlines()
    assert len(shown) == 21
    assert shown[0].startswith("error: d.csv:3: 4 fields")


def test_problems_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na\n")
    (tmp_path / "b.jsonl").write_text('{"text": 3, "label": 1}\nx\n')
    (tmp_path / "c.csv").write_text("")
    told = message(tmp_path, ["a.csv", "b.jsonl", "c.csv"])
    for part in ("a.csv:2: 1 field", "b.jsonl:1: 'text' is a number", "b.jsonl:2: not valid JSON", "c.csv: the file"):
        assert part in told


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


def test_no_such_file(tmp_path: Path) -> None:  # A34
    (tmp_path / "reviews.csv").write_text("text,label\na,x\n")
    assert message(tmp_path, "review.csv") == "review.csv: no such file. Did you mean 'reviews.csv'?"
    assert "no such file" in message(tmp_path, "nowhere/reviews.csv")
    assert "no table matches" in message(tmp_path, "*.jsonl")
    (tmp_path / "empty").mkdir()
    assert "empty: no table in this folder. Found: no files" in message(tmp_path, "empty")
    assert "is an address" in message(tmp_path, "https://example.org/reviews.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "pipe.csv: is not a regular file" in message(tmp_path, "pipe.csv")
    assert "nothing is named" in message(tmp_path, [])


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # A35
    (tmp_path / "d.csv").write_text("text,label\na,x\n")
    really_open = Path.open

    def refusing(self: Path, *args: object, **options: object) -> object:
        if self.name == "d.csv":
            raise PermissionError(13, "Permission denied")
        return really_open(self, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refusing)
    assert "cannot read d.csv: permission denied" in message(tmp_path)


def test_ids_are_unique_over_all_splits(tmp_path: Path) -> None:  # A39
    (tmp_path / "a.csv").write_text("text,label,key\na,x,1\nb,y,2\n")
    (tmp_path / "b.csv").write_text("text,label,key\na,x,3\nb,y,2\n")
    columns = ColumnMap(id="key")
    assert [row[0] for row in rows(load(tmp_path, "a.csv", columns=columns))] == ["1", "2"]
    told = message(tmp_path, {"train": "a.csv", "test": "b.csv"}, columns=columns)
    assert "b.csv:3: id '2' is already in a.csv:3" in told
    (tmp_path / "a.csv").write_text("text,label,key\na,x,\n")
    assert "a.csv:2: 'key' is empty" in message(tmp_path, "a.csv", columns=columns)


def test_folders_globs_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "评论 data" / "子"
    folder.mkdir(parents=True)
    (folder / "b.csv").write_text("text,label\nb,x\n")
    (folder.parent / "a [1].jsonl").write_text('{"text": "a", "label": "y"}\n')
    (folder.parent / ".hidden.csv").write_text("nothing")
    (folder.parent / "notes.txt").write_text("nothing")
    loaded = load(tmp_path, "评论 data")
    assert [row[4] for row in rows(loaded)] == ["评论 data/a [1].jsonl:1", "评论 data/子/b.csv:2"]
    assert loaded.notes == ["评论 data: 1 files that are no tables ignored"]
    assert [row[1] for row in rows(load(tmp_path, "评论 data/**/*.*"))] == ["a", "b"]
    assert [row[1] for row in rows(load(tmp_path, "评论 data/a [1].jsonl"))] == ["a"]
    assert rows(load(folder, "../a [1].jsonl"))[0][0] == "a [1].jsonl:1"  # the folder is not part of an id
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("~/评论 data", str(folder.parent)):
        assert {file.name for file in load(Path("/"), name).files} == {"评论 data/a [1].jsonl", "评论 data/子/b.csv"}
    assert [file.name for file in load(Path("/"), str(folder / "b.csv")).files] == ["b.csv"]


def test_a_file_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,x\n")
    loaded = load(tmp_path, ["*.csv", "a.csv"])
    assert len(rows(loaded)) == 1
    assert loaded.warnings == ["a.csv: named twice, read once"]
    told = message(tmp_path, {"train": "a.csv", "test": "a.csv"})
    assert "a.csv: is named for train and for test" in told


def test_files_of_one_name_keep_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "d.csv").write_text(f"text,label\n{name},x\n")
    loaded = load(Path("/"), [str(tmp_path / "one/d.csv"), str(tmp_path / "two/d.csv")])
    assert [row[0] for row in rows(loaded)] == ["d.csv:2", "two/d.csv:2"]


def test_splits(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},x\n")
    loaded = load(tmp_path, {"test": "test.csv", "train": ["train.csv"], "validation": "dev.csv"})
    assert {split: rows(loaded, split)[0][1] for split in loaded.splits} == {
        "train": "train", "validation": "dev", "test": "test"}  # fmt: skip
    assert list(loaded.splits) == ["train", "validation", "test"]
    assert "no split is called 'tests'. Did you mean 'test'?" in message(tmp_path, {"tests": "test.csv"})
    assert "are read as one" in load(tmp_path, str(tmp_path)).warnings[0]


def test_prediction_input_needs_no_label(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text\na\nb\n")
    assert [row[1:4] for row in rows(load(tmp_path, labelled=False))] == [("a", None, None), ("b", None, None)]
    assert "no column 'label'" in message(tmp_path)
    assert "no column 'review'" in message(tmp_path, labelled=False, columns=ColumnMap(text="review"))


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
    table = pa.table(
        {"text": pa.array(["a", "b"], pa.large_string()), "label": pa.array(["x", "y"]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "d.parquet")
    assert [row[1:3] for row in rows(load(tmp_path, "d.parquet"))] == [("a", "x"), ("b", "y")]


def test_limit_is_a_seeded_sample_in_order(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\n" + "".join(f"{number},x\n" for number in range(25_000)))
    picked = [int(str(row[1])) for row in rows(load(tmp_path, limit=500, seed=1))]
    assert len(picked) == 500
    assert picked == sorted(set(picked))
    assert picked == [int(str(row[1])) for row in rows(load(tmp_path, limit=500, seed=1))]
    assert picked != [int(str(row[1])) for row in rows(load(tmp_path, limit=500, seed=2))]
    assert 11_000 < sum(picked) / 500 < 14_000  # the mean of a uniform sample is 12,500 within 323 or so
    assert len(rows(load(tmp_path, limit=10**6))) == 25_000
    assert load(tmp_path, limit=5).notes == ["all: 5 of 25000 rows sampled"]


def test_new_content_of_the_same_age_is_seen(tmp_path: Path) -> None:  # A36
    path = tmp_path / "d.csv"
    fingerprints = []
    for text in ("a", "b"):
        path.write_text(f"text,label\n{text},x\n")
        os.utime(path, ns=(10**18, 10**18))
        loaded = load(tmp_path)
        assert rows(loaded)[0][1] == text
        fingerprints.append(loaded.splits["all"]._fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_built_in_corpora(tmp_path: Path) -> None:
    corpora = {"docs": lambda: [{"text": "a", "area": "x", "file": "os"}, {"text": "b", "area": "y", "file": "re"}]}
    columns = ColumnMap(label="area", group="file")
    loaded = load(tmp_path, "builtin:docs", columns=columns, corpora=corpora)
    assert rows(loaded)[1] == ("builtin:docs:2", "b", "y", "re", "builtin:docs:2")
    assert loaded.files[0].rows == 2
    assert loaded.files[0].bytes > 0
    told = message(tmp_path, "builtin:doc", columns=columns, corpora=corpora)
    assert "no built-in corpus 'doc'. Found: docs. Did you mean 'docs'?" in told
    assert "Columns found: 'text', 'area', 'file'" in message(tmp_path, "builtin:docs", corpora=corpora)


def _hub(answer: object) -> Callable[..., object]:
    def load_dataset(name: str, **options: object) -> object:
        assert not options  # above all, no trust_remote_code
        if isinstance(answer, Exception):
            raise answer
        return answer

    return load_dataset


def test_a_hub_dataset_brings_its_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    part = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", _hub({"train": part, "dev": part, "test": part, "extra": part}))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = load(tmp_path, "owner/name")
    assert list(loaded.splits) == ["train", "validation", "test"]
    assert rows(loaded, "validation")[0] == ("owner/name/dev:1", "a", "pos", None, "owner/name/dev:1")
    assert loaded.notes == ["owner/name: split 'extra' is not used"]
    assert list(load(tmp_path, {"train": "owner/name"}).splits) == ["train"]
    monkeypatch.setattr(datasets, "load_dataset", _hub({"train": part}))
    assert list(load(tmp_path, "owner/name").splits) == ["all"]


def test_the_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(EnvironmentFault, match=r"nobody-x/nothing: cannot reach the Hub.*Give a local file"):
        load(tmp_path, "nobody-x/nothing")
    assert datasets.config.HF_HUB_OFFLINE is False
    monkeypatch.setattr(datasets, "load_dataset", _hub(datasets.exceptions.DatasetNotFoundError("none")))
    assert "no such dataset on the Hub" in message(tmp_path, "nobody-x/nothing")
    monkeypatch.setattr(datasets, "load_dataset", _hub(ValueError("Config name is missing.\nPick one")))
    assert "cannot be loaded from the Hub (Config name is missing.)" in message(tmp_path, "nobody-x/nothing")


@pytest.mark.parametrize("name", ["reviews/train.csv", "here/nothing", "./a/b", "a/b/c", "~/a", "../a", "a/b.txt", "a"])
def test_a_local_looking_name_is_never_asked_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(datasets, "load_dataset", _hub(AssertionError("the Hub was asked")))
    with pytest.raises(FinetuneError, match="no such file"):
        load(tmp_path, name)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
LABELS = st.text(string.ascii_letters + " ,;|\"'", min_size=1, max_size=5).filter(str.strip)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(TEXTS, LABELS), min_size=1, max_size=6))
def test_any_text_survives_every_format(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    import csv

    with (tmp_path / "d.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *pairs])
    records = [{"text": text, "label": label} for text, label in pairs]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    (tmp_path / "d.json").write_text(json.dumps(records), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "d.parquet")
    trimmed = [(text, label.strip()) for text, label in pairs]  # labels are trimmed, texts are cleaned later
    for name in ("d.csv", "d.jsonl", "d.json", "d.parquet"):
        assert [row[1:3] for row in rows(load(tmp_path, name))] == trimmed, name
