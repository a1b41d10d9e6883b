"""What a user sees when `prepare`, `check` or `init` is asked for what cannot be: steps, sections, output, packages.

The catalogue's own cases are in test_bad_data.py (data) and test_bad_inputs.py (the rest); bad_inputs.py says how a
case is written and judged.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from bad_inputs import (
    CHECK,
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
    recipe,
    refused,
    rows,
    settle_in,
    table,
    write_files,
)

from finetune.cli import main

OWN = """def shout(text):
    return text.upper()

def count(text):
    return len(text)

def broken(text):
    if "7" in text:
        raise ValueError("no seven")
    return text

words = []
"""


def own(step: str, text: str | bytes = OWN) -> Files:
    return {**cleaned(step), "mine.py": text}


CLEANING = [
    refused(
        "unknown step",
        cleaned("lowercas"),
        "recipe.yaml:12: cleaning: no cleaning step is called 'lowercas'. Did you mean 'lowercase'?",
    ),
    refused(
        "unknown step, no idea",
        cleaned("polish"),
        "no cleaning step is called 'polish'. Known: fix_unicode,",
        "or your own function as module:function",
    ),
    refused(
        "value missing",
        cleaned("drop_short"),
        "recipe.yaml:12: cleaning: drop_short needs a number of characters, for example drop_short: 20",
    ),
    refused("value zero", cleaned("drop_long: 0"), "drop_long needs a number of characters", "found 0"),
    refused("value too many", cleaned("lowercase: 3"), "recipe.yaml:12: cleaning: lowercase takes no value, found 3"),
    refused("value not text", cleaned("fill_missing: 3"), "fill_missing needs the text to put in"),
    refused(
        "policy", cleaned("drop_conflicts: first"), "drop_conflicts is one of majority, drop, refuse, found 'first'"
    ),
    refused("language", cleaned("keep_language: english"), "keep_language needs two-letter codes", "found 'english'"),
    refused(
        "language unknown",
        cleaned("keep_language: xx"),
        "cleaning.keep_language: no language has the code 'xx'. Known: af,",
    ),
    refused(
        "language of nobody",
        {**cleaned("keep_language: ko"), "reviews.csv": table().replace("fine", "fine and rather long")},
        "cleaning: no row of all is left after keep_language: ko. Found: 40 rows before",
    ),
    refused("step twice", cleaned("lowercase, lowercase"), "recipe.yaml:12: cleaning: 'lowercase' is listed twice"),
    accepted("own function", own("mine:shout"), keeps=(("THE FILM OF DAY 0 IS FINE", "pos"),)),
    refused(
        "own file missing",
        own("yours:shout"),
        "cleaning: no file yours.py for 'yours:shout'",
        "The file stands beside the recipe",
    ),
    refused(
        "own function missing",
        own("mine:shoot"),
        "cleaning: 'shoot' does not exist in mine.py. Found: shout, count, broken. Did you mean 'shout'?",
    ),
    refused("own list", own("mine:words"), "cleaning: 'words' is not a function in mine.py"),
    refused(
        "own number", own("mine:count"), "reviews.csv:2: cleaning.mine:count: returned int where a text was expected"
    ),
    refused("own raises", own("mine:broken"), "reviews.csv:9: cleaning.mine:broken: raised ValueError: no seven"),
    refused(
        "own syntax",
        own("mine:shout", "def shout(text:\n"),
        "cleaning: mine.py cannot be run for 'mine:shout': SyntaxError",
    ),
    refused(
        "own exit",
        own("mine:shout", "import sys\nsys.exit(0)\n"),
        "cleaning: mine.py cannot be run for 'mine:shout': SystemExit",
    ),
    refused("own binary", own("mine:shout", b"\0\xff"), "cleaning: mine.py cannot be run for 'mine:shout'"),
    refused(
        "standard library",
        own("os:system"),
        "cleaning: no file os.py for 'os:system'",
        "installed packages are not searched",
    ),
    refused("installed package", own("shutil:rmtree"), "cleaning: no file shutil.py for 'shutil:rmtree'"),
    refused(
        "outside the folder",
        own("'..mine:shout'"),
        "recipe.yaml:12: cleaning: no cleaning step is called '..mine:shout'",
    ),
]


def numbers(*cells: str, kind: str = "standardize", column: str = "stars") -> Files:
    """Rows with a third column, which begins with these cells, and a recipe that scales it: in line 6."""
    values = [*cells, *map(str, range(ROWS - len(cells)))]
    lines = (f"{row},{value}\n" for row, value in zip(rows(), values, strict=True))
    return {
        "recipe.yaml": recipe(data=f"  numeric: {{{column}: {kind}}}\n"),
        "reviews.csv": "text,label,stars\n" + "".join(lines),
    }


def synonyms(lexicon: str | bytes | None) -> Files:
    files: Files = {"recipe.yaml": recipe(extra="augmentation: {synonym: 0.3, lexicon: words.csv}\n")}
    return files if lexicon is None else {**files, "words.csv": lexicon}


ONLY_PREPARE: dict[str, Any] = {"argv": PREPARE}
SECTIONS = [
    refused("number is a word", numbers("1", "two"), "reviews.csv:3: 'stars' is 'two', not a number", **ONLY_PREPARE),
    refused("number is infinite", numbers("1e999"), "reviews.csv:2: 'stars' is '1e999', not a number", **ONLY_PREPARE),
    refused(
        "no number at all", numbers(*[""] * ROWS), "data.numeric.stars: no row of train has a number", **ONLY_PREPARE
    ),
    refused(
        "no such number",
        numbers(column="star"),
        "data.numeric: no column 'star' in reviews.csv",
        "Did you mean 'stars'?",
        **ONLY_PREPARE,
    ),
    refused(
        "no such scaling",
        numbers(kind="zscore"),
        "recipe.yaml:6: data.numeric.stars: 'zscore' is not known. Choose one of: standardize, min_max",
    ),
    refused(
        "train on numbers",
        numbers(),
        "recipe.yaml:6: data.numeric: the models here read text",
        "use finetune prepare",
        argv=TRAIN,
    ),
    refused("check numbers", numbers(), "recipe.yaml:6: data.numeric: the models here read text", argv=CHECK),
    refused(
        "no such policy",
        {"recipe.yaml": recipe(data="  leaks: ignore\n")},
        "recipe.yaml:6: data.leaks: 'ignore' is not known. Choose one of: refuse, move, warn",
    ),
    refused(
        "similarity",
        {"recipe.yaml": recipe(data="  near_duplicates: 0.2\n")},
        "recipe.yaml:6: data.near_duplicates: must be",
    ),
    refused(
        "lexicon line",
        synonyms("good,fine\nbad\ntwo words,x\n"),
        "words.csv:2: one word, no synonym. Found: bad",
        "words.csv:3: 'two words' is not one word",
    ),
    refused("lexicon missing", synonyms(None), "augmentation.lexicon: no such file or folder: words.csv"),
    refused("lexicon bytes", synonyms(b"caf\xe9 ole,x\n"), "words.csv:1: byte 0xE9 at column 4 is not UTF-8"),
    refused(
        "lexicon not named",
        {"recipe.yaml": recipe(extra="augmentation: {synonym: 0.3}\n")},
        "recipe.yaml:12: augmentation.synonym: insert and synonym need a lexicon",
    ),
    refused(
        "augmentation of nothing",
        {"recipe.yaml": recipe(extra="augmentation: {copies: 2}\n")},
        "recipe.yaml:12: augmentation: nothing would change",
    ),
]

INIT = ("init", "t.csv")  # nobody is asked: stdin is no terminal
ONE_COLUMN = "text\n" + "".join(f"the film of day {i} was fine and long\n" for i in range(40))
WITH_ID = "text,key\n" + "".join(f"the film of day {i} was fine,k{i}\n" for i in range(40))
OUTPUT = [
    refused(
        "output full",
        {"out/mine.txt": "mine"},
        "/out: is not empty. Found: mine.txt. Name another folder, or add --force",
        argv=PREPARE,
    ),
    refused(
        "output not ours",
        {"out/mine.txt": "mine"},
        "/out: holds what no export wrote: mine.txt",
        argv=(*PREPARE, "--force"),
    ),
    refused("output a file", {"out": "mine"}, "/out: is a file. Name a folder with --output", argv=PREPARE),
    refused(
        "output below a file",
        {"out": "mine"},
        "/out: is a file",
        argv=("prepare", "recipe.yaml", "--output", "out/deeper"),
    ),
    refused("one fold", {}, "--folds: at least 2 are needed. Found: 1", argv=(*PREPARE, "--folds", "1")),
    refused("too many folds", {}, "folds: too few to split into 99 folds", argv=(*PREPARE, "--folds", "99")),
    refused(
        "init without a label",
        {"t.csv": ONE_COLUMN},
        "t.csv: no column looks like a label",
        "Found: no other column",
        "Name it with --label COLUMN",
        argv=(*INIT, "--task", "text-classification"),
    ),
    refused(
        "init with an id",
        {"t.csv": WITH_ID},
        "no column looks like a label",
        "Found: key (text, 40 different values)",
        argv=INIT,
    ),
    refused(
        "init with a wrong name",
        {"t.csv": table()},
        "t.csv: no column 'lable'. Columns found: text, label. Did you mean 'label'?",
        argv=(*INIT, "--label", "lable"),
    ),
    refused(
        "init of a broken table",
        {"t.csv": table("short")},
        "t.csv:2: 1 field, header has 2: column 'label' is empty",
        argv=INIT,
    ),
    refused(
        "init over a recipe",
        {"t.csv": table(), "t.yaml": "mine"},
        "t.yaml: exists already. Add --force to replace it",
        argv=INIT,
    ),
    refused(
        "init of nothing",
        {"table.csv": table()},
        "tabel.csv: no such file. Did you mean 'table.csv'?",
        argv=("init", "tabel.csv"),
    ),
]


CASES = [*CLEANING, *SECTIONS, *OUTPUT]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_in(tmp_path, monkeypatch)


@pytest.mark.parametrize("case", [case for case in CASES if case.code], ids=lambda case: case.id)
def test_refused(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_files(case, tmp_path, ready=tmp_path)
    for argv in [case.argv] if case.argv else [TRAIN, PREPARE]:
        check_refused(case, tmp_path, capfd, argv=argv)


@pytest.mark.parametrize("case", [case for case in CASES if not case.code], ids=lambda case: case.id)
def test_accepted(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_files(case, tmp_path, ready=tmp_path)
    check_accepted(case, tmp_path, capfd)
    check_prepared(case, capfd)


@pytest.mark.parametrize(("format", "package"), [("hdf5", "h5py"), ("tfrecord", "tfrecord")])
def test_a_format_whose_package_is_missing(
    format: str, package: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("recipe.yaml").write_text(recipe())
    Path("reviews.csv").write_text(table())
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more)
    )
    assert main([*PREPARE[:-1], format]) == 5
    told = f"error: --format {format}: needs the package {package}, which is not installed. Install it: pip install"
    assert told in capfd.readouterr().err
    assert not Path("out").exists()


def test_reading_a_format_whose_package_is_missing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("recipe.yaml").write_text(recipe(source="r.h5"))
    Path("r.h5").write_bytes(b"\x89HDF\r\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert main(PREPARE) == 5
    assert "error: r.h5: reading HDF5 needs the package h5py. pip install" in capfd.readouterr().err
