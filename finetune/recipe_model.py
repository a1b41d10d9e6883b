"""Which weights a recipe starts from: the section `model` of every task."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from finetune.recipe_parts import Number, Section, WholeNumber

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Scratch(Section):
    """The sizes of a model that is built from a configuration."""

    vocab_size: WholeNumber = Field(8000, ge=10, le=1_000_000, description="Most tokens the tokenizer may learn.")
    hidden_size: WholeNumber = Field(256, ge=8, description="Width of the model.")
    num_hidden_layers: WholeNumber = Field(
        4, ge=1, description="Number of layers; an encoder-decoder has as many of each."
    )
    num_attention_heads: WholeNumber = Field(4, ge=1, description="Attention heads a layer; divides hidden_size.")
    intermediate_size: WholeNumber = Field(1024, ge=8, description="Width of the feed-forward part.")
    max_position_embeddings: WholeNumber = Field(512, ge=16, description="Longest sequence in tokens.")
    dropout: Number = Field(0.1, ge=0, lt=1, description="Dropout of hidden states and attention.")

    @model_validator(mode="after")
    def _heads_divide(self) -> Scratch:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} heads")
        return self


class FromScratch(Scratch):
    """An encoder built from a configuration, with a tokenizer trained on the training split."""

    architecture: Literal["bert", "roberta", "distilbert"] = Field("bert", description="The shape of the encoder.")
    tokenizer: Literal["wordpiece", "characters"] = Field(
        "wordpiece", description="Word pieces, or one token a character (for Chinese)."
    )


class CausalFromScratch(Scratch):
    """A decoder built from a configuration, with a tokenizer trained on the training split."""

    architecture: Literal["gpt2", "llama"] = Field("gpt2", description="The shape of the decoder.")
    tokenizer: Literal["bytes", "characters"] = Field(
        "bytes", description="Byte-level pairs (BPE), or one token a character, line breaks and case included."
    )


class Seq2SeqFromScratch(Scratch):
    """An encoder-decoder built from a configuration, with a tokenizer trained on the training split."""

    architecture: Literal["t5", "bart"] = Field("t5", description="The shape of the encoder-decoder.")
    tokenizer: Literal["bytes", "characters"] = Field(
        "bytes", description="Byte-level pairs (BPE), or one token a character, line breaks and case included."
    )


class Model(Section):
    """Which weights to start from: `name` or `from_scratch`."""

    name: str | None = Field(None, min_length=1, description="A Hub name or a local folder.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub name.")
    from_scratch: Scratch | None = Field(None, description="Build the model instead of loading one.")
    attention_dropout: Number | None = Field(
        None, ge=0, lt=1, description="Overrides attention dropout; 0 trains fastest on CPU and changes the recipe."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        if self.name is not None and self.from_scratch is not None:
            raise ValueError("name and from_scratch exclude each other; keep one")
        if self.name is None and self.from_scratch is None:
            raise ValueError("needs name or from_scratch")
        if self.revision is not None and self.name is None:
            raise ValueError("revision needs a name")
        return self


class EncoderModel(Model):
    """An encoder; the default is a small one whose weights also come as a package."""

    from_scratch: FromScratch | None = Field(None, description="Build the model instead of loading one.")

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("name") is None and values.get("from_scratch") is None:
            return {**values, "name": DEFAULT_MODEL}
        return values


class CausalModel(Model):
    """A decoder that continues text."""

    from_scratch: CausalFromScratch | None = Field(None, description="Build the model instead of loading one.")


class Seq2SeqModel(Model):
    """An encoder-decoder that writes a text from another."""

    from_scratch: Seq2SeqFromScratch | None = Field(None, description="Build the model instead of loading one.")
