"""What saves memory or time changes no arithmetic: checkpointing and compiling give the losses of plain training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_fits import tiny_bert, tiny_documents, tiny_plan

from finetune.runs import read_json_lines
from finetune.training.trainer import fit


def losses(folder: Path, *, dropout: float = 0.0, **extra: Any) -> list[float]:
    plan = tiny_plan(
        folder, train=tiny_documents(18), validation=tiny_documents(6, seed=1), learning_rate=1e-3,
        num_train_epochs=2, tokens_per_micro_batch=64, extra=extra,
    )  # fmt: skip
    model = tiny_bert(dropout=dropout)
    fit(model, plan)
    assert model.is_gradient_checkpointing == any(name.endswith("checkpointing") for name in extra)
    rows = read_json_lines(plan.history)
    return [row[name] for row in rows for name in ("loss", "eval_loss") if name in row]


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize(("name", "dropout"), [("activation_checkpointing", 0.2), ("gradient_checkpointing", 0.0)])
def test_activations_made_again_are_the_same(name: str, dropout: float, tmp_path: Path) -> None:
    """Dropout, too, draws again what it drew."""
    plain = losses(tmp_path / "plain", dropout=dropout)
    again = losses(tmp_path / "again", dropout=dropout, **{name: True})
    assert len(plain) >= 6
    assert again == pytest.approx(plain, rel=1e-6)


@pytest.mark.slow
def test_a_compiled_model_learns_what_the_plain_one_learns(tmp_path: Path) -> None:
    plain = losses(tmp_path / "plain")
    compiled = losses(tmp_path / "compiled", torch_compile=True, torch_compile_backend="aot_eager")
    assert compiled == pytest.approx(plain, rel=1e-4)
