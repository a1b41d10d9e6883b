"""What a user sees for bad data: parts A and B of the catalogue of bad inputs, and what `prepare` and `init` refuse.

Every refused case is tried with `train` and with `prepare`; what is accepted, with `check` and with `prepare`, whose
rows and data.json are looked at. bad_inputs.py says how a case is written and judged.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import pyarrow.parquet
import pytest
from bad_inputs import (
    PREPARE,
    ROWS,
    TRAIN,
    Case,
    Files,
    accepted,
    check_accepted,
    check_prepared,
    check_refused,
    cleaned,
    make_ready,
    prepared_rows,
    read_json,
    recipe,
    refused,
    reviews,
    rows,
    settle_in,
    table,
    write_files,
)
from ruamel.yaml import YAML

from finetune.branches import build_learner
from finetune.cli import main
from finetune.data import cleaning, store
from finetune.data.prepare import Prepared
from finetune.data.text_steps import TEXT_STEPS
from finetune.learner import Learner

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
OF_ONE_AGE = (10**18, 10**18)  # nanoseconds


def json_lines(*lines: str, count: int = ROWS) -> Files:
    good = [json.dumps({"text": f"the film of day {i}", "label": ("pos", "neg")[i % 2]}) for i in range(count)]
    return {"recipe.yaml": recipe(source="reviews.jsonl"), "reviews.jsonl": "\n".join([good[0], *lines, *good[1:]])}


def named(name: str, content: str | bytes) -> Files:
    """A source of this name."""
    return {"recipe.yaml": recipe(source=name), name: content}


def zipped(content: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("reviews.csv", content)
    return archive.getvalue()


def as_csv(lines: Sequence[Sequence[object]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(lines)
    return written.getvalue()


# A near duplicate needs some words: these two share 21 of 22.
LONG = (
    "the quick brown fox jumps over the lazy dog while seven wizards quietly boxed five dozen jugs by the river at noon"
)
NEAR = LONG.replace("noon", "night")


NOUNS = [
    f"{a} {b}"
    for a in ("red", "blue", "green", "black", "white")
    for b in ("house", "river", "table", "garden", "cloud", "stone", "bread")
]


def two_parts(*in_test: str, data: str = "", extra: str = "") -> Files:
    """train.csv, with a long text in line 2 and a short one in line 3, and test.csv, which begins with these lines."""
    ordinary = [f"{noun} number {number},{('pos', 'neg')[number % 2]}" for number, noun in enumerate(NOUNS)]
    return {
        "recipe.yaml": recipe(source="{train: train.csv, test: test.csv}", data=data, extra=extra),
        "train.csv": "\n".join(["text,label", f"{LONG},pos", "A plain film,pos", *ordinary[:25]]),
        "test.csv": "\n".join(["text,label", *in_test, *ordinary[25:]]),
    }


# Line 2 and after: the first text has two votes for pos and one for neg, the second one of each.
CONFLICTS = (
    *("same text here,pos", "same text here,pos", "Same text here,neg"),
    *("other twin text,pos", "other twin text,neg"),
)


TABLES = [
    refused(
        "A01", reviews("good, but long,pos"), "reviews.csv:2: 3 fields, header has 2", "Quote text that contains commas"
    ),
    refused("A02", reviews("b"), "reviews.csv:2", "column 'label' is empty"),
    refused("A02-empty", reviews("b,"), "reviews.csv", "1 row without label", "line 2"),
    accepted(
        "A03",
        {"reviews.csv": b"\xef\xbb\xbf" + table("so it is,pos").encode()},
        "labels: neg, pos",
        keeps=(("so it is", "pos"),),
    ),
    accepted(
        "A04",
        {"reviews.csv": table("今天的电影,pos").encode("utf-16")},
        "read as UTF-16",
        told=("reviews.csv: read as UTF-16",),
        keeps=(("今天的电影", "pos"),),
    ),
    accepted(
        "A05",
        {"reviews.csv": table("今天的电影很好看,pos").encode("gb18030")},
        "read as GB18030",
        told=("reviews.csv: read as GB18030",),
        keeps=(("今天的电影很好看", "pos"),),
    ),
    refused(
        "A06",
        {**reviews("今天的电影很好看,pos"), "recipe.yaml": recipe(data="  encoding: gb18030\n")},
        "reviews.csv: the file is valid UTF-8, but data.encoding is gb18030",
    ),
    refused("A07", {"recipe.yaml": recipe(data="  errors: ignore\n")}, "recipe.yaml:6: unknown key 'data.errors'"),
    refused(
        "A08",
        {"reviews.csv": table().encode() + b"caf\xe9 ole,pos\n"},
        f"reviews.csv:{ROWS + 2}: byte 0xE9 at column 4 is not UTF-8 (nor GB18030)",
        "encoding: latin-1",
    ),
    accepted(
        "A09",
        reviews("good\0 film,pos"),
        told=("reviews.csv: NUL bytes in 1 row", "NUL bytes removed from 1 row"),
        keeps=(("good film", "pos"),),
    ),
    accepted(
        "A09-kept",
        {**reviews("good\0 film,pos"), "recipe.yaml": recipe(extra="cleaning: [lowercase]\n")},
        told=("reviews.csv: NUL bytes in 1 row",),
        keeps=(("good\0 film", "pos"),),
    ),
    refused(
        "A09-many",
        reviews(*(f"good\0 {i},pos" for i in range(4))),
        "reviews.csv: NUL bytes in 4 of 44 rows: this looks like a binary file",
    ),
    refused("A10", {"reviews.csv": PNG}, "reviews.csv: looks like a PNG image, not a table"),
    refused(
        "A11",
        {"reviews.csv": gzip.compress(table().encode())},
        "reviews.csv: looks like a gzip archive, not a table. Name it reviews.csv.gz",
    ),
    refused(
        "A11-zip",
        {"reviews.csv": zipped(table())},
        "reviews.csv: looks like a zip archive or an Excel workbook, not a table",
    ),
    refused(
        "A11-zip-name",
        named("reviews.zip", zipped(table())),
        "reviews.zip: unknown format '.zip'. Unpack it; of archives only .gz is read",
    ),
    refused("A11-gz-name", named("r.csv.gz", table()), "r.csv.gz: is not a gzip archive. Name it r.csv"),
    refused(
        "A11-gz-cut", named("r.csv.gz", gzip.compress(table().encode())[:-9]), "r.csv.gz: is damaged or incomplete"
    ),
    accepted("A11-gz", named("r.csv.gz", gzip.compress(table("so it is,pos").encode())), keeps=(("so it is", "pos"),)),
    refused("A12", {"reviews.csv": ""}, "reviews.csv: the file is empty"),
    refused("A13", {"reviews.csv": "text,label\n"}, "reviews.csv: the file has a header but no rows"),
    refused(
        "A14",
        {"reviews.csv": "good film,pos\n" + "\n".join(rows())},
        "no column 'text' in reviews.csv. Columns found: 'good film', 'pos'",
        "Is the header missing?",
    ),
    refused("A15", reviews(header="texts,label"), "no column 'text'", "Did you mean 'texts'?"),
    refused(
        "A16",
        {"reviews.csv": "text,text,label\n" + "".join(f"a {i},b,pos\n" for i in range(9))},
        "reviews.csv: column 'text' appears twice",
    ),
    accepted(
        "A17",
        {"reviews.csv": table("so it is,pos").replace(",", ";")},
        "reviews.csv: fields are separated by ';'",
        told=("reviews.csv: fields are separated by ';'",),
        keeps=(("so it is", "pos"),),
    ),
    accepted(
        "A17-tab",
        {"reviews.csv": table("so it is,pos").replace(",", "\t")},
        "fields are separated by a tab",
        told=("fields are separated by a tab",),
        keeps=(("so it is", "pos"),),
    ),
    refused(
        "A18",
        {"reviews.csv": "text,label\n" + "".join(f"{row},\n" for row in rows())},
        "the rows have one field more than the header",
    ),
    accepted(
        "A19",
        {"reviews.csv": ",text,label\n" + "".join(f"{i},{row}\n" for i, row in enumerate(rows()))},
        "column 1 has no name and is ignored",
        told=("reviews.csv: column 1 has no name and is ignored",),
        keeps=(("the film of day 0 is fine", "pos"),),
    ),
    refused("A20", reviews('"never closed,pos'), "reviews.csv:2: a quote opens here and never closes"),
    refused("A21", reviews('"two\nlines, and ""quotes""",pos', "short"), "reviews.csv:4: 1 field, header has 2"),
    accepted("A21-kept", reviews('"two\nlines, and ""quotes""",pos'), keeps=(('two\nlines, and "quotes"', "pos"),)),
    accepted("A22", {"reviews.csv": table("so it is,pos").replace("\n", "\r")}, keeps=(("so it is", "pos"),)),
    refused("A22-line", {"reviews.csv": table("short").replace("\n", "\r")}, "reviews.csv:2: 1 field, header has 2"),
    accepted(
        "A23",
        {
            "reviews.csv": "text,label\n"
            + "".join(
                f"{w},{('a', 'b')[i % 2]}\n"
                for i, w in enumerate(["NA", "null", "None", "nan", *(f"NA {n}" for n in range(8))])
            )
        },
        "train: 8 documents",
        keeps=(("NA", "a"), ("null", "b"), ("None", "a"), ("nan", "b")),
    ),
    # As numbers, 0450 and 450 would be one text twice, and one label.
    accepted(
        "A24",
        {"reviews.csv": "text,label\n" + "".join(f"0{450 + i},01\n{450 + i},1\n" for i in range(9))},
        "train: 13 documents",
        "labels: 01, 1",
        keeps=(("0450", "01"), ("450", "1")),
    ),
    accepted("A25", reviews("  ,pos"), "1 empty texts dropped", told=("1 empty texts dropped",)),
    refused(
        "A25-all", {"reviews.csv": "text,label\n" + " ,pos\n ,neg\n" * 20}, "40 of 40 texts are empty, more than 5%"
    ),
    refused(
        "A25-kept",
        {**reviews(" ,pos"), "recipe.yaml": recipe(extra="cleaning: [lowercase]\n")},
        "reviews.csv:2: the text is empty",
    ),
    refused("A25-many", reviews(*["  ,pos"] * 5), "5 of 45 texts are empty, more than 5%", "reviews.csv:2"),
    refused("A26", json_lines('{"text": 7, "label": "pos"}'), "reviews.jsonl:2: 'text' is a number"),
    refused("A26-list", json_lines('{"text": ["a"], "label": "pos"}'), "reviews.jsonl:2: 'text' is a list"),
    refused(
        "A27-key",
        json_lines('{"text": "a", "text": "b", "label": "pos"}'),
        "reviews.jsonl:2: not valid JSON (a key appears twice)",
    ),
    refused("A27-deep", json_lines('{"text": ' + "[" * 100_000), "reviews.jsonl:2: not valid JSON ("),
    refused("A27", json_lines('{"text": "a", '), "reviews.jsonl:2: not valid JSON ("),
    refused("A28", json_lines('{"txt": "a", "label": "pos"}'), "reviews.jsonl:2: no 'text' (has 'txt', 'label')"),
    refused(
        "A29",
        json_lines(r'{"text": "half \ud800", "label": "pos"}'),
        "reviews.jsonl:2: 'text' has half of a character (\\ud800, a lone surrogate)",
    ),
    refused("A30", json_lines('{"text": "a", "label": 3}'), "reviews.jsonl:2: labels mix text and numbers (line 2)"),
    refused(
        "A31",
        json_lines(*['{"text": "a", "label": 1}'] * 12_000, count=1),
        "reviews.jsonl:2: labels mix text and numbers (line 2)",
    ),
    refused(
        "A31-late",
        named("r.jsonl", '{"text": "a", "label": 1}\n' * 12_000 + '{"text": "a", "label": "pos"}'),
        "r.jsonl:12001: labels mix text and numbers (line 12001)",
    ),
    # In a table every label is text, so a word among numbers is one more class, which here is too small.
    refused("A31-csv", {"reviews.csv": table("word,pos", labels=("0", "1"))}, "class 'pos' has 1 row"),
    refused(
        "A32",
        {"recipe.yaml": recipe(source="r.parquet"), "r.parquet": b"PAR1 broken PAR1"},
        "r.parquet: is damaged or incomplete",
    ),
    refused(
        "A33",
        reviews(f"{'x' * 1_000_001},pos"),
        "reviews.csv:2: 'text' has 1,000,001 characters, more than data.most_characters (1,000,000)",
    ),
    refused(
        "A33-limit",
        {
            **reviews("a text of more than forty characters, would be three fields,pos".replace(", ", " ")),
            "recipe.yaml": recipe(data="  most_characters: 40\n"),
        },
        "reviews.csv:2: 'text' has 58 characters, more than data.most_characters (40)",
    ),
    refused(
        "A34", {"recipe.yaml": recipe(source="review.csv")}, "review.csv: no such file. Did you mean 'reviews.csv'?"
    ),
    refused(
        "A34-folder",
        {"recipe.yaml": recipe(source="empty"), "empty/notes.md": "no table"},
        "empty: no table in this folder",
    ),
    accepted(
        "A38",
        reviews("a good \u202efilm\u200b,pos", "na\u200dme it,neg"),
        told=(r"a good \u202efilm\u200b", r"na\u200dme it"),
        keeps=(("a good film", "pos"), ("name it", "neg")),
    ),
    refused(
        "A39",
        {
            "recipe.yaml": recipe(data="  columns: {id: key}\n"),
            "reviews.csv": "text,label,key\n" + "".join(f"{row},k{i % 38}\n" for i, row in enumerate(rows())),
        },
        "reviews.csv:40: id 'k0' is already in reviews.csv:2",
        "reviews.csv:41: id 'k1' is already in reviews.csv:3",
    ),
    # Where no column is said to hold ids, a repeated value is nothing.
    accepted("A39-unused", {"reviews.csv": "text,label,key\n" + "".join(f"{row},k\n" for row in rows())}),
    accepted("A40", two_parts("a  PLAIN film,pos"), told=("test: 1 row repeats a row of train and was removed",)),
    refused(
        "A40-exact",
        two_parts("A plain film,pos", extra="cleaning: [fix_unicode]\n"),
        "data.source.test: 1 of 11 rows (9.1 %) is an exact duplicate of train rows; for example: test.csv:2 and",
        "Set data.leaks: move to give these rows to train, data.leaks: warn to go on, or repair the files.",
        code=1,
    ),
    refused(
        "A40-near",
        two_parts(f"{NEAR},pos"),
        "data.source.test: 1 of 11 rows (9.1 %) is a near duplicate of train rows; worst: test.csv:2 and train.csv:2",
        code=1,
    ),
    accepted(
        "A40-move",
        two_parts(f"{NEAR},pos", data="  leaks: move\n"),
        told=("test: 1 of 11 rows (9.1 %) was moved to train, which has their text or group",),
        keeps=((NEAR, "pos"),),
    ),
    accepted(
        "A40-warn",
        two_parts(f"{NEAR},pos", data="  leaks: warn\n"),
        "warning: test: 1 of 11 rows (9.1 %) is a near duplicate of train rows",
        told=("warning: test: 1 of 11 rows (9.1 %) is a near duplicate of train rows",),
        keeps=((NEAR, "pos"),),
    ),
    refused(
        "A40-group",
        {
            "recipe.yaml": recipe(source="{train: train.csv, test: test.csv}", data="  columns: {group: author}\n"),
            "train.csv": "text,label,author\n" + "".join(f"{row},a{i % 9}\n" for i, row in enumerate(rows())),
            "test.csv": "text,label,author\n" + "".join(f"{row},a{i + 8}\n" for i, row in enumerate(rows(8, start=50))),
        },
        "data.source.test: 1 of 8 rows (12.5 %) is in a group that train has too: a8",
        code=1,
    ),
]

