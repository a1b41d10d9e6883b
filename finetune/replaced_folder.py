"""A model folder takes its place as a whole: until the new one is on the disk, the old one stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import ModelError


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write a model into; on leaving without an error it takes the place of `folder` as a whole.

    A model of the same name stays until the new one is on the disk. A folder of other things is a ModelError.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").exists():
        raise ModelError(str(folder), "holds files but no model; not replaced", "Choose another folder.")
    staging, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    for leftover in (staging, old):
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir(parents=True)
    yield staging
    # safetensors writes with mode 0600; config.json was made by open(), which heeds the umask.
    mode = (staging / "config.json").stat().st_mode & 0o777
    for file in staging.iterdir():
        file.chmod(mode)
        _flush(file)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
