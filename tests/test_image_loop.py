"""The adversarial loop and the VAE's lesson: a step is what the formulas say, and a resumed game is the same game."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny_games import (
    CLASSES,
    RULES,
    spread_of_drawn,
    tiny_game,
    tiny_images,
    tiny_pixels,
    tiny_player,
    tiny_settings,
    tiny_vae_plan,
)
from torch import Tensor
from transformers import get_scheduler

from finetune.errors import CheckpointError, Stopped, TrainingFailed
from finetune.image.alarms import alarms, diversity
from finetune.image.drawer import Drawer
from finetune.image.game import Game, follow, share_of_rate
from finetune.image.loop import play
from finetune.image.training_images import as_shares, order_of_epoch
from finetune.image.vae_lesson import VaeLesson, fit_vae, trainer_settings
from finetune.image_predictor import as_bytes
from finetune.progress import Progress
from finetune.runs import read_json_lines
from finetune.training.batches import keyed_seed
from finetune.training.checkpoints import newest_checkpoint
from finetune.training.plan import FitResult, Pruned

CPU = torch.device("cpu")


def tiny_side(kind: str = "gan", *, rules: Mapping[str, Any] | None = None, **settings: Any) -> tuple[Game, list[Any]]:
    """A game without changes of the images, and a batch for it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    images = tiny_images()
    chosen = RULES[kind].model_copy(update=dict(rules or {}))
    accelerator = Accelerator(cpu=True)
    game = Game(
        tiny_player(kind), chosen, tiny_settings(**settings), augment=images.augment, accelerator=accelerator, seed=5
    )
    batch = images.batch(np.arange(8), device=CPU, generator=torch.Generator())
    return game, [batch]


def tensors_of(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def greatest_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


# ---- one step


def test_a_step_is_what_the_formulas_say() -> None:
    """The same step with plain autograd and p <- p - rate * gradient, from copies of both sides."""
    rate, weight, interval = 0.05, 3.0, 2
    game, [(real, asked)] = tiny_side(
        rules={"r1_weight": weight, "r1_interval": interval}, optim="sgd", learning_rate=rate
    )
    generator, judge = copy.deepcopy(game.player), copy.deepcopy(game.discriminator).requires_grad_(True).train()
    latents = torch.Generator().manual_seed(keyed_seed(5, 0, 0, 1))
    told = game.step([(real, asked)], step=0, rate=0.5)

    drawn = generator(torch.randn(8, 4, generator=latents), asked)
    pixels = real.clone().requires_grad_(True)
    real_logits = judge(pixels, asked)
    drawn_logits = judge(drawn, asked)
    (slope,) = torch.autograd.grad(real_logits.sum(), pixels, create_graph=True)
    penalty = slope.square().sum(dim=(1, 2, 3)).mean() / 4  # pixels of the papers run from -1 to 1
    plain = F.softplus(-real_logits).mean() + F.softplus(drawn_logits).mean()
    descend(judge, plain + weight / 2 * interval * penalty, rate=0.5 * rate)

    judge.eval()
    generator.requires_grad_(True)
    fooled = F.softplus(-judge(generator(torch.randn(8, 4, generator=latents), asked), asked)).mean()
    descend(generator, fooled, rate=0.5 * rate)

    assert greatest_difference(judge.state_dict(), game.discriminator.state_dict()) < 1e-6
    assert greatest_difference(generator.state_dict(), game.player.state_dict()) < 1e-6
    expected = {
        "d_drawn": drawn_logits.sigmoid().mean(), "d_real": real_logits.sigmoid().mean(),
        "discriminator_loss": plain, "generator_loss": fooled, "r1": penalty,
    }  # fmt: skip
    assert told == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-5)


def descend(network: torch.nn.Module, loss: Tensor, *, rate: float) -> None:
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= rate * gradient


