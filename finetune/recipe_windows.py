"""How documents become windows, and examples sequences of tokens: the section `windows` of the text tasks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from finetune.recipe_parts import Section, WholeNumber


class Windows(Section):
    """How long documents become windows of tokens."""

    max_tokens: WholeNumber = Field(512, ge=8, description="Longest window in tokens, special tokens included.")
    stride: WholeNumber = Field(128, ge=0, description="Tokens shared by neighbouring windows.")
    boundary: Literal["sentence", "token"] = Field(
        "sentence", description="End a window at a paragraph or sentence end in its last quarter, or at the last token."
    )
    aggregate: Literal["mean", "mean_logits", "max"] = Field(
        "mean", description="Windows to document: mean of probabilities, mean of logits, or highest probability."
    )
    max_per_document: WholeNumber | None = Field(
        None, ge=1, description="Train and predict on at most this many windows of a document; the cut is counted."
    )
    keep: Literal["head", "head_tail", "spread"] = Field(
        "head", description="Which windows max_per_document keeps: the first, half from each end, or evenly spread."
    )
    truncate: bool = Field(False, description="Keep only the first window; the cost is printed.")

    @model_validator(mode="after")
    def _stride_fits(self) -> Windows:
        if self.stride >= self.max_tokens - 2:
            raise ValueError(
                f"stride {self.stride} must be smaller than max_tokens {self.max_tokens} less two special tokens"
            )
        if self.truncate and self.max_per_document is not None:
            raise ValueError("truncate keeps one window, so max_per_document has no effect; keep one of them")
        if self.keep != "head" and self.max_per_document is None:
            raise ValueError(f"keep '{self.keep}' chooses among windows and needs max_per_document")
        return self


class TextWindows(Section):
    """How text becomes sequences of tokens, and sequences blocks."""

    max_tokens: WholeNumber = Field(512, ge=8, description="Longest sequence in tokens, special tokens included.")
    stride: WholeNumber | None = Field(
        None,
        ge=0,
        description="Plain text: tokens of context before those that a window of an evaluation scores; "
        "default is a quarter of max_tokens.",
    )
    packing: Literal["best_fit", "none"] = Field(
        "best_fit", description="Put the sequences of a step into blocks of max_tokens, without leaks, or pad them."
    )
    completions_only: bool = Field(True, description="Learn completions and the assistant's turns, or every token.")
    too_long: Literal["cut", "drop", "refuse"] = Field(
        "cut", description="An example beyond max_tokens: cut its prompt from the left, drop it from train, or stop."
    )

    @model_validator(mode="after")
    def _stride_fits(self) -> TextWindows:
        if self.stride is not None and self.stride >= self.max_tokens - 1:
            raise ValueError(f"stride {self.stride} must be smaller than max_tokens {self.max_tokens} less one")
        return self


class PairWindows(Section):
    """How sources and targets become sequences of tokens."""

    max_tokens: WholeNumber = Field(512, ge=8, description="Longest source in tokens, special tokens included.")
    max_target_tokens: WholeNumber = Field(128, ge=4, description="Longest target in tokens, special tokens included.")
    too_long: Literal["cut", "drop", "refuse"] = Field(
        "cut", description="A longer source or target: cut its end, drop the example from train, or stop."
    )
