"""What a training history says about the fit: overfitting, still learning, unstable, nothing learned, or good.

The levels of training and validation loss cannot be compared (fit_course.py says why), so every rule is about movement:
which curve rises, which falls, by how much of its own level. docs/evaluation.md tells the rules in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from finetune.run_files import FitVerdict
from finetune.scores.fit_advice import suggestions
from finetune.scores.fit_course import LOSSES, Course, Evaluation, FitSettings, read_course

__all__ = ["FitSettings", "judge_fit"]

State = Literal["too_short", "still_learning", "good_fit", "overfitting", "unstable", "nothing_learned"]

# A rise of validation loss below a twentieth of its minimum, or below 0.02 nats where that is nearly 0, is no finding,
# however many documents there are.
LEAST_RISE, LEAST_RISE_NATS = 0.05, 0.02
# The losses of documents are spread about as widely as their mean, and two evaluations of the same documents correlate
# by about a half: the change of the mean then has a standard error of loss / sqrt(documents). Noise is two of them.
STANDARD_ERRORS = 2.0
# Training loss counts as falling when it lost a tenth of where it began, as rising when it regained a tenth of it.
TRAINING_MOVE = 0.1
# Below this change a loss lies still.
FLAT = 0.02
# Still learning: the last quarter of the training brought a tenth of all that was learned ...
LAST_PART, SHARE_OF_LEARNED = 0.75, 0.1
# ... or two hundredths of the highest score, if that is more than the noise of a score of so few documents.
LEAST_GAIN = 0.02
# A score is better than another from a hundredth of the highest on, or a tenth of what it could gain: less is a
# document or two.
SCORE_TIE, TIE_OF_ROOM = 0.01, 0.1
# A spike regains half of the loss that training began with, and is over when most of that is gone again.
SPIKE, SPIKE_OVER = 0.5, 0.125
# A swing takes validation loss a quarter (or twice the noise) above its lowest value, and is over within the noise.
SWING = 0.25
# A model whose losses stay half above those of guesses is thrown about; one that learns nothing sinks to guessing.
WORSE_THAN_GUESSES = 1.5
# Blocks after which an epoch that taught nothing is no short training.
LONG_EPOCH = 20
# One spike or swing can be chance, or the warm-up; two are a pattern.
PATTERN = 2
# Matthews' correlation of guesses has a standard error of 1 / sqrt(documents); the best of several epochs is meant.
GUESS_ERRORS, LEAST_CORRELATION = 2.5, 0.05


def judge_fit(
    history: Sequence[Mapping[str, Any]],
    *,
    metric: str,
    greater_is_better: bool,
    best_epoch: float | None,
    majority_score: float | None,
    settings: FitSettings,
) -> FitVerdict:
    """The verdict on one training, with the numbers it rests on and overrides to paste.

    `history` holds the rows of history.jsonl: `{"step", "epoch", "loss"}` of a logged step, `{"step", "epoch",
    "eval_loss", "eval_METRIC"}` of an evaluation. Of rows with the same step, as a resumed training leaves them, the
    last counts. `majority_score` is the validation score of the majority baseline, None where it is not known.
    """
    sign = 1 if greater_is_better else -1
    course = read_course(history, metric=metric, sign=sign, majority=majority_score, settings=settings)
    state, since = _state(course)
    overconfident = state == "overfitting" and is_overconfident(course)
    return FitVerdict(
        state=state,
        since_epoch=since,
        evidence=_evidence(course, best_epoch=best_epoch)
        | ({"overconfident": float(overconfident)} if state == "overfitting" else {}),
        suggestions=suggestions(course, state=state, overconfident=overconfident, memorised=_memorised(course)),
    )


# ---- the rules, in the order in which they are asked


def _state(course: Course) -> tuple[State, float | None]:
    """The state and, where it has one, the epoch in which it began."""
    if (since := _unstable_since(course)) is not None:
        return "unstable", since
    if len(course.evaluations) < 2:
        return _state_of_one(course), None
    learning = _still_learning(course)
    if _no_better_than_majority(course) and not learning:
        return "nothing_learned", None
    if (since := _overfitting_since(course)) is not None:
        return "overfitting", since
    if _no_better_than_chance(course) and not learning:
        return "nothing_learned", None
    return "still_learning" if learning else "good_fit", None


def _state_of_one(course: Course) -> State:
    """With one evaluation or none, only what the training loss shows inside the epoch can be said."""
    losses = [loss for _, loss in course.blocks]
    quarter = len(losses) // 4
    if quarter:
        now, earlier = float(np.mean(losses[-quarter:])), float(np.mean(losses[-2 * quarter : -quarter]))
        if earlier - now >= max(LEAST_RISE * earlier, SHARE_OF_LEARNED * (losses[0] - now)):
            return "still_learning"
        if len(losses) >= LONG_EPOCH and course.evaluations and _no_better_than_majority(course):
            return "nothing_learned"
    return "too_short"


def _unstable_since(course: Course) -> float | None:
    if not course.ends_finite:
        return course.blocks[-1][0] if course.blocks else 0.0
    spikes = _spikes(course)
    if len(spikes) >= PATTERN or (spikes and not spikes[-1][1]):
        return spikes[0][0]
    swings = _swings(course)
    if len(swings) >= PATTERN:
        return swings[0][0]
    if _worse_than_guesses(course):
        return course.evaluations[0].epoch
    # Both losses rise: training has lost what it had.
    since = _rise_since(course)
    return since if since is not None and _training_change(course) > TRAINING_MOVE else None


def _spikes(course: Course) -> list[tuple[float, bool]]:
    """(epoch, over again) of every spike of the training loss."""
    start = course.blocks[0][1] if course.blocks else 0.0
    return _excursions(course.blocks, up=lambda low: low + SPIKE * start, back=lambda low: low + SPIKE_OVER * start)


def _swings(course: Course) -> list[tuple[float, bool]]:
    """(epoch, over again) of every swing of the validation loss."""
    points = [(each.epoch, each.loss) for each in course.evaluations]
    far = max(SWING, 2 * _noise(course))
    return _excursions(points, up=lambda low: _above(low, far), back=lambda low: _above(low, _noise(course)))


def _worse_than_guesses(course: Course) -> bool:
    """Weighed training losses have another level, so such a training is not judged by this."""
    chance, losses = course.settings.chance_loss, _training_losses(course)
    if chance is None or course.settings.has_class_weights or not course.evaluations or not losses:
        return False
    # A new head begins at the loss of guesses, a new generator far above it: all tokens are equally likely to it.
    begin = chance if course.settings.has_labels else max(chance, losses[0])
    return min(losses[1], course.lowest.loss) > WORSE_THAN_GUESSES * begin


def _excursions(
    points: Sequence[tuple[float, float]], *, up: Callable[[float], float], back: Callable[[float], float]
) -> list[tuple[float, bool]]:
    found: list[tuple[float, bool]] = []
    away, low = False, math.inf
    for epoch, value in points:
        if not away and value > up(low):
            away = True
            found.append((epoch, False))
        elif away and value <= back(low):
            away = False
            found[-1] = (found[-1][0], True)
        low = min(low, value)
    return found


def _rise_since(course: Course) -> float | None:
    """The epoch from which on validation loss stays above its minimum by more than noise; None where it does not."""
    if len(course.evaluations) < 2:
        return None
    limit = _above(course.lowest.loss, _noise(course))
    since = None
    for each in reversed(course.evaluations):
        if each.loss <= limit:
            break
        since = each.epoch
    return since


def _overfitting_since(course: Course) -> float | None:
    """Validation loss rises while training loss falls, or has fallen and has nothing left to fall."""
    since = _rise_since(course)
    falls = _training_fall(course) >= TRAINING_MOVE and _training_change(course) <= FLAT
    return since if since is not None and falls else None


def _training_losses(course: Course) -> list[float]:
    """First and last level, and the one at the minimum of validation loss."""
    means = [each.training_loss for each in course.evaluations if each.training_loss is not None]
    # Where an epoch is shorter than a block, the mean of the first epoch is nearer to the begin.
    if course.blocks and (not means or course.blocks[0][0] <= course.evaluations[0].epoch):
        means = [course.blocks[0][1], *(means or [course.blocks[-1][1]])]
    if not means:
        return []
    lowest = course.lowest.training_loss if course.evaluations else None
    return [means[0], means[-1], means[-1] if lowest is None else lowest]


def _training_fall(course: Course) -> float:
    """Share of the training loss that is gone since the begin."""
    losses = _training_losses(course)
    return 1 - losses[1] / losses[0] if losses and losses[0] > 0 else 0.0


def _training_change(course: Course) -> float:
    """What training loss regained since the minimum of validation loss, as a share of where it began."""
    losses = _training_losses(course)
    return (losses[1] - losses[2]) / losses[0] if losses and losses[0] > 0 else 0.0


def _still_learning(course: Course) -> bool:
    last, before = course.last, _reference(course)
    if last.loss > _above(course.lowest.loss, _noise(course)):
        return False
    fall = before.loss - last.loss
    # A model that could write before began below the loss of guesses, at about its first evaluation.
    begin = None if course.settings.knows_before else course.settings.chance_loss
    learned = max(course.evaluations[0].loss, begin or 0.0) - last.loss
    if last is course.lowest and fall >= max(FLAT * before.loss, SHARE_OF_LEARNED * learned):
        return True
    documents = course.settings.validation_documents
    enough = max(LEAST_GAIN, 1 / math.sqrt(documents) if documents else 0.0)
    gain = None if last.score is None or before.score is None else course.sign * (last.score - before.score)
    # A loss as metric was judged above; a gain of the score counts while it is the best one.
    told, highest = course.metric not in LOSSES, course.settings.highest_score
    return told and last is course.best and gain is not None and gain >= enough * highest


def _no_better_than_majority(course: Course) -> bool:
    best = course.best
    if best is None or best.score is None or course.majority is None:
        return False
    highest = course.settings.highest_score
    room = highest - course.majority if course.sign > 0 else course.majority
    return course.sign * (best.score - course.majority) < min(SCORE_TIE * highest, TIE_OF_ROOM * room)


def _no_better_than_chance(course: Course) -> bool:
    """Neither loss nor correlation of any evaluation is better than those of guesses, or than those at the begin."""
    chance = course.settings.chance_loss
    if course.settings.knows_before and _unmoved(course):
        return True
    if chance is None:
        return course.majority is None and _unmoved(course)
    known = [each.matthews for each in course.evaluations if each.matthews is not None]
    if course.metric == "roc_auc" and course.best is not None and course.best.score is not None:
        known.append(2 * course.best.score - 1)  # also a correlation: a ranking can be learned before any answer is
    documents = course.settings.validation_documents
    guess = max(LEAST_CORRELATION, GUESS_ERRORS / math.sqrt(documents) if documents else 0.0)
    return course.lowest.loss >= (1 - FLAT) * chance and max(known, default=0.0) <= guess


def _unmoved(course: Course) -> bool:
    first = course.evaluations[0].loss
    return course.lowest.loss >= (1 - FLAT) * first and _training_fall(course) < FLAT


def is_overconfident(course: Course) -> bool:
    """The score was better after the minimum of the loss than at it: answers improve, probabilities get worse."""
    at_minimum, best = course.lowest, course.best
    if course.metric in LOSSES or best is None or best.score is None or at_minimum.score is None:
        return False
    if _no_better_than_chance(course):
        return False  # macro F1 also rises when a model that knows nothing begins to vary its answers
    tie = SCORE_TIE * course.settings.highest_score
    return best.step > at_minimum.step and course.sign * (best.score - at_minimum.score) >= tie


def _memorised(course: Course) -> bool:
    """Training loss fell well below where it began, and below that of guesses."""
    losses, chance = _training_losses(course), course.settings.chance_loss
    below = chance is None or bool(losses and losses[1] < (1 - TRAINING_MOVE) * chance)
    return below and _training_fall(course) >= TRAINING_MOVE


def _noise(course: Course) -> float:
    """Share of validation loss by which it may move without meaning anything."""
    documents = course.settings.validation_documents
    return max(LEAST_RISE, STANDARD_ERRORS / math.sqrt(documents) if documents else 0.0)


def _above(loss: float, share: float) -> float:
    return loss + max(share * loss, LEAST_RISE_NATS)


def _reference(course: Course) -> Evaluation:
    """The last evaluation before the last quarter of the training."""
    before = [each for each in course.evaluations if each.step <= LAST_PART * course.last.step]
    return before[-1] if before else course.evaluations[0]


# ---- the numbers


def _evidence(course: Course, *, best_epoch: float | None) -> dict[str, float]:
    """Everything that a rule looked at and that is known, under its own name."""
    numbers: dict[str, float | None] = {"evaluations": len(course.evaluations), "best_epoch": best_epoch}
    if course.evaluations:
        low, last, best = course.lowest, course.last, course.best
        numbers |= {
            "validation_loss_first": course.evaluations[0].loss,
            "validation_loss_best": low.loss,
            "validation_loss_best_epoch": low.epoch,
            "validation_loss_last": last.loss,
            "validation_loss_rise": last.loss / low.loss - 1 if low.loss > 0 else None,
            "validation_loss_noise": _noise(course),
            "validation_loss_fall_at_end": _reference(course).loss - last.loss,
            "validation_swings": len(_swings(course)),
            "metric_best": best.score if best is not None else None,
            "metric_best_epoch": best.epoch if best is not None else None,
            "metric_at_loss_best": low.score,
            "metric_last": last.score,
            "matthews_best": max((e.matthews for e in course.evaluations if e.matthews is not None), default=None),
        }
        if low.training_loss is not None and last.training_loss is not None:
            at_best, at_end = low.loss - low.training_loss, last.loss - last.training_loss
            numbers |= {"gap_at_best": at_best, "gap_last": at_end, "gap_growth": at_end - at_best}
    if losses := _training_losses(course):
        names = ("training_loss_first", "training_loss_last", "training_loss_at_best")
        numbers |= dict(zip(names, losses, strict=True))
    numbers |= {"training_spikes": len(_spikes(course)) if course.blocks else None}
    numbers |= {"majority_score": course.majority, "chance_loss": course.settings.chance_loss}
    return {
        name: round(float(value), 6) for name, value in numbers.items() if value is not None and math.isfinite(value)
    }
