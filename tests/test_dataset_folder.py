"""`finetune prepare`: its screen, its json, its files in every format, and what it leaves behind when it is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from finetune.cli import main
from finetune.data.export_formats import EXPORTS, Export
from finetune.data.exports import read_back
from finetune.recipe_data import ExportFormat

FORMATS = get_args(ExportFormat)
RECIPE = """
task: text-classification
data: {source: rows.csv, columns: {group: who}}
cleaning: [normalize_whitespace, drop_duplicates]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [
        f"row {row} is  {'fine' if row % 3 else 'cold'},{'good' if row % 3 else 'bad'},p{row // 2}" for row in range(60)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,who", *rows, rows[0]]), encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exit_code(*words: str) -> Any:
    try:
        return main(["prepare", *words])
    except SystemExit as end:
        return end.code


def test_the_screen_says_what_was_done_and_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "r.yaml", "--show", "2"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "train: 42 rows (bad 14, good 28); characters: median 14, 95th percentile 14, longest 14"
    assert "normalize_whitespace: 61 rows changed, 0 dropped" in lines
    start = lines.index("normalize_whitespace: 61 rows changed, 0 dropped")
    assert lines[start + 1 : start + 4] == ["  rows.csv:2", "    before: row 0 is  cold", "    after:  row 0 is cold"]
    assert lines[start + 4] == "  rows.csv:3" and not lines[start + 7].startswith("  ")
    assert "drop_duplicates: 0 rows changed, 1 dropped" in lines
    assert "    after:  dropped: repeats rows.csv:2" in lines
    assert "rows that a later split shares with an earlier one: 0" in lines
    assert "warning: all: 1 row repeats an earlier row and was removed" in lines
    assert sorted(path.name for path in folder.iterdir()) == ["r.yaml", "rows.csv"]
    assert main(["prepare", "r.yaml", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert "before:" not in shown.out and shown.err == ""


def test_json_is_data_json_and_the_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "r.yaml", "--output", "out", "--json", "--folds", "3"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert [Path(name).name for name in told["files"]] == ["train.parquet", "validation.parquet", "test.parquet"]
    assert all(Path(name).is_file() for name in told["files"])
    assert told["data"] == json.loads((folder / "out" / "data.json").read_text(encoding="utf-8"))
    assert sum(told["data"]["folds"]["sizes"].values()) == 60
    assert "a data card are in" in shown.err
    assert main(["prepare", "r.yaml", "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["files"] == [] and shown.err == ""


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_holds_all_rows_with_family_and_fold(
    format: ExportFormat, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "r.yaml", "--output", "out", "--format", format, "--folds", "4", "--quiet"]) == 0
    screen = capsys.readouterr().out.splitlines()
    assert any(line.startswith("rows in each fold: fold 0 ") for line in screen)
    out = folder / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["README.md", "data.json", "recipe.yaml", *(f"{split}.{format}" for split in ("train", "validation", "test"))]
    )
    rows = [row for split in ("train", "validation", "test") for row in read_back(out / f"{split}.{format}", format)]

    def plain(row: dict[str, Any], name: str) -> str:
        return str(row[name][0] if isinstance(row[name], list) else row[name])

    assert len(rows) == len({plain(row, "id") for row in rows}) == 60
    assert {plain(row, "fold") for row in rows} == set("0123")
    assert {plain(row, "text") for row in rows} == {
        f"row {row} is {'fine' if row % 3 else 'cold'}" for row in range(60)
    }
    folds: dict[str, set[str]] = {}
    for row in rows:
        folds.setdefault(plain(row, "group"), set()).add(plain(row, "fold"))
    assert len(folds) == 30 and all(len(found) == 1 for found in folds.values())


@pytest.mark.parametrize("format", ["parquet", "csv", "json", "jsonl", "arrow", "hdf5"])
def test_the_written_recipe_and_the_written_splits_prepare_again(format: str, folder: Path) -> None:
    assert main(["prepare", "r.yaml", "--output", "deep/out", "--format", format, "--quiet"]) == 0
    assert main(["prepare", "deep/out/recipe.yaml", "--output", "again", "--format", format, "--quiet"]) == 0
    first, second = (json.loads((folder / name / "data.json").read_text("utf-8")) for name in ("deep/out", "again"))
    assert first == second
    source = {split: f"deep/out/{split}.{format}" for split in ("train", "validation", "test")}
    columns = {"group": "group", "id": "id"}
    recipe = {"task": "text-classification", "data": {"source": source, "columns": columns}}
    (folder / "brought.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert main(["prepare", "brought.yaml", "--output", "brought", "--quiet"]) == 0
    third = json.loads((folder / "brought" / "data.json").read_text("utf-8"))
    assert third["splits"]["sizes"] == first["splits"]["sizes"] and third["label_counts"] == first["label_counts"]
    assert [each["leaking"] for each in third["leaks"]["brought"]] == [0, 0, 0]


def test_a_folder_behind_a_link_gets_a_recipe_that_works(folder: Path) -> None:
    (folder / "far" / "away").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "far" / "away")
    assert main(["prepare", "r.yaml", "--output", "link/out", "--quiet"]) == 0
    assert main(["prepare", "far/away/out/recipe.yaml", "--quiet"]) == 0


def test_own_functions_travel_with_the_recipe_and_are_replaced_with_force(folder: Path) -> None:
    (folder / "steps").mkdir()
    own = folder / "steps" / "mine.py"
    own.write_text("def shout(text): return text.upper()", encoding="utf-8")
    words = ["cleaning=[steps.mine:shout]", "--quiet"]
    assert main(["prepare", "r.yaml", "--output", "out", *words]) == 0
    own.unlink()
    copy = folder / "out" / "functions" / "steps" / "mine.py"
    assert copy.read_text(encoding="utf-8") == "def shout(text): return text.upper()"
    assert main(["prepare", "out/recipe.yaml", "--output", "again", "--quiet"]) == 0
    # In place: what is read and what is replaced are the same folder.
    assert main(["prepare", "out/recipe.yaml", "--output", "out", "--format", "jsonl", "--force", "--quiet"]) == 0
    assert "ROW 0 IS" in "".join(path.read_text("utf-8") for path in (folder / "out").glob("*.jsonl"))
    assert copy.is_file() and not list((folder / "out").glob("*.parquet"))
    (copy.parent / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(["prepare", "r.yaml", "--output", "out", "--force", "--quiet"]) == 2
    assert (copy.parent / "notes.txt").is_file(), "only what an export writes is replaced"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--format", "csv"], 2, "--format and --force say how files are written. Add --output DIR."),
        (["--force"], 2, "Add --output DIR."),
        (["--output", "rows.csv"], 2, "rows.csv: is a file"),
        (["--output", "."], 2, "is not empty. Found: r.yaml, rows.csv"),
        (["--output", ".", "--force"], 2, "holds what no export wrote: r.yaml, rows.csv"),
        (["--output", "out", "--format", "xlsx"], 2, "invalid choice: 'xlsx'"),
        (["--folds", "1"], 2, "--folds: at least 2 are needed. Found: 1"),
        (["--folds", "50"], 2, "folds: too few to split into 50 folds"),
        (["--folds", "3", "augmentation.delete=0.2"], 2, "augmentation learns from the training split"),
        (["--folds", "3", "data.numeric={stars: min_max}"], 2, "data.numeric learns from the training split"),
        (["--show", "-1"], 2, "argument --show: must be a whole number from 0"),
        (["data.source=nowhere.csv"], 2, "nowhere.csv: no such file"),
        (["data.split.stratify=false", "data.columns.group=label"], 2, "too few to split"),
        (["--fold", "3"], 2, "unknown argument --fold. Did you mean '--folds'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(
    words: list[str], code: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("r.yaml", *words, "--quiet") == code
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.startswith("error: ") and shown.out == ""
    assert sorted(path.name for path in folder.iterdir()) == ["r.yaml", "rows.csv"]


def test_leaks_into_a_brought_test_part_end_with_1_and_can_be_moved(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, first in (("tr.csv", 0), ("te.csv", 38)):
        rows = [f"sentence {row} of {first},{'ab'[row % 2]},p{row}" for row in range(first, first + 40)]
        (folder / name).write_text("\n".join(["text,label,who", *rows]), encoding="utf-8")
    words = ["data.source={train: tr.csv, test: te.csv}", "--output", "out"]
    assert exit_code("r.yaml", *words, "--quiet") == 1
    shown = capsys.readouterr()
    assert "data.source.test: 2 of 40 rows (5.0 %) are in a group that train has too: p38, p39" in shown.err
    assert not (folder / "out").exists() and shown.out == ""
    assert exit_code("r.yaml", *words, "data.leaks=move") == 0
    shown = capsys.readouterr()
    assert "2 of 40 rows (5.0 %) were moved to train" in shown.out
    assert "rows that a later split shares with an earlier one: 0" in shown.out
    card = (folder / "out" / "README.md").read_text("utf-8")
    assert "As the splits were brought:" in card


@pytest.mark.parametrize("before", [False, True], ids=["new folder", "replacing"])
def test_ctrl_c_leaves_nothing_half_written(
    before: bool, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if before:
        assert exit_code("r.yaml", "--output", "out", "--format", "jsonl", "--quiet") == 0
    there = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    kind, written = EXPORTS["jsonl"], []

    def stopped(path: Path, *rest: Any) -> None:
        kind.write(path, *rest)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setitem(EXPORTS, "jsonl", Export(stopped, kind.read, kind.holds))
    capsys.readouterr()
    assert exit_code("r.yaml", "--output", "out", "--format", "jsonl", "--force", "--quiet") == 130
    shown = capsys.readouterr()
    assert shown.err == "error: interrupted\n" and shown.out == ""
    assert len(written) == 2
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == there


def test_scaled_numbers_and_copies_are_on_the_screen_and_in_the_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"row {row} is fine and more,{'ab'[row % 2]},{row}" for row in range(60)]
    (folder / "stars.csv").write_text("\n".join(["text,label,stars", *rows]), encoding="utf-8")
    recipe = {
        "task": "text-classification",
        "data": {"source": "stars.csv", "numeric": {"stars": "min_max"}},
        "augmentation": {"delete": 0.3},
    }
    (folder / "n.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert exit_code("n.yaml", "--output", "out", "--format", "jsonl", "--quiet") == 0
    screen = capsys.readouterr().out
    train = [json.loads(line) for line in (folder / "out" / "train.jsonl").read_text("utf-8").splitlines()]
    copies = [row for row in train if "#copy" in row["id"]]
    assert f"train: {len(train)} rows (a {len(train) // 2}, b {len(train) // 2})" in screen
    assert f"augmentation: {len(copies)} changed copies of 42 rows, all in train" in screen
    assert "stars: min_max by train (mean " in screen
    assert (min(row["stars"] for row in train), max(row["stars"] for row in train)) == (0.0, 1.0)
    for name in ("validation", "test"):
        text = (folder / "out" / f"{name}.jsonl").read_text("utf-8")
        assert len(text.splitlines()) == 9 and "#copy" not in text
    told = json.loads((folder / "out" / "data.json").read_text("utf-8"))
    assert told["numeric"]["stars"]["n"] == 42 and told["augmentation"]["copies"] == len(copies)
    assert (folder / "out" / "README.md").read_text("utf-8").count("stars") >= 1
