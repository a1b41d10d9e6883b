"""How much memory a recipe's training takes, reckoned from its configuration: no weights are read, none are made.

At its peak a training holds
    weights       4 bytes each (float32, as they are loaded); in four bits 0.5 bytes and their scales
    gradients     4 bytes for each weight that is trained, and as much again where processes exchange them
    optimizer     8 bytes for each weight that is trained (Adam's two averages); see STATE_BYTES
    activations   what one micro-batch keeps between its forward and its backward pass
and while it works the larger of the last and what the optimizer's step needs. Activations are counted by running the
real network on fake tensors, which have shapes and no memory (torch's FakeTensorMode), and adding up what autograd
saves. Not counted: the libraries themselves, data, the process's heap beyond its tensors, and on a GPU what the
allocator keeps in reserve and CUDA's own context.

4-bit weights: Dettmers and others 2023, arXiv 2305.14314: a scale of 8 bits for 64 weights, and one of 32 for 256 such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from finetune.adapters import freeze, wrap
from finetune.errors import RecipeError
from finetune.hub_models import find_model
from finetune.models import build_classifier
from finetune.pretrained import ATTENTION_DROPOUT_FIELDS, quiet, read_config, set_attention_dropout
from finetune.processes import process_count
from finetune.recipe import ClassifierRecipe, Seq2SeqRecipe, WriterRecipe
from finetune.recipe_adapter import LOW_RANK, Adapter, AdapterKind
from finetune.recipe_file import LoadedRecipe
from finetune.recipe_training import Training
from finetune.training.batches import MICRO_BATCH_TOKENS
from finetune.training.fused_gelu import fuse_gelu
from finetune.training.token_losses import FEWEST_TOKENS_AT_A_TIME, LOGITS_AT_A_TIME
from finetune.writers import build_writer

Device = Literal["cpu", "cuda"]
ReckonedRecipe = ClassifierRecipe | WriterRecipe
# Of optimizer state for each trained weight; adafactor keeps one number a row and a column.
STATE_BYTES = {"adamw_torch": 8, "adamw_torch_fused": 8, "sgd": 0}
FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")  # transformers' old and new name
MB = 1e6


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, and how many weights there are and are trained. `way` is an adapter kind; none is full fine-tuning."""

    way: str
    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    step: int

    @property
    def together(self) -> int:
        """At the peak: activations are gone when the optimizer makes its step."""
        return self.weights + self.gradients + self.optimizer + max(self.activations, self.step)


def estimate_memory(
    loaded: LoadedRecipe, *, device: Device, ways: Sequence[AdapterKind] | None = None
) -> list[MemoryEstimate]:
    """What training takes on `device`, the recipe's own way first, then the others (`ways` names them instead).

    Raises RecipeError for image-generation, and ModelError where the model cannot be found.
    """
    recipe = loaded.recipe
    if not isinstance(recipe, ClassifierRecipe | WriterRecipe):
        do = "Without a recipe doctor looks at the machine alone."
        raise RecipeError(loaded.where("task"), f"memory is not estimated for {recipe.task}", do)
    own = recipe.adapter.kind
    others: list[AdapterKind] = ["none", "lora", "qlora"] if device == "cuda" else ["none", "lora"]
    if recipe.model.from_scratch is not None:
        others = ["none"]
    chosen = list(dict.fromkeys([own, *others])) if ways is None else list(ways)
    return [_estimate(loaded, recipe, way, device) for way in chosen]


def render_memory(estimates: Sequence[MemoryEstimate]) -> list[str]:
    """Aligned lines, megabytes of a million bytes."""
    columns: dict[str, Callable[[MemoryEstimate], int]] = {
        "weights": lambda e: e.weights, "gradients": lambda e: e.gradients, "optimizer": lambda e: e.optimizer,
        "activations": lambda e: e.activations, "at the peak": lambda e: e.together,
    }  # fmt: skip
    lines = [f"{'MB':<8}{'trained':>16}" + "".join(f"{name:>13}" for name in columns)]
    for each in estimates:
        name = "full" if each.way == "none" else each.way
        cells = "".join(f"{count(each) / MB:>13,.0f}" for count in columns.values())
        lines.append(f"{name:<8}{each.trained:>16,}{cells}")
    return lines


