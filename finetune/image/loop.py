"""The open loop of the adversarial game: steps, log lines, an evaluation each epoch, checkpoints, best and last.

It keeps the promises of the Trainer's road: a signal saves and stops, a resumed game ends as an uninterrupted one does,
numbers that are not finite end it, and only the first process writes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel

from finetune.errors import TrainingFailed
from finetune.image.alarms import alarms
from finetune.image.drawer import Drawer
from finetune.image.game import Batch, Game, NotFinite, share_of_rate
from finetune.image.game_checkpoints import GameProgress, load_best, restore_game, save_game
from finetune.image.training_images import TrainingImages, order_of_epoch, steps_of_epoch
from finetune.recipe_image import Adversary, ImageTraining
from finetune.runs import Json, append_json_line, write_json_lines
from finetune.training.batches import keyed_seed
from finetune.training.checkpoints import Checkpoint, Standing, sealed_names
from finetune.training.company import company
from finetune.training.lessons import Turn
from finetune.training.memory import optimizer_bytes, peak_bytes
from finetune.training.plan import FitResult, Plan, Pruned


@dataclass(frozen=True)
class GameLesson:
    """What a game is played with, and how the model is judged after each epoch; the test split is not part of it.

    `evaluate` draws from the model as it would be saved. Its scores may hold `diversity`, of which an alarm is made.
    """

    images: TrainingImages
    rules: Adversary
    evaluate: Callable[[PreTrainedModel, Turn], Mapping[str, float | None]]


GamePlan = Plan[GameLesson, ImageTraining]


def play(model: Drawer, plan: GamePlan, *, resume: Checkpoint | None = None) -> FitResult:
    """Train generator and discriminator against each other; leaves the best weights in `model`.

    Raises Stopped (saved and resumable), TrainingFailed (not finite), EnvironmentFault (disk full), and Pruned when
    the plan's listener does.
    """
    match = Match(model, plan)
    with plan.stop.saving_first(), company().training(), match.playing(resume):
        while not match.over:
            if not match.evaluation_due():
                match.make_step()
            if match.evaluation_due():
                match.close_epoch()
        match.finish()
    return match.result()


class Match:
    """A game and the books that are kept of it. Use `play`."""

    def __init__(self, model: Drawer, plan: GamePlan) -> None:
        settings, self.plan, self.model = plan.settings, plan, model
        AcceleratorState._reset_state(reset_partial_state=True)  # what trained here before had an arithmetic of its own
        precision = "bf16" if settings.bf16 else "fp16" if settings.fp16 else "no"
        self.accelerator = Accelerator(cpu=settings.use_cpu, mixed_precision=precision)
        images, rules = plan.lesson.images, plan.lesson.rules
        self.game = Game(model, rules, settings, augment=images.augment, accelerator=self.accelerator, seed=plan.seed)
        self.per_turn = settings.per_device_train_batch_size * self.accelerator.num_processes
        self.per_step = self.per_turn * rules.discriminator_steps
        self.steps_an_epoch = steps_of_epoch(len(images), passes=settings.passes_per_epoch, per_step=self.per_step)
        self.steps = min(settings.num_train_epochs * self.steps_an_epoch, settings.max_steps or math.inf)
        self.progress = GameProgress()
        self.saved = ""  # the name of the checkpoint that holds the present state, if one does
        self.started = time.monotonic()
        self._order = (-1, np.zeros((0, 0), dtype=np.int64))
        self._logged = (0, self.started)  # step and moment of the last log line
        self._bar: Any = None

    @contextlib.contextmanager
    def playing(self, resume: Checkpoint | None) -> Iterator[None]:
        """From the beginning, or from where a checkpoint was sealed; the history is that of the game so far."""
        if resume is not None:
            self.progress = restore_game(resume, self.game)
            self.started -= resume.standing.counters["seconds"]
            self.saved = resume.standing.name
            self._logged = (self.progress.step, time.monotonic())
        if self.writes:
            write_json_lines(self.plan.history, self.progress.rows)
        self._bar = self.plan.progress.bar(total=self.steps, initial=self.progress.step, desc="training", unit="step")
        try:
            yield
        except NotFinite as error:
            self._end_not_finite(str(error))
        finally:
            self._bar.close()

    # ---- where it stands

    @property
    def writes(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def epoch(self) -> float:
        return self.progress.step / self.steps_an_epoch

    @property
    def over(self) -> bool:
        return (self.progress.step >= self.steps or self.progress.over) and not self.evaluation_due()

    def epoch_over(self) -> bool:
        return self.progress.step % self.steps_an_epoch == 0 or self.progress.step >= self.steps

    def evaluation_due(self) -> bool:
        """Whether the evaluation after this step is still to come, or has begun and not ended."""
        step = self.progress.step
        return step > 0 and self.epoch_over() and not any(_is_evaluation(r) and r["step"] == step for r in self._newest)

    @property
    def _newest(self) -> list[Json]:
        return self.progress.rows[-2:]

    # ---- the story

    def make_step(self) -> None:
        step, settings = self.progress.step, self.plan.settings
        rate = share_of_rate(
            step, steps=int(self.steps), warmup=settings.warmup_steps, shape=settings.lr_scheduler_type
        )
        told = self.game.step(self._batches(step), step=step, rate=rate)
        for name, value in told.items():
            total, count = self.progress.sums.get(name, (0.0, 0))
            self.progress.sums[name] = [total + value, count + 1]
        self.progress.step += 1
        self._bar.update(1)
        if self.progress.step % settings.logging_steps == 0 or self.epoch_over():
            self._log_losses(rate * settings.learning_rate)
        self.stop_if_asked()

    def close_epoch(self) -> None:
        """Judge the model as it would be saved, remember the best, and save."""
        turn = Turn(
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            step=self.progress.step,
            epoch=self.epoch,
            progress=self.plan.progress,
            # Several processes wait for the one that draws, and stop after the next step.
            check=self.stop_if_asked if self.accelerator.num_processes == 1 else _unchecked,
        )
        scores = self.plan.lesson.evaluate(self.model, turn)
        before = set(self.alarms())
        self._log({f"eval_{name}": value for name, value in scores.items()})
        for alarm in self.alarms():
            if alarm not in before and self.writes:
                self.plan.progress.warn(alarm)
        self._compare(scores.get(self.plan.settings.metric_for_best_model))
        self._tell({name: value for name, value in scores.items() if value is not None})
        self._save()
        self.stop_if_asked()

    def alarms(self) -> list[str]:
        return alarms(self.progress.rows)

    def stop_if_asked(self) -> None:
        """After a signal to any process: save, seal and leave, all together."""
        if self._any_process(self.plan.stop.pending()):
            if self.saved != self._standing().name:
                self._save()
            raise self.plan.stop.error(saved=f"{self.saved} is saved")

    def finish(self) -> None:
        """last/ is written while the last weights are still in memory, then the best ones take their place."""
        self.stop_if_asked()
        if self.writes:
            self.plan.save_model(self.model, self.plan.last)
        self.accelerator.wait_for_everyone()
        if self._keeps_best and self.progress.best_step is not None:
            load_best(self.plan.checkpoints, self.progress.best_step, self.model)
        self.model.requires_grad_(True)

    def result(self) -> FitResult:
        best, notes = self._keeps_best and self.progress.best_step is not None, self.alarms()
        if self._keeps_best and not best:
            notes.append(f"{self.plan.settings.metric_for_best_model} was never defined: best/ is the last model")
        return FitResult(
            best_epoch=self.progress.best_epoch if best else self.epoch,
            best_step=self.progress.best_step if best else self.progress.step,
            steps=self.progress.step,
            micro_batches=None,
            optimizer_bytes=sum(optimizer_bytes(optimizer) for optimizer in self.game.optimizers.values()),
            peak_bytes=peak_bytes(self.accelerator.device),
            notes=notes,
        )

    # ---- the parts of it

    def _batches(self, step: int) -> list[Batch]:
        """The real images of a step that are this process's, one batch for each turn of the discriminator."""
        epoch, place = divmod(step, self.steps_an_epoch)
        images, settings, process = self.plan.lesson.images, self.plan.settings, self.accelerator.process_index
        if self._order[0] != epoch:
            order = order_of_epoch(
                len(images), passes=settings.passes_per_epoch, per_step=self.per_step, seed=self.plan.seed, epoch=epoch
            )
            self._order = (epoch, order)
        turns = self._order[1][place].reshape(-1, self.per_turn)
        chance = torch.Generator().manual_seed(keyed_seed(self.plan.seed, step, process, 2))
        processes = self.accelerator.num_processes
        return [
            images.batch(turn[process::processes], device=self.accelerator.device, generator=chance) for turn in turns
        ]

    def _log_losses(self, learning_rate: float) -> None:
        names = sorted(self.progress.sums)
        sums = torch.tensor([self.progress.sums[name] for name in names], dtype=torch.float64)
        means = self._over_processes(sums[:, 0] / sums[:, 1]).tolist()
        if not all(map(math.isfinite, means)):
            raise NotFinite("the loss")
        since, moment = self._logged
        seconds = time.monotonic() - moment
        images = (self.progress.step - since) * self.per_step
        told = dict(zip(names, means, strict=True)) | {"learning_rate": learning_rate}
        self._log(told | {"images_per_second": round(images / seconds, 1) if seconds > 0 else None})
        self.progress.sums, self._logged = {}, (self.progress.step, time.monotonic())
        shown = {"D(x)": f"{told['d_real']:.2f}", "D(G(z))": f"{told['d_drawn']:.2f}"}
        self._bar.set_postfix(shown, refresh=False)

    def _log(self, values: Mapping[str, float | None]) -> None:
        plain = {name: value if value is None or math.isfinite(value) else None for name, value in values.items()}
        row = {"step": self.progress.step, "epoch": self.epoch, **{name: plain[name] for name in sorted(plain)}}
        self.progress.rows.append(row)
        if self.writes:
            append_json_line(self.plan.history, row)

    def _compare(self, score: float | None) -> None:
        """The first of equals is the best; patience counts evaluations whose score is not above the best so far."""
        progress, best = self.progress, self.progress.best_score
        if score is not None and math.isfinite(score):
            sign = 1 if self.plan.greater_is_better else -1
            if best is None or sign * score > sign * best:
                progress.best_score, progress.best_step, progress.best_epoch = score, progress.step, self.epoch
                progress.waited = 0
                return
        progress.waited += 1
        progress.over = progress.waited >= (self.plan.settings.early_stopping_patience or math.inf)

    def _tell(self, scores: Mapping[str, float]) -> None:
        """Tell the plan's listener, if it has one; when that has seen enough, all processes leave together."""
        enough = False
        if self.plan.on_evaluation is not None and self.writes:
            try:
                self.plan.on_evaluation(self.epoch, scores)
            except Pruned:
                enough = True
        if self._any_process(enough):
            raise Pruned(f"after epoch {self.epoch:g}")

    def _standing(self) -> Standing:
        return Standing(
            step=self.progress.step,
            evaluation_due=self.evaluation_due(),
            training_over=self.over,
            best_step=self.progress.best_step if self._keeps_best else None,
            counters={"seconds": round(time.monotonic() - self.started, 1)},
        )

    def _save(self) -> None:
        for network in (self.model, self.game.player):
            if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
                raise NotFinite("the model")
        for name, (total, count) in self.progress.sums.items():
            mean = self._over_processes(torch.tensor([total], dtype=torch.float64))
            self.progress.sums[name] = [float(mean), count]
        standing, settings = self._standing(), self.plan.settings
        if self.writes:
            save_game(
                self.plan.checkpoints,
                self.game,
                self.progress,
                identity=self.plan.identity,
                standing=standing,
                keep=settings.save_total_limit,
            )
        self.accelerator.wait_for_everyone()
        self.saved = standing.name

    @property
    def _keeps_best(self) -> bool:
        return self.plan.settings.load_best_model_at_end

    def _over_processes(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over processes."""
        if self.accelerator.num_processes == 1:
            return values
        reduced = self.accelerator.reduce(values.to(self.accelerator.device), reduction="mean")
        assert isinstance(reduced, torch.Tensor)
        return reduced.cpu()

    def _any_process(self, flag: bool) -> bool:
        return bool(self._over_processes(torch.tensor([float(flag)])).item() > 0)

    def _end_not_finite(self, what: str) -> NoReturn:
        kept = ", ".join(sealed_names(self.plan.checkpoints)) or "no checkpoint yet"
        do = f"Kept: {kept}. Lower training.learning_rate and start a new run."
        raise TrainingFailed(f"step {self.progress.step + 1}", f"{what} is not finite", do)


def _is_evaluation(row: Json) -> bool:
    return any(name.startswith("eval_") for name in row)


def _unchecked() -> None:
    """Nobody may leave an evaluation alone."""
