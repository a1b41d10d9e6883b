"""Does the memory of an evaluation grow with the number of examples, or with vocabulary times length?

    python benchmarks/evaluation_memory.py
    python benchmarks/evaluation_memory.py --more-blocks 2000 --block-tokens 512      (four times as long)

A GPT-2 with a vocabulary of 50,257 scores blocks of random tokens by finetune.training.token_losses.evaluate_nats, 100
blocks and 2,000, and once 100 blocks of four times the length, each in a process of its own. What is compared is the
highest resident memory of the whole process, libraries included, and beside it what the evaluation added to it.
Exits 1 where 2,000 blocks take more than 1.2 times the memory of 100.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from finetune.progress import write

HERE = Path(__file__).resolve().parent
VOCABULARY = 50_257
MOST_TIMES = 1.2
MEBIBYTE = 2**20


class Tokens(NamedTuple):
    ids: list[int]
    learn: list[bool]


def main() -> int:
    options = _options()
    os.environ.update(OMP_NUM_THREADS=str(options.threads), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    if options.blocks:
        write(sys.stdout, json.dumps(_measure(options)))
        return 0
    from machine import describe_machine

    few, more, tokens = options.few_blocks, options.more_blocks, options.block_tokens
    runs = [_run(options, blocks, length) for blocks, length in ((few, tokens), (more, tokens), (few, 4 * tokens))]
    for run in runs:
        write(sys.stdout, json.dumps(run))
    times = round(runs[1]["peak_mebibytes"] / runs[0]["peak_mebibytes"], 3)
    longer = round(runs[2]["peak_mebibytes"] / runs[0]["peak_mebibytes"], 3)
    write(
        sys.stdout, f"{more:,} blocks: {times} times the memory of {few:,}; blocks four times as long: {longer} times"
    )
    settings = {name: getattr(options, name) for name in ("threads", "hidden", "layers")}
    result = {
        **describe_machine(),
        "settings": {**settings, "vocabulary": VOCABULARY},
        "times_the_memory_of_few_blocks": times,
        "times_the_memory_of_short_blocks": longer,
        "runs": runs,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(times > MOST_TIMES)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Peak memory of an evaluation, by number and length of the examples.")
    parser.add_argument("--few-blocks", type=int, default=100)
    parser.add_argument("--more-blocks", type=int, default=2000)
    parser.add_argument("--block-tokens", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=64, help="width of the model (default 64)")
    parser.add_argument("--layers", type=int, default=2, help="its layers (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "evaluation_memory.json")
    parser.add_argument("--blocks", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace, blocks: int, tokens: int) -> dict[str, Any]:
    settings = [f"--{name}={getattr(options, name)}" for name in ("hidden", "layers", "threads")]
    command = [sys.executable, __file__, *settings, f"--blocks={blocks}", f"--block-tokens={tokens}"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, Any] = json.loads(output.decode("utf-8").splitlines()[-1])
    return found


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from finetune.training.batches import MICRO_BATCH_TOKENS, PASS_COST_TOKENS
    from finetune.training.packed import causal_batches, prepare_packing
    from finetune.training.token_losses import evaluate_nats, find_head

    torch.set_num_threads(options.threads)
    torch.manual_seed(13)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=options.hidden, n_layer=options.layers, n_head=1, n_positions=4096)
    )
    attention, _ = prepare_packing(model)

    class Blocks(list[Tokens]):
        """Read one at a time, as from Arrow: no block is kept."""

        def __len__(self) -> int:
            return int(options.blocks)

        def __getitem__(self, number: Any) -> Any:
            draw = np.random.default_rng(number)
            return Tokens(draw.integers(VOCABULARY, size=options.block_tokens).tolist(), [True] * options.block_tokens)

    def batches(some: Any) -> Any:
        budget = 4 * MICRO_BATCH_TOKENS["cpu"]
        return causal_batches(
            some, attention=attention, pad_id=0, budget_tokens=budget, pass_cost_tokens=PASS_COST_TOKENS["cpu"]
        )

    head = find_head(model)
    before, start = _peak(), time.process_time()
    nats, tokens = evaluate_nats(model, Blocks(), batches, head=head)
    return {
        "blocks": options.blocks,
        "block_tokens": options.block_tokens,
        "cpu_seconds": round(time.process_time() - start, 1),
        "nats_per_token": round(float(nats.sum() / tokens.sum()), 4),
        "peak_mebibytes": round(_peak(), 1),
        "of_it_by_the_evaluation": round(_peak() - before, 1),
        "mebibytes_of_all_logits": round(4 * int(tokens.sum()) * VOCABULARY / MEBIBYTE),
    }


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEBIBYTE


if __name__ == "__main__":
    sys.exit(main())
