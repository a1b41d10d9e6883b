"""The metrics of generated text work as `evaluate` metrics, without label names and without the network."""

from __future__ import annotations

from typing import Any

import evaluate
import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from finetune.errors import DataError, RecipeError
from finetune.metrics import GENERATION_METRICS, load, metric_class
from finetune.scores.generation import score_texts, signatures, text_statistics

REFERENCES = ["the cat sat on the mat .", "a line\nbreak", "one two three four five"]
PREDICTIONS = ["the cat sat on a mat .", "a line break", ""]
POEM = ["床前明月光，疑是地上霜。"]


def test_all_are_evaluate_metrics_by_their_name() -> None:
    for name in GENERATION_METRICS:
        metric = load(name)
        assert isinstance(metric, evaluate.Metric) and metric.name == name
        assert metric_class(name) is type(metric)


def test_they_are_the_scores_of_a_run() -> None:
    expected = score_texts(text_statistics(REFERENCES, PREDICTIONS, bleu_tokenizer="13a"))
    found = evaluate.combine([load(name) for name in GENERATION_METRICS])
    result = found.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert {name: result[name] for name in ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "exact_match")} == {
        name: pytest.approx(expected[name]) for name in ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "exact_match")
    }
    lines = [text.replace("\n", " ") for text in REFERENCES]
    assert result["bleu"] == BLEU().corpus_score(PREDICTIONS, [lines]).score
    assert result["chrf"] == CHRF().corpus_score(PREDICTIONS, [lines]).score
    assert {name: result[f"{name}_signature"] for name in ("bleu", "chrf")} == signatures("13a")


def test_batches_and_single_texts_make_the_same_score() -> None:
    whole = evaluate.combine([load(name) for name in GENERATION_METRICS])
    expected = whole.compute(predictions=PREDICTIONS, references=REFERENCES)
    parts = evaluate.combine([load(name) for name in GENERATION_METRICS])
    parts.add_batch(predictions=np.array(PREDICTIONS[:2]), references=REFERENCES[:2])
    parts.add(prediction=PREDICTIONS[2], reference=REFERENCES[2])
    assert parts.compute() == expected


def test_the_tokeniser_follows_the_references_or_is_stated() -> None:
    result = load("bleu").compute(predictions=POEM, references=POEM)
    assert result["bleu"] == 100.0 and "|tok:zh|" in result["bleu_signature"]
    stated = load("bleu", tokenizer="char").compute(predictions=POEM, references=POEM)
    assert stated["bleu"] == 100.0 and "|tok:char|" in stated["bleu_signature"]


@pytest.mark.parametrize("strange", [[1, 2], [["a"], ["b"]], [None, "a"], "ab", np.array([0.5, 1.5])])
def test_what_is_no_text_is_refused(strange: Any) -> None:
    with pytest.raises(ValueError, match="predictions must be texts, one for each document"):
        load("bleu").compute(predictions=strange, references=["a", "b"])
    with pytest.raises(ValueError, match="references must be texts, one for each document"):
        load("rouge").add_batch(predictions=["a", "b"], references=strange)
    with pytest.raises(ValueError, match="reference must be texts"):
        load("chrf").add(prediction="a", reference=1)


def test_an_empty_reference_is_refused() -> None:
    with pytest.raises(DataError, match="document 2: the reference is empty"):
        load("exact_match").compute(predictions=["a", "b"], references=["a", " "])


def test_options_belong_to_their_metrics() -> None:
    with pytest.raises(RecipeError, match=r"tokenizer: no BLEU tokeniser 'zhh'.*Did you mean 'zh'\?"):
        load("bleu", tokenizer="zhh")
    with pytest.raises(ValueError, match="'chrf' has no tokenizer; bleu has"):
        load("chrf", tokenizer="zh")
    with pytest.raises(ValueError, match="'f1' needs label_names"):
        load("f1")
    with pytest.raises(ValueError, match="'bleu' has no label_names"):
        load("bleu", label_names=["a", "b"])
    with pytest.raises(RecipeError, match=r"no metric 'bluu'\. Found: accuracy.*bleu, chrf, rouge, exact_match"):
        load("bluu")
