"""A writer and its tokenizer: a decoder that continues text, or an encoder-decoder that writes one from another.

transformers loads nearly any folder as a generator, puts a random head where one is missing and only warns; here a
writer has every weight, a token that ends its texts, and settings with which `generate` stops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, cast

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.utils import GENERATION_CONFIG_NAME

from finetune.adapter_base import adapter_kind, find_base
from finetune.adapters import adapt, put_adapter
from finetune.errors import ModelError, listed
from finetune.model_folder import HEAD_TENSORS, ModelFolder, check_adapter_folder, check_model_folder, is_adapter_folder
from finetune.pretrained import (
    NO_LIMIT_TOKENS,
    AutoClass,
    architecture,
    differing_shapes,
    load_weights,
    loading,
    quantising_fault,
    read_config,
    read_model_type,
    read_tokenizer,
    refuse_differences,
    refuse_foreign_weights,
    set_attention_dropout,
    stored_precision,
)
from finetune.recipe_adapter import WHOLE, Adapter
from finetune.recipe_model import CausalFromScratch, Model, Scratch, Seq2SeqFromScratch

WriterKind = Literal["causal", "seq2seq"]

AUTO_CLASSES: dict[WriterKind, AutoClass] = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
# model_type -> the class, or classes, with a head that writes.
HEADS: dict[WriterKind, Mapping[str, object]] = {
    "causal": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "seq2seq": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}
ADVICE: dict[WriterKind, str] = {
    "causal": "Task text-generation needs a decoder such as gpt2 or llama.",
    "seq2seq": "Task seq2seq needs an encoder-decoder such as t5 or bart.",
}
# Relative and rotary positions have no table: T5's n_positions is a habit, not a limit.
POSITION_FIELDS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_decoder_position_embeddings")


def build_writer(
    model: Model, *, folder: ModelFolder | None, tokenizer: PreTrainedTokenizerFast, kind: WriterKind, seed: int,
    adapter: Adapter = WHOLE,
) -> tuple[PreTrainedModel, list[str]]:  # fmt: skip
    """A float32 writer, and notes on what is new or changed in it.

    `folder` is what `find_model` gave, or None for `model.from_scratch`, whose weights depend on `seed` alone. What the
    section `adapter` does not train is frozen.
    Raises ModelError when the folder holds no writer of this kind, or not all of its weights.
    """
    config = _config_from_scratch(model, tokenizer, kind) if folder is None else _read_config(folder.path, kind)
    notes = [] if model.attention_dropout is None else [set_attention_dropout(config, model.attention_dropout)]
    if folder is None:
        torch.manual_seed(seed)
        network = AUTO_CLASSES[kind].from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        return cast(PreTrainedModel, network), [*notes, "model is new: trained from scratch"]
    network, unexpected = _load_weights(folder.path, config, kind, quantised=adapter.kind == "qlora")
    if unexpected:
        notes.append(f"left out: {listed(unexpected, 4)}, for which {_class(network)} has no place")
    if config.architectures and architecture(config) in _names(MODEL_MAPPING_NAMES.get(config.model_type)):
        notes.append(f"{architecture(config)} has no head of its own: words are chosen by its input embeddings")
    if kind == "seq2seq":
        _settle_decoder_start(folder.path, network, tokenizer)
    notes += _settle_generation(network, tokenizer)
    notes += adapt(network, adapter, seed=seed)
    return network, notes + stored_precision(folder.path)


def load_writer(folder: Path, *, whole: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A finished writer, ready to predict (float32, dropout off), and its tokenizer.

    Every weight comes from the folder, or from the base of an adapter: a missing, unexpected, misshapen or non-finite
    one is a ModelError. The base of a qlora adapter is held in four bits where this machine can, unless `whole`.
    """
    if is_adapter_folder(folder):
        return _load_adapted(folder, whole=whole)
    check_model_folder(folder)
    kind = _kind(folder)
    config = _read_config(folder, kind)
    network, unexpected = _load_weights(folder, config, kind)
    refuse_foreign_weights(folder, config, missing=[], unexpected=unexpected)
    return network, load_writer_tokenizer(ModelFolder(path=folder, origin="folder"), kind=kind)


