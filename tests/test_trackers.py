"""training.report_to: trackers hear what history.jsonl is told, and one that is missing is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_writers import write_recipe

from finetune.cli import main


def test_tensorboard_gets_the_scores_beside_the_history(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = write_recipe(tmp_path, "pairs", training={"report_to": ["tensorboard"], "num_train_epochs": 2})
    run = tmp_path / "run"
    assert main(["train", recipe, "--run", str(run), "--quiet"]) == 0
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {"eval/chrf", "eval/loss", "train/loss"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("eval/loss")) == 2
    assert not (run / "checkpoints" / "runs").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("tensorbord", "Did you mean 'tensorboard'?"), ("comet_ml", "is not installed")]
)
def test_a_tracker_that_is_missing_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    recipe = write_recipe(tmp_path, "pairs", training={"report_to": [name]})
    assert main(["train", recipe, "--run", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "training.report_to" in said and message in said
    assert not (tmp_path / "run").exists()
