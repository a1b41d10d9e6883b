"""Model folders of a few kilobytes, for tests: an architecture's shape, random weights, a tokenizer trained in memory.

from tiny_models import tiny_bert_folder
folder = tiny_bert_folder(tmp_path / "bert", texts=["good film", "bad film"], num_labels=2)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)
from transformers.utils import logging

TEXTS = ("a good film", "a bad film", "the plot is thin", "the cast is great", "好看的电影", "难看的电影")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
POSITIONS = 64


def tiny_tokenizer(
    texts: Sequence[str] = TEXTS, *, max_length: int = POSITIONS, special_tokens: Sequence[str] = SPECIAL_TOKENS
) -> PreTrainedTokenizerFast:
    """A lower-casing fast tokenizer: the special tokens, then the words of `texts` in the order of the alphabet."""
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    vocab = {token: id for id, token in enumerate([*special_tokens, *sorted(words)])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name.strip('[]').lower()}_token": name for name in SPECIAL_TOKENS},
    )


def tiny_bert_folder(path: Path, *, texts: Sequence[str] = TEXTS, num_labels: int | None = None, seed: int = 0) -> Path:
    """A BERT encoder; with `num_labels` it has a classification head."""
    tokenizer = tiny_tokenizer(texts)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=POSITIONS, **_labels(num_labels),
    )  # fmt: skip
    torch.manual_seed(seed)
    return _save(path, BertModel(config) if num_labels is None else BertForSequenceClassification(config), tokenizer)


def tiny_distilbert_folder(
    path: Path, *, texts: Sequence[str] = TEXTS, num_labels: int | None = None, seed: int = 0
) -> Path:
    """A DistilBERT encoder, whose configuration has names of its own; with `num_labels` it has a head."""
    tokenizer = tiny_tokenizer(texts)
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=POSITIONS,
        **_labels(num_labels),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = DistilBertModel(config) if num_labels is None else DistilBertForSequenceClassification(config)
    return _save(path, model, tokenizer)


def tiny_roberta_folder(
    path: Path, *, texts: Sequence[str] = TEXTS, num_labels: int | None = None, seed: int = 0
) -> Path:
    """A RoBERTa encoder with padding id 1: two of its 66 positions can hold no token."""
    tokenizer = tiny_tokenizer(texts, max_length=10**30, special_tokens=("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"))
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=POSITIONS + 2, type_vocab_size=1, pad_token_id=1, **_labels(num_labels),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = RobertaModel(config) if num_labels is None else RobertaForSequenceClassification(config)
    return _save(path, model, tokenizer)


def tiny_gpt2_folder(path: Path, *, texts: Sequence[str] = TEXTS, num_labels: int | None = None, seed: int = 0) -> Path:
    """A GPT-2, without a padding token as the real one; with `num_labels` a classifier, else a language model."""
    words = tiny_tokenizer(texts)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer, eos_token="[SEP]", unk_token="[UNK]", model_max_length=POSITIONS
    )
    config = GPT2Config(
        vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=POSITIONS,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id, **_labels(num_labels),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config) if num_labels is None else GPT2ForSequenceClassification(config)
    return _save(path, model, tokenizer)


def tiny_byte_tokenizer(
    *, eos: str | None = "</s>", pad: str | None = "<pad>", append_eos: bool = False, max_length: int = POSITIONS
) -> PreTrainedTokenizerFast:
    """One token a byte, after <pad> (0), </s> (1) and <unk> (2); of these, eos and pad only where they are named."""
    specials = ["<pad>", "</s>", "<unk>"]
    vocab = {token: id for id, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if append_eos:
        backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, pad_token=pad, unk_token="<unk>", model_max_length=max_length
    )


def tiny_writer_folder(
    path: Path,
    architecture: Literal["gpt2", "llama", "t5", "bart"] = "gpt2",
    *,
    head: bool = True,
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
    **changes: object,
) -> Path:
    """A decoder (gpt2, llama) or encoder-decoder (t5, bart) over bytes; without `head` its base model alone.

    `changes` are further settings of its configuration, such as tie_word_embeddings.
    """
    decoder_only = architecture in {"gpt2", "llama"}
    tokenizer = tokenizer or tiny_byte_tokenizer(append_eos=not decoder_only)
    sizes: dict[str, dict[str, object]] = {
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS},
        "llama": {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "max_position_embeddings": POSITIONS,
        },
        "t5": {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 32, "decoder_start_token_id": 0},
        "bart": {
            "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
            "max_position_embeddings": POSITIONS, "decoder_start_token_id": 1,
        },
    }  # fmt: skip
    config_class, base_class, head_class = WRITERS[architecture]
    ids = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    config = config_class(**{"vocab_size": len(tokenizer), **ids, **sizes[architecture], **changes})
    torch.manual_seed(seed)
    return _save(path, (head_class if head else base_class)(config), tokenizer)


WRITERS = {
    "gpt2": (GPT2Config, GPT2Model, GPT2LMHeadModel),
    "llama": (LlamaConfig, LlamaModel, LlamaForCausalLM),
    "t5": (T5Config, T5Model, T5ForConditionalGeneration),
    "bart": (BartConfig, BartModel, BartForConditionalGeneration),
}


def _labels(num_labels: int | None) -> dict[str, int]:
    return {} if num_labels is None else {"num_labels": num_labels}


def _save(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(path)
    if bars:
        logging.enable_progress_bar()
    tokenizer.save_pretrained(path)
    return path