@pytest.mark.parametrize("kind", ["gan", "style"])
def test_the_side_that_does_not_step_stays_as_it_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    game, batches = tiny_side(kind)
    sides = {"_teach_discriminator": game.player, "_teach_generator": game.discriminator}
    for name, idle in sides.items():
        real = getattr(game, name)

        def watched(*arguments: Any, real: Callable[..., Any] = real, idle: Any = idle, **named: Any) -> Any:
            before = tensors_of(idle)
            before.pop("mapping.average", None)  # what a style generator's w are on average, no weight
            told = real(*arguments, **named)
            after = {key: tensor for key, tensor in tensors_of(idle).items() if key in before}
            assert greatest_difference(before, after) == 0.0
            assert all(p.grad is None and not p.requires_grad for p in idle.parameters())
            return told

        monkeypatch.setattr(game, name, watched)
    learning = tensors_of(game.player), tensors_of(game.discriminator)
    game.step(batches, step=0, rate=1.0)
    assert greatest_difference(learning[0], game.player.state_dict()) > 0
    assert greatest_difference(learning[1], game.discriminator.state_dict()) > 0
    assert all(p.grad is None for side in (game.player, game.discriminator) for p in side.parameters())


def test_the_average_forgets_half_in_its_half_life() -> None:
    game, batches = tiny_side(rules={"ema_half_life_images": 16.0})
    before = tensors_of(game.average)
    game.step(batches, step=0, rate=1.0)  # 8 images: half a half-life
    kept = 0.5**0.5
    expected = {name: kept * before[name] + (1 - kept) * now for name, now in game.player.state_dict().items()}
    assert greatest_difference(expected, game.average.state_dict()) < 1e-7
    assert game.model.generator is game.average  # type: ignore[comparison-overlap]  # what is saved and drawn from


def test_buffers_of_the_average_are_those_of_the_player() -> None:
    average, player = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    player(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)))
    follow(average, player, decay=0.9)
    assert torch.equal(average.running_mean, player.running_mean) and average.num_batches_tracked == 1  # type: ignore


def test_the_penalty_is_taken_every_so_many_turns() -> None:
    game, [batch] = tiny_side(rules={"r1_weight": 1.0, "r1_interval": 3, "discriminator_steps": 2})
    taken = ["r1" in game.step([batch, batch], step=step, rate=1.0) for step in range(6)]
    assert taken == [True, True, False, True, True, False]  # of turns 0 to 11, those are 0, 3, 6 and 9


def test_the_optimizers_are_those_of_the_recipe() -> None:
    game, _ = tiny_side(rules={"discriminator_learning_rate": 0.5}, learning_rate=0.2)
    groups = {side: optimizer.param_groups for side, optimizer in game.optimizers.items()}
    assert {group["lr"] for group in groups["generator"]} == {0.2}
    assert {group["lr"] for group in groups["discriminator"]} == {0.5}
    assert {group["betas"] for side in groups.values() for group in side} == {(0.0, 0.99)}
    game, _ = tiny_side(optim="adamw", weight_decay=0.3, adam_beta1=0.4, adam_beta2=0.5)
    (decayed, bare) = game.optimizers["generator"].param_groups
    assert isinstance(game.optimizers["generator"].optimizer, torch.optim.AdamW)
    assert (decayed["weight_decay"], bare["weight_decay"], decayed["betas"]) == (0.3, 0.0, (0.4, 0.5))
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim <= 1 for p in bare["params"])
    game, _ = tiny_side(optim="sgd", momentum=0.7, weight_decay=0.1)
    assert {group["momentum"] for group in game.optimizers["generator"].param_groups} == {0.7}


