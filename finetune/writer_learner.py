"""A writer's learner: the model, tokenizer and token sequences that one recipe and its prepared data make.

Everything that can be refused about a model is refused here, before any run folder exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.adapter_base import Base
from finetune.adapters import rate_note
from finetune.data.chats import template_of
from finetune.data.forms import Purpose, SequenceSettings
from finetune.data.lengths import length_lines
from finetune.data.prepare import Prepared
from finetune.data.row_streams import values
from finetune.data.sequences import SequenceCounts, encode_examples
from finetune.errors import ModelError
from finetune.hub_models import find_model
from finetune.learner import adapter_settings, base_of_adapter, origin_of, refuse_arithmetic, save_with_settings
from finetune.model_folder import ModelFolder
from finetune.progress import WARNING, Progress
from finetune.recipe import TextGeneration, WriterRecipe, writer_recipe
from finetune.recipe_adapter import WHOLE, Adapter
from finetune.recipe_data import Form
from finetune.recipe_file import LoadedRecipe
from finetune.recipe_model import CausalFromScratch, Seq2SeqFromScratch
from finetune.recipe_windows import PairWindows, TextWindows
from finetune.run_files import Calibration, Samples
from finetune.runs import Json, Run, disk_faults, write_json
from finetune.scratch_tokenizers import train_writer_tokenizer
from finetune.text_scorer import TextScorer, shown_texts, text_scorer
from finetune.training.lessons import Turn
from finetune.training.next_token import GenerationSettings
from finetune.training.streamed import StreamedTable
from finetune.training.text_inference import TextModel, TextPredictions
from finetune.training.writing import SequenceTable, WriterLesson
from finetune.writer_settings import (
    WriterSettings,
    chat_template,
    end_ids,
    generation_settings,
    sequence_settings,
    settings_of_recipe,
)
from finetune.writers import WriterKind, build_writer, largest_context, load_writer_tokenizer


@dataclass(frozen=True)
class WriterLearner:
    """`rows` has, for each split, one row a document as data/sequences.py encodes it: train to learn from, validation
    and test to be scored on.
    """

    form: Form
    text_model: TextModel
    rows: dict[str, datasets.Dataset]
    counts: dict[str, SequenceCounts]
    folder: ModelFolder | None
    notes: list[str]
    settings: Json
    generation: GenerationSettings
    scorer: TextScorer
    sequences: SequenceSettings
    fresh_model: Callable[[], PreTrainedModel]
    base: Base | None = None  # of an adapter

    @property
    def model(self) -> PreTrainedModel:
        return self.text_model.network

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return self.text_model.tokenizer

    @property
    def origin(self) -> str:
        return origin_of(self.folder)

    def data_lines(self) -> list[str]:
        return length_lines({split: counts.lengths for split, counts in self.counts.items()})

    def data_report(self) -> Json:
        return {"windows": {split: counts.to_json() for split, counts in self.counts.items()}}

    def lesson(self, loaded: LoadedRecipe, prepared: Prepared, run: Run) -> WriterLesson:
        written = self.scorer.written("validation")
        shown = evenly_spread(written, writer_recipe(loaded.recipe).evaluation.shown)

        def judge(predicted: TextPredictions, turn: Turn) -> dict[str, float | None]:
            if turn.process == 0 and turn.writes and shown and loaded.recipe.report.examples:
                keep_samples(run, self.scorer, predicted, shown, epoch=turn.epoch, step=turn.step)
            return self.scorer.values(predicted)

        counters: dict[str, float] = {"filled_tokens": 0, "block_tokens": 0}
        return WriterLesson(
            model=self.text_model,
            examples=self._examples(loaded, prepared, counters),
            label_smoothing=writer_recipe(loaded.recipe).training.label_smoothing_factor,
            validation=self.rows["validation"],
            written=written,
            settings=self.generation,
            judge=judge,
            counters=counters,
        )

    def _examples(
        self, loaded: LoadedRecipe, prepared: Prepared, counters: dict[str, float]
    ) -> SequenceTable | StreamedTable:
        """The training examples: all of train, or what a stream goes on to bring."""
        if prepared.stream is None:
            return sequence_table(self.rows["train"])

        def encode(documents: datasets.Dataset) -> pa.Table:
            rows = encode_examples(
                documents, self.tokenizer, form=self.form, settings=self.sequences, purpose="train", may_be_empty=True
            )[0]
            return sequence_rows(rows)

        data = writer_recipe(loaded.recipe).data
        return StreamedTable(data.epoch_examples, prepared.stream.portions, encode, table_of_sequences, counters)

    def calibration(self, loaded: LoadedRecipe, prepared: Prepared, *, progress: Progress) -> Calibration | None:
        return None  # a temperature would change what is written

    def save(self, model: PreTrainedModel, folder: Path, calibration: Calibration | None = None) -> None:
        save_with_settings(model, self.tokenizer, folder, settings=self.settings, base=self.base)


def build_writer_learner(loaded: LoadedRecipe, prepared: Prepared, *, progress: Progress) -> WriterLearner:
    """Find or build the model, then encode the texts with its tokenizer. Raises ModelError, RecipeError, DataError."""
    recipe = writer_recipe(loaded.recipe)
    refuse_arithmetic(loaded)
    kind: WriterKind = "seq2seq" if recipe.form == "seq2seq" else "causal"
    folder, tokenizer = _find_tokenizer(loaded, prepared, kind)

    def build(adapter: Adapter = WHOLE) -> tuple[PreTrainedModel, list[str]]:
        return build_writer(
            recipe.model, folder=folder, tokenizer=tokenizer, kind=kind, seed=recipe.seed, adapter=adapter
        )

    model, notes = build(recipe.adapter)
    notes += rate_note(recipe.adapter, recipe.training.learning_rate)
    context = largest_context(model.config, tokenizer)
    _refuse_lengths(loaded, recipe, context)
    ours = _settings(recipe, model, tokenizer, notes=notes)
    settings = sequence_settings(ours, tokenizer, context_tokens=context)
    rows, counts = _encoded(prepared, tokenizer, recipe.form, settings, progress=progress)
    notes += [_of_split(split, note) for split, counted in counts.items() for note in counted.notes]
    windows = recipe.windows
    packing = isinstance(windows, TextWindows) and windows.packing == "best_fit"
    text_model = TextModel.of(model, tokenizer, block_tokens=windows.max_tokens, packing=packing, end_ids=ours.end_ids)
    if text_model.note:
        notes.append(f"windows.packing: {text_model.note}; sequences are padded by length instead")
    generation = generation_settings(recipe.generation, seed=recipe.seed)
    return WriterLearner(
        form=recipe.form,
        text_model=text_model,
        rows=rows,
        counts=counts,
        folder=folder,
        notes=notes,
        settings={"format_version": 1, **ours.model_dump(mode="json"), **adapter_settings(recipe)},
        generation=generation,
        scorer=text_scorer(loaded, prepared),
        sequences=settings,
        fresh_model=lambda: build()[0],
        base=base_of_adapter(recipe, folder),
    )


def _settings(
    recipe: WriterRecipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, notes: list[str]
) -> WriterSettings:
    """What finetune.json will say; the chat template goes into the tokenizer, where every other tool looks for it."""
    template = chat_template(recipe.generation, tokenizer)
    if recipe.form == "chat":
        tokenizer.chat_template = template_of(tokenizer, template)
    ours = settings_of_recipe(recipe, end_ids(model, tokenizer, form=recipe.form, template=template))
    if not isinstance(ours.generation, TextGeneration) or not ours.generation.examples:
        return ours
    # A model that has learnt the task is asked as it was taught.
    notes.append("generation.examples are for the model before training; the trained one is asked without them")
    return ours.model_copy(update={"generation": ours.generation.model_copy(update={"examples": []})})


def _encoded(
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerFast,
    form: Form,
    settings: SequenceSettings,
    *,
    progress: Progress,
) -> tuple[dict[str, datasets.Dataset], dict[str, SequenceCounts]]:
    rows, counts = {}, {}
    for split, documents in prepared.splits.items():
        purpose: Purpose = "train" if split == "train" else "evaluate"
        with progress.bar(total=len(documents), desc=f"encoding {split}", unit="document") as bar:
            rows[split], counts[split] = encode_examples(
                documents, tokenizer, form=form, settings=settings, purpose=purpose, on_documents=bar.update
            )
    return rows, counts


def sequence_table(rows: datasets.Dataset) -> SequenceTable:
    """Every sequence of the training documents as an example of its own, in memory."""
    return table_of_sequences(sequence_rows(rows))


def sequence_rows(rows: datasets.Dataset) -> pa.Table:
    """One row a sequence, with its ids and what is learnt of them, of pairs also the source."""
    table = rows.with_format("arrow")[:]
    columns = {name: pc.list_flatten(table.column(name).combine_chunks()) for name in ("ids", "learn")}
    if "source" in table.column_names:
        columns["source"] = table.column("source").combine_chunks()
    return pa.table(columns)


def table_of_sequences(rows: pa.Table) -> SequenceTable:
    """What training reads of the rows of `sequence_rows`."""
    learn = rows.column("learn").combine_chunks()
    learnt = np.add.reduceat(pc.list_flatten(learn).to_numpy(zero_copy_only=False).astype(np.int64), _starts(learn))
    return SequenceTable(datasets.Dataset(rows), learnt)


def evenly_spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of the numbers, spread over all of them: the same ones every time."""
    if not numbers or not most:
        return []
    places = np.unique(np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int))
    return [numbers[place] for place in places]


