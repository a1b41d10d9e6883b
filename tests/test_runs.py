"""The run folder: who may use it, what a kill leaves in it, and files that are there whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune import run_lock
from finetune.errors import CheckpointError, EnvironmentFault, RecipeError, Stopped
from finetune.run_files import RunInfo
from finetune.runs import (
    Run,
    append_json_line,
    check_run_folder,
    disk_faults,
    find_run,
    new_run,
    new_run_folder,
    read_json_lines,
    write_json,
    write_text,
)


def info(**changes: object) -> RunInfo:
    plain = {"status": "running", "task": "text-classification", "started": "now", "versions": {}, "platform": "x"}
    return RunInfo.model_validate({**plain, "git_revision": None, "seed": 1, "data_fingerprint": "f", **changes})


def begin(run: Run) -> None:
    run.begin(recipe_text="task: x\n", data={"format_version": 1}, splits={"id": ["a"]}, info=info())


def test_a_new_run_has_all_its_first_files(tmp_path: Path) -> None:
    with new_run(tmp_path / "deep" / "run") as run:
        begin(run)
    assert all(path.is_file() for path in (run.recipe, run.data, run.splits, run.info))
    assert find_run(run.folder).read(run.info, RunInfo) == info()
    with pytest.raises(RecipeError, match="belongs to another run"):
        check_run_folder(run.folder)


@pytest.mark.parametrize(
    "last_written", ["nothing", "recipe.yaml", ".data.json.tmp", "splits.parquet", ".run.json.tmp"]
)
def test_a_run_killed_while_it_began_blocks_nobody(tmp_path: Path, last_written: str) -> None:
    folder = tmp_path / "run"
    with new_run(folder):
        names = ["recipe.yaml", "data.json", "splits.parquet", ".data.json.tmp", ".run.json.tmp"]
        if last_written != "nothing":
            for name in {*names[: names.index(last_written)], last_written}:
                (folder / name).write_text("")
    with pytest.raises(
        CheckpointError, match=r"was stopped before its training began\. Train into it again with --run"
    ):
        find_run(folder)
    check_run_folder(folder)
    with new_run(folder) as run:
        begin(run)
    assert find_run(folder).read(run.info, RunInfo).status == "running"


@pytest.mark.parametrize("name", ["recipe.yaml", "notes.txt"])
def test_a_folder_of_the_user_is_no_half_run(tmp_path: Path, name: str) -> None:
    """A run's folder has a lock from its first moment; this one is somebody's work."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(RecipeError, match="is not empty"):
        check_run_folder(tmp_path)
    with pytest.raises(RecipeError), new_run(tmp_path):
        pass
    with pytest.raises(CheckpointError, match=r"is not a run folder: it has no run\.json"):
        find_run(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="is a file"):
        check_run_folder(tmp_path / "file")
    with pytest.raises(CheckpointError, match="no such run folder"):
        find_run(tmp_path / "nothing")


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    """E15, in one process: each opening of the lock file is an owner of its own."""
    with new_run(tmp_path / "run") as run:
        with pytest.raises(CheckpointError, match="is in use"), new_run(tmp_path / "run"):
            pass
        begin(run)
        with pytest.raises(CheckpointError, match=f"is in use by process {os.getpid()}"), run.locked():
            pass
    with run.locked():
        pass


