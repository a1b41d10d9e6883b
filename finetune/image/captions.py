"""What an image is asked for in words: captions of the data, or made of labels, and sentence embeddings of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from finetune.errors import DataError, ModelError
from finetune.hub_models import find_model
from finetune.models import largest_window_tokens
from finetune.pretrained import loading, read_config, read_tokenizer, refuse_foreign_weights

Embeddings = npt.NDArray[np.float32]

TEXTS_AT_ONCE = 64
# Sentence encoders leave it out; it is not used here.
UNUSED_WEIGHTS = "pooler."


def embed_texts(texts: Sequence[str], *, encoder_name: str, base: Path = Path()) -> Embeddings:
    """Sentence embeddings (N, D) of length 1: the mean of the encoder's last states over the tokens of a text.

    `encoder_name` is a folder relative to `base` or a Hub name. A text's row does not depend on the others. Raises
    DataError for an empty text and for one longer than the encoder reads, ModelError for what is no encoder.
    """
    folder = find_model(encoder_name, base=base)
    tokenizer, encoder = read_tokenizer(folder), _load_encoder(folder.path)
    distinct = sorted(set(texts))
    ids: list[list[int]] = tokenizer(distinct)["input_ids"] if distinct else []
    longest = largest_window_tokens(encoder.config, tokenizer)
    for text, tokens in zip(distinct, ids, strict=True):
        if not text.strip():
            raise DataError("caption", "a caption is empty", "Write what the image shows, or leave the image out.")
        if len(tokens) > longest:
            what = f"a caption has {len(tokens)} tokens, and {encoder_name} reads {longest}: '{text[:60]}...'"
            raise DataError("caption", what, "Shorten it.")
    # Texts of a like length together, so that little is padded.
    order = sorted(range(len(distinct)), key=lambda number: (len(ids[number]), number))
    rows = np.zeros((len(distinct), encoder.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), TEXTS_AT_ONCE):
        part = order[start : start + TEXTS_AT_ONCE]
        rows[part] = _embed([distinct[number] for number in part], tokenizer, encoder)
    place = {text: number for number, text in enumerate(distinct)}
    return rows[[place[text] for text in texts]]


def caption_of(template: str, label: str, *, words: Mapping[str, str]) -> str:
    """'a handwritten {label}', 7 and {7: seven} -> 'a handwritten seven'."""
    return template.replace("{label}", words.get(label, label))


def _load_encoder(path: Path) -> PreTrainedModel:
    config = read_config(path)
    if not isinstance(getattr(config, "hidden_size", None), int) or config.is_encoder_decoder:
        raise ModelError(str(path), f"is no sentence encoder: {config.model_type}", "Name an encoder such as MiniLM.")
    with loading(path):
        encoder, info = AutoModel.from_pretrained(
            path, config=config, dtype=torch.float32, trust_remote_code=False, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(UNUSED_WEIGHTS))
    refuse_foreign_weights(path, config, missing=missing, unexpected=[])
    network: PreTrainedModel = encoder.eval()
    return network


@torch.no_grad()
def _embed(texts: list[str], tokenizer: PreTrainedTokenizerFast, encoder: PreTrainedModel) -> Embeddings:
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    states = encoder(**batch).last_hidden_state
    real = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
    means = (states * real).sum(dim=1) / real.sum(dim=1)
    rows: Embeddings = torch.nn.functional.normalize(means, dim=1).numpy()
    return rows
