"""Whole weights back out of a model that FSDP or DeepSpeed has cut over several GPUs.

Cutting changes a model in place: its parameters become parts, its modules gather them when they are called. What saves
and scores a model wants it whole, on one process; so its structure is kept aside before it is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel


def skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model without its weights: its modules, buffers and configuration; tied weights stay tied."""
    nowhere: dict[int, object] = {
        id(weight): torch.nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, nowhere)


def fill(bare: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """The skeleton with these weights, of which tied ones may be named once. Raises ValueError where one lacks."""
    bare.load_state_dict(dict(weights), strict=False, assign=True)
    bare.tie_weights()
    lacking = [name for name, weight in bare.named_parameters() if weight.is_meta]
    if lacking:
        raise ValueError(f"no weights for {', '.join(lacking[:5])}")
    return bare


def become(model: PreTrainedModel, whole: PreTrainedModel) -> None:
    """Whoever holds the cut model holds the whole one from now on."""
    model.__class__ = whole.__class__
    model.__dict__ = whole.__dict__
