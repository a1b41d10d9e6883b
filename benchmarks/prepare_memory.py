"""What `finetune prepare` costs in memory and time, from end to end: reading, cleaning, families, splits, files.

    python benchmarks/prepare_memory.py --rows 20000
    python benchmarks/prepare_memory.py --rows 1000000 --limit-gb 2      (as root; 12 GB of disk)
    python benchmarks/prepare_memory.py --rows 100000 --words 40

The rows are jsonl of an id, a text and one of four labels. Words are drawn from a vocabulary of 50,000 random ones by
Zipf's law, and texts differ in length, so that hashing, compressing and comparing cost about what they cost on prose;
3 % of the rows repeat an earlier text and 3 % repeat one with one word in fifty changed. The recipe names the columns
and nothing else: default cleaning, near duplicates, splits of .70, .15 and .15, written as Parquet and read back.

The command runs in a process of its own, and the whole tree of processes is looked at every half second. `private` is
what only ending the process would free (Pss_Anon, Pss_Shmem and SwapPss of smaps_rollup: shared pages are counted
once); `resident` adds the pages of mapped files, which the kernel takes back when it needs them. With `--limit-gb` the
processes also run in a memory cgroup (version 1 or 2) without swap, in which the kernel counts private memory, the file
pages they touch and its own, and ends a process that goes beyond: that the command finishes is the proof.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine

from finetune.progress import write

HERE = Path(__file__).resolve().parent
CGROUPS = Path("/sys/fs/cgroup")
SECONDS_BETWEEN_LOOKS = 0.5
VOCABULARY = 50_000
DRAWS = 1 << 20  # size of the table from which words are drawn: a word has as many places as its frequency asks for
ROWS_AT_ONCE = 2_000
EXACT_COPIES, NEAR_COPIES = 0.03, 0.03
WORDS_CHANGED = 0.02
LABELS = ("news", "letter", "review", "manual")
RECIPE = "task: text-classification\ndata: {source: rows.jsonl, columns: {text: text, label: label, id: id}}\n"
# A phase ends when the file appears that it makes; the last one with the process.
PHASES = {
    "reading": "cache/finetune/rows-*/told.json",
    "cleaning": "cache/finetune/*signatures-*",
    "signatures": "cache/finetune/signatures-*",
    "families": "cache/finetune/families-*.npz",
    "splits": "*prepared*",
    "writing": "",
}


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="prepare-memory-", dir=options.work) as work:
        result = measured(options, Path(work))
    write(sys.stdout, json.dumps(result, indent=1))
    known = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    known[options.name or f"{options.rows} rows of {options.words} words"] = {**describe_machine(), **result}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return int(result["exit_code"] != 0)


def measured(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    source = work / "rows.jsonl"
    start = time.perf_counter()
    write_rows(source, rows=options.rows, words=options.words, seed=options.seed)
    size = source.stat().st_size
    write(sys.stdout, f"{options.rows:,} rows, {size / 1e9:.2f} GB, made in {time.perf_counter() - start:.0f} s")
    (work / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "finetune", "prepare", "recipe.yaml", "--output", "prepared", "--json", "--quiet",
               f"data.num_proc={options.processes}"]  # fmt: skip
    with _cgroup(options.limit_gb) as cgroup:
        watched = _watch(command, work=work, cgroup=cgroup)
        counted = cgroup.counted() if cgroup else {}
    return {
        "rows": options.rows,
        "words": options.words,
        "gigabytes_of_jsonl": round(size / 1e9, 3),
        "processes": options.processes,
        "limit_gb": options.limit_gb,
        "seed": options.seed,
        "exit_code": watched.exit_code,
        "seconds": round(watched.seconds, 1),
        "cpu_seconds": round(watched.cpu, 1),
        "rows_per_second": round(options.rows / watched.seconds),
        "peak_private_mb": _mb(watched.private),
        "peak_resident_mb": _mb(watched.resident),
        **counted,
        "phases": {name: phase.to_json() for name, phase in watched.phases.items()},
        "gigabytes_of_cache": round(_bytes_below(work / "cache") / 1e9, 2),
        "gigabytes_of_parquet": round(_bytes_below(work / "prepared") / 1e9, 2),
        **(_found(work / "prepared" / "data.json") if watched.exit_code == 0 else {}),
    }


def write_rows(path: Path, *, rows: int, words: int, seed: int) -> None:
    """jsonl of `rows` texts of `words` words on average."""
    draw = np.random.default_rng(seed)
    vocabulary = _vocabulary(draw)
    ranks = 1 / (np.arange(VOCABULARY) + 2.7)  # Mandelbrot's form of Zipf's law
    table = np.repeat(np.arange(VOCABULARY), np.maximum(1, ranks / ranks.sum() * DRAWS).astype(np.int64))
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, rows, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, rows - start)
            lengths = np.clip(draw.lognormal(-0.08, 0.4, count) * words, words // 4, words * 4).astype(np.int64)
            drawn = table[draw.integers(len(table), size=int(lengths.sum()))]
            texts = np.split(drawn, np.cumsum(lengths)[:-1])
            for row, kind in enumerate(draw.random(count).tolist()):
                if row and kind < EXACT_COPIES + NEAR_COPIES:
                    texts[row] = texts[int(draw.integers(row))].copy()
                    changed = 0 if kind < EXACT_COPIES else int(np.ceil(len(texts[row]) * WORDS_CHANGED))
                    texts[row][draw.integers(len(texts[row]), size=changed)] = draw.choice(table, size=changed)
                text = " ".join(map(vocabulary.__getitem__, texts[row].tolist()))
                example = {"id": f"row {start + row}", "text": text, "label": LABELS[(start + row) % len(LABELS)]}
                file.write(json.dumps(example) + "\n")


def _vocabulary(draw: np.random.Generator) -> list[str]:
    """Different words of random letters; frequent ones are shorter, as in any language."""
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        longest = 4 + min(8, len(words) // 200)
        words["".join(draw.choice(list("abcdefghijklmnopqrstuvwxyz"), size=draw.integers(2, longest)))] = None
    return list(words)


@dataclass
class _Phase:
    """What one phase took, and the highest memory seen in it, in bytes."""

    seconds: float = 0.0
    cpu: float = 0.0
    private: int = 0
    resident: int = 0

    def to_json(self) -> dict[str, float]:
        return {"seconds": round(self.seconds, 1), "cpu_seconds": round(self.cpu, 1),
                "peak_private_mb": _mb(self.private), "peak_resident_mb": _mb(self.resident)}  # fmt: skip


@dataclass
class _Watched:
    exit_code: int = 0
    phases: dict[str, _Phase] = field(default_factory=lambda: {name: _Phase() for name in PHASES})

    seconds = property(lambda self: sum(phase.seconds for phase in self.phases.values()))
    cpu = property(lambda self: sum(phase.cpu for phase in self.phases.values()))
    private = property(lambda self: max(phase.private for phase in self.phases.values()))
    resident = property(lambda self: max(phase.resident for phase in self.phases.values()))


def _watch(command: list[str], *, work: Path, cgroup: _Cgroup | None) -> _Watched:
    """Runs the command in `work` with a cache of its own, and looks at it until it ends."""
    watched, names, now = _Watched(), list(PHASES), time.perf_counter()
    environment = os.environ | {"HF_DATASETS_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1"}
    with (work / "output.json").open("wb") as output:
        child = subprocess.Popen(command, cwd=work, env=environment, stdout=output,
                                 preexec_fn=cgroup.enter if cgroup else None)  # fmt: skip
    cpu = 0.0
    while child.poll() is None:
        while len(names) > 1 and any(work.glob(PHASES[names[0]])):
            names.pop(0)
        phase, tree, before = watched.phases[names[0]], _tree(child.pid), now
        private, resident = map(sum, zip(*(_memory(process) for process in tree), strict=True))
        phase.private, phase.resident = max(phase.private, private), max(phase.resident, resident)
        used, now = max(cpu, sum(map(_cpu_seconds, tree))), time.perf_counter()
        phase.seconds, phase.cpu, cpu = phase.seconds + now - before, phase.cpu + used - cpu, used
        time.sleep(SECONDS_BETWEEN_LOOKS)
    watched.exit_code = child.returncode
    return watched


def _tree(root: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        if (words := _stat(int(path.name))) is not None:
            children.setdefault(int(words[1]), []).append(int(path.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def _memory(process: int) -> tuple[int, int]:
    """Private and resident bytes; 0 for a process that has just ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return 0, 0
    sizes = {name: int(size.split()[0]) * 1024 for name, _, size in (line.partition(":") for line in lines)}
    private = sizes["Pss_Anon"] + sizes["Pss_Shmem"] + sizes["SwapPss"]
    return private, private + sizes["Pss_File"]


