"""The reckoning of memory: against the bytes of real models, real optimizers, and what autograd really saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from finetune.doctor import examine_memory, render
from finetune.errors import RecipeError
from finetune.memory import FOUR_BITS, MemoryEstimate, estimate_memory, render_memory
from finetune.recipe_file import LoadedRecipe, check_recipe
from finetune.yaml_text import YamlText

ROWS, LONGEST = 4, 64
SIZES = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": LONGEST, "dropout": 0.1,
}  # fmt: skip
TRAINING = {"per_device_train_batch_size": ROWS, "tokens_per_micro_batch": ROWS * LONGEST, "use_cpu": True}


def recipe(base: Path, **changes: Any) -> LoadedRecipe:
    values: dict[str, Any] = {
        "task": "text-classification",
        "model": {"from_scratch": {"architecture": "bert", **SIZES}},
        "data": {"source": "x.csv", "columns": {"text": "text", "label": "label"}},
        "windows": {"max_tokens": LONGEST, "stride": 8},
        "training": TRAINING,
    }
    values |= changes
    return check_recipe(YamlText(name="recipe.yaml", values=values), [], base=base, name="recipe")


def bert() -> torch.nn.Module:
    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LONGEST, num_labels=2,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-any-return]


def only(loaded: LoadedRecipe, *, device: Any = "cpu", way: Any = "none") -> MemoryEstimate:
    (estimate,) = estimate_memory(loaded, device=device, ways=[way])
    return estimate


def test_weights_gradients_and_adam_are_those_of_the_real_thing(tmp_path: Path) -> None:
    model = bert()
    model(input_ids=torch.zeros(1, 4, dtype=torch.long), labels=torch.zeros(1, dtype=torch.long)).loss.backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    states = [v for state in optimizer.state.values() for v in state.values() if v.dim() > 0]
    estimate = only(recipe(tmp_path))
    tensors = [*model.parameters(), *model.buffers()]
    assert estimate.weights == sum(tensor.nbytes for tensor in tensors)
    assert estimate.gradients == sum(w.grad.nbytes for w in model.parameters() if w.grad is not None)
    assert estimate.optimizer == sum(state.nbytes for state in states)
    assert estimate.parameters == estimate.trained == sum(w.numel() for w in model.parameters())


@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_activations_are_what_autograd_saves(attention_dropout: float, tmp_path: Path) -> None:
    """Real tensors here: without dropout the CPU's fused attention keeps no probabilities, with it they are kept."""
    model = bert()
    for module in model.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = attention_dropout
    model.config.attention_probs_dropout_prob = attention_dropout  # type: ignore[union-attr,assignment]
    config = model.config
    model = AutoModelForSequenceClassification.from_config(config).train()
    weights = {w.untyped_storage()._cdata for w in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    mask = torch.ones(ROWS, LONGEST, dtype=torch.long)
    mask[0, -5:] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.zeros(ROWS, LONGEST, dtype=torch.long), attention_mask=mask)
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    section = {"from_scratch": {"architecture": "bert", **SIZES}, "attention_dropout": attention_dropout}
    assert only(recipe(tmp_path, model=section)).activations == pytest.approx(saved, rel=0.05)


def test_what_makes_it_smaller(tmp_path: Path) -> None:
    full = only(recipe(tmp_path))
    fewer = only(recipe(tmp_path, training=TRAINING | {"tokens_per_micro_batch": LONGEST}))
    assert fewer.activations == pytest.approx(full.activations / ROWS, rel=0.05)
    checkpointed = only(recipe(tmp_path, training=TRAINING | {"extra": {"activation_checkpointing": True}}))
    assert checkpointed.activations < full.activations * 0.75
    plain = only(recipe(tmp_path, training=TRAINING | {"optim": "sgd"}))
    assert plain.optimizer == 0
    thrifty = only(recipe(tmp_path, training=TRAINING | {"optim": "adafactor"}))
    assert 0 < thrifty.optimizer < full.optimizer / 10
    half = only(recipe(tmp_path, training=TRAINING | {"bf16": True}))
    assert half.activations < full.activations * 0.95  # what attention and norms keep stays in four bytes
    assert half.weights > full.weights, "autocast keeps a copy in two bytes"


def test_an_adapter_trains_little_and_four_bits_are_an_eighth(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "model")  # type: ignore[operator]
    (tmp_path / "model" / "tokenizer.json").write_text("{}", encoding="utf-8")
    named = recipe(tmp_path, model={"name": "model"})
    full, lora, four = (
        only(named, device="cuda", way="none"),
        only(named, device="cuda", way="lora"),
        only(named, device="cuda", way="qlora"),
    )
    # r (in + out) for q, k, v, o (32 x 32) and the feed-forward part (32 x 64) of two layers, and for the pooler;
    # the head (2 x 32 + 2) is trained whole.
    assert lora.trained == 16 * (2 * (4 * (32 + 32) + 2 * (32 + 64)) + (32 + 32)) + 2 * 32 + 2
    assert lora.gradients == 4 * lora.trained
    assert lora.optimizer == 8 * lora.trained
    body = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert lora.weights - four.weights >= int(body * (4 - FOUR_BITS)) - 1
    assert full.trained == full.parameters


def test_several_processes_hold_gradients_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = only(recipe(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert only(recipe(tmp_path)).gradients == 2 * alone.gradients


@pytest.mark.parametrize(("task", "architecture"), [("text-generation", "gpt2"), ("seq2seq", "bart")])
def test_writers_are_reckoned_too(task: str, architecture: str, tmp_path: Path) -> None:
    columns = {"text": "text"} if task == "text-generation" else {"source": "a", "target": "b"}
    loaded = recipe(
        tmp_path,
        task=task,
        model={"from_scratch": {"architecture": architecture, **SIZES}},
        data={"source": "x.csv", "columns": columns},
        windows={"max_tokens": LONGEST},
    )
    estimate = only(loaded)
    assert estimate.activations > 4 * 300 * ROWS * LONGEST, "the logits of a step alone"
    assert estimate.trained == estimate.parameters


def test_the_doctor_shows_it_and_says_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = examine_memory(recipe(tmp_path))
    assert [check.name for check in checks] == ["memory, full", "memory, free"]
    assert checks[0].ok is True
    assert "at the peak (weights" in render(checks)
    monkeypatch.setattr("finetune.doctor._available_bytes", lambda: 1000)
    small = examine_memory(recipe(tmp_path))[0]
    assert small.ok is False
    assert "training.tokens_per_micro_batch" in small.advice


def test_lines_for_a_reader(tmp_path: Path) -> None:
    lines = render_memory([MemoryEstimate("none", 10, 10, 2_000_000, 1_000_000, 0, 3_000_000, 4_000_000)])
    assert lines[1].split() == ["full", "10", "2", "1", "0", "3", "7"]


def test_images_are_refused(tmp_path: Path) -> None:
    values = {"task": "image-generation", "data": {"source": "builtin:digits"}, "model": {"vae": {}}}
    loaded = check_recipe(YamlText(name="r.yaml", values=values), [], base=tmp_path, name="r")
    with pytest.raises(RecipeError, match="memory is not estimated for image-generation"):
        estimate_memory(loaded, device="cpu")
