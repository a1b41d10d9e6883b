"""Kill a training at random moments, resume it, and compare what comes out with an undisturbed run.

    python benchmarks/torture.py [--kills 50] [--seed 1] [--folder DIR]

Each kill is a SIGKILL after a random part of the time that the whole run takes, so that some come before the run
folder exists, some inside a save and some while scoring; every attempt resumes what the last one left. When a run
gets to its end, sha256 over the tensors of best/ and last/, its history, predictions and scores must be those of the
undisturbed run. The recipe is tiny and saves after every step, so that many kills fall into a save. torch is
imported once: every attempt is a forked child. Exit status 1 when one run differs or cannot be resumed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

# Before any library reads them: one thread makes forking safe, and nothing here needs the network.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", MPLBACKEND="Agg")

WORDS = {"good": ["fine", "lovely", "clean", "warm"], "bad": ["dirty", "cold", "rude", "broken"]}
RECIPE = """
task: text-classification
model:
  from_scratch: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64,
                 vocab_size: 200, dropout: 0.2}
data: {source: reviews.csv}
windows: {max_tokens: 16, stride: 4}
training:
  num_train_epochs: 6
  per_device_train_batch_size: 8
  gradient_accumulation_steps: 2
  learning_rate: 1.0e-2
  save_steps: 1
  save_total_limit: 3
  logging_steps: 2
  early_stopping_patience: 3
  metric_for_best_model: loss
  use_cpu: true
evaluation: {bootstrap: 0, baselines: [majority, naive_bayes]}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="how many SIGKILLs (default: 50)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: 1)")
    parser.add_argument("--folder", help="where to work; it is kept (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="finetune-torture-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for module in ("finetune.experiment", "matplotlib.figure", "matplotlib.font_manager"):
        importlib.import_module(module)
    os.chdir(folder)
    write_inputs()
    same = torture(kills=arguments.kills, chance=random.Random(arguments.seed))
    if same and not arguments.folder:
        shutil.rmtree(folder)
    print("all runs ended as the undisturbed one" if same else f"NOT THE SAME; everything is in {folder}")
    return 0 if same else 1


def torture(*, kills: int, chance: random.Random) -> bool:
    """Kill runs `kills` times, and let the last one end. Prints a line a kill; returns whether all ended alike."""
    started = time.monotonic()
    code = attempt("whole", resume=False, kill_after=None)
    seconds = time.monotonic() - started
    if code != 0:
        print(f"the undisturbed run ended with {code}; see whole.log")
        return False
    expected = fingerprint("whole")
    print(f"undisturbed: {seconds:.1f} s, {steps_of('whole')} steps, {expected['weights'][:12]}", flush=True)
    number, kill = 1, 0
    while True:
        name = f"run-{number}"
        delay = None if kill == kills else chance.uniform(0.02, 0.9) * seconds
        began = time.time()
        code = attempt(name, resume=Path(name, "run.json").exists(), kill_after=delay)
        if code == -signal.SIGKILL:
            kill += 1
            print(f"kill {kill:2}: {name} after {delay or 0:4.1f} s, {where_it_stands(name, began)}", flush=True)
            continue
        found = fingerprint(name) if code == 0 else {}
        differing = [key for key in expected if found.get(key) != expected[key]]
        if code or differing:
            print(f"{name}: exit status {code}, differs in {', '.join(differing)}; see {name}.log", flush=True)
            return False
        print(f"{name}: complete, the same", flush=True)
        shutil.rmtree(name)
        number += 1
        if kill == kills:
            return True


def attempt(name: str, *, resume: bool, kill_after: float | None) -> int:
    """Train or resume in a forked child; returns its exit status, or minus the signal that ended it."""
    words = ["train", name, "--resume"] if resume else ["train", "recipe.yaml", "--run", name]
    child = os.fork()
    if child == 0:
        log = os.open(f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 99
        try:
            from finetune.cli import main as finetune

            code = finetune([*words, "--quiet"])
        finally:
            sys.stderr.flush()
            os._exit(code)
    deadline = None if kill_after is None else time.monotonic() + kill_after
    while True:
        ended, status = os.waitpid(child, 0 if deadline is None else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(0.002)


def fingerprint(name: str) -> dict[str, str]:
    """Hashes of all that a resume could falsify."""
    import pyarrow.parquet
    from safetensors.numpy import load_file

    run = Path(name)
    tensors = hashlib.sha256()
    for model in ("best", "last"):
        for key, tensor in sorted(load_file(run / model / "model.safetensors").items()):
            tensors.update(f"{model} {key} {tensor.shape}".encode() + tensor.tobytes())
    predictions = pyarrow.parquet.read_table(run / "predictions" / "test.parquet").to_pydict()
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    texts = {
        "history": (run / "history.jsonl").read_text(encoding="utf-8"),
        "scores": (run / "scores.json").read_text(encoding="utf-8"),
        "predictions": json.dumps(predictions),
        "counts": json.dumps([info["status"], info["steps"], info["training_tokens"], info["padding_share"]]),
    }
    hashed = {key: hashlib.sha256(text.encode()).hexdigest() for key, text in texts.items()}
    return {"weights": tensors.hexdigest(), **hashed}


def steps_of(name: str) -> int:
    return int(json.loads(Path(name, "run.json").read_text(encoding="utf-8"))["steps"])


def where_it_stands(name: str, began: float) -> str:
    """What the kill of an attempt that `began` then left, in a few words."""
    run = Path(name)
    if not (run / "run.json").exists():
        return "begun by half" if run.exists() else "before the run folder"
    saving = run / "checkpoints" / ".saving"
    if saving.exists() and saving.stat().st_mtime >= began:
        return "inside a save"
    if (run / "best").exists():
        return "while scoring"
    names = [path.name for path in (run / "checkpoints").glob("checkpoint-*")]
    newest = max(names, key=lambda item: int(item.split("-")[1]), default="no checkpoint yet")
    return f"at {newest}"


def write_inputs() -> None:
    chance = random.Random(5)
    with open("reviews.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        for row in range(160):
            label = chance.choice(list(WORDS))
            other = "bad" if label == "good" else "good"
            words = [chance.choice(WORDS[label if chance.random() < 0.8 else other]) for _ in range(8)]
            writer.writerow([f"{row} {' '.join(words)}", label])
    Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
