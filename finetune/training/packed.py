"""Sequences of tokens -> tensors, without a position or an attention leaking between sequences; their hidden states.

Whole sequences lie side by side in one row, each with positions from 0. `prepare_packing` finds out, on the model
itself, by which of three ways it can read them:

- "segments": one row without padding; attention runs once per sequence, so that nothing is computed and masked away.
  The fastest way that was measured on a CPU, and on a GPU one call of flash attention for sequences of any length;
- "positions": one row per block; transformers sees the positions restart and masks the rest, whatever the model's
  attention is (Mayank Mishra and others, "Packing with position_ids", transformers 4.44);
- "padding": one row per sequence, for models in which packed sequences touch (ALiBi, recurrent models).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, Protocol

import torch
from transformers import PreTrainedModel

from finetune.training.batches import cut_micro_batches, pad_windows
from finetune.training.segments import SEGMENTED, Segments

Attention = Literal["segments", "positions", "padding"]
IGNORED = -100  # is ignored by the loss: padding, prompts and the first token of a sequence must not teach
PROBE_LENGTHS = (7, 3, 12, 1, 5)
# Hidden states that differ by more than this share of the largest one have seen another sequence.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


class Learnable(Protocol):
    """ids (n,), and learn (n,): is the token a target of the loss? The first one never is."""

    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def learn(self) -> Sequence[bool]: ...


class Pair(Protocol):
    """source (s,) tokens that the encoder reads, and ids (n,) that the decoder is to write, its end token included."""

    @property
    def source(self) -> Sequence[int]: ...
    @property
    def ids(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Packed:
    """A micro-batch of a causal model, all tensors (b, t).

    targets: the next token where it is learnt, else -100. owner: the number of the sequence a token belongs to, -1 for
    padding. lengths: of the sequences in their order, where they lie in one row ("segments"), else empty.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    attention: Attention
    lengths: tuple[int, ...] = ()

    def to(self, device: torch.device) -> Packed:
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    @property
    def padded_tokens(self) -> int:
        return self.input_ids.numel()


_TENSORS = ("input_ids", "position_ids", "targets", "owner")


