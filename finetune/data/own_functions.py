"""A cleaning step of the user's own: `module:function`, from a file beside the recipe.

Only a file in one of the given folders is loaded, by its path: a name never reaches the standard library or an
installed package, and a run folder that holds a copy of the file can do again what the run did.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune.cleaning_steps import CleaningStep
from finetune.errors import DataError, RecipeError, did_you_mean, listed
from finetune.runs import OWN_FUNCTIONS

WHERE = "cleaning"
REMEDY = "A function of your own takes one text and returns one text."


def load_own_function(name: str, folders: Sequence[Path]) -> Callable[[str], str]:
    """The function called `module:function`, ready to be sent to other processes.

    The file is run once here, so that its faults show before any row is touched. Raises RecipeError when the file or
    the function is missing or the file cannot be run. A call raises FunctionFailed when the function raises, or
    returns something other than text.
    """
    file = own_function_file(name, folders)
    function = OwnFunction(name=name, file=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    _loaded(function)
    return function


def own_function_file(name: str, folders: Sequence[Path]) -> Path:
    """The file of `module:function` in the first folder that has it: `a.b:f` is a/b.py. Raises RecipeError."""
    parts = name.partition(":")[0].split(".")
    if not all(part.isidentifier() for part in parts):
        raise RecipeError(WHERE, f"'{name}' names no module", "Write module:function, dots for sub-folders.")
    inside = Path(*parts).with_suffix(".py")
    for folder in folders:
        if (folder / inside).is_file():
            return folder / inside
    searched = listed(str(folder) for folder in folders) or "no folder"
    remedy = "The file stands beside the recipe; installed packages are not searched."
    raise RecipeError(WHERE, f"no file {inside.as_posix()} for '{name}'. Searched: {searched}", remedy)


def own_function_texts(steps: Sequence[CleaningStep], base: Path) -> dict[str, str]:
    """The files of a recipe's own functions as `functions/a/b.py` -> content, for a folder that repeats the recipe."""
    texts = {}
    for step in steps:
        if step.is_own:
            file = own_function_file(step.name, own_function_folders(base))
            inside = Path(*step.name.partition(":")[0].split(".")).with_suffix(".py")
            texts[f"{OWN_FUNCTIONS}/{inside.as_posix()}"] = file.read_text(encoding="utf-8")
    return texts


def own_function_folders(base: Path) -> list[Path]:
    """Where the functions of a recipe in `base` are looked for: beside it, and among the copies a run keeps."""
    return [base, base / OWN_FUNCTIONS]


class FunctionFailed(Exception):
    """A call of an own function failed; `what` says how. Picklable, so that it arrives from another process."""

    def __init__(self, name: str, what: str, origin: str = "") -> None:
        super().__init__(name, what, origin)
        self.name, self.what, self.origin = name, what, origin

    def of_row(self, origin: str) -> FunctionFailed:
        return FunctionFailed(self.name, self.what, origin)

    def as_error(self) -> DataError:
        where = f"{WHERE}.{self.name}"
        return DataError(f"{self.origin}: {where}" if self.origin else where, self.what, REMEDY)


@dataclass(frozen=True)
class OwnFunction:
    """A user's function by its file and content; each process loads it at its first call, and again when edited."""

    name: str
    file: str
    sha256: str

    def __call__(self, text: str) -> str:
        function = _loaded(self)
        try:
            result = function(text)
        except Exception as error:
            raise FunctionFailed(self.name, f"raised {type(error).__name__}: {error}") from error
        if not isinstance(result, str):
            raise FunctionFailed(self.name, f"returned {type(result).__name__} where a text was expected")
        try:
            result.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(result[error.start]):04x}, a lone surrogate"
            raise FunctionFailed(self.name, f"returned half of a character ({half})") from None
        return result


@cache
def _loaded(own: OwnFunction) -> Callable[[str], Any]:
    """Runs the file under a name that hides no other module. Raises RecipeError."""
    module_name = f"finetune_own_{own.sha256[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, own.file)
    if spec is None or spec.loader is None:
        raise RecipeError(WHERE, f"{own.file} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a class up by its module
    try:
        # Compiled from the bytes on the disk: an edit within the same second must not meet the old byte code.
        exec(compile(Path(own.file).read_text(encoding="utf-8-sig"), own.file, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise RecipeError(
            WHERE,
            f"{Path(own.file).name} cannot be run for '{own.name}': {type(error).__name__}: {error}",
            "It may import the standard library and installed packages, but no file beside it.",
        ) from error
    wanted = own.name.partition(":")[2]
    function = getattr(module, wanted, None)
    if not callable(function):
        found = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        what = "is not a function" if function is not None else "does not exist"
        hint = did_you_mean(wanted, found) or REMEDY
        raise RecipeError(
            WHERE, f"'{wanted}' {what} in {Path(own.file).name}. Found: {listed(found) or 'no function'}", hint
        )
    return function  # type: ignore[no-any-return]
