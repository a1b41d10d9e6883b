"""Preparation as a whole: the order of its steps, what it reports, and what must hold whatever the rows are."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.cleaning_steps import DEFAULT_CLEANING, CleaningStep
from finetune.data.cleaning import clean
from finetune.data.duplicates import content_hash
from finetune.data.prepare import Prepared, _effort, prepare
from finetune.data.sources import Loaded
from finetune.dataset_folder import prepare_folder
from finetune.errors import DataError, GateFailed
from finetune.progress import SILENT
from finetune.recipe_data import SPLITS, Data
from finetune.recipe_file import LoadedRecipe, load_recipe
from finetune.runs import write_table

# Every step but own functions, in the order in which a cleaner would write them.
CANONICAL: list[Any] = [
    "fix_unicode", "strip_html", "strip_urls", "mask_emails", "mask_numbers", "strip_control", "strip_punctuation",
    "lowercase", "simplify_chinese", "normalize_whitespace", "drop_missing", "drop_empty", {"drop_short": 2},
    {"drop_long": 500}, {"keep_language": ["en"]}, "drop_conflicts", "drop_duplicates",
]  # fmt: skip


def recipe(folder: Path, rows: list[dict[str, Any]] | None = None, **sections: Any) -> LoadedRecipe:
    if rows is not None:
        write(folder / "rows.jsonl", rows)
    values = {"task": "text-classification", "data": {"source": "rows.jsonl"}} | sections
    (folder / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")
    return load_recipe(folder / "recipe.yaml")


def prepared(folder: Path, rows: list[dict[str, Any]] | None = None, **sections: Any) -> Prepared:
    return prepare(recipe(folder, rows, **sections), progress=SILENT)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def simple_rows(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"text number {start + row} of many", "label": "ab"[row % 2]} for row in range(count)]


def long_text(number: int, *, changed: int | None = None) -> str:
    return " ".join("another" if place == changed else f"w{number}x{place}" for place in range(40))


def homes(splits: dict[str, Dataset], column: str) -> dict[str, set[str]]:
    """In which splits each value of a column is; nulls are no value."""
    found: dict[str, set[str]] = {}
    for name, rows in splits.items():
        for value in rows[column]:
            if value is not None:
                found.setdefault(value, set()).add(name)
    return found


def test_a_source_is_read_cleaned_labelled_divided_and_told(tmp_path: Path) -> None:
    rows = [*simple_rows(99), *({"text": f"  TEXT number {row} of  many ", "label": "ab"[row % 2]} for row in (5, 8))]
    rows += [{"text": " ", "label": "a"}, {"text": long_text(1), "label": " b "}]
    done = prepared(tmp_path, rows)
    assert done.warnings == [
        "warning: all: 1 empty texts dropped",
        "warning: all: 2 rows repeat an earlier row and were removed",
    ]
    assert [len(part) for part in done.splits.values()] == [70, 15, 15]
    assert done.labels.names == ("a", "b")
    assert {name: len(labels) for name, labels in done.encoded.items()} == {"train": 70, "validation": 15, "test": 15}
    for name, part in done.splits.items():
        assert part.column_names == ["id", "text", "label", "group", "origin"]
        assert [done.labels.names[number] for number in done.encoded[name]] == part["label"][:]
    report = done.report
    assert [(step["name"], step["changed"], step["dropped"]) for step in report["cleaning"]] == [
        ("fix_unicode", 0, 0), ("normalize_whitespace", 3, 0), ("drop_empty", 0, 1), ("drop_duplicates", 0, 2),
    ]  # fmt: skip
    assert report["files"][0]["rows"] == 103
    assert report["splits"]["sizes"] == {"train": 70, "validation": 15, "test": 15}
    assert report["label_counts"]["train"] == {"a": 35, "b": 35}
    assert report["duplicate_families"]["rows_in_families"] == 0
    assert report["leaks"]["policy"] == "refuse" and report["leaks"]["brought"] is None
    assert [overlap["leaking"] for overlap in report["leaks"]["left"]] == [0, 0, 0]
    json.dumps(report, allow_nan=False)


def test_split_table_tells_who_went_where_without_a_text(tmp_path: Path) -> None:
    rows = [{**row, "who": f"w{number // 4}" if number < 40 else None} for number, row in enumerate(simple_rows(60))]
    done = prepared(tmp_path, rows, data={"source": "rows.jsonl", "columns": {"group": "who"}})
    write_table(tmp_path / "splits.parquet", done.split_table())
    table = datasets.Dataset.from_parquet(str(tmp_path / "splits.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table.column_names == ["id", "group", "content_hash", "family", "split", "fold"]
    whole = list(itertools.chain.from_iterable(part.to_list() for part in done.splits.values()))
    assert table["id"][:] == [row["id"] for row in whole]
    assert table["group"][:] == [row["group"] for row in whole]
    assert table["content_hash"][:] == [content_hash(row["text"]) for row in whole]
    assert Counter(table["split"]) == {name: len(part) for name, part in done.splits.items()}
    assert table["family"][:] == np.concatenate(list(done.families.values())).tolist()
    assert set(table["fold"]) == {None}


def test_families_are_over_all_parts_and_leaks_end_the_preparation_or_are_settled(tmp_path: Path) -> None:
    train = [{"text": long_text(row), "label": "ab"[row % 2]} for row in range(40)]
    test = [{"text": long_text(100 + row), "label": "ab"[row % 2]} for row in range(10)]
    test[4]["text"] = long_text(6, changed=20)
    write(tmp_path / "train.jsonl", train)
    write(tmp_path / "test.jsonl", test)
    data = {"source": {"train": "train.jsonl", "test": "test.jsonl"}}
    with pytest.raises(
        GateFailed, match=r"1 of 10 rows \(10.0 %\) is a near duplicate of train rows; worst: test.jsonl:5 "
    ):
        prepared(tmp_path, data=data)
    moved = prepared(tmp_path, data=data | {"leaks": "move"})
    assert moved.report["leaks"]["policy"] == "move"
    assert {(each["earlier"], each["later"]): each["near"] for each in moved.report["leaks"]["brought"]} == {
        ("train", "test"): 1
    }
    assert sum(each["leaking"] for each in moved.report["leaks"]["left"]) == 0
    assert len(moved.splits["test"]) == 9 and homes(moved.splits, "id")["test.jsonl:5"] != {"test"}
    assert moved.report["splits"]["sizes"] == {name: len(rows) for name, rows in moved.splits.items()}
    assert any("test: 1 of 10 rows" in warning and "moved to train" in warning for warning in moved.warnings)
    assert any(warning.startswith("no validation part was given: 7 rows") for warning in moved.warnings)
    warned = prepared(tmp_path, data=data | {"leaks": "warn"})
    left = {(each["earlier"], each["later"]): each["leaking"] for each in warned.report["leaks"]["left"]}
    assert left == {("train", "validation"): 0, ("train", "test"): 1, ("validation", "test"): 0}
    assert len({moved.fingerprint, warned.fingerprint}) == 2


def test_a_split_that_cannot_be_as_asked_says_why(tmp_path: Path) -> None:
    rows = [{**row, "who": "one" if number < 45 else f"w{number}"} for number, row in enumerate(simple_rows(60))]
    done = prepared(tmp_path, rows, data={"source": "rows.jsonl", "columns": {"group": "who"}, "split": SHARES})
    said = [warning for warning in done.warnings if warning.startswith("sizes are up to")]
    assert said == done.report["splits"]["notes"] and len(said) == 1
    assert "groups and duplicate families stay whole, the largest of 45 of 60 rows" in said[0]


SHARES = {"train": 0.4, "validation": 0.3, "test": 0.3, "stratify": False}
words = st.sampled_from(["red", "green", "blue", "old", "new", "big", "small", "Red", " red ", "ＲＥＤ"])
rows_of_words = st.lists(
    st.fixed_dictionaries({
        "text": st.one_of(
            st.lists(words, min_size=1, max_size=3).map(" ".join),
            st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 39))).map(
                lambda drawn: long_text(drawn[0], changed=drawn[1])
            ),
        ),
        "label": st.sampled_from("ab"),
        "who": st.one_of(st.none(), st.sampled_from([f"p{number}" for number in range(9)])),
    }),
    min_size=6,
    max_size=40,
)  # fmt: skip


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=rows_of_words,
    seed=st.integers(0, 99),
    cleaning=st.sampled_from([list(DEFAULT_CLEANING), ["normalize_whitespace"]]),
)
def test_no_family_or_group_straddles_splits_or_folds_and_no_row_is_lost(
    rows: list[dict[str, Any]], seed: int, cleaning: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    data = {"source": "rows.jsonl", "columns": {"group": "who"}, "split": {"stratify": False}}
    loaded = recipe(folder, rows, data=data, cleaning=cleaning, seed=seed)
    try:
        done = prepare_folder(loaded, folder / "out", format="jsonl", folds=3, progress=SILENT)
    except DataError as error:
        assert any(word in str(error) for word in ("too few to split", "only one class", "is not in train")), error
        return
    splits = done.prepared.splits
    whole = [row["id"] for part in splits.values() for row in part]
    dropped = sum(step["dropped"] for step in done.report["cleaning"])
    assert len(whole) == len(set(whole)) == len(rows) - dropped
    kept = clean({"all": source(rows)}, [CleaningStep(name=name) for name in cleaning], base=folder)[0]["all"]
    assert sorted(whole) == sorted(kept["id"])
    assert all(len(found) == 1 for found in homes(splits, "group").values())
    assert all(len(found) == 1 for found in homes(splits, "text").values())
    written = [
        {**json.loads(line), "split": path.stem} for path in done.files for line in path.read_text("utf-8").splitlines()
    ]
    assert sorted(row["id"] for row in written) == sorted(whole)
    for key, place in itertools.product(("family", "group", "text"), ("split", "fold")):
        where: dict[str, set[str]] = {}
        for row in written:
            if row[key] is not None:
                where.setdefault(row[key], set()).add(row[place])
        assert all(len(found) == 1 for found in where.values()), (key, place)
    assert {row["fold"] for row in written} == {0, 1, 2}
    assert [each["leaking"] for each in done.report["leaks"]["left"]] == [0, 0, 0]


def source(rows: list[dict[str, Any]]) -> Dataset:
    ids = [f"rows.jsonl:{number}" for number in range(1, len(rows) + 1)]
    columns = {
        "id": ids,
        "text": [row["text"] for row in rows],
        "label": [row["label"] for row in rows],
        "group": [row.get("who") for row in rows],
        "origin": ids,
    }
    return Dataset.from_dict(columns, features=Features({name: Value("string") for name in columns}))


# What one step leaves, another may find: entities, mojibake, tags around tags, addresses, full-width forms, invisibles.
PIECES = [
    "&lt;b&gt;", "<b>", "</b>", "&amp;amp;", "http://a.b/c", "www.", "a@b.co", "12", "1,5", "ｆｕｌｌ", "Ａ", "Ã©",
    "â€™", "\u200b", "\ufeff", "\u00a0", " ", "  ", "\n", "\t", "\x07", "!", "?!", "，", "。", "國", "国", "ﬁ", "İ",
    "ẞ", "e\u0301", "word", "WORD", ".", "<", ">", "&", ";", "@", "-", "_", "\u2028", "😀",
]  # fmt: skip
messy = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=2)), max_size=8).map("".join)


@pytest.mark.parametrize("steps", [list(DEFAULT_CLEANING), CANONICAL], ids=["default", "canonical"])
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_texts=st.lists(messy, min_size=1, max_size=4))
def test_cleaning_twice_equals_once(steps: list[Any], given_texts: list[str], tmp_path: Path) -> None:
    texts = [text.encode("utf-8", "ignore").decode().replace("\0", "") for text in given_texts]
    names = map("".join, itertools.islice(itertools.product("abcdefghij", repeat=2), 100))
    filler = [f"The room of Mister {name} in the hotel was very clean and quiet" for name in names]
    rows = [{"text": text, "label": "ab"[number % 2]} for number, text in enumerate([*texts, *filler])]
    chain = [CleaningStep.model_validate(step) for step in steps]
    once, _ = clean({"all": source(rows)}, chain, base=tmp_path)
    twice, reports = clean(once, chain, base=tmp_path)
    assert twice["all"].to_list() == once["all"].to_list()
    assert [(report.changed, report.dropped) for report in reports] == [(0, 0)] * len(chain)


def test_only_the_splits_a_source_has_are_cleaned_together(tmp_path: Path) -> None:
    """Duplicates across brought parts go from the later one; train keeps them."""
    write(tmp_path / "train.jsonl", simple_rows(40))
    write(tmp_path / "test.jsonl", [*simple_rows(3), *simple_rows(20, start=100)])
    done = prepared(tmp_path, data={"source": {"train": "train.jsonl", "test": "test.jsonl"}})
    assert len(done.splits["test"]) == 20
    assert any("test: 3 rows repeat a row of train and were removed" in warning for warning in done.warnings)
    assert list(done.splits) == list(SPLITS)


def test_numbers_are_scaled_by_train_alone(tmp_path: Path) -> None:
    rows = [{**row, "stars": number, "same": 4} for number, row in enumerate(simple_rows(60))]
    raw = prepared(tmp_path, rows)
    numeric = {"stars": "standardize", "same": "min_max"}
    done = prepared(tmp_path, data={"source": "rows.jsonl", "numeric": numeric})
    number_of = {row["id"]: number for number, row in enumerate(source(rows).to_list())}
    train = np.array([number_of[row] for row in raw.splits["train"]["id"]], dtype=float)
    assert done.splits["train"]["id"][:] == raw.splits["train"]["id"][:]
    told = done.report["numeric"]["stars"]
    assert (told["mean"], told["std"]) == pytest.approx((train.mean(), train.std()))
    for part in done.splits.values():
        expected = [(number_of[row] - train.mean()) / train.std() for row in part["id"]]
        assert part["stars"][:] == pytest.approx(expected)
        assert set(part["same"]) == {0.0}
    assert "same: constant in train (4): 0.0 throughout" in done.warnings
    assert done.fingerprint != raw.fingerprint


def test_copies_are_in_train_alone_with_their_families_and_are_counted(tmp_path: Path) -> None:
    rows = [{"text": long_text(row // 2, changed=row % 2 or None), "label": "ab"[row // 2 % 2]} for row in range(120)]
    plain = prepared(tmp_path, rows)
    done = prepared(tmp_path, augmentation={"delete": 0.1, "copies": 2})
    for name in ("validation", "test"):
        assert done.splits[name].to_list() == plain.splits[name].to_list()
    originals = len(plain.splits["train"])
    assert done.splits["train"].to_list()[:originals] == plain.splits["train"].to_list()
    family_of = dict(zip(plain.splits["train"]["id"], plain.families["train"].tolist(), strict=True))
    copies = list(zip(done.splits["train"]["id"][originals:], done.families["train"].tolist()[originals:], strict=True))
    assert len(copies) == 2 * originals
    assert all(family == family_of[row.partition("#copy")[0]] for row, family in copies)
    report = done.report
    assert (report["augmentation"]["originals"], report["augmentation"]["copies"]) == (originals, 2 * originals)
    assert report["splits"] == plain.report["splits"] and report["leaks"] == plain.report["leaks"]
    assert sum(report["label_counts"]["train"].values()) == len(done.encoded["train"]) == 3 * originals
    assert done.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("rows", "processes", "asked", "expected"),
    [(10, 1, None, 1), (30_000, 1, None, 8), (30_000, 2, None, 4), (30_000, 16, None, 1), (10, 1, 3, 3)],
)
def test_processes_of_a_launch_share_the_cores(
    rows: int, processes: int, asked: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    source = Loaded(splits={"all": Dataset.from_dict({"id": range(rows)})}, files=[], notes=[], warnings=[])
    chosen = Data.model_validate({"source": "a.csv", "num_proc": asked})
    assert _effort(source, chosen, SILENT)[0] == expected