def test_two_that_begin_at_once(tmp_path: Path) -> None:
    """Both saw an empty folder; the slower one finds the faster one's files untouched."""
    with new_run(tmp_path / "run") as run:
        begin(run)
    text = run.info.read_bytes()
    with pytest.raises(RecipeError, match="belongs to another run"), new_run(tmp_path / "run") as late:
        begin(late)
    assert run.info.read_bytes() == text


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    program = """
import sys, time
from finetune.runs import Run
with Run(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match=f"is in use by process {holder.pid}"), Run(tmp_path).locked():
        pass
    holder.kill()
    holder.communicate()
    with Run(tmp_path).locked():
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


@pytest.mark.parametrize(
    ("changes", "why", "do"),
    [
        ({}, "killed outright while it ran", "Go on with: finetune train {run} --resume."),
        ({"processes": 2}, "killed outright while it ran", "Go on with the launcher, 2 processes and: -m finetune"),
        ({"status": "stopped"}, "stopped", "Go on with: finetune train"),
        ({"status": "failed", "failure": "step 3: loss is nan."}, "failed (step 3: loss is nan)", "Go on with"),
        (
            {"status": "failed", "failure": "process 1: gone. Go on with: finetune train {run} --resume"},
            "failed (process 1: gone)",
            "Go on with",
        ),
        ({"status": "pruned"}, "its search gave it up", "Name another trial."),
    ],
)
def test_a_run_that_is_not_complete_says_how_it_stands(
    tmp_path: Path, changes: dict[str, object], why: str, do: str
) -> None:
    """Who is killed outright leaves run.json as it was: that nobody holds the folder tells it."""
    with new_run(tmp_path / "run") as run:
        begin(run)
    failure = str(changes.get("failure", "")).format(run=run.folder)
    run.update(**{**changes, "failure": failure or None})
    with pytest.raises(CheckpointError) as no_scores:
        run.read(run.scores, RunInfo)
    with pytest.raises(CheckpointError) as no_model:
        run.model("best")
    for caught, what in ((no_scores, "scores.json"), (no_model, "best/")):
        assert f"run: has no {what}: {why}. {do.format(run=run.folder)}" in str(caught.value)
    run.update(status="complete")
    assert run.unfinished() is None


def test_a_run_at_work_is_not_called_killed(tmp_path: Path) -> None:
    with new_run(tmp_path / "run") as run:
        begin(run)
        assert run.unfinished() == (
            "killed outright while it ran", f"Go on with: finetune train {run.folder} --resume."
        ), "this process knows better"  # fmt: skip
        (run.folder / ".lock").write_text("4194305")
        assert run.unfinished() == ("still running, in process 4194305", "Wait for it.")


def _orphan(folder: Path) -> None:
    """A run that is killed while a process of its own, which shares its lock, lives a second longer."""
    with Run(folder).locked():
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)


def test_orphans_of_a_killed_process_are_waited_for(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("fork").Process(target=_orphan, args=(tmp_path,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    with Run(tmp_path).locked():
        pass


def test_orphans_are_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "SECONDS_OF_ORPHANS", 0.3)
    with Run(tmp_path).locked():
        (tmp_path / ".lock").write_text("")
        with pytest.raises(CheckpointError, match="is in use by process unknown"), Run(tmp_path).locked():
            pass


def test_run_names_count_up(tmp_path: Path) -> None:
    assert new_run_folder("a b/c", parent=tmp_path).name == "a-b-c-1"
    for name in ("x-1", "x-9", "x-10", "xy-99", "x-old"):
        (tmp_path / name).mkdir()
    assert new_run_folder("x", parent=tmp_path).name == "x-11"
    assert new_run_folder("评论", parent=tmp_path).name == "评论-1"


def test_forgetting_a_training_keeps_the_openings_of_the_test_split(tmp_path: Path) -> None:
    with new_run(tmp_path / "run") as run:
        begin(run)
        for folder in (run.checkpoints, run.best, run.last, run.figures):
            (folder / "inner").mkdir(parents=True)
        for file in (run.history, run.scores):
            file.write_text("{}")
        run.record_test_opening(by="train", documents=3)
        run.forget_training()
    left = {path.name for path in run.folder.iterdir()}
    assert left == {".lock", "recipe.yaml", "run.json", "data.json", "splits.parquet", "test_openings.jsonl"}


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"value": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentFault, match=r"disk full: .* MB free"), disk_faults(tmp_path):
            write_json(path, {"value": 2})
    assert path.read_text() == '{\n "value": 1\n}\n'
    write_text(path, "3")
    assert path.read_text() == "3" and [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_a_line_that_a_kill_cut_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append_json_line(path, {"step": 1})
    append_json_line(path, {"text": "好"})
    path.write_bytes(path.read_bytes()[:-4])
    append_json_line(path, {"step": 3})
    append_json_line(path, {"step": 4})
    assert read_json_lines(path) == [{"step": 1}, {"step": 3}, {"step": 4}]
    assert read_json_lines(tmp_path / "none.jsonl") == []


def test_a_file_of_another_version_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no run\.json"):
        run.read(run.info, RunInfo)
    run.info.write_text('{"surprise": 1}')
    with pytest.raises(CheckpointError, match=r"is not a run\.json of this version"):
        run.read(run.info, RunInfo)


def test_stopped_is_told_from_ctrl_c() -> None:
    assert Stopped("run", "x").exit_status == 75 and Stopped("run", "x", by_user=True).exit_status == 130
