"""The recipe: every setting of a run, its range, its default and one sentence about it.

Defaults live only here and in the files of its sections (recipe_data.py, recipe_model.py, recipe_training.py), and so
does every selectable name, as a Literal; a test asserts that each Literal equals the keys of the table it selects from.
The task selects the class, and so the sections and keys that are known. Reading and writing the file is recipe_file.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from finetune.cleaning_steps import DEFAULT_CLEANING, DEFAULT_TEXT_CLEANING, CleaningStep, no_repeated_steps
from finetune.errors import RecipeError
from finetune.recipe_adapter import Adapter, WriterAdapter, check_adapted
from finetune.recipe_data import Data, Form, LabelledData, PairData, TextData
from finetune.recipe_image import ImageData, ImageEvaluation, ImageModel, Images, ImageTraining, Vae
from finetune.recipe_model import DEFAULT_MODEL, CausalModel, EncoderModel, Model, Seq2SeqModel
from finetune.recipe_parts import Evaluation, Number, Section, WholeNumber, no_repeats
from finetune.recipe_training import AnyTraining, CausalTraining, ClassifierTraining, Seq2SeqTraining, Training
from finetune.recipe_windows import PairWindows, TextWindows, Windows
from finetune.search_space import Search

TextTaskName = Literal["text-classification", "text-generation", "seq2seq"]
TaskName = Literal[TextTaskName, "image-generation"]
BaselineName = Literal["majority", "naive_bayes", "tfidf_logistic", "frozen_encoder"]
DEFAULT_BASELINES: list[BaselineName] = ["majority", "naive_bayes", "tfidf_logistic", "frozen_encoder"]
TextBaselineName = Literal["copy_source", "nearest_neighbour", "ngram", "hidden_markov", "zero_shot", "few_shot"]
# Copying and looking up need a source; a model with random weights is no opponent before it is trained.
DEFAULT_TEXT_BASELINES: dict[Form, list[TextBaselineName]] = {
    "text": ["ngram", "hidden_markov", "zero_shot"],
    "pairs": ["copy_source", "nearest_neighbour", "ngram", "hidden_markov", "zero_shot", "few_shot"],
    "chat": ["nearest_neighbour", "ngram", "hidden_markov", "zero_shot"],
    "seq2seq": ["copy_source", "nearest_neighbour", "ngram", "hidden_markov", "zero_shot"],
}
LARGEST_TRAINED_IMAGE = 256
FORM_WORDS: dict[Form, str] = {
    "text": "plain text", "pairs": "prompts and completions", "chat": "chats", "seq2seq": "sources and targets",
}  # fmt: skip
BleuTokenizer = Literal["13a", "zh", "ja-mecab", "ko-mecab", "intl", "char", "none", "flores101", "flores200"]


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


class Shot(Section):
    """An example that is put before every prompt."""

    prompt: str = Field(min_length=1, description="What is asked.")
    completion: str = Field(min_length=1, description="What shall be answered.")


class Generation(Section):
    """How the model writes: after every epoch, on test, and in `predict`. The settings are stored with the model."""

    max_new_tokens: WholeNumber = Field(128, ge=1, description="Most tokens to write.")
    min_new_tokens: WholeNumber = Field(0, ge=0, description="Fewest tokens to write before an end is allowed.")
    num_beams: WholeNumber = Field(1, ge=1, le=64, description="Beams of a beam search; 1 is greedy, or sampling.")
    length_penalty: Number = Field(1.0, description="Of a beam search: above 0 favours longer texts.")
    do_sample: bool = Field(False, description="Draw each token; otherwise the likeliest is taken.")
    temperature: Number = Field(1.0, gt=0, description="Divides the logits before a token is drawn.")
    top_p: Number = Field(1.0, gt=0, le=1, description="Draw among the likeliest tokens of this total probability.")
    top_k: WholeNumber = Field(0, ge=0, description="Draw among this many likeliest tokens; 0 is all.")
    repetition_penalty: Number = Field(1.0, gt=0, description="Above 1 makes tokens that were there less likely.")
    no_repeat_ngram_size: WholeNumber = Field(0, ge=0, description="No n-gram of this size is written twice; 0 is off.")
    seed: WholeNumber | None = Field(None, ge=0, lt=2**31, description="Seed of drawing; default is the recipe's seed.")

    @model_validator(mode="after")
    def _does_something(self) -> Generation:
        if not self.do_sample and (self.temperature, self.top_p, self.top_k) != (1.0, 1.0, 0):
            raise ValueError("temperature, top_p and top_k change what is drawn, and need do_sample")
        if self.do_sample and self.num_beams > 1:
            raise ValueError("num_beams searches for the likeliest text, and do_sample draws one; keep one of them")
        if self.num_beams == 1 and self.length_penalty != 1.0:
            raise ValueError("length_penalty weighs the beams of a search, and needs num_beams above 1")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens {self.min_new_tokens} is above max_new_tokens {self.max_new_tokens}")
        return self


class TextGeneration(Generation):
    """How a text generator writes."""

    prompt_tokens: WholeNumber = Field(
        32,
        ge=1,
        description="Plain text: the first tokens of a document are the prompt, and what follows the reference.",
    )
    examples: list[Shot] = Field(
        [], description="Few-shot: shown before every prompt, for a base model that is asked without fine-tuning."
    )
    chat_template: Literal["model", "plain"] = Field(
        "model", description="Chats: the model's own template where it has one, or the role on a line before its words."
    )


class TextualEvaluation(Evaluation):
    """What stands beside the scores of documents."""

    slices: Annotated[list[str], AfterValidator(no_repeats)] = Field(
        [], description="Columns of the source by whose values test scores are also shown."
    )


class ClassifierEvaluation(TextualEvaluation):
    """What stands beside the scores of a classifier."""

    baselines: Annotated[list[BaselineName], AfterValidator(no_repeats)] = Field(  # type: ignore[assignment]
        DEFAULT_BASELINES,
        description="Cheap methods scored on the same documents; frozen_encoder is not a default from scratch.",
    )
    calibrate: bool = Field(
        True,
        description="Fit a temperature, and thresholds of several labels, on validation after training.",
    )


class TextEvaluation(TextualEvaluation):
    """What stands beside the scores of written text."""

    baselines: Annotated[list[TextBaselineName], AfterValidator(no_repeats)] = Field(  # type: ignore[assignment]
        description="Cheap methods scored on the same documents; the default goes by the form of the examples.",
    )
    language: str | None = Field(
        None,
        pattern="^[a-z]{2,3}$",
        description="Language of the written text (en, de, zh, ja, ko); default: by script.",
    )
    bleu_tokenizer: BleuTokenizer | None = Field(
        None, description="How sacrebleu cuts words; default goes by the language."
    )
    sample: WholeNumber | None = Field(
        None, ge=1, description="Write for a seeded sample of this many documents of a split; default is all."
    )
    shown: WholeNumber = Field(8, ge=0, le=100, description="Validation documents whose texts are kept at every epoch.")
    shots: WholeNumber = Field(3, ge=1, le=32, description="Training examples before the prompt in few_shot.")


class Report(Section):
    """report.html and the model card."""

    language: Literal["en", "zh"] = Field("en", description="English or Chinese.")
    examples: WholeNumber = Field(
        10,
        ge=0,
        le=100,
        description="Texts shown of each kind of mistake; 0 keeps every text out of the run folder, "
        "but for predictions/ of written text.",
    )


class Recipe(Section):
    """What the recipes of all tasks have: training, evaluation, report, seed."""

    task: TaskName = Field(description="What the model learns to do.")
    training: AnyTraining = Field(description="The training.")
    evaluation: Evaluation = Field(description="What stands beside the scores.")
    report: Report = Field(Report(), description="The report.")
    seed: WholeNumber = Field(13, ge=0, lt=2**31, description="Seed of the split, the order, dropout and new weights.")


class TextRecipe(Recipe):
    """What the recipes of all tasks about documents have."""

    model: Model = Field(description="The model to start from.")
    data: Data = Field(description="The examples.")
    cleaning: Annotated[list[CleaningStep], AfterValidator(no_repeated_steps)] = Field(
        [CleaningStep(name=name) for name in DEFAULT_CLEANING],
        description="Cleaning steps, in this order; a step with a value is written `drop_short: 20`.",
    )
    adapter: Adapter = Field(Adapter(), description="What of the model is trained.")
    training: Training = Field(description="The training.")
    evaluation: TextualEvaluation = Field(description="What stands beside the scores.")
    search: Search | None = Field(None, description="The space of `finetune search`.")

    @model_validator(mode="after")
    def _adapts_weights(self) -> TextRecipe:
        check_adapted(self.adapter, self.model)
        return self


class ClassifierRecipe(TextRecipe):
    """Learn to label documents."""

    task: Literal["text-classification"] = Field(description="What the model learns to do.")
    model: EncoderModel = Field(EncoderModel(name=DEFAULT_MODEL), description="The model to start from.")
    data: LabelledData = Field(description="The examples.")
    augmentation: Augmentation | None = Field(None, description="Changed copies of the training documents.")
    windows: Windows = Field(Windows(), description="Windows of long documents.")
    training: ClassifierTraining = Field(ClassifierTraining(), description="The training.")
    evaluation: ClassifierEvaluation = Field(
        ClassifierEvaluation(), description="Baselines, intervals, calibration, slices."
    )

    @model_validator(mode="before")
    @classmethod
    def _baselines_of_scratch(cls, values: object) -> object:
        # An encoder with random weights is no opponent; who wants it can name it.
        if _is_from_scratch(values):
            return _with_baselines(values, DEFAULT_BASELINES[:-1])
        return values


class WriterRecipe(TextRecipe):
    """What the recipes of all generators have."""

    data: TextData | PairData = Field(description="The examples.")
    cleaning: Annotated[list[CleaningStep], AfterValidator(no_repeated_steps)] = Field(
        [CleaningStep(name=name) for name in DEFAULT_TEXT_CLEANING],
        description="Cleaning steps, in this order; a step with a value is written `drop_short: 20`.",
    )
    adapter: WriterAdapter = Field(WriterAdapter(), description="What of the model is trained.")
    windows: TextWindows | PairWindows = Field(description="Sequences of tokens.")
    generation: Generation = Field(description="How the model writes.")
    evaluation: TextEvaluation = Field(description="Baselines, intervals, texts shown.")

    @model_validator(mode="before")
    @classmethod
    def _baselines_of_form(cls, values: object) -> object:
        baselines = DEFAULT_TEXT_BASELINES[cls._form_of(values)]
        if _is_from_scratch(values):
            baselines = [name for name in baselines if name not in ("zero_shot", "few_shot")]
        return _with_baselines(values, baselines)

    @classmethod
    def _form_of(cls, values: object) -> Form:
        """The form of the examples in a recipe that is not yet checked."""
        data = values.get("data") if isinstance(values, dict) else None
        columns = data.get("columns") if isinstance(data, dict) else None
        named = columns if isinstance(columns, dict) else {}
        return "pairs" if named.get("prompt") else "chat" if named.get("messages") else "text"

    @model_validator(mode="after")
    def _fits_the_form(self) -> WriterRecipe:
        strange = [name for name in self.evaluation.baselines if name not in DEFAULT_TEXT_BASELINES[self.form]]
        if strange:
            known = ", ".join(DEFAULT_TEXT_BASELINES[self.form])
            raise ValueError(
                f"evaluation.baselines: '{strange[0]}' does not go with this form of examples; these do: {known}"
            )
        return self

    @property
    def form(self) -> Form:
        """How an example is written down."""
        return self.data.columns.form


class TextGenerationRecipe(WriterRecipe):
    """Learn to continue text: plain text, prompts and completions, or chats."""

    task: Literal["text-generation"] = Field(description="What the model learns to do.")
    model: CausalModel = Field(description="The model to start from.")
    data: TextData = Field(description="The examples.")
    windows: TextWindows = Field(TextWindows(), description="Sequences of tokens, and the blocks they are packed into.")
    training: CausalTraining = Field(CausalTraining(), description="The training.")
    generation: TextGeneration = Field(TextGeneration(), description="How the model writes.")

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> TextGenerationRecipe:
        of_forms: list[tuple[Section, str, Form]] = [
            (self.windows, "windows.stride", "text"),
            (self.generation, "generation.prompt_tokens", "text"),
            (self.generation, "generation.examples", "pairs"),
            (self.generation, "generation.chat_template", "chat"),
        ]
        for section, key, form in of_forms:
            name = key.split(".")[-1]
            if form != self.form and getattr(section, name) != type(section).model_fields[name].default:
                raise ValueError(f"{key} is for {FORM_WORDS[form]}, and data.columns names {FORM_WORDS[self.form]}")
        return self


class Seq2SeqRecipe(WriterRecipe):
    """Learn to write a text from another: translation, summaries, data to text."""

    task: Literal["seq2seq"] = Field(description="What the model learns to do.")
    model: Seq2SeqModel = Field(description="The model to start from.")
    data: PairData = Field(description="The examples.")
    windows: PairWindows = Field(PairWindows(), description="Sequences of tokens.")
    training: Seq2SeqTraining = Field(Seq2SeqTraining(), description="The training.")
    generation: Generation = Field(Generation(), description="How the model writes.")

    @classmethod
    def _form_of(cls, values: object) -> Form:
        return "seq2seq"


class ImageRecipe(Recipe):
    """Learn to draw images."""

    task: Literal["image-generation"] = Field(description="What the model learns to do.")
    model: ImageModel = Field(ImageModel(vae=Vae()), description="What draws.")
    data: ImageData = Field(description="The images.")
    image: Images = Field(Images(), description="How images are read, changed and asked for.")
    training: ImageTraining = Field(description="The training.")
    evaluation: ImageEvaluation = Field(ImageEvaluation(), description="Distances, baselines, intervals.")

    @model_validator(mode="before")
    @classmethod
    def _metric_of_model(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        model, training = values.get("model") or {"vae": {}}, values.get("training") or {}
        if not isinstance(training, dict) or "metric_for_best_model" in training:
            return values
        metric = "elbo" if isinstance(model, dict) and "vae" in model else "kernel_distance"
        return {**values, "training": {**training, "metric_for_best_model": metric}}

    @model_validator(mode="after")
    def _fits_together(self) -> ImageRecipe:
        if self.image.condition == "label" and self.data.columns.label is None:
            raise ValueError("image.condition: 'label' needs data.columns.label")
        if self.image.condition == "caption" and not self.image.captions and self.data.columns.caption is None:
            raise ValueError("image.condition: 'caption' needs data.columns.caption, or templates in image.captions")
        if self.image.captions and self.data.columns.caption is not None:
            raise ValueError("image.captions: templates make captions, and data.columns.caption has them; keep one")
        if self.image.size > LARGEST_TRAINED_IMAGE and self.model.style is None:
            raise ValueError(f"image.size: {self.image.size} is above {LARGEST_TRAINED_IMAGE}, which style alone draws")
        return self


AnyRecipe = Annotated[
    ClassifierRecipe | TextGenerationRecipe | Seq2SeqRecipe | ImageRecipe, Field(discriminator="task")
]
RECIPES: dict[str, type[Recipe]] = {
    "text-classification": ClassifierRecipe,
    "text-generation": TextGenerationRecipe,
    "seq2seq": Seq2SeqRecipe,
    "image-generation": ImageRecipe,
}


def text_recipe(recipe: Recipe) -> TextRecipe:
    """A recipe about documents as what it is. Raises RecipeError for one of images, where documents are asked for."""
    if not isinstance(recipe, TextRecipe):
        raise RecipeError(
            "task", f"this works on documents, and {recipe.task} has none", "Name a recipe of a text task."
        )
    return recipe


def classifier_recipe(recipe: Recipe) -> ClassifierRecipe:
    """A recipe of text classification as what it is."""
    assert isinstance(recipe, ClassifierRecipe), f"{recipe.task} is no text classification"
    return recipe


def writer_recipe(recipe: Recipe) -> WriterRecipe:
    """A recipe of text generation or seq2seq as what it is."""
    assert isinstance(recipe, WriterRecipe), f"{recipe.task} writes no text"
    return recipe


def image_recipe(recipe: Recipe) -> ImageRecipe:
    """A recipe of image generation as what it is."""
    assert isinstance(recipe, ImageRecipe), f"{recipe.task} draws no images"
    return recipe


def _is_from_scratch(values: object) -> bool:
    model = values.get("model") if isinstance(values, dict) else None
    return isinstance(model, dict) and model.get("from_scratch") is not None


def _with_baselines(values: object, baselines: Sequence[str]) -> object:
    """The values of a recipe with these baselines where it names none."""
    if not isinstance(values, dict):
        return values
    evaluation = values.get("evaluation") or {}
    if isinstance(evaluation, dict) and "baselines" not in evaluation:
        return {**values, "evaluation": {**evaluation, "baselines": list(baselines)}}
    return values