def _load_adapted(folder: Path, *, whole: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    check_adapter_folder(folder)
    base, kind = find_base(folder), _kind(folder)
    config = _read_config(folder, kind)
    quantised = adapter_kind(folder) == "qlora" and not whole and not quantising_fault()
    config.vocab_size = _read_config(base.path, kind).vocab_size  # the adapter may bring a larger one
    network, _ = _load_weights(base.path, config, kind, quantised=quantised)
    put_adapter(network, folder)
    with loading(folder):
        if (folder / GENERATION_CONFIG_NAME).exists():
            network.generation_config = GenerationConfig.from_pretrained(folder)
    return network, load_writer_tokenizer(ModelFolder(path=folder, origin="folder"), kind=kind)


def load_writer_tokenizer(folder: ModelFolder, *, kind: WriterKind | None = None) -> PreTrainedTokenizerFast:
    """The folder's fast tokenizer, with an end-of-text and a padding token; it cuts and pads nothing unless asked to.

    On which side it pads is left as the folder says. A missing padding token becomes the unknown token or, where
    there is none, the end-of-text token: padding is told by the attention mask and never learnt, so either will do,
    and the embeddings stay as they are. Raises ModelError when the folder holds no writer of this `kind` (None: of
    neither), and when no token ends a text.
    """
    _read_config(folder.path, kind or _kind(folder.path))
    tokenizer = read_tokenizer(folder)
    if tokenizer.eos_token_id is None:
        found = listed(tokenizer.all_special_tokens) or "none"
        what = f"the tokenizer has no end-of-text token (eos_token). Special tokens: {found}"
        raise ModelError(str(folder.path), what, "Name it in tokenizer_config.json, or texts would never end.")
    if tokenizer.pad_token_id is None:
        spare = tokenizer.unk_token_id not in {None, tokenizer.eos_token_id, tokenizer.bos_token_id}
        tokenizer.pad_token = tokenizer.unk_token if spare else tokenizer.eos_token
    return tokenizer


def largest_context(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """The most tokens, special ones included, that model and tokenizer allow; NO_LIMIT_TOKENS when neither limits.

    For an encoder-decoder it holds for the source and for the target; where these differ the smaller counts.
    """
    text = config.get_text_config()
    limits = [getattr(text, field, None) for field in POSITION_FIELDS]
    return min(int(limit) for limit in (*limits, tokenizer.model_max_length, NO_LIMIT_TOKENS) if limit)


def _config_from_scratch(model: Model, tokenizer: PreTrainedTokenizerFast, kind: WriterKind) -> PreTrainedConfig:
    section = model.from_scratch
    if section is None:
        raise ModelError("model", "neither a folder nor from_scratch", "Give model.name or model.from_scratch.")
    if not isinstance(section, CausalFromScratch if kind == "causal" else Seq2SeqFromScratch):
        raise ModelError("model.from_scratch", f"{type(section).__name__} builds no {kind} model", ADVICE[kind])
    settings = SHAPES[section.architecture](section)
    # The libraries' own defaults (50256, 2 ...) are ids of other tokenizers: every id is stated.
    settings |= {
        "vocab_size": len(tokenizer), "tie_word_embeddings": True, "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    if kind == "seq2seq":
        starts_with_padding = section.architecture == "t5"
        start = tokenizer.pad_token_id if starts_with_padding else tokenizer.eos_token_id
        # Forced at the length limit, an end would hide that a text was cut.
        settings |= {"decoder_start_token_id": start, "forced_eos_token_id": None}
    return transformers.AutoConfig.for_model(section.architecture, **settings)


def _kind(path: Path) -> WriterKind:
    """Which kind of writer a folder can only hold, if it holds one."""
    model_type, _ = read_model_type(path)
    return "seq2seq" if model_type in HEADS["seq2seq"] else "causal"


def _read_config(path: Path, kind: WriterKind) -> PreTrainedConfig:
    """The folder's configuration; ModelError unless its architecture, and the head it was saved with, can write."""
    model_type, named = read_model_type(path)
    head, base = _names(HEADS[kind].get(model_type)), _names(MODEL_MAPPING_NAMES.get(model_type))
    known = {name.lower() for name in head | base}
    # LMHeadModel: older names, such as T5WithLMHeadModel.
    if named and not any(name.lower() in known or name.endswith("LMHeadModel") for name in named):
        raise ModelError(str(path), f"has a head for another task ({listed(named)})", ADVICE[kind])
    if kind == "causal" and model_type in HEADS["seq2seq"]:
        raise ModelError(str(path), f"model_type '{model_type}' is an encoder-decoder", ADVICE[kind])
    if kind == "causal" and model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        # transformers would load it as a decoder, which it never was: its tokens have seen those behind them.
        raise ModelError(str(path), f"model_type '{model_type}' is an encoder: it only reads", ADVICE[kind])
    config = read_config(path) if head else None
    if config is None or config.is_encoder_decoder != (kind == "seq2seq"):
        raise ModelError(str(path), f"model_type '{model_type}' has no head for task {TASKS[kind]}", ADVICE[kind])
    return config


def _load_weights(
    path: Path, config: PreTrainedConfig, kind: WriterKind, *, quantised: bool = False
) -> tuple[PreTrainedModel, list[str]]:
    """The writer, and the tensors it has no place for; ModelError when it lacks one, or they are a classifier's."""
    refuse_differences(path, differing_shapes(path, config, AUTO_CLASSES[kind]))
    network, missing, unexpected = load_weights(path, config, AUTO_CLASSES[kind], quantised=quantised)
    head = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    heads = {name for name, module in network.named_modules() if module is head}
    if missing and all(name.rpartition(".")[0] in heads for name in missing):
        what = f"no language-model head. Missing: {listed(missing)}. Found: {architecture(config)}"
        raise ModelError(str(path), what, f"Name a folder that holds {_class(network)}.")
    if missing:
        what = f"the weights lack {len(missing)} tensors of {_class(network)}. Missing: {listed(missing, 5)}"
        raise ModelError(str(path), what, "Copy the folder again.")
    classifiers = [name for name in unexpected if name in HEAD_TENSORS]
    if classifiers:
        what = f"has a head for another task ({listed(classifiers)}). Found: {architecture(config)}"
        raise ModelError(str(path), what, ADVICE[kind])
    return network, unexpected


def _settle_decoder_start(path: Path, network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """The token with which the decoder starts, and the padding of its labels, where the model itself looks for them."""
    config, generation = network.config, network.generation_config
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    start = getattr(config, "decoder_start_token_id", None)
    start = generation.decoder_start_token_id if start is None else start
    if start is None:
        what = "config.json has no decoder_start_token_id"
        raise ModelError(
            str(path), what, "Write the id: T5 starts with the padding token, BART with the end-of-text one."
        )
    config.decoder_start_token_id = start


def _settle_generation(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Makes `generate` stop at the token that ends the texts learnt, and its settings such as can be saved."""
    notes: list[str] = []
    generation = network.generation_config
    stops = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    stops = [stop for stop in stops if stop is not None]
    if tokenizer.eos_token_id not in stops:
        generation.eos_token_id = [tokenizer.eos_token_id, *stops] if stops else tokenizer.eos_token_id
        notes.append(f"generation also stops at {tokenizer.eos_token}, the tokenizer's end-of-text token")
    if generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id
    try:
        generation.validate(strict=True)
    except ValueError:
        # Such as a temperature without sampling: transformers would refuse to save it, after all the training.
        ids = {name: value for name, value in generation.to_dict().items() if name.endswith("token_id")}
        network.generation_config = GenerationConfig(**ids)  # type: ignore[no-untyped-call]
        notes.append("generation_config.json contradicts itself: only its token ids are kept")
    return notes


def _class(network: PreTrainedModel) -> str:
    return type(network).__name__


def _names(entry: object) -> set[str]:
    """The class names of an entry of transformers' tables: one, several, or none."""
    names = entry if isinstance(entry, (tuple, list)) else [entry]
    return {str(name) for name in names if name is not None}


def _gpt2(section: Scratch) -> dict[str, object]:
    return {
        "n_embd": section.hidden_size, "n_layer": section.num_hidden_layers, "n_head": section.num_attention_heads,
        "n_inner": section.intermediate_size, "n_positions": section.max_position_embeddings,
        "resid_pdrop": section.dropout, "embd_pdrop": section.dropout, "attn_pdrop": section.dropout,
    }  # fmt: skip


def _llama(section: Scratch) -> dict[str, object]:
    # It has no dropout of hidden states.
    return {
        "hidden_size": section.hidden_size, "num_hidden_layers": section.num_hidden_layers,
        "num_attention_heads": section.num_attention_heads, "intermediate_size": section.intermediate_size,
        "max_position_embeddings": section.max_position_embeddings, "attention_dropout": section.dropout,
    }  # fmt: skip


def _t5(section: Scratch) -> dict[str, object]:
    # Relative positions: the tokenizer alone knows the longest sequence.
    return {
        "d_model": section.hidden_size, "num_layers": section.num_hidden_layers,
        "num_decoder_layers": section.num_hidden_layers, "num_heads": section.num_attention_heads,
        "d_kv": section.hidden_size // section.num_attention_heads, "d_ff": section.intermediate_size,
        "dropout_rate": section.dropout,
    }  # fmt: skip


def _bart(section: Scratch) -> dict[str, object]:
    return {
        "d_model": section.hidden_size, "encoder_layers": section.num_hidden_layers,
        "decoder_layers": section.num_hidden_layers, "encoder_attention_heads": section.num_attention_heads,
        "decoder_attention_heads": section.num_attention_heads, "encoder_ffn_dim": section.intermediate_size,
        "decoder_ffn_dim": section.intermediate_size, "max_position_embeddings": section.max_position_embeddings,
        "dropout": section.dropout, "attention_dropout": section.dropout,
    }  # fmt: skip


SHAPES: dict[str, Callable[[Scratch], dict[str, object]]] = {
    "gpt2": _gpt2, "llama": _llama, "t5": _t5, "bart": _bart,
}  # fmt: skip
TASKS: dict[WriterKind, str] = {"causal": "text-generation", "seq2seq": "seq2seq"}
