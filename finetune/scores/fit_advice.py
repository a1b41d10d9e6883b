"""What to try next, as recipe overrides to paste: one list for every verdict on a fit, the most useful first.

Only keys that exist are suggested, only values that differ from today's, and never one that the recipe would refuse.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from finetune.run_files import Suggestion
from finetune.scores.fit_course import Course, FitSettings

# Learning rates that usually work for AdamW, for loaded weights (BERT's authors: 2e-5 to 5e-5), for new ones, for
# matrices beside loaded ones (the authors of LoRA and QLoRA: 1e-4 to 5e-4), and for a head alone.
USUAL_RATES = {"loaded": (1e-5, 1e-4), "new": (1e-4, 3e-3), "beside": (1e-4, 1e-3), "head": (1e-3, 1e-2)}
STRONG_WEIGHT_DECAY = 0.1
STRONG_DROPOUT, MORE_ATTENTION_DROPOUT = 0.3, 0.2
LONG_WARMUP = 0.2
USUAL_GRAD_NORM = 1.0
# From this share of one label on, "always the same answer" is a good answer, unless labels are weighed.
IMBALANCE = 0.6

Advice = Iterator[tuple[str, str]]


def suggestions(course: Course, *, state: str, overconfident: bool, memorised: bool) -> list[Suggestion]:
    """For a state of run_files.FitVerdict; `overconfident` as in fit_verdict.is_overconfident.

    memorised: training loss fell all the same; more training would only teach more by heart.
    """
    if state == "overfitting":
        advice = [*_overconfident(course)] if overconfident else [*_shorter(course)]
        advice += [*_regularise(course.settings), *_more_data(course.settings)]
    elif state == "unstable":
        advice = [*_calmer(course.settings)]
    elif state == "nothing_learned":
        first = _regularise(course.settings) if memorised else _learn_at_all(course.settings)
        advice = [*_weigh(course.settings), *first, *_more_data(course.settings)]
    elif state == "still_learning":
        advice = [*_longer(course.settings), *_higher_rate(course.settings)]
    elif state == "too_short":
        advice = [*_longer(course.settings)]
    else:
        advice = [*_more_data(course.settings)]
    return [Suggestion(override=override, why=why) for override, why in advice]


def _shorter(course: Course) -> Advice:
    settings, epochs = course.settings, max(1, round(course.lowest.epoch))
    kept = " (best/ holds the epoch with the best score already)" if settings.keeps_best else ""
    if settings.max_steps is not None:
        if course.lowest.step < settings.max_steps:
            yield (
                f"training.max_steps={course.lowest.step}",
                f"validation loss was lowest after {course.lowest.step} steps{kept}",
            )
    elif epochs < settings.num_train_epochs:
        why = f"validation loss was lowest after epoch {course.lowest.epoch:g}{kept}"
        yield f"training.num_train_epochs={epochs}", why
    if settings.early_stopping_patience is None and settings.keeps_best and len(course.evaluations) > 2:
        yield "training.early_stopping_patience=2", "stops after two evaluations without a better score"


def _overconfident(course: Course) -> Advice:
    if not course.settings.has_label_smoothing:
        why = "the score still improved while the loss rose: the answers are right more often, but too sure"
        yield "training.label_smoothing_factor=0.1", why
    best, settings = course.best, course.settings
    if best is not None and settings.max_steps is None and math.ceil(best.epoch) < settings.num_train_epochs:
        yield (
            f"training.num_train_epochs={math.ceil(best.epoch)}",
            f"no score was better than that of epoch {best.epoch:g}",
        )


def _regularise(settings: FitSettings) -> Advice:
    if settings.weight_decay < STRONG_WEIGHT_DECAY:
        yield f"training.weight_decay={STRONG_WEIGHT_DECAY:g}", "keeps the weights small"
    if settings.from_scratch and (settings.dropout or 0.0) < STRONG_DROPOUT:
        yield f"model.from_scratch.dropout={STRONG_DROPOUT:g}", "more dropout makes memorising harder"
    elif (
        not settings.from_scratch
        and settings.has_attention_dropout
        and (settings.dropout or 0.0) < MORE_ATTENTION_DROPOUT
    ):
        yield f"model.attention_dropout={MORE_ATTENTION_DROPOUT:g}", "more dropout makes memorising harder"
    if settings.has_labels and not settings.has_augmentation:
        yield "augmentation={copies: 1, delete: 0.1, swap: 0.1}", "changed copies of the training documents"
    if (rate := _lower_rate(settings, times=2)) is not None and settings.learning_rate > _usual(settings)[1]:
        yield f"training.learning_rate={rate}", "smaller steps fit the training documents less closely"


def _more_data(settings: FitSettings) -> Advice:
    if settings.limit is not None:
        why = f"data.limit is {settings.limit}: {settings.training_documents:,} documents were trained on"
        yield "data.limit=null", f"{why}; all of them may help most"


def _calmer(settings: FitSettings) -> Advice:
    times = max(3.0, settings.learning_rate / _usual(settings)[1])
    yield f"training.learning_rate={_lower_rate(settings, times=times)}", "smaller steps"
    if settings.warmup_steps < LONG_WARMUP:
        yield f"training.warmup_steps={LONG_WARMUP:g}", "a slower start: a fifth of all steps"
    if not 0 < settings.max_grad_norm <= USUAL_GRAD_NORM:
        yield f"training.max_grad_norm={USUAL_GRAD_NORM:g}", "clips the gradient, so that one step cannot spoil all"


def _learn_at_all(settings: FitSettings) -> Advice:
    low, high = _usual(settings)
    if settings.learning_rate > high:
        rate = _lower_rate(settings, times=settings.learning_rate / math.sqrt(low * high))
        yield f"training.learning_rate={rate}", "too large steps can lose what the model knew in the first ones"
    else:
        yield from _higher_rate(settings)
    yield from _longer(settings)


def _weigh(settings: FitSettings) -> Advice:
    if (settings.largest_label_share or 0.0) > IMBALANCE and not settings.has_class_weights:
        why = f"one label makes up {settings.largest_label_share:.0%}: answering it always is hard to beat"
        yield "training.class_weights=balanced", why


def _longer(settings: FitSettings) -> Advice:
    if settings.stopped_early and settings.early_stopping_patience is not None:
        patience = settings.early_stopping_patience + 2
        yield f"training.early_stopping_patience={patience}", "early stopping ended the training while it was learning"
    elif settings.max_steps is not None:
        yield f"training.max_steps={2 * settings.max_steps}", "twice the steps"
    else:
        yield f"training.num_train_epochs={max(3, 2 * settings.num_train_epochs)}", "more epochs"


def _higher_rate(settings: FitSettings) -> Advice:
    low, high = _usual(settings)
    if settings.learning_rate < math.sqrt(low * high):
        rate = max(2 * settings.learning_rate, math.sqrt(low * high))
        yield f"training.learning_rate={_written(rate)}", f"{_written(settings.learning_rate)} is small for this model"


def _lower_rate(settings: FitSettings, *, times: float) -> str:
    return _written(settings.learning_rate / times)


def _usual(settings: FitSettings) -> tuple[float, float]:
    if settings.adapter != "none":
        return USUAL_RATES["head" if settings.adapter == "frozen" else "beside"]
    return USUAL_RATES["new" if settings.from_scratch else "loaded"]


def _written(rate: float) -> str:
    """Two digits, as a recipe takes it: `3.2e-05`."""
    return f"{rate:.2g}"
