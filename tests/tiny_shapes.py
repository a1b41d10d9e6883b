"""Causal models and encoder-decoders of a few thousand weights, of every shape that generation is promised for.

Weights are drawn wide, so that what one sequence would leak into another, or a wrong position, changes the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MarianConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

VOCABULARY = 50
POSITIONS = 64
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
GROUPED = {**LLAMA, "num_key_value_heads": 2}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": lambda: GPT2Config(**GPT2, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0),
    "llama": lambda: LlamaConfig(**GROUPED),
    "qwen2": lambda: Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=8),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=4),
    "gemma2": lambda: Gemma2Config(**GROUPED, head_dim=8, sliding_window=4, final_logit_softcapping=5.0),
    "cohere": lambda: CohereConfig(**LLAMA, logit_scale=0.25),
    "granite": lambda: GraniteConfig(**LLAMA, logits_scaling=8.0),
    "opt": lambda: OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=POSITIONS,
    ),
    "bloom": lambda: BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "falcon": lambda: FalconConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
    "mamba": lambda: MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2),
    "t5": lambda: T5Config(**T5, decoder_start_token_id=0, dropout_rate=0.0, feed_forward_proj="gated-gelu"),
    "t5-untied": lambda: T5Config(**T5, decoder_start_token_id=0, dropout_rate=0.0, tie_word_embeddings=False),
    "bart": lambda: BartConfig(**BART, dropout=0.0),
    "marian": lambda: MarianConfig(**BART, pad_token_id=49, decoder_start_token_id=49, forced_eos_token_id=0),
}  # fmt: skip


def tiny_shape(name: str, *, seed: int = 0) -> PreTrainedModel:
    """A model of that shape in evaluation mode, with weights that depend on the seed alone."""
    torch.manual_seed(seed)
    config = CONFIGS[name]()
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(0.3 / weight.std())
        bias = getattr(model, "final_logits_bias", None)
        if bias is not None:
            bias.normal_()
    return model.train(False)
