"""Two processes train and judge a writer as one does: the same steps, losses, texts and scores."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_writers import SIZES, write_recipe

from finetune.runs import Run, read_json_lines, read_table

SECONDS_ALLOWED = 240
STILL = {**SIZES, "dropout": 0.0}  # what dropout draws goes by the process
FORMS = {"pairs": "llama", "seq2seq": "bart"}


def recipe_of(folder: Path, form: str, *, per_device: int) -> str:
    # 13 validation documents do not divide by two, and the last step of an epoch leaves one process nothing.
    training = {"per_device_train_batch_size": per_device, "num_train_epochs": 2}
    model = {"from_scratch": {"architecture": FORMS[form], **STILL}}
    return write_recipe(folder, form, training=training, model=model)


def started(recipe: str, run: Path, *, rank: int, processes: int, port: int) -> subprocess.Popen[str]:
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    joined = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if processes > 1 else {}
    alone = {} if processes > 1 else {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "finetune", "train", recipe, "--run", str(run), "--quiet"],
        env=os.environ | (own | joined if processes > 1 else alone),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module", params=FORMS)
def both(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The same training by one process with steps of 16, and by two with 8 each."""
    runs = []
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"{request.param}-{processes}")
        recipe = recipe_of(folder, request.param, per_device=16 // processes)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = [started(recipe, folder / "run", rank=r, processes=processes, port=port) for r in range(processes)]
        try:
            said = [rank.communicate(timeout=SECONDS_ALLOWED)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        assert [rank.returncode for rank in ranks] == [0] * processes, "\n".join(said)
        runs.append(Run(folder / "run"))
    return runs[0], runs[1]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(both: tuple[Run, Run]) -> None:
    one, two = (load_file(run.best / "model.safetensors") for run in both)
    for name, tensor in one.items():
        np.testing.assert_allclose(tensor.numpy(), two[name].numpy(), atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_the_history_is_that_of_one_process(both: tuple[Run, Run]) -> None:
    one, two = (read_json_lines(run.history) for run in both)
    assert len(one) == len(two)
    for row, expected in zip(two, one, strict=True):
        assert row.keys() == expected.keys()
        for name in {"loss", "grad_norm", "learning_rate", "eval_loss", "step", "epoch"} & row.keys():
            assert row[name] == pytest.approx(expected[name], rel=1e-3), name


@pytest.mark.slow
def test_every_document_is_judged_once(both: tuple[Run, Run]) -> None:
    one, two = (read_table(run.predictions("validation")) for run in both)
    assert one["id"] == two["id"]
    np.testing.assert_allclose(one["nats"], two["nats"], rtol=1e-3)
    assert one["prediction"] == two["prediction"]
