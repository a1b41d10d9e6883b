"""Nats per learnt token, without ever holding logits of all tokens by the whole vocabulary.

Only hidden states of learnt tokens reach the output head, some at a time. While gradients are wanted, each chunk's
are taken at once and its logits dropped, as Liger Kernel does (Hsu and others 2024, arXiv 2410.10989): the head then
costs three matrix products, as it does whole; recomputing logits in the backward pass costs four. Forward and backward
of 50,257 x 256 and 1,024 tokens took one CPU thread 1.02 s for a plain matrix, 1.57 s for a head of another kind, whole
1.32 s, recomputed 1.65 s (medians of five).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from finetune.training.batches import of_device
from finetune.training.packed import (
    IGNORED,
    TOLERANCE,
    Batch,
    Probe,
    forward_hidden,
    model_inputs,
    padded,
    paired,
    without_adapter,
)

# Logits at a time, at least: 32 MiB as float32. What is larger glibc's malloc gives back to the system at once; smaller
# pieces would leave holes in the heap, which then grows with every batch. Fewer than so many tokens make the matrix
# products slow: the weight's gradient is added up once a chunk.
LOGITS_AT_A_TIME = {"cpu": 2**23, "cuda": 2**27}
FEWEST_TOKENS_AT_A_TIME = 128
EXAMPLES_AT_A_TIME = 512
Example = TypeVar("Example")


@dataclass(frozen=True)
class OutputHead:
    """What a model does between its last hidden states and its logits, as `find_head` proved it on the model.

    logits = softcap(layer(hidden * scale_in) * scale_out + bias), each part where the model has it.
    """

    layer: torch.nn.Module
    scale_in: float = 1.0
    scale_out: float = 1.0
    softcap: float | None = None
    bias: torch.Tensor | None = None
    rooms: list[torch.Tensor] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, d) -> logits (n, vocabulary), float32."""
        logits: torch.Tensor = self.layer(hidden if self.scale_in == 1 else hidden * self.scale_in)
        if self.scale_out != 1:
            logits = logits * self.scale_out
        if self.bias is not None:
            logits = logits + self.bias
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits.float()

    @property
    def learnt(self) -> list[torch.nn.Parameter]:
        return [weight for weight in self.layer.parameters() if weight.requires_grad]

    def is_plain(self, hidden: torch.Tensor) -> bool:
        """A matrix and scales in float32, so that nothing stands between its product and the cross entropy."""
        return (
            type(self.layer) is torch.nn.Linear
            and self.layer.bias is None
            and self.bias is None
            and self.softcap is None
            and not self.layer._forward_hooks
            and self.layer.weight.dtype == hidden.dtype == torch.float32
            and not torch.is_autocast_enabled(hidden.device.type)
        )

    def room(self, tokens: int, weight: torch.Tensor) -> torch.Tensor:
        """Memory for logits (tokens, vocabulary), float32, the same again and again: new pages cost a CPU a quarter."""
        size = tokens * len(weight)
        if self.rooms and (len(self.rooms[0]) < size or self.rooms[0].device != weight.device):
            self.rooms.clear()
        if not self.rooms:
            self.rooms.append(torch.empty(size, dtype=torch.float32, device=weight.device))
        return self.rooms[0][:size].view(tokens, len(weight))


Told = tuple[OutputHead, int, float]  # the head, tokens a chunk, label smoothing


# ---- losses of one micro-batch


def token_losses(
    model: PreTrainedModel,
    batch: Batch,
    *,
    head: OutputHead | None,
    label_smoothing: float = 0.0,
    chunk_tokens: int | None = None,
) -> torch.Tensor:
    """Nats of each learnt token of the batch (n,), float32, in the order of its rows.

    Without a head, for a model whose head is not understood, the model's own logits of the whole batch are used.
    """
    chosen = batch.targets != IGNORED
    targets = batch.targets[chosen]
    if head is not None:
        hidden = forward_hidden(model, batch)[chosen]
        return learnt_losses(head, hidden, targets, chunk_tokens=chunk_tokens, label_smoothing=label_smoothing)
    network = without_adapter(model)
    # The class's own forward: within `losses_as_forward` the model's is this function.
    logits = type(network).forward(network, **model_inputs(batch)).logits[chosen].float()
    return cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)


