"""The adversarial game, one step at a time: a discriminator learns to tell real images from drawn ones, a generator
to draw what it takes for real.

The side that does not step is frozen, and no gradient stays on it. In several processes each plays with its own images
and latents, and gradients are averaged before either side moves, so that all hold the same weights. What is saved is
not the generator that plays but its running average (Yazici et al. 2018, Karras et al. 2018).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import AutocastKwargs
from torch import Tensor, nn

from finetune.image.augment import Augment
from finetune.image.drawer import Drawer
from finetune.image.losses import discriminator_loss, generator_loss, r1
from finetune.recipe_image import Adversary, ImageTraining
from finetune.training.batches import keyed_seed

Batch = tuple[Tensor, Tensor | None]  # real images (N, C, S, S) in 0..1, and what they are asked by
# Of Adam where the recipe names none: no memory of the direction, since the other side moves the goal (Karras 2018).
DEFAULT_BETAS = (0.0, 0.99)


class Game:
    """`player` is the generator that learns. `model.generator` is its average, and with `model.discriminator` is saved.

    `learning_rate(step)` is the share of the peak learning rate that a step has.
    """

    def __init__(
        self, model: Drawer, rules: Adversary, settings: ImageTraining, *, augment: Augment, accelerator: Accelerator,
        seed: int,
    ) -> None:  # fmt: skip
        self.model, self.rules, self.settings = model, rules, settings
        self.augment, self.accelerator, self.seed = augment, accelerator, seed
        model.to(accelerator.device)
        self.average = cast(nn.Module, model.generator).requires_grad_(False).eval()
        self.discriminator = cast(nn.Module, model.discriminator)
        self.player = copy.deepcopy(self.average)
        rates = settings.learning_rate, rules.discriminator_learning_rate or settings.learning_rate
        self.optimizers = {
            "generator": self._optimizer(self.player, rates[0]),
            "discriminator": self._optimizer(self.discriminator, rates[1]),
        }

    def step(self, batches: Sequence[Batch], *, step: int, rate: float) -> dict[str, float]:
        """Some steps of the discriminator, one a batch, then one of the generator, and the average follows.

        `step` counts from 0, and with the seed decides every random number; `rate` is the share of the peak learning
        rates. Returns the means of both losses, of sigmoid D(x) and sigmoid D(G(z)), and `r1` where it was taken.
        Raises NotFinite for a gradient.
        """
        process = self.accelerator.process_index
        torch.manual_seed(keyed_seed(self.seed, step, process))  # noise and style mixing of the generator
        chance = torch.Generator().manual_seed(keyed_seed(self.seed, step, process, 1))
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate * group["peak_lr"]
        told = [
            self._teach_discriminator(*batch, chance, penalised=self._penalised(step * len(batches) + turn))
            for turn, batch in enumerate(batches)
        ]
        told.append(self._teach_generator(*batches[-1], chance))
        images = sum(len(real) for real, _ in batches) * self.accelerator.num_processes
        follow(self.average, self.player, decay=0.5 ** (images / self.rules.ema_half_life_images))
        names = {name for turn in told for name in turn}
        means = {name: torch.stack([turn[name] for turn in told if name in turn]).mean() for name in sorted(names)}
        return dict(zip(means, torch.stack([*means.values()]).tolist(), strict=True))

    def _teach_discriminator(
        self, real: Tensor, asked: Tensor | None, chance: torch.Generator, *, penalised: bool
    ) -> dict[str, Tensor]:
        self._only(self.discriminator)
        with torch.no_grad(), self.accelerator.autocast():
            drawn = self.player(self._latents(len(real), chance), asked).float()
        real = real.detach().requires_grad_(penalised)
        with self.accelerator.autocast(AutocastKwargs(enabled=not penalised)):  # second derivatives in float32
            real_logits = self.discriminator(self.augment(real, chance), asked).float()
        with self.accelerator.autocast():
            drawn_logits = self.discriminator(self.augment(drawn, chance), asked).float()
        loss = discriminator_loss(real_logits, drawn_logits, loss=self.rules.loss)
        told = {
            "discriminator_loss": loss.detach(),
            "d_real": real_logits.detach().sigmoid().mean(),
            "d_drawn": drawn_logits.detach().sigmoid().mean(),
        }
        if penalised:
            # Taken every so many steps, with a weight that makes up for those between (Karras et al. 2020).
            told["r1"] = (penalty := r1(real_logits, real)).detach()
            loss = loss + self.rules.r1_weight / 2 * self.rules.r1_interval * penalty
        self._learn(loss, self.discriminator, "discriminator")
        return told

    def _teach_generator(self, real: Tensor, asked: Tensor | None, chance: torch.Generator) -> dict[str, Tensor]:
        self._only(self.player)
        with self.accelerator.autocast():
            drawn = self.player(self._latents(len(real), chance), asked)
            logits = self.discriminator(self.augment(drawn.float(), chance), asked).float()
        loss = generator_loss(logits, loss=self.rules.loss)
        self._learn(loss, self.player, "generator")
        return {"generator_loss": loss.detach()}

    def _only(self, learning: nn.Module) -> None:
        """Freezes the other side. A frozen discriminator is in evaluation mode: its spectral vectors stay, too."""
        for side in (self.player, self.discriminator):
            side.requires_grad_(side is learning)
        self.player.train()
        self.discriminator.train(self.discriminator is learning)

    def _learn(self, loss: Tensor, network: nn.Module, side: str) -> None:
        optimizer, parameters = self.optimizers[side], list(network.parameters())
        self.accelerator.backward(loss)
        self._average_over_processes([p.grad for p in parameters if p.grad is not None])
        self.accelerator.unscale_gradients(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # float16 skips such a step by itself, and lowers its scale.
        if self.accelerator.scaler is None and not math.isfinite(float(norm)):
            raise NotFinite(f"the gradient of the {side}")
        if self.settings.max_grad_norm > 0:
            nn.utils.clip_grads_with_norm_(parameters, self.settings.max_grad_norm, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._average_over_processes([b for b in network.buffers() if b.is_floating_point()])

    def _average_over_processes(self, tensors: Sequence[Tensor]) -> None:
        if self.accelerator.num_processes == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        flat = cast(Tensor, self.accelerator.reduce(flat, reduction="mean"))
        for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def _penalised(self, turn: int) -> bool:
        return self.rules.r1_weight > 0 and turn % self.rules.r1_interval == 0

    def _latents(self, count: int, chance: torch.Generator) -> Tensor:
        return torch.randn(count, self.model.config.latent_size, generator=chance).to(self.accelerator.device)

    def _optimizer(self, network: nn.Module, learning_rate: float) -> AcceleratedOptimizer:
        settings = self.settings
        parameters = list(network.parameters())
        groups: list[dict[str, Any]] = [
            # No decay of biases, nor of single numbers, as transformers has it.
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if settings.optim == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=learning_rate, momentum=settings.momentum)
        else:
            kind = torch.optim.Adam if settings.optim == "adam" else torch.optim.AdamW
            asked = settings.adam_beta1, settings.adam_beta2
            betas = [default if beta is None else beta for beta, default in zip(asked, DEFAULT_BETAS, strict=True)]
            optimizer = kind(groups, lr=learning_rate, betas=(betas[0], betas[1]))
        for group in optimizer.param_groups:
            group["peak_lr"] = learning_rate
        return cast(AcceleratedOptimizer, self.accelerator.prepare(optimizer))


@torch.no_grad()
def follow(average: nn.Module, player: nn.Module, *, decay: float) -> None:
    """average = decay · average + (1 - decay) · player, for weights; buffers are copied."""
    torch._foreach_lerp_([*average.parameters()], [*player.parameters()], 1 - decay)
    for kept, now in zip(average.buffers(), player.buffers(), strict=True):
        kept.copy_(now)


def share_of_rate(step: int, *, steps: int, warmup: float, shape: str) -> float:
    """The share of the peak learning rate that step `step` of `steps` has, counting from 0, as transformers has it.

    `warmup` is a number of steps, or a share of all below 1: the rate rises from 0. After it `linear` falls to 0 along
    a line, `cosine` along half a wave, and `constant` stays.
    """
    rising = math.ceil(warmup * steps) if warmup < 1 else int(warmup)
    if step < rising:
        return step / rising
    done = (step - rising) / max(steps - rising, 1)
    if shape == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if shape == "cosine" else 1.0


class NotFinite(Exception):
    """A number of the game is not finite; its text says which."""
