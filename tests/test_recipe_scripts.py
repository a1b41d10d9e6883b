"""The scripts of recipes/: short programs of the Python interface, each run as a reader would run it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import finetune

RECIPES = Path(__file__).parent.parent / "recipes"
SCRIPTS = ("choose_a_setting", "compare_two_runs", "train_and_judge")
SMALLEST = str(RECIPES / "reviews.yaml")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_script_is_forgotten() -> None:
    helpers = {"poem_form"}  # a cleaning step and its count, tried in test_recipes.py
    assert {path.stem for path in RECIPES.glob("*.py")} == {*SCRIPTS, *helpers}


def test_every_public_name_is_there() -> None:
    for name in finetune.__all__:
        assert getattr(finetune, name) is not None, name


def test_a_run_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = script("train_and_judge").main(SMALLEST, str(tmp_path / "run"), "training.num_train_epochs=1")
    said = capsys.readouterr().out
    assert code == 1 and "on 4 test documents" in said and "against majority" in said
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_setting_is_chosen_before_test_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script("choose_a_setting").main(SMALLEST, str(tmp_path))
    said = capsys.readouterr().out
    assert "chosen by f1_macro over 3 folds: training.learning_rate=" in said and said.count("\t") == 2


def test_two_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script("compare_two_runs").main(SMALLEST, str(tmp_path))
    said = capsys.readouterr().out
    assert said.count("on validation") == 2 and "small" in said and "wide" in said
    assert (tmp_path / "comparison" / "report.html").is_file()
