"""Stored models and tokenizers, whatever their task: read, checked against their configuration, and saved.

transformers fills whatever is missing with random numbers and goes on with a warning. Here the callers are handed
every tensor that is missing or left over, and what can never be right is an error.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from finetune.errors import FinetuneError, ModelError, did_you_mean, listed
from finetune.model_folder import (
    ModelFolder,
    check_tokenizer_files,
    misshapen_tensors,
    read_tensor_headers,
)
from finetune.replaced_folder import replaced_folder
from finetune.runs import disk_faults

AutoClass = type[AutoModelForSequenceClassification] | type[AutoModelForCausalLM] | type[AutoModelForSeq2SeqLM]
# Tensor name -> its shape in the folder, and the shape that the configuration asks for.
ShapeDifferences = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

ATTENTION_DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
# What transformers and tokenizers write for "no limit" is far above this; no position table is.
NO_LIMIT_TOKENS = 10_000_000


def read_model_type(path: Path) -> tuple[str, list[str]]:
    """`model_type` and `architectures` as config.json states them; ModelError for a type transformers has not."""
    with loading(path):
        settings, _ = PreTrainedConfig.get_config_dict(path)
    model_type = str(settings.get("model_type"))
    if model_type not in transformers.CONFIG_MAPPING:
        what = f"unknown model_type '{model_type}' in config.json (transformers {transformers.__version__})"
        do = did_you_mean(model_type, transformers.CONFIG_MAPPING.keys()) or "A newer transformers may know it."
        raise ModelError(str(path), what, do)
    return model_type, [str(name) for name in settings.get("architectures") or []]


def read_config(path: Path) -> PreTrainedConfig:
    """The folder's configuration, of any architecture that transformers itself has."""
    read_model_type(path)
    with loading(path):
        return cast(PreTrainedConfig, transformers.AutoConfig.from_pretrained(path, trust_remote_code=False))


def read_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerFast:
    """The folder's fast tokenizer, which cuts and pads nothing unless asked to; it may lack a padding token.

    Raises ModelError when its files are missing or foreign, when it is empty, or when it has ids the model has not.
    """
    check_tokenizer_files(folder.path)
    config = read_config(folder.path)
    with loading(folder.path):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(str(folder.path), "the tokenizer has no fast form", "Windows need one: add tokenizer.json.")
    ids = tokenizer.get_vocab().values()
    if len(ids) <= len(tokenizer.all_special_tokens):
        raise ModelError(str(folder.path), "the tokenizer knows no words", "Copy its files from the original model.")
    vocab_size = getattr(config.get_text_config(), "vocab_size", None)
    if isinstance(vocab_size, int) and max(ids) >= vocab_size:
        what = f"tokenizer has id {max(ids)}, model has {vocab_size}"
        raise ModelError(str(folder.path), what, "Use the tokenizer that the model was trained with.")
    # all-MiniLM-L6-v2 ships a tokenizer.json that cuts at 128 tokens: nothing may be cut unseen.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def differing_shapes(path: Path, config: PreTrainedConfig, auto: AutoClass) -> ShapeDifferences:
    """The tensors of the folder that do not fit `config`.

    transformers raises for these too, but tells the shapes only to its log.
    """
    with loading(path), torch.device("meta"):
        network = auto.from_config(config)  # type: ignore[no-untyped-call]
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return misshapen_tensors(path, expected=expected, prefix=f"{network.base_model_prefix}.")


def refuse_differences(path: Path, differ: ShapeDifferences) -> None:
    """ModelError, with names and shapes, when there is any."""
    if differ:
        shown = [f"{name} is {list(here)}, config.json says {list(there)}" for name, (here, there) in differ.items()]
        raise ModelError(str(path), f"weights do not fit config.json: {listed(shown, 5)}", "Use the matching file.")


