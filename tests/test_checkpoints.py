"""Seals: what damage they notice, what is skipped, what is refused, what rotation keeps."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import CheckpointError, EnvironmentFault
from finetune.training.checkpoints import (
    SEAL,
    STAGING,
    Checkpoint,
    Standing,
    newest_checkpoint,
    publish,
    require_room,
    rotate,
    saving,
    seal,
    sealed_names,
)

IDENTITY = {"training.learning_rate": 2e-5, "data": "abc", "processes": 1}
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def save(folder: Path, standing: Standing, *, identity: dict[str, Any] = IDENTITY) -> Path:
    """A checkpoint of the right file names, sealed and published as the trainer does it."""
    with saving(folder / STAGING):
        written = folder / STAGING / f"checkpoint-{standing.step}"
        written.mkdir(parents=True)
        for name in FILES:
            (written / name).write_bytes(f"{name} at step {standing.step}".encode() * 20)
        seal(written, identity=identity, standing=standing)
        return publish(written, name=standing.name)


def found(folder: Path, identity: dict[str, Any] = IDENTITY) -> tuple[str | None, list[str]]:
    checkpoint, notes = newest_checkpoint(folder, identity=identity)
    return (None if checkpoint is None else checkpoint.folder.name), notes


def test_what_is_sealed_comes_back(tmp_path: Path) -> None:
    standing = Standing(
        15, evaluation_due=True, training_over=True, best_step=None, counters={"loss_sum": 0.1 + 0.2, "seconds": 3}
    )
    folder = save(tmp_path, standing)
    assert newest_checkpoint(tmp_path, identity=IDENTITY) == (Checkpoint(folder, standing), [])
    assert folder.name == "checkpoint-15-due" and not (tmp_path / STAGING).exists()


def test_files_get_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = save(tmp_path, Standing(3))
    finally:
        os.umask(before)
    assert {(folder / name).stat().st_mode & 0o777 for name in FILES} == {0o640}


def test_nothing_there_is_no_fault(tmp_path: Path) -> None:
    assert found(tmp_path / "checkpoints") == (None, [])
    tmp_path.joinpath("checkpoint-99").write_text("a file, not a folder")  # E09
    assert found(tmp_path) == (None, [])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10:20] = bytes(byte ^ 0xFF for byte in data[10:20])
    path.write_bytes(bytes(data))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "E01 killed before the seal": (lambda folder: (folder / SEAL).unlink(), "not finished"),
    "E02 no state": (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing"),
    "E02 half a state": (lambda folder: os.truncate(folder / "trainer_state.json", 9), "trainer_state.json has 9 of"),
    "E03 no optimizer": (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "E04 no scheduler": (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt is missing"),
    "E05 no random state": (lambda folder: (folder / "rng_state.pth").unlink(), "rng_state.pth is missing"),
    "E06 empty optimizer": (lambda folder: os.truncate(folder / "optimizer.pt", 0), "optimizer.pt has 0 of"),
    "E07 cut weights": (lambda folder: os.truncate(folder / "model.safetensors", 50), "model.safetensors has 50 of"),
    "E08 flipped bytes": (lambda folder: flip(folder / "model.safetensors"), "model.safetensors is damaged (checksum)"),
    "E08 flipped optimizer": (lambda folder: flip(folder / "optimizer.pt"), "optimizer.pt is damaged (checksum)"),
    "a folder for a file": (
        lambda folder: ((folder / "optimizer.pt").unlink(), (folder / "optimizer.pt").mkdir()),
        "optimizer.pt is missing",
    ),
    "half a seal": (lambda folder: os.truncate(folder / SEAL, 30), "its seal cannot be read"),
    "an empty seal": (lambda folder: os.truncate(folder / SEAL, 0), "its seal cannot be read"),
    "no object as a seal": (lambda folder: (folder / SEAL).write_text("[]"), "its seal cannot be read"),
    "flipped seal": (lambda folder: flip(folder / SEAL), "its seal cannot be read"),
    "edited standing": (lambda folder: edit(folder / SEAL, standing={"step": 45}), "its seal is damaged"),
    "edited identity": (lambda folder: edit(folder / SEAL, identity={"data": "xyz"}), "its seal is damaged"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_by_name(tmp_path: Path, case: str) -> None:
    act, fault = DAMAGE[case]
    save(tmp_path, Standing(30))
    act(save(tmp_path, Standing(45)))
    name, notes = found(tmp_path)
    assert name == "checkpoint-30" and len(notes) == 1
    assert notes[0].startswith(f"skipping checkpoint-45: {fault}")


def test_an_empty_newer_folder_is_skipped(tmp_path: Path) -> None:
    save(tmp_path, Standing(30))
    (tmp_path / "checkpoint-60").mkdir()  # E09
    assert found(tmp_path) == ("checkpoint-30", ["skipping checkpoint-60: not finished"])


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    for step in (30, 45):  # E10
        flip(save(tmp_path, Standing(step)) / "optimizer.pt")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint is sound \(skipping checkpoint-45.*--restart starts over"
    ):
        found(tmp_path)


def test_a_first_save_that_was_killed_does_not_block(tmp_path: Path) -> None:
    """Nothing was ever finished here, so nothing is lost by starting from scratch."""
    (save(tmp_path, Standing(5)) / SEAL).unlink()
    assert found(tmp_path) == (None, ["skipping checkpoint-5: not finished"])


def test_of_one_step_the_evaluated_one_is_newer(tmp_path: Path) -> None:
    save(tmp_path, Standing(9))
    save(tmp_path, Standing(10, evaluation_due=True))
    assert found(tmp_path)[0] == "checkpoint-10-due"
    save(tmp_path, Standing(10, best_step=10))
    assert found(tmp_path)[0] == "checkpoint-10"


def test_numbers_are_numbers(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save(tmp_path, Standing(step))
    assert found(tmp_path)[0] == "checkpoint-100"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"training.learning_rate": 1e-3}, "training.learning_rate 2e-05, now 0.001"),  # E11
        ({"data": "xyz"}, 'data "abc", now "xyz"'),
        ({"processes": 2}, "processes 1, now 2"),  # E12
        ({"new": True}, "new null, now true"),
    ],
)
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    save(tmp_path, Standing(30))
    with pytest.raises(CheckpointError) as caught:
        found(tmp_path, {**IDENTITY, **change})
    assert f"checkpoint-30: belongs to another run ({said})" in str(caught.value)
    assert ("Start as many processes as before" in str(caught.value)) == ("processes" in change)


def test_a_checkpoint_whose_best_is_lost_is_skipped(tmp_path: Path) -> None:
    """E18: an older one trains the best again; without one that is an error, not another best."""
    save(tmp_path, Standing(10, best_step=10))
    best = save(tmp_path, Standing(20, best_step=20))
    save(tmp_path, Standing(25, best_step=20))
    assert found(tmp_path) == ("checkpoint-25", [])
    flip(best / "model.safetensors")
    lost = "its best, checkpoint-20, is lost (model.safetensors is damaged (checksum))"
    name, notes = found(tmp_path)
    assert name == "checkpoint-10" and notes[0] == f"skipping checkpoint-25: {lost}" and len(notes) == 2
    shutil.rmtree(best)
    shutil.rmtree(tmp_path / "checkpoint-10")
    with pytest.raises(CheckpointError, match="its best, checkpoint-20, is lost \\(missing\\)"):
        found(tmp_path)


def rotated(folder: Path, newest: Path, *, keep: int, best: int | None = None) -> list[str]:
    rotate(folder, newest=newest, keep=keep, best=None if best is None else folder / f"checkpoint-{best}")
    return sorted(path.name for path in folder.iterdir())


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, Standing(step))
    newest = save(tmp_path, Standing(40))
    assert rotated(tmp_path, newest, keep=3, best=10) == ["checkpoint-10", "checkpoint-30", "checkpoint-40"]
    assert rotated(tmp_path, newest, keep=2, best=10) == ["checkpoint-10", "checkpoint-40"]
    assert rotated(tmp_path, newest, keep=1, best=10) == ["checkpoint-10", "checkpoint-40"]
    assert rotated(tmp_path, newest, keep=1, best=40) == ["checkpoint-40"]


def test_rotation_never_deletes_what_was_just_saved(tmp_path: Path) -> None:
    """A damaged checkpoint of a later step was skipped; the run comes by again and must not count it as its newest."""
    save(tmp_path, Standing(30))
    flip(save(tmp_path, Standing(45)) / "optimizer.pt")
    assert found(tmp_path)[0] == "checkpoint-30"
    newest = save(tmp_path, Standing(35, best_step=30))
    assert rotated(tmp_path, newest, keep=2, best=30) == ["checkpoint-30", "checkpoint-35"]


def test_rotation_clears_what_was_never_finished(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-20").mkdir()
    newest = save(tmp_path, Standing(30))
    assert rotated(tmp_path, newest, keep=9) == ["checkpoint-30"]


def test_an_evaluated_checkpoint_makes_the_due_one_needless(tmp_path: Path) -> None:
    save(tmp_path, Standing(10, evaluation_due=True))
    newest = save(tmp_path, Standing(10, best_step=10))
    assert rotated(tmp_path, newest, keep=1, best=10) == ["checkpoint-10"]


def test_a_failed_save_leaves_the_older_one_and_nothing_half(tmp_path: Path) -> None:
    save(tmp_path, Standing(30))
    for error in (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),  # E16
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 101312 vs 101200"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ):
        with pytest.raises(EnvironmentFault, match=r"disk full: .* MB free"), saving(tmp_path / STAGING):
            (tmp_path / STAGING / "checkpoint-45").mkdir(parents=True)
            raise error
        assert sealed_names(tmp_path) == ["checkpoint-30"] and len(list(tmp_path.iterdir())) == 1


def test_other_errors_of_a_save_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"), saving(tmp_path / STAGING):
        raise RuntimeError("shape mismatch")


def test_room_is_asked_for_before_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    require_room(tmp_path / "not" / "there", bytes_needed=100_000)
    with pytest.raises(EnvironmentFault, match=r"disk full: needs 0\.5 MB, 0\.1 MB free"):
        require_room(tmp_path, bytes_needed=500_000)