def _estimate(loaded: LoadedRecipe, recipe: ReckonedRecipe, way: AdapterKind, device: Device) -> MemoryEstimate:
    settings = recipe.training
    adapter = recipe.adapter if recipe.adapter.kind == way else Adapter.model_validate({"kind": way})
    with quiet(), torch.device("meta"):
        model = _network(loaded, recipe, device)
        if way in LOW_RANK:
            # What four bits change is reckoned below: bitsandbytes makes real tensors only.
            wrap(model, adapter.model_copy(update={"kind": "lora" if way == "qlora" else way}), seed=0)
        elif way == "frozen":
            freeze(model)
    with FakeTensorMode(allow_non_fake_inputs=True), quiet():
        _become_fake(model)
        model.train()
        activations = _activations(model, recipe, settings, device)
        parameters = list(model.parameters())
        trained = [weight for weight in parameters if weight.requires_grad]
        return MemoryEstimate(
            way=way,
            parameters=sum(weight.numel() for weight in parameters),
            trained=sum(weight.numel() for weight in trained),
            weights=_weight_bytes(model, four_bits=way == "qlora", half=_half(settings)),
            gradients=sum(weight.nbytes for weight in trained) * (2 if process_count() > 1 else 1),
            optimizer=_optimizer_bytes(trained, settings.optim),
            activations=activations,
            step=_step_bytes(trained, settings.optim, device),
        )