def load_weights(
    path: Path, config: PreTrainedConfig, auto: AutoClass, *, quantised: bool = False
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """The float32 model, the tensors the folder lacks, and those the model has no place for; all of them finite.

    `quantised` is for a body of four bits a weight, on the GPU; see `quantising_fault`.
    """
    how: dict[str, Any] = {"dtype": torch.float32}
    with loading(path):
        if quantised:
            how |= {"quantization_config": _four_bits(config, auto), "device_map": {"": torch.cuda.current_device()}}
        loaded = auto.from_pretrained(
            path, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **how
        )
    network, info = cast(tuple[PreTrainedModel, dict[str, list[str]]], loaded)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(str(path), f"{name} holds NaN or infinity", "Its training diverged: use another model.")
    return network, sorted(info["missing_keys"]), sorted(info["unexpected_keys"])


def quantising_fault() -> str:
    """Why this machine cannot hold weights in four bits; empty where it can."""
    if not torch.cuda.is_available():
        return "needs a GPU with CUDA, and this machine has none"
    if importlib.util.find_spec("bitsandbytes") is None:
        return "needs bitsandbytes, which is not installed"
    return ""


def _four_bits(config: PreTrainedConfig, auto: AutoClass) -> transformers.BitsAndBytesConfig:
    """NF4 with quantised scales (Dettmers and others 2023, arXiv 2305.14314); heads stay whole."""
    with torch.device("meta"):
        network = auto.from_config(config)  # type: ignore[no-untyped-call]
    body = {network.base_model_prefix} if network.base_model is not network else set()
    whole = [name for name, child in network.named_children() if body and name not in body and [*child.parameters()]]
    return transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16,
        llm_int8_skip_modules=[*whole, "lm_head"],
    )


def refuse_foreign_weights(path: Path, config: PreTrainedConfig, *, missing: list[str], unexpected: list[str]) -> None:
    """ModelError when the weights of a finished model are not exactly those of its architecture."""
    if missing or unexpected:
        what = f"the weights are not those of {architecture(config)}. Missing: {listed(missing, 5) or 'none'}"
        what += f". Not expected: {listed(unexpected, 5) or 'none'}"
        raise ModelError(str(path), what, "Correct 'architectures' and 'model_type' in config.json.")


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, extra_files: Mapping[str, str]
) -> None:
    """A complete model in `folder`: safetensors, configuration, tokenizer, and `extra_files` (name -> text).

    What stood in `folder` is replaced as a whole, and only once the new files are on the disk.
    """
    with disk_faults(folder), replaced_folder(folder) as staging, quiet():
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        for name, text in extra_files.items():
            (staging / name).write_text(text, encoding="utf-8")


def set_attention_dropout(config: PreTrainedConfig, rate: float) -> str:
    """Sets the rate and returns the note that says so; ModelError where the architecture has none of its own."""
    field = next((name for name in ATTENTION_DROPOUT_FIELDS if hasattr(config, name)), None)
    if field is None:
        what = f"{config.model_type} has no attention dropout. Looked for: {listed(ATTENTION_DROPOUT_FIELDS)}"
        raise ModelError("model.attention_dropout", what, "Remove the key.")
    before = getattr(config, field)
    setattr(config, field, rate)
    return f"attention dropout is {rate:g} instead of {before:g} ({field})"


def stored_precision(path: Path) -> list[str]:
    """A note when the folder's weights are stored in another precision than the float32 they are loaded in."""
    dtypes = {header.dtype for header in read_tensor_headers(path).values()} & {"F16", "BF16", "F64"}
    return [f"weights are stored as {listed(sorted(dtypes))}, loaded and trained as float32"] if dtypes else []


def architecture(config: PreTrainedConfig) -> str:
    """What config.json calls the network, for messages."""
    return listed(config.architectures or [f"{config.model_type}, architecture not named"])


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """Quiet, and whatever the library says about a folder that passed our checks becomes one line."""
    try:
        with quiet():
            yield
    except (FinetuneError, MemoryError):
        raise
    except Exception as error:  # a stranger's folder can fail in any way; the cause stays attached
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(str(path), f"cannot be loaded ({type(error).__name__}: {reason})", "Copy it again.") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's loading reports and bars: what they say is checked, and raised or noted, here."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()  # type: ignore[no-untyped-call]
    log.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()  # type: ignore[no-untyped-call]
