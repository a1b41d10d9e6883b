"""How fast does a causal model train beside transformers' own Trainer? In CPU seconds per token that is no padding.

    python benchmarks/packed_training_speed.py --pairs 5

Both contenders train the same GPT-2, from the same weights, on the same steps of shuffled functions of
`builtin:python-functions` (source, then its line of documentation; a byte-level BPE trained on them), every token
learnt, with AdamW and clipped gradients, each in a process of its own, so that each peak of memory is its own:

- stock: transformers.Trainer with DataCollatorForLanguageModeling, which pads each batch to its longest text;
- ours: the step of `finetune`: sequences side by side without padding, attention within each, cross entropy in chunks.

The first steps warm up and are not counted. The measure is CPU seconds of the process, which a busy machine disturbs
less than the clock on the wall, over real tokens, which padding cannot inflate. Runs alternate; ratios are of
neighbours. Exits 1 where the median is below 2, or where the losses of the two differ.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune.progress import write

HERE = Path(__file__).resolve().parent
CONTENDERS = ("stock", "ours")
WARM_UP_STEPS = 2
LEARNING_RATE = 1e-4
PAD = 0
LEAST_TIMES = 2.0
MEBIBYTE = 2**20
SETTINGS = ("pairs", "steps", "batch", "threads", "max_tokens", "hidden", "layers", "vocabulary", "dropout")


class Tokens(NamedTuple):
    ids: list[int]
    learn: list[bool]


def main() -> int:
    options = _options()
    # Both are read once, when the libraries are imported, and children inherit them.
    os.environ.update(OMP_NUM_THREADS=str(options.threads), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    if options.contender:
        measured = _measure(options)
        options.answer.write_text(json.dumps(measured), encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory(prefix="packed-training-speed-") as work:
        _prepare(Path(work), options)
        runs = _run_pairs(Path(work), options)
    result = _result(runs, options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write(sys.stdout, _summary(result))
    apart = max(abs(a - b) for a, b in zip(*result["losses"].values(), strict=True))
    # Dropout draws differ; without it the two are one computation.
    return int(result["times_as_fast_as_stock"] < LEAST_TIMES or (options.dropout == 0 and apart > 1e-3))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training speed of causal models beside transformers' Trainer.")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--steps", type=int, default=8, help=f"steps, the first {WARM_UP_STEPS} to warm up (default 8)")
    parser.add_argument("--batch", type=int, default=16, help="functions a step (default 16)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--max-tokens", type=int, default=512, help="longer functions are left out (default 512)")
    parser.add_argument("--hidden", type=int, default=256, help="width of the model (default 256)")
    parser.add_argument("--layers", type=int, default=4, help="its layers (default 4)")
    parser.add_argument("--vocabulary", type=int, default=8000, help="its vocabulary (default 8000)")
    parser.add_argument("--dropout", type=float, default=0.0, help="of all three kinds, in both (default 0)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "packed_training_speed.json")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- the parent: prepare once, start the contenders in turn, tell


def _prepare(work: Path, options: argparse.Namespace) -> None:
    """The token ids of the functions, shuffled once: both contenders read these in this order."""
    import numpy as np
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from finetune.data.function_corpus import python_functions

    texts = [f"{row['code']}\n# {row['doc']}" for row in python_functions()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocabulary,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    (work / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    sequences = [[*encoding.ids, 1] for encoding in tokenizer.encode_batch(texts)]
    fitting = [ids for ids in sequences if len(ids) <= options.max_tokens]
    order = np.random.default_rng(13).permutation(len(fitting))[: options.steps * options.batch]
    drawn = [fitting[int(number)] for number in order]
    (work / "draw.json").write_text(json.dumps(drawn), encoding="utf-8")
    lengths = sorted(map(len, drawn))
    told = f"median {statistics.median(lengths):.0f}, mean {statistics.mean(lengths):.0f}, longest {lengths[-1]}"
    write(sys.stdout, f"{len(drawn)} of {len(fitting):,} functions; tokens: {told}")


def _run_pairs(work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    runs = []
    settings = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in SETTINGS]
    for pair in range(1, options.pairs + 1):
        for contender in CONTENDERS:
            answer = work / "answer.json"
            command = [
                sys.executable,
                __file__,
                *settings,
                "--contender",
                contender,
                "--work",
                work,
                "--answer",
                answer,
            ]
            with open(work / "log.txt", "wb") as log:
                child = subprocess.run(command, stdout=log, stderr=log)
            if child.returncode:
                told = (work / "log.txt").read_text(encoding="utf-8", errors="replace")
                sys.exit(f"{told}\n{contender} ended with {child.returncode}")
            runs.append({"pair": pair, "contender": contender, **json.loads(answer.read_text(encoding="utf-8"))})
            write(sys.stdout, _row(runs[-1]))
    return runs


def _result(runs: Sequence[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    from machine import describe_machine

    def of(contender: str, what: str) -> list[Any]:
        return [run[what] for run in runs if run["contender"] == contender]

    def median_ratio(what: str, top: str, bottom: str) -> float:
        return round(statistics.median(a / b for a, b in zip(of(top, what), of(bottom, what), strict=True)), 2)

    return {
        **describe_machine(),
        "settings": {name: getattr(options, name) for name in SETTINGS},
        "times_as_fast_as_stock": median_ratio("cpu_microseconds_per_real_token", "stock", "ours"),
        "share_of_stock_peak_memory": median_ratio("peak_mebibytes", "ours", "stock"),
        "padding_share": {name: of(name, "padding_share")[0] for name in CONTENDERS},
        "losses": {name: of(name, "losses")[0] for name in CONTENDERS},
        "runs": list(runs),
    }


def _row(run: dict[str, Any]) -> str:
    return (
        f"pair {run['pair']}  {run['contender']:<6}{run['cpu_seconds']:7.1f} CPU s {run['real_tokens']:8,} tokens"
        f" {run['cpu_microseconds_per_real_token']:8,.0f} µs/token  padding {run['padding_share']:6.1%}"
        f"  peak {run['peak_mebibytes']:6,.0f} MiB  last loss {run['losses'][-1]:.4f}"
    )


def _summary(result: dict[str, Any]) -> str:
    return (
        f"{result['machine']}; torch {result['versions']['torch']}, {result['settings']['threads']} thread(s)\n"
        f"ours: {result['times_as_fast_as_stock']} times as fast as stock,"
        f" {result['share_of_stock_peak_memory']} of its peak memory (medians of pairs)"
    )


# ---- the child: one contender


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train once; CPU seconds and tokens of the steps after the warm-up, and the whole process's peak of memory."""
    import torch

    torch.set_num_threads(options.threads)
    sequences = json.loads((options.work / "draw.json").read_text(encoding="utf-8"))
    train = _train_stock if options.contender == "stock" else _train_ours
    clock: list[float] = []
    losses, padded = train(_model(options), sequences, options, lambda: clock.append(time.process_time()))
    counted = sequences[WARM_UP_STEPS * options.batch :]
    real = sum(map(len, counted))
    seconds = clock[options.steps - 1] - clock[WARM_UP_STEPS - 1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "cpu_seconds": round(seconds, 3),
        "steps": options.steps - WARM_UP_STEPS,
        "real_tokens": real,
        "cpu_microseconds_per_real_token": round(1e6 * seconds / real, 1),
        "padding_share": round(1 - real / sum(padded[WARM_UP_STEPS : options.steps]), 4),
        "peak_mebibytes": round(peak / MEBIBYTE, 1),
        "losses": [round(loss, 5) for loss in losses],
    }