@pytest.mark.parametrize(
    "settings", [{"weight_decay": 0.1}, {"momentum": 0.9}, {"optim": "sgd", "adam_beta1": 0.5}], ids=str
)
def test_a_setting_of_another_optimizer_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="and optim is"):
        tiny_settings(**settings)


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 0.3, 4])
def test_the_learning_rate_is_that_of_transformers(shape: str, warmup: float) -> None:
    rising = math.ceil(warmup * 11) if warmup < 1 else int(warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if shape == "constant" else shape
    schedule = get_scheduler(name, optimizer, num_warmup_steps=rising, num_training_steps=11)
    for step in range(11):
        assert share_of_rate(step, steps=11, warmup=warmup, shape=shape) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


# ---- the images


def test_every_image_is_shown_once_a_pass_and_steps_are_full() -> None:
    order = order_of_epoch(10, passes=3, per_step=4, seed=1, epoch=0)
    assert order.shape == (8, 4)
    assert all(sorted(order.ravel()[10 * n : 10 * n + 10]) == list(range(10)) for n in range(3))
    assert order.ravel()[30:].tolist() == order.ravel()[:2].tolist()
    assert np.array_equal(order, order_of_epoch(10, passes=3, per_step=4, seed=1, epoch=0))
    assert not np.array_equal(order, order_of_epoch(10, passes=3, per_step=4, seed=1, epoch=1))
    assert order_of_epoch(3, passes=1, per_step=8, seed=1, epoch=0).shape == (1, 8)


def test_bytes_become_shares_and_bytes_again() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    shares = as_shares(pixels, CPU)
    assert (shares.min(), shares.max()) == (0, 1)
    assert np.array_equal(as_bytes(shares), pixels)


# ---- resume


def play_kind(kind: str, folder: Path, resume: Any = None, **settings: Any) -> tuple[Drawer, FitResult]:
    rules = {"r1_weight": 1.0, "r1_interval": 2}
    model = tiny_player(kind)
    if kind == "vae":
        plan: Any = tiny_vae_plan(folder, **settings)
        fit: Any = fit_vae
    else:
        plan, fit = tiny_game(folder, kind, rules=rules, **settings), play
    return model, fit(model, plan, resume=resume)


def history(folder: Path) -> list[dict[str, Any]]:
    rows = read_json_lines(folder / "history.jsonl")
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]


SETTINGS: dict[str, Any] = {"num_train_epochs": 3, "warmup_steps": 2, "lr_scheduler_type": "cosine", "logging_steps": 2}
OPTIMIZERS = {
    "adam": {"optim": "adam"},
    "sgd": {"optim": "sgd", "momentum": 0.9, "weight_decay": 0.01, "max_grad_norm": 1.0},
}


