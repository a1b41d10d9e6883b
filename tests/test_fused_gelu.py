"""The fused GELU is the same function, and a model that has it saves and loads as before."""

from __future__ import annotations

import pytest
import torch
from tiny_shapes import tiny_shape
from transformers import AutoModelForCausalLM

from finetune.training.fused_gelu import fuse_gelu


@pytest.mark.parametrize(("name", "places"), [("gpt2", 2), ("t5", 4), ("llama", 0), ("bart", 0)])
def test_logits_and_gradients_stay(name: str, places: int) -> None:
    model = tiny_shape(name)
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    inputs = {"input_ids": ids, "labels": ids}
    before = model(**inputs)
    before.loss.backward()
    expected = [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    assert fuse_gelu(model) == places
    assert fuse_gelu(model) == 0
    after = model(**inputs)
    after.loss.backward()
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-5, atol=1e-5)
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5)


def test_it_is_not_saved(tmp_path) -> None:
    model = tiny_shape("gpt2")
    fuse_gelu(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).train(False)
    assert again.config.activation_function == "gelu_new"
    assert fuse_gelu(again) == 2
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
