"""Who holds a run folder: one process at a time, which lets go when it ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from finetune.errors import CheckpointError

LOCK = ".lock"
SECONDS_OF_ORPHANS = 10.0


@contextlib.contextmanager
def held(handle: IO[str], *, folder: Path) -> Iterator[None]:
    """`folder` for this process alone; `handle` is its open lock, which is closed. Raises CheckpointError."""
    try:
        _lock(handle, folder)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
    finally:
        handle.close()


def other_holder(folder: Path) -> str | None:
    """The number of the other process that holds `folder` now; None when nobody does, or this one."""
    try:
        with open(folder / LOCK, encoding="utf-8") as handle:
            holder = handle.read().strip()
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return None if holder == str(os.getpid()) else holder or "unknown"
    except OSError:
        pass
    return None


def _lock(handle: IO[str], folder: Path) -> None:
    last_try = time.monotonic() + SECONDS_OF_ORPHANS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            handle.seek(0)
            holder = handle.read().strip()
        # The loading processes of a killed run hold its lock until they notice.
        if _is_alive(holder) or time.monotonic() > last_try:
            raise CheckpointError(
                str(folder),
                f"is in use by process {holder or 'unknown'}",
                "Wait for it, or name another folder with --run.",
            )
        time.sleep(0.2)


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
