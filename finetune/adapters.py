"""Adapters: small matrices beside frozen weights (LoRA, DoRA, QLoRA) put into a model, saved, found again, merged.

The matrices are peft's and lie inside the transformers model itself, so whatever reads, trains or probes a model meets
the same class with or without them. What is trained whole besides (a head, new embeddings) stays an ordinary module,
and goes into the adapter's file under the names by which peft finds it.

LoRA: Hu and others 2021, arXiv 2106.09685. DoRA: Liu and others 2024, arXiv 2402.09353. QLoRA, and why every linear
layer gets matrices: Dettmers and others 2023, arXiv 2305.14314.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, TaskType, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from finetune.adapter_base import Base
from finetune.errors import ModelError, did_you_mean, listed
from finetune.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune.pretrained import loading, quiet
from finetune.recipe_adapter import Adapter
from finetune.replaced_folder import replaced_folder
from finetune.runs import disk_faults

NAME = "default"  # peft's name for the only adapter of a model
PREFIX = "base_model.model."  # what peft writes before the name of a tensor
TRAINED = "trained.safetensors"  # of a checkpoint: what is trained, and nothing else
LINEAR = (torch.nn.Linear, Conv1D)
# Below this rate matrices that begin at zero hardly move; the papers above train them at 1e-4 to 5e-4.
LOW_RATE = 1e-4


def adapt(model: PreTrainedModel, settings: Adapter, *, new: Sequence[str] = (), seed: int) -> list[str]:
    """Leave to training what the section `adapter` says, in place; see `wrap` and `freeze`."""
    if settings.is_low_rank:
        return wrap(model, settings, new=new, seed=seed)
    return freeze(model, new=new) if settings.kind == "frozen" else []


def wrap(model: PreTrainedModel, settings: Adapter, *, new: Sequence[str] = (), seed: int) -> list[str]:
    """Freeze `model` and put the matrices of lora, dora or qlora into it, in place; returns notes.

    `new` are the tensors that the stored model lacks: the modules they belong to are trained whole, as are a head and
    embeddings that were made larger. The matrices depend on `seed` alone, and change no output before they are trained.
    Raises ModelError for names that the model has not.
    """
    whole = whole_modules(model, new=new, named=settings.modules_to_save or ())
    targets = target_modules(model, named=settings.target_modules, whole=whole)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        use_dora=settings.kind == "dora",
        task_type=_task_type(model),
        fan_in_fan_out=isinstance(model.get_submodule(targets[0]), Conv1D),
    )
    if settings.kind == "qlora":
        _prepare_quantised(model)
    torch.manual_seed(seed)
    _inject(model, config, whole)
    trained, total = model.num_parameters(only_trainable=True), model.num_parameters()
    return [
        f"{settings.kind}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%}), "
        f"in {len(targets)} layers of rank {settings.r}" + (f" and whole: {listed(whole, 6)}" if whole else "")
    ]


def freeze(model: PreTrainedModel, *, new: Sequence[str] = ()) -> list[str]:
    """Keep the encoder as it is, without dropout even while training, and let the head alone learn; returns notes.

    A pooler that the stored model has belongs to the encoder; one that is `new` belongs to the head.
    """
    _keep_only(model, whole_modules(model, new=new))
    encoder = model.base_model

    def train(mode: bool = True) -> torch.nn.Module:
        return type(encoder).train(encoder, False)  # its dropout would make features of an epoch unlike the next

    encoder.train = train  # type: ignore[method-assign]
    trained, total = model.num_parameters(only_trainable=True), model.num_parameters()
    return [f"the encoder is frozen: {trained:,} of {total:,} parameters are trained ({trained / total:.2%})"]


def rate_note(settings: Adapter, learning_rate: float) -> list[str]:
    """A note when the learning rate is one for training every weight."""
    if settings.kind == "none" or learning_rate >= LOW_RATE:
        return []
    usual = "1e-3 to 1e-2" if settings.kind == "frozen" else "1e-4 to 5e-4"
    return [f"training.learning_rate {learning_rate:g} is one for training every weight; usual here: {usual}"]


def is_adapted(model: torch.nn.Module) -> bool:
    """Whether there are matrices in the model."""
    return bool(getattr(model, "peft_config", None))


def trains_part(model: torch.nn.Module) -> bool:
    """Whether `wrap` or `freeze` left a part of the model untrained: a checkpoint then holds the rest alone."""
    return bool(getattr(model, "trains_part", False))


def whole_modules(model: PreTrainedModel, *, new: Sequence[str] = (), named: Sequence[str] = ()) -> list[str]:
    """Modules to train whole: heads beside the body, what the stored model lacks, new embeddings, and those named."""
    body = model.base_model
    heads = [
        name for name, child in model.named_children()
        if body is not model and child is not body and child is not _output(model) and _has_weights(child)
    ]  # fmt: skip
    found = [*heads, *(name.rpartition(".")[0] for name in new), *_larger_embeddings(model)]
    known = {name: module for name, module in model.named_modules() if name and _has_weights(module)}
    for wanted in named:
        matching = [name for name in known if name == wanted or name.endswith(f".{wanted}")]
        if not matching:
            raise _unknown("modules_to_save", wanted, known)
        found += matching
    # An embedding that also is the output layer must be found by peft under both names.
    tied = [name for name in known if any(known[name] is not known[one] and _tied(known[name], known[one])
                                          for one in found if one in known)]  # fmt: skip
    unique = list(dict.fromkeys([*found, *tied]))
    return [name for name in unique if not any(name.startswith(f"{other}.") for other in unique)]


def target_modules(
    model: PreTrainedModel, *, named: Sequence[str] | None = None, whole: Sequence[str] = ()
) -> list[str]:
    """Full names of the linear layers that get matrices: all of the body's, or those with a name in `named`.

    Found on the network, whatever its architecture: layers of the body that are no output layer and not in `whole`.
    """
    body, output = model.base_model, _output(model)
    inside = {id(module) for module in body.modules()}
    known = [
        name for name, module in model.named_modules()
        if isinstance(module, LINEAR) and id(module) in inside and module is not output
        and not any(name == other or name.startswith(f"{other}.") for other in whole)
    ]  # fmt: skip
    if not known:
        raise ModelError("adapter.target_modules", f"{type(model).__name__} has no linear layer", "Use another kind.")
    if named is None:
        return known
    for wanted in named:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in known):
            raise _unknown("target_modules", wanted, known)
    return [name for name in known if any(name == wanted or name.endswith(f".{wanted}") for wanted in named)]


# ---- files


def save_adapter(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, base: Base,
    extra_files: Mapping[str, str],
) -> None:  # fmt: skip
    """The adapter in `folder`: matrices and whole modules, peft's configuration, the model's own, the tokenizer.

    It names its base, and asks nobody for it. What stood in `folder` is replaced as a whole.
    """
    with disk_faults(folder), replaced_folder(folder) as staging, quiet():
        named = base.seen_from(folder)
        config = dataclasses.replace(
            _config(model), base_model_name_or_path=named.name, revision=named.revision, inference_mode=True
        )
        # peft keeps names as a set: in their order the same adapter is the same file.
        plain = config.to_dict()  # type: ignore[no-untyped-call]
        told = {key: sorted(value) if isinstance(value, set) else value for key, value in plain.items()}
        (staging / ADAPTER_CONFIG).write_text(json.dumps(told, indent=1, default=str), encoding="utf-8")
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in _file_tensors(model).items()}
        save_file(tensors, staging / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        model.config.save_pretrained(staging)
        if model.can_generate():
            model.generation_config.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        for name, text in extra_files.items():
            (staging / name).write_text(text, encoding="utf-8")


def put_adapter(model: PreTrainedModel, folder: Path) -> list[str]:
    """Put the adapter of `folder` into its base, `model`, in place; returns the names of the tensors it replaced whole.

    Raises ModelError when its tensors are not exactly those that its configuration tells of.
    """
    with loading(folder):
        config = LoraConfig.from_pretrained(str(folder))
        assert isinstance(config, LoraConfig)
        stored = load_file(folder / ADAPTER_WEIGHTS)
    whole = list(config.modules_to_save or [])
    strange = [name for name in whole if not any(name == known for known, _ in model.named_modules())]
    if strange:
        what = f"holds modules that {type(model).__name__} has not: {listed(strange, 5)}"
        raise ModelError(str(folder), what, "It is an adapter of another model.")
    _grow_embeddings(model, stored)
    with loading(folder):
        _inject(model, config, whole)
    tensors = _file_tensors(model)
    differ = sorted({*stored} ^ {*tensors}) or [n for n in tensors if stored[n].shape != tensors[n].shape]
    if differ:
        raise ModelError(str(folder), f"{ADAPTER_WEIGHTS} does not fit: {listed(differ, 5)}", "Copy the folder again.")
    with torch.no_grad():
        for name, tensor in tensors.items():
            if not torch.isfinite(stored[name]).all():
                do = "Its training diverged: use another model."
                raise ModelError(str(folder), f"{name} holds NaN or infinity", do)
            tensor.copy_(stored[name])
    model.train(False)
    return [name for name in model.state_dict() if any(name.startswith(f"{module}.") for module in whole)]


def merge(model: PreTrainedModel) -> None:
    """Add the matrices to the weights they lie beside, in place: what is left is a plain model of the same outputs."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    for attribute in ("peft_config", "trains_part"):
        vars(model).pop(attribute, None)


