"""The card: valid front matter whatever the labels say, tables that stay tables, and a folder that loads by itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest
from datasets import Dataset
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from finetune.data.export_formats import ExportFormat
from finetune.data.exports import column_kinds, export
from finetune.data_card import card, escaped

HOSTILE = ["<script>alert(1)</script>", "a|b", "x\n---\ny: [", '=HYPERLINK("http://example.org")', "![i](http://e.org)"]
KINDS = {"id": "string", "text": "string", "label": "string", "group": "string", "stars": "float64"}
SIZES = {"train": 70, "validation": 15, "test": 15}
REPORT: dict[str, Any] = {
    "files": [{"name": "re|views.csv", "sha256": "ab" * 32, "bytes": 12_345, "rows": 104, "encoding": "gb18030"}],
    "notes": ["re|views.csv: read as GB18030"],
    "cleaning": [
        {"name": "drop_empty", "changed": 0, "dropped": 4, "rows_before": 104, "rows_after": 100, "notes": ["4 <b>"]},
    ],
    "labels": HOSTILE,
    "label_counts": {split: dict.fromkeys(HOSTILE, rows // 5) for split, rows in SIZES.items()},
    "splits": {"shares": {"train": 0.7, "validation": 0.15, "test": 0.15}, "notes": ["sizes are as asked"]},
    "groups": {"train": 12, "validation": 3, "test": 4},
    "duplicate_families": {"exact_families": 2, "rows_in_exact_families": 5},
    "leaks": {"policy": "warn", "brought": None, "left": [
        {"earlier": "train", "later": "test", "rows": 15, "exact": 3, "near": 1, "in_groups": 0, "leaking": 4,
         "near_pairs": [{"origin": "r.csv:3", "twin": "r.csv:9", "similarity": 0.931, "text": "a", "twin_text": "b"}]},
    ]},
    "augmentation": {"copies": 70, "words_changed": {"swap": 12}, "examples": [{"before": "secret"}],
                     "notes": [], "warnings": ["a warning of the copies"]},
    "characters": {split: {"median": 31} for split in SIZES},
    "lengths": {split: {"median": 29.0, "longest": 1_210} for split in SIZES},
    "numeric": {"stars": {"scaling": "standardize", "mean": 1.5}},
    "warnings": ["labels 'a' and 'A' differ only in the way they are written"],
}  # fmt: skip


def body(text: str) -> str:
    return text.split("\n---\n", 1)[1]


def rendered(text: str) -> str:
    return str(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body(text)))


def made(report: dict[str, Any] = REPORT, *, format: ExportFormat = "parquet", title: str = "reviews") -> str:
    return card(report, sizes=SIZES, columns=KINDS, format=format, title=title)


def test_the_card_says_what_was_done() -> None:
    text = made()
    for told in (
        "100 rows: 70 in train, 15 in validation, 15 in test", "ab" * 32, "gb18030", "12,345",
        r"| drop\_empty | 0 | 4 | 100 |", "- exact families: 2", "- words changed, swap: 12",
        "| train | 70 | 70.0% | 12 |", "| train, test | 15 | 3 | 1 | 0 | 4 |",
        "- r.csv:3 and r.csv:9: 0.93 similar", "| median | 31 | 31 | 31 |",
        "| longest | 1,210 | 1,210 | 1,210 |",
        "| stars | standardize | 1.5 |", "differ only", "datasets.load_dataset", "pandas.read_parquet",
    ):  # fmt: skip
        assert told in text
    assert "secret" not in text
    assert "a warning of the copies" not in text  # it is among all warnings


def test_hostile_labels_are_shown_as_they_are_and_break_nothing() -> None:
    page = rendered(made())
    assert "<script" not in page
    assert "<img" not in page
    assert "<a " not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<td>a|b</td>" in page
    assert r"<td>x\n---\ny: [</td>" in page
    # Five labels, one row each, in three splits.
    table = page[page.index("<th>label</th>") :].split("</table>")[0]
    assert table.count("<tr>") == len(HOSTILE)
    assert table.count("<td>") == 4 * len(HOSTILE)


@pytest.mark.parametrize("format", get_args(ExportFormat))
@pytest.mark.parametrize("title", ["reviews", "a: b\n---\n# [x", "- 'q' \"q\"", "酒店", "null"])
def test_front_matter_is_valid_for_the_hub(format: ExportFormat, title: str) -> None:
    data = DatasetCard(made(format=format, title=title), ignore_metadata_errors=False).data.to_dict()
    assert data["pretty_name"] == title
    assert data["size_categories"] == ["n<1K"]
    if format not in ("hdf5", "tfrecord"):
        files = {item["split"]: item["path"] for item in data["configs"][0]["data_files"]}
        assert files == {split: f"{split}.{format}" for split in SIZES}


def test_parts_that_the_report_lacks_are_left_out() -> None:
    text = made({})
    headings = re.findall("^## (.+)$", text, flags=re.MULTILINE)
    assert headings == ["Splits", "How to read it"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_any_label_is_one_cell_that_shows_the_label(label: str) -> None:
    page = rendered(made({"labels": [label], "label_counts": {"train": {label: 7}}}))
    table = page[page.index("<th>label</th>") :].split("</table>")[0]
    [(cell, first)] = re.findall(r"<tr>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", table, flags=re.DOTALL)
    assert first == "7"
    assert not re.search("<(?!/?(td|tr|tbody))", cell)
    if label.isprintable() and label.strip() == label and "\\" not in label:
        expected = label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
        assert cell == expected


def test_a_long_text_is_shortened() -> None:
    assert len(escaped("x" * 500)) == 120


@pytest.mark.parametrize("format", ["parquet", "json", "jsonl", "arrow"])
def test_the_folder_loads_by_its_name(format: ExportFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["id", "text", "label", "group", "stars"]
    rows = Dataset.from_list([dict(zip(names, ("0456", "NA", "1", None, 0.5), strict=True))] * 3)
    rows = rows.cast_column("group", datasets.Value("string"))
    text = card({}, sizes={"train": 3}, columns=column_kinds(rows), format=format, title="x")
    export({"train": rows}, tmp_path / "out", format=format, beside={"README.md": text, "data.json": "{}"})
    read = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: part.to_list() for split, part in read.items()} == {"train": rows.to_list()}


@pytest.mark.parametrize("format", [each for each in get_args(ExportFormat) if each != "tfrecord"])
def test_the_lines_of_the_card_read_the_files(
    format: ExportFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both lines are run as they stand, in the folder."""
    import h5py
    import pandas
    import pyarrow

    rows = Dataset.from_list([{"id": "0456", "text": 'NA, "q"\n', "label": "1", "group": "g"}] * 3)
    text = card({}, sizes={"train": 3}, columns=column_kinds(rows), format=format, title="x")
    export({"train": rows}, tmp_path / "out", format=format, beside={"README.md": text})
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    known = {"pandas": pandas, "pyarrow": pyarrow, "h5py": h5py, "datasets": datasets}
    lines = [each for each in text.splitlines() if each.startswith(tuple(f"{name}." for name in known))]
    one, other = (eval(line, known) for line in lines)
    read = one["train"].select_columns(rows.column_names)
    assert read.to_list() == rows.to_list()
    assert other.to_dict("records") == rows.to_list()


def test_the_tfrecord_line_reads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tfrecord

    rows = Dataset.from_list([{"id": "a", "text": "b", "label": "1"}] * 2)
    text = card({}, sizes={"train": 2}, columns=column_kinds(rows), format="tfrecord", title="x")
    export({"train": rows}, tmp_path / "out", format="tfrecord")
    monkeypatch.chdir(tmp_path / "out")
    [line] = [each for each in text.splitlines() if "tfrecord_loader" in each]
    records = eval(line, {"tfrecord": tfrecord})
    assert [bytes(record["text"]) for record in records] == [b"b", b"b"]
