"""Rules for the whole repository that no compiler holds: names, sizes, paths, versions, the two commands."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.doctor import LIBRARIES

ROOT = Path(__file__).resolve().parent.parent
HOUSE_FILES = sorted((ROOT / "finetune").rglob("*.py"))
MOST_LINES_OF_A_FUNCTION = 60
MOST_LINES_OF_A_FILE = 450
NO_NOUNS = re.compile(r"^(utils?|common|helpers?|misc|.*manager)\.py$")
# A path with somebody's home in it works on one machine only.
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:root|work|home/\w+|Users/\w+)/|[A-Z]:\\\\?Users\\")
NOT_SOURCE = {"runs", "build", "dist", "node_modules", "__pycache__"}
TEXT_SUFFIXES = {"", ".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".jsonl", ".csv", ".cfg", ".sh"}


def _repository_files() -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name == ".ci" or not (name.startswith(".") or name in NOT_SOURCE or name.endswith(".egg-info"))
        ]
        # A virtual environment may carry any name; this file marks it.
        if "pyvenv.cfg" in names:
            folders.clear()
            continue
        yield from (Path(folder, name) for name in names)


def _pyproject() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]  # type: ignore[no-any-return]


def _plain_name(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def _pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "constraints.txt names exact versions only"
    return {_plain_name(name): version for name, version in pins}


def test_every_file_is_a_noun() -> None:
    nameless = [path.name for path in _repository_files() if NO_NOUNS.match(path.name)]
    assert not nameless, "say what is in the file; no utils.py, no common.py, no manager"


def test_no_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in _repository_files()
        if path.suffix in TEXT_SUFFIXES and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert not found


@pytest.mark.parametrize(
    ("line", "is_machine_path"),
    [
        ("cd /root/x", True),
        ("open('/home/ada/x.csv')", True),
        ("/Users/ada/x", True),
        ("https://x.org/home/ada/", False),
        ("runs/work/x", False),
    ],
)
def test_machine_paths_are_recognised(line: str, is_machine_path: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) == is_machine_path


@pytest.mark.parametrize("path", HOUSE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES_OF_A_FILE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno is not None}
    assert not {name: lines for name, lines in long.items() if lines > MOST_LINES_OF_A_FUNCTION}


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_readme_names_the_two_commands(command: str) -> None:
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_constraints_pin_everything_that_is_asked_for() -> None:
    project = _pyproject()
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]  # type: ignore[attr-defined,misc]
    # These two need CUDA, or a torchvision that goes with it: no version of theirs was ever tested.
    assert {_plain_name(name) for name in asked} - {"finetune", "bitsandbytes", "torch-fidelity"} <= set(_pinned())
    assert _pinned()["torch"] == "2.13.0", "a local version such as +cpu exists on some machines only"


def test_doctor_reports_every_dependency() -> None:
    assert sorted(LIBRARIES) == sorted(_plain_name(name) for name in _pyproject()["dependencies"])  # type: ignore[attr-defined]


def test_continuous_integration_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")
