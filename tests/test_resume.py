"""A run that was killed, stopped or starved ends exactly like one that was left alone.

Every case is a real process that ends itself at an exactly placed moment, and a second one that resumes. Importing
torch takes longer than such a run, so this file, run as a script, imports it once and forks a child for each order
it reads; the child sets its trap and calls the command's main function.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WORDS = {"good": ["fine", "lovely", "clean", "warm"], "bad": ["dirty", "cold", "rude", "broken"]}
# Four steps an epoch, saved between epochs too; early stopping ends the run after five epochs of eight.
RECIPE = """
task: text-classification
model:
  from_scratch: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32,
                 vocab_size: 120, dropout: 0.2}
data: {source: reviews.csv}
windows: {max_tokens: 16, stride: 4}
training:
  num_train_epochs: 8
  per_device_train_batch_size: 8
  gradient_accumulation_steps: 2
  learning_rate: 5.0e-2
  warmup_steps: 0
  save_steps: 3
  logging_steps: 2
  metric_for_best_model: loss
  early_stopping_patience: 2
  use_cpu: true
evaluation: {bootstrap: 0, baselines: [majority]}
seed: 1
"""
STEPS_AN_EPOCH = 4


@dataclass(frozen=True)
class Ended:
    """`code` is the exit status, or minus the signal that killed the process."""

    code: int
    stderr: str


class Server:
    """Forks a child for each command; see `serve` below."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # One thread, so that nothing but the code decides the last digit, and forking is safe.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=folder, env=environment, text=True, stdin=pipe, stdout=pipe
        )

    def finetune(self, *words: str, trap: str = "", at: int = 0) -> Ended:
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"argv": [*words, "--quiet"], "trap": trap, "at": at}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Ended(code, (self.folder / "stderr").read_text(encoding="utf-8"))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("resume")
    write_reviews(folder / "reviews.csv", rows=90)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    server = Server(folder)
    yield server
    server.close()


def write_reviews(path: Path, *, rows: int) -> None:
    chance = random.Random(5)
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        for row in range(rows):
            label = chance.choice(list(WORDS))
            other = "bad" if label == "good" else "good"
            length = chance.choice([3, 6, 20])
            words = [chance.choice(WORDS[label if chance.random() < 0.8 else other]) for _ in range(length)]
            writer.writerow([f"{row} {' '.join(words)}", label])


@dataclass(frozen=True)
class Result:
    """All of a finished run that a resume could falsify."""

    weights: dict[str, str]
    predictions: dict[str, Any]
    history: str
    scores: dict[str, Any]
    counts: dict[str, Any]


def result(run: Path) -> Result:
    import pyarrow.parquet

    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert info["status"] == "complete" and info["failure"] is None
    table = pyarrow.parquet.read_table(run / "predictions" / "test.parquet").to_pydict()
    return Result(
        weights={name: weights_hash(run / name) for name in ("best", "last")},
        predictions=table,
        history=(run / "history.jsonl").read_text(encoding="utf-8"),
        scores=json.loads((run / "scores.json").read_text(encoding="utf-8")),
        counts={name: info[name] for name in ("steps", "training_tokens", "padding_share")},
    )