def _model(options: argparse.Namespace) -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(13)
    rate = options.dropout
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=options.vocabulary, n_embd=options.hidden, n_layer=options.layers,
            n_head=max(1, options.hidden // 64), n_positions=options.max_tokens,
            attn_pdrop=rate, resid_pdrop=rate, embd_pdrop=rate,
        )
    )  # fmt: skip


def _train_stock(
    model: Any, sequences: list[list[int]], options: argparse.Namespace, on_step: Callable[[], None]
) -> tuple[list[float], list[int]]:
    """Losses of the steps, and their tokens with padding; `on_step` is called after each."""
    import datasets
    from transformers import (
        DataCollatorForLanguageModeling,
        PreTrainedTokenizerFast,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(options.work / "tokenizer.json"), pad_token="<pad>", eos_token="<end>"
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    padded: list[int] = []

    def collate(features: list[dict[str, Any]]) -> Any:
        batch = collator(features)
        padded.append(batch["input_ids"].numel())
        return batch

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            on_step()

    arguments = TrainingArguments(
        output_dir=str(options.work / "stock"), per_device_train_batch_size=options.batch, num_train_epochs=1,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        logging_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True, report_to="none", optim="adamw_torch",
        # Shuffled already, so that both contenders make the same steps.
        train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"input_ids": sequences}),
        data_collator=collate,
        callbacks=[Clock()],
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row], padded


def _train_ours(
    model: Any, sequences: list[list[int]], options: argparse.Namespace, on_step: Callable[[], None]
) -> tuple[list[float], list[int]]:
    import torch

    from finetune.training.batches import MICRO_BATCH_TOKENS, PASS_COST_TOKENS
    from finetune.training.fused_gelu import fuse_gelu
    from finetune.training.packed import causal_batches, prepare_packing
    from finetune.training.token_losses import find_head, token_losses

    attention, fault = prepare_packing(model)
    assert attention == "segments", fault
    fuse_gelu(model)
    head = find_head(model)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    losses, padded = [], []
    for start in range(0, len(sequences), options.batch):
        step = [Tokens(ids, [True] * len(ids)) for ids in sequences[start : start + options.batch]]
        # As the Trainer counts them: the first tokens too, though nothing predicts them.
        counted = sum(len(sequence.ids) for sequence in step)
        total = 0.0
        padded.append(0)
        for batch in causal_batches(
            step, attention=attention, pad_id=PAD,
            budget_tokens=MICRO_BATCH_TOKENS["cpu"], pass_cost_tokens=PASS_COST_TOKENS["cpu"],
        ):  # fmt: skip
            loss = token_losses(model, batch, head=head).sum() / counted
            loss.backward()
            total += float(loss.detach())
            padded[-1] += batch.padded_tokens
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        on_step()
    return losses, padded


if __name__ == "__main__":
    sys.exit(main())
