"""Intervals contain their score, cover the truth about as often as they say, and know groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from finetune.scores import bootstrap
from finetune.scores.bootstrap import Units, drawn_weights, jackknife, percentiles
from finetune.scores.classification import COUNTED_NAMES, score_classification, score_predictions
from finetune.scores.intervals import (
    bootstrap_classification,
    bootstrap_mean,
    bootstrap_probabilities,
    class_intervals,
    effective_groups,
    least_class_groups,
    wilson,
)

quick = settings(max_examples=40, deadline=None)


def documents(seed: int, *, n: int = 200, classes: int = 3, right: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    references = generator.integers(0, classes, size=n)
    guesses = generator.integers(0, classes, size=n)
    return references, np.where(generator.random(n) < right, references, guesses)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), Two-sided confidence intervals for the single proportion, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_the_published_table(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@quick
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_equals_statsmodels(case: tuple[int, int], confidence: float) -> None:
    expected = proportion_confint(*case, alpha=1 - confidence, method="wilson")
    assert wilson(*case, confidence=confidence) == pytest.approx(expected, abs=1e-9)


@quick
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_and_stays_within_0_and_1(case: tuple[int, int]) -> None:
    successes, n = case
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    narrow = wilson(successes, n, confidence=0.5)
    assert low <= narrow[0] and narrow[1] <= high


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        wilson(successes, n)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(30, 300), st.integers(2, 5), st.floats(0.3, 0.95))
def test_the_score_lies_strictly_inside_its_interval_in_ordinary_cases(
    seed: int, n: int, classes: int, right: float
) -> None:
    references, predictions = documents(seed, n=n, classes=classes, right=right)
    # A single mistake is not ordinary: a third of the resamples would be perfect.
    assume(5 <= (references == predictions).sum() <= n - 5)
    scores = score_predictions(references, predictions, label_names=[str(k) for k in range(classes)])
    intervals = bootstrap_classification(references, predictions, classes=classes, resamples=300, seed=seed)
    assert set(intervals) == set(COUNTED_NAMES)
    for name, (low, high) in intervals.items():
        value = scores.values[name]
        assert value is not None and low < value < high and high <= 1 and low >= (-1 if name == "matthews" else 0)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # 80 % right, plus a third of the rest by luck; balanced classes, so the true macro-F1 is the same number.
    truth, trials = 0.8 + 0.2 / 3, 300
    covered = {"accuracy": 0, "f1_macro": 0}
    for seed in range(trials):
        references, predictions = documents(seed, n=150)
        intervals = bootstrap_classification(references, predictions, classes=3, resamples=300, seed=seed)
        for name in covered:
            covered[name] += intervals[name][0] <= truth <= intervals[name][1]
    assert all(0.91 <= count / trials <= 0.985 for count in covered.values()), covered


def test_documents_drawn_one_by_one_give_the_same_interval() -> None:
    references, predictions = documents(3, n=120)
    intervals = bootstrap_classification(references, predictions, classes=3, resamples=4000, seed=0)
    generator = np.random.default_rng(1)
    scores = []
    for _ in range(2000):
        drawn = generator.integers(0, 120, size=120)
        drawn_scores = score_predictions(references[drawn], predictions[drawn], label_names=["a", "b", "c"])
        scores.append(drawn_scores.values["f1_macro"])
    point = score_predictions(references, predictions, label_names=["a", "b", "c"]).values["f1_macro"]
    assert point is not None
    plain = percentiles(np.array(scores, dtype=float), point=point, acceleration=0.0, reach=1.98)
    assert intervals["f1_macro"] == pytest.approx(plain, abs=0.012)


def test_groups_that_agree_within_themselves_widen_the_interval() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 25)
    references = generator.integers(0, 2, size=1000)
    right = np.repeat(generator.random(40) < 0.7, 25)
    predictions = np.where(right, references, 1 - references)

    def width(groups: np.ndarray | None) -> float:
        drawn = bootstrap_classification(references, predictions, classes=2, groups=groups, resamples=500, seed=0)
        low, high = drawn["accuracy"]
        return high - low

    # Forty coin tosses instead of a thousand: five times as wide.
    assert width(groups) / width(None) == pytest.approx(5, rel=0.25)
    assert width(np.arange(1000)) == pytest.approx(width(None), rel=0.15)


def test_group_names_may_be_any_text() -> None:
    references, predictions = documents(5, n=100)
    numbers = np.arange(100) % 20
    texts = np.array([f"file {number:02d}.py" for number in numbers], dtype=object)
    by_number = bootstrap_classification(references, predictions, classes=3, groups=numbers, resamples=50, seed=1)
    assert by_number == bootstrap_classification(references, predictions, classes=3, groups=texts, resamples=50, seed=1)


def test_multi_label_documents_have_intervals_too() -> None:
    generator = np.random.default_rng(0)
    references = generator.integers(0, 2, size=(200, 3))
    predictions = np.where(generator.random((200, 3)) < 0.85, references, 1 - references)
    values = score_predictions(references, predictions, label_names=["a", "b", "c"], multi_label=True).values
    intervals = bootstrap_classification(references, predictions, classes=3, resamples=200, seed=0, multi_label=True)
    assert set(intervals) == set(COUNTED_NAMES)
    assert all(low < (values[name] or 0) < high for name, (low, high) in intervals.items())


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    references, predictions = documents(1)

    def interval(seed: int) -> dict[str, tuple[float, float]]:
        return bootstrap_classification(references, predictions, classes=3, resamples=100, seed=seed)

    assert interval(7) == interval(7) != interval(8)


def test_fewer_than_ten_effective_groups_have_no_interval() -> None:
    references, predictions = documents(2, n=90)
    assert bootstrap_classification(references[:9], predictions[:9], classes=3, seed=0) == {}
    nine = np.arange(90) % 9
    assert bootstrap_classification(references, predictions, classes=3, groups=nine, seed=0) == {}
    # Eleven groups by name, but one holds almost everything.
    lopsided = np.minimum(np.arange(90), 10)
    assert effective_groups(lopsided) < 2
    assert bootstrap_classification(references, predictions, classes=3, groups=lopsided, seed=0) == {}


@quick
@given(st.lists(st.integers(0, 20), min_size=1, max_size=60))
def test_effective_groups_are_at_most_the_groups_there_are(groups: list[int]) -> None:
    effective = effective_groups(np.array(groups))
    sizes = [groups.count(group) for group in set(groups)]
    assert 1 <= effective <= len(sizes) + 1e-9
    if len(set(sizes)) == 1:
        assert effective == pytest.approx(len(sizes))


def test_a_perfect_score_is_no_certainty() -> None:
    references = np.arange(50) % 2
    intervals = bootstrap_classification(references, references, classes=2, seed=0)
    shares = ("accuracy", "precision_micro", "recall_micro", "f1_micro", "recall_weighted")
    assert intervals == dict.fromkeys(shares, wilson(50, 50)) and intervals["accuracy"][0] < 0.95
    in_pairs = bootstrap_classification(references, references, classes=2, groups=np.arange(50) // 2, seed=0)
    assert in_pairs == {"accuracy": wilson(25, 25)}


def test_accuracy_under_another_name_has_the_same_interval() -> None:
    references, predictions = documents(4)
    intervals = bootstrap_classification(references, predictions, classes=3, seed=0, resamples=100)
    same = {intervals[name] for name in ("accuracy", "precision_micro", "recall_micro", "f1_micro", "recall_weighted")}
    assert same == {wilson(int((references == predictions).sum()), len(references))}


def test_a_score_that_most_resamples_cannot_have_gets_no_interval() -> None:
    # The one document of the second class is missing from a third of the resamples.
    references = np.array([1] + [0] * 29)
    predictions = np.array([1, 1] + [0] * 28)
    intervals = bootstrap_classification(references, predictions, classes=2, seed=0)
    assert "matthews" not in intervals and "accuracy" in intervals


def test_arrays_of_unequal_length_are_refused() -> None:
    references, predictions = documents(0)
    with pytest.raises(ValueError, match="one entry for each document"):
        bootstrap_classification(references, predictions, classes=3, groups=np.arange(5), seed=0)


# ---- probabilities, means, classes ----


def probable(
    seed: int, *, n: int = 300, classes: int = 3, skill: float = 1.5, multi_label: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """References and probabilities of a model that is right rather often."""
    generator = np.random.default_rng(seed)
    numbers = generator.normal(size=(n, classes))
    if multi_label:
        references = generator.integers(0, 2, size=(n, classes))
        return references, 1 / (1 + np.exp(-(numbers + skill * (2 * references - 1))))
    references = generator.integers(0, classes, size=n)
    numbers[np.arange(n), references] += skill
    return references, np.exp(numbers) / np.exp(numbers).sum(axis=1, keepdims=True)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(40, 200), st.integers(2, 5), st.booleans(), st.sampled_from([None, 25]))
def test_intervals_of_probabilities_contain_their_scores(
    seed: int, n: int, classes: int, multi_label: bool, count: int | None
) -> None:
    references, probabilities = probable(seed, n=n, classes=classes, multi_label=multi_label)
    groups = None if count is None else np.arange(n) % count
    names = [str(number) for number in range(classes)]
    values = score_classification(references, probabilities, label_names=names, multi_label=multi_label).values
    intervals = bootstrap_probabilities(
        references, probabilities, classes=classes, groups=groups, resamples=200, seed=seed, multi_label=multi_label
    )
    assert "log_loss" in intervals
    for name, (low, high) in intervals.items():
        value = values[name]
        assert value is not None and low < value < high and low >= 0
        assert name == "log_loss" or high <= 1


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_order_of_documents_changes_nothing(grouped: bool, multi_label: bool) -> None:
    references, probabilities = probable(1, n=150, multi_label=multi_label)
    predictions = (probabilities >= 0.5).astype(int) if multi_label else probabilities.argmax(axis=1)
    groups = np.arange(150) % 30 if grouped else None
    settings = {"classes": 3, "resamples": 100, "seed": 0, "multi_label": multi_label}

    def every(order: np.ndarray) -> list[float]:
        by_order = {**settings, "groups": None if groups is None else groups[order]}
        found = bootstrap_classification(references[order], predictions[order], **by_order)
        found |= bootstrap_probabilities(references[order], probabilities[order], **by_order)
        rates = class_intervals(references[order], predictions[order], **by_order)
        mean = bootstrap_mean(
            probabilities[order, 0], groups=by_order["groups"], resamples=100, seed=0
        )  # any number of a document
        return [
            *np.array([*found.values(), mean]).flat,
            *(end for row in rates for pair in row.values() for end in pair),
        ]

    shuffled = np.random.default_rng(0).permutation(150)
    assert every(np.arange(150)) == pytest.approx(every(shuffled), abs=1e-9)


def test_groups_of_one_document_are_documents() -> None:
    references, probabilities = probable(3, n=400)
    predictions, single = probabilities.argmax(axis=1), np.arange(400)
    for function, given_scores in ((bootstrap_classification, predictions), (bootstrap_probabilities, probabilities)):
        alone = function(references, given_scores, classes=3, groups=single, resamples=2000, seed=0)
        without = function(references, given_scores, classes=3, resamples=2000, seed=0)
        assert set(alone) == set(without)
        for name, (low, high) in alone.items():
            assert (low, high) == pytest.approx(without[name], abs=0.12 * (high - low)), name
    by_class = zip(
        class_intervals(references, predictions, classes=3, groups=single, resamples=2000, seed=0),
        class_intervals(references, predictions, classes=3, resamples=2000, seed=0),
        strict=True,
    )
    for alone_row, without_row in by_class:
        for name, (low, high) in alone_row.items():
            assert [low, high] == pytest.approx(without_row[name], abs=0.2 * (high - low)), name


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("groups", [None, np.arange(200) % 40])
def test_the_size_of_the_blocks_changes_nothing(
    groups: np.ndarray | None, multi_label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    references, probabilities = probable(5, n=200, multi_label=multi_label)
    predictions = (probabilities >= 0.5).astype(int) if multi_label else probabilities.argmax(axis=1)

    def every() -> list[float]:
        settings = {"classes": 3, "groups": groups, "resamples": 60, "seed": 2, "multi_label": multi_label}
        found = bootstrap_classification(references, predictions, **settings)
        found |= bootstrap_probabilities(references, probabilities, **settings)
        rates = class_intervals(references, predictions, **settings)
        return [*np.array(list(found.values())).flat, *(end for row in rates for pair in row.values() for end in pair)]

    in_one_block = every()
    # Blocks of one resample, and of a few units for the jackknife.
    monkeypatch.setattr(bootstrap, "NUMBERS_PER_BLOCK", 64)
    assert every() == pytest.approx(in_one_block, abs=1e-9)


@pytest.mark.parametrize("repeats", [np.ones(50, dtype=int), np.arange(1, 51), np.array([900, 90, 9, 1])])
def test_a_draw_has_as_many_documents_and_the_given_shares(repeats: np.ndarray) -> None:
    weights = np.concatenate(list(drawn_weights(repeats, resamples=3000, seed=0)))
    assert (weights.sum(axis=1) == repeats.sum()).all() and (weights >= 0).all()
    spread = np.sqrt(repeats * (1 - repeats / repeats.sum()))
    assert weights.mean(axis=0) == pytest.approx(repeats, abs=float(5 * spread.max() / np.sqrt(3000)))
    assert weights.std(axis=0) == pytest.approx(spread, rel=0.15)


def test_the_mean_has_the_interval_of_scipy() -> None:
    values = np.random.default_rng(0).gamma(1.0, size=2000)
    expected = stats.bootstrap((values,), np.mean, n_resamples=4000, method="BCa", random_state=0).confidence_interval
    found = bootstrap_mean(values, resamples=4000, seed=0)
    assert found is not None
    # Ours is expanded by Student's t, which 2,000 documents hardly need.
    assert found == pytest.approx((expected.low, expected.high), abs=0.1 * (expected.high - expected.low))


def test_the_jackknife_has_the_standard_error_of_the_mean_and_scipys_acceleration() -> None:
    values = np.random.default_rng(1).gamma(0.5, size=60)
    units = Units(np.column_stack([values, np.ones(60)]), np.ones(60, dtype=int))
    spread = jackknife(units, lambda totals: totals[..., :1] / totals[..., 1:], independent=60)
    # One document less: the mean of the others moves by its deviation over 59.
    assert spread.error[0] == pytest.approx(values.std() * np.sqrt(60) / 59)
    assert spread.acceleration[0] == pytest.approx(stats.skew(values) / (6 * np.sqrt(60)))
    freedom = 2 * 60 / (stats.kurtosis(values, fisher=False) - 1)
    assert spread.reach[0] == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt((freedom + 1) / freedom))
    assert freedom < 30


def test_fewer_groups_reach_further_than_students_t() -> None:
    units = Units(np.column_stack([np.linspace(0, 1, 12), np.ones(12)]), np.ones(12, dtype=int))
    spread = jackknife(units, lambda totals: totals[..., :1] / totals[..., 1:], independent=12)
    # Evenly spread values know their variance well, so only the number of groups widens.
    assert spread.reach[0] == pytest.approx(stats.t.ppf(0.975, 11) * np.sqrt(12 / 11))


def test_the_area_has_the_standard_error_of_delong() -> None:
    references, probabilities = probable(7, n=300, classes=2)
    positive = references == 1
    ours, theirs = probabilities[positive, 1], probabilities[~positive, 1]
    above = (ours[:, None] > theirs).astype(float)
    area = roc_auc_score(references, probabilities[:, 1])
    error = np.sqrt(above.mean(axis=1).var(ddof=1) / len(ours) + above.mean(axis=0).var(ddof=1) / len(theirs))
    low, high = bootstrap_probabilities(references, probabilities, classes=2, seed=0)["roc_auc"]

    def log_odds(share: float) -> float:
        return float(np.log(share / (1 - share)))

    assert log_odds(low) + log_odds(high) == pytest.approx(2 * log_odds(area))
    reach = (log_odds(high) - log_odds(low)) / 2 * area * (1 - area) / error
    assert 1.96 < reach < 2.1


def test_an_area_of_constant_probabilities_has_no_interval() -> None:
    references = np.arange(60) % 3
    for groups in (None, np.arange(60) // 3):
        intervals = bootstrap_probabilities(
            references, np.tile([0.2, 0.3, 0.5], (60, 1)), classes=3, groups=groups, seed=0, resamples=50
        )
        assert "roc_auc" not in intervals


def test_the_area_needs_three_documents_of_every_class() -> None:
    references, probabilities = probable(8, n=60)
    for members, has_interval in ((2, False), (3, True)):
        rare = np.where(np.arange(60) < members, 2, references % 2)
        intervals = bootstrap_probabilities(rare, probabilities, classes=3, seed=0, resamples=50)
        assert ("roc_auc" in intervals) is has_interval and "log_loss" in intervals
    without = bootstrap_probabilities(references % 2, probabilities, classes=3, seed=0, resamples=50)
    assert set(without) == {"log_loss"}


def _least_groups(groups: np.ndarray, references: np.ndarray, predictions: np.ndarray, label: int) -> float:
    """The fewest effective groups among the documents that one of a label's rates is a share of."""
    shares = [predictions == label, references == label, references != label]
    return min(effective_groups(groups[documents]) for documents in shares)


