"""What must answer at once imports nothing heavy: told by a real process, not by a stopwatch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "datasets", "evaluate", "sklearn", "pandas", "matplotlib")
# Runs the command in a fresh interpreter, then says which of the heavy libraries it left behind.
PROBE = """
import sys
from finetune.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code or 0
heavy = {heavy!r}
sys.stdout.write("\\nexit %s; imported: %s" % (code, " ".join(name for name in heavy if name in sys.modules)))
"""
MISSPELT = "task: text-classification\ndata: {source: builtin:python-docs, colums: {text: text}}\n"
MISSPELT_EXTRA = "task: text-classification\ndata: {source: builtin:python-docs}\ntraining: {extra: {adam_bta1: 0.8}}\n"


def last_line(*arguments: str, before: str = "") -> str:
    probe = before + PROBE.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["schema"]], ids=" ".join)
def test_help_and_schema_import_nothing_heavy(arguments: list[str]) -> None:
    assert last_line(*arguments) == "exit 0; imported: "


@pytest.mark.parametrize("text", [MISSPELT, MISSPELT_EXTRA], ids=["misspelt key", "misspelt extra"])
@pytest.mark.parametrize("verb", ["train", "check"])
def test_a_refused_recipe_imports_nothing_heavy(verb: str, text: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    assert last_line(verb, str(recipe)) == "exit 2; imported: "


def test_a_recipe_that_is_not_there_imports_nothing_heavy(tmp_path: Path) -> None:
    assert last_line("train", str(tmp_path / "none.yaml")) == "exit 2; imported: "


def test_the_probe_sees_a_heavy_import() -> None:
    assert "sklearn" in last_line("--help", before="import sklearn\n")
