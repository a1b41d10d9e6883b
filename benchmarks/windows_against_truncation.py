"""What reading whole documents is worth: windows against truncation, on every document of a table, with an interval.

    python benchmarks/windows_against_truncation.py cnews_1k.csv --folder folds
    (writes the folds, the recipes and folds/commands.sh; run that)
    python benchmarks/windows_against_truncation.py folds --score

`finetune prepare --folds` deals the documents, so that no duplicate is on both sides. Each fold is the test split of 2
runs that differ in `windows` alone; the validation part that chooses the epoch comes out of the other folds. Together
the folds predict every document once, which is what a difference of a few points needs to be told from chance.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from finetune.progress import write
from finetune.scores.intervals import wilson

RESAMPLES = 10_000
WINDOWS = {
    "windows": "{max_tokens: 256, stride: 32}",
    "truncation": "{max_tokens: 128, stride: 32, truncate: true}",
}
PREPARE = """\
task: text-classification
data:
  source: {source}
  columns: {{text: {text}, label: {label}}}
"""
RECIPE = """\
# Made by benchmarks/windows_against_truncation.py.
task: text-classification
model:
  from_scratch:
    tokenizer: {tokenizer}
    vocab_size: 4000
    hidden_size: 128
    num_hidden_layers: 2
    num_attention_heads: 4
    intermediate_size: 512
    max_position_embeddings: 256
  attention_dropout: 0
data:
  source: {{train: train-{fold}.csv, test: test-{fold}.csv}}
  columns: {{id: id}}
windows: {windows}
training:
  num_train_epochs: 6
  learning_rate: 1.0e-3
  per_device_train_batch_size: 8
  use_cpu: true
evaluation: {{baselines: [majority], bootstrap: 0}}
"""


def main() -> None:
    options = _options()
    write(sys.stdout, _score(options.table) if options.score else _prepare(options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Windows against truncation over folds.")
    parser.add_argument("table", type=Path, help="a csv file of long documents; with --score the folder of the runs")
    parser.add_argument("--score", action="store_true", help="compare the predictions of the finished runs")
    parser.add_argument("--folder", type=Path, default=Path("folds"))
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--tokenizer", default="characters", choices=("characters", "wordpiece"))
    return parser.parse_args()


def _prepare(options: argparse.Namespace) -> str:
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    recipe = PREPARE.format(source=json.dumps(str(options.table.absolute())), text=options.text, label=options.label)
    (folder / "prepare.yaml").write_text(recipe, encoding="utf-8")
    command = [sys.executable, "-m", "finetune", "prepare", str(folder / "prepare.yaml"), "--quiet", "--force"]
    subprocess.run(
        [*command, "--output", str(folder / "all"), "--format", "csv", "--folds", str(options.folds)], check=True
    )
    rows = [row for split in ("train", "validation", "test") for row in _rows(folder / "all" / f"{split}.csv")]
    commands = []
    for fold in range(options.folds):
        _write(folder / f"test-{fold}.csv", [row for row in rows if int(row["fold"]) == fold])
        _write(folder / f"train-{fold}.csv", [row for row in rows if int(row["fold"]) != fold])
        for kind, windows in WINDOWS.items():
            text = RECIPE.format(fold=fold, windows=windows, tokenizer=options.tokenizer)
            (folder / f"{kind}-{fold}.yaml").write_text(text, encoding="utf-8")
            commands.append(f"finetune train {folder}/{kind}-{fold}.yaml --run {folder}/run-{kind}-{fold}")
    (folder / "commands.sh").write_text("\n".join(["set -e", *commands]) + "\n", encoding="utf-8")
    return f"{len(rows)} documents in {options.folds} folds; now run: sh {folder}/commands.sh"


def _score(folder: Path) -> str:
    """Accuracy over all folds of both kinds, and the paired bootstrap of their difference over documents."""
    right = {kind: _right(folder, kind) for kind in WINDOWS}
    ids = sorted(right["windows"])
    if ids != sorted(right["truncation"]):
        raise SystemExit("the two kinds have predicted different documents")
    marks = {kind: np.array([found[each] for each in ids], dtype=float) for kind, found in right.items()}
    lines = []
    for kind, found in marks.items():
        low, high = wilson(int(found.sum()), len(found))
        lines.append(f"{kind}: accuracy {found.mean():.3f} ({low:.3f} to {high:.3f}), n {len(found)}")
    differences = marks["windows"] - marks["truncation"]
    drawn = np.random.default_rng(0).integers(0, len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), (2.5, 97.5))
    lines.append(f"windows less truncation, paired: {differences.mean():+.3f} ({low:+.3f} to {high:+.3f})")
    return "\n".join(lines)


def _right(folder: Path, kind: str) -> dict[str, bool]:
    """For each document whether it was labelled rightly by the run that did not train on it."""
    from finetune.runs import read_table

    found = {}
    for run in sorted(folder.glob(f"run-{kind}-*")):
        table = read_table(run / "predictions" / "test.parquet")
        found |= {
            name: ours == theirs
            for name, ours, theirs in zip(table["id"], table["prediction"], table["reference"], strict=True)
        }
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as handle:
        table = csv.DictWriter(handle, ["id", "text", "label"], extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
