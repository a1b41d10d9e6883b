"""A folder of output: refused where it holds something else, and there as a whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import RecipeError
from finetune.runs import disk_faults


def check_output_folder(folder: Path, *, record: str, force: bool) -> None:
    """Raises RecipeError for a folder that must not be written into: a file, or a folder that holds something else."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise RecipeError(f"--output {folder}", f"{place} is a file", "Name a folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / record).is_file():
        raise RecipeError(f"--output {folder}", "is not empty, and holds no earlier output", "Name another folder.")
    if not force:
        raise RecipeError(f"--output {folder}", "exists already", "Add --force to replace it.")


@contextlib.contextmanager
def written_folder(folder: Path, *, record: str) -> Iterator[Path]:
    """A folder to write into, which gets its name when all is written; an earlier one stays until then.

    Nothing is left of it when something fails. The caller has asked `check_output_folder`.
    """
    staging, old = (folder.absolute().with_name(f".{folder.absolute().name}.{state}") for state in ("new", "old"))
    for leftover in (staging, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with disk_faults(folder.absolute().parent):
            yield staging
            if folder.exists():
                folder.rename(old)
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if (old / record).is_file() or (old.is_dir() and not any(old.iterdir())):
        shutil.rmtree(old)