def save_trained(model: PreTrainedModel, folder: Path) -> None:
    """What of the model is trained, in one file of a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: weight.detach().cpu().clone() for name, weight in _trained(model).items()}
    save_file(tensors, folder / TRAINED, metadata={"format": "pt"})


def load_trained(model: PreTrainedModel, folder: Path) -> None:
    """Back into a model that was wrapped by the same settings. Raises ModelError when they were others."""
    stored, trained = load_file(folder / TRAINED), _trained(model)
    if stored.keys() != trained.keys():
        differ = sorted(stored.keys() ^ trained.keys())
        raise ModelError(str(folder), f"weights and model do not fit: {listed(differ, 5)}")
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(stored[name])


def _trained(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


# ---- inside


def _inject(model: PreTrainedModel, config: LoraConfig, whole: Sequence[str]) -> None:
    """The matrices into the model; what is in `whole` stays an ordinary module, which peft would put into a wrapper."""
    bare = dataclasses.replace(config, modules_to_save=None, inference_mode=False)
    inject_adapter_in_model(bare, model, adapter_name=NAME)
    matrices = {name for name, _ in model.named_parameters() if ".lora_" in name}
    _keep_only(model, whole, matrices)
    _config(model).modules_to_save = list(whole) or None
    if getattr(model, "is_quantized", False):
        model._hf_peft_config_loaded = True  # the Trainer asks it before it trains beside 4-bit weights


def _config(model: PreTrainedModel) -> LoraConfig:
    """peft's configuration of the adapter that lies in the model."""
    found: Any = model.peft_config
    return cast(LoraConfig, found[NAME])


