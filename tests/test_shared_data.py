"""The figures of docs/data.md about public data sets, asked for again. FINETUNE_DATA names a folder that holds them.

The sets may not be redistributed, so these tests are skipped where they are not; the program blocks of the page, which
make the scratch copies and the own function, are run as they stand there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "data.md"
TEST_SETS = ("test2016", "test2017", "mscoco2017")
COUNTING = "cleaning=[strip_control, strip_urls, strip_html, drop_empty, drop_short: 4, drop_conflicts]"
OVER_512 = "cleaning=[drop_empty, drop_long: 512]"
OVER_2048 = "cleaning=[drop_empty, drop_long: 2048]"
EXACT_ONLY = "data.near_duplicates=null"

HOTELS = ("ChnSentiCorp_htl_all.csv", "--text", "review", "--label", "label")
CNEWS = ("cnews_1k.csv",)
AG_TEST = ("test_official_7600.csv", "--text", "description", "--label", "class")
AG_TRAIN = ("train_sub.csv", "--text", "description", "--label", "class")
AG_JOINED = ("ag_joined.jsonl",)
SHAKESPEARE = ("shakespeare.jsonl",)
TANG = ("tang_10k.jsonl", "--label", "author", "data.split.stratify=false")
SONGCI = ("songci.jsonl", "--label", "rhythmic", "data.split.stratify=false")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public files, and the scratch copies that the page makes of some, in one folder."""
    named = os.environ.get("FINETUNE_DATA")
    files = {path.name: path for path in sorted(Path(named).rglob("*"))} if named else {}
    if "ChnSentiCorp_htl_all.csv" not in files:
        pytest.skip("FINETUNE_DATA does not name a folder with ChnSentiCorp_htl_all.csv")
    folder = tmp_path_factory.mktemp("public")
    for name, path in files.items():
        if path.is_file():
            (folder / name).symlink_to(path)
    for block in re.findall(r"```python\n# (.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        name = block.split()[0].rstrip(":")  # the first line is `# copies.py PUBLIC SCRATCH: ...`
        (folder / name).write_text(f"# {block}", encoding="utf-8")
    subprocess.run([sys.executable, str(folder / "copies.py"), str(named), str(folder)], check=True)
    return folder


def prepared(data: Path, capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> dict[str, Any]:
    """The report that `finetune prepare` prints with --json."""
    capsys.readouterr()
    assert main(["prepare", str(data / name), *arguments, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)["data"]  # type: ignore[no-any-return]


def touched(report: dict[str, Any]) -> dict[str, int]:
    """Rows that each step changed or dropped, by the step's name without its value."""
    return {step["name"].partition(":")[0]: step["changed"] + step["dropped"] for step in report["cleaning"]}


def refused(data: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["prepare", str(data / arguments[0]), *arguments[1:], "--quiet"]) in (1, 2)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "rows", "dropped", "near", "members", "largest"),
    [
        (HOTELS, 7_766, (1, 0), 6, 12, 2),
        (CNEWS, 1_000, (0, 0), 3, 9, 5),
        (AG_TEST, 7_600, (0, 6), 47, 96, 4),
        (AG_TRAIN, 8_774, (0, 0), 73, 149, 3),
        (AG_JOINED, 7_600, (0, 0), 42, 85, 3),
        (TANG, 10_008, (0, 174), 543, 1_100, 4),
        (SONGCI, 21_050, (0, 28), 188, 389, 11),
        (SHAKESPEARE, 32_777, (0, 7_064), 45, 91, 3),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) and isinstance(value[0], str) else "",
)
def test_empty_texts_repeats_and_near_duplicates(
    data: Path,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    rows: int,
    dropped: tuple[int, int],
    near: int,
    members: int,
    largest: int,
) -> None:
    report = prepared(data, capsys, *command)
    counts, families = touched(report), report["duplicate_families"]
    assert report["files"][0]["rows"] == rows
    assert report["files"][0]["encoding"] == "utf-8"
    assert (counts["drop_empty"], counts["drop_duplicates"]) == dropped
    assert (families["near_families"], families["rows_in_families"], families["largest"]) == (near, members, largest)
    assert sum(overlap["leaking"] for overlap in report["leaks"]["left"]) == 0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (HOTELS, {"strip_control": 0, "strip_urls": 0, "strip_html": 3, "drop_empty": 1, "drop_short": 2}),
        (CNEWS, {"strip_control": 2, "strip_urls": 47, "strip_html": 1, "drop_empty": 0, "drop_short": 0}),
        (AG_JOINED, {"strip_control": 0, "strip_urls": 99, "strip_html": 302, "drop_empty": 0, "drop_short": 0}),
        (AG_TRAIN, {"strip_control": 0, "strip_urls": 4, "strip_html": 0, "drop_empty": 0, "drop_short": 0}),
        (TANG, {"strip_control": 0, "strip_urls": 0, "strip_html": 0, "drop_empty": 0, "drop_conflicts": 112}),
        (SONGCI, {"strip_control": 0, "strip_urls": 0, "strip_html": 0, "drop_empty": 0, "drop_conflicts": 9}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_the_steps_touch(
    data: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], expected: dict[str, int]
) -> None:
    counts = touched(prepared(data, capsys, *command, COUNTING, EXACT_ONLY))
    assert {name: counts[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("command", "over_512", "over_2048"),
    [(HOTELS, 205, 1), (CNEWS, 683, 94), (AG_JOINED, 44, 0), (AG_TRAIN, 28, 0), (TANG, 18, 0), (SONGCI, 2, 0)],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_long_texts(
    data: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], over_512: int, over_2048: int
) -> None:
    for step, expected in ((OVER_512, over_512), (OVER_2048, over_2048)):
        assert touched(prepared(data, capsys, *command, step, EXACT_ONLY))["drop_long"] == expected


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        (("tang_10k.jsonl", "--label", "title"), 167),
        (("tang_10k.jsonl", "--label", "author"), 56),
        (("songci.jsonl", "--label", "rhythmic"), 4),
        (("train.jsonl", "--text", "en", "--label", "de"), 6),
    ],
)
def test_the_same_text_with_several_labels(
    data: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], texts: int
) -> None:
    message = refused(data, capsys, *command, "cleaning=[drop_conflicts: refuse]", EXACT_ONLY)
    assert f"cleaning.drop_conflicts: {texts} texts occur with different labels" in message


