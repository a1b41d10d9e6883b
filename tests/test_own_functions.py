"""Own functions: found beside the recipe and nowhere else, and every fault has a name."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from finetune.data.own_functions import FunctionFailed, load_own_function, own_function_file
from finetune.errors import DataError, RecipeError


def write(folder: Path, source: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, encoding="utf-8")
    return file


def test_a_function_is_loaded_from_the_first_folder_that_has_the_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, "def f(text): return text + '1'")
    write(second, "def f(text): return text + '2'")
    write(second, "def g(text): return text.upper()", "steps/deep.py")
    assert load_own_function("mine:f", [first, second])("a") == "a1"
    assert load_own_function("steps.deep:g", [first, second])("a") == "A"
    assert own_function_file("steps.deep:g", [first, second]) == second / "steps" / "deep.py"


def test_a_name_never_reaches_the_library_or_a_package(tmp_path: Path) -> None:
    for name in ("os.path:normpath", "textwrap:dedent", "datasets:Dataset"):
        with pytest.raises(RecipeError, match="no file"):
            load_own_function(name, [tmp_path])
    write(tmp_path, "def dedent(text): return 'mine'", "textwrap.py")
    before = set(sys.modules)
    assert load_own_function("textwrap:dedent", [tmp_path])("x") == "mine"
    assert sys.modules["textwrap"].__file__ != str(tmp_path / "textwrap.py")
    assert all(name.startswith("finetune_own_") for name in set(sys.modules) - before)
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("other:f", "", r"no file other.py for 'other:f'. Searched: .*The file stands beside the recipe"),
        ("a..b:f", "", "'a..b:f' names no module"),
        ("mine:shuot", "def shout(text): return text", "'shuot' does not exist in mine.py. Found: shout. Did you mean"),
        ("mine:SIZE", "SIZE = 3", "'SIZE' is not a function in mine.py. Found: no function"),
        ("mine:f", "import no_such_module_anywhere", "mine.py cannot be run for 'mine:f': ModuleNotFoundError"),
        ("mine:f", "def f(text) return", "mine.py cannot be run for 'mine:f': SyntaxError"),
        ("mine:f", "raise SystemExit(3)", "SystemExit: 3"),
        ("mine:f", b"# -*- coding: latin-1 -*-\n# \xe9\n", "mine.py cannot be run for 'mine:f': UnicodeDecodeError"),
    ],
)
def test_a_fault_of_the_file_is_a_recipe_error(tmp_path: Path, name: str, source: str | bytes, message: str) -> None:
    # A run keeps a copy of the file as UTF-8 text, so it has to be that.
    (tmp_path / "mine.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(RecipeError, match=message):
        load_own_function(name, [tmp_path])


def test_a_fault_of_a_call_travels_between_processes_and_becomes_a_data_error(tmp_path: Path) -> None:
    write(tmp_path, "def f(text): return text[9]\ndef g(text): return None")
    with pytest.raises(FunctionFailed) as failed:
        load_own_function("mine:f", [tmp_path])("short")
    arrived = pickle.loads(pickle.dumps(failed.value.of_row("a.csv:7")))
    error = arrived.as_error()
    assert isinstance(error, DataError)
    assert str(error).startswith("a.csv:7: cleaning.mine:f: raised IndexError: string index out of range.")
    with pytest.raises(FunctionFailed, match="returned NoneType where a text was expected"):
        load_own_function("mine:g", [tmp_path])("short")
    write(tmp_path, "def half(text): return text[:1] + chr(0xD83D)")
    with pytest.raises(FunctionFailed) as failed:
        load_own_function("mine:half", [tmp_path])("short")
    assert failed.value.what == r"returned half of a character (\ud83d, a lone surrogate)"


def test_an_edited_file_is_loaded_anew_and_a_function_can_be_pickled(tmp_path: Path) -> None:
    write(tmp_path, "def f(text): return 'a'")
    first = pickle.loads(pickle.dumps(load_own_function("mine:f", [tmp_path])))
    assert first("x") == "a"
    write(tmp_path, "def f(text): return 'b'")
    assert load_own_function("mine:f", [tmp_path])("x") == "b"


def test_a_file_may_hold_dataclasses_and_other_callables(tmp_path: Path) -> None:
    source = """from __future__ import annotations
from dataclasses import dataclass
from functools import partial

@dataclass
class Ending:
    mark: str
    def __call__(self, text: str) -> str:
        return text + self.mark

f = Ending("!")
"""
    write(tmp_path, source)
    assert load_own_function("mine:f", [tmp_path])("a") == "a!"
