"""A game's sealed checkpoints: both sides, the average, both optimizers, and how far it had come.

Weights and spectral vectors are safetensors; the state of the optimizers is torch's format, opened with weights_only,
after its seal has passed; the rest is JSON. There is no random state: each step's numbers follow from the seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune.errors import CheckpointError
from finetune.image.game import Game
from finetune.runs import Json, write_json
from finetune.training.checkpoints import (
    STAGING,
    Checkpoint,
    Identity,
    Standing,
    best_checkpoint,
    publish,
    require_room,
    rotate,
    saving,
    seal,
    seal_fault,
)

MODEL, PLAYER, OPTIMIZERS, PROGRESS = "model.safetensors", "player.safetensors", "optimizers.pt", "progress.json"


@dataclass
class GameProgress:
    """How far a game has come. `over` says that it ended before its last step; `waited` counts evaluations without a
    better score; `sums` are (sum, count) of what is logged next; `rows` is history.jsonl.
    """

    step: int = 0
    over: bool = False
    best_step: int | None = None
    best_epoch: float | None = None
    best_score: float | None = None
    waited: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    rows: list[Json] = field(default_factory=list)


def save_game(
    folder: Path, game: Game, progress: GameProgress, *, identity: Identity, standing: Standing, keep: int
) -> None:
    """Save aside, seal, give it its name, and only then rotate. Raises EnvironmentFault for a full disk."""
    written = folder / STAGING / f"checkpoint-{standing.step}"
    with saving(folder / STAGING):
        require_room(folder, bytes_needed=_bytes_to_save(game))
        written.mkdir(parents=True)
        save_file(_tensors(game.model), written / MODEL)
        save_file(_tensors(game.player), written / PLAYER)
        torch.save(_optimizer_state(game), written / OPTIMIZERS)
        write_json(written / PROGRESS, asdict(progress))
        seal(written, identity=identity, standing=standing)
        newest = publish(written, name=standing.name)
        best = best_checkpoint(folder, standing.best_step) if standing.best_step is not None else None
        rotate(folder, newest=newest, keep=keep, best=best)


def restore_game(checkpoint: Checkpoint, game: Game) -> GameProgress:
    """Both sides, the average and the optimizers as they were when a sound checkpoint was sealed."""
    _load(game.model, checkpoint.folder / MODEL)
    _load(game.player, checkpoint.folder / PLAYER)
    kept = torch.load(checkpoint.folder / OPTIMIZERS, map_location="cpu", weights_only=True)
    for side, optimizer in game.optimizers.items():
        optimizer.load_state_dict(kept[side])
    if game.accelerator.scaler is not None:
        game.accelerator.scaler.load_state_dict(kept["scaler"])
    return GameProgress(**json.loads((checkpoint.folder / PROGRESS).read_text(encoding="utf-8")))


def load_best(folder: Path, step: int, model: nn.Module) -> None:
    """The weights of the best epoch into `model`. Raises CheckpointError when its checkpoint is lost."""
    best = best_checkpoint(folder, step)
    fault = seal_fault(best)
    if fault:
        what = f"the best checkpoint is lost ({fault}); last/ is complete"
        raise CheckpointError(
            str(best), what, "--resume trains the best again if an older one is left, else --restart."
        )
    _load(model, best / MODEL)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    # Convolutions are laid out channels last in memory, and a file has the plain order.
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def _load(network: nn.Module, path: Path) -> None:
    network.load_state_dict(load_file(path))


def _optimizer_state(game: Game) -> Mapping[str, Any]:
    state: dict[str, Any] = {side: optimizer.state_dict() for side, optimizer in game.optimizers.items()}
    if game.accelerator.scaler is not None:
        state["scaler"] = game.accelerator.scaler.state_dict()
    return state


def _bytes_to_save(game: Game) -> int:
    tensors = [*game.model.state_dict().values(), *game.player.state_dict().values()]
    for optimizer in game.optimizers.values():
        tensors += [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return sum(int(tensor.nbytes) for tensor in tensors) + 1_000_000  # and the history
