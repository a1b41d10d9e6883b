"""How a recipe trains: the section `training` of every task, in transformers' own names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from finetune.recipe_parts import Number, Section, WholeNumber, no_repeats

LabelMetric = Literal[
    "f1_macro",
    "f1_micro",
    "f1_weighted",
    "accuracy",
    "precision_macro",
    "precision_micro",
    "precision_weighted",
    "recall_macro",
    "recall_micro",
    "recall_weighted",
    "matthews",
    "roc_auc",
    "log_loss",
    "error_rate",
    "loss",
]
TextMetric = Literal[
    "loss",
    "perplexity",
    "nats_per_character",
    "bleu",
    "chrf",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "exact_match",
    "distinct_1",
    "distinct_2",
    "repetition",
]


class AnyTraining(Section):
    """What the training of every task has, in transformers' own names."""

    num_train_epochs: WholeNumber = Field(3, ge=1, description="Passes over the training examples.")
    max_steps: WholeNumber | None = Field(None, ge=1, description="Stop after this many optimizer steps.")
    learning_rate: Number = Field(5e-5, gt=0, description="Peak learning rate.")
    per_device_train_batch_size: WholeNumber = Field(32, ge=1, description="Examples a step, process and accumulation.")
    weight_decay: Number = Field(0.01, ge=0, description="Weight decay, not on biases and norms.")
    warmup_steps: Number = Field(0.1, ge=0, description="Warm-up: steps, or a share of all steps when below 1.")
    max_grad_norm: Number = Field(1.0, ge=0, description="Clip the gradient norm; 0 is off.")
    metric_for_best_model: str = Field(description="Validation score that chooses the epoch.")
    load_best_model_at_end: bool = Field(True, description="Keep the best epoch in best/; otherwise best/ is last/.")
    early_stopping_patience: WholeNumber | None = Field(
        None, ge=1, description="Stop after this many evaluations without a better score."
    )
    save_total_limit: WholeNumber = Field(2, ge=1, description="Checkpoints to keep; best and newest are always kept.")
    logging_steps: WholeNumber = Field(10, ge=1, description="Steps between lines of history.jsonl.")
    bf16: bool = Field(False, description="bfloat16 arithmetic, where the hardware has it.")
    fp16: bool = Field(False, description="float16 arithmetic with loss scaling, on a GPU.")
    use_cpu: bool = Field(False, description="Leave the GPU alone.")


class Training(AnyTraining):
    """transformers' own names, counted in examples: documents, or blocks of plain text."""

    gradient_accumulation_steps: WholeNumber = Field(1, ge=1, description="Multiplies the examples of a step.")
    tokens_per_micro_batch: WholeNumber | None = Field(
        None,
        ge=8,
        description="Most tokens, padding included, in one forward pass; a step is cut to fit. "
        "Default: 1,024 on a CPU, 16,384 on a GPU.",
    )
    optim: Literal["adamw_torch", "adamw_torch_fused", "sgd", "adafactor"] = Field(
        "adamw_torch", description="Optimizer; options for it go to extra.optim_args."
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = (
        Field("linear", description="Shape of the learning rate after warm-up.")
    )
    label_smoothing_factor: Number = Field(0.0, ge=0, lt=1, description="Label smoothing of the training loss.")
    eval_strategy: Literal["epoch", "steps", "no"] = Field("epoch", description="When to evaluate on validation.")
    eval_steps: WholeNumber | None = Field(None, ge=1, description="Steps between evaluations with 'steps'.")
    save_strategy: Literal["epoch", "steps", "no"] = Field("epoch", description="When to save resumable state.")
    save_steps: WholeNumber | None = Field(None, ge=1, description="Also save resumable state every so many steps.")
    report_to: Annotated[list[str], AfterValidator(no_repeats)] = Field(
        [], description="Trackers that transformers knows, such as tensorboard or wandb, beside history.jsonl."
    )
    extra: dict[str, bool | int | float | str | dict[str, bool | int | float | str] | None] = Field(
        {}, description="Any other field of the installed transformers' TrainingArguments."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Training:
        if self.eval_strategy == "no" and self.load_best_model_at_end:
            raise ValueError("load_best_model_at_end needs evaluations; eval_strategy is 'no'")
        if self.load_best_model_at_end and self.eval_strategy != self.save_strategy:
            raise ValueError(
                f"load_best_model_at_end needs the same eval_strategy ({self.eval_strategy}) "
                f"and save_strategy ({self.save_strategy})"
            )
        if (self.eval_strategy == "steps") != (self.eval_steps is not None):
            raise ValueError("eval_strategy 'steps' and eval_steps need each other")
        if self.save_strategy == "steps" and self.save_steps is None:
            raise ValueError("save_strategy 'steps' needs save_steps")
        if self.load_best_model_at_end and self.save_strategy == "steps" and self.save_steps != self.eval_steps:
            raise ValueError("save_steps must equal eval_steps so that every evaluated model is kept")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("early_stopping_patience needs load_best_model_at_end")
        if self.warmup_steps > 1 and self.warmup_steps % 1:
            raise ValueError(f"warmup_steps is a share below 1 or a whole number of steps, found {self.warmup_steps}")
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other")
        return self


class ClassifierTraining(Training):
    """Training of a classifier; a step's loss is a mean over documents."""

    class_weights: Literal["none", "balanced"] = Field("none", description="Weigh each label by 1 / its frequency.")
    metric_for_best_model: LabelMetric = Field("f1_macro", description="Validation score that chooses the epoch.")


class CausalTraining(Training):
    """Training of a text generator; an example of plain text is a block of it, and a step's loss a mean over tokens."""

    metric_for_best_model: TextMetric = Field("loss", description="Validation score that chooses the epoch.")


class Seq2SeqTraining(Training):
    """Training of an encoder-decoder; a step's loss is a mean over target tokens."""

    metric_for_best_model: TextMetric = Field("bleu", description="Validation score that chooses the epoch.")
