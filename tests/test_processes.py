"""Two and three processes on one machine: the same steps, losses, gradient norms, predictions and scores as one.

Each process runs this file as a script, joined by torch.distributed over the loopback; accelerate and transformers
learn of it from the environment, as under any launcher.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SECONDS_ALLOWED = 240
VALIDATION_SIZES = (1, 3, 61, 64, 99)
TRAIN_DOCUMENTS = 25  # steps of 12, 12 and 1: the last leaves nothing for all but the first process
PER_STEP = 12


def results_of(folder: Path, *, per_device: int) -> dict[str, Any]:
    """What one process sees: a training with its history, and evaluations of several sizes."""
    from tiny_fits import classification, tiny_bert, tiny_documents, tiny_plan

    from finetune.runs import read_json_lines
    from finetune.training.trainer import DocumentTrainer, fit, training_arguments

    task = classification(3, class_weights=(0.5, 1.0, 3.0), label_smoothing=0.1)
    train = tiny_documents(TRAIN_DOCUMENTS)
    chosen: dict[str, Any] = {
        "train": train, "task": task, "per_device_train_batch_size": per_device, "num_train_epochs": 2,
        "learning_rate": 1e-3,
    }  # fmt: skip
    model = tiny_bert()
    plan = tiny_plan(folder, validation=tiny_documents(10, seed=1), **chosen)
    result = fit(model, plan)
    found: dict[str, Any] = {
        "steps": result.steps,
        "tokens": result.tokens,
        "best_epoch": result.best_epoch,
        "history": read_json_lines(plan.history),
        # The gradient of a key's bias is zero but for rounding, which Adam makes as large as any other.
        "weights": [float(w.detach().abs().sum()) for name, w in model.named_parameters() if "key.bias" not in name],
        "evaluations": {},
    }
    for size in VALIDATION_SIZES:
        plan = tiny_plan(folder / str(size), validation=tiny_documents(size, seed=2), **chosen)
        arguments = training_arguments(plan.settings, folder=plan.checkpoints, seed=13, greater_is_better=True)
        trainer = DocumentTrainer(model, plan, arguments)
        predictions = plan.lesson.predictions(model, trainer.turn())
        found["evaluations"][str(size)] = {
            "probabilities": predictions.probabilities.tolist(),
            "scores": trainer.evaluate(),
        }
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def joined_by(port: int, *, rank: int, world: int = 2) -> dict[str, str]:
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    return os.environ | own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of one process with batches of 12."""
    return results_of(tmp_path_factory.mktemp("alone"), per_device=PER_STEP)


