"""`finetune init`: a data file of any kind becomes a recipe that passes `finetune check`, without a terminal too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_models import tiny_bert_folder

from finetune.cli import main
from finetune.recipe_file import load_recipe

WORDS = {"good": ["fine", "lovely", "clean", "warm"], "bad": ["dirty", "cold", "rude", "broken"]}


def rows() -> list[dict[str, str]]:
    found = []
    for row in range(80):
        label = ("good", "bad")[row % 2]
        # Reviews that share most of their words would be one family of near duplicates, and could not be divided.
        said = " ".join(f"{WORDS[label][(row // 2 + place) % 4]} thing{row}of{place}" for place in range(4))
        found.append({"review": f"the {said}", "mood": label, "author": f"guest {row // 4}"})
    return found


def write(path: Path) -> Path:
    columns = {name: [row[name] for row in rows()] for name in ("review", "mood", "author")}
    if path.suffix == ".csv":
        lines = [",".join(row.values()) for row in rows()]
        path.write_text("\n".join([",".join(columns), *lines]), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows())), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        cells = ["".join(f"<{name}>{escape(cell)}</{name}>" for name, cell in row.items()) for row in rows()]
        path.write_text(f"<all>{''.join(f'<row>{cell}</row>' for cell in cells)}</all>", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("model") / "bert", texts=[row["review"] for row in rows()])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".xml"])
@pytest.mark.parametrize("flagged", [False, True], ids=["guessed", "flags"])
def test_the_recipe_of_any_kind_of_file_passes_check(
    suffix: str, flagged: bool, bert: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(here / f"reviews{suffix}")
    flags = ["--text", "review", "--label", "mood", "--group", "author", "--task", "text-classification"]
    assert main(["init", data.name, *(flags if flagged else [])]) == 0
    shown = capsys.readouterr()
    assert shown.out == "reviews.yaml: look through it, then run: finetune train reviews.yaml\n"
    assert "text is review, label is mood, group is author" in shown.err
    columns = load_recipe(here / "reviews.yaml").recipe.data.columns
    assert (columns.text, columns.label, columns.group) == ("review", "mood", "author")
    assert main(["check", "reviews.yaml", f"model.name={bert}", "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(told["data"]["splits"]["sizes"].values()) == 80 and told["data"]["labels"] == ["bad", "good"]


def test_a_dash_is_no_group_and_output_names_the_recipe(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "reviews.csv")
    assert main(["init", "reviews.csv", "--group", "-", "--output", "new folder/mine.yaml", "--yes", "--quiet"]) == 0
    assert capsys.readouterr().out == "new folder/mine.yaml\n"
    made = load_recipe(here / "new folder" / "mine.yaml").recipe
    assert made.data.columns.group is None and made.data.source == "../reviews.csv"
    assert main(["prepare", "new folder/mine.yaml", "--quiet"]) == 0


def test_json_says_what_was_chosen(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "reviews.csv")
    assert main(["init", "reviews.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "recipe": "reviews.yaml", "task": "text-classification", "text": "review", "label": "mood", "group": "author",
        "id": None,
    }  # fmt: skip


def test_a_recipe_that_exists_is_kept_or_replaced_with_force(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "reviews.csv")
    (here / "reviews.yaml").write_text("years of work", encoding="utf-8")
    assert main(["init", "reviews.csv"]) == 2
    shown = capsys.readouterr()
    assert shown.err == (
        "error: reviews.yaml: exists already. Add --force to replace it, or name another with --output.\n"
    )
    assert shown.out == "" and (here / "reviews.yaml").read_text("utf-8") == "years of work"
    assert main(["init", "reviews.csv", "--force", "--quiet"]) == 0
    assert load_recipe(here / "reviews.yaml").recipe.data.source == "reviews.csv"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reviews.cvs"], "reviews.cvs: no such file. Did you mean 'reviews.csv'?"),
        (["reviews.csv", "--text", "reveiw"], "Did you mean 'review'?"),
        (["reviews.csv", "--label", "review", "--text", "review"], "'review' is already in use"),
        (["reviews.csv", "--task", "text-clasification"], "Did you mean 'text-classification'?"),
        (["reviews.csv", "--output", "."], ".: is a folder. Name a file with --output."),
        (["."], ".: is a folder"),
        ([], "the following arguments are required: FILE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "reviews.csv")
    code: Any
    try:
        code = main(["init", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.out == ""
    assert [path.name for path in here.iterdir()] == ["reviews.csv"]


def test_answers_at_a_terminal_are_taken(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    write(here / "reviews.csv")
    monkeypatch.setattr(sys, "stdin", Terminal("\n\n-\n"))
    assert main(["init", "reviews.csv"]) == 0
    shown = capsys.readouterr()
    assert "text column [review]: " in shown.err and "group column" in shown.err
    assert load_recipe(here / "reviews.yaml").recipe.data.columns.group is None