@quick
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([None, 20]))
@example(12202192, False, 20)
def test_the_intervals_of_a_class_contain_its_scores(seed: int, multi_label: bool, count: int | None) -> None:
    references, probabilities = probable(seed, n=120, multi_label=multi_label)
    predictions = (probabilities >= 0.5).astype(int) if multi_label else probabilities.argmax(axis=1)
    groups = None if count is None else np.arange(120) % count
    scores = score_predictions(references, predictions, label_names=["a", "b", "c"], multi_label=multi_label)
    rows = class_intervals(
        references, predictions, classes=3, groups=groups, resamples=200, seed=seed, multi_label=multi_label
    )
    for number, (row, scored) in enumerate(zip(rows, scores.per_class, strict=True)):
        assert set(row) <= {"precision", "recall", "f1", "fpr"}
        if groups is None or (not multi_label and _least_groups(groups, references, predictions, number) >= 10):
            assert set(row) == {"precision", "recall", "f1", "fpr"}
        for name, (low, high) in row.items():
            assert 0 <= low <= float(scored[name] or 0) <= high <= 1
        if groups is None:
            support = int(scored["support"] or 0)
            assert row["recall"] == pytest.approx(wilson(int(scored["tp"] or 0), support))
            assert row["fpr"] == pytest.approx(wilson(int(scored["fp"] or 0), 120 - support))


