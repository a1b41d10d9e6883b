"""Packed sequences are read as if each were alone; where a model cannot, that is found out and said."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_shapes import VOCABULARY, tiny_shape
from torch.nn.functional import cross_entropy

from finetune.training import segments
from finetune.training.packed import (
    IGNORED,
    Attention,
    causal_batches,
    forward_hidden,
    pack,
    packing_fault,
    padded,
    paired,
    prepare_packing,
    seq2seq_batches,
)
from finetune.training.segments import SEGMENTED, Segments, attend_segments
from finetune.training.token_losses import find_head, token_losses

ATTENTIONS: tuple[Attention, ...] = ("segments", "positions", "padding")


@dataclass(frozen=True)
class Tokens:
    ids: list[int]
    learn: list[bool]
    source: list[int] = field(default_factory=list)


def some(*lengths: int, seed: int = 0) -> list[Tokens]:
    draw = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()

    return [
        Tokens(ids(length), [number % 3 != 1 for number in range(length)], ids(length % 7 + 1)) for length in lengths
    ]


def alone(model: torch.nn.Module, sequence: Tokens) -> torch.Tensor:
    """The summed loss of one sequence by transformers' own labels and torch's cross entropy."""
    ids = torch.tensor([sequence.ids])
    logits = model(input_ids=ids).logits[0, :-1]
    targets = torch.tensor([t if learn else -100 for t, learn in zip(sequence.ids, sequence.learn, strict=True)][1:])
    return cross_entropy(logits, targets, reduction="sum", ignore_index=-100)


@pytest.mark.parametrize("attention", ["segments", "positions"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "qwen3", "mistral"])
def test_packed_loss_and_gradients_equal_those_of_sequences_alone(name: str, attention: Attention) -> None:
    model = tiny_shape(name)
    if attention == "segments":
        assert prepare_packing(model) == ("segments", "")
    sequences = some(9, 2, 14, 5, 7)
    model.train()
    sum(alone(model, sequence) for sequence in sequences).backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    batch = pack(sequences, [[2, 1], [0, 4], [3]], pad_id=0, attention=attention)
    losses = token_losses(model, batch, head=find_head(model))
    losses.sum().backward()
    with torch.no_grad():
        assert float(losses.detach().sum()) == pytest.approx(
            sum(float(alone(model, s).detach()) for s in sequences), rel=1e-5
        )
    for weight, parameter in model.named_parameters():
        assert parameter.grad is not None
        scale = max(1.0, float(expected[weight].abs().max()))
        torch.testing.assert_close(parameter.grad / scale, expected[weight] / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_recomputing_layers_in_the_backward_pass_keeps_sequences_apart(name: str) -> None:
    model = tiny_shape(name).train()
    prepare_packing(model)
    batch = pack(some(9, 2, 14), [[2, 1, 0]], pad_id=0, attention="segments")
    token_losses(model, batch, head=find_head(model)).sum().backward()
    expected = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    token_losses(model, batch, head=find_head(model)).sum().backward()
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_a_token_of_one_sequence_changes_nothing_in_another() -> None:
    model = tiny_shape("llama")
    prepare_packing(model)
    first, second = some(6, 8), some(6, 8)
    second[0].ids[:] = [7] * 6
    hidden = [forward_hidden(model, pack(s, [[0, 1]], pad_id=0, attention="segments"))[0] for s in (first, second)]
    assert not torch.equal(hidden[0][:6], hidden[1][:6])
    assert torch.equal(hidden[0][6:], hidden[1][6:])


@pytest.mark.parametrize(
    ("name", "attention"),
    [("gpt2", "segments"), ("opt", "segments"), ("gemma2", "positions"), ("bloom", "padding"), ("mamba", "padding"),
     ("falcon", "padding"), ("t5", "padding")],
)  # fmt: skip
def test_the_way_is_found_on_the_model_itself(name: str, attention: Attention) -> None:
    model = tiny_shape(name)
    own = model.config._attn_implementation
    model.train()
    found, reason = prepare_packing(model)
    assert found == attention
    assert model.training
    assert bool(reason) == (attention == "padding")
    assert model.config._attn_implementation == (SEGMENTED if attention == "segments" else own)
    assert prepare_packing(model) == (found, reason)


def test_the_reason_says_what_touches() -> None:
    assert "MambaForCausalLM" in (packing_fault(tiny_shape("mamba")) or "")
    assert "touch each other" in (packing_fault(tiny_shape("bloom")) or "")
    assert "encoder-decoder" in (packing_fault(tiny_shape("bart")) or "")
    assert packing_fault(tiny_shape("gpt2")) is None
    # OPT counts positions from its mask, so that restarting them is not enough.
    assert packing_fault(tiny_shape("opt"), "positions") is not None


def test_our_attention_is_not_saved_with_the_model(tmp_path) -> None:
    model = tiny_shape("llama")
    prepare_packing(model)
    model.save_pretrained(tmp_path)
    assert SEGMENTED not in (tmp_path / "config.json").read_text(encoding="utf-8")


def test_outside_packed_batches_a_prepared_model_is_as_it_was() -> None:
    model = tiny_shape("llama")
    ids = torch.tensor([[3, 4, 5, 6], [0, 0, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    before = model(input_ids=ids, attention_mask=mask).logits
    prepare_packing(model)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, before)


def test_a_packed_row_has_no_padding_and_positions_that_restart() -> None:
    sequences = some(4, 2, 3)
    flat = pack(sequences, [[1], [2, 0]], pad_id=0, attention="segments")
    assert flat.input_ids.tolist() == [sequences[1].ids + sequences[2].ids + sequences[0].ids]
    assert flat.position_ids.tolist() == [[0, 1, 0, 1, 2, 0, 1, 2, 3]]
    assert flat.lengths == (2, 3, 4)
    rows = pack(sequences, [[1], [2, 0]], pad_id=1, attention="positions")
    assert rows.input_ids.shape == (2, 7)
    assert rows.position_ids[0].tolist() == [0, 1, 0, 1, 2, 3, 4]
    assert rows.owner[0].tolist() == [1, 1, -1, -1, -1, -1, -1]
    assert rows.targets[0].tolist() == [IGNORED] * 7  # of two tokens the second is not learnt, the first never
    assert rows.targets[1, :3].tolist() == [IGNORED, sequences[2].ids[2], IGNORED]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    budget=st.integers(1, 90),
    attention=st.sampled_from(ATTENTIONS),
    binned=st.booleans(),
)
def test_micro_batches_hold_every_sequence_once(
    lengths: list[int], budget: int, attention: Attention, binned: bool
) -> None:
    sequences = some(*lengths)
    bins = [list(range(start, min(start + 3, len(lengths)))) for start in range(0, len(lengths), 3)]
    batches = list(
        causal_batches(
            sequences, bins if binned else None, attention=attention, pad_id=0, budget_tokens=budget, pass_cost_tokens=4
        )
    )
    found: dict[int, list[int]] = {}
    for batch in batches:
        for number in batch.owner.unique().tolist():
            if number >= 0:
                assert number not in found
                found[number] = batch.input_ids[batch.owner == number].tolist()
        together = sum(len(sequences[number].ids) for number in batch.owner.unique().tolist() if number >= 0)
        longest = max(sum(lengths[number] for number in numbers) for numbers in bins) if binned else max(lengths)
        assert batch.padded_tokens <= max(budget, longest)
        assert batch.padded_tokens >= together
        assert batch.attention != "segments" or batch.padded_tokens == together
    assert found == {number: sequence.ids for number, sequence in enumerate(sequences)}


def test_padded_sequences_of_a_model_that_cannot_be_packed_lose_what_each_loses_alone() -> None:
    model = tiny_shape("bloom")
    sequences = some(9, 2, 14)
    losses = token_losses(model, padded(sequences, range(3), pad_id=3), head=find_head(model))
    assert float(losses.detach().sum()) == pytest.approx(
        sum(float(alone(model, s).detach()) for s in sequences), rel=1e-5
    )


@pytest.mark.parametrize("name", ["t5", "t5-untied", "bart", "marian"])
def test_pairs_lose_what_the_model_itself_says_they_lose(name: str) -> None:
    model = tiny_shape(name)
    pairs = some(3, 9, 5)
    expected = {}
    for number, pair in enumerate(pairs):
        own = model(input_ids=torch.tensor([pair.source]), labels=torch.tensor([pair.ids]))
        expected[number] = float(own.loss.detach()) * len(pair.ids)
    found = dict.fromkeys(range(3), 0.0)
    for batch in seq2seq_batches(model, pairs, pad_id=1, budget_tokens=40, pass_cost_tokens=1):
        losses = token_losses(model, batch, head=find_head(model))
        for number, loss in zip(batch.owner[batch.targets != IGNORED].tolist(), losses.tolist(), strict=True):
            found[number] += loss
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_decoder_reads_the_targets_as_the_model_shifts_them() -> None:
    model = tiny_shape("t5")
    batch = paired(model, some(3, 2), [0, 1], pad_id=0)
    assert batch.decoder_input_ids[1].tolist() == [0, int(batch.targets[1, 0]), int(batch.targets[1, 1])]
    assert batch.targets[1, 2] == IGNORED


def test_on_a_gpu_all_sequences_go_to_one_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel is not here; this holds that it is called as it is documented, beside the same on the CPU.
    def varlen(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
        bounds = cu_q.tolist()
        assert bounds == cu_k.tolist() and cu_q.dtype == torch.int32
        assert enable_gqa and window_size[1] == 0 and max_q == max_k == 9
        window = None if window_size[0] == -1 else window_size[0] + 1
        outputs = []
        for start, end in pairwise(bounds):
            q, k, v = (states[start:end].transpose(0, 1).float() for states in (query, key, value))
            k, v = k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)
            seen = torch.ones(end - start, end - start).tril()
            if window is not None:
                seen = seen.triu(1 - window)
            scores = (q @ k.transpose(1, 2) * scale).masked_fill(seen == 0, -torch.inf)
            outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
        return torch.cat(outputs)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    draw = torch.Generator().manual_seed(1)
    query = torch.randn(1, 4, 16, 8, generator=draw)
    key, value = torch.randn(2, 1, 2, 16, 8, generator=draw)
    told = Segments([5, 9, 2], torch.tensor([0, 5, 14, 16], dtype=torch.int32), 9)
    for window in (None, 3):
        ours, _ = attend_segments(
            torch.nn.Module(), query, key, value, None, scaling=0.3, segments=told, sliding_window=window
        )
        flash = segments._attend_flash(query, key, value, told, scaling=0.3, window=window)
        torch.testing.assert_close(flash, ours)


def test_attention_of_another_kind_is_refused() -> None:
    states = torch.zeros(1, 1, 2, 4)
    told = Segments([2], torch.tensor([0, 2], dtype=torch.int32), 2)
    with pytest.raises(ValueError, match="softcap"):
        attend_segments(torch.nn.Module(), states, states, states, None, segments=told, softcap=5.0)
