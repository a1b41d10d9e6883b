"""A classifier of texts and its tokenizer: loaded, or built on an encoder or from scratch.

transformers fills whatever is missing with random numbers and goes on with a warning; here each such case is an
error, or a note that the report repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import transformers
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from finetune.adapter_base import adapter_kind, find_base
from finetune.adapters import adapt, put_adapter
from finetune.errors import ModelError, listed
from finetune.model_folder import HEAD_TENSORS, ModelFolder, check_adapter_folder, check_model_folder, is_adapter_folder
from finetune.pretrained import (
    NO_LIMIT_TOKENS,
    ShapeDifferences,
    architecture,
    differing_shapes,
    load_weights,
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
from finetune.recipe_model import EncoderModel, FromScratch

# These number positions from padding_idx + 1, so that many fewer tokens fit than max_position_embeddings says.
OFFSET_POSITIONS = frozenset({
    "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip


def build_classifier(
    model: EncoderModel,
    *,
    folder: ModelFolder | None,
    tokenizer: PreTrainedTokenizerFast,
    label_names: Sequence[str],
    multi_label: bool,
    seed: int,
    adapter: Adapter = WHOLE,
) -> tuple[PreTrainedModel, list[str]]:
    """A float32 classifier for `label_names`, and notes on what is new or changed in it.

    `folder` is what `find_model` gave, or None for `model.from_scratch`. New weights depend on `seed` alone. What the
    section `adapter` does not train is frozen.
    Raises ModelError when the folder's weights do not fit its configuration or the labels.
    """
    config = _config_from_scratch(model.from_scratch, tokenizer) if folder is None else _read_config(folder.path)
    old_names = _label_names(config)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: id for id, name in enumerate(label_names)}
    config.problem_type = "multi_label_classification" if multi_label else "single_label_classification"
    if config.get_text_config().pad_token_id is None:
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
    notes = [] if model.attention_dropout is None else [set_attention_dropout(config, model.attention_dropout)]
    torch.manual_seed(seed)
    if folder is None:
        network = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        return cast(PreTrainedModel, network), [*notes, "model is new: trained from scratch"]
    network, missing, _ = _load_weights(folder.path, config, quantised=adapter.kind == "qlora")
    prefix = f"{network.base_model_prefix}."
    # A pooler belongs to the head in all but name: models trained on masked words alone have none.
    lost = [name for name in missing if name.startswith(prefix) and "pooler" not in name]
    if lost:
        what = f"the weights lack {len(lost)} tensors of the encoder. Missing: {listed(lost, 5)}"
        raise ModelError(str(folder.path), what, "Copy the folder again.")
    head_is_new = any(not name.startswith(prefix) for name in missing)
    if not head_is_new and config.architectures and "SequenceClassification" not in architecture(config):
        what = f"has a head for another task ({architecture(config)})"
        raise ModelError(str(folder.path), what, "Name the model that it was made of.")
    if head_is_new:
        notes.append(f"classifier head is new: trained from scratch ({listed(missing, 4)})")
    else:
        notes.append(
            f"classifier head is kept: its labels were {listed(old_names)}, they are now {listed(label_names)}"
        )
    notes += adapt(network, adapter, new=missing, seed=seed)
    return network, notes + stored_precision(folder.path)


def load_classifier(folder: Path, *, whole: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A finished classifier, ready to predict (float32, dropout off), and its tokenizer.

    Every weight comes from the folder, or from the base of an adapter: a missing, unexpected, misshapen or non-finite
    one is a ModelError. The base of a qlora adapter is held in four bits where this machine can, unless `whole`.
    """
    if is_adapter_folder(folder):
        return _load_adapted(folder, whole=whole)
    check_model_folder(folder)
    config = _read_config(folder)
    network, missing, unexpected = _load_weights(folder, config)
    head = [name for name in missing if not name.startswith(f"{network.base_model_prefix}.")]
    if head:
        what = f"no classification head. Missing: {listed(head, 5)}. Found: {architecture(config)}"
        raise ModelError(str(folder), what, "Fine-tune it first, or name the folder of a classifier.")
    refuse_foreign_weights(folder, config, missing=missing, unexpected=unexpected)
    return network, load_tokenizer(ModelFolder(path=folder, origin="folder"))


