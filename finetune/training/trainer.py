"""What is ours about transformers' Trainer: its arguments, a step, an evaluation, the history. Use `fit`.

What the subclass changes, and why:
- a step's documents arrive whole and are cut into micro-batches here, so the loss is one mean over the documents of
  the step whatever the accumulation and the number of processes (stock heads multiply it by both);
- evaluation speaks of documents;
- dropout is keyed by (seed, step), so a resumed run draws what the uninterrupted one would have drawn;
- how it is saved, stopped and resumed is in sealed_trainer.py. No other file knows the Trainer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    get_available_reporting_integrations,
)
from transformers.utils import logging as transformers_logging

from finetune.errors import RecipeError, did_you_mean, listed
from finetune.processes import process_count
from finetune.recipe_training import Training
from finetune.runs import Json, append_json_line, write_json_lines
from finetune.training.batches import MICRO_BATCH_TOKENS, PASS_COST_TOKENS, DocumentSampler, keyed_seed, of_device
from finetune.training.checkpoints import Checkpoint
from finetune.training.company import company
from finetune.training.lessons import Turn
from finetune.training.memory import optimizer_bytes, peak_bytes
from finetune.training.plan import FitPlan, FitResult
from finetune.training.sealed_trainer import SealedTrainer
from finetune.training.sharded import become
from finetune.training.streamed import StreamedTable


def training_arguments(settings: Training, *, folder: Path, seed: int, greater_is_better: bool) -> TrainingArguments:
    """transformers' arguments for these settings. Raises RecipeError when transformers refuses them."""
    chosen: Json = {
        "output_dir": str(folder),
        "num_train_epochs": settings.num_train_epochs,
        "max_steps": settings.max_steps or -1,
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": settings.per_device_train_batch_size,
        # The accumulation is inside the step: a step's documents arrive together and are cut by tokens.
        "gradient_accumulation_steps": 1,
        "optim": settings.optim,
        "weight_decay": settings.weight_decay,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_steps if settings.warmup_steps < 1 else int(settings.warmup_steps),
        "max_grad_norm": settings.max_grad_norm,
        "eval_strategy": settings.eval_strategy,
        "eval_steps": settings.eval_steps,
        "save_strategy": settings.save_strategy,
        "save_steps": settings.save_steps or 500,
        "save_total_limit": None,  # rotation happens after sealing, in checkpoints.py
        "load_best_model_at_end": settings.load_best_model_at_end,
        "metric_for_best_model": f"eval_{settings.metric_for_best_model}",
        "greater_is_better": greater_is_better,
        "logging_steps": settings.logging_steps,
        "logging_nan_inf_filter": False,
        "bf16": settings.bf16,
        "fp16": settings.fp16,
        "use_cpu": settings.use_cpu,
        "seed": seed,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "restore_callback_states_from_checkpoint": True,
        "report_to": settings.report_to or "none",
    }
    try:
        arguments = TrainingArguments(**{**chosen, **settings.extra})
        # One process trains on one device; several GPUs are several processes.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        if arguments.dataloader_persistent_workers and not arguments.dataloader_num_workers:
            raise ValueError("dataloader_persistent_workers needs dataloader_num_workers")
        return arguments
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError("training", str(error).splitlines()[0]) from error


def check_trackers(names: Sequence[str], *, where: str) -> None:
    """Raises RecipeError for a tracker that transformers does not know, or that is not installed."""
    for name in (each for each in names if each not in INTEGRATION_TO_CALLBACK):
        do = did_you_mean(name, INTEGRATION_TO_CALLBACK) or f"Known: {listed(INTEGRATION_TO_CALLBACK, most=30)}."
        raise RecipeError(where, f"transformers knows no tracker '{name}'", do)
    for name in (each for each in names if each not in get_available_reporting_integrations()):  # type: ignore[no-untyped-call]
        raise RecipeError(where, f"'{name}' is not installed", "Install its package, or leave it out.")