LABELS = [
    refused("B01", reviews("a,", "b,pos", "c,  ", "d,neg", "e,"), "reviews.csv: 3 rows without label: lines 2, 4, 6"),
    accepted("B02", reviews(), "labels: neg, pos"),
    accepted(
        "B03",
        reviews("x, pos", "y,pos ", "z,Pos", "z2,Pos", "z3,Pos"),
        "labels: Pos, neg, pos",
        "labels 'Pos' (3 rows), 'pos' (22 rows) differ only in the way they are written",
        told=("warning: labels 'Pos' (3 rows), 'pos' (22 rows) differ only in the way they are written",),
        keeps=(("x", "pos"), ("y", "pos"), ("z", "Pos")),
    ),
    refused("B04", reviews("a,", labels=("0.0", "1.0")), "reviews.csv: labels are 0.0/1.0: a cell is empty at line 2"),
    refused("B04-full", reviews(labels=("0.0", "1.0")), "labels are 0.0/1.0, not whole numbers"),
    accepted("B05", reviews("a,True", "b,FALSE", labels=("true", "false")), "labels: false, true"),
    refused("B06", reviews("a,-1", labels=("0", "1")), "reviews.csv: label -1 is negative (1 row: line 2)"),
    refused(
        "B06-large",
        {**reviews("a,2", labels=("0", "1")), "recipe.yaml": recipe(data="  labels: [0, 1]\n")},
        "reviews.csv: label '2' (1 row: line 2) is not in data.labels. Found: 0, 1",
    ),
    refused("B07", reviews(labels=("-100",)), "no usable label: every label is -100"),
    refused("B08", reviews(labels=("pos",)), "only one class ('pos')"),
    refused(
        "B09",
        {
            "recipe.yaml": recipe(source="{train: reviews.csv, test: test.csv}"),
            "test.csv": "text,label\n" + "".join(f"other {i},{'zzz' if i < 12 else 'pos'}\n" for i in range(20)),
        },
        "test.csv: label 'zzz' (12 rows: lines 2, 3,",
        "is not in train",
    ),
    refused(
        "B10", reviews("alone,rare"), "class 'rare' has 1 row", "needs at least 3 of each class", "data.split.stratify"
    ),
    refused(
        "B11",
        {"reviews.csv": "text,label\na,pos\nb,neg\n"},
        "too few to split into train, validation, test",
        "2 rows",
        "at least 3 are needed",
    ),
    refused(
        "B12",
        {"recipe.yaml": recipe(data="  split: {train: 0.7, validation: 0.2, test: 0.2}\n")},
        "recipe.yaml:6: data.split: train + validation + test must be 1, found 1.1",
    ),
    refused(
        "B12-size",
        {"recipe.yaml": recipe(data="  split:\n    test: 1.5\n")},
        "recipe.yaml:7: data.split.test",
        "less than 1, found 1.5",
    ),
    accepted(
        "B13",
        reviews(*CONFLICTS),
        "warning: 2 texts occur with different labels; the first label was kept (see reviews.csv:4, reviews.csv:6)",
        told=(
            "warning: 2 texts occur with different labels; the first label was kept (see reviews.csv:4, reviews.csv:6)",
            "all: 3 rows repeat an earlier row and were removed",
        ),
        keeps=(("same text here", "pos"), ("other twin text", "pos")),
    ),
    accepted(
        "B13-kept",
        cleaned("fix_unicode", *CONFLICTS),
        told=(
            "warning: 2 texts occur with different labels, and all were kept: "
            "reviews.csv:2 ('pos') and reviews.csv:4 ('neg'); reviews.csv:5 ('pos') and reviews.csv:6 ('neg')",
        ),
        keeps=(("same text here", "pos"), ("Same text here", "neg"), ("other twin text", "neg")),
    ),
    accepted(
        "B13-majority",
        cleaned("drop_conflicts: majority", *CONFLICTS),
        told=(
            "2 texts occur with different labels",
            "1 of them have no most frequent label: all their rows were dropped",
        ),
        keeps=(("same text here", "pos"),),
    ),
    accepted(
        "B13-drop",
        cleaned("drop_conflicts: drop", *CONFLICTS),
        told=("2 texts occur with different labels", "all: 5 rows of texts with different labels dropped"),
    ),
    refused(
        "B13-refuse",
        cleaned("drop_conflicts: refuse", *CONFLICTS),
        "cleaning.drop_conflicts: 2 texts occur with different labels. "
        "Found: reviews.csv:2 ('pos') and reviews.csv:4 ('neg'); reviews.csv:5 ('pos') and reviews.csv:6 ('neg')",
    ),
    accepted(
        "B14",
        {"reviews.csv": table(*(f"rare {i},rare" for i in range(3)), count=3000, labels=("common",))},
        "warning: labels are very uneven: 'common' has 3000 rows, 'rare' 3 rows. Read the macro-F1 and the majority",
        told=("warning: labels are very uneven: 'common' has 3000 rows, 'rare' 3 rows",),
        keeps=(("rare 0", "rare"), ("rare 1", "rare"), ("rare 2", "rare")),
    ),
    accepted(
        "B16", {**reviews(labels=("no", "yes")), "recipe.yaml": recipe(data="  labels: [no, yes]\n")}, "labels: no, yes"
    ),
    accepted("B16-data", reviews(labels=("no", "yes")), "labels: no, yes"),
    refused(
        "B17",
        {"recipe.yaml": recipe(model="num_labels: 1")},
        "recipe.yaml:3: unknown key 'model.num_labels'",
        "comes from the data",
    ),
    refused(
        "B17-list",
        {"recipe.yaml": recipe(data=f"  labels: [pos, neg, {', '.join('cdefghij')}]\n")},
        "data.labels: the list has 10 labels, the data has 2 of them",
    ),
    refused(
        "B20",
        {"reviews.csv": "text,label\n" + "".join(f"{row} {i}\n" for i, row in enumerate(rows(120)))},
        "label column looks like free text or an id: 120 distinct labels in 120 rows",
    ),
    refused(
        "B20-large",
        {"reviews.csv": "text,label\n" + "".join(f"film {i},label {i % 5000}\n" for i in range(6000))},
        "label column looks like free text or an id: 5000 distinct labels in 6000 rows. Found: label 0, label 1",
    ),
    refused(
        "B19",
        {"recipe.yaml": recipe(source="{train: reviews.csv, validation: empty.csv}"), "empty.csv": "text,label\n"},
        "empty.csv: the file has a header but no rows",
    ),
]