def test_a_poem_without_a_title_is_found(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(data, capsys, "tang_10k.jsonl", "--label", "title", EXACT_ONLY)
    assert "tang_10k.jsonl: 1 row without label: line 6586" in message


def test_ag_news_as_it_is_brought(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "data.source={train: train_sub.csv, test: test_official_7600.csv}"
    message = refused(data, capsys, *AG_TRAIN, source)
    assert "data.source.test: 90 of 7,594 rows (1.2 %) are near duplicates of train rows" in message
    report = prepared(data, capsys, *AG_TRAIN, source, "data.leaks=warn")
    (overlap,) = report["leaks"]["brought"]
    assert (overlap["exact"], overlap["near"], overlap["rows"]) == (0, 90, 7_594)
    assert report["duplicate_families"]["near_families"] == 207
    assert report["splits"]["sizes"]["test"] == 7_594
    moved = prepared(data, capsys, *AG_TRAIN, source, "data.leaks=move")
    assert moved["splits"]["sizes"]["test"] == 7_504
    assert sum(each["leaking"] for each in moved["leaks"]["left"]) == 0


def test_an_own_function_repairs_ag_news(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = "cleaning=[remnants:restored, drop_empty]"
    assert touched(prepared(data, capsys, *AG_JOINED, step, EXACT_ONLY))["remnants"] == 2_210


def test_multi30k_sentences_repeat_as_its_readme_says(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(data, capsys, "train.jsonl", "--text", "en", "--label", "de", EXACT_ONLY)
    assert "28969 distinct labels in 28991 rows" in message  # of 29,000: nine English sentences repeat
    parts = f"train: multi30k_train.jsonl, validation: multi30k_val.jsonl, test: [{_multi30k_tests()}]"
    report = prepared(data, capsys, "multi30k_train.jsonl", f"data.source={{{parts}}}", "data.leaks=warn")
    assert report["label_counts"]["train"] == {"de": 28_975, "en": 28_991}
    assert report["label_counts"]["validation"] == {"de": 1_013, "en": 1_013}
    assert report["label_counts"]["test"] == {"de": 2_458, "en": 2_461}
    assert [each["near"] for each in report["leaks"]["brought"]] == [8, 19, 1]


def _multi30k_tests() -> str:
    return ", ".join(f"multi30k_{name}.jsonl" for name in TEST_SETS)


def test_songci_has_as_many_tunes_as_its_readme_says(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = prepared(data, capsys, *SONGCI, EXACT_ONLY)
    assert len(report["labels"]) == 1_421


@pytest.mark.parametrize(("command", "repeats"), [(TANG, 198), (SONGCI, 28)], ids=["tang", "songci"])
def test_simplifying_makes_variants_alike(
    data: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], repeats: int
) -> None:
    step = "cleaning=[simplify_chinese, drop_empty, drop_duplicates]"
    assert touched(prepared(data, capsys, *command, step, EXACT_ONLY))["drop_duplicates"] == repeats


@pytest.mark.parametrize(
    ("command", "text", "label"),
    [(HOTELS, "review", "label"), (CNEWS, "text", "label"), (AG_TEST, "description", "class")],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_init_guesses_the_columns(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], text: str, label: str
) -> None:
    recipe = tmp_path / "first.yaml"
    assert main(["init", str(data / command[0]), "--yes", "--output", str(recipe)]) == 0
    assert f"text is {text}, label is {label}, no group" in capsys.readouterr().err
