"""Causal attention within the sequences of a packed row, as one more attention function of transformers.

On a CPU one call of scaled dot product attention a sequence: forward and backward of a row of 1,024 tokens (4 heads
of 64, one thread) took 9 ms with sequences of 120 tokens and 7 ms of 40, where one call with a mask of all tokens by
all tokens took 49 ms, and gathering the sequences into a padded batch 37 and 19 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SEGMENTED = "finetune_segments"  # the name of our attention in transformers' tables


@dataclass(frozen=True)
class Segments:
    """The sequences of one row: their lengths, their bounds (sequences + 1,) as int32 on the device, the longest."""

    lengths: list[int]
    bounds: torch.Tensor
    longest: int


def attend_segments(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence of one row: query (1, heads, t, d) -> (1, t, heads, d).

    Without `segments` it is transformers' own scaled dot product attention, for evaluation and generation.
    """
    if segments is None:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **named
        )
        return result
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if named.get(name) is not None]
    if unknown or not getattr(module, "is_causal", True):
        raise ValueError(f"attention with {', '.join(unknown) or 'a view of later tokens'}")
    window = named.get("sliding_window")
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        return _attend_flash(query, key, value, segments, scaling=scaling, window=window), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    outputs = []
    parts = [torch.split(states, segments.lengths, dim=2) for states in (query, key, value)]
    for q, k, v in zip(*parts, strict=True):
        mask = None
        if window is not None and q.shape[2] > window:
            near = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
            mask = near.tril().triu(1 - window)
        outputs.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _attend_flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    *,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """All sequences in one kernel, which a GPU needs: a hundred small ones would wait for each other's launch."""
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query[0].transpose(0, 1),  # (t, heads, d)
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        segments.bounds,
        segments.bounds,
        segments.longest,
        segments.longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, torch.Tensor)
    return output.unsqueeze(0)


ALL_ATTENTION_FUNCTIONS.register(SEGMENTED, attend_segments)
ALL_MASK_ATTENTION_FUNCTIONS.register(SEGMENTED, sdpa_mask)