def learnt_losses(
    head: OutputHead,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    *,
    chunk_tokens: int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The head's cross entropy (n,) of hidden states (n, d) and targets (n,): torch's, chunk by chunk, in float32.

    Chunks have from `chunk_tokens` to twice as many tokens.
    """
    if not len(targets):
        return hidden.sum(dim=-1).float()  # (0,), and still a part of the graph
    chunk_tokens = chunk_tokens or _chunk_tokens(head, hidden)
    told = (head, chunk_tokens, label_smoothing)
    if torch.is_grad_enabled():
        learnt: torch.Tensor = _ChunkedCrossEntropy.apply(hidden, targets, told, *head.learnt)  # type: ignore[no-untyped-call]
        return learnt
    return _reduced(hidden, targets, told, gradients=False, upstream=None)[0]


def _chunk_tokens(head: OutputHead, hidden: torch.Tensor) -> int:
    with torch.no_grad():
        vocabulary = head(hidden[:1]).shape[-1]
    return max(FEWEST_TOKENS_AT_A_TIME, of_device(LOGITS_AT_A_TIME, hidden.device) // vocabulary + 1)


def _parts(tokens: int, chunk_tokens: int) -> list[slice]:
    parts = max(1, tokens // chunk_tokens)
    bounds = [tokens * part // parts for part in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(bounds)]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Losses (n,), and in the same pass the gradients of their sum, for hidden states and the head's weights."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, told: Told, *weights: torch.nn.Parameter
    ) -> torch.Tensor:
        ctx.told = told
        losses, gradients = _reduced(hidden, targets, told, gradients=True, upstream=None)
        ctx.save_for_backward(hidden, targets, *gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[Any, ...]:
        hidden, targets, *gradients = ctx.saved_tensors
        if bool((upstream == upstream[0]).all()):  # a sum or a mean: the gradients are known up to that factor
            scaled = [gradient * upstream[0].to(gradient.dtype) for gradient in gradients]
        else:  # tokens of different weights: once more, with them
            scaled = _reduced(hidden, targets, ctx.told, gradients=True, upstream=upstream)[1]
        return scaled[0], None, None, *scaled[1:]


def _reduced(
    hidden: torch.Tensor, targets: torch.Tensor, told: Told, *, gradients: bool, upstream: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Losses (n,); the gradients of their sum, weighted by `upstream` (n,): of hidden (n, d), of each learnt weight."""
    head, chunk_tokens, _ = told
    losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    sums = [torch.zeros_like(of) for of in (hidden, *head.learnt)] if gradients else []
    reduce = _reduce_in_place if head.is_plain(hidden) else _reduce_by_autograd
    for part in _parts(len(targets), chunk_tokens):
        factors = None if upstream is None else upstream[part]
        into = [sums[0][part], *sums[1:]] if gradients else []
        losses[part] = reduce(hidden[part], targets[part], told, factors, into)
    return losses, sums


def _reduce_by_autograd(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    told: Told,
    factors: torch.Tensor | None,
    into: list[torch.Tensor],
) -> torch.Tensor:
    """Losses of one chunk, for a head of any kind; its gradients are added to `into`, where that is not empty."""
    head, _, label_smoothing = told
    with torch.set_grad_enabled(bool(into)):
        states = hidden.detach().requires_grad_(bool(into))
        losses = cross_entropy(head(states), targets, reduction="none", label_smoothing=label_smoothing)
    if into:
        ones = torch.ones_like(losses) if factors is None else factors
        for whole, gradient in zip(into, torch.autograd.grad(losses, [states, *head.learnt], ones), strict=True):
            whole.add_(gradient)
    return losses.detach()


def _reduce_in_place(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    told: Told,
    factors: torch.Tensor | None,
    into: list[torch.Tensor],
) -> torch.Tensor:
    """The same for a plain matrix: logits become probabilities, then gradients, in one piece of memory.

    d loss / d logit = p - (1 - smoothing) [is the target] - smoothing / vocabulary.
    """
    head, _, label_smoothing = told
    weight = head.layer.weight.detach()  # type: ignore[operator]
    states = hidden.detach() * head.scale_in
    logits = torch.mm(states, weight.T, out=head.room(len(states), weight))
    if head.scale_out != 1:
        logits.mul_(head.scale_out)
    wanted = logits.gather(1, targets[:, None])[:, 0] * (1 - label_smoothing)
    if label_smoothing:
        wanted += logits.mean(1) * label_smoothing
    highest = logits.amax(1)
    total = logits.sub_(highest[:, None]).exp_().sum(1)
    losses = total.log() + highest - wanted
    if into:
        logits.div_(total[:, None]).sub_(label_smoothing / logits.shape[1])
        logits[torch.arange(len(targets), device=logits.device), targets] -= 1 - label_smoothing
        scale = head.scale_out if factors is None else head.scale_out * factors[:, None]
        if factors is not None or head.scale_out != 1:
            logits.mul_(scale)
        into[0].addmm_(logits, weight, alpha=head.scale_in)
        if len(into) > 1:
            into[1].addmm_(logits.T, states)
    return losses


@contextmanager
def losses_as_forward(model: PreTrainedModel, losses: Callable[[Batch], torch.Tensor]) -> Iterator[None]:
    """Within, calling `model` on a batch gives `losses(batch)`.

    A wrapper around the model, such as DistributedDataParallel, exchanges gradients only of what goes through its own
    forward; so call the wrapper.
    """
    own = vars(model).get("forward")
    model.forward = losses
    try:
        yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own


# ---- losses of many examples


@torch.no_grad()
def evaluate_nats(
    model: PreTrainedModel,
    examples: Sequence[Example],
    batches: Callable[[Sequence[Example]], Iterable[Batch]],
    *,
    head: OutputHead | None,
    on_documents: Callable[[int], None] = lambda count: None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The nats of each example's learnt tokens together (examples,), and how many these are (examples,).

    `batches` cuts some examples into micro-batches (`causal_batches`, `seq2seq_batches`). Examples are read some at a
    time and logits reduced by chunks, so memory grows neither with the examples nor with vocabulary times length.
    `on_documents` hears how many examples each part had, and may raise.
    """
    was_training = model.training
    model.train(False)
    nats, tokens = np.zeros(len(examples)), np.zeros(len(examples), dtype=np.int64)
    try:
        for start in range(0, len(examples), EXAMPLES_AT_A_TIME):
            some = [examples[number] for number in range(start, min(start + EXAMPLES_AT_A_TIME, len(examples)))]
            for batch in batches(some):
                owner = start + batch.owner[batch.targets != IGNORED].numpy()
                losses = token_losses(model, batch.to(model.device), head=head).double().cpu().numpy()
                np.add.at(nats, owner, losses)
                np.add.at(tokens, owner, 1)
            on_documents(len(some))
    finally:
        model.train(was_training)
    return nats, tokens


# ---- which head a model has


@torch.no_grad()
def find_head(model: PreTrainedModel) -> OutputHead | None:
    """The model's output head, where it gives the model's own logits on a probe; else None: use the model's own."""
    network = without_adapter(model)
    was_training = network.training
    network.train(False)
    try:
        head = _supposed_head(network)
        batch = _probe(network)
        own = network(**model_inputs(batch)).logits.float()
        ours = head(forward_hidden(network, batch))
    except Exception:  # whatever a model of another build raises: its own logits always work
        return None
    finally:
        network.train(was_training)
    alike = own.shape == ours.shape and bool((own - ours).abs().max() <= TOLERANCE[network.dtype] * own.abs().max())
    return head if alike else None


def _supposed_head(network: PreTrainedModel) -> OutputHead:
    config: Any = network.config.get_text_config(decoder=True)
    layer: torch.nn.Module | None = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    if layer is None:
        raise ValueError("no output embeddings")
    multiplied = getattr(config, "logit_scale", None) or 1.0  # Cohere
    divided = getattr(config, "logits_scaling", None) or 1.0  # Granite
    return OutputHead(
        layer,
        scale_in=config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0,  # T5, tied
        scale_out=multiplied / divided,
        softcap=getattr(config, "final_logit_softcapping", None),  # Gemma
        bias=getattr(network, "final_logits_bias", None),  # BART and its family
    )


def _probe(network: PreTrainedModel) -> Batch:
    probe = [Probe.random(network, length) for length in (6, 4)]
    batch: Batch = (
        paired(network, probe, range(2), pad_id=0)
        if network.config.is_encoder_decoder
        else padded(probe, range(2), pad_id=0)
    )
    return batch.to(network.device)
