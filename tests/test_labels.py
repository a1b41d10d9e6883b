"""Labels: one order for all files, and every label that would train on nonsense is refused with its rows."""

from __future__ import annotations

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.labels import LabelMap, label_text, read_labels
from finetune.errors import DataError

Given = list[str | None] | list[list[str] | None]


def split(labels: Given, *, file: str = "d.csv", multi_label: bool = False) -> datasets.Dataset:
    text = datasets.Value("string")
    features = datasets.Features({"label": datasets.List(text) if multi_label else text, "origin": text})
    origins = [f"{file}:{line}" for line in range(2, len(labels) + 2)]
    return datasets.Dataset.from_dict({"label": labels, "origin": origins}, features=features)


def read(labels: Given, *, expected: list[str] | None = None, multi_label: bool = False) -> tuple[LabelMap, list[str]]:
    dataset = split(labels, multi_label=multi_label)
    return read_labels({"all": dataset}, multi_label=multi_label, expected=expected)


def message(labels: Given, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read(labels, **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg", "pos"], ("neg", "pos")),
        (["10", "9", "1"], ("1", "9", "10")),
        (["10", "9", "b"], ("10", "9", "b")),
        (["true", "false"], ("false", "true")),
        (["True", "FALSE", "true"], ("false", "true")),
        ([" pos", "neg ", "pos"], ("neg", "pos")),  # B03
        (["好", "坏"], ("坏", "好")),
        (["0.5", "1"], ("0.5", "1")),
        (["<b>", "a|b", "no"], ("<b>", "a|b", "no")),  # B15, B16
    ],
)
def test_order(labels: list[str | None], names: tuple[str, ...]) -> None:  # B02, B05
    assert read(labels)[0] == LabelMap(names=names, multi_label=False)


@given(st.lists(st.text("abc123", min_size=1, max_size=2), min_size=2, max_size=20), st.randoms())
def test_the_order_does_not_hang_on_the_rows(labels: list[str], random: object) -> None:
    mixed = list(labels)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    if len(set(labels)) > 1:
        names = read(list(labels))[0].names
        assert read(list(mixed))[0].names == names
        assert [read(list(labels))[0].encode(name) for name in names] == list(range(len(names)))


BAD: dict[str, tuple[Given, list[str]]] = {
    "B01": (["a", None, "b", " ", "a"], ["d.csv: 2 rows without label: lines 3, 5"]),
    "B01 one": (["a", None, "b"], ["d.csv: 1 row without label: line 3"]),
    "B01 many": (["a", "b", *[None] * 30], ["30 rows without label: lines 4, 5, 6", "15 and 18 more"]),
    "B01 all": ([None, None], ["2 rows without label"]),
    "B04": (["0.0", "1.0", None], ["d.csv: labels are 0.0/1.0: a cell is empty at line 4"]),
    "B04 no blank": (["0.0", "1.0", "0.0"], ["labels are 0.0/1.0, not whole numbers. Write 0, not 0.0."]),
    "B06": (["0", "1", "-1", "-1"], ["d.csv: label -1 is negative (2 rows: lines 4, 5)"]),
    "B07": (["-100", "-100"], ["no usable label: every label is -100"]),
    "B08": (["pos", "pos "], ["only one class ('pos')"]),
    "B20": ([f"row {number}" for number in range(100)], ["label column looks like free text or an id: 100 distinct"]),
    "no rows": ([], ["no usable label"]),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_with_rows(case: str) -> None:
    labels, expected = BAD[case]
    told = message(labels)
    for part in expected:
        assert part in told


def test_many_classes_with_rows_enough_are_fine() -> None:
    assert len(read([f"intent {number}" for number in range(77)] * 2)[0].names) == 77


def test_unseen_in_train() -> None:  # B09
    train, test = split(["a", "b"], file="train.csv"), split(["a", "zzz", "zzz"], file="test.csv")
    with pytest.raises(DataError, match=r"test.csv: label 'zzz' \(2 rows: lines 3, 4\) is not in train"):
        read_labels({"train": train, "test": test}, multi_label=False)
    names = read_labels({"train": test, "test": split(["a"])}, multi_label=False)[0].names
    assert names == ("a", "zzz")


def test_all_problems_come_together() -> None:
    train, test = split(["0", None], file="train.csv"), split(["-1", None], file="test.csv")
    with pytest.raises(DataError) as caught:
        read_labels({"train": train, "test": test}, multi_label=False)
    assert len(caught.value.problems) == 3


def test_expected_labels() -> None:  # B17
    assert read(["a", "b"], expected=["b", "a"])[0].names == ("b", "a")
    assert read(["True", "false"], expected=["True", "False"])[0].names == ("true", "false")
    told = message(["a", "c", "b"], expected=["a", "b"])
    assert "d.csv: label 'c' (1 row: line 3) is not in data.labels. Found: a, b." in told
    told = message(["a", "b", "a"], expected=["a", "b", "c", "d"])
    assert "the list has 4 labels, the data has 2 of them. No row has: c, d" in told
    only_test = {"test": split(["a", "a"])}
    assert read_labels(only_test, multi_label=False, expected=["a", "b"])[0].names == ("a", "b")


def test_warnings() -> None:  # B03
    (warning,) = read(["Pos", "pos", "neg"])[1]
    assert "labels 'Pos' (1 row), 'pos' (1 row) differ only" in warning
    assert "'01' (1 row), '1' (1 row)" in read(["1", "01", "2"])[1][0]
    assert read(["a", "b"])[1] == []


def test_multi_label() -> None:
    labels, warnings = read([["b", " a"], [], ["b", "b"]], multi_label=True)
    assert labels.names == ("a", "b")
    assert warnings == []
    assert labels.encode(["b", "a ", "b"]) == [0, 1]
    assert labels.encode("b|a") == [0, 1]
    assert labels.encode([]) == labels.encode("") == []
    assert read([["a"], []], multi_label=True)[0].names == ("a",)
    assert "only one class ('a')" in message([["a"], ["a"]], multi_label=True)
    assert "1 row without label: line 3" in message([["a"], None, []], multi_label=True)
    assert "separated by '|'" in read([["a;b"], ["a"]], multi_label=True)[1][0]


def test_encode() -> None:
    labels = LabelMap.from_names(["neg", "pos"])
    assert [labels.encode(label) for label in ("neg", " pos ")] == [0, 1]
    with pytest.raises(DataError, match=r"'poss' is not known. Found: neg, pos. Did you mean 'pos'?"):
        labels.encode("poss")
    for nothing in (None, " "):
        with pytest.raises(DataError, match="no label"):
            labels.encode(nothing)
    assert [LabelMap.from_names(["false", "true"]).encode(label) for label in (True, "False", "true")] == [1, 0, 1]
    assert LabelMap.from_names(["0", "1"]).encode(1) == 1
    assert label_text(True) == "true"