def _load_adapted(folder: Path, *, whole: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    check_adapter_folder(folder)
    base, config = find_base(folder), _read_config(folder)
    quantised = adapter_kind(folder) == "qlora" and not whole and not quantising_fault()
    config.vocab_size = _read_config(base.path).vocab_size  # the adapter may bring a larger one
    network, missing, _ = _load_weights(base.path, config, quantised=quantised)
    brought = put_adapter(network, folder)
    if lost := [name for name in missing if name not in brought]:
        what = f"neither the adapter nor its base has all weights. Missing: {listed(lost, 5)}"
        raise ModelError(str(folder), what, "Copy the folder again.")
    return network, load_tokenizer(ModelFolder(path=folder, origin="folder"))


def load_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerFast:
    """The folder's fast tokenizer, which cuts and pads nothing unless asked to, and has a padding token.

    Raises ModelError when it is missing, damaged, or not this model's.
    """
    tokenizer = read_tokenizer(folder)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(str(folder.path), "the tokenizer has no padding token", "Name one as pad_token.")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def largest_window_tokens(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """The most tokens, special ones included, that model and tokenizer allow; NO_LIMIT_TOKENS when neither limits."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or NO_LIMIT_TOKENS
    if text.model_type in OFFSET_POSITIONS and positions < NO_LIMIT_TOKENS:
        positions -= (text.pad_token_id or 0) + 1
    return int(min(positions, tokenizer.model_max_length, NO_LIMIT_TOKENS))


def _config_from_scratch(section: FromScratch | None, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    if section is None:
        raise ModelError("model", "neither a folder nor from_scratch", "Give model.name or model.from_scratch.")
    # DistilBERT has its own words for these four; for sizes it also heeds BERT's.
    distil = section.architecture == "distilbert"
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": section.hidden_size,
        "num_hidden_layers": section.num_hidden_layers,
        "num_attention_heads": section.num_attention_heads,
        "hidden_dim" if distil else "intermediate_size": section.intermediate_size,
        "dropout" if distil else "hidden_dropout_prob": section.dropout,
        "attention_dropout" if distil else "attention_probs_dropout_prob": section.dropout,
        "seq_classif_dropout" if distil else "classifier_dropout": section.dropout,
        "max_position_embeddings": section.max_position_embeddings,
    }
    if section.architecture == "roberta":
        # Its positions start behind the padding id; so many tokens as the recipe says shall fit.
        settings["max_position_embeddings"] = section.max_position_embeddings + (tokenizer.pad_token_id or 0) + 1
        settings |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    return transformers.AutoConfig.for_model(section.architecture, **settings)


def _read_config(path: Path) -> PreTrainedConfig:
    """The folder's configuration, of an architecture that can classify texts."""
    model_type, _ = read_model_type(path)
    if model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        what = f"model_type '{model_type}' has no head for classifying texts"
        raise ModelError(str(path), what, "Use an encoder such as bert, distilbert or roberta.")
    return read_config(path)


def _label_names(config: PreTrainedConfig) -> list[str]:
    return [str(name) for name in (config.id2label or {}).values()]


def _refuse_another_head(path: Path, config: PreTrainedConfig, differ: ShapeDifferences) -> None:
    """ModelError when what does not fit is the head of another number of labels."""
    head = next((shapes for name, shapes in differ.items() if name in HEAD_TENSORS), None)
    if head is not None and head[0][1:] == head[1][1:]:
        what = f"the head of {architecture(config)} has {head[0][0]} labels, {config.num_labels} are wanted"
        raise ModelError(str(path), f"{what} ({listed(_label_names(config))})", "Name a model without a head.")


def _load_weights(
    path: Path, config: PreTrainedConfig, *, quantised: bool = False
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """The classifier, the tensors the folder lacks, and those the model has no place for."""
    differ = differing_shapes(path, config, AutoModelForSequenceClassification)
    _refuse_another_head(path, config, differ)
    refuse_differences(path, differ)
    return load_weights(path, config, AutoModelForSequenceClassification, quantised=quantised)
