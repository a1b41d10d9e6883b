"""Paired tests: equal to scipy's and statsmodels' where those exist, honest about chance, and knowing groups."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from finetune.run_files import PairedTest
from finetune.scores.classification import COUNTED_NAMES, METRIC_NAMES, score_classification, score_predictions
from finetune.scores.paired import Judged, holm, is_better, mcnemar, paired_test

CLASSES = 3
quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def judged(references: np.ndarray, *, right: float, generator: np.random.Generator) -> Judged:
    """Single labels, each right with this chance, and probabilities that fit them."""
    guesses = np.where(
        generator.random(len(references)) < right, references, generator.integers(0, CLASSES, size=len(references))
    )
    probabilities = generator.dirichlet(np.ones(CLASSES), size=len(references))
    probabilities[np.arange(len(references)), guesses] += 1
    return Judged(guesses, probabilities / 2)


def pair(seed: int, *, n: int = 200, right: tuple[float, float] = (0.8, 0.6)) -> tuple[np.ndarray, Judged, Judged]:
    generator = np.random.default_rng(seed)
    references = generator.integers(0, CLASSES, size=n)
    one, other = (judged(references, right=share, generator=generator) for share in right)
    return references, one, other


def compared(
    references: np.ndarray, first: Judged, second: Judged, *, metric: str = "f1_macro", resamples: int = 200,
    groups: np.ndarray | None = None, seed: int = 1, multi_label: bool = False,
) -> PairedTest:  # fmt: skip
    return paired_test(
        references, first, second, classes=CLASSES, metric=metric, groups=groups, resamples=resamples, seed=seed,
        multi_label=multi_label,
    )  # fmt: skip


@pytest.mark.parametrize("metric", [*METRIC_NAMES, "loss"])
def test_the_two_numbers_are_the_scores_themselves(metric: str) -> None:
    references, one, other = pair(3)
    found = compared(references, one, other, metric=metric)
    tested = {"roc_auc": "f1_macro"}.get(metric, metric)
    assert found.metric == tested
    for judge, value in ((one, found.first), (other, found.second)):
        assert judge.probabilities is not None
        scores = score_classification(references, judge.probabilities, label_names=["a", "b", "c"]).values
        assert value == pytest.approx(scores[{"loss": "log_loss"}.get(tested, tested)], abs=1e-12)
    assert found.difference == pytest.approx(found.first - found.second)
    assert found.low is not None and found.high is not None and found.low < found.difference < found.high


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "f1_micro", "matthews", "log_loss"])
def test_several_labels_are_tested_by_the_same_formulas(metric: str) -> None:
    generator = np.random.default_rng(4)
    references = generator.integers(0, 2, size=(150, CLASSES))
    probabilities = [
        np.clip(references * spread + generator.random(references.shape) * (1 - spread), 0, 1) for spread in (0.4, 0.2)
    ]
    one, other = (Judged((p >= 0.5).astype(int), p) for p in probabilities)
    found = compared(references, one, other, metric=metric, multi_label=True)
    for p, value in zip(probabilities, (found.first, found.second), strict=True):
        scores = score_classification(references, p, label_names=["a", "b", "c"], multi_label=True)
        assert value == pytest.approx(scores.values[metric], abs=1e-12)
    assert found.better
    right = [(judge.predictions == references).all(axis=1) for judge in (one, other)]
    assert found.only_first_right == (right[0] & ~right[1]).sum()


@pytest.mark.parametrize("seed", range(5))
def test_p_of_accuracy_equals_scipys_paired_permutation(seed: int) -> None:
    references, one, other = pair(seed, n=150, right=(0.75, 0.65))
    right = [(judge.predictions == references).astype(float) for judge in (one, other)]
    theirs = stats.permutation_test(
        right, lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=20_000, rng=seed,
    )  # fmt: skip
    ours = compared(references, one, other, metric="accuracy", resamples=20_000)
    assert ours.p == pytest.approx(theirs.pvalue, abs=4 * np.sqrt(0.25 / 20_000) * np.sqrt(2))


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "log_loss"])
@pytest.mark.parametrize("grouped", [False, True])
def test_few_differing_units_are_enumerated(metric: str, grouped: bool) -> None:
    generator = np.random.default_rng(8)
    references = generator.integers(0, CLASSES, size=90)
    one = judged(references, right=0.8, generator=generator)
    assert one.probabilities is not None
    changed = np.arange(0, 90, 13)
    predictions, probabilities = one.predictions.copy(), one.probabilities.copy()
    predictions[changed] = generator.integers(0, CLASSES, size=len(changed))
    probabilities[changed] = generator.dirichlet(np.ones(CLASSES), size=len(changed))
    other = Judged(predictions, probabilities)
    groups = np.arange(90) // 20 if grouped else None
    found = compared(references, one, other, metric=metric, groups=groups)
    units = np.arange(90) if groups is None else groups
    differing = np.unique(units[changed])

    def difference(swapped_units: tuple[int, ...]) -> float:
        swap = np.isin(units, swapped_units)
        values = []
        for left, right in ((one, other), (other, one)):
            labels = np.where(swap, right.predictions, left.predictions)
            if metric == "log_loss":
                assert left.probabilities is not None and right.probabilities is not None
                mixed = np.where(swap[:, None], right.probabilities, left.probabilities)
                values.append(score_classification(references, mixed, label_names=["a", "b", "c"]).values[metric])
            else:
                values.append(score_predictions(references, labels, label_names=["a", "b", "c"]).values[metric])
        return float(values[0] or 0) - float(values[1] or 0)

    every = [difference(chosen) for k in range(len(differing) + 1) for chosen in itertools.combinations(differing, k)]
    expected = np.mean(np.abs(every) >= abs(difference(())) - 1e-12)
    assert found.p == pytest.approx(expected, abs=1e-15)
    assert found.groups == (5 if grouped else None)


def test_without_a_disagreement_p_is_1_and_nothing_is_better() -> None:
    references, one, _ = pair(5)
    for groups in (None, np.arange(200) // 10):
        found = compared(references, one, one, groups=groups)
        assert (found.p, found.difference, found.better, found.low) == (1.0, 0.0, False, None)
        assert found.p_mcnemar == (1.0 if groups is None else None)


def test_few_resamples_do_not_keep_p_from_being_small() -> None:
    references, one, _ = pair(5)
    wrong = Judged((references + 1) % CLASSES)
    found = compared(references, one, wrong, metric="accuracy", resamples=10)
    assert found.better and found.p < 0.01


def test_one_right_answer_more_is_no_evidence() -> None:
    references, one, _ = pair(6)
    predictions = one.predictions.copy()
    row = int(np.flatnonzero(predictions == references)[0])
    predictions[row] = (predictions[row] + 1) % CLASSES
    found = compared(references, one, Judged(predictions), metric="accuracy")
    assert (found.p, found.p_mcnemar, found.only_first_right, found.only_second_right) == (1.0, 1.0, 1, 0)


@quick
@given(seeds, st.sampled_from([*COUNTED_NAMES, "error_rate", "log_loss"]), st.booleans(), st.integers(2, 120))
def test_exchanging_the_two_changes_the_sign_and_nothing_else(seed: int, metric: str, grouped: bool, n: int) -> None:
    references, one, other = pair(seed, n=n)
    groups = np.arange(n) // 3 if grouped else None
    found = compared(references, one, other, metric=metric, groups=groups, resamples=99)
    back = compared(references, other, one, metric=metric, groups=groups, resamples=99)
    assert 0 < found.p <= 1
    assert (back.p, back.p_mcnemar) == (found.p, found.p_mcnemar)
    assert back.difference == pytest.approx(-found.difference, abs=1e-12)
    assert (back.only_first_right, back.only_second_right) == (found.only_second_right, found.only_first_right)
    assert not (found.better and back.better)
    assert (found.low is None) == (back.low is None)
    if found.low is not None and found.high is not None and abs(found.difference) > 1e-9:
        assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=1e-12)


@quick
@given(seeds, st.sampled_from(["f1_macro", "accuracy", "log_loss"]), st.booleans())
def test_the_order_of_the_documents_does_not_matter(seed: int, metric: str, grouped: bool) -> None:
    references, one, other = pair(seed, n=60)
    groups = np.arange(60) // 4 if grouped else None
    order = np.random.default_rng(seed).permutation(60)
    assert one.probabilities is not None and other.probabilities is not None
    shuffled = [Judged(judge.predictions[order], judge.probabilities[order]) for judge in (one, other)]  # type: ignore[index]
    found = compared(references, one, other, metric=metric, groups=groups, resamples=99)
    again = compared(
        references[order], *shuffled, metric=metric, groups=None if groups is None else groups[order], resamples=99
    )
    assert again.p == found.p
    assert again.low == pytest.approx(found.low, abs=1e-12) and again.high == pytest.approx(found.high, abs=1e-12)


def test_chance_alone_is_called_better_as_rarely_as_promised_only_with_groups() -> None:
    """Twenty documents of an author share their luck; both models are equally good."""
    generator = np.random.default_rng(9)
    authors, each, trials = 30, 20, 400
    groups = np.repeat(np.arange(authors), each)
    references = np.zeros(authors * each, dtype=int)
    below = {"groups": 0, "documents": 0}
    for trial in range(trials):
        luck = generator.beta(1, 1, size=(2, authors))
        sides = [Judged((generator.random(len(groups)) >= np.repeat(side, each)).astype(int)) for side in luck]
        for name, chosen in (("groups", groups), ("documents", None)):
            found = paired_test(
                references, *sides, classes=2, metric="accuracy", groups=chosen, resamples=0, seed=trial
            )
            below[name] += found.p < 0.05
            assert found.low is None
    # Three standard errors around 5 %.
    assert abs(below["groups"] / trials - 0.05) < 3 * np.sqrt(0.05 * 0.95 / trials)
    assert below["documents"] / trials > 0.3


def test_the_interval_of_the_difference_contains_the_truth() -> None:
    generator = np.random.default_rng(10)
    trials, contained = 300, 0
    for trial in range(trials):
        references = generator.integers(0, 2, size=150)
        hard = generator.random(150) < 0.4
        sides = [
            Judged(np.where(hard & (generator.random(150) < wrong), 1 - references, references)) for wrong in (0.2, 0.5)
        ]
        found = paired_test(references, *sides, classes=2, metric="accuracy", resamples=300, seed=trial)
        assert found.low is not None and found.high is not None
        contained += found.low <= 0.12 <= found.high
    assert 0.91 < contained / trials < 0.985


def test_below_ten_effective_groups_there_is_a_p_and_no_interval() -> None:
    references, one, other = pair(11)
    found = compared(references, one, other, groups=np.arange(200) // 25)
    assert found.low is None and found.high is None and found.groups == 8
    # Eight groups can be swapped in 256 ways, and a way and its mirror image are as large as each other.
    assert found.p * 256 == pytest.approx(round(found.p * 256)) and found.p >= 2 / 256


def test_better_has_the_direction_of_the_metric() -> None:
    references, one, other = pair(12, right=(0.95, 0.3))
    assert compared(references, one, other).better
    assert not compared(references, other, one).better
    for metric in ("error_rate", "log_loss", "loss"):
        found = compared(references, one, other, metric=metric)
        assert found.better and found.difference < 0
    assert not is_better(compared(references, one, other).model_copy(update={"p_holm": 0.05}))


def test_the_majority_class_has_a_matthews_of_0() -> None:
    references, one, _ = pair(13)
    majority = Judged(np.zeros(200, dtype=int))
    found = compared(references, one, majority, metric="matthews")
    assert found.second == 0.0 and found.better and found.low is not None


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (10, 3), (40, 61), (0, 9)])
def test_mcnemar_equals_statsmodels(b: int, c: int) -> None:
    theirs = statsmodels_mcnemar([[20, b], [c, 20]], exact=True).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_holm_equals_statsmodels(count: int) -> None:
    ps = (np.random.default_rng(count).random(count) ** 3).round(2).tolist()  # rounded, so that there are ties
    assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1], abs=1e-12)


def test_nothing_to_correct() -> None:
    assert holm([]) == [] and holm([0.03]) == [0.03]


@pytest.mark.parametrize("metric", ["f1_macro", "log_loss"])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_hundred_thousand_documents_take_seconds(metric: str, grouped: bool) -> None:
    references, one, other = pair(14, n=100_000)
    groups = np.arange(100_000) // 4 if grouped else None
    started = time.process_time()
    found = compared(references, one, other, metric=metric, groups=groups, resamples=1000)
    assert time.process_time() - started < 30  # two to five seconds here; a loop over documents takes an hour
    assert found.better and found.p == pytest.approx(1 / 1001)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": "bleu"}, "'bleu' cannot be tested"),
        ({"groups": np.zeros(3)}, "as many groups as documents"),
        ({"second": Judged(np.zeros(9, dtype=int))}, "one entry for each document"),
        ({"second": Judged(np.full(10, 7))}, "must be 0 to 2"),
        ({"metric": "log_loss", "second": Judged(np.zeros(10, dtype=int))}, "needs probabilities"),
    ],
)
def test_what_cannot_be_tested_is_refused(change: dict[str, object], says: str) -> None:
    references, one, other = pair(15, n=10)
    arguments = {"first": one, "second": other, "classes": CLASSES, "metric": "accuracy", "seed": 1} | change
    with pytest.raises(ValueError, match=says):
        paired_test(references, **arguments)  # type: ignore[arg-type]
