"""The recipe's file: load, override from the command line, complain about everything at once, dump.

Nothing here imports torch or transformers, so that a refused recipe answers at once.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune.errors import Collector, RecipeError, did_you_mean, listed
from finetune.recipe import Recipe, Sources, Training
from finetune.recipe_parts import Section
from finetune.search_space import Range, settings_of
from finetune.yaml_text import YamlText, read_yaml

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
UNUSUAL_LINE_BREAKS = "\r\x85\u2028\u2029"
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

# Trials share data, splits and seed, and are compared by one score; the rest of these touches no training.
NEVER_SEARCHED = {
    "task",
    "data",
    "cleaning",
    "evaluation",
    "report",
    "search",
    "seed",
    "training.metric_for_best_model",
}


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe, the folder its relative paths start from, and what to call it in messages."""

    recipe: Recipe
    base: Path
    name: str
    text: YamlText

    def where(self, *path: str) -> str:
        """`recipe.yaml:7: training.learning_rate`, for a message about a setting found wrong later."""
        return _where(self.text, path)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe file and apply `key=value` overrides. Raises RecipeError with every problem."""
    path = Path(path).expanduser()
    return check_recipe(_read(path), overrides, base=path.parent.absolute(), name=path.stem)


def check_recipe(text: YamlText, overrides: Sequence[str] = (), *, base: Path, name: str) -> LoadedRecipe:
    """The same from values already in hand, for example those of `finetune train FILE.csv --text ...`."""
    problems = Collector(RecipeError)
    text = _with_overrides(text, overrides, problems=problems)
    problems.problems.extend(text.problems)
    _refuse_secrets(text.values, text=text, path=(), problems=problems)
    recipe = None
    try:
        recipe = Recipe.model_validate(text.values)
    except ValidationError as error:
        for item in sorted(error.errors(), key=lambda item: _line(text, item["loc"])):
            _explain(item, text=text, problems=problems)
    _check_extra(text, problems=problems)
    if recipe is not None and not problems.problems:  # a value of the space is judged beside sound settings
        _check_space(recipe, text, base=base, problems=problems)
    problems.raise_if_any()
    assert recipe is not None
    return LoadedRecipe(recipe=recipe, base=base, name=name, text=text)


def override(name: str, value: bool | int | float | str) -> str:
    """`name=value`, written so that it is read as just this value."""
    plain = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.strip() == value and value.isprintable():
        with contextlib.suppress(RecipeError):
            plain = value if read_yaml(f"value: {value}", name="").values == {"value": value} else plain
    return f"{name}={plain}"


def dump_recipe(recipe: Recipe, *, header: str = "") -> str:
    """The recipe as YAML with every default filled in."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 110
    stream = io.StringIO()
    yaml.dump(_quoted(recipe.model_dump(mode="json")), stream)
    return "".join(f"# {line}\n" for line in header.splitlines()) + stream.getvalue()