class DocumentTrainer(SealedTrainer):
    """A Trainer whose unit is the document. Use `fit`."""

    def __init__(self, model: PreTrainedModel, plan: FitPlan, arguments: TrainingArguments) -> None:
        examples = plan.lesson.examples
        super().__init__(plan, model=model, args=arguments, train_dataset=examples, eval_dataset=examples)
        self.sampler = DocumentSampler(
            documents=len(examples),
            per_step=self.documents_per_step,
            seed=plan.seed,
            process=arguments.process_index,
            processes=arguments.world_size,
            lengths=getattr(examples, "lengths", None),
        )
        self.remove_callback(PrinterCallback)
        for tracker in self.callback_handler.callbacks:
            if isinstance(tracker, TensorBoardCallback) and tracker.logging_dir is None:
                tracker.logging_dir = str(plan.history.parent / "tensorboard")  # its own default is in checkpoints/
        self.follower = FollowRun(self)
        self.add_callback(self.follower)
        if plan.settings.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(plan.settings.early_stopping_patience))

    @property
    def documents_per_step(self) -> int:
        settings = self.plan.settings
        per_process = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        return int(per_process * self.args.world_size)

    @property
    def whole_batches(self) -> bool:
        # Sharded models gather weights in every forward pass, so every process must make equally many.
        return bool(self.is_deepspeed_enabled or self.is_fsdp_enabled)

    # ---- the training path

    def get_train_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        # Already this process's part, so accelerate must not shard it again. Its own generator keeps the
        # loader from drawing a worker seed out of the global one.
        return DataLoader(
            self.plan.lesson.examples,
            batch_sampler=self.sampler,
            collate_fn=self.plan.lesson.collate,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            persistent_workers=self.args.dataloader_persistent_workers,
            generator=torch.Generator(),
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None  # the step brings its own normaliser

    def floating_point_ops(self, inputs: Any) -> int:
        return 6 * self.plan.lesson.tokens(inputs) * self.network.num_parameters(exclude_embeddings=True)

    def _run_epoch(self, *arguments: Any, **named: Any) -> None:
        if self.control.should_training_stop:
            return  # a resumed run whose training was over, or that the due evaluation ended
        self.sampler.epoch = named["epoch"]
        if isinstance(self.plan.lesson.examples, StreamedTable):
            self.plan.lesson.examples.turn_to(named["epoch"])
        super()._run_epoch(*arguments, **named)  # type: ignore[no-untyped-call]

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward for one optimizer step, as the lesson collated it.

        Returns this process's share of the loss times the number of processes, so that the mean over processes,
        which both the log and DistributedDataParallel take, is the loss of the whole step.
        """
        model.train()
        torch.manual_seed(keyed_seed(self.plan.seed, self.state.global_step, self.args.process_index))
        scale = self.args.world_size / self.plan.lesson.normaliser(inputs)
        total = torch.zeros((), device=self.args.device)
        groups = self._groups(inputs)
        for number, group in enumerate(groups):
            exchange = contextlib.nullcontext() if number == len(groups) - 1 else self.accelerator.no_sync(model)
            with exchange:
                with self.compute_loss_context_manager():
                    loss = self.plan.lesson.loss(model, inputs, group) * scale
                self.accelerator.backward(loss)
            total += loss.detach()
        if not torch.isfinite(total):
            raise self.not_finite("loss")
        return total

    def _groups(self, step: Any) -> list[Any]:
        lesson, device = self.plan.lesson, self.args.device
        groups = lesson.groups(
            step,
            budget_tokens=self.plan.settings.tokens_per_micro_batch or of_device(MICRO_BATCH_TOKENS, device),
            pass_cost_tokens=of_device(PASS_COST_TOKENS, device),
            whole=self.whole_batches,
        )
        self.real_tokens += lesson.tokens(step)
        self.padded_tokens += sum(lesson.padded_tokens(step, group) for group in groups)
        return groups

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        scaled = getattr(self.accelerator, "scaler", None) is not None  # fp16 skips such steps by itself
        if norm is not None and not scaled and not math.isfinite(float(norm)):
            raise self.not_finite("gradient")
        return norm

    # ---- evaluation

    def evaluate(self, *arguments: Any, metric_key_prefix: str = "eval", **named: Any) -> dict[str, float]:
        """Scores of the validation documents, from all processes' predictions; NaN where a score is undefined."""
        scores = self.plan.lesson.evaluate(self.network, self.turn())
        loss = scores["loss"]
        if loss is not None and not math.isfinite(loss):
            raise self.not_finite("validation loss")
        metrics = {f"{metric_key_prefix}_{name}": math.nan if v is None else float(v) for name, v in scores.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.tell_evaluation({name: float(value) for name, value in scores.items() if value is not None})
        return metrics

    def turn(self) -> Turn:
        """An evaluation of the model as it stands, as this process sees it."""
        # Every process of a sharded model must make the same passes, so each evaluates everything.
        world = 1 if self.whole_batches else self.args.world_size
        return Turn(
            process=self.args.process_index if world > 1 else 0,
            processes=world,
            step=self.state.global_step,
            epoch=float(self.state.epoch or 0.0),
            progress=self.plan.progress,
            # Several processes finish their chunks at different times, and stop after the next step.
            check=self.stop_if_asked if self.args.world_size == 1 else _unchecked,
            writes=self.args.process_index == 0,
        )


def _unchecked() -> None:
    """Nobody may leave an evaluation alone."""


class FollowRun(TrainerCallback):
    """Writes history.jsonl, shows progress, saves between epochs, answers signals, finishes what was due."""

    def __init__(self, trainer: DocumentTrainer) -> None:
        self._trainer = trainer
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        trainer = self._trainer
        if args.should_save:
            write_json_lines(trainer.plan.history, [_plain(row) for row in state.log_history])
        best = trainer.best_checkpoint()
        # The step is what counts: the run may have moved since.
        state.best_model_checkpoint = str(best) if best is not None else None
        self._bar = trainer.plan.progress.bar(
            total=state.max_steps, initial=state.global_step, desc="training", unit="step"
        )
        if trainer.resumed is None:
            return
        standing = trainer.resumed.standing
        trainer.restore(standing)
        control.should_log = control.should_evaluate = control.should_save = False
        control.should_training_stop = standing.training_over
        if standing.evaluation_due:
            control.should_evaluate = control.should_save = True
            trainer._maybe_log_save_evaluate(
                trainer._tr_loss, None, trainer.model_wrapped, None, state.epoch, None, start_time=0.0
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self._bar.update(1)
        # However few its steps, an epoch's training loss stands beside its validation loss.
        control.should_log = control.should_log or self._trainer.epoch_over()
        every = self._trainer.plan.settings.save_steps
        if every and args.save_strategy != "steps" and state.global_step % every == 0:
            control.should_save = control.should_save or not self._trainer.epoch_over()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
        if args.should_save and state.log_history and "train_runtime" not in state.log_history[-1]:
            append_json_line(self._trainer.plan.history, _plain(state.log_history[-1]))
        if self._bar is not None and logs and "loss" in logs:
            self._bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def _without_bars_of_transformers() -> Iterator[None]:
    # Each save would draw one through ours; plan.progress shows what takes long.
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def fit(model: PreTrainedModel, plan: FitPlan, *, resume: Checkpoint | None = None) -> FitResult:
    """Train, evaluating and saving as the settings say; leaves the best weights in `model`.

    Raises Stopped (saved and resumable), TrainingFailed (not finite), EnvironmentFault (disk full, a process is gone),
    RecipeError, and Pruned when the plan's listener does.
    """
    arguments = training_arguments(
        plan.settings, folder=plan.checkpoints, seed=plan.seed, greater_is_better=plan.greater_is_better
    )
    if arguments.world_size != process_count():
        what = f"{process_count()} processes were started, and transformers finds {arguments.world_size}"
        raise RecipeError("training.use_cpu", what, "Without GPUs: training.use_cpu=true.")
    trainer = DocumentTrainer(model, plan, arguments)
    trainer.resumed = resume
    with (
        plan.stop.saving_first(),
        contextlib.closing(trainer.follower),
        company().training(),
        _without_bars_of_transformers(),
    ):
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume is not None else None)
        counted = trainer.counted()
        whole = trainer.whole_model()
    plan.lesson.counters.update({name: counted[name] for name in plan.lesson.counters})
    # accelerate leaves bf16 and fp16 arithmetic on the model; what is saved is used, and calibrated, without it.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    if whole is not model:
        become(model, whole)
    state = trainer.state
    notes = plan.lesson.examples.notes() if isinstance(plan.lesson.examples, StreamedTable) else []
    if trainer.whole_batches:
        notes.append("sharded model: plain batches, without length-aware micro-batches; each process evaluates all")
    if plan.settings.load_best_model_at_end and not state.best_global_step:
        notes.append(f"{plan.settings.metric_for_best_model} was never defined: best/ is the last model")
    best = plan.settings.load_best_model_at_end and state.best_global_step
    return FitResult(
        best_epoch=_epoch_of(state.log_history, state.best_global_step) if best else state.epoch,
        best_step=state.best_global_step if best else state.global_step,
        steps=state.global_step,
        padding_share=1 - counted["real_tokens"] / counted["padded_tokens"] if counted["padded_tokens"] else None,
        tokens=int(counted["real_tokens"]),
        micro_batches="plain" if trainer.whole_batches else plan.lesson.micro_batches,
        fill_rate=plan.lesson.fill_rate,
        optimizer_bytes=optimizer_bytes(trainer.optimizer),
        peak_bytes=peak_bytes(arguments.device),
        notes=notes,
    )


def _epoch_of(history: Sequence[Mapping[str, Any]], step: int | None) -> float | None:
    epochs = [row["epoch"] for row in history if row.get("step") == step and "eval_loss" in row]
    return float(epochs[0]) if epochs else None


def _plain(row: Mapping[str, Any]) -> Json:
    """A line for history.jsonl: numbers that are not finite become null; the order is the same after a resume."""
    first = [key for key in ("step", "epoch") if key in row]
    return {
        key: None if isinstance(row[key], float) and not math.isfinite(row[key]) else row[key]
        for key in [*first, *sorted(row.keys() - {*first})]
    }
