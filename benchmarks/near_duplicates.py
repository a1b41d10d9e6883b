"""Are near duplicates found, are the found ones duplicates, and what does it cost?

    python benchmarks/near_duplicates.py
    python benchmarks/near_duplicates.py --texts reviews.csv --column review --name "hotel reviews (Chinese)"
    python benchmarks/near_duplicates.py --cost 100000x40 400000x40

Quality: texts of a corpus are cut to a length in tokens, each is edited, and the originals and the copies are given
to `find_families` together. One edit is, by equal chance, the substitution, insertion or deletion of a token or the
swap of two neighbours; substitutes are drawn from the corpus. Recall is the share of copies in their original's
family. Precision is the share of pairs within families that are an original and its copy, or whose tokens are
similar by a measure that knows nothing of shingles: `difflib.SequenceMatcher.ratio` of .8 or more.

Cost: texts glued from pieces of the corpus, one in ten a copy with 5 % edits, in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import itertools
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import describe_machine

from finetune.data.corpora import python_docs
from finetune.progress import write

HERE = Path(__file__).resolve().parent
LENGTHS = (10, 20, 50, 100, 200)
SHARES_EDITED = (0.01, 0.02, 0.05, 0.10, 0.15, 0.20)
TRULY_SIMILAR = 0.8
COPIES_AMONG = 10
PIECE_TOKENS = 10


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="near-duplicates-") as work:
        os.environ["HF_DATASETS_CACHE"] = work  # before datasets is imported: nothing of ours stays in the user's cache
        if options.measure:
            write(sys.stdout, json.dumps(measured_cost(options, Path(work))))
            return 0
        part, lines = ("cost", cost(options)) if options.cost else ("quality", quality(options))
    known = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    run = {**describe_machine(), "similarity": options.similarity, "seed": options.seed, "lines": lines}
    known.setdefault(part, {})[options.name] = run
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def quality(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each length and number of edits; in short texts several shares are the same number."""
    corpus = tokenised(options)
    words = [token for tokens in corpus for token in tokens]
    lines = []
    for length in options.lengths:
        distinct = sorted({tuple(tokens[:length]) for tokens in corpus if len(tokens) >= length})
        shares_by_edits: dict[int, list[float]] = {}
        for share in SHARES_EDITED:
            # Rounded first, for 0.15 * 20 is a little over 3.
            shares_by_edits.setdefault(math.ceil(round(share * length, 6)), []).append(share)
        for edits, shares in shares_by_edits.items():
            draw = random.Random(options.seed)
            originals = draw.sample(distinct, min(options.rows, len(distinct)))
            copies = [edited(list(tokens), edits=edits, words=words, draw=draw) for tokens in originals]
            line = {"tokens": length, "edits": edits, "shares": shares, "texts": len(originals)}
            lines.append(line | found(originals, copies, options.similarity))
            write(sys.stdout, f"{options.name}: {lines[-1]}")
    return lines


def edited(tokens: list[str], *, edits: int, words: list[str], draw: random.Random) -> tuple[str, ...]:
    for _ in range(edits):
        kind = draw.choice(("substitute", "insert", "delete", "swap"))
        place = draw.randrange(len(tokens) - (kind == "swap"))
        if kind == "substitute":
            tokens[place] = draw.choice(words)
        elif kind == "insert":
            tokens.insert(place, draw.choice(words))
        elif kind == "delete":
            del tokens[place]
        else:
            tokens[place : place + 2] = tokens[place + 1], tokens[place]
    return tuple(tokens)


def found(originals: list[tuple[str, ...]], copies: list[tuple[str, ...]], similarity: float) -> dict[str, Any]:
    """Recall and precision of one mixture; originals first, then the copies in the same order."""
    import datasets

    from finetune.data.near_duplicates import find_families

    texts = [*originals, *copies]
    rows = datasets.Dataset.from_dict({"text": [" ".join(tokens) for tokens in texts]})
    family = find_families(rows, similarity=similarity).family
    members: dict[int, list[int]] = {}
    for row, representative in enumerate(family.tolist()):
        members.setdefault(representative, []).append(row)
    pairs = [pair for rows_of_one in members.values() for pair in itertools.combinations(rows_of_one, 2)]
    wrong = sum(
        other - one != len(originals)
        and difflib.SequenceMatcher(None, texts[one], texts[other], autojunk=False).ratio() < TRULY_SIMILAR
        for one, other in pairs
    )
    planted = family[: len(originals)] == family[len(originals) :]
    return {
        "recall": round(float(planted.mean()), 4),
        "precision": round(1 - wrong / max(1, len(pairs)), 4),
        "planted_pairs_found": int(planted.sum()),
        "other_similar_pairs": len(pairs) - int(planted.sum()) - wrong,
        "wrong_pairs": wrong,
    }


