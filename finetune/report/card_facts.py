"""What a model card is made from, and what of it the Hub reads: the front matter of README.md.

Names come from the data; huggingface_hub writes the YAML, so that no name can break it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from finetune.data.parts import FILE_EXTENSION, HUB_ID
from finetune.data.text_steps import visible
from finetune.errors import CheckpointError
from finetune.report.sentences import shown_split
from finetune.report.story import Story
from finetune.run_files import Score, Scores, SplitScores
from finetune.runs import MODEL_SETTINGS, Json, Run

# Our name -> the metric's id on the Hub, its name for people, and the arguments that tell it from its sisters.
HUB_METRICS: dict[str, tuple[str, str, dict[str, str] | None]] = {
    "accuracy": ("accuracy", "Accuracy", None),
    "f1_macro": ("f1", "F1 (macro)", {"average": "macro"}),
    "f1_micro": ("f1", "F1 (micro)", {"average": "micro"}),
    "f1_weighted": ("f1", "F1 (weighted)", {"average": "weighted"}),
    "precision_macro": ("precision", "Precision (macro)", {"average": "macro"}),
    "recall_macro": ("recall", "Recall (macro)", {"average": "macro"}),
    "matthews": ("matthews_correlation", "Matthews correlation", None),
    "roc_auc": ("roc_auc", "ROC AUC", None),
    "log_loss": ("log_loss", "Log loss", None),
}
TEXT_HUB_METRICS: dict[str, tuple[str, str, dict[str, str] | None]] = {
    "loss": ("loss", "Loss (nats per token)", None),
    "perplexity": ("perplexity", "Perplexity", None),
    "bleu": ("sacrebleu", "BLEU (sacrebleu)", None),
    "chrf": ("chrf", "chrF (sacrebleu)", None),
    "rouge_1": ("rouge", "ROUGE-1", None),
    "rouge_2": ("rouge", "ROUGE-2", None),
    "rouge_l": ("rouge", "ROUGE-L", None),
    "exact_match": ("exact_match", "Exact match", None),
}
IMAGE_HUB_METRICS: dict[str, tuple[str, str, dict[str, str] | None]] = {
    "fid": ("fid", "FID (2015-12-05 Inception)", None),
    "kid": ("kid", "KID (2015-12-05 Inception)", None),
    "frechet_distance": ("frechet_distance", "Frechet distance, not FID", None),
    "kernel_distance": ("kernel_distance", "Kernel distance, not KID", None),
    "elbo": ("elbo", "ELBO (nats per image)", None),
    "bits_per_dimension": ("bits_per_dimension", "Bits per dimension", None),
    "recall": ("generative_recall", "Recall of generated images", None),
    "coverage": ("coverage", "Coverage", None),
    "conditional_accuracy": ("conditional_accuracy", "Conditional accuracy", None),
    "train_on_synthetic": ("train_on_synthetic", "Accuracy of training on synthetic images", None),
}
TASK_NAMES = {
    "text-classification": "Text classification", "text-generation": "Text generation", "seq2seq": "Text to text",
    "image-generation": "Image generation",
}  # fmt: skip
# The Hub counts encoder-decoder models among the text generators; what was text2text-generation is a tag of theirs.
PIPELINE_TAGS = {"seq2seq": "text-generation", "image-generation": "unconditional-image-generation"}
MORE_TAGS = {"seq2seq": ["text2text-generation"]}
# What is known for certain, and nothing is guessed from texts.
LANGUAGE_OF_CORPUS = {"builtin:python-docs": "en", "builtin:python-functions": "en"}
Which = Literal["best", "last"]


@dataclass(frozen=True)
class Card:
    """What the card is made from: `scores.splits` are those of the weights beside it."""

    name: str
    which: Which
    story: Story
    scores: Scores
    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    is_chosen: bool

    def section(self, name: str) -> Mapping[str, Any]:
        found = self.recipe.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def split(self) -> str:
        return shown_split(self.scores)

    @property
    def shown(self) -> SplitScores:
        return self.scores.splits[self.split]


def read_card(run: Run, which: Which) -> Card:
    story = Story.read(run)
    scores, weights = story.scores, story.scores.weights
    # The last epoch may be the best one. An older run kept no digests, but calibrated no weights either.
    ends_best = scores.best_step is not None and scores.best_step == story.info.steps
    same = which == "best" or (weights.get("best") == weights.get("last") if weights else ends_best)
    if not same:
        # The paired tests were made with the chosen weights.
        changes = {"splits": scores.last, "baseline_tests": {}, "beats_baselines": None}
        scores = scores.model_copy(update=changes)
    return Card(
        name=run.folder.absolute().name,
        which=which,
        story=story,
        scores=scores,
        recipe=story.settings,
        model=_settings_of(run, which),
        is_chosen=same,
    )


def _settings_of(run: Run, which: Which) -> Json:
    path = run.folder / which / MODEL_SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        raise CheckpointError(str(path), "is not JSON") from None
    return found if isinstance(found, dict) else {}


def front_matter(card: Card) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task, signatures = card.story.info.task, card.shown.signatures
    results = [
        EvalResult(
            task_type=_pipeline(card),
            task_name=TASK_NAMES.get(task, task),
            dataset_type=_dataset_type(card),
            dataset_name=_dataset_name(card),
            dataset_split="test",
            metric_type=hub,
            metric_name=name,
            metric_args={"signature": signatures[metric]} if metric in signatures else arguments,
            metric_value=value,
        )
        for metric, (hub, name, arguments) in _hub_metrics(card).items()
        if card.split == "test" and (value := _value(card.shown.scores.get(metric))) is not None
    ]
    data = ModelCardData(
        language=_language(card),
        library_name=_library(card),
        pipeline_tag=_pipeline(card),
        tags=["finetune", _pipeline(card), *MORE_TAGS.get(task, [])],
        base_model=base_model(card),
        datasets=_hub_datasets(card) or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=visible(card.name),
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _pipeline(card: Card) -> str:
    """The Hub's name of the task; an image model that is asked by text is one of text-to-image."""
    task, image = card.story.info.task, card.model.get("image")
    if isinstance(image, dict) and image.get("condition") == "caption":
        return "text-to-image"
    return PIPELINE_TAGS.get(task, task)


