"""Where the examples of a recipe come from and how they are divided: the section `data` of every task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from finetune.recipe_parts import Number, Section, WholeNumber, no_repeats

ExportFormat = Literal["parquet", "csv", "json", "jsonl", "arrow", "hdf5", "tfrecord"]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
Scaling = Literal["standardize", "min_max"]
# How an example is written down: plain text, prompt and completion, messages of a chat, or source and target.
Form = Literal["text", "pairs", "chat", "seq2seq"]

Sources = str | list[str] | dict[str, str | list[str]]


def _check_source(value: object) -> Sources:
    """One source, a list of them, or a source (or list) for each split."""

    def is_source(item: object) -> bool:
        return isinstance(item, str) and bool(item.strip())

    def is_source_or_list(item: object) -> bool:
        return is_source(item) or (isinstance(item, list) and bool(item) and all(is_source(each) for each in item))

    if is_source_or_list(value):
        return value  # type: ignore[return-value]
    if isinstance(value, dict) and value:
        strange = [key for key in value if key not in SPLITS]
        if strange:
            raise ValueError(f"the keys of a source by split are train, validation, test; found '{strange[0]}'")
        if "train" not in value:
            raise ValueError("a source by split needs 'train'")
        if all(is_source_or_list(item) for item in value.values()):
            return value
    raise ValueError("expected a file, a glob, a folder, builtin:NAME, a Hub name, a list of these, or one per split")


def _words(value: object) -> object:
    # YAML reads 0 and true as a number and a truth value; as a label each is the word the data file shows.
    if isinstance(value, list):
        return [str(item).lower() if isinstance(item, bool) else str(item) for item in value]
    return value


_SOURCE_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "propertyNames": {"enum": list(SPLITS)}, "required": ["train"]},
    ]
}


SourceNames = Annotated[Sources, PlainValidator(_check_source), WithJsonSchema(_SOURCE_SCHEMA)]


class Columns(Section):
    """Which columns of the source mean what."""

    text: str = Field("text", min_length=1, description="Column of the text.")
    label: str = Field("label", min_length=1, description="Column of the label or labels.")
    group: str | None = Field(None, min_length=1, description="Rows that share this value stay in one split.")
    id: str | None = Field(None, min_length=1, description="Column of a stable id; default is file name and row.")


class TextColumns(Section):
    """Which columns mean what: `text`, or `prompt` and `completion`, or `messages`; `text` when none is named."""

    text: str | None = Field(None, min_length=1, description="Column of plain text.")
    prompt: str | None = Field(None, min_length=1, description="Column of the prompt; goes with completion.")
    completion: str | None = Field(None, min_length=1, description="Column of what shall be written after the prompt.")
    messages: str | None = Field(None, min_length=1, description="Column of a chat: a list of {role, content}.")
    group: str | None = Field(None, min_length=1, description="Rows that share this value stay in one split.")
    id: str | None = Field(None, min_length=1, description="Column of a stable id; default is file name and row.")

    @model_validator(mode="before")
    @classmethod
    def _plain_text(cls, values: object) -> object:
        if isinstance(values, dict) and all(values.get(key) is None for key in ("prompt", "completion", "messages")):
            return {"text": "text", **{key: value for key, value in values.items() if key != "text" or value}}
        return values

    @model_validator(mode="after")
    def _one_form(self) -> TextColumns:
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion need each other")
        named = [key for key in ("text", "prompt", "messages") if getattr(self, key) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} are different forms of examples; keep one")
        return self

    @property
    def form(self) -> Form:
        return "text" if self.text is not None else "pairs" if self.prompt is not None else "chat"


class PairColumns(Section):
    """Which columns mean what."""

    source: str = Field("source", min_length=1, description="Column of the source text.")
    target: str = Field("target", min_length=1, description="Column of the text to write from it.")
    group: str | None = Field(None, min_length=1, description="Rows that share this value stay in one split.")
    id: str | None = Field(None, min_length=1, description="Column of a stable id; default is file name and row.")

    @property
    def form(self) -> Form:
        return "seq2seq"


class Shares(Section):
    """Shares of the three splits when the source is one piece."""

    train: Number = Field(0.70, gt=0, lt=1, description="Share of the training split.")
    validation: Number = Field(0.15, gt=0, lt=1, description="Share of the validation split, which chooses the epoch.")
    test: Number = Field(0.15, gt=0, lt=1, description="Share of the test split, opened once at the end.")
    seed: WholeNumber | None = Field(
        None, ge=0, lt=2**31, description="Seed of the split and of data.limit; default is the recipe's seed."
    )

    @model_validator(mode="after")
    def _sum_to_one(self) -> Shares:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, found {total:g}")
        return self

    @property
    def shares(self) -> dict[str, float]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


class Split(Shares):
    """Shares of the three splits, with their labels."""

    stratify: bool = Field(True, description="Keep the shares of the labels alike in every split.")


class TextSplit(Shares):
    """Shares of the three splits of unlabelled text."""

    contiguous: bool = Field(
        False, description="Divide by position: the first documents are train, the next validation, the last test."
    )


class Fold(Section):
    """One round of cross-validation: fold `fold` of `folds` is held out as the test split."""

    folds: WholeNumber = Field(ge=2, description="Number of folds.")
    fold: WholeNumber = Field(ge=1, description="The fold that is held out, from 1.")
    repeat: WholeNumber = Field(1, ge=1, description="Each repeat divides the documents anew.")

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Fold:
        if self.fold > self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds} folds does not exist")
        return self


class Data(Section):
    """Where the examples come from and how they are divided."""

    source: SourceNames = Field(
        description="File, glob, folder, builtin:NAME, Hub name, a list of these, or one per split."
    )
    split: Shares = Field(Shares(), description="Shares of the splits.")
    encoding: str | None = Field(None, description="Text encoding of the files; default is detected and stated.")
    limit: WholeNumber | None = Field(None, ge=1, description="Use a seeded sample of this many examples a source.")
    most_characters: WholeNumber = Field(
        1_000_000, ge=1, description="A longer text is refused with its line: a quote that never closed, or a binary."
    )
    near_duplicates: Number | None = Field(
        0.7,
        ge=0.5,
        le=1,
        description="Share of common words and word pairs (characters in Chinese) from which two texts are one family, "
        "which stays in one split; null counts exact duplicates only.",
    )
    leaks: Literal["refuse", "move", "warn"] = Field(
        "refuse",
        description="When splits you bring share texts or groups with test: stop, move them to train, or warn.",
    )
    num_proc: WholeNumber | None = Field(
        None, ge=1, description="Processes for cleaning and duplicates; default is one for each core of a large source."
    )


class LabelledData(Data):
    """Documents with labels."""

    columns: Columns = Field(Columns(), description="Column mapping.")
    split: Split = Field(Split(), description="Shares of the splits.")
    fold: Fold | None = Field(None, description="Hold out one fold instead of a test share; `crossval` sets it.")
    multi_label: bool = Field(False, description="A document may carry several labels, or none.")
    labels: Annotated[list[str], BeforeValidator(_words), AfterValidator(no_repeats)] | None = Field(
        None, min_length=2, description="The labels in their order; default is read from the data."
    )
    numeric: dict[str, Scaling] = Field(
        {}, description="Numeric columns for `prepare`, scaled by the training split: standardize or min_max."
    )


class WrittenData(Data):
    """Text to write, which may be more than the disk holds."""

    streaming: bool = Field(
        False, description="Read the training part row by row as it is needed, and keep nothing of it on the disk."
    )
    epoch_examples: WholeNumber = Field(
        10_000, ge=1, description="Streaming: training examples of an epoch, after which the model is evaluated."
    )

    @model_validator(mode="after")
    def _is_streamed_as_a_part(self) -> WrittenData:
        if not self.streaming:
            if self.epoch_examples != type(self).model_fields["epoch_examples"].default:
                raise ValueError("epoch_examples counts what is streamed, and needs streaming")
            return self
        if not isinstance(self.source, dict) or not {*SPLITS} <= {*self.source}:
            raise ValueError(
                "streaming reads the training part alone as it comes; "
                "name source: {train: ..., validation: ..., test: ...}"
            )
        if self.limit is not None:
            raise ValueError("limit draws from rows that are all at hand; with streaming, set epoch_examples")
        return self


class TextData(WrittenData):
    """Text to continue: plain, as prompt and completion, or as chats."""

    columns: TextColumns = Field(TextColumns(text="text"), description="Column mapping.")
    split: TextSplit = Field(TextSplit(), description="Shares of the splits.")
    passage_characters: WholeNumber | None = Field(
        None, ge=100, description="Cut plain texts into passages of about this many characters, each a document."
    )

    @model_validator(mode="after")
    def _passages_of_plain_text(self) -> TextData:
        if self.passage_characters is not None and self.columns.form != "text":
            raise ValueError("passage_characters cuts plain text, and columns names another form of examples")
        return self


class PairData(WrittenData):
    """Texts to rewrite: source and target."""

    columns: PairColumns = Field(PairColumns(), description="Column mapping.")
    split: TextSplit = Field(TextSplit(), description="Shares of the splits.")
