"""Sealed checkpoints: a kill at any moment, a full disk or a damaged file never blocks or falsifies a resume.

A checkpoint counts only once its seal is in place: `seal.json` lists every file with its size and sha256, the run
it belongs to and what was still due when it was written. The seal is written last, so a folder without one was
never finished. It detects damage, not malice.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import CheckpointError, EnvironmentFault
from finetune.runs import disk_faults, free_bytes, sync_file, sync_folder, write_json

SEAL = "seal.json"
SEAL_VERSION = 1
NAME = re.compile(r"checkpoint-(\d+)")
READ_BYTES = 1 << 20

Identity = Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A sealed checkpoint that passed. `evaluation_due`: the epoch's steps are done, its evaluation is not.
    `training_over`: nothing is left to train."""

    folder: Path
    step: int
    evaluation_due: bool
    training_over: bool


def newest_checkpoint(folder: Path, *, identity: Identity) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that passes its seal, and a note for every newer one that was skipped.

    Raises CheckpointError when a sound checkpoint belongs to another run, or when there are checkpoints and all of
    them are damaged.
    """
    notes: list[str] = []
    for step, path in sorted(_numbered(folder), reverse=True):
        seal, fault = _read_seal(path)
        if seal is None:
            notes.append(f"skipping {path.name}: {fault}")
            continue
        _refuse_foreign(seal["identity"], identity, where=path)
        return Checkpoint(path, step, bool(seal["evaluation_due"]), bool(seal["training_over"])), notes
    if any((path / "trainer_state.json").exists() or (path / SEAL).exists() for _, path in _numbered(folder)):
        skipped = "; ".join(notes)
        raise CheckpointError(
            str(folder), f"no checkpoint is sound ({skipped})", "--restart starts over and deletes them."
        )
    return None, notes


def seal(folder: Path, *, identity: Identity, evaluation_due: bool, training_over: bool) -> None:
    """Flush every file of a finished checkpoint, then write its seal."""
    files = {}
    for path in sorted(item for item in folder.rglob("*") if item.is_file() and item.name != SEAL):
        path.chmod(0o666 & ~_umask())  # safetensors writes 0600 whatever the umask
        sync_file(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    sync_folder(folder)
    write_json(
        folder / SEAL,
        {
            "version": SEAL_VERSION,
            "identity": dict(identity),
            "evaluation_due": evaluation_due,
            "training_over": training_over,
            "files": files,
        },
    )
    sync_folder(folder.parent)


def discard_unsealed(folder: Path) -> None:
    """Remove what a kill inside a save left behind, so that the same step can be saved again."""
    if folder.exists() and not (folder / SEAL).exists():
        shutil.rmtree(folder)


def rotate(folder: Path, *, keep: int, best: Path | None) -> None:
    """Delete the oldest sealed checkpoints beyond `keep`; the newest and `best` always stay."""
    sealed = [path for _, path in sorted(_numbered(folder), reverse=True) if (path / SEAL).exists()]
    protected = {path.name for path in sealed[:1]} | ({best.name} if best is not None else set())
    for path in sealed:
        if len(protected) < keep:
            protected.add(path.name)
    for path in sealed:
        if path.name not in protected:
            # Without its seal a half-deleted folder counts as unfinished, not as damaged.
            (path / SEAL).unlink()
            shutil.rmtree(path)


def require_room(folder: Path, *, bytes_needed: int) -> None:
    """Refuse to start a save that the disk cannot hold. Raises EnvironmentFault."""
    free = free_bytes(folder)
    if free < bytes_needed:
        raise EnvironmentFault(
            str(folder),
            f"disk full: needs {bytes_needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB free",
            "Older checkpoints are untouched; make room and resume.",
        )


@contextlib.contextmanager
def saving(folder: Path) -> Iterator[None]:
    """A save: disk faults become one message, and what a failed save left behind goes."""
    try:
        with disk_faults(folder):
            try:
                yield
            except RuntimeError as error:
                if not _is_full(error):
                    raise
                raise OSError(errno.ENOSPC, str(error)) from error
    except BaseException:
        if not (folder / SEAL).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_full(error: RuntimeError) -> bool:
    # torch.save and safetensors report a full disk as a RuntimeError of their own words.
    text = str(error)
    return "No space left" in text or "os error 28" in text or "unexpected pos" in text or "write failed" in text


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = ((NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return [(int(match[1]), path) for match, path in matches if match]


def _read_seal(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The seal when every file passes, else None and what is wrong."""
    try:
        seal_values = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        files = seal_values["files"]
        if seal_values["version"] != SEAL_VERSION:
            return None, f"sealed by version {seal_values['version']}"
    except FileNotFoundError:
        return None, "not finished"
    except (ValueError, KeyError, TypeError, OSError):
        return None, "its seal cannot be read"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return None, f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return None, f"{name} has {path.stat().st_size} of {expected['bytes']} bytes"
        if file_sha256(path) != expected["sha256"]:
            return None, f"{name} is damaged (checksum)"
    return seal_values, ""


def _refuse_foreign(sealed: Identity, now: Identity, *, where: Path) -> None:
    differences = [
        f"{key} {json.dumps(sealed.get(key), ensure_ascii=False)}, now {json.dumps(now.get(key), ensure_ascii=False)}"
        for key in sorted({*sealed, *now})
        if sealed.get(key) != now.get(key)
    ]
    if differences:
        raise CheckpointError(
            str(where),
            f"belongs to another run ({'; '.join(differences[:5])})",
            "Undo the change, name another folder with --run, or start over with --restart.",
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
