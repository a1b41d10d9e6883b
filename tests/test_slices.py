"""Slices: the columns on their way from the source to the splits, and the scores of parts of a test set."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss

from finetune.cli import main
from finetune.data.prepare import Prepared, prepare
from finetune.data.sources import ColumnMap, load_examples
from finetune.errors import DataError
from finetune.progress import SILENT
from finetune.recipe_file import load_recipe
from finetune.scores.intervals import wilson
from finetune.scores.slices import (
    BLANK,
    FEWEST_DOCUMENTS,
    MANY_WINDOWS,
    MOST_SLICES,
    OTHERS,
    Members,
    Outcomes,
    length_members,
    slice_scores,
    value_members,
)

# --- columns -----------------------------------------------------------------------------------------------------


def load(folder: Path, name: str, *slices: str, columns: ColumnMap = ColumnMap(), **more: Any) -> Any:  # noqa: B008
    return load_examples(name, columns=columns, base=folder, slices=slices, **more)


def test_values_of_any_single_kind_become_text_and_blanks_null(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "label": "a", "area": "net", "stars": 3, "paid": True},
        {"text": "two", "label": "b", "area": "  ", "stars": 2.5, "paid": None},
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    loaded = load(tmp_path, "d.jsonl", "area", "stars", "paid").splits["all"]
    assert loaded["slice:area"][:] == ["net", None]
    assert loaded["slice:stars"][:] == ["3", "2.5"] and loaded["slice:paid"][:] == ["true", None]
    table = pa.table({"text": ["x", "y"], "label": ["a", "b"], "day": pa.array([0, None], pa.date32())})
    pq.write_table(table, tmp_path / "d.parquet")
    assert load(tmp_path, "d.parquet", "day", "label").splits["all"]["slice:day"][:] == ["1970-01-01", None]


def test_a_slice_keeps_its_own_name_beside_every_other_column(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label,id,stars\nx,a,7,1\ny,b,8,2\n", encoding="utf-8")
    loaded = load(tmp_path, "d.csv", "label", "id", "stars", numeric=["stars"]).splits["all"]
    assert loaded.column_names[5:] == ["stars", "slice:label", "slice:id", "slice:stars"]
    assert loaded["id"][:] == ["d.csv:2", "d.csv:3"] and loaded["slice:id"][:] == ["7", "8"]
    assert loaded["stars"][:] == [1.0, 2.0] and loaded["slice:stars"][:] == ["1", "2"]


def test_the_cache_tells_slices_apart(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label,area\nx,a,net\ny,b,data\n", encoding="utf-8")
    assert "slice:area" not in load(tmp_path, "d.csv").splits["all"].column_names
    for _ in range(2):
        assert load(tmp_path, "d.csv", "area").splits["all"]["slice:area"][:] == ["net", "data"]


def test_a_corpus_and_a_folder_of_texts_have_slices(tmp_path: Path) -> None:
    corpus = {"tiny": lambda: [{"text": "x", "area": "net", "file": "a.py"}]}
    columns = ColumnMap(label="area")
    rows = load(tmp_path, "builtin:tiny", "file", columns=columns, corpora=corpus).splits["all"]
    assert rows["slice:file"][:] == ["a.py"]
    (tmp_path / "texts" / "good").mkdir(parents=True)
    (tmp_path / "texts" / "good" / "1.txt").write_text("x", encoding="utf-8")
    assert load(tmp_path, "texts", "file").splits["all"]["slice:file"][:] == ["good/1.txt"]


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ("aera", "evaluation.slices: no column 'aera' in d.csv. Columns found: 'text', 'label', 'area'. Did you mean"),
        ("text", "evaluation.slices: 'text' is the column of the text"),
    ],
)
def test_faulty_slices_are_refused(tmp_path: Path, slices: str, message: str) -> None:
    (tmp_path / "d.csv").write_text("text,label,area\nx,a,net\ny,b,data\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load(tmp_path, "d.csv", slices)
    assert message in str(caught.value)


def test_a_list_is_no_slice(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "x", "label": "a", "tags": ["n"]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"d\.jsonl:1: 'tags' is a list"):
        load(tmp_path, "d.jsonl", "tags")


def prepared(folder: Path, *, slices: list[str], cleaning: list[Any] | None = None) -> Prepared:
    recipe = {
        "task": "text-classification",
        "data": {"source": "d.csv", "columns": {"group": "who"}},
        "evaluation": {"slices": slices},
        "augmentation": {"copies": 1, "swap": 0.5},
        **({"cleaning": cleaning} if cleaning else {}),
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    return prepare(load_recipe(folder / "recipe.yaml"), progress=SILENT)


def write_rows(folder: Path, *, rows: int = 60) -> None:
    lines = [
        f"text number {row} of these,{'ab'[row % 2]},w{row // 3},{'' if row % 7 == 0 else row % 4}"
        for row in range(rows)
    ]
    lines += ["text number 5 of these,b,w1,9", ",a,w2,1"]
    (folder / "d.csv").write_text("\n".join(["text,label,who,stars", *lines]), encoding="utf-8")


def test_slices_go_with_their_rows_through_preparation_and_change_nothing_else(tmp_path: Path) -> None:
    write_rows(tmp_path)
    cleaning = ["lowercase", {"fill_missing": "nothing was written"}, "drop_missing", "drop_duplicates"]
    without, with_slices = (prepared(tmp_path, slices=names, cleaning=cleaning) for names in ([], ["stars", "who"]))
    assert with_slices.fingerprint == without.fingerprint
    for split, rows in with_slices.splits.items():
        assert rows.column_names == [*without.splits[split].column_names, "slice:stars", "slice:who"]
        assert rows["id"][:] == without.splits[split]["id"][:]
        assert rows["slice:who"][:] == rows["group"][:]
        for origin, text, stars in zip(rows["origin"], rows["text"], rows["slice:stars"], strict=True):
            line = int(origin.split(":")[1].split()[0])
            number = line - 2
            if number < 60:
                assert stars == (None if number % 7 == 0 else str(number % 4)), text


def test_the_message_has_the_line_of_the_recipe_and_prepare_writes_no_slice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path)
    with pytest.raises(
        DataError, match=r"recipe.yaml:\d+: evaluation.slices: no column 'star' .* Did you mean 'stars'"
    ):
        prepared(tmp_path, slices=["star"])
    recipe = str(tmp_path / "recipe.yaml")
    arguments = [recipe, "evaluation.slices=[stars]", "--output", str(tmp_path / "out"), "--quiet"]
    assert main(["prepare", *arguments, "--format", "jsonl"]) == 0
    capsys.readouterr()
    row = json.loads((tmp_path / "out" / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert sorted(row) == ["family", "group", "id", "label", "text"]


# --- who is in a slice -------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.sampled_from([*"abcdefgh", OTHERS, BLANK])), max_size=120))
def test_values_divide_all_documents(values: list[str | None]) -> None:
    members = value_members("column:x", values)
    if not members:
        frequent = [value for value in set(values) if values.count(value) >= FEWEST_DOCUMENTS]
        assert len(set(values)) < 2 or not any(value is not None for value in frequent)
        return
    assert sorted(np.concatenate([one.rows for one in members]).tolist()) == list(range(len(values)))
    assert len({one.name for one in members}) == len(members)
    for one in members:
        own = {values[row] for row in one.rows}
        if one.name == BLANK:
            assert own == {None}
        elif one.name == OTHERS:
            assert all(values.count(value) < FEWEST_DOCUMENTS for value in own)
        else:
            assert own == {one.name.strip("'")} and len(one.rows) >= FEWEST_DOCUMENTS


def test_the_twenty_largest_are_shown_and_the_rest_is_together() -> None:
    values = [f"v{number:02d}" for number in range(30) for _ in range(FEWEST_DOCUMENTS + 30 - number)]
    members = value_members("group", values)
    assert [one.name for one in members] == [*(f"v{number:02d}" for number in range(MOST_SLICES)), OTHERS]
    assert len(members[-1].rows) == sum(FEWEST_DOCUMENTS + 30 - number for number in range(20, 30))
    assert value_members("group", ["same"] * 50) == [] and value_members("group", [None] * 50) == []


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 3)), max_size=100))
def test_lengths_divide_all_documents(lengths: list[tuple[int, int]]) -> None:
    tokens, windows = (np.array([pair[side] for pair in lengths], dtype=np.int64) for side in (0, 1))
    members = length_members(tokens, windows)
    assert len(members) != 1
    if members:
        assert sorted(np.concatenate([one.rows for one in members]).tolist()) == list(range(len(lengths)))
        single = [one for one in members if one.name != MANY_WINDOWS]
        bounds = [(tokens[one.rows].min(), tokens[one.rows].max()) for one in single]
        assert all(high < low for (_, high), (low, _) in pairwise(bounds))
        assert all((windows[one.rows] > 1).all() for one in members if one.name == MANY_WINDOWS)


def test_lengths_have_readable_names() -> None:
    tokens, windows = np.array([*range(1, 41), 1000, 2000]), np.array([1] * 40 + [2, 4])
    names = [one.name for one in length_members(tokens, windows)]
    assert names == ["1 to 10 tokens", "11 to 20 tokens", "21 to 30 tokens", "31 to 40 tokens", MANY_WINDOWS]


# --- their scores ------------------------------------------------------------------------------------------------

LABELS = ["a", "b", "c"]


def outcomes(n: int = 200, *, multi_label: bool = False, seed: int = 0) -> Outcomes:
    random = np.random.default_rng(seed)
    if multi_label:
        references = (random.random((n, 3)) < 0.4).astype(np.int64)
        probabilities = np.clip(0.5 * references + 0.6 * random.random((n, 3)), 0, 1)
        return Outcomes(references, (probabilities >= 0.5).astype(np.int64), probabilities, LABELS, multi_label=True)
    references = random.integers(3, size=n)
    probabilities = random.dirichlet(np.ones(3), size=n)
    probabilities[np.arange(n), references] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Outcomes(references, probabilities.argmax(axis=1), probabilities, LABELS)


def one_slice(all_of_them: Outcomes, rows: np.ndarray, *, metric: str = "f1_macro", resamples: int = 200) -> Any:
    (found,) = slice_scores(all_of_them, [Members("column:x", "v", rows)], metric=metric, resamples=resamples, seed=3)
    assert (found.by, found.name, found.documents) == ("column:x", "v", len(rows))
    return found.scores


def test_scores_of_a_slice_are_those_of_its_documents_alone() -> None:
    whole, rows = outcomes(), np.arange(50, 130)
    scores = one_slice(whole, rows, metric="log_loss")
    references, predictions = whole.references[rows], whole.predictions[rows]
    right = int((references == predictions).sum())
    assert scores["accuracy"].value == pytest.approx(right / 80)
    assert (scores["accuracy"].low, scores["accuracy"].high) == pytest.approx(wilson(right, 80))
    assert scores["f1_macro"].value == pytest.approx(f1_score(references, predictions, average="macro"))
    assert scores["f1_macro"].low < scores["f1_macro"].value < scores["f1_macro"].high
    assert scores["log_loss"].value == pytest.approx(log_loss(references, whole.probabilities[rows]))
    assert scores["log_loss"].low < scores["log_loss"].value < scores["log_loss"].high
    assert all(score.n == 80 for score in scores.values())
    assert one_slice(whole, rows, metric="loss").keys() == {"accuracy", "f1_macro", "log_loss"}


@pytest.mark.parametrize("multi_label", [False, True])
def test_macro_averages_leave_out_labels_that_no_document_has(multi_label: bool) -> None:
    whole = outcomes(400, multi_label=multi_label)
    has_c = whole.references[:, 2] > 0 if multi_label else whole.references == 2
    rows = np.flatnonzero(~has_c)
    score = one_slice(whole, rows, metric="recall_macro")["f1_macro"]
    labels = [0, 1]
    expected = f1_score(whole.references[rows], whole.predictions[rows], labels=labels, average="macro")
    assert (whole.predictions[rows] == 2).any() if not multi_label else whole.predictions[rows, 2].any()
    assert score.value == pytest.approx(expected)
    assert score.note == "over the 2 of 3 labels that its documents have"
    assert score.low is not None and score.low <= score.value <= score.high


def test_too_few_documents_or_groups_have_no_interval() -> None:
    whole = outcomes()
    assert one_slice(whole, np.arange(9))["accuracy"].low is None
    assert one_slice(whole, np.arange(60), resamples=0)["accuracy"].low is None
    grouped = Outcomes(whole.references, whole.predictions, whole.probabilities, LABELS, groups=np.arange(200) // 20)
    assert one_slice(grouped, np.arange(100))["accuracy"].low is None
    assert one_slice(grouped, np.arange(200))["accuracy"].low is not None


def test_documents_without_any_label_have_no_macro_average() -> None:
    whole = outcomes(multi_label=True)
    none = Outcomes(np.zeros_like(whole.references), whole.predictions, whole.probabilities, LABELS, multi_label=True)
    score = one_slice(none, np.arange(40))["f1_macro"]
    assert score.value is None and score.note == "undefined: no document has a label"
