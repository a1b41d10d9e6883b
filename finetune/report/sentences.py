"""The verdict in two sentences: against the baselines, and how the training went. Plain text in either language.

The report and the last screen say the same words, because both take them from here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Literal, Protocol

from finetune.report.strings import Language, Words
from finetune.run_files import FitVerdict, PairedTest, Score, Scores
from finetune.scores.paired import SIGNIFICANT, compared_metric, greater_is_better

MOST_EVIDENCE = 4

Outcome = Literal["good", "bad", "open"]


class Tested(Protocol):
    """What a paired test over documents and a resampled one over folds have in common."""

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
    strongest = strongest_baseline(scores)
    return "open" if strongest is None or _is_ahead(scores, strongest) else "bad"


def shown_split(scores: Scores) -> str:
    """The split that the page speaks of: test, or validation where test was not opened."""
    return "test" if "test" in scores.splits else "validation"


def strongest_baseline(scores: Scores) -> str | None:
    """As named by the run; in a run that names none, the best on validation by the selection metric."""
    if scores.strongest_baseline is not None:
        return scores.strongest_baseline
    metric = compared_metric(scores.metric_for_best_model)
    known = {
        name: value
        for name, splits in scores.baselines.items()
        if "validation" in splits and (value := _value(splits["validation"].scores.get(metric))) is not None
    }
    best = max if greater_is_better(metric) else min
    return best(known, key=lambda name: known[name]) if known else None


def score_text(score: Score | None) -> str:
    """`0.628 [0.590, 0.664]`; ~ marks an interval that is only approximate."""
    if score is None or score.value is None:
        return "n/a"
    return f"{number(score.value)} {interval}" if (interval := interval_text(score)) else number(score.value)


def interval_text(score: Score) -> str:
    if score.low is None or score.high is None:
        return ""
    return f"{'~' if score.coverage is not None else ''}[{number(score.low)}, {number(score.high)}]"


def difference_text(test: Tested) -> str:
    """`+0.026 [+0.004, +0.049]`"""
    if test.low is None or test.high is None:
        return signed(test.difference)
    return f"{signed(test.difference)} [{signed(test.low)}, {signed(test.high)}]"


def named_test(name: str, test: Tested) -> str:
    """`majority (+0.010, p = 0.120)`"""
    return f"{name} ({signed(test.difference)}, {p_text(p_of(test))})"


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def p_of(test: Tested) -> float:
    """The p that decides: corrected where several pairs were compared."""
    return test.p if test.p_holm is None else test.p_holm


def number(value: float) -> str:
    return f"{value + 0.0:.3f}"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-0.000", "+0.000")


def _against_baselines(scores: Scores, words: Words) -> str:
    metric = compared_metric(scores.metric_for_best_model)
    split = shown_split(scores)
    ours = scores.splits[split].scores.get(metric)
    if split != "test":
        return words("verdict.closed", metric=metric, ours=score_text(ours))
    if scores.baseline_tests:
        return _tested(scores, words)
    if ours is None or ours.value is None:
        reason = ours.note if ours is not None and ours.note else words("verdict.no_reason")
        return words("verdict.undefined", metric=metric, note=reason)
    strongest = strongest_baseline(scores)
    if strongest is None:
        return words("verdict.alone", metric=metric, ours=score_text(ours), n=f"{ours.n:,}")
    key = "verdict.ahead_untested" if _is_ahead(scores, strongest) else "verdict.behind_untested"
    theirs = scores.baselines[strongest]["test"].scores.get(metric)
    return words(key, name=strongest, metric=metric, ours=score_text(ours), theirs=score_text(theirs))


def _tested(scores: Scores, words: Words) -> str:
    tests = scores.baseline_tests
    strongest = scores.strongest_baseline if scores.strongest_baseline in tests else _highest(tests)
    test = tests[strongest]
    ours = scores.splits["test"].scores.get(test.metric) or Score(value=test.first, n=test.documents)
    values = {
        "name": strongest,
        "metric": test.metric,
        "ours": score_text(ours),
        "theirs": number(test.second),
        "difference": difference_text(test),
        "p": p_text(p_of(test)),
    }
    beaten = [name for name, each in tests.items() if each.better]
    others = [named_test(name, each) for name, each in tests.items() if not each.better]
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
    if evidence := _shown_evidence(fit, words):
        text = words("fit.evidence", text=text, evidence=evidence)
    if fit.suggestions:
        return words("fit.try", text=text, override=fit.suggestions[0].override)
    return words("fit.end", text=text)


def _shown_evidence(fit: FitVerdict, words: Words) -> str:
    """The numbers that say most about this state; the first few where those are not there."""
    known = {name: plain_number(value) for name, value in fit.evidence.items()}
    keys = [f"fit.{fit.state}.numbers", f"fit.{fit.state}.score"]
    if fit.state == "still_learning" and fit.evidence.get("validation_loss_fall_at_end", 0.0) <= 0:
        keys = keys[1:]
    for key in keys:
        with contextlib.suppress(KeyError):  # a number or a sentence that this verdict does not have
            return words(key, **known)
    named = [f"{name} {value}" for name, value in evidence_rows(fit, words)]
    return words.listed(named[:MOST_EVIDENCE])


def evidence_rows(fit: FitVerdict, words: Words) -> list[tuple[str, str]]:
    """`lowest validation loss`, `0.412`, in the order of the verdict; a name without words keeps its own."""
    return [(words.known("evidence", name), plain_number(value)) for name, value in fit.evidence.items()]


def _is_ahead(scores: Scores, baseline: str) -> bool:
    metric = compared_metric(scores.metric_for_best_model)
    ours = _value(scores.splits["test"].scores.get(metric))
    theirs = _value(scores.baselines[baseline]["test"].scores.get(metric))
    if ours is None or theirs is None:
        return False
    return ours > theirs if greater_is_better(metric) else ours < theirs


def _highest(tests: dict[str, PairedTest]) -> str:
    rising = greater_is_better(next(iter(tests.values())).metric)
    return max(tests, key=lambda name: tests[name].second if rising else -tests[name].second)


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
