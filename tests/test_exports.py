"""Exported splits read back equal in every format, also by this package's reader and by the datasets library."""

from __future__ import annotations

import errno
import importlib.util
import itertools
import json
import math
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, get_args

import datasets
import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data import export_formats, exports
from finetune.data.export_formats import EXPORTS, Export, ExportFormat
from finetune.data.exports import check_export, column_kinds, export, read_back
from finetune.data.sources import ColumnMap, load_examples
from finetune.errors import DataError, EnvironmentFault, RecipeError

FORMATS = get_args(ExportFormat)
READ_BY_FINETUNE = ("parquet", "csv", "json", "jsonl", "arrow", "hdf5")
# What breaks writers: formulas, quotes, line ends of every kind, signs of nothing, numbers as text, astral characters.
HARD_TEXTS = [
    '=HYPERLINK("http://example.org","x")', 'she said "yes", twice', "two\nlines", "carriage\rreturn", "both\r\n",
    "NA", "null", "0456", " spaces ", "tab\there", "|", "\\N", "'", "酒店很好，下次还来。",
    "𠀀𝒜 \U0001f469\u200d", "a\u2028b\x85c\ufeff", "\ufeffmark", "[", "]", "# no comment", "---", "x" * 200_000,
]  # fmt: skip


def rows(texts: list[str], *, label: Any = "pos", **more: list[Any]) -> Dataset:
    kinds = {"id": Value("string"), "text": Value("string"), "group": Value("string"), "origin": Value("string")}
    kinds["label"] = List(Value("string")) if isinstance(label, list) else Value("string")
    columns: dict[str, list[Any]] = {
        "id": [f"t.csv:{number}" for number in range(len(texts))],
        "text": list(texts),
        "label": [label] * len(texts),
        "group": [None if number % 2 else "a,b" for number in range(len(texts))],
        "origin": ["t.csv:1"] * len(texts),
    }
    for name, values in more.items():
        columns[name] = values
        kinds[name] = Value("int64" if all(isinstance(value, int) for value in values) else "float64")
    return Dataset.from_dict(columns, features=Features({name: kinds[name] for name in columns}))


def as_texts(row: dict[str, Any]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in row.items()}


def test_the_choices_are_the_table() -> None:
    assert list(EXPORTS) == list(FORMATS)


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_written_reads_back_equal(format: ExportFormat, tmp_path: Path) -> None:
    numbers = [index / 7 for index in range(len(HARD_TEXTS))]
    numbers[3] = math.nan
    given = rows(HARD_TEXTS, stars=numbers, fold=[index % 5 for index in range(len(HARD_TEXTS))])
    splits = {"train": given, "validation": given.select([4, 2]), "test": given.select([1])}
    paths = export(splits, tmp_path / "out", format=format)
    assert [path.name for path in paths] == [f"{name}.{format}" for name in splits]
    for path, (_, part) in zip(paths, splits.items(), strict=True):
        found = list(read_back(path, format))
        wanted = [{name: value for name, value in row.items() if name != "origin"} for row in part]
        assert len(found) == len(wanted)
        for ours, row in zip(found, wanted, strict=True):
            stars = row.pop("stars")
            theirs = ours.pop("stars", [math.nan] if format == "tfrecord" else None)
            if format == "csv":
                assert ours == as_texts(row)
                assert theirs == ("" if math.isnan(stars) else repr(stars))
            elif format == "tfrecord":
                assert ours == {name: [value] for name, value in row.items() if value is not None}
                assert theirs == pytest.approx([stars], rel=1e-6, nan_ok=True)
            else:
                assert ours == row
                assert theirs == stars or (math.isnan(stars) and (theirs is None or math.isnan(theirs)))


