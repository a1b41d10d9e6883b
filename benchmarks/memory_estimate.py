"""Is what `finetune doctor RECIPE` reckons within 20 % of what a training takes?

Each case trains a few steps in a process of its own, on texts as long as its windows, and reads from Linux the most
memory that the process had in use. From it is taken what the process held before the model was built: libraries and
data. What is left is weights, gradients, optimizer and activations, which is what the estimate adds up.

The processes run with MALLOC_MMAP_THRESHOLD_=65536, so that glibc gives back what is freed. Without it the heap keeps
holes between tensors that nobody can reckon (--heap shows them).

    python benchmarks/memory_estimate.py [--quick] [--heap] [--output FILE]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import describe_machine

WORDS = 400
STEPS = 3
ALLOWED = 0.20
TINY = ["training.max_steps=1", "training.per_device_train_batch_size=1", "windows.max_tokens=16"]
SIZES = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048}
SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}

Json = dict[str, Any]


def cases(sizes: Json) -> dict[str, Json]:
    """Overrides by case; those with `base` begin from the weights that the first case leaves behind."""
    encoder = {"from_scratch": {"architecture": "bert", "vocab_size": 500, "max_position_embeddings": 256, **sizes}}
    decoder = {"from_scratch": {"architecture": "llama", "vocab_size": 500, "max_position_embeddings": 256, **sizes}}
    classifier = {"task": "text-classification", "model": encoder}
    return {
        "classifier, full": classifier,
        "classifier, no dropout": {"task": "text-classification", "model": encoder | {"attention_dropout": 0.0}},
        "classifier, checkpointing": classifier | {"extra": {"activation_checkpointing": True}},
        "classifier, lora": {"task": "text-classification", "base": True, "adapter": {"kind": "lora", "r": 16}},
        "writer, full": {"task": "text-generation", "model": decoder},
    }


def recipe_of(case: Json, folder: Path, base: Path) -> str:
    """Writes data and recipe of a case; returns the recipe's path."""
    chance = random.Random(13)
    words = ["".join(chance.choices("abcdefghijklmnoprstuvw", k=chance.randint(3, 8))) for _ in range(WORDS)]
    rows = [{"text": f"{n} " + " ".join(chance.choices(words, k=400)), "label": "ab"[n % 2]} for n in range(40)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe: Json = {
        "task": case["task"],
        "model": {"name": str(base)} if case.get("base") else case["model"],
        "data": {"source": "data.jsonl", "columns": {"text": "text"}},
        "windows": {"max_tokens": 256, "stride": 0} if case["task"] == "text-classification" else {"max_tokens": 256},
        "training": {
            "max_steps": STEPS, "per_device_train_batch_size": 8, "use_cpu": True, "extra": case.get("extra", {}),
        },
        "evaluation": {"baselines": [], "bootstrap": 100},
    }  # fmt: skip
    if case["task"] == "text-classification":
        recipe["data"]["columns"]["label"] = "label"
    if "adapter" in case:
        recipe["adapter"] = case["adapter"]
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return str(path)


def measured(recipe: str, save: Path | None) -> Json:
    """In this process: bytes of one fit at its peak, without what was there before, beside the estimate."""
    from finetune.memory import estimate_memory
    from finetune.recipe_file import load_recipe

    # The first training of a process loads kernels and libraries that the second finds.
    fitted(load_recipe(recipe, TINY), "warm", None)
    loaded = load_recipe(recipe)
    estimate = estimate_memory(loaded, device="cpu", ways=[loaded.recipe.adapter.kind])[0]  # type: ignore[union-attr]
    peak = fitted(loaded, "run", save)
    parts = {name: getattr(estimate, name) for name in ("weights", "gradients", "optimizer", "activations")}
    return {"estimate": estimate.together, "measured": peak, **parts, "trained": estimate.trained}


def fitted(loaded: Any, name: str, save: Path | None) -> int:
    """Train as `finetune train` does, without scoring; returns bytes at the peak beyond those before the model."""
    from finetune.branches import build_learner, fit, prepare
    from finetune.experiment import fit_plan
    from finetune.progress import SILENT
    from finetune.runs import Run
    from finetune.training.stopping import StopRequest

    prepared = prepare(loaded, progress=SILENT)
    learner = build_learner(loaded, prepared, progress=SILENT)
    weights = sum(weight.nbytes for weight in learner.model.parameters())
    run = Run(loaded.base / name)
    run.folder.mkdir()
    plan = fit_plan(
        run, loaded, prepared, learner, stop=StopRequest(where="", resume_hint=""), on_evaluation=None, progress=SILENT
    )
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = memory("VmRSS") - weights
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    fit(loaded, learner, plan, resume=None)
    peak = memory("VmHWM") - before
    if save is not None:
        learner.save(learner.model, save)
    return peak


def memory(field: str) -> int:
    """Bytes, from the kernel's account of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this kernel does not tell {field}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model")
    parser.add_argument("--heap", action="store_true", help="with glibc's own thresholds")
    parser.add_argument("--output", type=Path, help="also write the numbers as JSON")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        recipe, save, output = arguments.case
        Path(output).write_text(json.dumps(measured(recipe, Path(save) if save else None)), encoding="utf-8")
        os._exit(0)
    found: dict[str, Json] = {}
    own = {} if arguments.heap else {"MALLOC_MMAP_THRESHOLD_": "65536"}
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        for number, (name, case) in enumerate(cases(SMALL if arguments.quick else SIZES).items()):
            folder = Path(place) / str(number)
            folder.mkdir()
            recipe, output = recipe_of(case, folder, base), folder / "out.json"
            words = [recipe, str(base) if number == 0 else "", str(output)]
            subprocess.run([sys.executable, __file__, "--case", *words], check=True, env=os.environ | own)
            found[name] = json.loads(output.read_text(encoding="utf-8"))
            row = found[name]
            reckoned, taken = row["estimate"] / 1e6, row["measured"] / 1e6
            print(f"{name:<28}{reckoned:8.0f} MB reckoned{taken:8.0f} MB measured{reckoned / taken:7.2f}", flush=True)
    if arguments.output:
        told = {**describe_machine(), "heap": arguments.heap, "bytes": found}
        arguments.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0 if all(abs(row["estimate"] / row["measured"] - 1) <= ALLOWED for row in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
