"""Cleaning steps as a recipe writes them: `lowercase`, `drop_short: 20`, or a function of your own, `module:function`.

What the steps do is data/cleaning.py.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_serializer, model_validator
from pydantic_core import CoreSchema

from finetune.errors import did_you_mean
from finetune.recipe_parts import no_repeats

CleaningName = Literal[
    "fix_unicode",
    "strip_html",
    "strip_urls",
    "mask_emails",
    "mask_numbers",
    "strip_control",
    "strip_punctuation",
    "lowercase",
    "simplify_chinese",
    "normalize_whitespace",
    "fill_missing",
    "drop_missing",
    "drop_empty",
    "drop_short",
    "drop_long",
    "keep_language",
    "drop_conflicts",
    "drop_duplicates",
]
ConflictPolicy = Literal["majority", "drop", "refuse"]
DEFAULT_CLEANING: tuple[CleaningName, ...] = ("fix_unicode", "normalize_whitespace", "drop_empty", "drop_duplicates")
# What is learnt to be written is left as it stands: line breaks, full-width punctuation, runs of spaces.
DEFAULT_TEXT_CLEANING: tuple[CleaningName, ...] = ("drop_empty", "drop_duplicates")
OWN_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class CleaningStep(BaseModel):
    """One cleaning step. A recipe writes `lowercase`, `drop_short: 20`, or your own function as `module:function`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    argument: str | int | list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, written: object) -> object:
        """From `name`, or from the one-key mapping `name: argument`."""
        if isinstance(written, dict) and "name" in written:
            name, argument = written["name"], written.get("argument")
        elif isinstance(written, dict) and len(written) == 1:
            name, argument = next(iter(written.items()))
        else:
            name, argument = written, None
        if not isinstance(name, str):
            raise ValueError(f"a cleaning step is a name, or a name with its value; found {written!r}")
        if name in get_args(CleaningName):
            return {"name": name, "argument": _step_argument(name, argument)}
        if OWN_FUNCTION.fullmatch(name) and argument is None:
            return {"name": name}
        hint = did_you_mean(name, get_args(CleaningName)) or (
            f"Known: {', '.join(get_args(CleaningName))}, or your own function as module:function"
        )
        raise ValueError(f"no cleaning step is called '{name}'. {hint}")

    @model_serializer
    def _as_read(self) -> Any:
        return self.name if self.argument is None else {self.name: self.argument}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """As it is written: a name, a name with its value, or module:function."""
        plain = [name for name in get_args(CleaningName) if name not in ARGUMENT_SCHEMAS or name == "drop_conflicts"]
        own = {"type": "string", "pattern": f"^{OWN_FUNCTION.pattern}$", "description": "A function of your own."}
        with_argument = [
            {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}
            for name, schema in ARGUMENT_SCHEMAS.items()
        ]
        return {"description": cls.__doc__, "anyOf": [{"enum": plain}, own, *with_argument]}

    @property
    def is_own(self) -> bool:
        """Whether this is a function of the user's, `module:function`."""
        return ":" in self.name


# The steps that take a value, and what it may be.
ARGUMENT_SCHEMAS: dict[CleaningName, dict[str, Any]] = {
    "fill_missing": {"type": "string", "description": "The text to put in."},
    "drop_short": {"type": "integer", "minimum": 1, "description": "Characters."},
    "drop_long": {"type": "integer", "minimum": 1, "description": "Characters."},
    "keep_language": {"type": "array", "items": {"type": "string"}, "description": "Two-letter codes: [en, zh]."},
    "drop_conflicts": {"enum": list(get_args(ConflictPolicy))},
}


def _step_argument(name: str, given: object) -> str | int | list[str] | None:
    """The argument of a step, or its default. Raises ValueError for one that is missing, wrong, or too much."""
    if name == "drop_conflicts":
        policies = get_args(ConflictPolicy)
        if given is None or given in policies:
            return str(given or policies[0])
        raise ValueError(f"drop_conflicts is one of {', '.join(policies)}, found {given!r}")
    if name in ("drop_short", "drop_long"):
        if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
            return given
        raise ValueError(f"{name} needs a number of characters, for example {name}: 20; found {given!r}")
    if name == "fill_missing":
        if isinstance(given, str) and given.strip():
            return given
        raise ValueError(f"fill_missing needs the text to put in, for example fill_missing: unknown; found {given!r}")
    if name == "keep_language":
        codes = [given] if isinstance(given, str) else given
        if isinstance(codes, list) and codes and all(isinstance(code, str) and len(code) == 2 for code in codes):
            return [code.lower() for code in codes]
        raise ValueError(f"keep_language needs two-letter codes, for example keep_language: [en, zh]; found {given!r}")
    if given is not None:
        raise ValueError(f"{name} takes no value, found {given!r}")
    return None


def no_repeated_steps(steps: list[CleaningStep]) -> list[CleaningStep]:
    no_repeats([step.name for step in steps])
    return steps