def keep_samples(
    run: Run, scorer: TextScorer, predicted: TextPredictions, shown: Sequence[int], *, epoch: float, step: int
) -> None:
    """samples/EPOCH/texts.json: what is written for the same documents after every epoch."""
    texts = shown_texts(scorer, "validation", predicted, shown)
    folder = run.samples / f"{epoch:g}"
    with disk_faults(run.folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "texts.json", Samples(epoch=epoch, step=step, texts=texts))


def _starts(lists: pa.Array) -> npt.NDArray[np.int64]:
    """Where each list begins among the values of all."""
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def _find_tokenizer(
    loaded: LoadedRecipe, prepared: Prepared, kind: WriterKind
) -> tuple[ModelFolder | None, PreTrainedTokenizerFast]:
    section, rows = writer_recipe(loaded.recipe).model, prepared.splits["train"]
    if isinstance(section.from_scratch, CausalFromScratch | Seq2SeqFromScratch):
        columns = ("text",) if prepared.form == "text" else ("text", "target")
        texts = (text for column in columns for text in values(rows, column) if text)
        return None, train_writer_tokenizer(texts, section.from_scratch)
    assert section.name is not None  # the recipe sees to it
    folder = find_model(section.name, base=loaded.base, revision=section.revision)
    return folder, load_writer_tokenizer(folder, kind=kind)


def _refuse_lengths(loaded: LoadedRecipe, recipe: WriterRecipe, context: int) -> None:
    lengths = {"max_tokens": recipe.windows.max_tokens}
    if isinstance(recipe.windows, PairWindows):
        lengths["max_target_tokens"] = recipe.windows.max_target_tokens
    for key, wanted in lengths.items():
        if wanted > context:
            what = f"{wanted:,} tokens, but the model allows {context:,}"
            raise ModelError(loaded.where("windows", key), what, f"Write windows.{key}: {context}.")


def _of_split(split: str, note: str) -> str:
    plain = note.removeprefix(WARNING)
    return f"{WARNING if plain != note else ''}{split}: {plain}"
