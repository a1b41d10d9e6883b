"""Two processes on one machine: the same steps, losses, gradient norms, predictions and scores as one.

Each process runs this file as a script, joined by torch.distributed over the loopback; accelerate and transformers
learn of it from the environment, as under any launcher.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SECONDS_ALLOWED = 240
VALIDATION_SIZES = (1, 3, 61)
TRAIN_DOCUMENTS = 25  # steps of 12, 12 and 1: the last leaves nothing for the second process


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
        "best_epoch": result.best_epoch,
        "history": read_json_lines(plan.history),
        "weights": [float(parameter.detach().abs().sum()) for parameter in model.parameters()],
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


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The results of one process with batches of 12, and those of each of two with batches of 6."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        environment = os.environ | own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, str(folder / "two"), str(folder / f"rank-{rank}.json")],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    one = results_of(folder / "one", per_device=12)
    try:
        said = [process.communicate(timeout=SECONDS_ALLOWED)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return one, [json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


Both = tuple[dict[str, Any], list[dict[str, Any]]]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(both: Both) -> None:
    one, two = both
    assert one["steps"] == 6
    for each in two:
        assert (each["steps"], each["best_epoch"]) == (one["steps"], one["best_epoch"])
        np.testing.assert_allclose(each["weights"], one["weights"], rtol=1e-5, atol=1e-5)
    assert two[0]["weights"] == two[1]["weights"]


@pytest.mark.slow
def test_the_history_is_that_of_one_process_and_written_once(both: Both) -> None:
    one, two = both
    assert len(one["history"]) == 6 + 2
    assert two[0]["history"] == two[1]["history"], "both read the one file"
    assert len(two[0]["history"]) == len(one["history"])
    for row, expected in zip(two[0]["history"], one["history"], strict=True):
        assert row.keys() == expected.keys()
        for name in {"loss", "grad_norm", "learning_rate", "eval_loss", "eval_f1_macro", "step", "epoch"} & row.keys():
            assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-9), name


@pytest.mark.slow
@pytest.mark.parametrize("size", VALIDATION_SIZES)
def test_evaluation_gives_every_document_once_and_in_order(both: Both, size: int) -> None:
    one, two = both
    expected = one["evaluations"][str(size)]
    assert len(expected["probabilities"]) == size
    for each in two:
        found = each["evaluations"][str(size)]
        np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=1e-4, atol=1e-6)
        assert found["scores"] == pytest.approx(expected["scores"], rel=1e-5)


if __name__ == "__main__":
    folder, output = map(Path, sys.argv[1:])
    output.write_text(json.dumps(results_of(folder, per_device=6)), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # gloo sometimes hangs in its own clean-up