def test_a_rate_that_is_undefined_has_no_interval() -> None:
    references = np.arange(60) % 2
    predictions = np.zeros(60, dtype=int)
    rows = class_intervals(references, predictions, classes=3, seed=0, resamples=50)
    assert set(rows[0]) == {"precision", "recall", "f1", "fpr"}
    # The second class is never predicted, the third not even there; f1 is 0 in every resample.
    assert set(rows[1]) == {"recall", "fpr"}
    assert set(rows[2]) == {"fpr"} and rows[2]["fpr"] == pytest.approx(wilson(0, 60))


def test_a_class_from_few_groups_has_no_rates_of_its_own() -> None:
    references = np.zeros(400, dtype=int)
    references[:100] = 1
    groups = np.arange(400) // 20
    predictions = np.where(np.arange(400) % 7 == 0, 1 - references, references)
    rows = class_intervals(references, predictions, classes=2, groups=groups, seed=0, resamples=100)
    # Five groups hold the documents of the second class, fifteen those of the first; what is predicted is mixed.
    assert "recall" not in rows[1] and "recall" in rows[0] and "fpr" in rows[1] and "fpr" not in rows[0]
    assert least_class_groups(references, groups, classes=3) == pytest.approx(5)


def test_a_rate_without_mistakes_in_groups_has_wilsons_interval_for_as_many_groups() -> None:
    references = np.arange(200) % 2
    rows = class_intervals(references, references, classes=2, groups=np.arange(200) // 10, seed=0, resamples=50)
    assert rows[0] == {name: pytest.approx(list(ends)) for name, ends in {
        "precision": wilson(20, 20), "recall": wilson(20, 20), "fpr": wilson(0, 20)
    }.items()}  # fmt: skip


def test_nothing_has_an_interval_below_ten_units() -> None:
    references, probabilities = probable(9, n=90)
    predictions, nine = probabilities.argmax(axis=1), np.arange(90) % 9
    for documents, groups in ((slice(0, 9), None), (slice(0, 90), nine)):
        few = {"groups": groups, "seed": 0}
        given_references, given_probabilities = references[documents], probabilities[documents]
        assert bootstrap_probabilities(given_references, given_probabilities, classes=3, **few) == {}
        assert bootstrap_mean(given_probabilities[:, 0], **few) is None
        assert class_intervals(given_references, predictions[documents], classes=3, **few) == [{}, {}, {}]
    assert bootstrap_mean(probabilities[:10, 0], seed=0) is not None


def test_a_mean_of_equal_numbers_has_no_interval_and_a_broken_number_is_refused() -> None:
    assert bootstrap_mean(np.full(50, 0.3), seed=0) is None
    with pytest.raises(ValueError, match="one finite number for each document"):
        bootstrap_mean(np.array([1.0, np.nan] * 10), seed=0)
    with pytest.raises(ValueError, match="one entry for each document"):
        bootstrap_mean(np.ones(20), groups=np.arange(5), seed=0)


@pytest.mark.parametrize("count", [40, 80])
def test_forty_groups_that_resemble_each_other_within_are_covered(count: int) -> None:
    # Without the widening for few groups about 92 % are.
    trials, covered = 400, 0
    for seed in range(trials):
        generator = np.random.default_rng(seed)
        effects = np.repeat(generator.normal(size=count), 10)
        values = effects + generator.normal(size=10 * count)
        low, high = bootstrap_mean(values, groups=np.repeat(np.arange(count), 10), resamples=300, seed=seed) or (1, 0)
        covered += low <= 0 <= high
    assert 0.925 <= covered / trials <= 0.98