@pytest.mark.parametrize("format", FORMATS)
def test_several_labels_survive(format: ExportFormat, tmp_path: Path) -> None:
    given = rows(["a", "b", "c", "d"], label=["x"])
    labels = [["x", "y"], ["z"], [], None]
    given = given.remove_columns("label").add_column("label", labels, feature=List(Value("string")))
    [path] = export({"train": given}, tmp_path / "out", format=format)
    found = [row.get("label") for row in read_back(path, format)]
    expected = {"csv": ["x|y", "z", "", ""], "hdf5": ["x|y", "z", "", None]}
    assert found == expected.get(format, labels)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1),
    format=st.sampled_from(FORMATS),
)
def test_any_text_survives(texts: list[str], format: ExportFormat, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any") / "out"
    [path] = export({"train": rows(texts)}, folder, format=format)
    found = [row["text"][0] if format == "tfrecord" else row["text"] for row in read_back(path, format)]
    assert found == texts


@pytest.mark.parametrize("format", READ_BY_FINETUNE)
@pytest.mark.parametrize("label", ["pos", ["pos", "neg"]], ids=["one label", "labels"])
def test_our_own_reader_takes_what_was_written(format: ExportFormat, label: Any, tmp_path: Path) -> None:
    given = rows(HARD_TEXTS, label=label)
    [path] = export({"train": given}, tmp_path / "out", format=format)
    columns = ColumnMap(group="group", id="id")
    read = load_examples(path.name, columns=columns, base=path.parent, multi_label=isinstance(label, list))
    names = ["id", "text", "label", "group"]
    assert read.splits["all"].select_columns(names).to_list() == given.select_columns(names).to_list()


@pytest.mark.parametrize("format", READ_BY_FINETUNE)
def test_the_datasets_library_takes_what_was_written(
    format: ExportFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True, raising=False)
    given = rows(HARD_TEXTS, stars=[0.5] * len(HARD_TEXTS))
    [path] = export({"train": given}, tmp_path / "out", format=format)
    more: dict[str, Any] = {}
    if format == "csv":
        more = {"keep_default_na": False, "na_values": [""], "features": given.remove_columns("origin").features}
    read = datasets.load_dataset(
        format.removesuffix("l") if format == "jsonl" else format,
        data_files={"train": str(path)}, cache_dir=str(tmp_path / "cache"), **more,
    )["train"]  # fmt: skip
    names = ["id", "text", "label", "stars"]
    assert read.select_columns(names).to_list() == given.select_columns(names).to_list()
    if format != "hdf5":  # there the mask says which are null
        assert read["group"][:] == given["group"][:]


def test_tfrecord_has_the_published_checksums(tmp_path: Path) -> None:
    """CRC-32C (RFC 3720, B.4: 123456789 gives E3069283), masked as TensorFlow's record_writer.cc says."""
    from tfrecord import TFRecordWriter

    crc = 0xE3069283
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert TFRecordWriter.masked_crc(b"123456789") == struct.pack("<I", masked)
    [path] = export({"train": rows(["one", "two"])}, tmp_path / "out", format="tfrecord")
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match="checksum"):
        list(read_back(path, "tfrecord"))


@pytest.mark.parametrize(
    ("format", "text", "label", "what"),
    [
        ("hdf5", "a\0b", "pos", "NUL"),
        ("csv", "a", ["x|y", "z"], "'x|y' cannot be joined"),
        ("hdf5", "a", ["x|y", "z"], "'x|y' cannot be joined"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    format: ExportFormat, text: str, label: Any, what: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"row t\.csv:0") as caught:
        export({"train": rows([text], label=label)}, tmp_path / "out", format=format)
    assert what in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["height/cm", "null_mask"])
def test_a_column_name_that_hdf5_takes_for_a_path_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=name):
        export({"train": rows(["a"], **{name: [0.5]})}, tmp_path / "out", format="hdf5")


def test_an_infinite_number_has_no_json(tmp_path: Path) -> None:
    given = rows(["a"], stars=[math.inf])
    with pytest.raises(DataError, match="infinite"):
        export({"train": given}, tmp_path / "out", format="jsonl")
    [path] = export({"train": given}, tmp_path / "out", format="parquet")
    assert next(read_back(path, "parquet"))["stars"] == math.inf


