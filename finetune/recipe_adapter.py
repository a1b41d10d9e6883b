"""What of the model a recipe trains: the section `adapter` of the tasks about text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from finetune.recipe_model import Model
from finetune.recipe_parts import Number, Section, WholeNumber, no_repeats

AdapterKind = Literal["none", "lora", "dora", "qlora", "frozen"]
LOW_RANK = ("lora", "dora", "qlora")
Names = Annotated[list[str], Field(min_length=1), AfterValidator(no_repeats)]


class Adapter(Section):
    """Train every weight, small matrices beside weights that stay as they are (LoRA), or the head alone."""

    kind: AdapterKind = Field(
        "none",
        description="none trains every weight; lora, dora, qlora (4-bit base, on a GPU) small matrices beside, and the "
        "head; frozen the head alone, on features that are computed once.",
    )
    r: WholeNumber = Field(16, ge=1, description="Rank of the matrices: their inner width.")
    alpha: WholeNumber = Field(32, ge=1, description="What they add is scaled by alpha / r.")
    dropout: Number = Field(0.05, ge=0, lt=1, description="Dropout of what the matrices read.")
    target_modules: Names | None = Field(
        None, description="Names of the layers that get matrices; default is every linear layer of the network's body."
    )
    modules_to_save: Names | None = Field(
        None, description="Modules to train whole besides; a classifier's head and new embeddings always are."
    )

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> Adapter:
        if self.is_low_rank:
            return self
        for name, field in type(self).model_fields.items():
            if name != "kind" and getattr(self, name) != field.default:
                raise ValueError(f"{name} has no effect with kind '{self.kind}'; it goes with {', '.join(LOW_RANK)}")
        return self

    @property
    def is_low_rank(self) -> bool:
        """Whether matrices are trained that peft knows; their model is saved as an adapter of its base."""
        return self.kind in LOW_RANK


class WriterAdapter(Adapter):
    """Train every weight of a writer, or small matrices beside weights that stay as they are (LoRA)."""

    kind: Literal["none", "lora", "dora", "qlora"] = Field(
        "none", description="none trains every weight; lora, dora, qlora (4-bit base, on a GPU) small matrices beside."
    )


WHOLE = Adapter()  # every weight is trained


def check_adapted(adapter: Adapter, model: Model) -> None:
    """Raises ValueError where the section `model` leaves nothing to adapt, or sets what the adapter overrules."""
    if adapter.kind != "none" and model.from_scratch is not None:
        raise ValueError(f"adapter.kind: '{adapter.kind}' keeps weights; a model from scratch has none yet")
    if adapter.kind == "frozen" and model.attention_dropout is not None:
        raise ValueError("model.attention_dropout has no effect: a frozen encoder is used without dropout")