def _cpu_seconds(process: int) -> float:
    """Of the process and of its children that have ended."""
    words = _stat(process)
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK") if words else 0.0


def _stat(process: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None


@dataclass(frozen=True)
class _Cgroup:
    """A group of processes whose memory the kernel limits. Needs root."""

    path: Path
    version: int

    def limit(self, size: int) -> None:
        if self.version == 2:
            (self.path / "memory.max").write_text(str(size), encoding="ascii")
            (self.path / "memory.swap.max").write_text("0", encoding="ascii")
            return
        (self.path / "memory.limit_in_bytes").write_text(str(size), encoding="ascii")
        with suppress(OSError):  # a kernel that does not count swap has no such file
            (self.path / "memory.memsw.limit_in_bytes").write_text(str(size), encoding="ascii")

    def enter(self) -> None:
        (self.path / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    def counted(self) -> dict[str, Any]:
        """The kernel's own peak, file pages included, and how many processes it ended."""
        peak = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        events = "memory.events" if self.version == 2 else "memory.oom_control"
        lines = (self.path / events).read_text(encoding="ascii").splitlines()
        killed = next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
        most = int((self.path / peak).read_text(encoding="ascii"))
        return {"cgroup_version": self.version, "peak_in_cgroup_mb": _mb(most), "killed_by_the_limit": killed}


@contextmanager
def _cgroup(limit_gb: float | None) -> Iterator[_Cgroup | None]:
    if limit_gb is None:
        yield None
        return
    name = f"finetune-prepare-{os.getpid()}"
    old = CGROUPS / "memory"
    group = _Cgroup(old / name, 1) if old.is_dir() else _Cgroup(CGROUPS / name, 2)
    try:
        group.path.mkdir()
        group.limit(int(limit_gb * 1e9))
    except OSError as error:
        sys.exit(f"--limit-gb needs root and a memory cgroup: {error}")
    try:
        yield group
    finally:
        group.path.rmdir()


def _found(report: Path) -> dict[str, Any]:
    """What of the planted copies was found: proof that the work was done."""
    data = json.loads(report.read_text(encoding="utf-8"))
    dropped = {step["name"]: step["dropped"] for step in data["cleaning"] if step["dropped"]}
    return {"dropped": dropped, "near_families": data["duplicate_families"]["near_families"],
            "split_sizes": data["splits"]["sizes"]}  # fmt: skip


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _mb(size: int) -> int:
    return round(size / 1e6)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory and time of finetune prepare on made rows.")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--words", type=int, default=370, help="words of a text on average (370 are about 2 KB)")
    parser.add_argument("--processes", type=int, default=2, help="data.num_proc (default 2)")
    parser.add_argument("--limit-gb", type=float, metavar="GB", help="run in a memory cgroup of this size; needs root")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--work", type=Path, help="folder for the rows, the cache and the output (default: temporary)")
    parser.add_argument("--name", help="what the results call this run")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "prepare_memory.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