def _quoted(value: Any) -> Any:
    """With quotes around every text that has a line break other than \\n, which a plain scalar would lose."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return {_quoted(key): _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    if isinstance(value, str) and any(character in value for character in UNUSUAL_LINE_BREAKS):
        return DoubleQuotedScalarString(value)
    return value


def relocate(loaded: LoadedRecipe, *, folder: Path) -> Recipe:
    """The same recipe with its relative paths rewritten so that they work from `folder`."""

    def moved(source: str) -> str:
        here = loaded.base / Path(source).expanduser()
        is_path = not source.startswith("builtin:") and (here.exists() or any(sign in source for sign in "*?["))
        # From where the folder really is: a relative path does not lead back through a link.
        return Path(os.path.relpath(here, folder.resolve())).as_posix() if is_path else source

    def moved_all(source: Sources) -> Sources:
        if isinstance(source, str):
            return moved(source)
        if isinstance(source, list):
            return [moved(item) for item in source]
        return {
            split: [moved(i) for i in item] if isinstance(item, list) else moved(item) for split, item in source.items()
        }

    recipe = loaded.recipe
    data = recipe.data.model_copy(update={"source": moved_all(recipe.data.source)})
    model = recipe.model
    if model.name is not None:
        model = model.model_copy(update={"name": moved(model.name)})
    augmentation = recipe.augmentation
    if augmentation is not None and augmentation.lexicon is not None:
        augmentation = augmentation.model_copy(update={"lexicon": moved(augmentation.lexicon)})
    return recipe.model_copy(update={"data": data, "model": model, "augmentation": augmentation})


def _read(path: Path) -> YamlText:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = [item.name for item in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError(str(path), "no such file", did_you_mean(path.name, near)) from None
    except IsADirectoryError:
        raise RecipeError(str(path), "is a folder", "Name a recipe file, or use --resume for a run folder.") from None
    except PermissionError:
        raise RecipeError(str(path), "cannot be read: permission denied") from None
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), f"is not UTF-8 text (byte {error.start})", "Save the recipe as UTF-8.") from None
    return read_yaml(text, name=path.name)


def _with_overrides(text: YamlText, overrides: Sequence[str], *, problems: Collector) -> YamlText:
    """`training.num_train_epochs=1` on top of the file; later ones win, and messages say `command line`."""
    values, lines = _copied(text.values), dict(text.lines)
    for override in overrides:
        key, sign, written = override.partition("=")
        parts = tuple(key.strip().split("."))
        if not sign or not all(parts):
            problems.add("command line", f"'{key}' is not key=value", "Write for example training.learning_rate=5e-5.")
            continue
        try:
            value = read_yaml(f"value: {written or 'null'}", name="").values["value"]
        except RecipeError as error:
            problems.add(f"command line: {key}", error.problems[0].what, error.problems[0].do)
            continue
        section: Any = values
        for part in parts[:-1]:
            if section.get(part) is None:
                section[part] = {}
            section = section[part]
            if not isinstance(section, dict):
                problems.add("command line", f"'{key}': '{part}' is a value, not a section")
                break
        else:
            section[parts[-1]] = value
            lines[parts] = 0
    return YamlText(name=text.name, values=values, lines=lines, problems=text.problems)


def _copied(value: Any) -> Any:
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def _where(text: YamlText, path: Sequence[str | int]) -> str:
    key = _dotted(path)
    for length in range(len(path), 0, -1):
        if text.lines.get(tuple(path[:length])) == 0:
            return f"command line: {key}"
    place = text.where(tuple(path))
    return f"{place}: {key}" if key else place


def _line(text: YamlText, path: Sequence[str | int]) -> int:
    """Where a problem stands in the file; what the command line sets comes first."""
    return next((text.lines[tuple(path[:n])] for n in range(len(path), 0, -1) if tuple(path[:n]) in text.lines), 0)


def _refuse_secrets(
    values: Mapping[str, object] | list[object], *, text: YamlText, path: tuple[str | int, ...], problems: Collector
) -> None:
    for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        here = (*path, key)
        if isinstance(value, dict | list):
            _refuse_secrets(value, text=text, path=here, problems=problems)
        elif "token" in str(key).split("_") or (isinstance(value, str) and value.startswith("hf_") and len(value) > 20):
            # The value is never repeated: messages end up in logs.
            problems.add(_where(text, here), "a secret does not belong in a recipe", "Set HF_TOKEN in the environment.")


def _explain(item: Any, *, text: YamlText, problems: Collector) -> None:
    """One pydantic error as one of ours."""
    # pydantic names functions and, as search_space.py calls them, branches of a union; a recipe has no such keys.
    extra = ("function-", "a ")
    path = tuple(part for part in item["loc"] if not (isinstance(part, str) and part.startswith(extra)))
    if path and "token" in str(path[-1]).split("_"):
        return  # said by _refuse_secrets
    kind, found = item["type"], item.get("input")
    where = _where(text, path)
    if kind == "extra_forbidden":
        place = where.removesuffix(f": {_dotted(path)}")
        problems.add(place, f"unknown key '{_dotted(path)}'", _right_key(path))
    elif kind == "missing":
        problems.add(where, "is missing")
    elif kind == "literal_error":
        names = item["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        hint = did_you_mean(str(found), names) or f"Choose one of: {listed(names, most=30)}."
        problems.add(where, f"'{found}' is not known", hint)
    elif kind == "value_error":
        message = str(item["ctx"]["error"])
        written = [key for key in _known_keys(path) if key in message and (*path, key) in text.lines]
        # A rule about several keys is broken where the only one stands that is written down.
        problems.add(_where(text, (*path, *written)) if len(written) == 1 else where, message)
    elif found is None:
        problems.add(where, "is empty", "Fill it in, or remove the key.")
    elif kind in WANTED:
        hint = f"Known here: {listed(_known_keys(path), most=40)}." if kind.startswith("model") else ""
        problems.add(where, f"must be {WANTED[kind]}, found {found!r}", hint)
    else:
        message = item["msg"].replace("Input should be", "must be").replace("valid ", "")
        problems.add(where, f"{message}, found {found!r}")


def _dotted(path: Sequence[str | int]) -> str:
    """`data.labels`, also for one of its items: the message shows the item."""
    return ".".join(part for part in path if isinstance(part, str))


def _right_key(path: Sequence[str | int]) -> str:
    """What to write instead of a key that is not known where it stands."""
    name, known = str(path[-1]), _known_keys(path[:-1])
    for section in known:
        if name in _known_keys([*path[:-1], section]):
            return f"Write {_dotted([*path[:-1], section, name])}."
    if name in MANAGED_FIELDS and name not in OLD_NAMES:
        return "Leave it out: finetune sets it."
    if tuple(path[:-1]) == ("training",) and name in {*training_argument_names()} - MANAGED_FIELDS - WITHOUT_EFFECT:
        return f"Write training.extra: {{{name}: ...}}."
    return OLD_NAMES.get(name) or did_you_mean(name, known) or f"Known here: {listed(known, most=40)}."


def _known_keys(path: Sequence[object]) -> list[str]:
    if tuple(path[:2]) == ("search", "space") and len(path) == 3:
        return list(Range.model_fields)
    section: type[Section] = Recipe
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


def _check_extra(text: YamlText, *, problems: Collector) -> None:
    """`training.extra` may name any field of the installed TrainingArguments that is not ours already."""
    training = text.values.get("training")
    extra = training.get("extra") if isinstance(training, dict) else None
    if not isinstance(extra, dict):
        return
    known = training_argument_names()
    for name in extra:
        where = _where(text, ("training", "extra", str(name)))
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
def searchable_settings() -> dict[str, frozenset[type]]:
    """Every setting that `search.space` may name, with the kinds of its value: int, float, bool, str, NoneType."""
    return {
        name: kinds
        for name, kinds in settings_of(Recipe)
        if not {name, name.split(".")[0]} & NEVER_SEARCHED and not kinds & {list, dict, object}
    }


def _check_space(recipe: Recipe, text: YamlText, *, base: Path, problems: Collector) -> None:
    """Every key of search.space is one setting, and both ends of its range, or all its choices, are values for it."""
    for name, space in recipe.search.space.items() if recipe.search is not None else ():
        where = _where(text, ("search", "space", name))
        kinds = searchable_settings().get(name)
        fault = space.fault(kinds) if kinds is not None and isinstance(space, Range) else ""
        if kinds is None:
            problems.add(where, *_why_not_searched(name))
        elif fault:
            problems.add(where, fault)
        else:
            ends = [space.low, space.high] if isinstance(space, Range) else space
            for setting in [override(name, value) for value in ends]:
                try:
                    check_recipe(text, [setting, "search=null"], base=base, name="")
                except RecipeError as error:
                    problems.add(where, f"{setting} is refused: {error.problems[0].what}")


def _why_not_searched(name: str) -> tuple[str, str]:
    """What is wrong with a key of the space, and what to do."""
    section, word = name.split(".")[0], name.split(".")[-1]
    if {name, section} & NEVER_SEARCHED:
        return "is the same in every trial, so that they can be compared", "Leave it out of the space."
    by_word = {setting.split(".")[-1]: setting for setting in searchable_settings()}
    meant = by_word.get(word) or next((by_word[near] for near in by_word if near in did_you_mean(word, by_word)), "")
    hint = f"Did you mean '{meant}'?" if meant else OLD_NAMES.get(word, "")
    return f"'{name}' is no setting that can be searched", hint or "Name one number, switch or choice of the recipe."


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
