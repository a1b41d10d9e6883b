"""Intervals contain their score, cover the truth about as often as they say, and know groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finetune.scores.classification import COUNTED_NAMES, score_predictions
from finetune.scores.intervals import _bias_corrected, bootstrap_classification, effective_groups, wilson

quick = settings(max_examples=60, deadline=None)


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
    plain = _bias_corrected(np.array(scores, dtype=float), point=point, confidence=0.95)
    assert intervals["f1_macro"] == pytest.approx(plain, abs=0.012)


def test_groups_that_agree_within_themselves_widen_the_interval() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 25)
    references = generator.integers(0, 2, size=1000)
    right = np.repeat(generator.random(40) < 0.7, 25)
    predictions = np.where(right, references, 1 - references)

    def width(groups: np.ndarray | None) -> float:
        low, high = bootstrap_classification(references, predictions, classes=2, groups=groups, resamples=500, seed=0)[
            "accuracy"
        ]
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
    assert intervals == {"accuracy": wilson(50, 50)} and intervals["accuracy"][0] < 0.95
    in_pairs = bootstrap_classification(references, references, classes=2, groups=np.arange(50) // 2, seed=0)
    assert in_pairs == {"accuracy": wilson(25, 25)}


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
