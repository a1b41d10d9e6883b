"""Trees: json, json lines, xml and HDF5, nested names with dots; and any text survives every format."""

from __future__ import annotations

import csv
import gzip
import json
import string
import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from tiny_tables import check_read, check_refused, load, message, rows

from finetune.data.sources import ColumnMap
from finetune.errors import EnvironmentFault

GOOD: dict[str, tuple[str, bytes, list[tuple[object, object, str]], str]] = {
    "types": ("d.jsonl", b'{"text": null, "label": 1}\n\n{"text": "a", "label": NaN}\n',
              [(None, "1", "d.jsonl:1"), ("a", None, "d.jsonl:3")], ""),
    "booleans": ("d.ndjson", b'{"text": "a", "label": true}\n', [("a", "true", "d.ndjson:1")], ""),
    "json under data": ("d.json", b'{"data": [{"text": "a", "label": "x"}]}', [("a", "x", "d.json:1")], ""),
    "json lines named json": ("d.json", b'{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n',
                              [("a", "x", "d.json:1"), ("b", "x", "d.json:2")], "read as JSON lines"),
    "gzipped json lines": ("d.jsonl.gz", gzip.compress(b'{"text": "a", "label": 0}'), [("a", "0", "d.jsonl.gz:1")], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_read_as_it_stands(case: str, tmp_path: Path) -> None:
    check_read(tmp_path, *GOOD[case])


BAD: dict[str, tuple[str, bytes, list[str]]] = {
    "A12 json lines": ("d.jsonl", b"\n\n", ["d.jsonl: the file is empty"]),
    "A13 json": ("d.json", b"[]", ["the list has no rows"]),
    "A15 json lines": ("d.jsonl", b'{"txt": "a", "label": 1}\n{"txt": "b", "label": 1}\n',
                       ["no column 'text' in d.jsonl. Columns found: 'txt', 'label'. Did you mean 'txt'?"]),
    "A16 json": ("d.jsonl", b'{"text": "a", "text": "b", "label": 1}', ["not valid JSON (a key appears twice)"]),
    "A26 number": ("d.jsonl", b'{"text": "a", "label": 1}\n{"text": 7, "label": 1}', ["d.jsonl:2: 'text' is a number"]),
    "A26 list": ("d.json", b'[{"text": ["a"], "label": 1}]', ["d.json:1: 'text' is a list"]),
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
    "list as single label": ("d.jsonl", b'{"text": "a", "label": ["x"]}', ["d.jsonl:1: 'label' is a list"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused_with_what_and_where(case: str, tmp_path: Path) -> None:
    check_refused(tmp_path, *BAD[case])


def test_nested_json_has_columns_with_dots(tmp_path: Path) -> None:
    records = [{"review": {"body": f"text {row}", "by": {"name": "Ana"}}, "label": "x"} for row in range(2)]
    columns = ColumnMap(text="review.body", group="review.by.name")
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "d.json").write_text(json.dumps({"version": 1, "tags": ["a"], "found": {"items": records}}))
    for name in ("d.jsonl", "d.json"):
        loaded = load(tmp_path, name, columns=columns)
        assert [row[1:4] for row in rows(loaded)] == [("text 0", "x", "Ana"), ("text 1", "x", "Ana")]
    assert loaded.notes == ["d.json: the rows are those under 'found.items'"]
    told = message(tmp_path, "d.jsonl")
    assert "no column 'text' in d.jsonl. Columns found: 'review.body', 'review.by.name', 'label'" in told


def test_json_in_which_the_rows_are_not_plain(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"good": [{"text": "a"}], "bad": [{"text": "b"}]}')
    assert "d.json: holds several lists of objects: good, bad" in message(tmp_path, "d.json")
    (tmp_path / "d.json").write_text('{"text": "a", "label": "x"}')
    assert "d.json: holds an object, not a list" in message(tmp_path, "d.json")
    (tmp_path / "d.json").write_text('[{"a.b": 1, "a": {"b": 2}}]')
    assert "d.json: not valid JSON (a key appears twice)" in message(tmp_path, "d.json")
    (tmp_path / "d.json").write_text('[{"text": "a"},\r{"text"]', newline="")
    assert "d.json:2: not valid JSON (Expecting ':' delimiter at column 8)" in message(tmp_path, "d.json")


def xml(*elements: str, head: str = "") -> bytes:
    return (head + "<reviews>\n" + "\n".join(elements) + "\n</reviews>\n").encode()


XML = """<review id="7" n:by="Ana" xmlns:n="urn:n">
  <text>first <b>bold</b> &amp; <!-- not this -->last</text>
  <n:about lang="en"><place>Rome</place></n:about>
  <label>x</label><label>y</label>
</review>"""


def test_xml_has_columns_for_children_and_attributes(tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_bytes(xml("<version>1</version>", XML, "", XML.replace("Rome", "<![CDATA[<Bonn>]]>")))
    for group, expected in (("about.place", ["Rome", "<Bonn>"]), ("about.@lang", ["en"] * 2), ("@by", ["Ana"] * 2)):
        loaded = load(tmp_path, "d.xml", columns=ColumnMap(group=group), multi_label=True)
        assert [row[3] for row in rows(loaded)] == expected
    assert [row[1] for row in rows(loaded)] == ["first bold & last"] * 2
    assert [row[2] for row in rows(loaded)] == [["x", "y"]] * 2
    assert [row[4] for row in rows(loaded)] == ["d.xml:3", "d.xml:9"]
    assert loaded.notes == [
        "d.xml: the rows are the elements 'review'; ignored: version",
        "d.xml: markup inside text is left out, its text is kept",
    ]
    assert "'label' is a list" in message(tmp_path, "d.xml")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<reviews>\n<review>\n<text>a</text>\n", "d.xml:4: not valid XML (Premature end of data"),
        (b"<reviews>\n<review><text>a</review></reviews>", "d.xml:2: not valid XML (Opening and ending tag mismatch"),
        (b"<reviews>\n<review><text>a\0b</text></review></reviews>", "d.xml:2: not valid XML"),
        (b"text,label\na,x\n", "d.xml:1: not valid XML (Start tag expected"),
        (b"  \n", "d.xml"),
        (b"<reviews/>", "d.xml: the root element has no rows"),
        (xml("<a/>", "<a/>", "<b/>", "<b/>"), "d.xml: several elements repeat below the root: a, b"),
        (xml("<r><text>a</text></r>", "<r><txt>a</txt></r>"), "d.xml:3: no 'text' (has 'txt'). Did you mean 'txt'?"),
        (xml("<r/>", head='<!DOCTYPE r [<!ENTITY a "x">]>'), "d.xml: declares entities (a), which are not expanded"),
        (xml("<r/>", head='<!DOCTYPE r SYSTEM "/etc/passwd">'), "names a document type elsewhere (/etc/passwd)"),
        (xml("<r>&undeclared;</r>"), "d.xml:2: not valid XML (Entity 'undeclared' not defined"),
        ("<r><text>caf\xe9".encode("latin-1"), "d.xml:1: byte 0xE9 at column 13 is not UTF-8 (nor GB18030)"),
        (b"", "d.xml: the file is empty"),
    ],
)
def test_xml_that_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_bytes(content)
    assert told in message(tmp_path, "d.xml")


def test_a_bomb_of_entities_is_never_expanded(tmp_path: Path) -> None:
    bomb = '<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    (tmp_path / "d.xml").write_bytes(xml("<r><text>&i;</text></r>", head=f"<!DOCTYPE r [{bomb}]>"))
    assert "declares entities" in message(tmp_path, "d.xml")


def test_xml_in_other_encodings(tmp_path: Path) -> None:
    row = "<r><text>今天的房间很干净</text><label>好</label></r>"
    head = '<?xml version="1.0" encoding="{}"?>'
    for content, options, note in (
        (
            xml(row, head=head.format("gb18030")).decode().encode("gb18030"),
            {},
            "read as gb18030, as its first line says",
        ),
        (xml(row).decode().encode("gb18030"), {}, "read as GB18030"),
        (xml(row).decode().encode("utf-16"), {}, "read as UTF-16"),
        (xml(row).decode().encode("gbk"), {"encoding": "gbk"}, "read as gbk"),
        (xml(row, head="\ufeff"), {}, ""),
    ):
        (tmp_path / "d.xml").write_bytes(content)
        loaded = load(tmp_path, "d.xml", **options)
        assert rows(loaded)[0][1:3] == ("今天的房间很干净", "好")
        assert loaded.notes == ([f"d.xml: {note}"] if note else [])


def test_lines_of_a_long_xml_file(tmp_path: Path) -> None:
    """The library keeps a line in 16 bits and tells another one above that."""
    rows_ = [f"<r>\n  <text>\n{number}</text>\n<label>x</label></r>" for number in range(20_000)]
    (tmp_path / "d.xml").write_bytes(xml(*rows_))
    assert [row[4] for row in rows(load(tmp_path, "d.xml"))] == [f"d.xml:{2 + 4 * n}" for n in range(20_000)]


def hdf5(path: Path, columns: Mapping[str, object]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values)


def test_hdf5_has_columns_for_datasets(tmp_path: Path) -> None:
    columns = {"review/body": ["a", "", "文"], "label": [1, 0, 1], "stars": [1.5, float("nan"), 2.0], "version": "1"}
    hdf5(tmp_path / "d.h5", columns)
    loaded = load(tmp_path, "d.h5", columns=ColumnMap(text="review.body"), numeric=["stars"])
    assert [row[1:3] for row in rows(loaded)] == [("a", "1"), ("", "0"), ("文", "1")]
    assert loaded.splits["all"]["stars"][:] == [1.5, None, 2.0]
    assert "Columns found: 'label', 'review.body', 'stars'" in message(tmp_path, "d.h5")


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text": ["a", "b"], "label": ["x"]}, "d.h5: the columns have unequal lengths: label 1, text 2"),
        ({"text": ["a"], "label": [[1, 2]]}, "d.h5:1: 'label' is a list"),
        ({"text": [1, 2], "label": [1, 2]}, "d.h5:1: 'text' is a number"),
        (
            {"text": np.array([b"a", b"caf\xe9"]), "label": [1, 2]},
            "d.h5:2: byte 0xE9 at offset 3 of 'text' is not UTF-8",
        ),
        ({"t": np.array([(1, 2)], dtype="i4,i4")}, "d.h5: 't' is a table of records, as pandas writes it"),
        ({"text": np.array([], "S1"), "label": np.array([], "S1")}, "d.h5: the file has columns but no rows"),
        ({"text": "a"}, "d.h5: holds no column"),
    ],
)
def test_hdf5_that_is_refused(columns: Mapping[str, object], told: str, tmp_path: Path) -> None:
    hdf5(tmp_path / "d.h5", columns)
    assert told in message(tmp_path, "d.h5")


def test_hdf5_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    assert "d.h5: is damaged or incomplete (" in message(tmp_path, "d.h5")
    (tmp_path / "d.hdf5").write_bytes(b"")
    assert "d.hdf5: the file is empty" in message(tmp_path, "d.hdf5")
    hdf5(tmp_path / "other.h5", {"text": ["secret"], "label": ["x"]})
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["text"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "text")
    assert "d.h5: holds no column" in message(tmp_path, "d.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        EnvironmentFault, match=r"d.h5: reading HDF5 needs the package h5py. pip install 'finetune\[hdf5\]'"
    ):
        load(tmp_path, "d.h5")


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
LABELS = st.text(string.ascii_letters + " ,;|\"'", min_size=1, max_size=5).filter(str.strip)


# What XML cannot hold: control characters, and carriage returns that are not escaped.
XML_TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S", "Z")), max_size=30)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(TEXTS, LABELS), min_size=1, max_size=6))
def test_any_text_survives_every_format(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    with (tmp_path / "d.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *pairs])
    records = [{"text": text, "label": label} for text, label in pairs]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    (tmp_path / "d.json").write_text(json.dumps(records), encoding="utf-8")
    table = pa.Table.from_pylist(records)
    pq.write_table(table, tmp_path / "d.parquet")
    with pa.ipc.new_file(str(tmp_path / "d.arrow"), table.schema) as writer:
        writer.write_table(table)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for name in table.column_names:
            file.create_dataset(name, data=table[name].to_pylist(), dtype=h5py.string_dtype())
    trimmed = [(text, label.strip()) for text, label in pairs]  # labels are trimmed, texts are cleaned later
    for name in ("d.csv", "d.jsonl", "d.json", "d.parquet", "d.arrow", "d.h5"):
        assert [row[1:3] for row in rows(load(tmp_path, name))] == trimmed, name


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(XML_TEXTS, LABELS), min_size=1, max_size=6))
def test_any_text_survives_xml(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    root = etree.Element("rows")
    for text, label in pairs:
        row = etree.SubElement(root, "row")
        etree.SubElement(row, "text").text, etree.SubElement(row, "label").text = text, label
    etree.ElementTree(root).write(tmp_path / "d.xml", encoding="utf-8", xml_declaration=len(pairs) % 2 > 0)
    assert [row[1:3] for row in rows(load(tmp_path, "d.xml"))] == [(text, label.strip()) for text, label in pairs]
