"""The recipe's file: load, override from the command line, complain about everything at once, dump.

Nothing here imports torch or transformers, so that a refused recipe answers at once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune.errors import Collector, RecipeError, did_you_mean
from finetune.recipe import RECIPES, AnyRecipe, ClassifierRecipe, ImageRecipe, Recipe, TextRecipe
from finetune.recipe_data import Sources
from finetune.recipe_parts import Section
from finetune.recipe_problems import OLD_NAMES, check_extra, explain, where_of
from finetune.search_space import Range, settings_of
from finetune.yaml_text import YamlText, read_yaml

UNUSUAL_LINE_BREAKS = "\r\x85\u2028\u2029"
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
        return where_of(self.text, path)


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
        recipe = recipe_class(text.values).model_validate(text.values)
    except ValidationError as error:
        told = error.errors()
        if _nearest_task(text.values) is None:  # nobody knows which other keys would be right
            told = [item for item in told if item["loc"] == ("task",)]
        for item in sorted(told, key=lambda item: _line(text, item["loc"])):
            explain(item, recipe=recipe_class(text.values), text=text, problems=problems)
    check_extra(text, problems=problems)
    if recipe is not None and not problems.problems:  # a value of the space is judged beside sound settings
        _check_space(recipe, text, base=base, problems=problems)
    problems.raise_if_any()
    assert recipe is not None
    return LoadedRecipe(recipe=recipe, base=base, name=name, text=text)


def recipe_class(values: Mapping[str, Any]) -> type[Recipe]:
    """The class of the recipes of this task, or of the one that was meant; its check says which tasks there are."""
    return RECIPES[_nearest_task(values) or "text-classification"]


def _nearest_task(values: Mapping[str, Any]) -> str | None:
    """The task, or what a misspelt one means. A recipe without any is taken for one of text classification."""
    task = str(values.get("task") or "text-classification")
    hint = did_you_mean(task, RECIPES)
    return task if task in RECIPES else next((name for name in RECIPES if f"'{name}'" in hint), None)


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe: one of the tasks' own, told apart by the key `task`."""
    from pydantic import TypeAdapter

    schema: dict[str, Any] = TypeAdapter(AnyRecipe).json_schema()
    return schema


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
    assert isinstance(recipe, TextRecipe | ImageRecipe)
    changed: dict[str, Section] = {"data": recipe.data.model_copy(update={"source": moved_all(recipe.data.source)})}
    if recipe.model.name is not None:
        changed["model"] = recipe.model.model_copy(update={"name": moved(recipe.model.name)})
    if isinstance(recipe, ClassifierRecipe) and recipe.augmentation is not None and recipe.augmentation.lexicon:
        lexicon = moved(recipe.augmentation.lexicon)
        changed["augmentation"] = recipe.augmentation.model_copy(update={"lexicon": lexicon})
    if isinstance(recipe, ImageRecipe):
        changed["image"] = recipe.image.model_copy(update={"text_encoder": moved(recipe.image.text_encoder)})
        if recipe.evaluation.inception is not None:
            weights = moved(recipe.evaluation.inception)
            changed["evaluation"] = recipe.evaluation.model_copy(update={"inception": weights})
    return recipe.model_copy(update=changed)


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
            problems.add(
                where_of(text, here), "a secret does not belong in a recipe", "Set HF_TOKEN in the environment."
            )


@functools.cache
def searchable_settings(recipe: type[Recipe]) -> dict[str, frozenset[type]]:
    """Every setting of these recipes that `search.space` may name, with the kinds of its value (int, NoneType ...)."""
    return {
        name: kinds
        for name, kinds in settings_of(recipe)
        if not {name, name.split(".")[0]} & NEVER_SEARCHED and not kinds & {list, dict, object}
    }


def _check_space(recipe: Recipe, text: YamlText, *, base: Path, problems: Collector) -> None:
    """Every key of search.space is one setting, and both ends of its range, or all its choices, are values for it."""
    search = recipe.search if isinstance(recipe, TextRecipe) else None
    for name, space in search.space.items() if search is not None else ():
        where = where_of(text, ("search", "space", name))
        kinds = searchable_settings(type(recipe)).get(name)
        fault = space.fault(kinds) if kinds is not None and isinstance(space, Range) else ""
        if kinds is None:
            problems.add(where, *_why_not_searched(name, type(recipe)))
        elif fault:
            problems.add(where, fault)
        else:
            ends = [space.low, space.high] if isinstance(space, Range) else space
            for setting in [override(name, value) for value in ends]:
                try:
                    check_recipe(text, [setting, "search=null"], base=base, name="")
                except RecipeError as error:
                    problems.add(where, f"{setting} is refused: {error.problems[0].what}")


def _why_not_searched(name: str, recipe: type[Recipe]) -> tuple[str, str]:
    """What is wrong with a key of the space, and what to do."""
    section, word = name.split(".")[0], name.split(".")[-1]
    if {name, section} & NEVER_SEARCHED:
        return "is the same in every trial, so that they can be compared", "Leave it out of the space."
    by_word = {setting.split(".")[-1]: setting for setting in searchable_settings(recipe)}
    near = next((by_word[near] for near in by_word if near in did_you_mean(word, by_word)), "")
    meant = by_word.get(word) or ("" if word in OLD_NAMES else near)
    hint = f"Did you mean '{meant}'?" if meant else OLD_NAMES.get(word, "")
    return f"'{name}' is no setting that can be searched", hint or "Name one number, switch or choice of the recipe."
