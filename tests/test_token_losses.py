"""Chunked losses are torch's; memory does not hold logits of all tokens; heads of every kind are understood or left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_packed import some
from tiny_shapes import CONFIGS, VOCABULARY, tiny_shape
from torch.nn.functional import cross_entropy

from finetune.training import token_losses as module
from finetune.training.packed import causal_batches, padded, prepare_packing, seq2seq_batches
from finetune.training.token_losses import (
    OutputHead,
    evaluate_nats,
    find_head,
    learnt_losses,
    losses_as_forward,
    token_losses,
)


def problem(kind: str = "capped", *, tokens: int = 37, wide: int = 16) -> tuple[OutputHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    matrix = torch.nn.Linear(wide, VOCABULARY, bias=False)
    head = {
        "capped": OutputHead(torch.nn.Linear(wide, VOCABULARY), scale_in=0.5, scale_out=2.0, softcap=3.0),
        "biased": OutputHead(matrix, bias=torch.randn(1, VOCABULARY)),
        "scaled": OutputHead(matrix, scale_in=0.5, scale_out=3.0),
        "plain": OutputHead(matrix),
    }[kind]
    hidden = torch.randn(tokens, wide, requires_grad=True)
    assert head.is_plain(hidden) == (kind in ("scaled", "plain"))
    return head, hidden, torch.randint(VOCABULARY, (tokens,))


@pytest.mark.parametrize("kind", ["capped", "biased", "scaled", "plain"])
@pytest.mark.parametrize("chunk_tokens", [1, 5, 37, 1000, None])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighing", ["mean", "by token"])
def test_chunked_losses_and_gradients_are_those_of_whole_logits(
    kind: str, chunk_tokens: int | None, smoothing: float, weighing: str
) -> None:
    head, hidden, targets = problem(kind)
    weights = torch.linspace(0, 1, len(targets)) if weighing == "by token" else torch.full((len(targets),), 1 / 37)
    wanted = [hidden, *head.learnt]
    whole = cross_entropy(head(hidden), targets, reduction="none", label_smoothing=smoothing)
    expected = torch.autograd.grad((whole * weights).sum(), wanted)
    losses = learnt_losses(head, hidden, targets, chunk_tokens=chunk_tokens, label_smoothing=smoothing)
    torch.testing.assert_close(losses, whole, rtol=0, atol=1e-6)
    found = torch.autograd.grad((losses * weights).sum(), wanted)
    for ours, torchs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-6)
    with torch.no_grad():
        again = learnt_losses(head, hidden, targets, chunk_tokens=chunk_tokens, label_smoothing=smoothing)
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["capped", "plain"])
def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_do(kind: str) -> None:
    head, hidden, targets = problem(kind)
    head.layer.requires_grad_(False)
    learnt_losses(head, hidden, targets, chunk_tokens=8).sum().backward()
    assert hidden.grad is not None and bool(hidden.grad.abs().sum() > 0)
    assert all(weight.grad is None for weight in head.layer.parameters())


def test_never_more_logits_at_a_time_than_a_chunk_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEWEST_TOKENS_AT_A_TIME", 4)
    monkeypatch.setattr(module, "LOGITS_AT_A_TIME", {"cpu": 6 * VOCABULARY, "cuda": 6 * VOCABULARY})
    head, hidden, targets = problem()
    seen: list[int] = []
    head.layer.register_forward_hook(lambda _, __, logits: seen.append(len(logits)))
    learnt_losses(head, hidden, targets).sum().backward()
    assert max(seen) == 8  # 37 tokens in five chunks of at least 7
    assert sum(seen) == 37 + 1  # one more to learn how wide they are


def test_a_plain_head_uses_the_same_memory_for_every_chunk_and_batch() -> None:
    head, hidden, targets = problem("plain")
    losses = [learnt_losses(head, hidden, targets, chunk_tokens=5).detach() for _ in range(2)]
    assert len(head.rooms[0]) == 6 * VOCABULARY  # 37 tokens in seven chunks
    place = head.rooms[0].data_ptr()
    losses.append(learnt_losses(head, hidden[:6], targets[:6], chunk_tokens=5).detach())
    assert place == head.rooms[0].data_ptr()
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0][:6], losses[2])


def test_very_wide_logits_do_not_overflow() -> None:
    head, hidden, targets = problem("plain")
    with torch.no_grad():
        head.layer.weight.mul_(1e4)
    whole = cross_entropy(head(hidden), targets, reduction="none")
    torch.testing.assert_close(learnt_losses(head, hidden, targets, chunk_tokens=8), whole)


def test_nothing_learnt_is_no_loss_and_keeps_the_graph() -> None:
    head, hidden, targets = problem()
    losses = learnt_losses(head, hidden[:0], targets[:0])
    assert losses.shape == (0,)
    losses.sum().backward()
    assert hidden.grad is not None and not bool(hidden.grad.any())


def test_under_bf16_autocast_losses_are_float32_and_every_weight_learns() -> None:
    model = tiny_shape("qwen2")
    batch = padded(some(9, 5, 12), range(3), pad_id=0)
    head = find_head(model)
    exact = token_losses(model, batch, head=head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = token_losses(model, batch, head=head, chunk_tokens=4)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, exact, rtol=0.1, atol=0.3)
    losses.mean().backward()
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in model.parameters())


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_head_is_understood(name: str) -> None:
    assert find_head(tiny_shape(name)) is not None


def test_a_head_that_is_not_understood_is_left_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_shape("gpt2")
    batch = padded(some(9, 5), range(2), pad_id=0)
    expected = token_losses(model, batch, head=find_head(model))
    cls = type(model)
    own = cls.forward

    def another(self, *arguments, **named):  # type: ignore[no-untyped-def]
        output = own(self, *arguments, **named)
        output.logits = output.logits * 3
        return output

    monkeypatch.setattr(cls, "forward", another)
    assert find_head(model) is None
    with losses_as_forward(model, lambda batch: token_losses(model, batch, head=None)):
        tripled = model(batch)
    assert tripled.shape == expected.shape
    assert not torch.allclose(tripled, expected)
    monkeypatch.setattr(cls, "forward", own)
    torch.testing.assert_close(token_losses(model, batch, head=None), expected)


def test_an_adapter_learns_and_the_model_below_does_not() -> None:
    model = get_peft_model(tiny_shape("llama"), LoraConfig(target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"))
    attention, _ = prepare_packing(model)
    assert attention == "segments"
    batch = next(causal_batches(some(9, 5), attention=attention, pad_id=0, budget_tokens=99, pass_cost_tokens=1))
    head = find_head(model)
    assert head is not None
    token_losses(model, batch, head=head).sum().backward()
    learnt = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert learnt and all("lora_" in name for name in learnt)
    assert any("lm_head" in name for name in learnt)


def test_within_losses_as_forward_a_wrapper_hands_the_batch_on() -> None:
    model = tiny_shape("gpt2")
    batch = padded(some(9, 5), range(2), pad_id=0)
    head = find_head(model)
    expected = token_losses(model, batch, head=head)
    wrapper = torch.nn.Sequential(model)
    with pytest.raises(ZeroDivisionError), losses_as_forward(model, lambda b: token_losses(model, b, head=head)):
        torch.testing.assert_close(wrapper(batch), expected)
        raise ZeroDivisionError
    assert "forward" not in vars(model)
    assert model(input_ids=batch.input_ids).logits.shape == (2, 9, VOCABULARY)


@pytest.mark.parametrize("name", ["gpt2", "bloom", "t5"])
def test_nats_of_each_example_are_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXAMPLES_AT_A_TIME", 4)
    model = tiny_shape(name).train()
    attention, _ = prepare_packing(model)
    examples = some(9, 5, 12, 1, 2, 20, 8, 8, 3)

    def batches(part):  # type: ignore[no-untyped-def]
        if name == "t5":
            return seq2seq_batches(model, part, pad_id=0, budget_tokens=40, pass_cost_tokens=2)
        return causal_batches(part, attention=attention, pad_id=0, budget_tokens=24, pass_cost_tokens=2)

    heard: list[int] = []
    head = find_head(model)
    nats, tokens = evaluate_nats(model, examples, batches, head=head, on_documents=heard.append)
    assert heard == [4, 4, 1]
    assert model.training
    model.train(False)
    for number, example in enumerate(examples):
        with torch.no_grad():
            own = [float(token_losses(model, b, head=head).double().sum()) for b in batches([example])]
        assert nats[number] == pytest.approx(sum(own), rel=1e-5, abs=1e-6)
        assert tokens[number] == (len(example.ids) if name == "t5" else sum(example.learn[1:]))
    assert np.isfinite(nats).all()
