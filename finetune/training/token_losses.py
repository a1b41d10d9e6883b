"""Nats per learnt token, without ever holding logits of all tokens by the whole vocabulary.

Only hidden states of learnt tokens reach the output head, some at a time. While gradients are wanted, each chunk's
are taken at once and its logits dropped, as Liger Kernel does (Hsu and others 2024, arXiv 2410.10989): the head then
costs three matrix products, as it does whole; recomputing logits in the backward pass costs four. On one CPU thread,
50,257 x 256 and 1,024 tokens, that took 1.11 s whole 1.30, recomputed 1.44.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

# Logits at a time: 32 MiB as float32, and three times that while their gradient is taken. Fewer than so many tokens
# make the matrix products slow: the weight's gradient is added up once a chunk.
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
    """The head's cross entropy (n,) of hidden states (n, d) and targets (n,): torch's, chunk by chunk, in float32."""
    if not len(targets):
        return hidden.sum(dim=-1).float()  # (0,), and still a part of the graph
    chunk_tokens = chunk_tokens or _chunk_tokens(head, hidden)
    if torch.is_grad_enabled():
        learnt: torch.Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden, targets, head, chunk_tokens, label_smoothing, *head.learnt
        )
        return learnt
    losses = _room(hidden)
    for part in _parts(len(targets), chunk_tokens):
        losses[part] = _losses(head, hidden[part], targets[part], label_smoothing)
    return losses


def _chunk_tokens(head: OutputHead, hidden: torch.Tensor) -> int:
    with torch.no_grad():
        vocabulary = head(hidden[:1]).shape[-1]
    return max(FEWEST_TOKENS_AT_A_TIME, of_device(LOGITS_AT_A_TIME, hidden.device) // vocabulary)


def _losses(head: OutputHead, hidden: torch.Tensor, targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    return cross_entropy(head(hidden), targets, reduction="none", label_smoothing=label_smoothing)


def _room(hidden: torch.Tensor) -> torch.Tensor:
    # One tensor for all losses: small ones kept between the large ones of each chunk would fragment the heap.
    return torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)


def _parts(tokens: int, chunk_tokens: int) -> list[slice]:
    return [slice(start, start + chunk_tokens) for start in range(0, tokens, chunk_tokens)]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Losses (n,), and in the same pass the gradients of their sum, for hidden states and the head's weights."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        head: OutputHead,
        chunk_tokens: int,
        label_smoothing: float,
        *weights: torch.nn.Parameter,
    ) -> torch.Tensor:
        ctx.told = (head, chunk_tokens, label_smoothing)
        losses, gradients = _with_gradients(hidden, targets, ctx.told, upstream=None)
        ctx.save_for_backward(hidden, targets, *gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[Any, ...]:
        hidden, targets, *gradients = ctx.saved_tensors
        if bool((upstream == upstream[0]).all()):  # a sum or a mean: the gradients are known up to that factor
            scaled = [gradient * upstream[0].to(gradient.dtype) for gradient in gradients]
        else:  # tokens of different weights: once more, with them
            scaled = _with_gradients(hidden, targets, ctx.told, upstream=upstream)[1]
        return scaled[0], None, None, None, None, *scaled[1:]


def _with_gradients(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    told: tuple[OutputHead, int, float],
    *,
    upstream: torch.Tensor | None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Losses (n,) and the gradients of their sum weighted by `upstream` (n,): of hidden (n, d), of each weight."""
    head, chunk_tokens, label_smoothing = told
    weights = head.learnt
    losses = _room(hidden)
    hidden_gradient = torch.empty_like(hidden)
    weight_gradients = [torch.zeros_like(weight) for weight in weights]
    for part in _parts(len(targets), chunk_tokens):
        with torch.enable_grad():
            states = hidden[part].detach().requires_grad_()
            some = _losses(head, states, targets[part], label_smoothing)
        factors = torch.ones_like(some) if upstream is None else upstream[part]
        hidden_gradient[part], *gradients = torch.autograd.grad(some, [states, *weights], factors)
        for whole, gradient in zip(weight_gradients, gradients, strict=True):
            whole.add_(gradient)
        losses[part] = some.detach()
    return losses, [hidden_gradient, *weight_gradients]


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