def cost(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each size, each measured in a process of its own."""
    lines = []
    for size in options.cost:
        command = [sys.executable, __file__, "--measure", size, *sys.argv[1:]]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=one_thread)
        lines.append(json.loads(done.stdout))
        write(sys.stdout, str(lines[-1]))
    return lines


def measured_cost(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    import datasets

    from finetune.data.near_duplicates import find_families

    datasets.disable_progress_bars()
    count, length = map(int, options.measure.split("x"))
    path = work / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in glued_texts(options, count, length))
    megabytes = path.stat().st_size / 1e6
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(work))
    path.unlink()
    before, peak_before, start = _cpu_seconds(), _peak_mib(resource.RUSAGE_SELF), time.perf_counter()
    families = find_families(rows, similarity=options.similarity, num_proc=options.processes)
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - before
    start = time.perf_counter()
    find_families(rows, similarity=options.similarity, num_proc=options.processes)
    return {
        "rows": count,
        "tokens": length,
        "megabytes_of_jsonl": round(megabytes, 1),
        "processes": options.processes,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "seconds_again": round(time.perf_counter() - start, 3),
        "peak_mib": round(_peak_mib(resource.RUSAGE_SELF)),
        "peak_mib_before": round(peak_before),
        "peak_mib_of_a_worker": round(_peak_mib(resource.RUSAGE_CHILDREN)),
        "near_families": families.near_families,
        "largest": families.largest,
    }


def glued_texts(options: argparse.Namespace, count: int, length: int) -> Iterator[str]:
    """Texts of `length` tokens made of pieces of ten; every tenth an edited copy of the one before."""
    draw = random.Random(options.seed)
    words = [token for tokens in tokenised(options) for token in tokens]
    tokens: list[str] = []
    for number in range(count):
        if number % COPIES_AMONG == COPIES_AMONG - 1:
            copy = edited(list(tokens), edits=math.ceil(0.05 * length), words=words, draw=draw)
            yield " ".join(copy)
            continue
        starts = [draw.randrange(len(words) - PIECE_TOKENS) for _ in range(0, length, PIECE_TOKENS)]
        tokens = [token for start in starts for token in words[start : start + PIECE_TOKENS]][:length]
        yield " ".join(tokens)


def tokenised(options: argparse.Namespace) -> list[list[str]]:
    from finetune.data.near_duplicates import tokens

    if options.texts is None:
        return [tokens(row["text"]) for row in python_docs()]
    csv.field_size_limit(sys.maxsize)
    with options.texts.open(encoding="utf-8-sig", newline="") as file:
        return [tokens(row[options.column]) for row in csv.DictReader(file)]


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _peak_mib(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024  # KiB on Linux


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recall, precision and cost of near-duplicate families.")
    parser.add_argument("--texts", type=Path, help="a csv file of texts (default: builtin:python-docs)")
    parser.add_argument("--column", default="text", help="its column (default text)")
    parser.add_argument("--name", default="python-docs", help="what the results call the texts")
    parser.add_argument("--rows", type=int, default=1000, help="originals for each length and share (default 1000)")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="lengths in tokens")
    parser.add_argument("--similarity", type=float, default=0.7, help="data.near_duplicates (default 0.7)")
    parser.add_argument("--cost", nargs="+", metavar="ROWSxTOKENS", help="measure time and memory instead")
    parser.add_argument("--processes", type=int, default=2, help="processes for --cost (default 2)")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument(
        "--output",
        type=Path,
        default=HERE / "results" / "near_duplicates.json",
        help="results file; a run replaces its own part, the one under --name",
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
