"""How fast does a fast thing start? `finetune --help` and a refused recipe beside `import pydantic, yaml`.

    python benchmarks/startup.py

CPU seconds of each child process, user and system, as the kernel counted them. The commands take turns, and medians
are compared, so that a busy minute falls on all of them. Exits 1 when a command takes over LIMIT times the import.
`python -X importtime -m finetune --help` shows where the time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe_machine

from finetune.progress import write

HERE = Path(__file__).resolve().parent
LIMIT = 5.0
YARDSTICK = "import pydantic, yaml"
MISSPELT = (
    "task: text-classification\ndata: {source: builtin:python-docs, colums: {text: text}}\ntraining: {lr: 1.0e-4}\n"
)
# The dearest refusal: a name under `extra` is looked up in the source of transformers, which is read for it.
MISSPELT_EXTRA = "task: text-classification\ndata: {source: builtin:python-docs}\ntraining: {extra: {adam_bta1: 0.8}}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU time to start, beside importing pydantic and yaml.")
    parser.add_argument("--runs", type=int, default=7, help="runs of each command (default 7)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "startup.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="startup-") as work:
        commands = _commands(Path(work))
        for command, code in commands.values():
            _cpu_seconds(command, code)  # warms the disk cache and writes what Python caches
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.runs):
            for name, (command, code) in commands.items():
                seconds[name].append(_cpu_seconds(command, code))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: round(value / medians[YARDSTICK], 2) for name, value in medians.items() if name != YARDSTICK}
    for name, ratio in {YARDSTICK: 1.0, **ratios}.items():
        write(sys.stdout, f"{name:<40}{medians[name] * 1000:6.0f} ms CPU  {ratio:5.2f} times")
    result = {**describe_machine(), "runs": options.runs, "limit": LIMIT, "ratios": ratios, "cpu_seconds": seconds}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(max(ratios.values()) > LIMIT)


def _commands(work: Path) -> dict[str, tuple[list[str], int]]:
    """What to call each command, its words, and the exit code it must have."""
    (work / "misspelt.yaml").write_text(MISSPELT, encoding="utf-8")
    (work / "extra.yaml").write_text(MISSPELT_EXTRA, encoding="utf-8")
    finetune = [sys.executable, "-m", "finetune"]
    return {
        YARDSTICK: ([sys.executable, "-c", YARDSTICK], 0),
        "finetune --help": ([*finetune, "--help"], 0),
        "refused recipe": ([*finetune, "train", str(work / "misspelt.yaml")], 2),
        "refused recipe, unknown extra": ([*finetune, "train", str(work / "extra.yaml")], 2),
    }


def _cpu_seconds(command: list[str], code: int) -> float:
    """User and system seconds of one child. Leaves the benchmark when it did not end as it should."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != code:
        sys.exit(f"{' '.join(command)} ended with {child.returncode}, not {code}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
