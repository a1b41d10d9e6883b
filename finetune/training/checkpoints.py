"""Sealed checkpoints: a kill at any moment, a full disk or a damaged file never blocks or falsifies a resume.

A checkpoint is written aside, sealed, and only then given its name, in one rename; nothing that is sound is ever
overwritten. `seal.json` lists every file with its size and sha256, the run it belongs to and what was still due when
it was written. A folder without a seal was never finished. A seal detects damage, not malice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import CheckpointError, EnvironmentFault
from finetune.runs import disk_faults, free_bytes, sync_file, sync_folder, write_json

SEAL = "seal.json"
SEAL_VERSION = 1
STAGING = ".saving"
NAME = re.compile(r"checkpoint-(\d+)(-due)?")
READ_BYTES = 1 << 20

Identity = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """How the training stood at a checkpoint.

    `evaluation_due`: the steps before an evaluation are done, the evaluation is not. `training_over`: no step is left.
    `best_step`: the step of the best checkpoint so far, when the best is to be kept. `counters` are the trainer's own.
    """

    step: int
    evaluation_due: bool = False
    training_over: bool = False
    best_step: int | None = None
    counters: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its folder. Before and after the evaluation are two folders, so that none is overwritten."""
        return f"checkpoint-{self.step}" + ("-due" if self.evaluation_due else "")


@dataclass(frozen=True)
class Checkpoint:
    """A sealed checkpoint that passed."""

    folder: Path
    standing: Standing

    @property
    def step(self) -> int:
        return self.standing.step


def newest_checkpoint(folder: Path, *, identity: Identity) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that passes its seal, and a note for every newer one that was skipped.

    One whose best checkpoint is lost is skipped too: an older one trains the best again. Raises CheckpointError when
    a sound checkpoint belongs to another run, or when there are finished checkpoints and none of them can be used.
    """
    notes: list[str] = []
    unusable = False
    for path in reversed(_numbered(folder)):
        seal, fault = _read_seal(path)
        if seal is None:
            unusable = unusable or (path / SEAL).exists()
            notes.append(f"skipping {path.name}: {fault}")
            continue
        refuse_foreign(seal["identity"], identity, where=path)
        standing = Standing(**seal["standing"])
        lost = seal_fault(best_checkpoint(folder, standing.best_step)) if standing.best_step is not None else ""
        if lost:
            unusable = True
            notes.append(f"skipping {path.name}: its best, checkpoint-{standing.best_step}, is lost ({lost})")
            continue
        return Checkpoint(path, standing), notes
    if unusable:
        raise CheckpointError(
            str(folder), f"no checkpoint is sound ({'; '.join(notes)})", "--restart starts over and deletes them."
        )
    return None, notes


def best_checkpoint(folder: Path, step: int) -> Path:
    """Where the best checkpoint is: one is best by its evaluation, so that is not due."""
    return folder / Standing(step).name


def seal(folder: Path, *, identity: Identity, standing: Standing) -> None:
    """Flush every file of a finished checkpoint, then write its seal."""
    files = {}
    for path in sorted(item for item in folder.rglob("*") if item.is_file() and item.name != SEAL):
        path.chmod(0o666 & ~_umask())  # safetensors writes 0600 whatever the umask
        sync_file(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    sync_folder(folder)
    told = {
        "evaluation_due": standing.evaluation_due,
        "training_over": standing.training_over,
        "best_step": standing.best_step,
        "counters": dict(standing.counters),
    }
    values = {
        "version": SEAL_VERSION,
        "identity": dict(identity),
        "standing": {"step": standing.step, **told},
        "files": files,
    }
    write_json(folder / SEAL, {**values, "sha256": _checksum(values)})


def publish(staging: Path, *, name: str) -> Path:
    """Give a sealed folder of the staging area its name; what was there under that name was not sound."""
    target = staging.parent.parent / name
    remove(target)
    os.rename(staging, target)
    sync_folder(target.parent)
    return target


def rotate(folder: Path, *, newest: Path, keep: int, best: Path | None) -> None:
    """Delete checkpoints beyond `keep`, oldest first, and all that the newest has made worthless.

    The newest, just saved, and `best` always stay. Whatever is numbered higher is damaged or of an abandoned future;
    whatever has no seal was never finished.
    """
    protected = [newest] + ([best] if best is not None and best != newest else [])
    paths = _numbered(folder)
    older = [
        path for path in reversed(paths[: paths.index(newest)]) if (path / SEAL).exists() and path not in protected
    ]
    spare = max(keep - len(protected), 0)
    kept = {*protected, *older[:spare]}
    for path in paths:
        if path not in kept:
            remove(path)


def remove(folder: Path) -> None:
    """Delete a checkpoint; a kill on the way leaves it without a seal, which is unfinished, not damaged."""
    (folder / SEAL).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


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
def saving(staging: Path) -> Iterator[None]:
    """A save into an empty staging area: disk faults become one message, and what a failed save left behind goes."""
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with disk_faults(staging.parent):
            yield
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def seal_fault(folder: Path) -> str:
    """What is wrong with a checkpoint, or an empty text."""
    return _read_seal(folder)[1]


def sealed_names(folder: Path) -> list[str]:
    """Names of the finished checkpoints, oldest first."""
    return [path.name for path in _numbered(folder) if (path / SEAL).exists()]


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _numbered(folder: Path) -> list[Path]:
    """Folders with a checkpoint's name, oldest first; at the same step the one whose evaluation is due is older."""
    if not folder.is_dir():
        return []
    matches = [(NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    ordered = sorted((int(match[1]), match[2] is None, path) for match, path in matches if match)
    return [path for _, _, path in ordered]


def _read_seal(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The seal when every file passes, else None and what is wrong."""
    if not folder.is_dir():
        return None, "missing"
    try:
        values = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        sound = values.pop("sha256") == _checksum(values)
    except FileNotFoundError:
        return None, "not finished"
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return None, "its seal cannot be read"
    if not sound:
        return None, "its seal is damaged"
    if values["version"] != SEAL_VERSION:
        return None, f"sealed by version {values['version']}"
    faults = (_file_fault(folder / name, expected) for name, expected in values["files"].items())
    fault = next(filter(None, faults), "")
    return (None, fault) if fault else (values, "")


def _file_fault(path: Path, expected: Mapping[str, Any]) -> str:
    try:
        if not path.is_file():
            return f"{path.name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{path.name} has {path.stat().st_size} of {expected['bytes']} bytes"
        return "" if file_sha256(path) == expected["sha256"] else f"{path.name} is damaged (checksum)"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def refuse_foreign(sealed: Identity, now: Identity, *, where: Path) -> None:
    differences = [
        f"{key} {json.dumps(sealed.get(key), ensure_ascii=False)}, now {json.dumps(now.get(key), ensure_ascii=False)}"
        for key in sorted({*sealed, *now})
        if sealed.get(key) != now.get(key)
    ]
    if differences:
        do = "Undo the change, name another folder with --run, or start over with --restart."
        if sealed == {**now, "processes": sealed.get("processes")}:
            do = "Start as many processes as before, or start over with --restart."
        raise CheckpointError(str(where), f"belongs to another run ({'; '.join(differences[:5])})", do)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