@dataclass(frozen=True)
class Seq2SeqBatch:
    """A micro-batch of an encoder-decoder: input_ids and attention_mask (b, s), the rest (b, t) as in `Packed`."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    decoder_input_ids: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor

    def to(self, device: torch.device) -> Seq2SeqBatch:
        return Seq2SeqBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    @property
    def padded_tokens(self) -> int:
        return self.input_ids.numel() + self.targets.numel()


Batch = Packed | Seq2SeqBatch


# ---- sequences -> tensors


def pack(sequences: Sequence[Learnable], bins: Sequence[Sequence[int]], *, pad_id: int, attention: Attention) -> Packed:
    """The sequences numbered in `bins`: one row for each bin, or with "segments" one row for all and no padding.

    With "padding" each sequence has a row of its own, and the bins are only an order.
    """
    rows = [list(numbers) for numbers in bins]
    if attention == "segments":
        rows = [[number for numbers in rows for number in numbers]]
    elif attention == "padding":
        rows = [[number] for numbers in rows for number in numbers]
    longest = max(sum(len(sequences[number].ids) for number in row) for row in rows)
    columns: dict[str, list[list[int]]] = {name: [] for name in _TENSORS}
    for row in rows:
        parts = [_columns(sequences[number], number) for number in row]
        padding = longest - sum(len(part["owner"]) for part in parts)
        # Padding is one more sequence, with positions of its own, so that no other attends to it.
        pads = {
            "input_ids": [pad_id] * padding,
            "position_ids": list(range(padding)),
            "targets": [IGNORED] * padding,
            "owner": [-1] * padding,
        }
        for name, values in columns.items():
            values.append([value for part in [*parts, pads] for value in part[name]])
    tensors = {name: torch.tensor(values, dtype=torch.long) for name, values in columns.items()}
    lengths = tuple(len(sequences[number].ids) for number in rows[0]) if attention == "segments" else ()
    return Packed(**tensors, attention=attention, lengths=lengths)


def padded(sequences: Sequence[Learnable], numbers: Sequence[int], *, pad_id: int) -> Packed:
    """One row for each of the sequences in `numbers`, padded on the right."""
    return pack(sequences, [numbers], pad_id=pad_id, attention="padding")


def _columns(sequence: Learnable, number: int) -> dict[str, list[int]]:
    ids, learn = list(sequence.ids), sequence.learn
    following = zip(ids[1:], learn[1:], strict=True)
    return {
        "input_ids": ids,
        "position_ids": list(range(len(ids))),
        "targets": [token if learnt else IGNORED for token, learnt in following] + [IGNORED],
        "owner": [number] * len(ids),
    }


def causal_batches(
    sequences: Sequence[Learnable],
    bins: Sequence[Sequence[int]] | None = None,
    *,
    attention: Attention,
    pad_id: int,
    budget_tokens: int,
    pass_cost_tokens: int,
) -> Iterator[Packed]:
    """Micro-batches of at most `budget_tokens` tokens, padding included, or of one bin; each sequence in exactly one.

    Without bins every sequence is one: side by side with "segments", else sorted by length and padded.
    """
    if attention == "positions" and bins is None:
        attention = "padding"
    blocks = [[number] for number in range(len(sequences))] if bins is None else bins
    if attention == "padding":
        blocks = [[number] for block in blocks for number in block]
    tokens = [sum(len(sequences[number].ids) for number in block) for block in blocks]
    if attention == "segments":
        groups = _neighbours(tokens, budget_tokens=budget_tokens)
    else:
        groups = cut_micro_batches(tokens, budget_tokens=budget_tokens, pass_cost_tokens=pass_cost_tokens)
    for group in groups:
        yield pack(sequences, [blocks[number] for number in group], pad_id=pad_id, attention=attention)


def _neighbours(tokens: Sequence[int], *, budget_tokens: int) -> list[list[int]]:
    groups: list[list[int]] = []
    filled = 0
    for number, size in enumerate(tokens):
        if not groups or filled + size > budget_tokens:
            groups.append([])
            filled = 0
        groups[-1].append(number)
        filled += size
    return groups


def seq2seq_batches(
    model: PreTrainedModel, pairs: Sequence[Pair], *, pad_id: int, budget_tokens: int, pass_cost_tokens: int
) -> Iterator[Seq2SeqBatch]:
    """Pairs sorted by their source and target tokens together, cut so that these, padding included, fit the budget."""
    sizes = [len(pair.source) + len(pair.ids) for pair in pairs]
    for group in cut_micro_batches(sizes, budget_tokens=budget_tokens, pass_cost_tokens=pass_cost_tokens):
        yield paired(model, pairs, group, pad_id=pad_id)


def paired(model: PreTrainedModel, pairs: Sequence[Pair], numbers: Sequence[int], *, pad_id: int) -> Seq2SeqBatch:
    """The pairs in `numbers`, padded; the decoder reads the targets as the model's own method shifts them."""
    sources = pad_windows([pairs[number].source for number in numbers], pad_id=pad_id)
    targets = pad_windows([pairs[number].ids for number in numbers], pad_id=IGNORED)
    network: Any = without_adapter(model)
    rows = torch.tensor(numbers, dtype=torch.long)[:, None]
    return Seq2SeqBatch(
        **sources,
        decoder_input_ids=network.prepare_decoder_input_ids_from_labels(labels=targets["input_ids"]),
        targets=targets["input_ids"],
        owner=torch.where(targets["attention_mask"] == 1, rows, -1),
    )


# ---- tensors -> hidden states


