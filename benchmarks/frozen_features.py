"""What does it save to run a frozen encoder once? Five epochs of a head, beside transformers' Trainer.

    python benchmarks/frozen_features.py --pairs 3

Both train the head of the packaged MiniLM, whose encoder is frozen, on the same documents of builtin:python-docs, and
evaluate after every epoch:

- stock: transformers.Trainer with requires_grad switched off in the encoder, DataCollatorWithPadding (dynamic padding),
  an example is a window;
- ours: adapter.kind frozen: what the head reads is computed once, from an empty cache, and then the head trains.

The measure is CPU seconds of the process from the first pass to the end of the training; reading, cutting and loading
come before. Runs alternate, each in a process of its own; ratios are of neighbours. Exits 1 below 4 times as fast.
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
from pathlib import Path
from typing import Any

from finetune.progress import SILENT, write
from finetune.recipe_file import LoadedRecipe, load_recipe

HERE = Path(__file__).resolve().parent
CONTENDERS = ("stock", "ours")
LEAST_TIMES = 4.0
MEBIBYTE = 2**20


def main() -> int:
    options = _options()
    os.environ.update(OMP_NUM_THREADS=str(options.threads), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    if options.contender:
        write(sys.stdout, json.dumps(_measure(options)))
        return 0
    from machine import describe_machine

    runs = []
    for pair in range(1, options.pairs + 1):
        for contender in CONTENDERS:
            runs.append({"pair": pair, "contender": contender, **_run(options, contender)})
            write(sys.stdout, json.dumps(runs[-1]))
    seconds = {name: [run["cpu_seconds"] for run in runs if run["contender"] == name] for name in CONTENDERS}
    pairs = zip(seconds["stock"], seconds["ours"], strict=True)
    times = round(statistics.median(stock / ours for stock, ours in pairs), 2)
    write(sys.stdout, f"{times} times as fast as stock at {options.epochs} epochs (median of {options.pairs} pairs)")
    settings = {name: getattr(options, name) for name in ("pairs", "documents", "epochs", "max_tokens", "threads")}
    result = {**describe_machine(), "settings": settings, "times_as_fast_as_stock": times, "runs": runs}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(times < LEAST_TIMES)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A head on a frozen encoder beside transformers' Trainer, paired.")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each contender (default 3)")
    parser.add_argument("--documents", type=int, default=80, help="documents, of which 70 %% are trained on")
    parser.add_argument("--epochs", type=int, default=5, help="passes over them (default 5)")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest window in tokens (default 256)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "frozen_features.json")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace, contender: str) -> dict[str, Any]:
    settings = [f"--{name.replace('_', '-')}={getattr(options, name)}"
                for name in ("documents", "epochs", "max_tokens", "threads")]  # fmt: skip
    command = [sys.executable, __file__, "--contender", contender, *settings]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, Any] = json.loads(output.decode("utf-8").splitlines()[-1])
    return found


def _recipe(options: argparse.Namespace) -> LoadedRecipe:
    changes = {
        "model.attention_dropout": "null", "adapter.kind": "frozen", "data.limit": options.documents,
        "data.split.stratify": "false",
        "windows.max_tokens": options.max_tokens, "windows.stride": 32, "windows.max_per_document": "null",
        "training.num_train_epochs": options.epochs, "training.learning_rate": 1e-3, "training.use_cpu": "true",
        "training.per_device_train_batch_size": 32, "training.class_weights": "none",
    }  # fmt: skip
    return load_recipe(
        HERE.parent / "recipes" / "python-docs.yaml", [f"{key}={value}" for key, value in changes.items()]
    )


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """One contender; CPU seconds of its passes and the whole process's peak of memory."""
    import torch

    from finetune.classifier_learner import build_classifier_learner
    from finetune.data.prepare import prepare

    torch.set_num_threads(options.threads)
    loaded = _recipe(options)
    prepared = prepare(loaded, progress=SILENT)
    learner = build_classifier_learner(loaded, prepared, progress=SILENT)
    with tempfile.TemporaryDirectory(prefix="frozen-features-") as work:
        train = (_stock if options.contender == "stock" else _ours)(loaded, prepared, learner, Path(work))
        started = time.process_time()
        train()
        seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "cpu_seconds": round(seconds, 3),
        "training_documents": len(prepared.encoded["train"]),
        "training_windows": sum(map(len, learner.windows["train"]["windows"])),
        "peak_mebibytes": round(peak / MEBIBYTE, 1),
    }


def _stock(loaded: LoadedRecipe, prepared: Any, learner: Any, work: Path) -> Any:
    import datasets
    import numpy as np
    from transformers import DataCollatorWithPadding, Trainer

    from finetune.training.trainer import training_arguments

    def rows(split: str) -> datasets.Dataset:
        documents = zip(learner.windows[split]["windows"], prepared.encoded[split], strict=True)
        pairs = [(window, label) for windows, label in documents for window in windows]
        return datasets.Dataset.from_dict(
            {
                "input_ids": [window for window, _ in pairs],
                "attention_mask": [[1] * len(window) for window, _ in pairs],
                "labels": [label for _, label in pairs],
            }
        )

    model = learner.fresh_model()
    for weight in model.base_model.parameters():
        weight.requires_grad_(False)
    arguments = training_arguments(
        loaded.recipe.training.model_copy(update={"metric_for_best_model": "accuracy"}), folder=work / "stock",
        seed=13, greater_is_better=True,
    )  # fmt: skip
    arguments.per_device_eval_batch_size = 32
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows("train"), eval_dataset=rows("validation"),
        data_collator=DataCollatorWithPadding(learner.tokenizer),
        compute_metrics=lambda told: {"accuracy": float(np.mean(told.predictions.argmax(-1) == told.label_ids))},
    )  # fmt: skip
    trainer.model_accepts_loss_kwargs = False
    return trainer.train


def _ours(loaded: LoadedRecipe, prepared: Any, learner: Any, work: Path) -> Any:
    from finetune.runs import Run
    from finetune.training import frozen
    from finetune.training.plan import FitPlan
    from finetune.training.stopping import StopRequest
    from finetune.training.trainer import fit

    frozen.cache_folder = lambda: work  # type: ignore[attr-defined]  # empty: every run computes its features

    def train() -> None:
        plan = FitPlan(
            lesson=learner.lesson(loaded, prepared, Run(work)),
            settings=loaded.recipe.training,
            seed=loaded.recipe.seed,
            greater_is_better=True,
            checkpoints=work / "checkpoints",
            history=work / "history.jsonl",
            last=work / "last",
            identity={},
            stop=StopRequest(where="benchmark", resume_hint=""),
            progress=SILENT,
            save_model=lambda model, folder: None,
        )
        fit(learner.model, plan)

    return train


if __name__ == "__main__":
    sys.exit(main())
