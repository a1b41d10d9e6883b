"""Texts and nats of documents -> scores with intervals, samples kept, and predictions written down.

One TextScorer serves the model, its baselines and every epoch, so that all of them are judged by the same lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.prepare import Prepared
from finetune.data.recipe_source import split_seed
from finetune.data.row_streams import values
from finetune.data.written_examples import chat_messages
from finetune.recipe import TextEvaluation, WriterRecipe, writer_recipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import PairedTest, Score, ShownText, SplitScores
from finetune.runs import Run, disk_faults, write_table
from finetune.scorer import group_array
from finetune.scores.bleu_tokenizers import bleu_tokenizer_for, check_bleu_tokenizer
from finetune.scores.generation import score_losses, score_texts, signatures, text_statistics
from finetune.scores.intervals import LEAST_EFFECTIVE_GROUPS, independent_units
from finetune.scores.paired_texts import paired_loss_test, paired_text_test
from finetune.scores.text_metrics import (
    CHRF_COLUMNS,
    LOSS_METRICS,
    LossStatistics,
    TextStatistics,
    chrf_of_sums,
    loss_intervals,
    text_intervals,
)
from finetune.training.text_inference import TextPredictions

TEXTS_LOOKED_AT = 1000  # of the training split, to tell the language that is written
SHOWN_CHARACTERS = 600
Array = npt.NDArray[Any]


def choose_bleu_tokenizer(loaded: LoadedRecipe, recipe: WriterRecipe, prepared: Prepared) -> str:
    """How sacrebleu cuts words: as the recipe says, or by the language it names, or by the script of what is written.

    Raises RecipeError for a name, and EnvironmentFault for packages and files, that are not there.
    """
    evaluation = recipe.evaluation
    column = "text" if recipe.form == "text" else "target"
    texts = islice((text for text in values(prepared.splits["train"], column) if text), TEXTS_LOOKED_AT)
    chosen = evaluation.bleu_tokenizer or bleu_tokenizer_for(evaluation.language or texts)
    key = "language" if evaluation.language and not evaluation.bleu_tokenizer else "bleu_tokenizer"
    check_bleu_tokenizer(chosen, where=loaded.where("evaluation", key))
    return chosen


def text_scorer(loaded: LoadedRecipe, prepared: Prepared) -> TextScorer:
    """The scorer of a writer's recipe. Raises as `choose_bleu_tokenizer`."""
    recipe = writer_recipe(loaded.recipe)
    bleu_tokenizer = choose_bleu_tokenizer(loaded, recipe, prepared)
    return TextScorer(prepared, recipe.evaluation, bleu_tokenizer, recipe.seed, sample_seed=split_seed(recipe))


