"""How training is saved, stopped and resumed: the half of our Trainer that makes and reads sealed checkpoints.

A checkpoint holds everything that the steps after it depend on, and says what was still due: the evaluation of the
epoch whose steps are done, or nothing at all. So a resumed run makes the steps, evaluations and log lines of an
uninterrupted one, each once.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME

from finetune.adapters import load_trained, save_trained, trains_part
from finetune.errors import CheckpointError, TrainingFailed, listed
from finetune.training.checkpoints import (
    STAGING,
    Checkpoint,
    Standing,
    best_checkpoint,
    publish,
    require_room,
    rotate,
    saving,
    seal,
    seal_fault,
    sealed_names,
)
from finetune.training.plan import FitPlan, Pruned
from finetune.training.sharded import fill, skeleton

TOKENS = "_tokens"  # ends the name of a counter that each process fills for its own part


class SealedTrainer(Trainer):
    """A Trainer with sealed checkpoints, that ends in good order after a signal and stops at numbers not finite."""

    def __init__(self, plan: FitPlan, **trainer_arguments: Any) -> None:
        self.plan = plan
        self.resumed: Checkpoint | None = None
        self.saved = ""  # the name of the checkpoint that holds the present state, if one does
        self.started = time.monotonic()
        self.real_tokens = 0
        self.padded_tokens = 0
        super().__init__(**trainer_arguments)
        cut = self.is_deepspeed_enabled or self.is_fsdp_enabled
        self.bare = skeleton(self.network) if cut else None

    @property
    def network(self) -> PreTrainedModel:
        """The model itself, never its wrapping for several processes."""
        return cast(PreTrainedModel, self.model)

    @property
    def saves_part(self) -> bool:
        """Of an adapter, or of a head on a frozen encoder, a checkpoint holds what is trained, and no base."""
        return trains_part(self.network) and not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def whole_model(self) -> PreTrainedModel:
        """The model itself, or a whole one put together from all processes, which must ask for it together."""
        if self.bare is None:
            return self.network
        weights = self.accelerator.get_state_dict(self.model_wrapped)
        return fill(copy.deepcopy(self.bare), weights) if self.args.should_save else self.network

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Weights and configuration only: training_args.bin would be a pickle with secrets in it.
        if self.args.should_save and output_dir is not None:
            if self.saves_part:
                save_trained(self.network, Path(output_dir))
            else:
                self.network.save_pretrained(output_dir, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if self.saves_part:
            load_trained(self.network, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.plan.checkpoints / STAGING)  # a checkpoint gets its place once it is sealed

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        self.save_sealed()

    def save_sealed(self) -> None:
        """Save the whole state aside, seal it, give it its name, and only then rotate."""
        self.refuse_not_finite()
        folder, best, standing = self.plan.checkpoints, self.best_checkpoint(), self.standing()
        written = folder / STAGING / f"checkpoint-{standing.step}"
        with saving(folder / STAGING) if self.args.should_save else contextlib.nullcontext():
            if self.args.should_save:
                require_room(folder, bytes_needed=self._bytes_to_save())
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(self.model_wrapped, None)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.best_model_checkpoint = None  # a path of this machine; the seal tells the step
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))
                seal(written, identity=self.plan.identity, standing=standing)
                newest = publish(written, name=standing.name)
                rotate(folder, newest=newest, keep=self.plan.settings.save_total_limit, best=best)
        self.accelerator.wait_for_everyone()
        self.state.best_model_checkpoint = str(best) if best is not None else None
        self.saved = standing.name

    def standing(self) -> Standing:
        return Standing(
            step=self.state.global_step,
            evaluation_due=self.evaluation_due(),
            training_over=self.control.should_training_stop,
            best_step=self.state.best_global_step if self.best_checkpoint() is not None else None,
            counters={
                "loss_sum": float(self.accelerator.gather(self._tr_loss).mean()),
                "logged_step": self._globalstep_last_logged,
                "seconds": round(time.monotonic() - self.started, 1),
                **self.counted(),
            },
        )

    def counted(self) -> dict[str, float]:
        """What was counted since the training began: tokens over all processes, anything else is alike on each."""
        mine = {"real_tokens": self.real_tokens, "padded_tokens": self.padded_tokens, **self.plan.lesson.counters}
        summed = [name for name in mine if name.endswith(TOKENS)]
        sums = torch.tensor([float(mine[name]) for name in summed], dtype=torch.float64, device=self._counting_device)
        if self.args.world_size > 1:
            torch.distributed.all_reduce(sums)
        return mine | dict(zip(summed, sums.tolist(), strict=True))

    @property
    def _counting_device(self) -> torch.device:
        # Apple's GPU has no numbers of 64 bits, and is never one of several.
        return self.args.device if self.args.world_size > 1 else torch.device("cpu")

    def restore(self, standing: Standing) -> None:
        """Count on from where the checkpoint stood, so that history and totals are those of one run."""
        # The first process takes over what all have counted; together they then count it once.
        others = {name: 0.0 for name in standing.counters if name.endswith(TOKENS) and self.args.process_index}
        counters = {**standing.counters, **others}
        self._tr_loss += counters["loss_sum"]
        self._globalstep_last_logged = int(counters["logged_step"])
        self.real_tokens, self.padded_tokens = int(counters["real_tokens"]), int(counters["padded_tokens"])
        self.started -= counters["seconds"]
        self.plan.lesson.counters.update({name: counters[name] for name in self.plan.lesson.counters})
        self.saved = standing.name

    def refuse_not_finite(self) -> None:
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters()):
            raise self.not_finite("model")

    def not_finite(self, what: str) -> TrainingFailed:
        kept = sealed_names(self.plan.checkpoints)
        return TrainingFailed(
            f"step {self.state.global_step + 1}",
            f"the {what} is not finite",
            f"Kept: {', '.join(kept) or 'no checkpoint yet'}. Lower training.learning_rate and start a new run.",
        )

    def _bytes_to_save(self) -> int:
        states = self.optimizer.state.values() if self.optimizer is not None else ()
        tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        weights = [w for w in self.network.parameters() if w.requires_grad or not self.saves_part]
        return sum(tensor.nbytes for tensor in [*weights, *tensors]) + 100_000  # and a little state

    def best_checkpoint(self) -> Path | None:
        step = self.state.best_global_step
        return best_checkpoint(self.plan.checkpoints, step) if step and self.args.load_best_model_at_end else None

    def epoch_over(self) -> bool:
        """After the last step of an epoch, or of the training."""
        return (self.state.epoch or 0.0) % 1 == 0 or bool(self.control.should_training_stop)

    def evaluation_due(self) -> bool:
        """Whether this step's evaluation is still to come, or has begun and not ended."""
        step = self.state.global_step
        if any(row["step"] == step and "eval_loss" in row for row in self.state.log_history):
            return False
        after_epoch = self.args.eval_strategy == "epoch" and self.args.eval_delay <= (self.state.epoch or 0)
        return self.control.should_evaluate or (after_epoch and self.epoch_over())

    def _maybe_log_save_evaluate(self, *arguments: Any, **named: Any) -> None:
        # Log, look for a signal, then evaluate and save: the log of a stopped run lacks no line.
        wanted = self.control.should_evaluate, self.control.should_save
        self.control.should_evaluate = self.control.should_save = False
        super()._maybe_log_save_evaluate(*arguments, **named)
        self.control.should_evaluate, self.control.should_save = wanted
        self.stop_if_asked()
        super()._maybe_log_save_evaluate(*arguments, **named)

    def stop_if_asked(self) -> None:
        """After a signal to any process: save, seal and leave, all together."""
        if self._any_process(self.plan.stop.pending()):
            if self.saved != Standing(self.state.global_step, evaluation_due=self.evaluation_due()).name:
                self.save_sealed()
            raise self.plan.stop.error(saved=f"{self.saved} is saved")

    def tell_evaluation(self, scores: Mapping[str, float]) -> None:
        """Tell the plan's listener, if it has one; when that has seen enough, all processes leave together."""
        if self.plan.on_evaluation is None:
            return
        enough = False
        if self.args.process_index == 0:
            try:
                self.plan.on_evaluation(float(self.state.epoch or 0.0), scores)
            except Pruned:
                enough = True
        if self._any_process(enough):
            raise Pruned(f"after epoch {self.state.epoch:g}")

    def _any_process(self, flag: bool) -> bool:
        if self.args.world_size == 1:
            return flag
        votes = torch.tensor(int(flag), device=self.args.device)
        torch.distributed.all_reduce(votes)
        return bool(votes.item())

    def _load_best_model(self) -> None:
        best = self.best_checkpoint()
        fault = seal_fault(best) if best is not None else "unknown"
        if fault:
            what = f"the best checkpoint is lost ({fault}); last/ is complete"
            raise CheckpointError(
                str(best), what, "--resume trains the best again if an older one is left, else --restart."
            )
        if best is not None and self.saves_part:
            load_trained(self.network, best)
        else:
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # transformers warns of tied weights, which a checkpoint holds once; the seal tells what is really missing.
        tied = set(getattr(self.network, "all_tied_weights_keys", None) or ())
        lost = sorted({*load_result.missing_keys, *load_result.unexpected_keys} - tied)
        if lost:
            raise CheckpointError(str(self.plan.checkpoints), f"weights and model do not fit: {listed(lost, 5)}")

    def _finalize_training(self, *arguments: Any) -> Any:
        self.refuse_not_finite()
        self.stop_if_asked()
        # last/ is written while the last weights are still in memory, before the best ones replace them.
        model = self.whole_model()
        if self.args.should_save:
            self.plan.save_model(model, self.plan.last)
        self.accelerator.wait_for_everyone()
        return super()._finalize_training(*arguments)  # type: ignore[no-untyped-call]
