"""Intervals and paired tests of generated text: honest about chance, symmetric, fast, and knowing groups."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU as SacreBLEU

from finetune.run_files import PairedTest
from finetune.scores.generation import score_losses, score_texts, text_statistics
from finetune.scores.intervals import wilson
from finetune.scores.paired import TESTED_INSTEAD
from finetune.scores.paired_texts import paired_loss_test, paired_text_test
from finetune.scores.text_metrics import (
    TEXT_METRICS,
    LossStatistics,
    TextStatistics,
    loss_intervals,
    text_intervals,
)

few = settings(max_examples=15, deadline=None)
WORDS = [f"w{number}" for number in range(50)]
TESTED = [name for name in TEXT_METRICS if name not in TESTED_INSTEAD]


def texts(n: int, *, right: tuple[float, ...], seed: int = 1) -> tuple[list[str], list[list[str]]]:
    """References of 3 to 20 words, and for each share a list of predictions with so many words right."""
    generator = random.Random(seed)
    lines = [generator.choices(WORDS, k=generator.randint(3, 20)) for _ in range(n)]

    def said(word: str, share: float) -> str:
        return word if generator.random() < share else generator.choice([*WORDS, ""])

    predictions = [[" ".join(said(word, share) for word in line) for line in lines] for share in right]
    return [" ".join(line) for line in lines], predictions


def counted(references: list[str], predictions: list[str]) -> TextStatistics:
    cut = np.array([len(text) % 3 == 0 for text in predictions])
    return text_statistics(references, predictions, bleu_tokenizer="13a", cut=cut)


def sample(n: int, *, right: tuple[float, ...] = (0.8, 0.7), seed: int = 1) -> list[TextStatistics]:
    references, predictions = texts(n, right=right, seed=seed)
    return [counted(references, each) for each in predictions]


def losses(n: int, *, seed: int = 1, worse: float = 0.0) -> LossStatistics:
    generator, own = np.random.default_rng(seed), np.random.default_rng(seed + round(1000 * worse))
    tokens = generator.integers(5, 60, size=n)
    each = generator.gamma(9.0, 0.3, size=n) + worse + own.normal(0, 0.05, size=n)
    return LossStatistics(tokens * each, tokens, tokens * 4 + 1)


def mirrored(test: PairedTest) -> PairedTest:
    low, high = (None, None) if test.low is None or test.high is None else (-test.high, -test.low)
    return test.model_copy(
        update={
            "first": test.second,
            "second": test.first,
            "difference": -test.difference,
            "low": low,
            "high": high,
            "only_first_right": test.only_second_right,
            "only_second_right": test.only_first_right,
            "better": False,
        }
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_intervals_contain_the_score_and_keep_its_bounds(seed: int, grouped: bool) -> None:
    (statistics,) = sample(40, right=(0.8,), seed=seed)
    groups = np.arange(40) // 2 if grouped else None
    scores, found = score_texts(statistics), text_intervals(statistics, groups=groups, resamples=200, seed=1)
    assert {"bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "length_ratio", "cut_share", "empty_share"} <= set(found)
    assert not {"distinct_1", "distinct_2"} & set(found)
    for name, (low, high) in found.items():
        value = scores[name]
        assert value is not None and 0 <= low <= value + 1e-9 and value - 1e-9 <= high <= TEXT_METRICS[name].highest


def test_intervals_of_bleu_cover_the_truth() -> None:
    (population,) = sample(3000, right=(0.7,), seed=5)
    truth, generator, covered = score_texts(population), np.random.default_rng(3), dict.fromkeys(TESTED, 0)
    for _ in range(100):
        drawn = TextStatistics(population.rows[generator.choice(3000, size=60)], {})
        for name, (low, high) in text_intervals(drawn, resamples=200, seed=1).items():
            if name in covered:
                covered[name] += low <= (truth[name] or 0.0) <= high
    for name in ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "exact_match", "cut_share"):
        assert covered[name] >= 88, name


def test_shares_of_documents_have_wilsons_interval() -> None:
    (statistics,) = sample(80, right=(0.9,))
    found = text_intervals(statistics, seed=1)
    assert found["exact_match"] == wilson(round(80 * (score_texts(statistics)["exact_match"] or 0)), 80)
    assert found["empty_share"] == wilson(0, 80)
    grouped = text_intervals(statistics, groups=np.arange(80) // 4, seed=1)
    assert grouped["empty_share"] == wilson(0, 20) and grouped["exact_match"] != found["exact_match"]


def test_intervals_know_groups_and_no_order() -> None:
    (statistics,) = sample(60, right=(0.7,))
    fourfold = TextStatistics(np.repeat(statistics.rows, 4, axis=0), {})
    alone, alike = (text_intervals(fourfold, groups=groups, seed=1) for groups in (None, np.repeat(np.arange(60), 4)))
    for name in ("bleu", "chrf", "rouge_l"):
        widths = [high - low for low, high in (alone[name], alike[name])]
        assert 1.6 < widths[1] / widths[0] < 2.6
    order = np.random.default_rng(1).permutation(60)
    assert text_intervals(TextStatistics(statistics.rows[order], {}), seed=1) == text_intervals(statistics, seed=1)


def test_no_interval_from_too_little_or_where_nothing_varies() -> None:
    (few_documents,) = sample(9, right=(0.7,))
    assert text_intervals(few_documents, seed=1) == {}
    (many,) = sample(40, right=(0.7,))
    assert text_intervals(many, groups=np.arange(40) // 5, seed=1) == {}
    (right,) = sample(40, right=(1.0,))
    found = text_intervals(right, seed=1)
    assert "bleu" not in found and found["exact_match"] == wilson(40, 40)
    with pytest.raises(ValueError, match="one group for each document"):
        text_intervals(many, groups=np.arange(39), seed=1)


def test_an_unknown_cut_share_has_no_interval_and_no_test() -> None:
    references, (predictions,) = texts(30, right=(0.7,))
    unknown = text_statistics(references, predictions, bleu_tokenizer="13a")
    assert "cut_share" not in text_intervals(unknown, seed=1)
    with pytest.raises(ValueError, match="'cut_share' is not known"):
        paired_text_test(unknown, unknown, metric="cut_share", seed=1)


def test_loss_intervals() -> None:
    sums = losses(200)
    found, scores = loss_intervals(sums, seed=1), score_losses(sums)
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]))
    for name, value in scores.items():
        assert value is not None and found[name][0] < value < found[name][1]
    assert found["loss"][1] - found["loss"][0] < 0.5
    assert loss_intervals(losses(9), seed=1) == {}


@pytest.mark.parametrize("metric", TESTED)
def test_the_two_numbers_are_the_scores_themselves(metric: str) -> None:
    first, second = sample(60)
    test = paired_text_test(first, second, metric=metric, seed=1)
    expected = [score_texts(each)[metric] for each in (first, second)]
    assert [test.first, test.second] == pytest.approx(expected, abs=1e-10)
    assert test.metric == metric and test.p_mcnemar is None and test.documents == 60


@pytest.mark.parametrize("metric", TEXT_METRICS)
def test_identical_predictions_are_no_different(metric: str) -> None:
    first, _ = sample(60)
    test = paired_text_test(first, first, metric=metric, seed=1)
    assert (test.p, test.difference, test.only_first_right, test.only_second_right) == (1.0, 0.0, 0, 0)
    assert not test.better and test.low is None
    assert test.metric == TESTED_INSTEAD.get(metric, metric)


@few
@given(st.integers(0, 1000), st.sampled_from(TESTED), st.booleans(), st.sampled_from([5, 12, 40]))
def test_exchanging_the_two_changes_the_sign_and_nothing_else(seed: int, metric: str, grouped: bool, n: int) -> None:
    first, second = sample(n, right=(0.8, 0.75), seed=seed)
    groups = np.arange(n) % 11 if grouped else None
    there, back = (
        paired_text_test(*pair, metric=metric, groups=groups, resamples=100, seed=3)
        for pair in ((first, second), (second, first))
    )
    assert back.model_copy(update={"better": False}) == mirrored(there)
    assert not (there.better and back.better)


def test_ties_are_symmetric_too() -> None:
    references = [f"a b c {number}" for number in range(20)]
    right, wrong = references[:8] + ["x"] * 12, ["x"] * 12 + references[12:]
    first, second = counted(references, right), counted(references, wrong)
    there, back = (paired_text_test(*pair, metric="exact_match", seed=3) for pair in ((first, second), (second, first)))
    assert there.difference == 0 and there.p == 1.0 and (there.only_first_right, there.only_second_right) == (8, 8)
    assert back == mirrored(there) and there.low is not None and there.low < 0


def test_p_of_few_documents_is_that_of_every_exchange() -> None:
    first, second = sample(7, right=(0.9, 0.5), seed=4)

    def bleu(rows: np.ndarray) -> float:
        return score_texts(TextStatistics(rows, {"distinct_1": None, "distinct_2": None}))["bleu"] or 0.0

    differences = []
    for swaps in itertools.product([False, True], repeat=7):
        swap = np.array(swaps)[:, None]
        one, other = np.where(swap, second.rows, first.rows), np.where(swap, first.rows, second.rows)
        differences.append(abs(bleu(one) - bleu(other)))
    expected = np.mean(np.array(differences) >= differences[0] - 1e-9)
    assert paired_text_test(first, second, metric="bleu", seed=1).p == pytest.approx(expected)
    assert 0 < expected < 1


def test_a_better_writer_is_found_and_chance_is_not() -> None:
    first, second = sample(200, right=(0.8, 0.6))
    for metric in ("bleu", "chrf", "rouge_l"):
        assert paired_text_test(first, second, metric=metric, seed=1).better
        assert not paired_text_test(second, first, metric=metric, seed=1).better
    ps = [paired_text_test(*sample(40, right=(0.7, 0.7), seed=seed), metric="bleu", seed=1).p for seed in range(40)]
    assert sum(p < 0.05 for p in ps) <= 6


def test_lower_is_better_for_repetition() -> None:
    references, (predictions,) = texts(40, right=(0.9,))
    first, second = counted(references, predictions), counted(references, [f"{text} {text}" for text in predictions])
    test = paired_text_test(first, second, metric="repetition", seed=1)
    assert test.better and test.difference < 0 and test.only_first_right > 30 and test.only_second_right == 0


def test_documents_are_judged_by_their_sentence_bleu() -> None:
    references, (one, other) = texts(50, right=(0.7, 0.6))
    scorer = SacreBLEU(tokenize="13a", effective_order=True)
    by_itself = [
        [scorer.sentence_score(text, [reference]).score for text, reference in zip(side, references, strict=True)]
        for side in (one, other)
    ]
    ahead = np.subtract(*by_itself)
    test = paired_text_test(counted(references, one), counted(references, other), metric="bleu", seed=1)
    assert (test.only_first_right, test.only_second_right) == ((ahead > 1e-9).sum(), (ahead < -1e-9).sum())


def test_groups_change_sides_together() -> None:
    first, second = sample(50, right=(0.8, 0.72))
    fourfold = [TextStatistics(np.repeat(each.rows, 4, axis=0), {}) for each in (first, second)]
    alone = paired_text_test(first, second, metric="chrf", seed=1)
    alike = paired_text_test(*fourfold, metric="chrf", groups=np.repeat(np.arange(50), 4), seed=1)
    assert alike.groups == 50 and alike.documents == 200
    assert alike.p == pytest.approx(alone.p, abs=0.03)
    assert paired_text_test(*fourfold, metric="chrf", seed=1).p <= alike.p


def test_a_thousand_documents_take_a_moment() -> None:
    first, second = sample(1000)
    start = time.perf_counter()
    text_intervals(first, seed=1)
    paired_text_test(first, second, metric="bleu", seed=1)
    assert time.perf_counter() - start < 3


def test_other_documents_and_unknown_metrics_are_refused() -> None:
    first, second = sample(20)
    with pytest.raises(ValueError, match="of the same documents"):
        paired_text_test(first, sample(20, seed=2)[0], metric="bleu", seed=1)
    with pytest.raises(ValueError, match="of the same documents"):
        paired_text_test(first, sample(21)[0], metric="bleu", seed=1)
    with pytest.raises(ValueError, match="'accuracy' cannot be tested"):
        paired_text_test(first, second, metric="accuracy", seed=1)
    with pytest.raises(ValueError, match="as many groups as documents"):
        paired_text_test(first, second, metric="bleu", groups=np.arange(3), seed=1)


def test_losses_of_two_models() -> None:
    first, second = losses(100), losses(100, worse=0.1)
    test = paired_loss_test(first, second, seed=1)
    assert (test.metric, test.first, test.second) == (
        "loss",
        *(pytest.approx(score_losses(each)["loss"]) for each in (first, second)),
    )
    assert test.better and test.difference < 0 and test.high is not None and test.high < 0
    assert test.only_first_right > 80 and test.only_first_right + test.only_second_right == 100
    assert paired_loss_test(second, first, seed=1) == mirrored(test)
    assert paired_loss_test(first, first, seed=1).p == 1.0
    assert paired_loss_test(first, second, metric="perplexity", seed=1) == test
    assert paired_loss_test(first, second, metric="nats_per_character", seed=1).metric == "nats_per_character"


def test_losses_by_different_tokens_are_compared_by_character() -> None:
    first, second = losses(100), losses(100, worse=0.1)
    halved = LossStatistics(second.nats, second.tokens // 2 + 1, second.characters)
    test = paired_loss_test(first, halved, seed=1)
    assert test == paired_loss_test(first, second, metric="nats_per_character", seed=1)
    with pytest.raises(ValueError, match="of the same documents"):
        paired_loss_test(first, losses(100, seed=2), seed=1)
    with pytest.raises(ValueError, match="'bleu' cannot be tested"):
        paired_loss_test(first, second, metric="bleu", seed=1)
