"""A run of images from recipe to scores, by the command: trained, stopped, resumed, scored again, gone on from."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file

from finetune.cli import main
from finetune.image.game import Game
from finetune.image_predictor import ImagePredictor
from finetune.runs import read_json_lines

MODELS: dict[str, dict[str, Any]] = {
    "vae": {"vae": {"width": 4, "latent_size": 4}},
    "gan": {"gan": {"width": 4, "latent_size": 4, "r1_weight": 1.0, "r1_interval": 2}},
    "style": {"style": {"width": 4, "latent_size": 4, "mapping_layers": 1}},
}
EPOCHS, STEPS_AN_EPOCH = 2, 3


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_recipe(kind: str = "gan", name: str = "recipe.yaml", **sections: Any) -> None:
    """Sixty-four digits, of which about forty-four are learnt from; nothing here needs a classifier."""
    recipe: dict[str, Any] = {
        "task": "image-generation",
        "model": MODELS.get(kind, {"name": kind}),
        "data": {"source": "builtin:digits", "limit": 64, "split": {"stratify": False}},
        "image": {"size": 8, "condition": "none", "augment": {"translate": 0.125}},
        "training": {
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": 16,
            "use_cpu": True,
            "logging_steps": 2,
        },
        "evaluation": {"features": "pixels", "shown": 20, "bootstrap": 0, "baselines": []},
        "report": {"examples": 0},
    }
    for section, values in sections.items():
        recipe[section] = recipe[section] | values
    YAML().dump(recipe, Path(name))


def train(*words: str) -> int:
    return main(["train", *words, "--quiet"])


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def weights(run: str, name: str) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / name / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def history(run: str) -> list[dict[str, Any]]:
    rows = read_json_lines(Path(run) / "history.jsonl")
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]


@pytest.mark.parametrize("kind", MODELS)
def test_a_run_leaves_what_a_reader_looks_for(kind: str) -> None:
    write_recipe(kind)
    assert train("recipe.yaml", "--run", "run") == 0
    info = read("run/run.json")
    assert (info["status"], info["task"], info["steps"]) == ("complete", "image-generation", EPOCHS * STEPS_AN_EPOCH)
    assert info["training_tokens"] is None and info["padding_share"] is None and info["micro_batches"] is None
    assert info["parameters"] > 0 and info["seconds"].keys() >= {"fit", "score"}
    settings = read("run/best/finetune.json")
    assert (settings["task"], settings["kind"]) == ("image-generation", kind)
    assert settings["image"]["size"] == 8 and len(settings["labels"]) == 10
    scores = read("run/scores.json")
    assert scores["splits"].keys() == scores["last"].keys() == {"validation", "test"}
    assert scores["metric_for_best_model"] == ("elbo" if kind == "vae" else "kernel_distance")
    assert len(read_json_lines(Path("run/test_openings.jsonl"))) == 1
    judged = [row for row in history("run") if any(name.startswith("eval_") for name in row)]
    assert [row["epoch"] for row in judged] == [1.0, 2.0]
    chosen = f"eval_{scores['metric_for_best_model']}"
    best = max(judged, key=lambda row: row[chosen] * (1 if kind == "vae" else -1))
    assert scores["best_step"] == best["step"]
    assert not [path for path in Path("run").rglob("*") if path.suffix in (".bin", ".pkl")]


def test_the_same_latents_are_drawn_after_every_epoch() -> None:
    """The last grid is what last/ draws from the latents of the seed; each epoch has one, and they differ."""
    write_recipe("gan")
    assert train("recipe.yaml", "--run", "run") == 0
    grids = [np.asarray(Image.open(f"run/samples/{epoch}/grid.png")) for epoch in (1, 2)]
    assert grids[0].shape == grids[1].shape and not np.array_equal(grids[0], grids[1])
    assert read("run/samples/2/images.json") == {"epoch": 2.0, "step": 6, "count": 20, "labels": [], "prompts": []}
    from finetune.image_grid import save_grid

    save_grid(Path("again.png"), ImagePredictor.load("run/last", use_cpu=True).draw(20, seed=13))
    assert np.array_equal(np.asarray(Image.open("again.png")), grids[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Runs that nothing disturbed, by kind."""
    made: dict[str, Path] = {}

    def run_of(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "whole"
            assert train("recipe.yaml", "--run", str(made[kind])) == 0
        return made[kind]

    yield run_of


def send(number: int, *, at: int, patch: pytest.MonkeyPatch) -> None:
    """A real signal to this process while step `at` is made, by whatever makes it."""
    from finetune.image.vae_lesson import VaeLesson

    play_step, vae_loss, made = Game.step, VaeLesson.loss, [0]

    def kill_at(step: int) -> None:
        if step == at:
            os.kill(os.getpid(), number)

    def step(self: Any, batches: Any, *, step: int, rate: float) -> Any:
        kill_at(step + 1)
        return play_step(self, batches, step=step, rate=rate)

    def loss(self: Any, *arguments: Any) -> Any:
        made[0] += 1
        kill_at(made[0])
        return vae_loss(self, *arguments)

    patch.setattr(Game, "step", step)
    patch.setattr(VaeLesson, "loss", loss)


@pytest.mark.parametrize("kind", MODELS)
def test_a_run_stopped_by_a_signal_ends_as_if_nothing_had_happened(
    kind: str, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_recipe(kind)
    expected = str(whole(kind))
    with monkeypatch.context() as patch:
        send(signal.SIGTERM, at=2, patch=patch)
        assert train("recipe.yaml", "--run", "run") == 75
    assert read("run/run.json")["status"] == "stopped"
    assert "checkpoint-2 is saved" in capfd.readouterr().err
    assert train("run", "--resume") == 0
    for name in ("best", "last"):
        assert same(weights("run", name), weights(expected, name))
    assert history("run") == history(expected)
    assert read("run/scores.json") == read(f"{expected}/scores.json")
    for epoch in (1, 2):
        grids = [Path(run, f"samples/{epoch}/grid.png").read_bytes() for run in ("run", expected)]
        assert grids[0] == grids[1]


def test_ctrl_c_is_told_from_a_termination(monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe("gan")
    send(signal.SIGINT, at=1, patch=monkeypatch)
    assert train("recipe.yaml", "--run", "run") == 130


class Killed(BaseException):
    """Stands for a kill: nothing in the program catches it."""


def test_a_kill_inside_a_save_loses_only_that_save(
    whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe("gan")
    expected = str(whole("gan"))
    from finetune.image import game_checkpoints

    real = game_checkpoints.seal

    def seal(folder: Path, **named: Any) -> None:
        if folder.name == "checkpoint-6":
            raise Killed
        real(folder, **named)

    with monkeypatch.context() as patch:
        patch.setattr(game_checkpoints, "seal", seal)
        with pytest.raises(Killed):
            train("recipe.yaml", "--run", "run")
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["checkpoint-3"]
    assert train("run", "--resume") == 0
    assert same(weights("run", "last"), weights(expected, "last")) and history("run") == history(expected)


def test_a_damaged_checkpoint_is_passed_over(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe("gan")
    with monkeypatch.context() as patch:
        send(signal.SIGTERM, at=5, patch=patch)
        assert train("recipe.yaml", "--run", "run") == 75
    player = Path("run/checkpoints/checkpoint-5/player.safetensors")
    player.write_bytes(player.read_bytes()[:-1] + b"\x01")
    capfd.readouterr()
    assert main(["train", "run", "--resume"]) == 0
    told = capfd.readouterr().err
    assert "skipping checkpoint-5: player.safetensors is damaged (checksum)" in told and "from step 3" in told


def test_scores_are_the_same_when_they_are_made_again(capfd: pytest.CaptureFixture[str]) -> None:
    write_recipe("vae")
    assert train("recipe.yaml", "--run", "run") == 0
    capfd.readouterr()
    assert main(["evaluate", "run", "--split", "validation", "--json", "--quiet"]) == 0
    again = json.loads(capfd.readouterr().out)
    told = read("run/scores.json")["splits"]["validation"]["scores"]
    assert again["scores"]["elbo"]["value"] == told["elbo"]["value"]
    assert again["scores"]["coverage"]["value"] == told["coverage"]["value"]


def test_a_finished_model_goes_on_with_its_own_rules() -> None:
    write_recipe("gan")
    assert train("recipe.yaml", "--run", "run") == 0
    rules = read("run/best/finetune.json")["rules"]
    assert (rules["r1_weight"], rules["r1_interval"]) == (1.0, 2)
    write_recipe("run/best", "next.yaml", training={"num_train_epochs": 1, "learning_rate": 1e-12})
    assert train("next.yaml", "--run", "next") == 0
    assert read("next/best/finetune.json")["rules"] == rules
    assert read("next/run.json")["model_origin"] == "folder"
    before, after = weights("run", "best"), weights("next", "best")
    moved = [(before[name] - after[name]).abs().max().item() for name in before if name.startswith("generator")]
    assert max(moved) < 1e-6  # so it began where the other ended


def test_a_model_that_draws_other_pictures_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    write_recipe("gan")
    assert train("recipe.yaml", "--run", "run") == 0
    write_recipe("run/best", "next.yaml", image={"size": 16})
    capfd.readouterr()
    assert train("next.yaml", "--run", "next") == 2
    assert "image.size is 16, the model has 8" in capfd.readouterr().err and not Path("next").exists()


def test_check_says_what_training_would_begin_with(capfd: pytest.CaptureFixture[str]) -> None:
    write_recipe("style")
    assert main(["check", "recipe.yaml"]) == 0
    told = capfd.readouterr()
    assert "8 x 8 pixels, grey" in told.out + told.err and "recipe, data and model fit together" in told.out + told.err
    assert sorted(path.name for path in Path().iterdir()) == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"training": {"metric_for_best_model": "elbo"}}, "elbo cannot choose the epoch: it belongs to a VAE"),
        ({"training": {"metric_for_best_model": "fid"}}, "fid cannot choose the epoch: it is measured in Inception"),
        ({"training": {"fp16": True}}, "float16 training needs a GPU"),
    ],
)
def test_what_cannot_work_is_refused_before_a_run_folder_exists(
    sections: dict[str, Any], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_recipe("gan", **sections)
    assert train("recipe.yaml", "--run", "run") == 2
    assert told in capfd.readouterr().err and not Path("run").exists()


def test_numbers_that_are_not_finite_are_told_in_run_json(capfd: pytest.CaptureFixture[str]) -> None:
    write_recipe("gan", training={"learning_rate": 1e30, "optim": "sgd"})
    assert train("recipe.yaml", "--run", "run") == 6
    info = read("run/run.json")
    assert info["status"] == "failed" and "is not finite" in info["failure"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_disk_is_told_and_resumable(monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe("gan")
    from finetune.image import game_checkpoints

    full = shutil.disk_usage("/")._replace(free=1000)
    with monkeypatch.context() as patch:
        real = game_checkpoints.save_game

        def save(folder: Path, *arguments: Any, **named: Any) -> None:
            if named["standing"].step == 6:
                patch.setattr(shutil, "disk_usage", lambda path: full)
            real(folder, *arguments, **named)

        patch.setattr("finetune.image.loop.save_game", save)
        assert train("recipe.yaml", "--run", "run") == 5
    assert train("run", "--resume") == 0


def test_labels_are_asked_for_and_their_images_stand_beside() -> None:
    """With a class to ask for, the grid shows every label in turn and a classifier judges what is drawn."""
    write_recipe("vae", image={"condition": "label"}, training={"num_train_epochs": 1})
    assert train("recipe.yaml", "--run", "run") == 0
    told = read("run/samples/1/images.json")
    assert told["labels"] == [str(place % 10) for place in range(20)] and told["prompts"] == []
    judged = next(row for row in history("run") if "eval_loss" in row)
    assert 0 <= judged["eval_conditional_accuracy"] <= 1
