"""The course of one training: its history without repeated rows, and what was asked of it.

Logged training losses are means over steps, with dropout, class weights and label smoothing, of weights that were
still changing; validation losses have none of these. Their levels cannot be compared, only their movement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.recipe import ClassifierRecipe, TextRecipe
from finetune.recipe_adapter import AdapterKind
from finetune.scores.text_metrics import LOSS_METRICS, TEXT_METRICS

# A step of eight documents jumps by itself: logged losses are merged into blocks of at least so many documents.
BLOCK_DOCUMENTS = 64
# Metrics that say of the validation loss nothing that it does not say itself.
LOSSES = ("log_loss", *LOSS_METRICS)


@dataclass(frozen=True)
class FitSettings:
    """What the training was asked for; decides which suggestions make sense.

    chance_loss: validation loss (nats) of one who knows only how frequent each label, or each token, is. dropout: what
    the recipe says, None where the model's own holds. largest_label_share: of the training documents, where they have
    labels (has_labels). validation_documents: as many documents, each with a loss of its own, as validation is worth.
    highest_score: of the metric, such as 1 or 100. knows_before: the model could do its task before the training.
    adapter: what of the model is trained.
    """

    num_train_epochs: int
    learning_rate: float
    weight_decay: float
    training_documents: int
    from_scratch: bool
    has_augmentation: bool
    stopped_early: bool
    validation_documents: int | None = None
    documents_per_step: int = 32
    chance_loss: float | None = None
    largest_label_share: float | None = None
    has_class_weights: bool = False
    has_label_smoothing: bool = False
    dropout: float | None = None
    limit: int | None = None
    early_stopping_patience: int | None = None
    max_steps: int | None = None
    keeps_best: bool = True
    warmup_steps: float = 0.1
    max_grad_norm: float = 1.0
    has_labels: bool = True
    has_attention_dropout: bool = True
    highest_score: float = 1.0
    knows_before: bool = False
    adapter: AdapterKind = "none"


@dataclass(frozen=True)
class Evaluation:
    """One look at validation; `training_loss` is the mean since the look before."""

    step: int
    epoch: float
    loss: float
    score: float | None
    matthews: float | None
    training_loss: float | None


@dataclass(frozen=True)
class Course:
    """The history without repeated rows: evaluations in order, training losses as (epoch, loss) of blocks.

    sign is 1 where a greater score is better, else -1; majority the validation score of the majority baseline.
    """

    evaluations: list[Evaluation]
    blocks: list[tuple[float, float]]
    ends_finite: bool
    metric: str
    sign: int
    majority: float | None
    settings: FitSettings

    @property
    def lowest(self) -> Evaluation:
        return min(self.evaluations, key=lambda each: each.loss)

    @property
    def last(self) -> Evaluation:
        return self.evaluations[-1]

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the best score; the first of equals."""
        scored = [each for each in self.evaluations if each.score is not None]
        return max(scored, key=lambda each: self.sign * (each.score or 0.0)) if scored else None


def fit_settings(
    recipe: TextRecipe,
    *,
    training_documents: int,
    validation_documents: int,
    label_shares: Sequence[float] = (),
    chance_loss: float,
    stopped_early: bool,
) -> FitSettings:
    """The settings of a recipe. `label_shares`: share of the training documents that carry each label, if any."""
    training, scratch, metric = recipe.training, recipe.model.from_scratch, recipe.training.metric_for_best_model
    has_labels = isinstance(recipe, ClassifierRecipe)
    return FitSettings(
        num_train_epochs=training.num_train_epochs,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        training_documents=training_documents,
        from_scratch=scratch is not None,
        has_augmentation=isinstance(recipe, ClassifierRecipe) and recipe.augmentation is not None,
        stopped_early=stopped_early,
        validation_documents=validation_documents,
        documents_per_step=training.per_device_train_batch_size * training.gradient_accumulation_steps,
        chance_loss=chance_loss,
        largest_label_share=float(max(label_shares)) if len(label_shares) else None,
        has_class_weights=isinstance(recipe, ClassifierRecipe) and recipe.training.class_weights == "balanced",
        has_label_smoothing=training.label_smoothing_factor > 0,
        dropout=scratch.dropout if scratch is not None else recipe.model.attention_dropout,
        limit=recipe.data.limit,
        early_stopping_patience=training.early_stopping_patience,
        max_steps=training.max_steps,
        keeps_best=training.load_best_model_at_end,
        warmup_steps=training.warmup_steps,
        max_grad_norm=training.max_grad_norm,
        has_labels=has_labels,
        highest_score=TEXT_METRICS[metric].highest if metric in TEXT_METRICS else 1.0,
        knows_before=scratch is None and not has_labels,
        adapter=recipe.adapter.kind,
        has_attention_dropout=recipe.adapter.kind != "frozen",
    )


def read_course(
    history: Sequence[Mapping[str, Any]], *, metric: str, sign: int, majority: float | None, settings: FitSettings
) -> Course:
    """Rows of history.jsonl as a Course. Of rows with the same step, as a resumed training leaves them, the last
    counts; a value that is null or not finite counts as missing.
    """
    logged = _by_step(history, "loss")
    evaluated = _by_step(history, "eval_loss")
    losses = [(step, row["epoch"], loss) for step, row in logged if (loss := _number(row["loss"])) is not None]
    evaluations: list[Evaluation] = []
    before = 0
    for step, row in evaluated:
        if (loss := _number(row["eval_loss"])) is not None:
            score, matthews = _number(row.get(f"eval_{metric}")), _number(row.get("eval_matthews"))
            mean = _mean_loss(losses, after=before, until=step)
            evaluations.append(Evaluation(step, float(row["epoch"]), loss, score, matthews, mean))
            before = step
    ends = [rows[-1][1][key] for rows, key in ((logged, "loss"), (evaluated, "eval_loss")) if rows]
    return Course(
        evaluations=evaluations,
        blocks=list(_blocks(losses, documents_per_step=settings.documents_per_step)),
        ends_finite=all(_number(value) is not None for value in ends),
        metric=metric,
        sign=sign,
        majority=majority,
        settings=settings,
    )


def _by_step(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, Mapping[str, Any]]]:
    return sorted({int(row["step"]): row for row in history if key in row and "step" in row}.items())


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _mean_loss(losses: Sequence[tuple[int, float, float]], *, after: int, until: int) -> float | None:
    """Mean training loss of the steps after..until; each row is the mean of the steps since the row before."""
    starts = [0, *(step for step, _, _ in losses)]
    inside = [
        (step - start, loss) for start, (step, _, loss) in zip(starts, losses, strict=False) if after < step <= until
    ]
    return sum(steps * loss for steps, loss in inside) / sum(steps for steps, _ in inside) if inside else None


def _blocks(losses: Sequence[tuple[int, float, float]], *, documents_per_step: int) -> Iterator[tuple[float, float]]:
    """(epoch, mean loss) of runs of rows that together saw at least BLOCK_DOCUMENTS; a shorter rest is left out."""
    before = begin = 0
    total = 0.0
    for step, epoch, loss in losses:
        total += (step - before) * loss
        before = step
        if (step - begin) * documents_per_step >= BLOCK_DOCUMENTS:
            yield float(epoch), total / (step - begin)
            begin, total = step, 0.0