@pytest.fixture(scope="module", params=[2, 3])
def both(
    alone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The results of one process, and those of each of several that share the same batches."""
    folder, world = tmp_path_factory.mktemp("processes"), int(request.param)
    port = free_port()
    processes = []
    for rank in range(world):
        command = [sys.executable, __file__, str(folder / "shared"), str(folder / f"rank-{rank}.json")]
        told, environment = subprocess.PIPE, joined_by(port, rank=rank, world=world)
        processes.append(subprocess.Popen(command, env=environment, stdout=told, stderr=subprocess.STDOUT, text=True))
    try:
        said = [process.communicate(timeout=SECONDS_ALLOWED)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * world, "\n".join(said)
    return alone, [json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(world)]


Both = tuple[dict[str, Any], list[dict[str, Any]]]


@pytest.mark.slow
def test_several_processes_take_the_steps_of_one(both: Both) -> None:
    one, several = both
    assert one["steps"] == 6
    for each in several:
        for name in ("steps", "best_epoch", "tokens"):
            assert each[name] == one[name], name
        np.testing.assert_allclose(each["weights"], one["weights"], rtol=1e-5, atol=1e-5)
    assert all(each["weights"] == several[0]["weights"] for each in several)


@pytest.mark.slow
def test_the_history_is_that_of_one_process_and_written_once(both: Both) -> None:
    one, several = both
    assert len(one["history"]) == 6 + 2
    assert all(each["history"] == several[0]["history"] for each in several), "all read the one file"
    assert len(several[0]["history"]) == len(one["history"])
    for row, expected in zip(several[0]["history"], one["history"], strict=True):
        assert row.keys() == expected.keys()
        for name in {"loss", "grad_norm", "learning_rate", "eval_loss", "eval_f1_macro", "step", "epoch"} & row.keys():
            assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-9), name


@pytest.mark.slow
@pytest.mark.parametrize("size", VALIDATION_SIZES)
def test_evaluation_gives_every_document_once_and_in_order(both: Both, size: int) -> None:
    one, several = both
    expected = one["evaluations"][str(size)]
    assert len(expected["probabilities"]) == size
    for each in several:
        found = each["evaluations"][str(size)]
        np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=1e-4, atol=1e-6)
        assert found["scores"] == pytest.approx(expected["scores"], rel=1e-5)


@pytest.mark.parametrize("size", VALIDATION_SIZES)
@pytest.mark.parametrize("processes", [2, 3])
def test_shares_of_an_evaluation_make_the_whole(
    size: int, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process after the other takes its turn here, and finds what the others would have sent."""
    from tiny_fits import tiny_bert, tiny_documents, tiny_plan

    from finetune.progress import SILENT
    from finetune.training.lessons import Turn

    def turn(process: int, count: int) -> Turn:
        return Turn(process=process, processes=count, step=1, epoch=1.0, progress=SILENT, check=lambda: None)

    plan = tiny_plan(tmp_path, train=tiny_documents(4), validation=tiny_documents(size, seed=2))
    model = tiny_bert()
    whole = plan.lesson.predictions(model, turn(0, 1))
    sent: list[Any] = []
    monkeypatch.setattr("torch.distributed.all_gather_object", lambda parts, part: sent.append(part))
    for process in range(processes):
        with contextlib.suppress(AttributeError, ValueError):  # nothing came back: only its own share is looked at
            plan.lesson.predictions(model, turn(process, processes))
    assert [len(part.probabilities) for part in sent] == [len(range(p, size, processes)) for p in range(processes)]
    monkeypatch.setattr("torch.distributed.all_gather_object", lambda parts, part: parts.__setitem__(slice(None), sent))
    for process in range(processes):
        found = plan.lesson.predictions(model, turn(process, processes))
        np.testing.assert_allclose(found.probabilities, whole.probabilities, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found.losses, whole.losses, rtol=1e-5)
        assert found.windows.tolist() == whole.windows.tolist()
        assert found.deciding.tolist() == whole.deciding.tolist()
        scores = plan.lesson.score_validation(found)
        assert scores == pytest.approx(plan.lesson.score_validation(whole), rel=1e-6)


RECIPE = """
task: text-classification
model: {from_scratch: {architecture: bert, vocab_size: 200, hidden_size: 16, num_hidden_layers: 1,
  num_attention_heads: 2, intermediate_size: 32, max_position_embeddings: 64}}
data: {source: texts.csv, columns: {text: text, label: label}}
windows: {max_tokens: 32, stride: 8}
training: {num_train_epochs: 5000, per_device_train_batch_size: 8, use_cpu: true, save_steps: 20, logging_steps: 1}
evaluation: {baselines: [], bootstrap: 100}
"""


@pytest.mark.slow
def test_a_killed_process_ends_the_other_which_says_so(tmp_path: Path) -> None:
    """F05: within 30 s, with the number of the process, and the run can go on."""
    lines = [f'"sun and sand {number} by the sea",warm\n"snow and ice {number} on a hill",cold' for number in range(20)]
    (tmp_path / "texts.csv").write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    port, run = free_port(), tmp_path / "run"
    command = [sys.executable, "-m", "finetune", "train", str(tmp_path / "recipe.yaml"), "--run", str(run), "--quiet"]
    ranks = [
        subprocess.Popen(
            command, env=joined_by(port, rank=rank), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in range(2)
    ]
    try:
        last = time.monotonic() + SECONDS_ALLOWED
        while not list(run.glob("checkpoints/checkpoint-*")) and time.monotonic() < last and ranks[0].poll() is None:
            time.sleep(0.1)
        ranks[1].send_signal(signal.SIGKILL)
        said = ranks[0].communicate(timeout=30)[0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert ranks[0].returncode == 5, said
    assert "process 1 (of 0 to 1): was killed or has crashed" in said
    assert f"train {run} --resume" in said
    told = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert (told["status"], told["processes"]) == ("failed", 2)
    assert list(run.glob("checkpoints/checkpoint-*"))


if __name__ == "__main__":
    folder, output = map(Path, sys.argv[1:])
    share = PER_STEP // int(os.environ["WORLD_SIZE"])
    output.write_text(json.dumps(results_of(folder, per_device=share)), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # gloo sometimes hangs in its own clean-up
