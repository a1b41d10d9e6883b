"""What a command line may change about how a finished model writes, judged by the recipe's own section `generation`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from finetune.errors import Collector, FinetuneError, Problem, RecipeError
from finetune.recipe import Generation, TextGeneration, TextGenerationRecipe
from finetune.recipe_problems import explain
from finetune.yaml_text import YamlText

OPTIONS = {
    "temperature": "--temperature",
    "top_p": "--top-p",
    "top_k": "--top-k",
    "repetition_penalty": "--repetition-penalty",
    "num_beams": "--beams",
    "seed": "--seed",
    "max_new_tokens": "--max-new-tokens",
}
SECTION = "generation"
DRAWING = ("temperature", "top_p", "top_k")
Changes = Mapping[str, object]
AnyGeneration = TypeVar("AnyGeneration", bound=Generation)


def changed_generation(generation: AnyGeneration, changes: Changes) -> AnyGeneration:
    """The settings with these changes, by the names of OPTIONS.

    A change of temperature, top_p or top_k switches drawing on, and beams off; num_beams switches drawing off.
    Raises RecipeError, whose `where` are these names, for values out of their range, for changes that contradict each
    other, and for a seed where nothing is drawn.
    """
    if not changes:
        return generation
    drawn = [name for name in DRAWING if name in changes]
    if drawn and "num_beams" in changes:
        what = "draws each token, and num_beams searches for the likeliest text"
        raise RecipeError(drawn[0], what, "Keep one of them.")
    values = {**generation.model_dump(), **_implied(changes, is_drawn=bool(drawn)), **changes}
    changed = _checked(type(generation), values)
    if "seed" in changes and not changed.do_sample:
        do = f"Give a {DRAWING[0]}, too; 1 draws as the model says."
        raise RecipeError("seed", "has no effect: these settings draw nothing", do)
    return changed


def check_changes(changes: Changes) -> None:
    """The same before any model is looked at: is there one that these changes could go with?"""
    changed_generation(TextGeneration(do_sample=True), changes)


def as_options(error: FinetuneError) -> FinetuneError:
    """The same error in the words of the command line: its options in place of the recipe's keys."""
    return type(error).of([Problem(*map(_as_options, (one.where, one.what, one.do))) for one in error.problems])


def _as_options(message: str) -> str:
    keys = "|".join(OPTIONS)
    return re.sub(rf"(?:\bgeneration\.)?(?<!-)\b({keys})\b", lambda found: OPTIONS[found[1]], message)


def _implied(changes: Changes, *, is_drawn: bool) -> dict[str, object]:
    """What the changes decide beside themselves: whether tokens are drawn, and that the other way has no settings."""
    defaults = {name: field.default for name, field in Generation.model_fields.items()}
    if is_drawn:
        return {"do_sample": True, "num_beams": 1, "length_penalty": defaults["length_penalty"]}
    if "num_beams" not in changes:
        return {}
    greedy = {"length_penalty": defaults["length_penalty"]} if changes["num_beams"] == 1 else {}
    return {"do_sample": False, **{name: defaults[name] for name in DRAWING}, **greedy}


def _checked(kind: type[AnyGeneration], values: dict[str, Any]) -> AnyGeneration:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = Collector(RecipeError)
        for item in error.errors():
            explain(item, recipe=TextGenerationRecipe, text=YamlText(name=SECTION, values={}), problems=problems)
        raise RecipeError.of([_with_remedy(one) for one in problems.problems]) from None


def _with_remedy(problem: Problem) -> Problem:
    name = problem.where.removeprefix(f"{SECTION}: ")
    do = "The likeliest tokens are written with num_beams 1." if name == "temperature" else problem.do
    return Problem(name, problem.what, do)
