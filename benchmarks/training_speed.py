"""How fast does the training path train beside transformers' own Trainer? In CPU seconds per real token.

    python benchmarks/training_speed.py --pairs 5

Three contenders train the packaged MiniLM on the same documents of builtin:python-docs with the same settings, each
in a process of its own, so that each peak of memory is its own:

- stock: transformers.Trainer, its random sampler, DataCollatorWithPadding (dynamic padding); an example is a window,
  because that is what the stock Trainer knows, and a batch is 32 of them;
- ours: the documents' path with the model's own attention dropout; a step is 32 documents with all their windows;
- ours_no_attention_dropout: the same with model.attention_dropout 0, which is a different recipe.

A run is one pass over a fixed draw of documents, so every contender reads the very same windows, shuffled. The first
steps warm up and are not counted. The measure is CPU seconds of the process, which a busy machine disturbs less than
the clock on the wall, over real tokens, which padding cannot inflate. Runs alternate; ratios are of neighbours.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.progress import SILENT, write
from finetune.recipe_file import LoadedRecipe, load_recipe

HERE = Path(__file__).resolve().parent
CONTENDERS = ("stock", "ours", "ours_no_attention_dropout")
BATCH = 32
WARM_UP_STEPS = 2
MEBIBYTE = 2**20


def main() -> None:
    options = _options()
    # Both are read once, when the libraries are imported, and children inherit them.
    os.environ.update(OMP_NUM_THREADS=str(options.threads), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    if options.contender:
        measured = _measure(options.contender, options.work, threads=options.threads)
        options.answer.write_text(json.dumps(measured), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(prefix="training-speed-") as work:
        _prepare(Path(work), options)
        runs = _run_pairs(Path(work), options)
    result = _result(runs, options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write(sys.stdout, _summary(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training speed beside transformers' Trainer, in paired runs.")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--steps", type=int, default=6, help=f"steps of {BATCH} documents in a run (default 6)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest window in tokens (default 256)")
    parser.add_argument("--stride", type=int, default=32, help="tokens neighbouring windows share (default 32)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "training_speed.json")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- the parent: prepare once, start the contenders in turn, tell


def _recipe(contender: str, *, max_tokens: int, stride: int) -> LoadedRecipe:
    return load_recipe(
        HERE.parent / "recipes" / "python-docs.yaml",
        [
            f"windows.max_tokens={max_tokens}",
            f"windows.stride={stride}",
            "windows.max_per_document=null",
            f"model.attention_dropout={'0' if contender == 'ours_no_attention_dropout' else 'null'}",
            f"training.per_device_train_batch_size={BATCH}",
            "training.num_train_epochs=1",
            "training.eval_strategy=no",
            "training.save_strategy=no",
            "training.load_best_model_at_end=false",
            "training.use_cpu=true",
        ],
    )


def _prepare(work: Path, options: argparse.Namespace) -> None:
    """Cut the windows once; every contender reads this draw of documents."""
    import numpy as np

    from finetune.classifier_learner import build_classifier_learner, window_lists
    from finetune.data.prepare import prepare

    loaded = _recipe("ours", max_tokens=options.max_tokens, stride=options.stride)
    prepared = prepare(loaded, progress=SILENT)
    learner = build_classifier_learner(loaded, prepared, progress=SILENT)
    windows = window_lists(learner.windows["train"])
    drawn = np.random.default_rng(loaded.recipe.seed).permutation(len(windows))[: options.steps * BATCH]
    draw = {
        "max_tokens": options.max_tokens,
        "stride": options.stride,
        "label_names": list(prepared.labels.names),
        "windows": [windows[int(index)] for index in drawn],
        "labels": [prepared.encoded["train"][int(index)] for index in drawn],
    }
    (work / "draw.json").write_text(json.dumps(draw), encoding="utf-8")


def _run_pairs(work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    runs = []
    for pair in range(1, options.pairs + 1):
        for contender in CONTENDERS:
            command = [sys.executable, __file__, "--contender", contender, "--threads", str(options.threads)]
            answer = work / "answer.json"
            with open(work / "log.txt", "wb") as log:
                child = subprocess.run([*command, "--work", work, "--answer", answer], stdout=log, stderr=log)
            if child.returncode:
                told = (work / "log.txt").read_text(encoding="utf-8", errors="replace")
                sys.exit(f"{told}\n{contender} ended with {child.returncode}")
            runs.append({"pair": pair, "contender": contender, **json.loads(answer.read_text(encoding="utf-8"))})
            write(sys.stdout, _row(runs[-1]))
    return runs


def _result(runs: Sequence[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    from machine import describe_machine

    def of(contender: str, what: str) -> list[float]:
        return [run[what] for run in runs if run["contender"] == contender]

    def median_ratio(top: Sequence[float], bottom: Sequence[float]) -> float:
        return round(statistics.median(high / low for high, low in zip(top, bottom, strict=True)), 2)

    ours = CONTENDERS[1:]
    speed = "cpu_microseconds_per_real_token"
    return {
        **describe_machine(),
        "settings": {name: getattr(options, name) for name in ("pairs", "steps", "threads", "max_tokens", "stride")},
        "times_as_fast_as_stock": {name: median_ratio(of("stock", speed), of(name, speed)) for name in ours},
        "share_of_stock_peak_memory": {
            name: median_ratio(of(name, "peak_mebibytes"), of("stock", "peak_mebibytes")) for name in ours
        },
        "padding_share": {name: of(name, "padding_share")[0] for name in CONTENDERS},
        "runs": list(runs),
    }


def _row(run: dict[str, Any]) -> str:
    return (
        f"pair {run['pair']}  {run['contender']:<26}{run['cpu_seconds']:7.1f} CPU s {run['real_tokens']:8,} tokens"
        f" {run['cpu_microseconds_per_real_token']:8,.0f} µs/token  padding {run['padding_share']:6.1%}"
        f"  peak {run['peak_mebibytes']:6,.0f} MiB"
    )


def _summary(result: dict[str, Any]) -> str:
    lines = [f"{result['machine']}; torch {result['versions']['torch']}, {result['settings']['threads']} thread(s)"]
    for name, times in result["times_as_fast_as_stock"].items():
        share = result["share_of_stock_peak_memory"][name]
        lines.append(f"{name}: {times} times as fast as stock, {share} of its peak memory (medians of pairs)")
    return "\n".join(lines)


# ---- the child: one contender


def _measure(contender: str, work: Path, *, threads: int) -> dict[str, Any]:
    """Train once; CPU seconds and tokens of the steps after the warm-up, and the whole process's peak of memory."""
    import torch

    torch.set_num_threads(threads)
    draw = json.loads((work / "draw.json").read_text(encoding="utf-8"))
    loaded = _recipe(contender, max_tokens=draw["max_tokens"], stride=draw["stride"])
    meter = _train_stock(loaded, draw, work) if contender == "stock" else _train_ours(loaded, draw, work)
    seconds = meter["ended"] - meter["started"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "cpu_seconds": round(seconds, 3),
        "steps": meter["steps"],
        "real_tokens": meter["real"],
        "cpu_microseconds_per_real_token": round(1e6 * seconds / meter["real"], 1),
        "padding_share": round(1 - meter["real"] / meter["padded"], 4),
        "peak_mebibytes": round(peak / MEBIBYTE, 1),
    }