@dataclass(frozen=True)
class TextScorer:
    """Scores of predictions of the prepared splits, each with a 95 % interval over documents or groups."""

    prepared: Prepared
    evaluation: TextEvaluation
    bleu_tokenizer: str
    seed: int
    sample_seed: int

    def written(self, split: str) -> Sequence[int]:
        """The numbers of the documents that texts are written for: all, or a sample, the same for every training."""
        documents, most = len(self.prepared.splits[split]), self.evaluation.sample
        if most is None or most >= documents:
            return range(documents)
        draw = np.random.default_rng([self.sample_seed, documents])
        return sorted(draw.choice(documents, size=most, replace=False).tolist())

    def values(self, predicted: TextPredictions) -> dict[str, float | None]:
        """The scores alone, as the history has them after each epoch."""
        losses, texts = self._losses(predicted), self._statistics(predicted)
        return {
            **({} if losses is None else score_losses(losses)),
            **({} if texts is None else score_texts(texts)),
        }

    def score(self, predicted: TextPredictions, split: str) -> SplitScores:
        """The scores with intervals; a text's own are over the documents that a text was written for."""
        losses, texts = self._losses(predicted), self._statistics(predicted)
        resamples, scores = self.evaluation.bootstrap, dict[str, Score]()
        if losses is not None:
            found = loss_intervals(
                losses, groups=group_array(self.prepared, split), resamples=resamples, seed=self.seed
            )
            scores |= _with_intervals(score_losses(losses), found, n=len(losses.nats))
        if texts is not None:
            groups = self._groups(predicted, split)
            found = text_intervals(texts, groups=groups, resamples=resamples, seed=self.seed) if resamples else {}
            scores |= _with_intervals(score_texts(texts), found, n=len(texts.rows))
        return SplitScores(scores=scores, signatures=signatures(self.bleu_tokenizer))

    def notes(self, split: str) -> list[str]:
        """Why a split has no intervals, where it has none; and of how many documents the texts are a sample."""
        groups, documents = group_array(self.prepared, split), len(self.prepared.splits[split])
        notes, units = [], independent_units(documents, groups)
        if self.evaluation.bootstrap and units < LEAST_EFFECTIVE_GROUPS:
            what = "documents" if groups is None else "effective groups"
            notes.append(f"{split}: no interval, {units:.3g} {what} are too few (at least {LEAST_EFFECTIVE_GROUPS})")
        if len(written := self.written(split)) < documents:
            notes.append(f"{split}: texts were written for a sample of {len(written):,} of {documents:,} documents")
        return notes

    def paired(self, first: TextPredictions, second: TextPredictions, split: str, *, metric: str) -> PairedTest:
        """`first` against `second` on the same documents; by chrF where one of them has no loss to compare."""
        named: dict[str, Any] = {"resamples": self.evaluation.bootstrap, "seed": self.seed}
        losses = self._losses(first), self._losses(second)
        if metric in LOSS_METRICS and None not in losses:
            groups = group_array(self.prepared, split)
            return paired_loss_test(*losses, metric=metric, groups=groups, **named)  # type: ignore[arg-type]
        texts = self._statistics(first), self._statistics(second)
        metric = "chrf" if metric in LOSS_METRICS else metric
        return paired_text_test(*texts, metric=metric, groups=self._groups(first, split), **named)  # type: ignore[arg-type]

    def chrf_by_document(self, predicted: TextPredictions) -> Array:
        """(documents written for,) chrF of each by itself, 0..100."""
        statistics = self._statistics(predicted)
        return np.zeros(0) if statistics is None else chrf_of_sums(statistics.rows[:, list(CHRF_COLUMNS)])

    def _losses(self, predicted: TextPredictions) -> LossStatistics | None:
        if predicted.nats is None or predicted.tokens is None:
            return None
        return LossStatistics(predicted.nats, predicted.tokens, predicted.characters)

    def _statistics(self, predicted: TextPredictions) -> TextStatistics | None:
        rows = predicted.written
        if not len(rows):
            return None
        return text_statistics(
            [predicted.references[row] or "" for row in rows],
            [predicted.texts[row] or "" for row in rows],
            bleu_tokenizer=self.bleu_tokenizer,
            cut=predicted.cut[rows],
        )

    def _groups(self, predicted: TextPredictions, split: str) -> Array | None:
        groups = group_array(self.prepared, split)
        return None if groups is None else groups[predicted.written]


def shown_texts(scorer: TextScorer, split: str, predicted: TextPredictions, numbers: Sequence[int]) -> list[ShownText]:
    """What was written for the documents in `numbers`, shortened; none of them without a text."""
    rows = scorer.prepared.splits[split]
    place = {int(row): position for position, row in enumerate(predicted.written)}
    chrf = scorer.chrf_by_document(predicted)
    return [
        ShownText(
            id=row["id"],
            group=row["group"],
            prompt=shortened(prompt_text(row["text"], predicted.references[number] or "", form=scorer.prepared.form)),
            reference=shortened(predicted.references[number] or ""),
            prediction=shortened(predicted.texts[number] or ""),
            cut=bool(predicted.cut[number]),
            chrf=float(chrf[place[number]]),
        )
        for number in numbers
        for row in [rows[int(number)]]
    ]


def prompt_text(text: str, reference: str, *, form: str | None) -> str:
    """What the model was given, to be shown: of a chat its turns, of plain text what stands before the reference."""
    if form == "text":
        return text.partition(reference)[0] if reference else text
    if form != "chat":
        return text
    return "\n".join(f"{message['role']}: {message['content']}" for message in chat_messages(text))


def shortened(text: str, most: int = SHOWN_CHARACTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def write_text_predictions(path: Any, prepared: Prepared, predicted: TextPredictions, split: str, *, run: Run) -> None:
    """One row a document: id, group, reference, prediction (null where none was asked for), cut, nats, tokens."""
    rows = prepared.splits[split]
    losses = {} if predicted.nats is None else {"nats": predicted.nats, "tokens": predicted.tokens}
    with disk_faults(run.folder):
        write_table(
            path,
            {
                "id": rows["id"],
                "group": rows["group"],
                "reference": predicted.references,
                "prediction": predicted.texts,
                "cut": predicted.cut,
                **losses,
                "characters": predicted.characters,
            },
        )


def _with_intervals(
    values: dict[str, float | None], found: dict[str, tuple[float, float]], *, n: int
) -> dict[str, Score]:
    return {
        name: Score(value=value, n=n, **dict(zip(("low", "high"), found.get(name, ()), strict=False)))
        for name, value in values.items()
    }
