"""The verdict in two sentences: against the baselines, and how the training went. Plain text in either language.

The report and the last screen say the same words, because both take them from here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Container, Iterable
from typing import Literal, Protocol

from finetune.report.strings import Language, Words
from finetune.run_files import FitVerdict, PairedTest, Score, Scores, SplitScores
from finetune.scores.images import IMAGE_METRICS
from finetune.scores.paired import SIGNIFICANT, compared_metric, greater_is_better
from finetune.scores.text_metrics import LOSS_METRICS, TEXT_METRICS

MOST_EVIDENCE = 4
# Which numbers of a verdict on the training are scores by the metric that chose the epoch.
SCORED_EVIDENCE = ("metric_best", "metric_last", "metric_at_loss_best", "majority_score")
# Scores of drawn images whose magnitude goes by the features, or by the pixels.
DISTANCES = ("frechet_distance", "kernel_distance", "fid", "kid", "reconstruction_error")
DISTANCE_DIGITS, MOST_DECIMALS = 3, 5
LOW_RECALL = 0.5
FLOOR = "real_images"  # the baseline of real images against other real ones
COPIES = "training_images"  # a baseline that nobody has to beat, because a copy cannot be told from a perfect drawing
ROUND_PERPLEXITY = 1e6  # from here on only its magnitude says anything

Outcome = Literal["good", "bad", "open"]


class Tested(Protocol):
    """What a paired test over documents and a resampled one over folds have in common."""

    @property
    def metric(self) -> str: ...
    @property
    def difference(self) -> float: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...
    @property
    def p(self) -> float: ...
    @property
    def p_holm(self) -> float | None: ...


def verdict_sentences(scores: Scores, language: Language = "en") -> list[str]:
    """Whether the model beats the baselines, and what the history says of the training; the bad news comes first."""
    words = Words(language)
    return [_against_baselines(scores, words), _training(scores, words)]


def outcome(scores: Scores) -> Outcome:
    """What the first sentence amounts to: good, bad, or open where nothing was tested."""
    if scores.beats_baselines is not None:
        return "good" if scores.beats_baselines else "bad"
    if "test" not in scores.splits or not scores.baselines:
        return "open"
    if is_of_images(scores.splits["test"].scores):
        return "open"
    strongest = strongest_baseline(scores)
    return "open" if strongest is None or _is_ahead(scores, strongest) else "bad"


def shown_split(scores: Scores) -> str:
    """The split that the page speaks of: test, or validation where test was not opened."""
    return "test" if "test" in scores.splits else "validation"


def strongest_baseline(scores: Scores) -> str | None:
    """As named by the run; in a run that names none, the best on validation by the selection metric."""
    if scores.strongest_baseline is not None:
        return scores.strongest_baseline
    metric = tested_metric(scores)
    known = {
        name: value
        for name, splits in scores.baselines.items()
        if "validation" in splits and (value := _value(splits["validation"].scores.get(metric))) is not None
    }
    best = max if greater_is_better(metric) else min
    return best(known, key=lambda name: known[name]) if known else None


def tested_metric(scores: Scores) -> str:
    """What the model and its baselines are compared by: the metric that chose the epoch, or what stands for it."""
    return compared_by(scores.metric_for_best_model, scores.splits[shown_split(scores)].scores)


def compared_by(metric: str, names: Container[str]) -> str:
    """The same for scores of these names: only where labels have probabilities does log loss stand for `loss`."""
    return compared_metric(metric, generated="log_loss" not in names)


def is_of_text(metric: str) -> bool:
    """Whether it scores written text."""
    return metric in TEXT_METRICS or metric in LOSS_METRICS


def is_of_image(metric: str) -> bool:
    """Whether it scores drawn images, image by image or as a set."""
    return metric in IMAGE_METRICS and metric != "loss"


def is_of_images(names: Container[str]) -> bool:
    """Whether scores of these names are of drawn images."""
    return "elbo" in names or "coverage" in names or "kernel_distance" in names


def score_text(score: Score | None, metric: str | None = None) -> str:
    """`0.628 [0.590, 0.664]`; ~ marks an interval that is only approximate."""
    if score is None or score.value is None:
        return "n/a"
    value, interval = number(score.value, metric), interval_text(score, metric)
    return f"{value} {interval}" if interval else value


def interval_text(score: Score, metric: str | None = None) -> str:
    if score.low is None or score.high is None:
        return ""
    return f"{'~' if score.coverage is not None else ''}[{number(score.low, metric)}, {number(score.high, metric)}]"


def difference_text(test: Tested) -> str:
    """`+0.026 [+0.004, +0.049]`"""
    difference = signed(test.difference, test.metric)
    if test.low is None or test.high is None:
        return difference
    return f"{difference} [{signed(test.low, test.metric)}, {signed(test.high, test.metric)}]"


def named_test(name: str, test: Tested, *, usual: str | None = None) -> str:
    """`majority (+0.010, p = 0.120)`; a test by another metric than the usual one names it."""
    metric = f"{test.metric} " if usual not in (None, test.metric) else ""
    return f"{name} ({metric}{signed(test.difference, test.metric)}, {p_text(p_of(test))})"


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def p_of(test: Tested) -> float:
    """The p that decides: corrected where several pairs were compared."""
    return test.p if test.p_holm is None else test.p_holm


def number(value: float, metric: str | None = None) -> str:
    """`0.628`; BLEU and chrF, which go to 100, `31.4`; a perplexity `1.84`, `12.3`, `2,160`."""
    if metric == "perplexity" and value >= ROUND_PERPLEXITY:
        return f"{value:.3g}"
    return f"{value + 0.0:,.{_decimals(value, metric)}f}"


def plain_score(value: float | None, metric: str | None = None) -> str:
    return "n/a" if value is None else number(value, metric)


def signed(value: float, metric: str | None = None) -> str:
    places = _decimals(value, metric)
    return f"{round(value, places) + 0.0:+.{places}f}"


def _decimals(value: float, metric: str | None) -> int:
    if metric in TEXT_METRICS and TEXT_METRICS[metric].highest == 100:
        return 1
    if metric == "perplexity":
        return 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    if metric in DISTANCES:  # of any magnitude, and so with as many digits
        return min(max(DISTANCE_DIGITS - 1 - math.floor(math.log10(abs(value) or 1.0)), 0), MOST_DECIMALS)
    return 1 if metric == "elbo" else 3


def _against_baselines(scores: Scores, words: Words) -> str:
    metric = tested_metric(scores)
    split = shown_split(scores)
    ours = scores.splits[split].scores.get(metric)
    if split == "test" and is_of_images(scores.splits[split].scores):
        return _drawn(scores, words)
    if split != "test":
        return words("verdict.closed", metric=metric, ours=score_text(ours, metric))
    if scores.baseline_tests:
        return _tested(scores, words)
    if ours is None or ours.value is None:
        reason = ours.note if ours is not None and ours.note else words("verdict.no_reason")
        return words("verdict.undefined", metric=metric, note=reason)
    strongest = strongest_baseline(scores)
    if strongest is None:
        return words("verdict.alone", metric=metric, ours=score_text(ours, metric), n=f"{ours.n:,}")
    key = "verdict.ahead_untested" if _is_ahead(scores, strongest) else "verdict.behind_untested"
    theirs = scores.baselines[strongest]["test"].scores.get(metric)
    ours_text, theirs_text = score_text(ours, metric), score_text(theirs, metric)
    return words(key, name=strongest, metric=metric, ours=ours_text, theirs=theirs_text)


def _drawn(scores: Scores, words: Words) -> str:
    """Of images: the paired tests, then the score that chose the epoch beside that of real images, and a low recall."""
    tests = {name: test for name, test in scores.baseline_tests.items() if name != COPIES}
    said = [_tested(scores.model_copy(update={"baseline_tests": tests}), words) if tests else words("drawn.untested")]
    copies = scores.baseline_tests.get(COPIES)
    if copies is not None:
        theirs = number(copies.second, copies.metric)
        said.append(words("drawn.copies", metric=copies.metric, theirs=theirs))
    metric, split = scores.metric_for_best_model, scores.splits["test"]
    ours, floor = split.scores.get(metric), _defined(scores.baselines.get(FLOOR, {}).get("test"), metric)
    if ours is None or ours.value is None:
        reason = ours.note if ours is not None and ours.note else words("verdict.no_reason")
        said.append(words("verdict.undefined", metric=metric, note=reason))
    elif floor is not None:
        value, real = score_text(ours, metric), score_text(floor, metric)
        said.append(words("drawn.floor", metric=metric, ours=value, floor=real))
    else:
        said.append(words("drawn.value", metric=metric, ours=score_text(ours, metric)))
    recall = _defined(split, "recall")
    if recall is not None and (recall.value or 0.0) < LOW_RECALL:
        said.append(words("drawn.recall", recall=score_text(recall, "recall")))
    return " ".join(said)


def _defined(split: SplitScores | None, metric: str) -> Score | None:
    score = split.scores.get(metric) if split is not None else None
    return score if score is not None and score.value is not None else None


def _tested(scores: Scores, words: Words) -> str:
    tests = scores.baseline_tests
    strongest = scores.strongest_baseline if scores.strongest_baseline in tests else _highest(tests)
    test = tests[strongest]
    ours = scores.splits["test"].scores.get(test.metric) or Score(value=test.first, n=test.documents)
    values = {
        "name": strongest,
        "metric": test.metric,
        "ours": score_text(ours, test.metric),
        "theirs": number(test.second, test.metric),
        "difference": difference_text(test),
        "p": p_text(p_of(test)),
    }
    beaten = [name for name, each in tests.items() if each.better]
    others = [named_test(name, each, usual=test.metric) for name, each in tests.items() if not each.better]
    if not others:
        return words("verdict.beats", **values)
    if test.better:
        return words("verdict.mixed", others=words.listed(others), **values)
    ahead = test.difference > 0 if greater_is_better(test.metric) else test.difference < 0
    chance = p_of(test) >= SIGNIFICANT
    tail = words("verdict.ahead_of_some", names=words.listed(beaten)) if beaten else ""
    key = "verdict.chance" if chance or ahead else "verdict.worse"
    if test.difference == 0:
        key = "verdict.tie"
    return words(key, tail=tail, **values)


def _training(scores: Scores, words: Words) -> str:
    fit = scores.fit
    if fit is None:
        epoch = f"{scores.best_epoch:g}" if scores.best_epoch is not None else words("fit.unknown_epoch")
        return words("fit.none", epoch=epoch, metric=scores.metric_for_best_model)
    text = words(f"fit.{fit.state}", epoch=f"{fit.since_epoch or 0:g}")
    if evidence := _shown_evidence(fit, scores.metric_for_best_model, words):
        text = words("fit.evidence", text=text, evidence=evidence)
    if fit.suggestions:
        return words("fit.try", text=text, override=fit.suggestions[0].override)
    return words("fit.end", text=text)


def _shown_evidence(fit: FitVerdict, metric: str, words: Words) -> str:
    """The numbers that say most about this state; the first few where those are not there."""
    known = {name: _evidence_number(name, value, metric) for name, value in fit.evidence.items()}
    keys = [f"fit.{fit.state}.numbers", f"fit.{fit.state}.score"]
    if fit.state == "still_learning" and fit.evidence.get("validation_loss_fall_at_end", 0.0) <= 0:
        keys = keys[1:]
    for key in keys:
        with contextlib.suppress(KeyError):  # a number or a sentence that this verdict does not have
            return words(key, **known)
    named = [f"{name} {value}" for name, value in evidence_rows(fit, metric, words)]
    return words.listed(named[:MOST_EVIDENCE])


def evidence_rows(fit: FitVerdict, metric: str, words: Words) -> list[tuple[str, str]]:
    """`lowest validation loss`, `0.412`, in the order of the verdict; a name without words keeps its own.

    `metric` is the one that chose the epoch.
    """
    return [
        (words.known("evidence", name), _evidence_number(name, value, metric)) for name, value in fit.evidence.items()
    ]


def _evidence_number(name: str, value: float, metric: str) -> str:
    return number(value, metric) if name in SCORED_EVIDENCE and is_of_text(metric) else plain_number(value)


def _is_ahead(scores: Scores, baseline: str) -> bool:
    metric = tested_metric(scores)
    ours = _value(scores.splits["test"].scores.get(metric))
    theirs = _value(scores.baselines[baseline]["test"].scores.get(metric))
    if ours is None or theirs is None:
        return False
    return ours > theirs if greater_is_better(metric) else ours < theirs


def _highest(tests: dict[str, PairedTest]) -> str:
    """The best baseline by the metric of the first test; those tested by another do not compare."""
    metric = next(iter(tests.values())).metric
    sign = 1 if greater_is_better(metric) else -1
    alike = [name for name, test in tests.items() if test.metric == metric]
    return max(alike, key=lambda name: sign * tests[name].second)


def _value(score: Score | None) -> float | None:
    return score.value if score is not None else None


def plain_number(value: float) -> str:
    """`3` for a count or an epoch, `0.412` for a loss."""
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"


def coverages(scores: Iterable[tuple[str, Score]]) -> dict[str, int]:
    """Name -> simulated coverage in per cent, of the approximate intervals among these."""
    return {name: round(100 * score.coverage) for name, score in scores if score.coverage is not None}
