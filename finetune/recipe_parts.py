"""What every section of a recipe is made of: the frozen base class and its kinds of numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A frozen part of the recipe that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _number(value: object) -> object:
    # pydantic would take `true` for 1.
    if isinstance(value, bool):
        raise ValueError("expected a number, found a truth value")
    return value


WholeNumber = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]


def no_repeats(value: list[str]) -> list[str]:
    repeated = sorted({item for item in value if value.count(item) > 1})
    if repeated:
        raise ValueError(f"'{repeated[0]}' is listed twice")
    return value


class Evaluation(Section):
    """What stands beside the model's scores."""

    baselines: Annotated[list[str], AfterValidator(no_repeats)] = Field(
        [], description="Cheap methods scored on the same documents."
    )
    bootstrap: WholeNumber = Field(1000, ge=0, le=100_000, description="Resamples behind each interval; 0 is none.")
