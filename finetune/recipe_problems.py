"""What is wrong with a recipe, in words: pydantic's errors as ours, with key and line and what to write instead."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import Collector, did_you_mean, listed
from finetune.recipe import RECIPES, Recipe
from finetune.recipe_parts import Section
from finetune.recipe_training import Training
from finetune.search_space import Range
from finetune.yaml_text import YamlText

# Names that tutorials still show, and what to write today.
OLD_NAMES = {
    "evaluation_strategy": "Write eval_strategy.",
    "warmup_ratio": "Write warmup_steps; a number below 1 is a share of all steps.",
    "group_by_length": "Leave it out: every optimizer step is sorted by length already.",
    "overwrite_output_dir": "Name the run folder with --run DIR.",
    "output_dir": "Name the run folder with --run DIR.",
    "no_cuda": "Write use_cpu.",
    "max_length": "Write windows.max_tokens.",
    "epochs": "Write training.num_train_epochs.",
    "batch_size": "Write training.per_device_train_batch_size.",
    "lr": "Write training.learning_rate.",
    "num_labels": "Leave it out: the number comes from the data.",
}
# Fields whose work is done here in another way; setting one would change nothing.
WITHOUT_EFFECT = {
    "average_tokens_across_devices", "bf16_full_eval", "fp16_full_eval", "dataloader_pin_memory",
    "dataloader_multiprocessing_context", "dataloader_in_order", "eval_use_gather_object", "eval_accumulation_steps",
    "include_for_metrics", "include_num_input_tokens_seen", "length_column_name", "torch_empty_cache_steps",
    "use_liger_kernel", "hub_private_repo", "hub_strategy", "hub_always_push", "hub_revision", "local_rank",
}  # fmt: skip
# What a value of the wrong type should have been, by pydantic's name of the error.
WANTED = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number", "float_type": "a number", "float_parsing": "a number",
    "finite_number": "a finite number", "bool_type": "true or false", "bool_parsing": "true or false",
    "string_type": "a text", "list_type": "a list", "dict_type": "key: value pairs", "model_type": "key: value pairs",
    "model_attributes_type": "key: value pairs",
}  # fmt: skip
# Fields of TrainingArguments that this project sets itself; setting them twice would be a contradiction.
MANAGED_FIELDS = {
    "output_dir", "seed", "data_seed", "push_to_hub", "hub_model_id", "hub_token", "remove_unused_columns",
    "train_sampling_strategy", "per_device_eval_batch_size", "greater_is_better", "do_train", "do_eval", "do_predict",
    "resume_from_checkpoint", "logging_nan_inf_filter", "label_names", "ignore_data_skip", "auto_find_batch_size",
    "restore_callback_states_from_checkpoint", "prediction_loss_only", "eval_do_concat_batches", "batch_eval_metrics",
    "logging_strategy", "disable_tqdm", "save_only_model", "dataloader_drop_last", "eval_on_start",
    "enable_jit_checkpoint", "full_determinism",
}  # fmt: skip

DOTTED = re.compile(r"\b[a-z_]+(?:\.[a-z_]+)+\b")


def explain(item: Any, *, recipe: type[Recipe], text: YamlText, problems: Collector) -> None:
    """One pydantic error as one of ours."""
    # pydantic names functions and, as search_space.py calls them, branches of a union; a recipe has no such keys.
    extra = ("function-", "a ")
    path = tuple(part for part in item["loc"] if not (isinstance(part, str) and part.startswith(extra)))
    if path and "token" in str(path[-1]).split("_"):
        return  # said by _refuse_secrets
    kind, found = item["type"], item.get("input")
    where = where_of(text, path)
    if kind == "extra_forbidden":
        place = where.removesuffix(f": {_dotted(path)}")
        problems.add(place, f"unknown key '{_dotted(path)}'", _right_key(path, recipe))
    elif kind == "missing":
        problems.add(where, "is missing")
    elif kind == "literal_error":
        names = list(RECIPES) if path == ("task",) else _names(item["ctx"]["expected"])
        hint = did_you_mean(str(found), names) or f"Choose one of: {listed(names, most=30)}."
        problems.add(where, f"'{found}' is not known", hint)
    elif kind == "value_error":
        message = str(item["ctx"]["error"])
        named = [tuple(key.split(".")) for key in DOTTED.findall(message)]
        written = [(key,) for key in known_keys(path, recipe) if key in message and (*path, key) in text.lines]
        # A rule about two sections names the key that is at fault first.
        written = [key for key in named if (*path, *key) in text.lines][:1] or written
        # A rule about several keys is broken where the only one stands that is written down.
        at_fault = (*path, *written[0]) if len(written) == 1 else path
        key = _dotted(at_fault)
        problems.add(where_of(text, at_fault), message.removeprefix(f"{key}: ").removeprefix(f"{key} "))
    elif found is None:
        problems.add(where, "is empty", "Fill it in, or remove the key.")
    elif kind in WANTED:
        hint = f"Known here: {listed(known_keys(path, recipe), most=40)}." if kind.startswith("model") else ""
        problems.add(where, f"must be {WANTED[kind]}, found {found!r}", hint)
    else:
        message = item["msg"].replace("Input should be", "must be").replace("valid ", "")
        problems.add(where, f"{message}, found {found!r}")


def _names(expected: str) -> list[str]:
    """Those that pydantic lists: `'a', 'b' or 'c'`."""
    return expected.replace(" or ", ", ").replace("'", "").split(", ")


def _dotted(path: Sequence[str | int]) -> str:
    """`data.labels`, also for one of its items: the message shows the item."""
    return ".".join(part for part in path if isinstance(part, str))


def _right_key(path: Sequence[str | int], recipe: type[Recipe]) -> str:
    """What to write instead of a key that is not known where it stands."""
    name, known = str(path[-1]), known_keys(path[:-1], recipe)
    if tuple(path) == ("generation", "max_length"):
        return "Write generation.max_new_tokens, which counts no prompt."
    for section in known:
        if name in known_keys([*path[:-1], section], recipe):
            return f"Write {_dotted([*path[:-1], section, name])}."
    if name in MANAGED_FIELDS and name not in OLD_NAMES:
        return "Leave it out: finetune sets it."
    if tuple(path[:-1]) == ("training",) and name in {*training_argument_names()} - MANAGED_FIELDS - WITHOUT_EFFECT:
        return f"Write training.extra: {{{name}: ...}}."
    others = [task for task, other in RECIPES.items() if other is not recipe and name in known_keys(path[:-1], other)]
    if others and name not in OLD_NAMES:
        return f"It belongs to {listed(others)}."
    return OLD_NAMES.get(name) or did_you_mean(name, known) or f"Known here: {listed(known, most=40)}."


def known_keys(path: Sequence[object], recipe: type[Recipe]) -> list[str]:
    """The keys of the section at `path`; none where there is no section."""
    if tuple(path[:2]) == ("search", "space") and len(path) == 3:
        return list(Range.model_fields)
    section: type[Section] = recipe
    for part in path:
        if not isinstance(part, str) or part not in section.model_fields:
            return []  # an item of a list, such as a cleaning step, which explains itself
        annotation = section.model_fields[part].annotation
        inner = [annotation, *getattr(annotation, "__args__", ())]
        sections = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, Section)]
        if not sections:
            return []
        section = sections[0]
    return list(section.model_fields)


def where_of(text: YamlText, path: Sequence[str | int]) -> str:
    key = _dotted(path)
    for length in range(len(path), 0, -1):
        if text.lines.get(tuple(path[:length])) == 0:
            return f"command line: {key}"
    place = text.where(tuple(path))
    return f"{place}: {key}" if key else place


def check_extra(text: YamlText, *, problems: Collector) -> None:
    """`training.extra` may name any field of the installed TrainingArguments that is not ours already."""
    training = text.values.get("training")
    extra = training.get("extra") if isinstance(training, dict) else None
    if not isinstance(extra, dict):
        return
    known = training_argument_names()
    for name in extra:
        where = where_of(text, ("training", "extra", str(name)))
        if "token" in str(name).split("_"):
            continue
        if name in Training.model_fields:
            problems.add(where, f"'{name}' is a key of training itself", f"Write training.{name}.")
        elif name in MANAGED_FIELDS:
            problems.add(where, f"'{name}' is set by finetune", OLD_NAMES.get(name, "Leave it out."))
        elif name in WITHOUT_EFFECT:
            problems.add(where, f"'{name}' has no effect here", "Leave it out.")
        elif name not in known:
            hint = OLD_NAMES.get(name) or did_you_mean(str(name), known)
            problems.add(where, f"transformers' TrainingArguments has no field '{name}'", hint or "Leave it out.")


@functools.cache
def training_argument_names() -> tuple[str, ...]:
    """Fields of the installed transformers.TrainingArguments, read from its source without importing it."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return ()
    source = (Path(spec.origin).parent / "training_args.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments":
            fields = [
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
            return tuple(name for name in fields if not name.startswith("_"))
    return ()
