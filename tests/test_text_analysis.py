"""The error analysis of written text: which texts are shown, and the scores of slices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF
from tiny_learners import PAIRS, ROWS, SEQ2SEQ, tiny_learner

from finetune.run_files import Analysis, Slice
from finetune.scores.generation import score_losses
from finetune.scores.text_metrics import LossStatistics
from finetune.text_analysis import _best_and_worst, analyse_texts, learnt_tokens
from finetune.training.text_inference import TextPredictions
from finetune.writer_learner import WriterLearner

# Many test documents: most of them are of test.
LARGE_TEST = {"split": {"train": 0.2, "validation": 0.1, "test": 0.7}}


def said(learner: WriterLearner, *, texts: list[str | None] | None = None) -> TextPredictions:
    """Predictions of the test split: of each reference its first half, unless `texts` says otherwise."""
    rows = learner.rows["test"]
    references: list[str] = rows["reference"][:]
    random = np.random.default_rng(2)
    tokens = learnt_tokens(learner, "test")
    texts = [reference[: len(reference) // 2] for reference in references] if texts is None else texts
    return TextPredictions(
        nats=tokens * random.uniform(0.5, 2, size=len(rows)),
        tokens=tokens,
        characters=np.array(rows["characters"][:]),
        texts=texts,
        references=[None if text is None else one for text, one in zip(texts, references, strict=True)],
        cut=np.zeros(len(rows), dtype=np.bool_),
    )


def analysed(learner: WriterLearner, predicted: TextPredictions, *, examples: int = 4) -> Analysis:
    found = analyse_texts(learner.scorer, "test", predicted, learner, examples=examples)
    assert Analysis.model_validate_json(found.model_dump_json()) == found
    return found


def of_kind(found: Analysis, by: str) -> list[Slice]:
    return [each for each in found.slices if each.by == by]


def test_best_and_worst_are_by_chrf_of_the_document(tmp_path: Path) -> None:
    learner = tiny_learner(tmp_path, PAIRS, data=LARGE_TEST)
    rows = learner.rows["test"]
    texts: list[str | None] = [text[: len(text) // 2] for text in rows["reference"]]
    texts[3], texts[5], texts[7] = rows[3]["reference"], "", "zzz qqq"
    found = analysed(learner, said(learner, texts=texts), examples=3)
    ids = learner.scorer.prepared.splits["test"]["id"][:]
    assert found.best_texts[0].id == ids[3] and found.best_texts[0].chrf == 100
    assert [each.id for each in found.worst_texts[:2]] == [ids[5], ids[7]]
    assert found.worst_texts[0].prediction == "" and found.worst_texts[0].chrf == 0
    assert found.best_texts[0].prompt == learner.scorer.prepared.splits["test"][3]["text"]
    for texts_shown, sign in ((found.best_texts, -1), (found.worst_texts, 1)):
        by_themselves = [float(CHRF().sentence_score(each.prediction, [each.reference]).score) for each in texts_shown]
        assert [each.chrf for each in texts_shown] == pytest.approx(by_themselves)
        assert sorted(by_themselves, key=lambda chrf: sign * chrf) == by_themselves and len(by_themselves) == 3


@given(chrf=st.lists(st.sampled_from([0.0, 10.0, 55.5, 100.0]), max_size=12), most=st.integers(0, 8))
def test_no_document_is_among_best_and_worst(chrf: list[float], most: int) -> None:
    best, worst = _best_and_worst(np.array(chrf), most=most)
    assert len(best) <= most and len(worst) <= most
    assert not set(best.tolist()) & set(worst.tolist())
    if most * 2 >= len(chrf):
        assert len(best) + len(worst) == len(chrf)
    if len(best) and len(worst):
        assert min(chrf[place] for place in best) >= max(chrf[place] for place in worst)


def test_without_examples_no_text_is_kept(tmp_path: Path) -> None:
    learner = tiny_learner(tmp_path, PAIRS, data=LARGE_TEST)
    found = analysed(learner, said(learner), examples=0)
    assert not found.best_texts and not found.worst_texts and found.slices
    assert found.notes == ["report.examples is 0: no text is shown"]
    told = found.model_dump_json()
    prepared = learner.scorer.prepared.splits["test"]
    assert not any(text in told for column in ("text", "target") for text in prepared[column])


def test_thirds_by_learnt_tokens_have_the_scores_of_their_documents(tmp_path: Path) -> None:
    rows = [row | {"target": f"{row['target']} {'x' * (number % 9)}"} for number, row in enumerate(ROWS)]
    learner = tiny_learner(tmp_path, SEQ2SEQ, data=LARGE_TEST, rows=rows, windows={"max_target_tokens": 64})
    predicted = said(learner)
    slices = of_kind(analysed(learner, predicted), "length")
    tokens = predicted.tokens
    assert tokens is not None and predicted.nats is not None and len(slices) == 3
    assert sum(each.documents for each in slices) == len(tokens)
    for each in slices:
        low, high = _ends(each)
        inside = (tokens >= low) & (tokens <= high)
        losses = LossStatistics(predicted.nats[inside], tokens[inside], predicted.characters[inside])
        assert each.documents == inside.sum() == each.scores["loss"].n == each.scores["bleu"].n
        assert each.scores["loss"].value == pytest.approx(score_losses(losses)["loss"])
        assert set(each.scores) == {"loss", "chrf", "bleu"}
    whole = learner.scorer.score(predicted, "test").scores["loss"].value
    weights = [sum(tokens[(tokens >= low) & (tokens <= high)]) for low, high in map(_ends, slices)]
    assert np.average([each.scores["loss"].value or 0 for each in slices], weights=weights) == pytest.approx(whole)


def _ends(each: Slice) -> tuple[int, int]:
    ends = each.name.removesuffix(" tokens").split(" to ")
    return int(ends[0]), int(ends[-1])


def test_groups_and_columns_are_slices(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        dict(row) | {"kind": "first" if number % 3 else "second", "same": "always"}
        for number, row in enumerate([*ROWS, *({**row, "source": f"once more {row['source']}"} for row in ROWS)])
    ]
    learner = tiny_learner(
        tmp_path, PAIRS, rows=rows, data=LARGE_TEST, evaluation={"slices": ["kind", "same"], "bootstrap": 50}
    )
    predicted = said(learner)
    found = analysed(learner, predicted)
    kinds = {each.name: each for each in of_kind(found, "column:kind")}
    assert set(kinds) == {"first", "second"}
    values = learner.scorer.prepared.splits["test"]["slice:kind"][:]
    assert {name: each.documents for name, each in kinds.items()} == {name: values.count(name) for name in kinds}
    loss = kinds["first"].scores["loss"]
    assert loss.low is not None and loss.high is not None and loss.low < (loss.value or 0) < loss.high
    assert len(found.notes) == 1 and "'same' makes no slices" in found.notes[0]
    assert not of_kind(found, "group")

    grouped = tiny_learner(
        tmp_path, PAIRS, rows=rows, data=LARGE_TEST | {"columns": PAIRS["data"]["columns"] | {"group": "author"}}
    )
    slices = of_kind(analysed(grouped, said(grouped)), "group")
    assert slices and {each.name for each in slices} <= set(grouped.scorer.prepared.splits["test"]["group"])
    assert all(each.scores["chrf"].low is None for each in slices)  # one group says nothing of its own spread


def test_scores_that_are_not_known_are_left_out(tmp_path: Path) -> None:
    learner = tiny_learner(tmp_path, PAIRS, data=LARGE_TEST)
    predicted = said(learner)
    texts = [text if number < 2 else None for number, text in enumerate(predicted.texts)]
    sampled = said(learner, texts=texts)
    found = analysed(learner, sampled)
    assert len(found.best_texts) + len(found.worst_texts) == 2
    assert all("loss" in each.scores for each in found.slices)
    assert sum(each.scores["chrf"].n for each in found.slices if "chrf" in each.scores) == 2
    unscored = replace(predicted, nats=None, tokens=None)
    assert all(set(each.scores) == {"chrf", "bleu"} for each in analysed(learner, unscored).slices)
