"""A model that was cut by FSDP2 and is put together again, in a group of one process: no GPU takes part.

Training under FSDP and DeepSpeed needs GPUs and is not tested here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import GPT2Config, GPT2LMHeadModel

from finetune.training.sharded import become, fill, skeleton


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "s"), 1), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def tied() -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, resid_pdrop=0.0)
    return GPT2LMHeadModel(config).eval()


def test_a_skeleton_has_no_weights_and_leaves_the_model_alone() -> None:
    model = tied()
    bare = skeleton(model)
    assert all(weight.is_meta for weight in bare.parameters())
    assert not any(weight.is_meta for weight in model.parameters())
    assert bare.lm_head.weight is bare.transformer.wte.weight
    assert [name for name, _ in bare.named_buffers()] == [name for name, _ in model.named_buffers()]
    assert not any(buffer.is_meta for buffer in bare.buffers())


def test_whoever_held_the_cut_model_holds_the_whole_one(group: None) -> None:
    model, ids = tied(), torch.arange(10).unsqueeze(0)
    expected, kind = model(ids).logits.detach(), type(model)
    bare = skeleton(model)
    for block in model.transformer.h:
        fully_shard(block)
    fully_shard(model)
    assert isinstance(model.lm_head.weight, DTensor)
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    become(model, fill(bare, weights))
    assert type(model) is kind
    assert not any(isinstance(weight, DTensor) for weight in model.parameters())
    assert model.lm_head.weight is model.transformer.wte.weight
    torch.testing.assert_close(model(ids).logits, expected)


def test_weights_that_lack_are_told() -> None:
    model = tied()
    weights = {name: tensor for name, tensor in model.state_dict().items() if "ln_f" not in name}
    with pytest.raises(ValueError, match=r"no weights for transformer\.ln_f"):
        fill(skeleton(model), weights)