def _meter(trainer: Any, tokens: Any) -> dict[str, Any]:
    """Let `trainer` note the CPU time after the warm-up and after the last step.

    `tokens` gives (real, padded) tokens trained on so far.
    """
    from transformers import TrainerCallback

    meter: dict[str, Any] = {}
    before = {"real": 0, "padded": 0}

    class Meter(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            if state.global_step == WARM_UP_STEPS:
                before["real"], before["padded"] = tokens(state.global_step)
                meter["started"] = time.process_time()
            elif state.global_step == state.max_steps:
                meter["ended"] = time.process_time()
                real, padded = tokens(state.global_step)
                meter.update(real=real - before["real"], padded=padded - before["padded"])
                meter["steps"] = state.global_step - WARM_UP_STEPS

    trainer.add_callback(Meter())
    return meter


def _model(loaded: LoadedRecipe, label_names: Sequence[str]) -> tuple[Any, Any]:
    from finetune.hub_models import find_model
    from finetune.models import build_classifier, load_tokenizer

    section = loaded.recipe.model
    assert section.name is not None
    folder = find_model(section.name, base=loaded.base, revision=section.revision)
    tokenizer = load_tokenizer(folder)
    model, _ = build_classifier(
        section, folder=folder, tokenizer=tokenizer, label_names=label_names, multi_label=False, seed=loaded.recipe.seed
    )
    return model, tokenizer


def _train_stock(loaded: LoadedRecipe, draw: dict[str, Any], work: Path) -> dict[str, Any]:
    import datasets
    from transformers import DataCollatorWithPadding, Trainer

    from finetune.training.trainer import training_arguments

    model, tokenizer = _model(loaded, draw["label_names"])
    pairs = [
        (window, label) for windows, label in zip(draw["windows"], draw["labels"], strict=True) for window in windows
    ]
    rows = datasets.Dataset.from_dict(
        {
            "input_ids": [window for window, _ in pairs],
            "attention_mask": [[1] * len(window) for window, _ in pairs],
            "labels": [label for _, label in pairs],
        }
    )
    pad = DataCollatorWithPadding(tokenizer)
    batches: list[tuple[int, int]] = []

    def collate(features: list[dict[str, Any]]) -> Any:
        batch = pad(features)
        batches.append((int(batch["attention_mask"].sum()), batch["attention_mask"].numel()))
        return batch

    arguments = training_arguments(loaded.recipe.training, folder=work / "stock", seed=13, greater_is_better=True)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)

    def tokens(steps: int) -> tuple[int, int]:
        # The loader collates one batch ahead of the step, so batches are counted by step.
        done = batches[:steps]
        return sum(real for real, _ in done), sum(padded for _, padded in done)

    meter = _meter(trainer, tokens)
    trainer.train()
    return meter


