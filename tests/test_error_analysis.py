"""Error analysis: which documents are shown, in which order, with how much of their texts; which slices there are."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest

from finetune.data.labels import LabelMap
from finetune.data.prepare import Prepared
from finetune.error_analysis import IDS_WITHOUT_TEXTS, TEXT_CHARACTERS, analyse, shortened
from finetune.predict import RowPredictions
from finetune.run_files import Analysis, ShownDocument
from finetune.scorer import Predicted, Scorer

NAMES = ("a", "b", "c")


def analysed(
    probabilities: list[list[float]],
    labels: list[Any],
    *,
    texts: list[str] | None = None,
    windows: list[int] | None = None,
    passages: list[tuple[int, int]] | None = None,
    thresholds: list[float] | None = None,
    examples: int = 10,
    **columns: list[str | None],
) -> Analysis:
    n, multi_label = len(labels), isinstance(labels[0], list)
    texts = texts or [f"text {row}" for row in range(n)]
    label_map = LabelMap(NAMES, multi_label=multi_label)
    columns = {"group": [None] * n, **columns}
    rows = datasets.Dataset.from_dict(
        {"id": [f"d{row}" for row in range(n)], "text": texts, "label": labels, "origin": texts, **columns},
    )
    prepared = Prepared(
        splits={"test": rows},
        labels=label_map,
        encoded={"test": [label_map.encode(label) for label in labels]},
        families={},
        fingerprint="",
        report={},
        warnings=[],
    )
    said = RowPredictions(
        probabilities=np.array(probabilities),
        losses=None,
        windows=np.array(windows or [1] * n),
        deciding=np.zeros(n, dtype=np.int64),
        passages=np.array(passages or [(0, len(text)) for text in texts]),
        tokens=np.array([10 * (windows or [1] * n)[row] for row in range(n)]),
        tokens_cut=np.zeros(n, dtype=np.int64),
    )
    predicted = Predicted(said.probabilities, thresholds=None if thresholds is None else np.array(thresholds))
    scorer = Scorer(prepared, bootstrap=0, seed=1)
    return analyse(scorer, "test", said, predicted, metric="f1_macro", examples=examples)


def ids(documents: list[ShownDocument]) -> list[str]:
    return [document.id for document in documents]


def test_the_surest_mistakes_come_first_and_right_answers_are_none() -> None:
    found = analysed(
        [[0.6, 0.3, 0.1], [0.9, 0.1, 0.0], [0.05, 0.94, 0.01], [0.2, 0.2, 0.6]],
        ["b", "a", "c", "a"],
        group=["g", None] * 2,
    )
    assert ids(found.confident_mistakes) == ["d2", "d0", "d3"]
    first, second = found.confident_mistakes[:2]
    assert (first.reference, first.prediction) == ("c", "b")
    assert (first.probability, first.reference_probability) == pytest.approx((0.94, 0.01))
    assert (first.text, first.is_passage, first.group, second.group) == ("text 2", False, "g", "g")


def test_the_most_hesitant_have_the_smallest_margin_right_or_wrong() -> None:
    found = analysed([[0.5, 0.4, 0.1], [0.34, 0.33, 0.33], [0.9, 0.1, 0.0], [0.45, 0.1, 0.45]], ["a", "a", "a", "c"])
    assert ids(found.hesitant) == ["d3", "d1", "d0", "d2"]
    assert found.hesitant[0].prediction == "a" and found.hesitant[0].reference == "c"


def test_several_labels_are_each_a_yes_or_no() -> None:
    probabilities = [[0.9, 0.2, 0.1], [0.6, 0.02, 0.1], [0.1, 0.1, 0.2], [0.55, 0.9, 0.9]]
    found = analysed(probabilities, [["a"], ["a", "b"], [], ["b", "c"]])
    # d1 leaves out b, of which it gave 0.02; d3 adds a with 0.55.
    assert ids(found.confident_mistakes) == ["d1", "d3"]
    missed = found.confident_mistakes[0]
    assert (missed.reference, missed.prediction) == (["a", "b"], ["a"])
    assert (missed.probability, missed.reference_probability) == pytest.approx((0.6, 0.02))
    assert ids(found.hesitant)[:2] == ["d3", "d1"]
    none = next(document for document in found.hesitant if document.id == "d2")
    assert none.reference == none.prediction == [] and none.probability == pytest.approx(0.8)


def test_thresholds_decide_what_is_a_mistake_and_what_is_hesitant() -> None:
    probabilities, labels = [[0.3, 0.1, 0.1], [0.5, 0.1, 0.1]], [["a"], ["a"]]
    assert ids(analysed(probabilities, labels).confident_mistakes) == ["d0"]
    found = analysed(probabilities, labels, thresholds=[0.28, 0.5, 0.5])
    assert found.confident_mistakes == [] and ids(found.hesitant) == ["d0", "d1"]


def test_a_long_document_is_shown_by_the_passage_that_decided() -> None:
    long = "".join(f"{number:05d} " for number in range(1000))
    found = analysed(
        [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.7, 0.3, 0.0]],
        ["b", "b", "b"],
        texts=[long, long, "with \x1b[31m control\x00 and <b>"],
        windows=[4, 1, 1],
        passages=[(1200, 3000), (0, 6000), (0, 20)],
    )
    passage, whole, short = found.confident_mistakes
    assert passage.is_passage and passage.text == "…" + long[1200 : 1200 + TEXT_CHARACTERS] + "…"
    assert not whole.is_passage and whole.text == long[:TEXT_CHARACTERS] + "…"
    assert short.text == "with \x1b[31m control\x00 and <b>"


def test_shortened_marks_only_what_is_left_out() -> None:
    assert shortened("abcdef", most=6) == "abcdef" and shortened("abcdef", most=5) == "abcde…"
    assert shortened("abcdef", 2, 6) == "…cdef" and shortened("abcdef", 0, 3) == "abc…"


def test_without_examples_documents_are_named_and_no_text_is_kept() -> None:
    n = 30
    texts = [f"secret {row}" for row in range(n)]
    found = analysed([[0.9, 0.1, 0.0]] * n, ["b"] * n, texts=texts, windows=[2] * n, examples=0)
    assert len(found.confident_mistakes) == len(found.hesitant) == IDS_WITHOUT_TEXTS
    assert "secret" not in found.model_dump_json() and not found.hesitant[0].is_passage
    assert found.notes == ["report.examples is 0: documents are named by their ids, without texts"]
    assert len(analysed([[0.9, 0.1, 0.0]] * n, ["b"] * n, examples=3).confident_mistakes) == 3


def test_slices_are_by_length_group_and_every_column_that_was_asked_for() -> None:
    n = 24
    columns: dict[str, Any] = {
        "group": ["g1", "g2"] * (n // 2),
        "slice:area": ["net"] * 6 + ["data"] * 12 + [None] * 6,
        "slice:file": [f"f{row}" for row in range(n)],
    }
    labels = ["a"] * 6 + ["b"] * (n - 6)
    found = analysed([[0.9, 0.1, 0.0]] * n, labels, windows=[1] * 18 + [2] * 6, **columns)
    assert [(one.by, one.name, one.documents) for one in found.slices] == [
        ("length", "10 tokens", 18),
        ("length", "more than one window", 6),
        ("group", "g1", 12),
        ("group", "g2", 12),
        ("column:area", "data", 12),
        ("column:area", "net", 6),
        ("column:area", "(blank)", 6),
    ]
    by_name = {one.name: one.scores["accuracy"].value for one in found.slices}
    assert by_name["net"] == 1.0 and by_name["data"] == 0.0 and by_name["g1"] == pytest.approx(0.25)
    assert len(found.notes) == 1 and "'file' makes no slices" in found.notes[0]