def weights_hash(model: Path) -> str:
    """sha256 over all tensors of a saved model."""
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(model / "model.safetensors").items()):
        digest.update(name.encode() + str(tensor.shape).encode() + tensor.tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def whole(server: Server) -> Result:
    """The run that nothing disturbed."""
    assert server.finetune("train", "recipe.yaml", "--run", "whole").code == 0
    return result(server.folder / "whole")


@pytest.fixture
def run(server: Server, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = server.folder / "run"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start(server: Server, run: Path, *, trap: str, at: int = 0, more: tuple[str, ...] = ()) -> Ended:
    return server.finetune("train", "recipe.yaml", "--run", run.name, *more, trap=trap, at=at)


def go_on(server: Server, run: Path, *, trap: str = "", at: int = 0) -> Ended:
    return server.finetune("train", run.name, "--resume", trap=trap, at=at)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.slow
def test_the_reference_is_stopped_early_with_its_best_before(whole: Result) -> None:
    assert whole.counts["steps"] % STEPS_AN_EPOCH == 0
    assert whole.scores["best_step"] < whole.counts["steps"] < 8 * STEPS_AN_EPOCH
    evaluations = [row for row in map(json.loads, whole.history.splitlines()) if "eval_loss" in row]
    assert [row["step"] for row in evaluations] == list(range(4, whole.counts["steps"] + 1, STEPS_AN_EPOCH))
    assert whole.weights["best"] != whole.weights["last"]


KILLS = {
    "after a step": ("kill after step", 11),
    "before the first save": ("kill after step", 2),
    "inside the first save": ("kill before seal", 3),
    "inside a save, after the weights": ("kill after weights", 9),
    "inside a save, before the seal": ("kill before seal", 12),
    "inside a save, sealed and without its name": ("kill before publish", 12),
    "inside a rotation": ("kill in rotation", 9),
    "between an epoch's last step and its evaluation": ("kill before evaluation", 12),
    "when early stopping has counted one": ("kill after step", 18),
    "while last/ is written": ("kill in model", 1),
    "while best/ is written": ("kill in model", 2),
    "before the scores": ("kill before scores", 0),
    "between scores and the end": ("kill after scores", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILLS)
def test_killed(server: Server, whole: Result, run: Path, moment: str) -> None:
    trap, at = KILLS[moment]
    assert start(server, run, trap=trap, at=at).code == -signal.SIGKILL
    assert (run / "best").exists() == ("scores" in moment)
    assert go_on(server, run).code == 0
    assert result(run) == whole
    assert names(run) == names(server.folder / "whole")


@pytest.mark.slow
def test_killed_again_and_again(server: Server, whole: Result, run: Path) -> None:
    assert start(server, run, trap="kill before seal", at=6).code == -signal.SIGKILL
    assert go_on(server, run, trap="kill after step", at=10).code == -signal.SIGKILL
    assert go_on(server, run, trap="kill before evaluation", at=12).code == -signal.SIGKILL
    assert go_on(server, run, trap="kill after weights", at=15).code == -signal.SIGKILL
    assert go_on(server, run).code == 0
    assert result(run) == whole


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_within_the_step(server: Server, whole: Result, run: Path, number: signal.Signals) -> None:
    ended = start(server, run, trap=f"{number.name} in step", at=10)
    assert ended.code == (75 if number == signal.SIGTERM else 130)
    assert f"stopped by {number.name}; checkpoint-10 is saved. Go on with: finetune train run --resume" in ended.stderr
    assert "checkpoint-10" in names(run) and "Traceback" not in ended.stderr
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    assert go_on(server, run).code == 0
    assert result(run) == whole


@pytest.mark.slow
@pytest.mark.parametrize("epoch", ["a middle one", "the last one"])
@pytest.mark.parametrize("moment", ["in step", "in evaluation"])
def test_the_due_evaluation_is_made_up_for(server: Server, whole: Result, run: Path, moment: str, epoch: str) -> None:
    """The last epoch's evaluation is the one that stops early: not one more step may be trained."""
    at = whole.counts["steps"] - (STEPS_AN_EPOCH if epoch == "a middle one" else 0)
    assert start(server, run, trap=f"SIGTERM {moment}", at=at).code == 75
    assert f"checkpoint-{at}-due" in names(run) and f"checkpoint-{at}" not in names(run)
    assert go_on(server, run, trap="kill before seal", at=at).code == -signal.SIGKILL
    assert f"checkpoint-{at}-due" in names(run)
    assert go_on(server, run, trap="SIGTERM in evaluation", at=at).code == 75
    assert go_on(server, run).code == 0
    assert result(run) == whole


@pytest.mark.slow
def test_a_stop_at_the_very_last_step(server: Server, run: Path) -> None:
    """max_steps ends in the middle of an epoch, at a step that is saved anyway; its evaluation is still due."""
    more = ("training.max_steps=6", "training.early_stopping_patience=null")
    assert server.finetune("train", "recipe.yaml", "--run", "short", *more).code == 0
    for trap, code, name in (
        ("SIGTERM in step", 75, "checkpoint-6-due"),
        ("kill before evaluation", -signal.SIGKILL, "checkpoint-4"),
        ("SIGTERM in evaluation", 75, "checkpoint-6-due"),
    ):
        assert start(server, run, trap=trap, at=6, more=more).code == code
        assert names(run)[-1] == name
        assert go_on(server, run).code == 0
        assert result(run) == result(server.folder / "short"), trap
        assert result(run).counts["steps"] == 6
        shutil.rmtree(run)


@pytest.mark.slow
def test_the_second_ctrl_c_does_not_wait(server: Server, whole: Result, run: Path) -> None:
    ended = start(server, run, trap="SIGINT twice in step", at=10)
    assert ended.code == 130 and "Traceback" not in ended.stderr
    assert "checkpoint-10" not in names(run)
    assert go_on(server, run).code == 0
    assert result(run) == whole


@pytest.mark.slow
def test_ctrl_c_while_scoring(server: Server, whole: Result, run: Path) -> None:
    ended = start(server, run, trap="SIGINT in baselines")
    assert ended.code == 130 and "Go on with: finetune train run --resume" in ended.stderr
    assert "Traceback" not in ended.stderr and not (run / "scores.json").exists()
    assert go_on(server, run).code == 0
    assert result(run) == whole
    openings = (run / "test_openings.jsonl").read_text().splitlines()
    assert len(openings) == 2  # nothing about the test split is forgotten


@pytest.mark.slow
@pytest.mark.parametrize("trap", ["SIGTERM in last model", "SIGTERM while the best is loaded"])
def test_a_signal_when_training_is_over_is_heard(server: Server, whole: Result, run: Path, trap: str) -> None:
    ended = start(server, run, trap=trap)
    assert ended.code == 75 and "the training is done and saved" in ended.stderr
    assert not (run / "scores.json").exists()
    assert go_on(server, run).code == 0
    assert result(run) == whole


@pytest.mark.slow
def test_before_the_run_exists(server: Server, whole: Result, run: Path) -> None:
    ended = start(server, run, trap="SIGINT in preparation")
    assert ended.code == 130 and "stopped by SIGINT. Nothing was begun; run the same command again." in ended.stderr
    assert not run.exists()
    # The folder is half made; neither command is blocked, and nobody has to delete anything.
    assert start(server, run, trap="kill in beginning").code == -signal.SIGKILL
    assert run.exists() and not (run / "run.json").exists()
    ended = go_on(server, run)
    assert ended.code == 2 and "was stopped before its training began" in ended.stderr
    assert start(server, run, trap="").code == 0
    assert result(run) == whole


@pytest.mark.slow
@pytest.mark.parametrize("trap", ["disk full", "disk full in save", "disk full in torch"])
def test_a_full_disk_keeps_the_older_checkpoint(server: Server, whole: Result, run: Path, trap: str) -> None:
    ended = start(server, run, trap=trap, at=9)
    assert ended.code == 5 and "disk full" in ended.stderr and "Traceback" not in ended.stderr
    assert ("needs" in ended.stderr) == (trap == "disk full")
    assert names(run) == ["checkpoint-6", "checkpoint-8"]  # nothing is lost, and nothing is half
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert go_on(server, run).code == 0
    assert result(run) == whole


@pytest.mark.slow
@pytest.mark.parametrize("trap", ["nan loss", "nan weights", "inf gradient"])
def test_a_loss_that_is_not_finite_stops_the_run(server: Server, run: Path, trap: str) -> None:
    ended = start(server, run, trap=trap, at=7)
    assert ended.code == 6 and "is not finite" in ended.stderr and "Traceback" not in ended.stderr
    assert "step 7: " in ended.stderr or trap == "nan weights"
    assert "Kept: checkpoint-4, checkpoint-6." in ended.stderr
    assert names(run) == ["checkpoint-4", "checkpoint-6"]
    assert not (run / "best").exists() and not (run / "last").exists() and not (run / "scores.json").exists()
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "failed" and "not finite" in info["failure"]


@pytest.mark.slow
@pytest.mark.parametrize("epoch_of_one_step", [False, True])
def test_an_absurd_learning_rate(server: Server, run: Path, epoch_of_one_step: bool) -> None:
    """One step an epoch: the evaluation sees the exploded weights before a loss does."""
    more = ("training.learning_rate=1e12", *(["training.per_device_train_batch_size=64"] * epoch_of_one_step))
    ended = start(server, run, trap="", more=more)
    assert ended.code == 6 and "is not finite" in ended.stderr and "Traceback" not in ended.stderr
    assert not (run / "best").exists() and not (run / "scores.json").exists()


@pytest.mark.slow
def test_the_best_checkpoint_is_deleted_by_hand(server: Server, whole: Result, run: Path) -> None:
    """Without its best a checkpoint cannot end as it should have; nothing is made up in its place."""
    best, stop = whole.scores["best_step"], whole.scores["best_step"] + 2
    assert start(server, run, trap="SIGTERM in step", at=stop).code == 75
    shutil.rmtree(run / "checkpoints" / f"checkpoint-{best}")
    ended = go_on(server, run)
    assert ended.code == 2 and f"its best, checkpoint-{best}, is lost (missing)" in ended.stderr
    assert "--restart starts over" in ended.stderr
    assert server.finetune("train", "run", "--restart").code == 0
    assert result(run) == whole
    # With an older checkpoint at hand, the best is trained again.
    shutil.rmtree(run)
    assert start(server, run, trap="SIGTERM in step", at=stop, more=("training.save_total_limit=9",)).code == 75
    (run / "checkpoints" / f"checkpoint-{best}" / "model.safetensors").write_bytes(b"")
    ended = go_on(server, run)
    assert ended.code == 0 and f"skipping checkpoint-{stop}: its best" in ended.stderr
    assert result(run) == whole


@pytest.mark.slow
def test_resume_when_things_have_changed(server: Server, whole: Result, run: Path) -> None:
    source = server.folder / "reviews.csv"
    text = source.read_text(encoding="utf-8")
    assert start(server, run, trap="kill after step", at=7).code == -signal.SIGKILL
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    source.write_text(text.replace("lovely", "lovelier"), encoding="utf-8")
    try:
        ended = go_on(server, run)
        assert ended.code == 2 and "checkpoint-6: belongs to another run (data " in ended.stderr
    finally:
        source.write_text(text, encoding="utf-8")
    ended = server.finetune("train", "run", "training.learning_rate=1e-3", "--resume")
    assert ended.code == 2 and "learning_rate 0.05, now 0.001" in ended.stderr
    assert before == {path: path.read_bytes() for path in before}
    # What does not touch the weights may change, and the folder's recipe says so.
    assert server.finetune("train", "run", "evaluation.bootstrap=10", "--resume").code == 0
    assert "bootstrap: 10" in (run / "recipe.yaml").read_text(encoding="utf-8")
    assert result(run).weights == whole.weights and result(run).history == whole.history


@pytest.mark.slow
def test_a_complete_run_is_left_alone(server: Server, whole: Result) -> None:
    files = [path for path in (server.folder / "whole").rglob("*") if path.is_file()]
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in files]
    assert server.finetune("train", "whole", "--resume").code == 0
    assert before == [(path.stat().st_mtime_ns, path.read_bytes()) for path in files]
    ended = server.finetune("train", "recipe.yaml", "--run", "whole")
    assert ended.code == 2 and "belongs to another run" in ended.stderr


# ---- below: the script that runs in the other process


def serve() -> None:
    """Read orders, one JSON a line; fork a child for each; answer with how it ended."""
    for slow in ("finetune.experiment", "matplotlib.figure", "matplotlib.font_manager"):
        importlib.import_module(slow)  # torch is imported here, and no operation of it runs

    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(in_child(order))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def in_child(order: dict[str, Any]) -> int:
    from finetune.cli import main

    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    if order["trap"]:
        TRAPS[order["trap"]](order["at"])
    try:
        code = main(order["argv"])
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stderr.flush()
    return code


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, act: Callable[..., None]) -> None:
    """Call `act` with the same arguments before the function `owner.name`."""
    original = getattr(owner, name)

    def trapped(*arguments: Any, **named: Any) -> Any:
        act(*arguments, **named)
        return original(*arguments, **named)

    setattr(owner, name, trapped)


def at_step(step: int, act: Callable[[], None], *, more: int = 0) -> Callable[..., None]:
    """For methods of the trainer: act when `step` steps are done (`more`: counting the one that has begun)."""
    return lambda trainer, *_, **__: act() if trainer.state.global_step + more == step else None


def send(number: signal.Signals, times: int = 1) -> Callable[[], None]:
    return lambda: [os.kill(os.getpid(), number) for _ in range(times)] and None


def trap_step(act: Callable[[], None]) -> Callable[[int], None]:
    def set_trap(at: int) -> None:
        from finetune.training.trainer import DocumentTrainer

        before(DocumentTrainer, "training_step", at_step(at, act, more=1))

    return set_trap


def trap_evaluation(act: Callable[[], None]) -> Callable[[int], None]:
    def set_trap(at: int) -> None:
        from finetune.training.trainer import DocumentTrainer

        before(DocumentTrainer, "turn", at_step(at, act))

    return set_trap


def kill_after_step(at: int) -> None:
    from finetune.training.sealed_trainer import SealedTrainer

    before(SealedTrainer, "stop_if_asked", at_step(at, die))


def kill_after_weights(at: int) -> None:
    from finetune.training.sealed_trainer import SealedTrainer

    before(SealedTrainer, "_save_optimizer_and_scheduler", at_step(at, die))


def trap_seal(name: str, act: Callable[[], None]) -> Callable[[int], None]:
    def set_trap(at: int) -> None:
        from finetune.training import sealed_trainer

        before(sealed_trainer, name, lambda folder, **_: act() if folder.name == f"checkpoint-{at}" else None)

    return set_trap


def kill_in_rotation(at: int) -> None:
    """With a seal gone and the files still there, while checkpoint-`at` pushes an older one out."""
    from finetune.training import checkpoints

    def act(folder: Path) -> None:
        if folder.parent.name == "checkpoints" and (folder.parent / f"checkpoint-{at}" / "seal.json").exists():
            assert (folder / "seal.json").exists()
            (folder / "seal.json").unlink()
            die()

    before(checkpoints, "remove", act)


def kill_in_model(at: int) -> None:
    """While the `at`-th model is on the disk and not in its place."""
    from finetune import replaced_folder

    folders: list[Path] = []

    def act(path: Path) -> None:
        if path.parent not in folders:
            folders.append(path.parent)
        if len(folders) == at:
            die()

    before(replaced_folder, "_flush", act)


def trap_function(module: str, name: str, act: Callable[[], None]) -> Callable[[int], None]:
    def set_trap(at: int) -> None:
        before(importlib.import_module(module), name, lambda *_, **__: act())

    return set_trap


def kill_after_scores(at: int) -> None:
    from finetune import experiment

    original = experiment.score_run
    experiment.score_run = lambda *arguments, **named: (original(*arguments, **named), die())[0]


def no_room(at: int) -> None:
    from finetune.training.sealed_trainer import SealedTrainer

    def act() -> None:
        full = shutil.disk_usage("/")._replace(free=1000)
        shutil.disk_usage = lambda path: full

    before(SealedTrainer, "save_sealed", at_step(at, act))


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_in_torch(at: int) -> None:
    """The system refuses to let any file grow further; torch.save has its own words for it."""
    import resource

    from finetune.training.sealed_trainer import SealedTrainer

    def limit(largest: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    before(SealedTrainer, "_save_optimizer_and_scheduler", at_step(at, limit(10_000)))
    before(SealedTrainer, "_finalize_training", lambda *_: None)
    from finetune import experiment

    before(experiment, "now", lambda: limit(resource.RLIM_INFINITY)())


def spoil(what: str) -> Callable[[int], None]:
    def set_trap(at: int) -> None:
        import torch

        from finetune.training.classifying import ClassifierLesson
        from finetune.training.trainer import DocumentTrainer

        def act(trainer: Any, *_: Any, **__: Any) -> None:
            parameter = next(trainer.network.parameters())
            with torch.no_grad():
                if what == "weights":
                    parameter[-1, -1] = float("nan")
                else:
                    parameter.register_hook(lambda gradient: gradient * float("inf"))

        if what == "loss":
            normaliser = ClassifierLesson.normaliser
            steps = iter(range(1, at + 1))

            def spoiled_normaliser(lesson: Any, step: Any) -> float:
                return float("nan") if next(steps, 0) == at else normaliser(lesson, step)

            ClassifierLesson.normaliser = spoiled_normaliser  # type: ignore[method-assign]
        else:
            place = "_maybe_log_save_evaluate" if what == "weights" else "training_step"
            method = getattr(DocumentTrainer, place)

            def spoiled(trainer: Any, *arguments: Any, **named: Any) -> Any:
                if trainer.state.global_step + (what != "weights") == at:
                    act(trainer)
                return method(trainer, *arguments, **named)

            setattr(DocumentTrainer, place, spoiled)

    return set_trap


TRAPS: dict[str, Callable[[int], None]] = {
    "kill after step": kill_after_step,
    "kill after weights": kill_after_weights,
    "kill before seal": trap_seal("seal", die),
    "kill before publish": trap_seal("publish", die),
    "kill in rotation": kill_in_rotation,
    "kill before evaluation": trap_evaluation(die),
    "kill in model": kill_in_model,
    "kill before scores": trap_function("finetune.experiment", "score_run", die),
    "kill after scores": kill_after_scores,
    "kill in beginning": trap_function("finetune.runs", "write_table", die),
    "SIGTERM in step": trap_step(send(signal.SIGTERM)),
    "SIGINT in step": trap_step(send(signal.SIGINT)),
    "SIGINT twice in step": trap_step(send(signal.SIGINT, times=2)),
    "SIGTERM in evaluation": trap_evaluation(send(signal.SIGTERM)),
    "SIGINT in preparation": trap_function("finetune.experiment", "build_learner", send(signal.SIGINT)),
    "SIGINT in baselines": trap_function("finetune.scoring", "_beside_baselines", send(signal.SIGINT)),
    "SIGTERM in last model": trap_function("finetune.learner", "save_model", send(signal.SIGTERM)),
    "SIGTERM while the best is loaded": trap_function(
        "finetune.training.sealed_trainer", "seal_fault", send(signal.SIGTERM)
    ),
    "disk full": no_room,
    "disk full in save": trap_seal("seal", full_disk),
    "disk full in torch": full_disk_in_torch,
    "nan loss": spoil("loss"),
    "nan weights": spoil("weights"),
    "inf gradient": spoil("gradient"),
}


if __name__ == "__main__":
    serve()