def _library(card: Card) -> str:
    """Who loads the weights: no other library knows the networks of image models."""
    if card.story.draws:
        return "finetune"
    return "peft" if card.model.get("adapter") else "transformers"


def _hub_metrics(card: Card) -> dict[str, tuple[str, str, dict[str, str] | None]]:
    if card.story.draws:
        return IMAGE_HUB_METRICS
    return TEXT_HUB_METRICS if card.story.writes else HUB_METRICS


def base_model(card: Card) -> str | None:
    """The name on the Hub; None for a folder and for a model from scratch."""
    name, origin = card.section("model").get("name"), card.story.info.model_origin or ""
    came_from_hub = origin.startswith(("hub", "package "))
    return name.partition("@")[0] if came_from_hub and isinstance(name, str) else None


def _source_names(card: Card) -> list[str]:
    """Every source of the recipe, in order."""
    source = card.section("data").get("source")
    given = list(source.values()) if isinstance(source, dict) else [source]
    return [str(name) for each in given for name in (each if isinstance(each, list) else [each]) if name is not None]


def _hub_datasets(card: Card) -> list[str]:
    """The sources that are datasets of the Hub: such a name is kept as it is, while that of a file is made relative."""
    names = [name for name in _source_names(card) if HUB_ID.fullmatch(name) and not FILE_EXTENSION.search(name)]
    return list(dict.fromkeys(name for name in names if not (card.story.folder / name.split("/")[0]).exists()))


def _dataset_type(card: Card) -> str:
    """The id on the Hub, the name of a built-in corpus, or `custom`."""
    names, hub = list(dict.fromkeys(_source_names(card))), _hub_datasets(card)
    if len(names) != 1:
        return "custom"
    return names[0] if hub else names[0].removeprefix("builtin:") if names[0].startswith("builtin:") else "custom"


def _dataset_name(card: Card) -> str:
    if (kind := _dataset_type(card)) != "custom":
        return kind
    files = [file_name(each.get("name")) for each in card.story.data.get("files", [])]
    return (", ".join(files[:3]) + (", ..." if len(files) > 3 else "")) or "custom data"


def file_name(name: object) -> str:
    """A name without its folders, which may say whose machine it was."""
    return visible(str(name).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])


def _language(card: Card) -> str | None:
    found = {LANGUAGE_OF_CORPUS.get(name) for name in _source_names(card)}
    return found.pop() if len(found) == 1 else None


def _value(score: Score | None) -> float | None:
    return score.value if score is not None else None
