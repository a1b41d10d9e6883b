"""The recipe's section `search`: which settings are tried, and where their values lie."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Discriminator, Field, Tag, model_validator

from finetune.recipe_parts import Number, Section, WholeNumber


class Range(Section):
    """Where a searched setting lies."""

    low: Number = Field(description="Lowest value.")
    high: Number = Field(description="Highest value.")
    log: bool = Field(False, description="Search on a logarithmic scale.")
    step: Number | None = Field(None, gt=0, description="Distance of neighbouring values; not with log.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic scale needs low above 0, found {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        return self

    def fault(self, kinds: frozenset[type]) -> str:
        """Why it is no range for a setting whose value is one of `kinds`, or an empty text."""
        if not kinds & {int, float}:
            return "takes no range; write a list of choices"
        if float not in kinds and any(value % 1 for value in (self.low, self.high, self.step or 1)):
            return "counts something, so low, high and step are whole numbers"
        steps = (self.high - self.low) / self.step if self.step is not None else 0.0
        if abs(steps - round(steps)) > 1e-6:
            return f"steps of {self.step:g} from low {self.low:g} do not end at high {self.high:g}"
        return ""


Choice = bool | int | float | str
# Told apart by their form, so that a mistake in one is not explained as a mistake in both.
Space = Annotated[
    Annotated[Range, Tag("a range")] | Annotated[list[Choice], Field(min_length=2), Tag("a list")],
    Discriminator(lambda value: "a list" if isinstance(value, list) else "a range"),
]


class Search(Section):
    """What `finetune search` tries; training ignores it."""

    trials: WholeNumber = Field(20, ge=2, le=10_000, description="Trials in all, of every process together.")
    space: dict[str, Space] = Field(
        min_length=1, description="Setting -> {low, high, log} or a list of choices: `training.learning_rate: {...}`."
    )
    prune: bool = Field(True, description="Stop a trial after an epoch in which it is worse than the median was.")


def settings_of(section: type[Section], prefix: str = "") -> Iterator[tuple[str, frozenset[type]]]:
    """Each setting below a section by its dotted name, with the plain types of its value."""
    for name, field in section.model_fields.items():
        kinds = _kinds(field.annotation)
        inner = [kind for kind in kinds if issubclass(kind, Section)]
        if inner:
            yield from settings_of(inner[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kinds


def _kinds(annotation: Any) -> frozenset[type]:
    """The plain types of an annotation: `Literal["a"] | None` is str and NoneType, `list[str]` is list."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return frozenset(map(type, inner))
    if origin is Annotated:
        return _kinds(inner[0])
    if origin in (Union, UnionType):
        return frozenset().union(*map(_kinds, inner))
    kind = origin or annotation
    return frozenset({kind if isinstance(kind, type) else object})
