"""Model folders of a few kilobytes, for tests: an architecture's shape, random weights, a tokenizer trained in memory.

from tiny_models import tiny_bert_folder
folder = tiny_bert_folder(tmp_path / "bert", texts=["good film", "bad film"], num_labels=2)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
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