@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["gan", "style", "vae"])
def test_a_resumed_game_is_the_same_game(
    kind: str, optim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in an epoch, then after the steps of one, then in its evaluation: no number differs in the end."""
    settings = SETTINGS | OPTIMIZERS[optim]
    whole, expected = play_kind(kind, tmp_path / "whole", **settings)
    stops = {"step 4": "checkpoint-4", "step 6": "checkpoint-6-due", "evaluation": "checkpoint-9-due"}
    checkpoint = None
    for where, name in stops.items():
        with monkeypatch.context() as patch:
            trap(patch, where)
            with pytest.raises(Stopped) as stopped:
                play_kind(kind, tmp_path / "cut", resume=checkpoint, **settings)
        assert f"{name} is saved" in str(stopped.value) and stopped.value.exit_status == 75
        checkpoint, notes = newest_checkpoint(tmp_path / "cut" / "checkpoints", identity={"run": "tiny"})
        assert checkpoint is not None and checkpoint.folder.name == name and not notes
    resumed, result = play_kind(kind, tmp_path / "cut", resume=checkpoint, **settings)
    assert dataclasses.replace(result, peak_bytes=None) == dataclasses.replace(expected, peak_bytes=None)
    assert result.steps == 9
    assert greatest_difference(whole.state_dict(), resumed.state_dict()) == 0.0
    last = [load_file(tmp_path / run / "last" / "model.safetensors") for run in ("whole", "cut")]
    assert greatest_difference(*last) == 0.0
    assert history(tmp_path / "whole") == history(tmp_path / "cut")


def trap(patch: pytest.MonkeyPatch, where: str) -> None:
    """The signal comes while step 4 or 6 is made, or in the evaluation after step 9."""
    from finetune.training.stopping import StopRequest

    seen = {"stop": None}
    real = StopRequest.__init__

    def remembered(self: Any, **named: Any) -> None:
        real(self, **named)
        seen["stop"] = self

    patch.setattr(StopRequest, "__init__", remembered)

    def pull() -> None:
        assert seen["stop"] is not None
        seen["stop"]._handle(signal.SIGTERM, None)

    if where == "evaluation":

        def judged(model: Any, turn: Any) -> Any:
            if turn.step == 9:
                pull()
                turn.check()
            return spread_of_drawn(model, turn)

        for plan in (tiny_game, tiny_vae_plan):
            patch.setattr(plan, "__kwdefaults__", {**plan.__kwdefaults__, "evaluate": judged})
        return
    wanted = int(where.split()[1])
    play_step, vae_loss = Game.step, VaeLesson.loss

    def step(self: Any, batches: Any, *, step: int, rate: float) -> Any:
        if step + 1 == wanted:
            pull()
        return play_step(self, batches, step=step, rate=rate)

    def loss(self: Any, *arguments: Any) -> Any:
        made = read_json_lines(Path(seen["stop"]._where) / "history.jsonl")  # type: ignore[attr-defined]
        counted[0] += 1
        if counted[0] + (4 if wanted == 6 and made else 0) == wanted:
            pull()
        return vae_loss(self, *arguments)

    counted = [0]
    patch.setattr(Game, "step", step)
    patch.setattr(VaeLesson, "loss", loss)


def test_a_checkpoint_of_another_game_is_refused(tmp_path: Path) -> None:
    play_kind("gan", tmp_path, num_train_epochs=1)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        newest_checkpoint(tmp_path / "checkpoints", identity={"run": "other"})


def test_a_checkpoint_holds_nothing_that_runs_code(tmp_path: Path) -> None:
    play_kind("gan", tmp_path, num_train_epochs=1)
    (folder,) = (tmp_path / "checkpoints").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "player.safetensors", "optimizers.pt", "progress.json", "seal.json"}
    torch.load(folder / "optimizers.pt", weights_only=True)


# ---- the end


def test_the_best_is_kept_beside_the_last(tmp_path: Path) -> None:
    scores = iter([0.5, 0.2, 0.3, 0.2])

    def evaluate(model: Any, turn: Any) -> Mapping[str, float | None]:
        return {"kernel_distance": next(scores)}

    model = tiny_player("gan")
    plan = tiny_game(tmp_path, "gan", evaluate=evaluate, num_train_epochs=4, learning_rate=0.01)
    result = play(model, plan)
    assert (result.best_epoch, result.best_step, result.steps) == (2.0, 6, 12)
    best = load_file(tmp_path / "checkpoints" / "checkpoint-6" / "model.safetensors")
    assert greatest_difference(best, model.state_dict()) == 0.0
    assert greatest_difference(load_file(tmp_path / "last" / "model.safetensors"), best) > 0
    assert sorted(path.name for path in plan.checkpoints.iterdir()) == ["checkpoint-12", "checkpoint-6"]


def test_patience_ends_a_game_and_a_resume_makes_no_further_step(tmp_path: Path) -> None:
    def evaluate(model: Any, turn: Any) -> Mapping[str, float | None]:
        return {"kernel_distance": float(turn.step)}

    settings: dict[str, Any] = {"num_train_epochs": 9, "early_stopping_patience": 2}
    result = play(tiny_player("gan"), tiny_game(tmp_path, "gan", evaluate=evaluate, **settings))
    assert (result.best_step, result.steps) == (3, 9)
    checkpoint, _ = newest_checkpoint(tmp_path / "checkpoints", identity={"run": "tiny"})
    plan = tiny_game(tmp_path, "gan", evaluate=evaluate, **settings)
    assert play(tiny_player("gan"), plan, resume=checkpoint).best_step == result.best_step


def test_a_score_that_is_never_defined_leaves_the_last_model(tmp_path: Path) -> None:
    result = play(tiny_player("gan"), tiny_game(tmp_path, "gan", evaluate=lambda *_: {"kernel_distance": None}))
    assert result.best_step == result.steps == 6
    assert result.notes == ["kernel_distance was never defined: best/ is the last model"]


def test_a_listener_ends_the_game(tmp_path: Path) -> None:
    heard: list[Any] = []

    def listen(epoch: float, scores: Mapping[str, float]) -> None:
        heard.append((epoch, sorted(scores)))
        raise Pruned

    plan = dataclasses.replace(tiny_game(tmp_path, "gan"), on_evaluation=listen)
    with pytest.raises(Pruned):
        play(tiny_player("gan"), plan)
    assert heard == [(1.0, ["kernel_distance", "loss"])]


def test_a_step_limit_ends_with_an_evaluation(tmp_path: Path) -> None:
    result = play(tiny_player("gan"), tiny_game(tmp_path, "gan", max_steps=4))
    assert result.steps == 4
    assert [row["step"] for row in history(tmp_path) if "eval_kernel_distance" in row] == [3, 4]


@pytest.mark.parametrize("kind", ["gan", "vae"])
def test_numbers_that_are_not_finite_end_with_their_own_exit_code(kind: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"is not finite.*Lower training.learning_rate") as failed:
        play_kind(kind, tmp_path, optim="sgd", learning_rate=1e30, num_train_epochs=3)
    assert failed.value.exit_code == 6
    assert not (tmp_path / "last").exists()


def test_bfloat16_saves_float32_and_differs_from_it(tmp_path: Path) -> None:
    models = [play_kind("style", tmp_path / str(bf16), bf16=bf16, learning_rate=0.01)[0] for bf16 in (False, True)]
    assert {tensor.dtype for tensor in models[1].state_dict().values()} == {torch.float32}
    assert greatest_difference(models[0].state_dict(), models[1].state_dict()) > 0
    assert all(torch.isfinite(tensor).all() for tensor in models[1].state_dict().values())


def test_float16_scales_its_loss_and_skips_a_step_that_overflows() -> None:
    """The scaling of a GPU, on the CPU: nearly the same step, and none at all where a gradient is not finite."""
    plain, batches = tiny_side(optim="sgd", learning_rate=0.05)
    plain.step(batches, step=0, rate=1.0)
    expected = tensors_of(plain.player), tensors_of(plain.discriminator)
    for scale, moves in ((1024.0, True), (3e38, False)):
        game, _ = tiny_side(optim="sgd", learning_rate=0.05)
        accelerator = game.accelerator
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        game = Game(
            tiny_player("gan"), game.rules, game.settings, augment=game.augment, accelerator=accelerator, seed=5
        )
        before = tensors_of(game.player)
        game.step(batches, step=0, rate=1.0)
        if moves:
            assert greatest_difference(expected[0], game.player.state_dict()) < 1e-4
            assert greatest_difference(expected[1], game.discriminator.state_dict()) < 1e-4
        else:
            assert greatest_difference(before, game.player.state_dict()) == 0.0
        assert accelerator.scaler.get_scale() == (scale if moves else pytest.approx(scale / 4))


# ---- alarms


def test_one_image_for_everything_is_no_diversity() -> None:
    pixels, labels = tiny_pixels(40)
    one_each = pixels[:CLASSES][labels]
    assert diversity(pixels, pixels, labels) == pytest.approx(1.0)
    assert diversity(one_each, pixels, labels) == pytest.approx(0.0)
    between_classes = diversity(one_each, pixels, None)
    assert between_classes is not None and between_classes > 0.2  # which is why it is taken within classes
    assert diversity(pixels[:2], pixels[:2], np.arange(2)) is None  # no class with two
    assert diversity(pixels, one_each, labels) is None  # the real ones are all alike


def test_an_alarm_names_the_epoch_and_needs_more_than_one_bad_evaluation() -> None:
    rows = [{"step": n, "epoch": float(n), "eval_diversity": d} for n, d in enumerate([0.01, 0.8, 0.05, 0.02, 0.01], 1)]
    assert alarms(rows[:3]) == []
    (alarm,) = alarms(rows)
    assert alarm.startswith("collapse: after epoch 3 ") and "2.0% of the variance" in alarm
    assert alarms(rows[:4]) == alarms(rows)  # the same words from then on


def test_a_discriminator_that_is_always_right_and_sure_has_won() -> None:
    def rows(d_drawn: float) -> list[dict[str, Any]]:
        return [{"step": n, "epoch": n / 2, "d_real": 0.99, "d_drawn": d_drawn} for n in range(1, 9)]

    (alarm,) = alarms(rows(0.01))
    assert alarm.startswith("the discriminator won: in epochs 1 to 3 ")
    assert alarms(rows(0.01)[:4]) == [] and alarms(rows(0.2)) == []


class Heard(Progress):
    """Remembers warnings."""

    heard: list[str] = []  # noqa: RUF012

    def warn(self, text: str) -> None:
        self.heard.append(text)


@pytest.mark.parametrize("collapsed", [True, False])
def test_the_alarm_is_told_once_and_noted(collapsed: bool, tmp_path: Path) -> None:
    """A generator whose weights are all zero draws one image; a sound one draws several."""
    pixels, labels = tiny_pixels(16)

    def evaluate(model: Any, turn: Any) -> Mapping[str, float | None]:
        with torch.no_grad():
            drawn = model.draw(model.latents(16, seed=1), torch.from_numpy(labels))
        return {"kernel_distance": 1.0, "diversity": diversity(as_bytes(drawn), pixels, labels)}

    model = tiny_player("gan", width=8)
    for name, parameter in model.named_parameters():
        if name.startswith("generator"):
            parameter.data.mul_(0.0 if collapsed else 1.6)
    heard = Heard(quiet=True)
    heard.heard.clear()
    plan = dataclasses.replace(
        tiny_game(tmp_path, "gan", evaluate=evaluate, num_train_epochs=4, learning_rate=1e-9), progress=heard
    )
    result = play(model, plan)
    told = [note for note in result.notes if note.startswith("collapse: after epoch 1 ")]
    assert (len(told), heard.heard) == ((1, told) if collapsed else (0, []))


# ---- the VAE's lesson


def test_the_loss_of_a_vae_is_a_mean_over_the_images_of_the_step(tmp_path: Path) -> None:
    lesson = VaeLesson(tiny_images(), 2, spread_of_drawn)
    model = tiny_player("vae")
    step = lesson.collate([lesson.examples[30, "mine"], lesson.examples[1, "other"], lesson.examples[2, "mine"]])
    assert step.numbers.tolist() == [6, 2] and lesson.normaliser(step) == 3  # 24 images, shown twice an epoch
    torch.manual_seed(0)
    loss = lesson.loss(model, step, None).item()
    torch.manual_seed(0)
    pixels, asked = lesson.images.batch(step.numbers, device=CPU, generator=torch.default_generator)
    output: Any = model(pixels, asked)
    assert loss == pytest.approx((output.reconstruction + output.divergence).sum().item(), rel=1e-6)
    stand_in = lesson.collate([lesson.examples[0, "stand-in"], lesson.examples[1, "other"]])
    assert lesson.loss(model, stand_in, None).item() == 0


def test_a_vae_sees_every_image_once_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = VaeLesson.loss

    def loss(self: Any, model: Any, step: Any, group: Any) -> Tensor:
        seen.extend(step.numbers.tolist())
        return real(self, model, step, group)

    monkeypatch.setattr(VaeLesson, "loss", loss)
    result = fit_vae(tiny_player("vae"), tiny_vae_plan(tmp_path, passes=3, num_train_epochs=1))
    assert result.steps == 9 and result.tokens == 0 and result.padding_share is None
    assert sorted(seen) == sorted([*range(24)] * 3)


def test_the_trainer_is_told_the_same_in_its_own_words() -> None:
    settings = tiny_settings(optim="sgd", momentum=0.5, weight_decay=0.1, warmup_steps=3, bf16=True)
    told = trainer_settings(settings)
    assert (told.optim, told.extra, told.weight_decay) == ("sgd", {"optim_args": "momentum=0.5"}, 0.1)
    assert (told.lr_scheduler_type, told.warmup_steps, told.bf16) == ("constant_with_warmup", 3, True)
    plain = trainer_settings(tiny_settings(adam_beta2=0.9))
    assert (plain.optim, plain.extra, plain.weight_decay) == ("adamw_torch", {"adam_beta2": 0.9}, 0.0)
    assert plain.lr_scheduler_type == "constant" and plain.save_strategy == plain.eval_strategy == "epoch"


def test_lines_of_the_history_are_plain_json(tmp_path: Path) -> None:
    play_kind("gan", tmp_path, num_train_epochs=1)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    *steps, judged = lines
    assert all(
        {"d_real", "d_drawn", "discriminator_loss", "generator_loss", "learning_rate", "images_per_second"} <= set(row)
        for row in steps
    )
    assert ["r1" in row for row in steps] == [True, False, True]
    assert list(judged) == ["step", "epoch", "eval_kernel_distance", "eval_loss"]