def test_a_difference_is_our_fault_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loses_one(path: Path) -> Iterator[dict[str, Any]]:
        return itertools.islice(export_formats._read_json_lines(path), 1, None)

    broken = Export(export_formats._write_json_lines, loses_one, dict)
    monkeypatch.setitem(EXPORTS, "jsonl", broken)
    with pytest.raises(RuntimeError, match="2 rows were written and 1 read back"):
        export({"train": rows(["a", "b"])}, tmp_path / "out", format="jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_is_the_environment(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setitem(EXPORTS, "csv", Export(full, export_formats._read_csv, dict))
    with pytest.raises(EnvironmentFault, match=r"disk full|permission denied") as caught:
        export({"train": rows(["a"])}, tmp_path / "out", format="csv")
    assert "--output" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import hashlib, resource, sys
from typing import get_args
from datasets import Dataset
from finetune.data.exports import ExportFormat, export
from finetune.errors import EnvironmentFault
texts = ["".join(hashlib.sha512(b"%d %d" % (row, part)).hexdigest() for part in range(16)) for row in range(400)]
rows = Dataset.from_dict({"id": list(map(str, range(400))), "text": texts})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for format in get_args(ExportFormat):
    try:
        export({"train": rows}, sys.argv[1], format=format)
    except EnvironmentFault as fault:
        print(format, "disk full" in str(fault))
"""


def test_a_file_that_cannot_grow_is_a_full_disk(tmp_path: Path) -> None:
    """In a process of its own: the limit stays, and HDF5 could end it."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [f"{format} True" for format in FORMATS], done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["hdf5", "tfrecord"])
def test_a_missing_package_is_named(format: ExportFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    absent = {"h5py", "tfrecord"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else found(name, *rest))
    with pytest.raises(EnvironmentFault) as caught:
        check_export(tmp_path / "out", format=format)
    assert f"pip install 'finetune[{format}]'" in str(caught.value)


def test_an_existing_folder_is_refused_or_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    export({"train": rows(["a"]), "test": rows(["b"])}, folder, format="csv", beside={"README.md": "card"})
    with pytest.raises(RecipeError, match="is not empty"):
        export({"train": rows(["c"])}, folder, format="jsonl")
    assert (folder / "README.md").read_text(encoding="utf-8") == "card"
    export({"train": rows(["c"])}, folder, format="jsonl", force=True)
    assert [path.name for path in folder.iterdir()] == ["train.jsonl"]
    (folder / "thesis.docx").write_text("years of work", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"thesis\.docx"):
        export({"train": rows(["d"])}, folder, format="jsonl", force=True)
    assert json.loads((folder / "train.jsonl").read_text(encoding="utf-8"))["text"] == "c"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(RecipeError, match="is a file"):
        check_export(tmp_path / "out" / "deeper", format="csv")


def test_what_a_killed_export_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / ".out.unfinished"
    left.mkdir()
    (left / "train.csv").write_text("half a", encoding="utf-8")
    export({"train": rows(["a"])}, tmp_path / "out", format="csv")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_long_rows_go_through_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "BYTES_PER_BATCH", 10_000)
    given = rows(["x" * 1_000] * 100)
    sizes = [len(batch) for batch in exports._batches(given, exports._schema(given))]
    assert sum(sizes) == 100
    assert max(sizes) <= 10


def test_reading_parquet_back_does_not_hold_the_file(tmp_path: Path) -> None:
    path, random = tmp_path / "a.parquet", Random(0)
    schema = pa.schema([("text", pa.string())])
    groups = ([{"text": random.randbytes(1_500).hex()} for _ in range(100)] for _ in range(100))
    EXPORTS["parquet"].write(path, schema, groups)
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in EXPORTS["parquet"].read(path))
    assert most < path.stat().st_size / 4


def test_column_kinds_are_the_datasets_librarys_words() -> None:
    given = rows(["a"], label=["x"], stars=[0.5], fold=[1])
    assert column_kinds(given) == {
        "id": "string", "text": "string", "label": "list", "group": "string", "stars": "float64", "fold": "int64",
    }  # fmt: skip