def _keep_only(model: PreTrainedModel, whole: Sequence[str], besides: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Let these modules and parameters learn, and nothing else."""
    for name, weight in model.named_parameters():
        inside = any(name.startswith(f"{module}.") for module in whole)
        weight.requires_grad_(weight.is_floating_point() and (inside or name in besides))
    vars(model)["trains_part"] = True


def _file_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Name in the adapter's file -> the model's own tensor: peft's matrices, then the modules that are whole."""
    with quiet():
        # Told what to do with embeddings, peft does not ask the Hub whether the base has the same.
        matrices = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    whole = tuple(f"{name}." for name in _config(model).modules_to_save or [])
    besides = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(whole)} if whole else {}
    return {PREFIX + name: tensor for name, tensor in {**matrices, **besides}.items()}


def _prepare_quantised(model: PreTrainedModel) -> None:
    from peft import prepare_model_for_kbit_training

    prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]


def _output(model: PreTrainedModel) -> torch.nn.Module | None:
    output: torch.nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return output


def _larger_embeddings(model: PreTrainedModel) -> list[str]:
    """Input and output embeddings, where the model says that they were resized after loading."""
    if not getattr(model, "has_new_embeddings", False):
        return []
    layers = [model.get_input_embeddings(), _output(model)]
    return [name for name, module in model.named_modules() if any(module is layer for layer in layers)]


def grow_embeddings(model: PreTrainedModel, tokens: int) -> None:
    """Make room for `tokens` in the vocabulary; `wrap` trains new embeddings whole and saves them with the adapter."""
    model.resize_token_embeddings(tokens, mean_resizing=False)
    vars(model)["has_new_embeddings"] = True


def _grow_embeddings(model: PreTrainedModel, stored: Mapping[str, torch.Tensor]) -> None:
    """As many rows as the adapter's own embeddings have, where it brings some."""
    layer: torch.nn.Module = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is layer)
    own = stored.get(f"{PREFIX}{name}.weight")
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    if own is not None and len(own) != len(weight):
        grow_embeddings(model, len(own))


def _has_weights(module: torch.nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _tied(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two layers share their weight."""
    weight = getattr(one, "weight", None)
    return weight is not None and weight is getattr(other, "weight", None)


def _task_type(model: PreTrainedModel) -> TaskType | None:
    if "SequenceClassification" in type(model).__name__:
        return TaskType.SEQ_CLS
    if not model.can_generate():
        return None
    return TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM


def _unknown(key: str, wanted: str, known: Sequence[str] | Mapping[str, object]) -> ModelError:
    names = list(dict.fromkeys(name.rpartition(".")[2] for name in known))
    names = [name for name in names if not name.isdecimal()]
    what = f"the model has no '{wanted}' there. Found: {listed(names, 20)}"
    return ModelError(f"adapter.{key}", what, did_you_mean(wanted, names) or "Name one of these.")
