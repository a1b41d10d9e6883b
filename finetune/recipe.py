"""The recipe: every setting of a run, its range, its default and one sentence about it.

Defaults live only here, and so does every selectable name, as a Literal; a test asserts that each Literal
equals the keys of the table it selects from. Reading and writing the file is recipe_file.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from finetune.cleaning_steps import DEFAULT_CLEANING, CleaningStep, no_repeated_steps
from finetune.recipe_parts import Number, Section, WholeNumber, no_repeats
from finetune.search_space import Search

TaskName = Literal["text-classification"]
Scaling = Literal["standardize", "min_max"]
BaselineName = Literal["majority", "naive_bayes", "tfidf_logistic", "frozen_encoder"]
DEFAULT_BASELINES: list[BaselineName] = ["majority", "naive_bayes", "tfidf_logistic", "frozen_encoder"]
SelectionMetric = Literal[
    "f1_macro",
    "f1_micro",
    "f1_weighted",
    "accuracy",
    "precision_macro",
    "precision_micro",
    "precision_weighted",
    "recall_macro",
    "recall_micro",
    "recall_weighted",
    "matthews",
    "roc_auc",
    "log_loss",
    "error_rate",
    "loss",
]
ExportFormat = Literal["parquet", "csv", "json", "jsonl", "arrow", "hdf5", "tfrecord"]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

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


class FromScratch(Section):
    """An encoder built from a configuration, with a tokenizer trained on the training split."""

    architecture: Literal["bert", "roberta", "distilbert"] = Field("bert", description="The shape of the encoder.")
    tokenizer: Literal["wordpiece", "characters"] = Field(
        "wordpiece", description="Word pieces, or one token a character (for Chinese)."
    )
    vocab_size: WholeNumber = Field(8000, ge=10, le=1_000_000, description="Most tokens the tokenizer may learn.")
    hidden_size: WholeNumber = Field(256, ge=8, description="Width of the encoder.")
    num_hidden_layers: WholeNumber = Field(4, ge=1, description="Number of layers.")
    num_attention_heads: WholeNumber = Field(4, ge=1, description="Attention heads a layer; divides hidden_size.")
    intermediate_size: WholeNumber = Field(1024, ge=8, description="Width of the feed-forward part.")
    max_position_embeddings: WholeNumber = Field(512, ge=16, description="Longest window in tokens.")
    dropout: Number = Field(0.1, ge=0, lt=1, description="Dropout of hidden states and attention.")

    @model_validator(mode="after")
    def _heads_divide(self) -> FromScratch:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} heads")
        return self


class Model(Section):
    """Which weights to start from: `name` or `from_scratch`."""

    name: str | None = Field(None, min_length=1, description="A Hub name or a local folder.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub name.")
    from_scratch: FromScratch | None = Field(None, description="Build the model instead of loading one.")
    attention_dropout: Number | None = Field(
        None, ge=0, lt=1, description="Overrides attention dropout; 0 trains fastest on CPU and changes the recipe."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("name") is None and values.get("from_scratch") is None:
            return {**values, "name": DEFAULT_MODEL}
        return values

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        if self.name is not None and self.from_scratch is not None:
            raise ValueError("name and from_scratch exclude each other; keep one")
        if self.revision is not None and self.name is None:
            raise ValueError("revision needs a name")
        return self


class Columns(Section):
    """Which columns of the source mean what."""

    text: str = Field("text", min_length=1, description="Column of the text.")
    label: str = Field("label", min_length=1, description="Column of the label or labels.")
    group: str | None = Field(None, min_length=1, description="Rows that share this value stay in one split.")
    id: str | None = Field(None, min_length=1, description="Column of a stable id; default is file name and row.")


class Split(Section):
    """Shares of the three splits when the source is one piece."""

    train: Number = Field(0.70, gt=0, lt=1, description="Share of the training split.")
    validation: Number = Field(0.15, gt=0, lt=1, description="Share of the validation split, which chooses the epoch.")
    test: Number = Field(0.15, gt=0, lt=1, description="Share of the test split, opened once at the end.")
    stratify: bool = Field(True, description="Keep the shares of the labels alike in every split.")
    seed: WholeNumber | None = Field(
        None, ge=0, lt=2**31, description="Seed of the split and of data.limit; default is the recipe's seed."
    )

    @model_validator(mode="after")
    def _sum_to_one(self) -> Split:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, found {total:g}")
        return self

    @property
    def shares(self) -> dict[str, float]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


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

    source: Annotated[Sources, PlainValidator(_check_source), WithJsonSchema(_SOURCE_SCHEMA)] = Field(
        description="File, glob, folder, builtin:NAME, Hub name, a list of these, or one per split."
    )
    columns: Columns = Field(Columns(), description="Column mapping.")
    split: Split = Field(Split(), description="Shares of the splits.")
    fold: Fold | None = Field(None, description="Hold out one fold instead of a test share; `crossval` sets it.")
    multi_label: bool = Field(False, description="A document may carry several labels, or none.")
    labels: Annotated[list[str], BeforeValidator(_words), AfterValidator(no_repeats)] | None = Field(
        None, min_length=2, description="The labels in their order; default is read from the data."
    )
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
    numeric: dict[str, Scaling] = Field(
        {}, description="Numeric columns for `prepare`, scaled by the training split: standardize or min_max."
    )
    num_proc: WholeNumber | None = Field(
        None, ge=1, description="Processes for cleaning and duplicates; default is one for each core of a large source."
    )


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


class Augmentation(Section):
    """Changed copies of the training documents; validation and test never see one."""

    copies: WholeNumber = Field(1, ge=1, le=20, description="Changed copies of each training document.")
    delete: Number = Field(0.0, ge=0, lt=1, description="Share of the words to leave out.")
    swap: Number = Field(0.0, ge=0, lt=1, description="Share of the words to exchange with another.")
    insert: Number = Field(0.0, ge=0, lt=1, description="Share of words to add: synonyms of words of the text.")
    synonym: Number = Field(0.0, ge=0, lt=1, description="Share of the words to replace by a synonym.")
    lexicon: str | None = Field(
        None, min_length=1, description="Synonyms: a file of `word,synonym,...` lines, Cilin, OMW .tab, or WordNet."
    )

    @model_validator(mode="after")
    def _does_something(self) -> Augmentation:
        if not (self.delete or self.swap or self.insert or self.synonym):
            raise ValueError("nothing would change; set delete, swap, insert or synonym above 0")
        if (self.insert or self.synonym) and self.lexicon is None:
            raise ValueError("insert and synonym need a lexicon")
        if self.lexicon is not None and not (self.insert or self.synonym):
            raise ValueError("lexicon has no effect without insert or synonym")
        return self


class Training(Section):
    """transformers' own names, counted in documents."""

    num_train_epochs: WholeNumber = Field(3, ge=1, description="Passes over the training documents.")
    max_steps: WholeNumber | None = Field(None, ge=1, description="Stop after this many optimizer steps.")
    learning_rate: Number = Field(5e-5, gt=0, description="Peak learning rate.")
    per_device_train_batch_size: WholeNumber = Field(
        32, ge=1, description="Documents a step, process and accumulation."
    )
    gradient_accumulation_steps: WholeNumber = Field(1, ge=1, description="Multiplies the documents of a step.")
    tokens_per_micro_batch: WholeNumber | None = Field(
        None,
        ge=8,
        description="Most tokens, padding included, in one forward pass; a step is cut to fit. "
        "Default: 1,024 on a CPU, 16,384 on a GPU.",
    )
    optim: Literal["adamw_torch", "adamw_torch_fused", "sgd", "adafactor"] = Field(
        "adamw_torch", description="Optimizer; options for it go to extra.optim_args."
    )
    weight_decay: Number = Field(0.01, ge=0, description="Weight decay, not on biases and norms.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = (
        Field("linear", description="Shape of the learning rate after warm-up.")
    )
    warmup_steps: Number = Field(0.1, ge=0, description="Warm-up: steps, or a share of all steps when below 1.")
    max_grad_norm: Number = Field(1.0, ge=0, description="Clip the gradient norm; 0 is off.")
    class_weights: Literal["none", "balanced"] = Field("none", description="Weigh each label by 1 / its frequency.")
    label_smoothing_factor: Number = Field(0.0, ge=0, lt=1, description="Label smoothing of the training loss.")
    metric_for_best_model: SelectionMetric = Field("f1_macro", description="Validation score that chooses the epoch.")
    load_best_model_at_end: bool = Field(True, description="Keep the best epoch in best/; otherwise best/ is last/.")
    early_stopping_patience: WholeNumber | None = Field(
        None, ge=1, description="Stop after this many evaluations without a better score."
    )
    eval_strategy: Literal["epoch", "steps", "no"] = Field("epoch", description="When to evaluate on validation.")
    eval_steps: WholeNumber | None = Field(None, ge=1, description="Steps between evaluations with 'steps'.")
    save_strategy: Literal["epoch", "steps", "no"] = Field("epoch", description="When to save resumable state.")
    save_steps: WholeNumber | None = Field(None, ge=1, description="Also save resumable state every so many steps.")
    save_total_limit: WholeNumber = Field(2, ge=1, description="Checkpoints to keep; best and newest are always kept.")
    logging_steps: WholeNumber = Field(10, ge=1, description="Steps between lines of history.jsonl.")
    bf16: bool = Field(False, description="bfloat16 arithmetic, where the hardware has it.")
    fp16: bool = Field(False, description="float16 arithmetic with loss scaling, on a GPU.")
    use_cpu: bool = Field(False, description="Leave the GPU alone.")
    extra: dict[str, bool | int | float | str | dict[str, bool | int | float | str] | None] = Field(
        {}, description="Any other field of the installed transformers' TrainingArguments."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Training:
        if self.eval_strategy == "no" and self.load_best_model_at_end:
            raise ValueError("load_best_model_at_end needs evaluations; eval_strategy is 'no'")
        if self.load_best_model_at_end and self.eval_strategy != self.save_strategy:
            raise ValueError(
                f"load_best_model_at_end needs the same eval_strategy ({self.eval_strategy}) "
                f"and save_strategy ({self.save_strategy})"
            )
        if (self.eval_strategy == "steps") != (self.eval_steps is not None):
            raise ValueError("eval_strategy 'steps' and eval_steps need each other")
        if self.save_strategy == "steps" and self.save_steps is None:
            raise ValueError("save_strategy 'steps' needs save_steps")
        if self.load_best_model_at_end and self.save_strategy == "steps" and self.save_steps != self.eval_steps:
            raise ValueError("save_steps must equal eval_steps so that every evaluated model is kept")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("early_stopping_patience needs load_best_model_at_end")
        if self.warmup_steps > 1 and self.warmup_steps % 1:
            raise ValueError(f"warmup_steps is a share below 1 or a whole number of steps, found {self.warmup_steps}")
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other")
        return self


class Evaluation(Section):
    """What stands beside the model's scores."""

    baselines: Annotated[list[BaselineName], AfterValidator(no_repeats)] = Field(
        DEFAULT_BASELINES,
        description="Cheap methods scored on the same documents; frozen_encoder is not a default from scratch.",
    )
    bootstrap: WholeNumber = Field(1000, ge=0, le=100_000, description="Resamples behind each interval; 0 is none.")
    calibrate: bool = Field(
        True,
        description="Fit a temperature, and thresholds of several labels, on validation after training.",
    )
    slices: Annotated[list[str], AfterValidator(no_repeats)] = Field(
        [], description="Columns of the source by whose values test scores are also shown."
    )


class Report(Section):
    """report.html and the model card."""

    language: Literal["en", "zh"] = Field("en", description="English or Chinese.")
    examples: WholeNumber = Field(
        10, ge=0, le=100, description="Texts shown of each kind of mistake; 0 keeps every text out of the run folder."
    )


class Recipe(Section):
    """One run: data, cleaning, windows, model, training, evaluation, seed."""

    task: TaskName = Field(description="What the model learns to do.")
    model: Model = Field(Model(name=DEFAULT_MODEL), description="The model to start from.")
    data: Data = Field(description="The examples.")
    cleaning: Annotated[list[CleaningStep], AfterValidator(no_repeated_steps)] = Field(
        [CleaningStep(name=name) for name in DEFAULT_CLEANING],
        description="Cleaning steps, in this order; a step with a value is written `drop_short: 20`.",
    )
    augmentation: Augmentation | None = Field(None, description="Changed copies of the training documents.")
    windows: Windows = Field(Windows(), description="Windows of long documents.")
    training: Training = Field(Training(), description="The training.")
    evaluation: Evaluation = Field(Evaluation(), description="Baselines, intervals, calibration, slices.")
    report: Report = Field(Report(), description="The report.")
    search: Search | None = Field(None, description="The space of `finetune search`.")
    seed: WholeNumber = Field(13, ge=0, lt=2**31, description="Seed of the split, the order, dropout and new weights.")

    @model_validator(mode="before")
    @classmethod
    def _baselines_of_scratch(cls, values: object) -> object:
        # An encoder with random weights is no opponent; who wants it can name it.
        if isinstance(values, dict) and isinstance(model := values.get("model"), dict):
            evaluation = values.get("evaluation") or {}
            from_scratch = model.get("from_scratch") is not None
            if from_scratch and isinstance(evaluation, dict) and "baselines" not in evaluation:
                return {**values, "evaluation": {**evaluation, "baselines": DEFAULT_BASELINES[:-1]}}
        return values
