"""Seeds: the same splits for every seed, the mean and the deviation of their scores, a folder that can grow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_series import forbid_training, write_recipe

from finetune import experiment
from finetune.crossval_screen import render_seeds
from finetune.data.prepare import prepare
from finetune.errors import CheckpointError
from finetune.progress import SILENT
from finetune.recipe_file import load_recipe
from finetune.run_files import RunInfo, Scores
from finetune.runs import Run, read_json_lines, write_json
from finetune.selection.seeds import SeedStudy, train_with_seeds

SEEDS = (13, 14)


def study_of(recipe: Path, *, folder: Path, count: int = 2, overrides: Any = ()) -> SeedStudy:
    study, there = train_with_seeds(load_recipe(recipe, overrides), count=count, folder=folder, progress=SILENT)
    assert there == folder
    return study


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    study_of(write_recipe(folder), folder=folder / "study")
    return folder


@pytest.fixture(scope="module")
def study(home: Path) -> SeedStudy:
    return SeedStudy.model_validate_json((home / "study" / "seeds.json").read_text("utf-8"))


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_training(monkeypatch)


def runs(folder: Path) -> list[Run]:
    return [Run(folder / "study" / "seeds" / str(seed)) for seed in SEEDS]


def test_the_splits_are_the_recipes_own_and_the_weights_differ(home: Path, study: SeedStudy) -> None:
    own = prepare(load_recipe(home / "small.yaml"), progress=SILENT)
    infos = [run.read(run.info, RunInfo) for run in runs(home)]
    assert {info.data_fingerprint for info in infos} == {own.fingerprint}
    assert [info.seed for info in infos] == [each.seed for each in study.runs] == list(SEEDS)
    first, second = ((run.best / "model.safetensors").read_bytes() for run in runs(home))
    assert first != second
    assert study.documents == len(own.splits["test"]) and study.split_seed == 13
    assert all(len(read_json_lines(run.test_openings)) == 1 and not run.checkpoints.exists() for run in runs(home))


def test_mean_deviation_and_every_value(home: Path, study: SeedStudy) -> None:
    scores = [run.read(run.scores, Scores) for run in runs(home)]
    for metric in ("f1_macro", "log_loss"):
        found = [each.splits["test"].scores[metric].value for each in scores]
        values = [value for value in found if value is not None]
        ours = study.scores[metric]
        assert ours.values == values == [each.scores[metric] for each in study.runs]
        assert ours.mean == pytest.approx(np.mean(values)) and ours.deviation == pytest.approx(np.std(values, ddof=1))
    assert study.scores["log_loss"].deviation
    for name, theirs in study.baselines.items():
        assert theirs == {metric: score.value for metric, score in scores[0].baselines[name]["test"].scores.items()}
    assert any("over seeds on the same splits, not over documents" in note for note in study.notes)
    assert any("looked at 2 times" in note for note in study.notes)


def test_the_screen_begins_with_the_baselines(home: Path, study: SeedStudy) -> None:
    lines = render_seeds(study, home / "study").splitlines()
    best = max(scores["f1_macro"] or 0.0 for scores in study.baselines.values())
    ahead = sum((value or 0.0) > best for value in study.scores["f1_macro"].values)
    opening = {
        0: "NONE of 2 seeds is ahead of the highest baseline",
        1: "NOT every seed is ahead of the highest baseline",
        2: "Every one of 2 seeds is ahead of the highest baseline",
    }[ahead]
    assert lines[0].startswith(opening) and "test f1_macro " in lines[0]
    assert [line.split()[1] for line in lines if line.startswith("seed ")] == ["13", "14"]


def test_finished_seeds_are_kept_and_more_can_be_asked_for(
    home: Path, study: SeedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home, tmp_path / "copy")
    trained: list[int] = []

    def copied(loaded: Any, *, folder: Path, **settings: Any) -> Run:
        trained.append(loaded.recipe.seed)
        shutil.copytree(runs(home)[0].folder, folder)
        return Run(folder)

    monkeypatch.setattr(experiment, "train", copied)
    recipe, folder = tmp_path / "copy" / "small.yaml", tmp_path / "copy" / "study"
    assert study_of(recipe, folder=folder) == study and trained == []
    assert len(study_of(recipe, folder=folder, count=3).runs) == 3 and trained == [15]


@pytest.mark.usefixtures("untrained")
def test_another_recipe_other_data_and_other_splits_are_refused(home: Path, tmp_path: Path) -> None:
    recipe, folder = home / "small.yaml", home / "study"
    with pytest.raises(CheckpointError, match=r"has another plan .*small: seed 13, now 5"):
        study_of(recipe, folder=folder, overrides=["seed=5"])
    with pytest.raises(CheckpointError, match=r"small: windows.max_tokens 16, now 12"):
        study_of(recipe, folder=folder, overrides=["windows.max_tokens=12"])
    shutil.copytree(home, tmp_path / "copy")
    run = Run(tmp_path / "copy" / "study" / "seeds" / "14")
    write_json(run.info, run.read(run.info, RunInfo).model_copy(update={"data_fingerprint": "other"}))
    with pytest.raises(CheckpointError, match=r"seeds/14: has other documents or splits than .*seeds/13"):
        study_of(tmp_path / "copy" / "small.yaml", folder=tmp_path / "copy" / "study")


@pytest.mark.parametrize("limit", ["data.limit=null", "data.limit=60"])
def test_the_split_seed_alone_decides_which_documents_are_where(home: Path, limit: str) -> None:
    def fingerprint(*overrides: str) -> str:
        return prepare(load_recipe(home / "small.yaml", [limit, *overrides]), progress=SILENT).fingerprint

    assert fingerprint("seed=5", "data.split.seed=13") == fingerprint() == fingerprint("data.split.seed=13")
    assert fingerprint("data.split.seed=5") == fingerprint("seed=5") != fingerprint()