def folder_of_texts(**more: str | bytes) -> Files:
    texts = {f"texts/{label}/{i}.txt": f"the {label} film of day {i}" for label in ("pos", "neg") for i in range(20)}
    return {"recipe.yaml": recipe(source="texts"), **texts, **{f"texts/{name}": text for name, text in more.items()}}


def write_ragged(folder: Path) -> None:
    with h5py.File(folder / "r.h5", "w") as opened:
        opened["text"], opened["label"] = ["a"] * 9, ["x"] * 8


def entity(declared: str) -> Files:
    row = "<row><text>&x;</text><label>pos</label></row>"
    return named("r.xml", f'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY {declared}>]><r>{row * 9}</r>')


FORMATS = [
    refused(
        "xml entity",
        entity('x SYSTEM "file:///etc/passwd"'),
        "r.xml: declares entities (x), which are not expanded",
        hides=("root:",),
    ),
    refused(
        "xml bomb", entity('a "aaaa"><!ENTITY x "&a;&a;"'), "r.xml: declares entities (a, x), which are not expanded"
    ),
    refused("xml broken", named("r.xml", "<r>\n<row><text>a</row></r>"), "r.xml:2: not valid XML ("),
    refused(
        "hdf5 ragged", named("r.h5", ""), "r.h5: the columns have unequal lengths: label 8, text 9", build=write_ragged
    ),
    refused("hdf5 no hdf5", named("r.h5", "text,label\n"), "r.h5: is damaged or incomplete ("),
    accepted("folder", folder_of_texts(), keeps=(("the pos film of day 7", "pos"),)),
    refused(
        "folder with an empty class",
        folder_of_texts(),
        "texts/rare: the class folder has no .txt file",
        build=lambda f: (f / "texts/rare").mkdir(),
    ),
    refused(
        "folder with other bytes",
        folder_of_texts(**{"pos/7.txt": b"fine\ncaf\xe9 ole"}),
        "texts/pos/7.txt:2: byte 0xE9 at column 4 is not UTF-8",
    ),
    refused(
        "folder in a class",
        folder_of_texts(**{"pos/old/7.txt": "old"}),
        "texts: pos/old is a folder inside a class folder",
    ),
]


