"""Two processes play one game: gradients are averaged, all hold the same weights, and only the first one writes.

Each process runs this file as a script, joined by torch.distributed over the loopback.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SECONDS_ALLOWED = 240
RATE = 0.05
PLAIN: dict[str, Any] = {"spectral_norm": False}  # whose vectors would move with every forward pass of the comparison
RULES = {"r1_weight": 2.0, "r1_interval": 2}


def played(folder: Path, rank: int, kind: str) -> dict[str, Any]:
    """What one process saw: its batch of the first step, the weights before and after it, and in the end."""
    from tiny_games import tiny_game, tiny_player

    from finetune.image.game import Game
    from finetune.image.loop import play
    from finetune.training.checkpoints import newest_checkpoint

    seen: dict[str, Any] = {}
    step = Game.step

    def watched(self: Game, batches: Any, **named: Any) -> dict[str, float]:
        before = {"player": self.player.state_dict(), "discriminator": self.discriminator.state_dict()}
        kept = {name: {key: tensor.clone() for key, tensor in state.items()} for name, state in before.items()}
        told = step(self, batches, **named)
        if "batch" not in seen:
            after = {"player": self.player.state_dict(), "discriminator": self.discriminator.state_dict()}
            copied = {name: {key: tensor.clone() for key, tensor in state.items()} for name, state in after.items()}
            seen.update(batch=batches[0], before=kept, after=copied)
        return told

    Game.step = watched  # type: ignore[method-assign]
    chosen: dict[str, Any] = {"per_device_train_batch_size": 4, "optim": "sgd", "learning_rate": RATE}

    def plan(place: Path, **more: Any) -> Any:
        made = tiny_game(place, kind, rules=RULES, **chosen, **more)
        made.lesson.images.augment._moves = False  # the comparison knows no shifted images
        return made

    model = tiny_player(kind, **PLAIN)
    result = play(model, plan(folder, num_train_epochs=3))
    seen["end"] = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    seen["steps"] = result.steps
    # The same, in two halves.
    half = tiny_player(kind, **PLAIN)
    play(half, plan(folder / "half", num_train_epochs=3, max_steps=4))
    checkpoint, _ = newest_checkpoint(folder / "half" / "checkpoints", identity={"run": "tiny"})
    other = tiny_player(kind, **PLAIN)
    play(other, plan(folder / "half", num_train_epochs=3), resume=checkpoint)
    seen["resumed"] = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    return seen


def run_two(folder: Path, words: Callable[[int], list[str]]) -> None:
    """Two processes of Python, joined, each with the words of its rank; both end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        joined = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": os.pathsep.join(sys.path)}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": folder}
        processes.append(subprocess.Popen([sys.executable, *words(rank)], env=os.environ | own | joined, **pipes))
    try:
        said = [process.communicate(timeout=SECONDS_ALLOWED)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)


@pytest.fixture(scope="module", params=["gan", "style"])
def both(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp(request.param)
    run_two(folder, lambda rank: [str(Path(__file__).resolve()), str(folder), str(rank), request.param])
    return folder, [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
def test_all_processes_hold_the_same_weights(both: tuple[Path, list[dict[str, Any]]]) -> None:
    _, (first, second) = both
    assert first["steps"] == second["steps"] == 9  # 24 images, 4 for each of two processes
    assert difference(first["end"], second["end"]) == 0.0
    assert difference(first["before"]["player"], first["after"]["player"]) > 0
    assert not torch.equal(first["batch"][0], second["batch"][0])


@pytest.mark.slow
def test_the_discriminator_takes_the_mean_of_both_gradients(both: tuple[Path, list[dict[str, Any]]]) -> None:
    """The first step again, with plain autograd over the batches of both."""
    folder, ranks = both
    if folder.name.startswith("style"):
        pytest.skip("its noise is drawn inside the network; the mean is taken by the same lines")
    import torch.nn.functional as F
    from tiny_games import tiny_player

    from finetune.training.batches import keyed_seed

    model: Any = tiny_player("gan", **PLAIN)
    model.generator.load_state_dict(ranks[0]["before"]["player"])
    model.discriminator.load_state_dict(ranks[0]["before"]["discriminator"])
    losses = []
    for rank, seen in enumerate(ranks):
        chance = torch.Generator().manual_seed(keyed_seed(5, 0, rank, 1))
        real, asked = seen["batch"]
        drawn = model.generator(torch.randn(4, 4, generator=chance), asked).detach()
        pixels = real.clone().requires_grad_(True)
        logits = model.discriminator(pixels, asked)
        (slope,) = torch.autograd.grad(logits.sum(), pixels, create_graph=True)
        penalty = slope.square().sum(dim=(1, 2, 3)).mean() / 4
        losses.append(
            F.softplus(-logits).mean() + F.softplus(model.discriminator(drawn, asked)).mean() + 2.0 / 2 * 2 * penalty
        )
    parameters = dict(model.discriminator.named_parameters())
    gradients = torch.autograd.grad(sum(losses) / 2, list(parameters.values()))
    for (name, before), gradient in zip(parameters.items(), gradients, strict=True):
        expected = before.detach() - RATE * gradient
        assert (ranks[1]["after"]["discriminator"][name] - expected).abs().max() < 1e-6, name


@pytest.mark.slow
def test_one_process_writes_and_both_resume(both: tuple[Path, list[dict[str, Any]]]) -> None:
    from finetune.runs import read_json_lines

    folder, (first, second) = both
    rows = read_json_lines(folder / "history.jsonl")
    assert [row["step"] for row in rows if "d_real" in row] == list(range(1, 10))
    assert [row["step"] for row in rows if "eval_kernel_distance" in row] == [3, 6, 9]
    assert difference(first["resumed"], second["resumed"]) == 0.0
    assert difference(first["resumed"], first["end"]) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gan", "vae"])
def test_the_command_trains_with_two_processes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them draws and scores, and the other goes by what it found."""
    from test_image_experiment import read, write_recipe

    monkeypatch.chdir(tmp_path)
    write_recipe(kind, training={"per_device_train_batch_size": 8})
    run_two(tmp_path, lambda rank: ["-m", "finetune", "train", "recipe.yaml", "--run", "run", "--quiet"])
    assert time.time() - (tmp_path / "run" / "report.html").stat().st_mtime < 10, "F11: done, and gone"
    info = read("run/run.json")
    assert (info["status"], info["processes"], info["steps"]) == ("complete", 2, 6)
    assert [read(f"run/samples/{epoch}/images.json")["count"] for epoch in (1, 2)] == [20, 20]
    assert len((tmp_path / "run" / "test_openings.jsonl").read_text(encoding="utf-8").splitlines()) == 1


if __name__ == "__main__":
    target, number = Path(sys.argv[1]), int(sys.argv[2])
    torch.save(played(target, number, sys.argv[3]), target / f"rank-{number}.pt")
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo sometimes hangs at exit
