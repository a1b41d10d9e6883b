"""A finished writer on new examples: nats and texts of the saved model, scored as those of its own test split were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import datasets
import numpy as np
from transformers import PreTrainedModel

from finetune.data.duplicates import content_hash
from finetune.data.example_families import FEWEST_ROWS_OF_AN_INSTRUCTION, INSTRUCTION_SHARE
from finetune.data.forms import Purpose
from finetune.data.labels import LabelMap
from finetune.data.prepare import Prepared
from finetune.data.recipe_source import split_seed
from finetune.data.row_streams import values
from finetune.data.sequences import encode_examples
from finetune.data.written_examples import asked_text
from finetune.errors import ModelError
from finetune.model_folder import weights_sha256
from finetune.new_examples import (
    ALL,
    NEW,
    TAUGHT,
    NewScores,
    is_taught,
    known_splits,
    overlap_notes,
    own_data,
    prepared_new,
    read_new,
    record_opening,
    shown_splits,
    source_name,
    unfinished,
    write_told,
)
from finetune.opponents import beats_all
from finetune.progress import WARNING, Progress
from finetune.recipe import WriterRecipe, writer_recipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Scores
from finetune.runs import Run, disk_faults, new_run_folder, write_json
from finetune.scorer import Array
from finetune.scores.signatures import bleu_tokenizer_of
from finetune.text_analysis import analyse_texts
from finetune.text_opponents import TextOpponents, fit_text_opponents
from finetune.text_predictor import TextPredictor
from finetune.text_scorer import TextScorer, write_text_predictions
from finetune.training.text_inference import TextPredictions
from finetune.writer_learner import WriterLearner
from finetune.writer_settings import generation_settings

NEEDS_A_MODEL = ("zero_shot", "few_shot")


def evaluate_new_texts(
    run: Run, loaded: LoadedRecipe, source: str, *, model: str, progress: Progress
) -> NewScores:  # fmt: skip
    """What `new_data.evaluate_new` says, for a writer. Baselines but the model before fine-tuning are fitted again."""
    recipe, trained = writer_recipe(loaded.recipe), run.read(run.scores, Scores)
    predictor = TextPredictor.load(run.model(model), use_cpu=recipe.training.use_cpu)
    data = read_new(source, loaded, progress=progress)
    known = known_splits(run, data.rows, recipe.form)
    prepared = prepared_new(data.rows, known, labels=LabelMap(names=()), form=recipe.form)
    signatures = trained.splits["validation"].signatures
    bleu_tokenizer = bleu_tokenizer_of(signatures, _written_texts(prepared))
    judged = _Judged(
        run,
        loaded,
        trained,
        predictor,
        TextScorer(prepared, recipe.evaluation, bleu_tokenizer, recipe.seed, split_seed(recipe)),
    )
    said = judged.predicted(np.flatnonzero(~is_taught(known)), told=f"{source} with {model}/", progress=progress)
    record_opening(run, known)
    folder = new_run_folder(source_name(source), parent=run.folder / "evaluations")
    notes = [*data.notes, *overlap_notes(known, data.rows, run)]
    with disk_faults(run.folder), unfinished(folder) as begun:
        made = Run(begun)
        scores = judged.written(made, said, model=model, notes=notes, progress=progress)
        write_told(made, data, known, model=model)
        write_json(made.scores, scores)
    return NewScores(folder, scores, notes=scores.notes)


@dataclass(frozen=True)
class _Judged:
    """A saved writer and the new documents it is judged on, which are the splits of the scorer."""

    run: Run
    loaded: LoadedRecipe
    trained: Scores
    predictor: TextPredictor
    scorer: TextScorer

    @property
    def recipe(self) -> WriterRecipe:
        return writer_recipe(self.loaded.recipe)

    def predicted(self, unseen: Array, *, told: str, progress: Progress) -> dict[str, TextPredictions]:
        """What the model makes of all documents, and of the unseen ones among them; each has a sample of its own."""
        rows = self.scorer.prepared.splits[ALL]
        written = {ALL: {*self.scorer.written(ALL)}, NEW: {int(unseen[row]) for row in self.scorer.written(NEW)}}
        asked = sorted(written[ALL] | written[NEW]) if len(unseen) < len(rows) else sorted(written[NEW])
        with progress.bar(total=len(rows) + len(asked), desc=f"scoring {told}", unit="document") as bar:
            said = self.predictor.predict_rows(rows, written=asked, on_documents=bar.update)
        return {
            ALL: _of(said, np.arange(len(rows)), written[ALL]),
            NEW: _of(said, unseen, written[NEW]),
        }

    def written(
        self, made: Run, said: dict[str, TextPredictions], *, model: str, notes: list[str], progress: Progress
    ) -> Scores:
        """The scores of every split that is shown, beside baselines; predictions and analysis are in their files."""
        scorer, metric, trained = self.scorer, self.trained.metric_for_best_model, self.trained
        learner, told = self._learner(progress=progress)
        opponents = TextOpponents({}, {})
        if "train" in learner.rows:
            names = [name for name in self.recipe.evaluation.baselines if name not in NEEDS_A_MODEL]
            opponents = fit_text_opponents(names, learner, run=made, splits=[NEW], progress=progress)
        tests = {
            name: scorer.paired(said[NEW], by_split[NEW], NEW, metric=metric)
            for name, by_split in opponents.predicted.items()
        }
        splits = shown_splits(scorer.prepared)
        for split in splits:
            write_text_predictions(made.predictions(split), scorer.prepared, said[split], split, run=made)
        examples = self.recipe.report.examples
        write_json(made.analysis, analyse_texts(scorer, NEW, said[NEW], learner, examples=examples))
        beats = beats_all(tests)
        return Scores(
            metric_for_best_model=metric,
            best_epoch=trained.best_epoch,
            best_step=trained.best_step,
            splits={split: scorer.score(said[split], split) for split in splits},
            last={},
            baselines=opponents.scores,
            baseline_tests=tests,
            strongest_baseline=trained.strongest_baseline if trained.strongest_baseline in tests else None,
            # "Every baseline" cannot be said where one of the recipe's is missing.
            beats_baselines=None if beats and told else beats,
            weights={model: weights_sha256(self.run.folder / model)},
            notes=[*notes, *told, *_source_notes(learner), *scorer.notes(NEW)],
        )

    def _learner(self, *, progress: Progress) -> tuple[WriterLearner, list[str]]:
        """The saved model as the baselines want it: with the new documents, and the run's own where they are the same.

        And why some of the recipe's baselines are missing.
        """
        asked, parts = self.recipe.evaluation.baselines, {NEW: self.scorer.prepared.splits[NEW]}
        told = [f"{name} is not fitted again for new data" for name in asked if name in NEEDS_A_MODEL]
        own, missing = own_data(self.run, self.loaded, progress=progress)
        if own is not None:
            parts |= {split: own.splits[split] for split in TAUGHT}
        elif len(told) < len(asked):
            told.append(missing)
        predictor, scorer = self.predictor, replace(self.scorer, prepared=replace(self.scorer.prepared, splits=parts))
        learner = WriterLearner(
            form=self.recipe.form,
            text_model=predictor.model,
            rows={
                split: self._encoded(rows, "train" if split == "train" else "evaluate") for split, rows in parts.items()
            },
            counts={},
            folder=None,
            notes=[],
            settings=predictor.settings.model_dump(mode="json"),
            generation=generation_settings(predictor.settings.generation),
            scorer=scorer,
            sequences=predictor.sequence_settings,
            fresh_model=_no_fresh_model,
        )
        return learner, told

    def _encoded(self, rows: datasets.Dataset, purpose: Purpose) -> datasets.Dataset:
        model, settings = self.predictor.model, self.predictor.sequence_settings
        return encode_examples(rows, model.tokenizer, form=self.recipe.form, settings=settings, purpose=purpose)[0]


def _no_fresh_model() -> PreTrainedModel:
    raise ModelError("evaluate --data", "looks at the saved model alone, not at the one before fine-tuning")


def _of(said: TextPredictions, rows: Array, written: set[int]) -> TextPredictions:
    """The predictions of some rows, with the texts of those in `written` alone."""
    numbers = rows.tolist()
    return TextPredictions(
        nats=None if said.nats is None else said.nats[rows],
        tokens=None if said.tokens is None else said.tokens[rows],
        characters=said.characters[rows],
        texts=[said.texts[row] if row in written else None for row in numbers],
        references=[said.references[row] if row in written else None for row in numbers],
        cut=said.cut[rows] & np.array([row in written for row in numbers], dtype=bool),
    )


def _written_texts(prepared: Prepared) -> Sequence[str]:
    column = "text" if prepared.form == "text" else "target"
    return [text for text in values(prepared.splits[ALL], column) if text]


def _source_notes(learner: WriterLearner) -> list[str]:
    """A source that taught the model is half the answer, even where another target stands beside it."""
    parts = learner.scorer.prepared.splits
    if learner.form == "text" or "train" not in parts:
        return []

    def sources(rows: datasets.Dataset) -> list[str]:
        asked = (asked_text(text, form=learner.form) for text in values(rows, "text"))
        return [content_hash(text) if text.strip() else "" for text in asked]

    taught = Counter(source for split in TAUGHT for source in sources(parts[split]))
    # What a good share of all rows ask is an instruction, and says nothing about the answer.
    limit = max(FEWEST_ROWS_OF_AN_INSTRUCTION, INSTRUCTION_SHARE * taught.total())
    met = sum(bool(source) and 0 < taught[source] <= limit for source in sources(parts[NEW]))
    if not met:
        return []
    return [
        f"{WARNING}{met:,} of the new documents ask what taught the model with another answer: their scores may flatter"
    ]
