"""Gates: rules such as `f1_macro>=0.80` that scores must hold, by their value or by their interval's worse end."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.errors import GateFailed, Problem, RecipeError, did_you_mean, listed
from finetune.run_files import Score
from finetune.scores.text_metrics import LOSS_METRICS, TEXT_METRICS

RULE = re.compile(r"\s*([A-Za-z0-9_]+)\s*(>=|<=|>|<)\s*([^\s=<>]+)\s*")
HOLDS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt,
}  # fmt: skip
# The highest value of a score that is not a share; `loss` is that of classifiers and of writers.
HIGHEST = {"log_loss": math.inf} | {name: metric.highest for name, metric in (TEXT_METRICS | LOSS_METRICS).items()}
NO_DIRECTION = "length_ratio"  # 1 is best
GateOn = Literal["value", "interval"]


@dataclass(frozen=True)
class Gate:
    """`metric sign bound`, and the rule as it was written."""

    rule: str
    metric: str
    sign: str
    bound: float


@dataclass(frozen=True)
class GateOutcome:
    """What became of a rule; `held` is the number that was held against it, `reason` says why a rule failed."""

    rule: str
    passed: bool
    value: float | None
    low: float | None
    high: float | None
    held: float | None
    reason: str | None


def parse_gate(rule: str, *, metrics: Sequence[str]) -> Gate:
    """`f1_macro>=0.80` as a gate over one of `metrics`. Raises RecipeError."""
    where, example = f"--gate '{rule}'", f"Write it like '{_example(metrics)}'."
    match = RULE.fullmatch(rule)
    if match is None:
        raise RecipeError(where, "is not a score, one of >= > <= <, and a number", example)
    metric, sign, word = match.groups()
    if metric not in metrics:
        known = f"Known: {listed(metrics, most=len(metrics))}."
        raise RecipeError(where, f"no score is called '{metric}'", did_you_mean(metric, metrics) or known)
    try:
        bound = float(word)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise RecipeError(where, f"'{word}' is not a number", example)
    least, most = -1.0 if metric == "matthews" else 0.0, HIGHEST.get(metric, 1.0)
    if not least <= bound <= most:
        reach = "is never below 0" if most == math.inf else f"is between {least:g} and {most:g}"
        raise RecipeError(where, f"{metric} {reach}, found {word}", example)
    if fault := _direction_fault(metric, sign):
        turned = sign.replace("<", ">") if "<" in sign else sign.replace(">", "<")
        raise RecipeError(where, fault, f"Write '{metric}{turned}{word}'.")
    return Gate(rule, metric, sign, bound)


def judge_gates(gates: Sequence[Gate], scores: Mapping[str, Score], *, on: GateOn) -> list[GateOutcome]:
    """Each rule by the score's value, or by the end of its 95 % interval that is worse for the rule.

    With `interval`, `>=` holds when the lower end holds it and `<=` when the upper end does. A score that is not there
    or undefined, and with `interval` one without an interval, holds no rule.
    """
    return [_judged(gate, scores.get(gate.metric), on=on) for gate in gates]


def check_gates(outcomes: Sequence[GateOutcome]) -> None:
    """Raises GateFailed with every rule that failed, its value and interval."""
    failed = [Problem(f"--gate '{one.rule}'", one.reason or "failed") for one in outcomes if not one.passed]
    if failed:
        raise GateFailed.of(failed)


def _example(metrics: Sequence[str]) -> str:
    return "f1_macro>=0.80" if "f1_macro" in metrics else "bleu>=20"


def _direction_fault(metric: str, sign: str) -> str:
    """Why a rule about written text would let only bad scores pass, or nothing. A share of right labels may be held
    from above: one that is too good to be true.
    """
    known = (TEXT_METRICS | LOSS_METRICS).get(metric)
    if known is None or metric == NO_DIRECTION or known.greater_is_better == (">" in sign):
        return ""
    return f"{metric} is better when {'higher' if known.greater_is_better else 'lower'}: only worse scores hold this"


def _judged(gate: Gate, score: Score | None, *, on: GateOn) -> GateOutcome:
    if score is None or score.value is None:
        note = f": {score.note}" if score is not None and score.note else ""
        return GateOutcome(gate.rule, False, None, None, None, None, f"{gate.metric} has no value here{note}")
    rising = gate.sign in (">=", ">")
    end = (score.low if rising else score.high) if on == "interval" else score.value
    told = f"{gate.metric} is {_shown(score.value)}"
    if score.low is not None and score.high is not None:
        told += f" [{_shown(score.low)}, {_shown(score.high)}]"
    reason = None
    if end is None:
        reason = f"{told}, and has no interval to judge it by (too few documents or groups, or no resamples)"
    elif not HOLDS[gate.sign](end, gate.bound):
        held = f"the {'lower' if rising else 'upper'} end of its interval" if on == "interval" else "it"
        reason = f"{told}: {held} is not {gate.sign} {gate.bound:g}"
    return GateOutcome(gate.rule, reason is None, score.value, score.low, score.high, end, reason)


def _shown(value: float) -> str:
    """Six digits, so that a score a hair below its bound does not look equal to it."""
    return f"{value:.6g}"
