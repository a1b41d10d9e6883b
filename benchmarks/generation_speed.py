"""How fast are texts written beside transformers' own `generate`? In new tokens per CPU second.

    python benchmarks/generation_speed.py --pairs 5

A GPT-2 and a T5 of the same width, with random weights, continue the same prompts greedily in float32:

- one_at_a_time: `model.generate` on each prompt, as an evaluation loop without batches does;
- batches: `model.generate` on padded batches in the order of the prompts;
- ours: finetune.training.generating.generate, with the fused GELU that `finetune` uses.

Prompts have lengths as drawn from a log-normal distribution around 60 tokens. One token in fifty of the vocabulary ends
a text, so that texts end at different steps, as trained models' do; all contenders must write the same tokens, or the
benchmark fails. Runs of the contenders alternate in one process after a warm-up; ratios are of neighbours. The measure
is CPU seconds of the process, which a busy machine disturbs less than the clock on the wall.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.progress import write

HERE = Path(__file__).resolve().parent
CONTENDERS = ("one_at_a_time", "batches", "ours")
BATCH = 24
PAD = 0
Texts = list[list[int]]


def main() -> int:
    options = _options()
    # Read once, when the libraries are imported.
    os.environ.update(OMP_NUM_THREADS=str(options.threads), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    from machine import describe_machine

    settings = {name: value for name, value in vars(options).items() if name != "output"}
    result: dict[str, Any] = {**describe_machine(), "settings": settings, "shapes": {}}
    for shape in ("gpt2", "t5"):
        result["shapes"][shape] = _measure(shape, options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    slow = [shape for shape, found in result["shapes"].items() if found["times_one_at_a_time"]["ours"] < 5]
    return int(bool(slow))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of writing texts beside transformers' generate.")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--prompts", type=int, default=64, help="prompts (default 64)")
    parser.add_argument("--new-tokens", type=int, default=64, help="most new tokens a prompt (default 64)")
    parser.add_argument("--hidden", type=int, default=256, help="width of the models (default 256)")
    parser.add_argument("--layers", type=int, default=4, help="their layers (default 4)")
    parser.add_argument("--vocabulary", type=int, default=8000, help="their vocabulary (default 8000)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "generation_speed.json")
    return parser.parse_args()


def _measure(shape: str, options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np
    import torch

    torch.set_num_threads(options.threads)
    model = _model(shape, options)
    draw = np.random.default_rng(13)
    lengths = np.clip(draw.lognormal(np.log(50), 0.6, options.prompts), 4, 200).astype(int)
    prompts = [draw.integers(1, options.vocabulary, size=length).tolist() for length in lengths]
    ends = sorted(draw.choice(options.vocabulary, size=options.vocabulary // 50, replace=False).tolist())
    contenders = _contenders(model, prompts, ends, new_tokens=options.new_tokens)
    for write_texts in contenders.values():
        write_texts(prompts[:2])
    runs: list[dict[str, Any]] = []
    for pair in range(1, options.pairs + 1):
        texts: dict[str, Texts] = {}
        for name in CONTENDERS:
            start = time.process_time()
            texts[name] = contenders[name](prompts)
            seconds = time.process_time() - start
            tokens = sum(map(len, texts[name])) + sum(len(text) < options.new_tokens for text in texts[name])
            run = {"pair": pair, "contender": name, "cpu_seconds": round(seconds, 3), "new_tokens": tokens}
            runs.append({**run, "new_tokens_per_cpu_second": round(tokens / seconds, 1)})
            write(sys.stdout, f"{shape}  {runs[-1]}")
        differing = {
            name: sum(a != b for a, b in zip(found, texts["ours"], strict=True)) for name, found in texts.items()
        }
        if differing["one_at_a_time"] > options.prompts // 20:  # rounding may turn a near tie
            sys.exit(f"{shape}: {differing} of {options.prompts} texts differ from ours")
    speed = {
        name: [run["new_tokens_per_cpu_second"] for run in runs if run["contender"] == name] for name in CONTENDERS
    }
    times = {
        name: round(statistics.median(a / b for a, b in zip(speed[name], speed["one_at_a_time"], strict=True)), 2)
        for name in CONTENDERS[1:]
    }
    write(
        sys.stdout,
        f"{shape}: times as fast as one at a time (medians of pairs): {times}; texts that differ: {differing}",
    )
    return {"times_one_at_a_time": times, "texts_that_differ_from_ours": differing, "runs": runs}


def _model(shape: str, options: argparse.Namespace) -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    torch.manual_seed(13)
    heads = max(1, options.hidden // 64)
    if shape == "gpt2":
        config = GPT2Config(
            vocab_size=options.vocabulary, n_embd=options.hidden, n_layer=options.layers, n_head=heads, n_positions=1024
        )
        model: Any = GPT2LMHeadModel(config)
    else:
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=options.vocabulary, d_model=options.hidden, d_kv=64, d_ff=4 * options.hidden,
                num_layers=options.layers, num_heads=heads, decoder_start_token_id=PAD, pad_token_id=PAD,
            )
        )  # fmt: skip
    with torch.no_grad():  # wider than at first, so that texts are not one token again and again
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(0.1 / weight.std())
    return model.train(False)


def _contenders(
    model: Any, prompts: Sequence[Sequence[int]], ends: list[int], *, new_tokens: int
) -> dict[str, Callable[[Sequence[Sequence[int]]], Texts]]:
    import torch

    from finetune.training.fused_gelu import fuse_gelu
    from finetune.training.generating import generate
    from finetune.training.next_token import GenerationSettings

    paired = model.config.is_encoder_decoder
    fused = copy.deepcopy(model)
    fuse_gelu(fused)

    def stock(some: Sequence[Sequence[int]]) -> Texts:
        longest = max(map(len, some))
        sides = [([PAD] * (longest - len(ids)), list(ids)) for ids in some]
        rows = [ids + pads if paired else pads + ids for pads, ids in sides]
        mask = [[1] * len(ids) + [0] * len(pads) if paired else [0] * len(pads) + [1] * len(ids) for pads, ids in sides]
        output = model.generate(
            torch.tensor(rows), attention_mask=torch.tensor(mask), do_sample=False, max_new_tokens=new_tokens,
            pad_token_id=PAD, eos_token_id=ends,
        )  # fmt: skip
        return [_until(row, ends) for row in output[:, 1 if paired else longest :].tolist()]

    def ours(some: Sequence[Sequence[int]]) -> Texts:
        settings = GenerationSettings(max_new_tokens=new_tokens)
        return [text.ids for text in generate(fused, some, settings=settings, pad_id=PAD, eos_ids={*ends})]

    return {
        "one_at_a_time": lambda some: [text for prompt in some for text in stock([prompt])],
        "batches": lambda some: [t for start in range(0, len(some), BATCH) for t in stock(some[start : start + BATCH])],
        "ours": ours,
    }


def _until(row: list[int], ends: list[int]) -> list[int]:
    end = next((place for place, token in enumerate(row) if token in ends), None)
    return row if end is None else row[:end]


if __name__ == "__main__":
    sys.exit(main())