def predicted(id: str, content: str | bytes, *says: str, **more: object) -> Case:
    """A finished run labels the texts of new.csv."""
    argv = ("predict", "complete", "--input", "new.csv", "--output", "labelled.csv")
    return refused(id, {"new.csv": content}, *says, argv=argv, needs=("complete",), **more)


PREDICTIONS = [
    predicted("A01-predict", "text,n\na, b, 1\n", "new.csv:2: 3 fields, header has 2"),
    predicted("A08-predict", b"text\ncaf\xe9 ole\n", "new.csv:2: byte 0xE9 at column 4 is not UTF-8 (nor GB18030)"),
    predicted("A15-predict", "texts\na film\n", "--column: no column 'text' in new.csv", "Did you mean 'texts'?"),
    predicted("A20-predict", 'text,n\n"never closed,1\n', "new.csv:2: a quote opens here and never closes"),
    predicted("A25-predict", "text,n\na film,1\n  ,2\n", "new.csv:3: text is empty"),
]

CASES = [*TABLES, *LABELS, *FORMATS, *PREDICTIONS]
PROMISED = {*(f"A{number:02d}" for number in range(1, 41)), *(f"B{number:02d}" for number in range(1, 21))}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ready(tmp_path_factory.mktemp("ready"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_in(tmp_path, monkeypatch)


@pytest.mark.parametrize("case", [case for case in CASES if case.code], ids=lambda case: case.id)
def test_refused(case: Case, ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_files(case, tmp_path, ready=ready)
    for argv in [case.argv] if case.argv else [TRAIN, PREPARE]:
        check_refused(case, tmp_path, capfd, argv=argv)


@pytest.mark.parametrize("case", [case for case in CASES if not case.code], ids=lambda case: case.id)
def test_accepted(case: Case, ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_files(case, tmp_path, ready=ready)
    check_accepted(case, tmp_path, capfd)
    check_prepared(case, capfd)


def texts_after(*argv: str) -> set[str]:
    assert main([*PREPARE, "--force", "--quiet", *argv]) == 0
    return {text for (text, _), _ in prepared_rows()}


def test_every_promised_case_is_here() -> None:
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))
    found = {id for case in CASES for id in re.findall(r"[AB]\d\d", case.id)}
    found |= {each[1].upper() for name in globals() if (each := re.match(r"test_([ab]\d\d)_", name))}
    assert not PROMISED - found


def test_a33_a_very_long_text_is_warned_of(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.examples.MOST_CHARACTERS", 2000)
    Path("recipe.yaml").write_text(recipe())
    Path("reviews.csv").write_text(table(f"{'long ' * 500},pos"))
    assert main(PREPARE) == 0
    assert "warning: reviews.csv: line 2 has 2,500 characters" in capfd.readouterr().out
    assert "warning: reviews.csv: line 2 has 2,500 characters" in read_json("out/data.json")["warnings"]


def test_a35_a_file_without_permission(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("recipe.yaml").write_text(recipe())
    Path("reviews.csv").write_text(table())
    real_open = Path.open

    def opened(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == "reviews.csv":  # by its mode this would pass for the super-user
            raise PermissionError(13, "Permission denied")
        return real_open(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", opened)
    for argv in (TRAIN, PREPARE):
        assert main(argv) == 2
        assert "error: reviews.csv: cannot read reviews.csv: permission denied." in capfd.readouterr().err
    assert not Path("out").exists()


def test_a36_a_file_rewritten_within_the_same_moment() -> None:
    Path("recipe.yaml").write_text(recipe())
    for word in ("first", "other"):  # the same size and the same age
        Path("reviews.csv").write_text(table(f"the {word} text,pos"))
        os.utime("reviews.csv", ns=OF_ONE_AGE)
        texts = texts_after()
        assert {f"the {each} text" for each in ("first", "other")} & texts == {f"the {word} text"}


def test_a37_an_own_function_edited_within_the_same_moment() -> None:
    Path("recipe.yaml").write_text(recipe(extra="cleaning: ['mine:change', normalize_whitespace]\n"))
    Path("reviews.csv").write_text(table(labels=("pos", "neg")))
    for change, after in (("upper", "THE FILM OF DAY 0 IS FINE"), ("title", "The Film Of Day 0 Is Fine")):
        Path("mine.py").write_text(f"def change(text): return text.{change}()\n")
        os.utime("mine.py", ns=OF_ONE_AGE)
        assert after in texts_after()


@pytest.fixture
def editable_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the data steps' source, which from here on is what the cache looks at for the version of the code."""
    code = tmp_path / "code"
    shutil.copytree(Path(store.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("finetune.data.store.__file__", str(code / "store.py"))
    cleaning._code_version.cache_clear()
    yield code
    cleaning._code_version.cache_clear()


def test_a37_a_built_in_step_edited(editable_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("recipe.yaml").write_text(recipe(extra="cleaning: [lowercase]\n"))
    Path("reviews.csv").write_text(table("Edited Code,pos"))
    assert "edited code" in texts_after()
    monkeypatch.setitem(TEXT_STEPS, "lowercase", str.upper)
    assert "edited code" in texts_after(), "unchanged source, unchanged rows: this came from the cache"
    with (editable_code / "text_steps.py").open("a") as source:
        source.write("# one more line\n")
    cleaning._code_version.cache_clear()  # as in the next process
    assert "EDITED CODE" in texts_after()


def test_a38_invisible_characters_are_counted_and_never_shown_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    hidden = ("\u202e", "\u200b", "\x1b", "\x07")
    Path("recipe.yaml").write_text(recipe())
    Path("reviews.csv").write_text(table(*(f"a film {number} {each}here,pos" for number, each in enumerate(hidden))))
    assert main([*PREPARE, "--show", "5"]) == 0
    shown = capfd.readouterr()
    assert "fix_unicode: 4 rows changed, 0 dropped" in shown.out
    written = Path("out/README.md").read_text() + Path("out/data.json").read_text() + shown.out + shown.err
    assert not [each for each in hidden if each in written]
    step = read_json("out/data.json")["cleaning"][0]
    assert (step["name"], step["changed"]) == ("fix_unicode", 4)
    assert step["examples"][0] == {
        "origin": "reviews.csv:2",
        "before": r"a film 0 \u202ehere",
        "after": "a film 0 here",
    }


def test_a40_what_test_repeats_is_taken_from_test_and_not_from_train() -> None:
    for name, content in two_parts("A plain film,pos", f"{NEAR},pos", data="  leaks: move\n").items():
        Path(name).write_text(str(content))
    assert main(PREPARE) == 0
    where = {text: split for (text, _), split in prepared_rows()}
    assert where["A plain film"] in ("train", "validation")  # no validation part was brought: it is taken from train
    assert where[NEAR] == where[LONG] != "test"
    leaks = read_json("out/data.json")["leaks"]
    assert (leaks["policy"], sum(each["near"] for each in leaks["brought"])) == ("move", 1)
    assert not any(each["leaking"] for each in leaks["left"])


def test_b02_the_label_map_is_saved_with_the_model(ready: Path) -> None:
    config = json.loads((ready / "complete/best/config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "neg", "1": "pos"}


def test_b05_truth_values_are_two_classes_in_every_file(ready: Path, tmp_path: Path) -> None:
    source = "text,label\n" + "".join(f"{row}\n" for row in rows(labels=("true", "FALSE", "True", "false ")))
    write_files(Case("B05", {"reviews.csv": source}), tmp_path, ready=ready)
    assert main([*TRAIN, "--quiet"]) == 0
    table = pyarrow.parquet.read_table(tmp_path / "out/predictions/test.parquet").to_pydict()
    assert set(table["reference"]) == {"false", "true"} >= set(table["prediction"])


def test_b13_the_policies_leave_what_they_say() -> None:
    left = {}
    for policy in ("majority", "drop"):
        for name, content in cleaned(f"drop_conflicts: {policy}", *CONFLICTS).items():
            Path(name).write_text(str(content))
        texts_after()
        left[policy] = sorted(row for row, _ in prepared_rows() if "text" in row[0])
    assert left == {"majority": [("same text here", "pos")] * 2, "drop": []}


def test_b14_the_report_has_macro_f1_and_the_majority_baseline(capfd: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(recipe().replace("baselines: []", "baselines: [majority]"))
    Path("reviews.csv").write_text(table(*(f"rare {i},rare" for i in range(3)), count=300, labels=("common",)))
    assert main([*TRAIN, "training.max_steps=1"]) == 0
    shown = capfd.readouterr()
    warning = (
        "labels are very uneven: 'common' has 300 rows, 'rare' 3 rows. Read the macro-F1 and the majority baseline"
    )
    assert f"warning: {warning}" in shown.err and f"Warning: {warning}" in shown.out
    assert any(warning in each for each in read_json("out/data.json")["warnings"])
    scores = read_json("out/scores.json")
    majority = scores["baselines"]["majority"]["test"]["scores"]
    assert majority["accuracy"]["value"] > 0.95
    assert majority["f1_macro"]["value"] < 0.5  # the number to read says what accuracy hides
    assert "f1_macro" in scores["splits"]["test"]["scores"]


STRANGE = ["<script>alert(1)</script>", "a|b", "x\n---\ntitle: evil", '=HYPERLINK("http://x")', "\x1b[31mred"]


@pytest.fixture
def strange_labels() -> None:
    lines = [(f"the film of day {i} is fine", STRANGE[i % len(STRANGE)]) for i in range(50)]
    Path("recipe.yaml").write_text(recipe())
    Path("reviews.csv").write_text(as_csv([("text", "label"), *lines]), newline="")


def test_b15_strange_labels_pass_through_prepare(strange_labels: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*PREPARE[:-1], "csv"]) == 0
    shown = capfd.readouterr()
    assert not re.search("\x1b|^(---|title)", shown.out + shown.err, re.MULTILINE)
    labels = set()
    for path in Path("out").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as stream:
            labels |= {row["label"] for row in csv.DictReader(stream)}
    assert labels == set(STRANGE)
    assert set(read_json("out/data.json")["labels"]) == set(STRANGE)
    card = Path("out/README.md").read_text(encoding="utf-8")
    assert len(re.findall("^---$", card, re.MULTILINE)) == 2  # around the front matter, and nowhere else
    assert YAML(typ="safe").load(card.split("---")[1])["pretty_name"] == "recipe"
    assert not re.search(r"<script|(?<!\\)a\|b|^title|\x1b", card, re.MULTILINE)
    assert "&lt;script&gt;" in card and r"a\|b" in card
    assert "A spreadsheet takes one that begins with =" in card


def test_b15_strange_labels_pass_through_train_and_predict(
    strange_labels: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(TRAIN) == 0
    shown = capfd.readouterr()
    assert not re.search("\x1b|^(---\n|title)", shown.out + shown.err, re.MULTILINE)
    assert r"x\n---\ntitle: evil" in shown.out
    assert set(read_json("out/best/config.json")["id2label"].values()) == set(STRANGE)
    table = pyarrow.parquet.read_table("out/predictions/test.parquet").to_pydict()
    assert set(table["reference"]) == set(STRANGE)
    assert {row["label"] for row in read_json("out/scores.json")["splits"]["test"]["per_class"]} == set(STRANGE)
    assert main(["predict", "out", "--input", "reviews.csv", "--output", "labelled.csv"]) == 0
    with open("labelled.csv", newline="", encoding="utf-8") as stream:
        labelled = list(csv.DictReader(stream))
    assert len(labelled) == 50
    assert {row["label"] for row in labelled} <= set(STRANGE)
    assert {f"probability_{label}" for label in STRANGE} <= set(labelled[0])


def test_b15_a_strange_label_that_is_refused_is_shown_on_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(recipe())
    Path("reviews.csv").write_text(
        as_csv([("text", "label"), ("alone", "x\n---\x1b[31m"), *(r.split(",") for r in rows())])
    )
    assert main(TRAIN) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(r"error: data.split.stratify: class 'x\n---\u001b[31m' has 1 row")


def test_b18_the_windows_of_a_document_stay_in_one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"{a}{b}{c}" for a in "kmrt" for b in "aeiou" for c in "lns"][:ROWS]  # a document repeats its own word
    Path("recipe.yaml").write_text(recipe())
    Path("reviews.csv").write_text(
        as_csv([("text", "label"), *((f"{w} " * 300, "ab"[i % 2]) for i, w in enumerate(words))])
    )
    learners: list[tuple[Prepared, Learner]] = []

    def remembered(loaded: Any, prepared: Prepared, **named: Any) -> Learner:
        learners.append((prepared, build_learner(loaded, prepared, **named)))
        return learners[0][1]

    monkeypatch.setattr("finetune.experiment.build_learner", remembered)
    assert main([*TRAIN, "--quiet"]) == 0
    ((prepared, learner),) = learners
    seen = {}
    for split, documents in prepared.splits.items():
        seen[split] = set()
        for text, windows in zip(documents["text"], learner.windows[split]["windows"], strict=True):
            inside = {
                word for ids in windows for word in learner.tokenizer.decode(ids[1:-1]).replace(" ##", "").split()[1:-1]
            }
            assert (inside, len(windows) > 3) == ({text.split()[0]}, True)
            seen[split] |= inside
    assert sorted(word for each in seen.values() for word in each) == sorted(words)  # none twice
    split_of = pyarrow.parquet.read_table("out/splits.parquet").to_pydict()
    for split in ("validation", "test"):
        predicted = pyarrow.parquet.read_table(f"out/predictions/{split}.parquet").to_pydict()["id"]
        assert sorted(predicted) == sorted(
            i for i, s in zip(split_of["id"], split_of["split"], strict=True) if s == split
        )
        assert read_json("out/data.json")["windows"][split]["windows"] > 3 * len(predicted)


def test_new_texts_are_read_as_they_stand(ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A05, A17, A23 and A24 for the texts that a finished run labels."""
    shutil.copytree(ready / "complete", "complete")
    Path("new.csv").write_bytes("n;text\n1;NA\n2;0456\n3;今天的电影很好看\n".encode("gb18030"))
    assert main(["predict", "complete", "--input", "new.csv", "--output", "labelled.jsonl"]) == 0
    told = capfd.readouterr().err
    assert "new.csv: read as GB18030" in told and "new.csv: fields are separated by ';'" in told
    labelled = [json.loads(line) for line in Path("labelled.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in labelled] == ["NA", "0456", "今天的电影很好看"]