def forward_hidden(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The last hidden states (b, t, d), the ones the output head reads (of the decoder, where there is one)."""
    network: Any = without_adapter(model)
    inputs = model_inputs(batch)
    if isinstance(batch, Packed):
        hidden: torch.Tensor = network.base_model(**inputs)[0]
        return hidden
    mask = inputs["attention_mask"]
    encoded = network.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask)[0]
    decoded: torch.Tensor = network.get_decoder()(
        input_ids=inputs["decoder_input_ids"],
        encoder_hidden_states=encoded,
        encoder_attention_mask=mask,
        use_cache=False,
    )[0]
    return decoded


def model_inputs(batch: Batch) -> dict[str, Any]:
    """What the model's own forward takes for this batch."""
    if isinstance(batch, Seq2SeqBatch):
        names = ("input_ids", "attention_mask", "decoder_input_ids")
        return {"use_cache": False, **{name: getattr(batch, name) for name in names}}
    inputs = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.attention == "padding":
        return {**inputs, "attention_mask": (batch.owner >= 0).long()}
    inputs["position_ids"] = batch.position_ids
    if batch.attention == "positions":
        return inputs
    device = batch.input_ids.device
    bounds = torch.tensor([0, *accumulate(batch.lengths)], dtype=torch.int32, device=device)
    # A mask of four dimensions is handed through as it is, so none of all tokens by all tokens is made.
    unread = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    return {**inputs, "attention_mask": unread, "segments": Segments([*batch.lengths], bounds, max(batch.lengths))}


def without_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model under peft's wrapper; the adapter stays inside its layers."""
    wrapper: Any = model
    inner: PreTrainedModel = wrapper.get_base_model() if hasattr(wrapper, "get_base_model") else model
    return inner


# ---- which way a model can take


@dataclass(frozen=True)
class Probe:
    """Random tokens by which a model is tried, before it reads the user's."""

    ids: list[int]
    learn: list[bool]
    source: list[int]

    @classmethod
    def random(cls, network: PreTrainedModel, length: int) -> Probe:
        vocabulary = network.config.get_text_config(decoder=True).vocab_size
        draw = torch.Generator().manual_seed(length)
        ids, source = torch.randint(vocabulary, (2, length), generator=draw).tolist()
        return cls(ids, [True] * length, source)


def prepare_packing(model: PreTrainedModel) -> tuple[Attention, str]:
    """The fastest way this model reads packed sequences rightly, and, where it reads none, the reason.

    With "segments" the model keeps our attention, which outside packed batches is transformers' own; it is not saved.
    """
    network = without_adapter(model)
    own = network.config._attn_implementation
    if own in ("sdpa", SEGMENTED):
        network.set_attn_implementation(SEGMENTED)
        if packing_fault(model, "segments") is None:
            return "segments", ""
        network.set_attn_implementation("sdpa")
    fault = packing_fault(model, "positions")
    return ("positions", "") if fault is None else ("padding", fault)


@torch.no_grad()
def packed_difference(model: PreTrainedModel, attention: Attention) -> float:
    """How far hidden states of packed random sequences lie from those of each alone, as a share of the largest."""
    network = without_adapter(model)
    probe = [Probe.random(network, length) for length in PROBE_LENGTHS]
    was_training = network.training
    network.train(False)
    try:
        batch = pack(probe, [range(len(probe))], pad_id=0, attention=attention).to(network.device)
        packed = forward_hidden(network, batch)[0].float()
        alone = [
            forward_hidden(network, padded(probe, [number], pad_id=0).to(network.device))[0].float()
            for number in range(len(probe))
        ]
    finally:
        network.train(was_training)
    apart = torch.cat(alone)
    return float((packed - apart).abs().max() / apart.abs().max())


def packing_fault(model: PreTrainedModel, attention: Attention = "positions") -> str | None:
    """Why packed sequences would not be read as if each were alone; None where they are."""
    network = without_adapter(model)
    name = type(network).__name__
    if network.config.is_encoder_decoder:
        return f"{name} is an encoder-decoder: its pairs are padded"
    try:
        difference = packed_difference(network, attention)
    except Exception as error:  # whatever a model's code does with inputs that it was not written for
        return f"{name} cannot read packed sequences ({type(error).__name__}: {str(error).splitlines()[0]})"
    if difference <= TOLERANCE[network.dtype]:
        return None
    return f"in {name} packed sequences touch each other: hidden states differ by {difference:.1%}"