def _become_fake(model: torch.nn.Module) -> None:
    """From tensors that are nowhere to tensors that behave as if they were on the CPU, with its kernels."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                like = torch.empty(weight.shape, dtype=weight.dtype)
                fake = torch.nn.Parameter(like, requires_grad=weight.requires_grad)
                module._parameters[name] = made.setdefault(id(weight), fake)  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = made.setdefault(id(buffer), torch.empty(buffer.shape, dtype=buffer.dtype))


class _Tokens:
    """As much of a tokenizer as a configuration from scratch asks for; it may learn fewer tokens than allowed."""

    pad_token_id = bos_token_id = eos_token_id = cls_token_id = sep_token_id = unk_token_id = 0
    model_max_length = 10**9

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


def _network(loaded: LoadedRecipe, recipe: ReckonedRecipe, device: Device) -> PreTrainedModel:
    """The network of a recipe on fake tensors."""
    kind: Literal["seq2seq", "causal"] = "seq2seq" if isinstance(recipe, Seq2SeqRecipe) else "causal"
    section = recipe.model.from_scratch
    if section is not None:
        tokenizer = cast(PreTrainedTokenizerFast, _Tokens(section.vocab_size))
        if isinstance(recipe, ClassifierRecipe):
            model = build_classifier(
                recipe.model, folder=None, tokenizer=tokenizer, label_names=["a", "b"], multi_label=False, seed=0
            )[0]
        else:
            model = build_writer(recipe.model, folder=None, tokenizer=tokenizer, kind=kind, seed=0)[0]
        config = model.config
    else:
        assert recipe.model.name is not None
        folder = find_model(recipe.model.name, base=loaded.base, revision=recipe.model.revision)
        config = read_config(folder.path)
    rate = recipe.model.attention_dropout
    if device == "cuda":
        rate = 0.0  # its kernels draw dropout again in the backward pass and keep no probabilities
    if rate is not None and any(hasattr(config, name) for name in ATTENTION_DROPOUT_FIELDS):
        set_attention_dropout(config, rate)
    auto = AutoModelForSequenceClassification if isinstance(recipe, ClassifierRecipe) else WRITERS[kind]
    network = cast(PreTrainedModel, auto.from_config(config, dtype=torch.float32))
    if not isinstance(recipe, ClassifierRecipe):
        fuse_gelu(network)
    return network


def _activations(model: PreTrainedModel, recipe: ReckonedRecipe, settings: Training, device: Device) -> int:
    """Bytes that autograd saves of the largest micro-batch, all of its sequences being as long as the recipe allows."""
    tokens = settings.tokens_per_micro_batch or MICRO_BATCH_TOKENS[device]
    longest = _longest(model, recipe)
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    rows = max(1, min(tokens // longest, batch))
    checkpointing = any(settings.extra.get(name) for name in CHECKPOINTING)
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    saved: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = (storage.nbytes(), tensor)  # the tensor too: a freed number would be used again
        return tensor

    half = _half(settings)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=half, enabled=half is not None),
    ):
        _forward(model, recipe, rows, longest)
    everything = sum(size for size, _ in saved.values())
    if checkpointing:
        layers = max(1, int(getattr(model.config.get_text_config(), "num_hidden_layers", 1)))
        inputs = layers * rows * longest * _width(model) * (2 if half is not None else 4)
        everything = inputs + everything // layers  # one layer's at a time is made again
    return everything + _logits(model, recipe, rows * longest, device)


def _forward(model: PreTrainedModel, recipe: ReckonedRecipe, rows: int, longest: int) -> Any:
    if isinstance(recipe, Seq2SeqRecipe):
        half = max(1, longest // 2)
        ids = torch.zeros(rows, half, dtype=torch.long)
        return model.base_model(input_ids=ids, decoder_input_ids=ids, use_cache=False)
    ids = torch.zeros(rows, longest, dtype=torch.long)
    if isinstance(recipe, ClassifierRecipe):
        return model(input_ids=ids, attention_mask=torch.ones(rows, 1, longest, longest, dtype=torch.bool))
    return model.base_model(input_ids=ids, use_cache=False)


def _longest(model: PreTrainedModel, recipe: ReckonedRecipe) -> int:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(min(recipe.windows.max_tokens, limit or recipe.windows.max_tokens))


def _width(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().hidden_size)


def _logits(model: PreTrainedModel, recipe: ReckonedRecipe, tokens: int, device: Device) -> int:
    """Of a writer: logits of some tokens at a time and their gradient, as token_losses.py makes them."""
    if isinstance(recipe, ClassifierRecipe):
        return 0
    vocabulary = int(model.config.get_text_config().vocab_size)
    chunk = max(FEWEST_TOKENS_AT_A_TIME, LOGITS_AT_A_TIME[device] // vocabulary + 1)
    parts = max(1, tokens // chunk)
    return 2 * 4 * vocabulary * -(-tokens // parts)


def _half(settings: Training) -> torch.dtype | None:
    # Autocast keeps activations of both kinds in two bytes; the CPU, on which they are counted, has bfloat16 alone.
    return torch.bfloat16 if settings.bf16 or settings.fp16 else None


def _weight_bytes(model: PreTrainedModel, *, four_bits: bool, half: torch.dtype | None) -> int:
    """Parameters and buffers. Autocast keeps a copy of the matrices in two bytes through a pass."""
    linear = {id(module.weight): module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)}
    frozen = {number: weight for number, weight in linear.items() if not weight.requires_grad}
    whole = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    if four_bits:
        whole -= int(sum(weight.numel() * (4 - FOUR_BITS) for weight in frozen.values()))
    copied = [weight for number, weight in linear.items() if not (four_bits and number in frozen)]
    return whole + (sum(2 * weight.numel() for weight in copied) if half is not None else 0)


def _optimizer_bytes(trained: Sequence[torch.Tensor], optim: str) -> int:
    if optim in STATE_BYTES:
        return sum(weight.numel() for weight in trained) * STATE_BYTES[optim]
    return sum(4 * (sum(weight.shape) if weight.dim() > 1 else weight.numel()) for weight in trained)


def _step_bytes(trained: Sequence[torch.Tensor], optim: str, device: Device) -> int:
    """What an optimizer's step holds for a moment: on a GPU for all weights together, on a CPU for one at a time."""
    if optim == "adamw_torch_fused":
        return 0
    sizes = [weight.nbytes for weight in trained] or [0]
    return sum(sizes) if device == "cuda" else 2 * max(sizes)


WRITERS: Mapping[str, Any] = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