def _train_ours(loaded: LoadedRecipe, draw: dict[str, Any], work: Path) -> dict[str, Any]:
    import datasets

    from finetune.data.labels import LabelMap
    from finetune.tasks.text_classification import TextClassification
    from finetune.training.batches import DocumentTable
    from finetune.training.classifying import ClassifierLesson
    from finetune.training.plan import FitPlan
    from finetune.training.stopping import StopRequest
    from finetune.training.trainer import DocumentTrainer, training_arguments

    model, tokenizer = _model(loaded, draw["label_names"])
    table = DocumentTable(datasets.Dataset.from_dict({"windows": draw["windows"]}), draw["labels"])
    plan = FitPlan(
        lesson=ClassifierLesson(
            task=TextClassification(labels=LabelMap.from_names(draw["label_names"])),
            pad_id=int(tokenizer.pad_token_id),
            examples=table,
            validation=table,
            validation_windows=[],
            score_validation=lambda predictions: {},
        ),
        settings=loaded.recipe.training,
        seed=loaded.recipe.seed,
        greater_is_better=True,
        checkpoints=work / "ours",
        history=work / "history.jsonl",
        last=work / "last",
        identity={},
        stop=StopRequest(where="benchmark", resume_hint=""),
        progress=SILENT,
        save_model=lambda model, folder: None,
    )
    arguments = training_arguments(plan.settings, folder=plan.checkpoints, seed=plan.seed, greater_is_better=True)
    trainer = DocumentTrainer(model, plan, arguments)
    meter = _meter(trainer, lambda steps: (trainer.real_tokens, trainer.padded_tokens))
    trainer.train()
    return meter


if __name__ == "__main__":
    main()
