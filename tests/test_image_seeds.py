"""Images where several runs or new data are asked for: seeds work, what is of documents is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from finetune.cli import main
from finetune.report.many_sentences import highest_baseline, metric_beside_baselines, seeds_ahead, seeds_sentences
from finetune.run_files import Scores
from finetune.runs import Run
from finetune.selection.seeds import SeedStudy

RECIPE: dict[str, Any] = {
    "task": "image-generation",
    "model": {"gan": {"width": 4, "latent_size": 4}},
    "data": {"source": "builtin:digits", "limit": 64, "split": {"stratify": False}},
    "image": {"size": 8},
    "training": {"max_steps": 2, "per_device_train_batch_size": 16, "use_cpu": True},
    "evaluation": {"features": "pixels", "shown": 9, "bootstrap": 0, "baselines": ["pixel_gaussian"]},
    "report": {"examples": 0},
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    YAML().dump(RECIPE, tmp_path / "recipe.yaml")


def refused(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    before = sorted(Path().rglob("*"))
    assert main([*words, "--quiet"]) == 2
    assert sorted(Path().rglob("*")) == before
    return capsys.readouterr().err


def test_seeds_train_the_same_images_and_tell_mean_and_deviation(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "recipe.yaml", "--seeds", "2", "--run", "study", "--quiet"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    runs = [Run(Path(f"study/seeds/{seed}")) for seed in (13, 14)]
    values = [run.read(run.scores, Scores).splits["test"].scores["coverage"].value for run in runs]
    assert told["scores"]["coverage"]["values"] == values
    assert told["documents"] == 10 and told["baselines"].keys() == {"pixel_gaussian", "real_images"}
    assert any("not over images" in note for note in told["notes"])
    page = Path("study/report.html").read_text(encoding="utf-8")
    assert "10 test images" in page and "documents" not in page
    written = runs[0].scores.read_bytes()
    assert main(words) == 0, "what is finished is kept"
    screen = capsys.readouterr().out
    assert runs[0].scores.read_bytes() == written
    assert "Test: 10 images, the same for every seed." in screen and "train_on_synthetic" in screen
    assert "documents" not in screen


def study(metric: str, coverage: list[float]) -> SeedStudy:
    spread = {"mean": sum(coverage) / 2, "deviation": 0.1, "values": coverage}
    return SeedStudy.model_validate(
        {
            "name": "r", "metric": metric, "documents": 10, "split_seed": 13, "notes": [], "runs": [
                {"seed": seed, "folder": f"seeds/{seed}", "best_epoch": 1.0, "scores": {}} for seed in (13, 14)
            ],
            "scores": {"elbo": {"mean": -180.0, "deviation": 2.0, "values": [-181.0, -179.0]}, "coverage": spread},
            "baselines": {"class_mean": {"coverage": 0.3}, "training_images": {"coverage": 0.99},
                          "real_images": {"coverage": 0.98}},
        }
    )  # fmt: skip


def test_seeds_are_held_against_what_is_to_be_beaten() -> None:
    """Neither copies nor real images are opponents, and a score that no baseline has is told beside coverage."""
    of_elbo = study("elbo", [0.8, 0.2])
    assert metric_beside_baselines(of_elbo) == "coverage" == metric_beside_baselines(study("kernel_distance", [0, 0]))
    assert metric_beside_baselines(study("recall", [0, 0])) == "recall"
    assert highest_baseline(of_elbo) == ("class_mean", 0.3) and seeds_ahead(of_elbo) == 1
    first, own, about = seeds_sentences(of_elbo)
    assert first.startswith("NOT every seed is ahead of the highest baseline, class_mean (0.300), but 1 of 2")
    assert own == "Test elbo is -180.0 on average, deviation 2.0, from -181.0 to -179.0."
    assert about.endswith("would vary over new images.")
    assert len(seeds_sentences(study("coverage", [0.8, 0.9]))) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["crossval", "recipe.yaml"], "cross-validation is of text-classification, found image-generation"),
        (["search", "recipe.yaml"], "finetune search is for models of documents, and image-generation has none"),
        (["prepare", "recipe.yaml", "--output", "out"], "finetune prepare writes documents for other tools"),
    ],
)
def test_verbs_of_documents_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(*words, capsys=capsys)
    assert message.startswith("error: recipe.yaml:1: task: ") and said in message


def test_new_data_are_scored_by_predict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "recipe.yaml", "--run", "run", "--quiet"]) == 0
    capsys.readouterr()
    message = refused("evaluate", "run", "--data", "builtin:digits", capsys=capsys)
    assert message.startswith("error: --data: scores labels and texts of new documents, and run draws images.")
    assert "finetune predict run --input IMAGES" in message
