"""Documents of a generator become token sequences to learn from, to be scored on, and prompts to write from.

Nothing is cut, dropped or left unlearnt without a number, and no sequence is without a token to learn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from finetune.data.forms import Encoder, Purpose, Row, SequenceSettings
from finetune.data.lengths import LengthAudit, audit_lengths
from finetune.data.row_streams import Mask, mask_of, progress_bars, selected, values
from finetune.data.store import cache_folder, fingerprint
from finetune.errors import Collector, DataError
from finetune.recipe_data import Form
from finetune.runs import disk_faults

ROWS_AT_A_TIME = 256
CHARACTERS_AT_A_TIME = 500_000  # a token with its offsets is about 150 bytes of Python objects for a moment
ORIGINS_SHOWN = 3
TOKENS = datasets.Value("int32")
FEATURES = datasets.Features({
    # What learners and scorers read.
    "row": TOKENS,
    "ids": datasets.List(datasets.List(TOKENS)),
    "learn": datasets.List(datasets.List(datasets.Value("bool"))),
    "source": datasets.List(TOKENS),
    "prompt": datasets.List(TOKENS),
    "prompt_cut": TOKENS,
    "reference": datasets.Value("string"),
    "characters": TOKENS,
    # What is counted, and then left out.
    "tokens": TOKENS,
    "target_tokens": TOKENS,
    "tokens_cut": TOKENS,
    "sequences": TOKENS,
    "sequence_tokens": TOKENS,
    "learnt_tokens": TOKENS,
    "dropped": datasets.Value("string"),
    "refused": datasets.Value("string"),
    "writes_specials": datasets.Value("bool"),
    "prompt_differs": datasets.Value("bool"),
})  # fmt: skip
COLUMNS = {
    "causal": ["row", "ids", "learn", "prompt", "prompt_cut", "reference", "characters"],
    "seq2seq": ["row", "ids", "learn", "source", "reference", "characters"],
}
COUNTED = ["tokens", "target_tokens", "tokens_cut", "sequences", "sequence_tokens", "learnt_tokens"]


@dataclass(frozen=True)
class SequenceCounts:
    """What became of the documents of one split, in documents, sequences and tokens.

    `tokens` are those of all sequences, in which windows repeat their context; `learnt_tokens` are the targets of the
    loss, each once. `lengths` describes the documents as they are, `target_lengths` the targets of seq2seq.
    """

    documents: int
    sequences: int
    tokens: int
    learnt_tokens: int
    documents_dropped: int
    documents_cut: int
    tokens_cut: int
    lengths: LengthAudit
    target_lengths: LengthAudit | None
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def encode_examples(
    rows: Dataset,
    tokenizer: Any,
    *,
    form: Form,
    settings: SequenceSettings,
    purpose: Purpose,
    may_be_empty: bool = False,
    on_documents: Callable[[int], None] = lambda count: None,
) -> tuple[Dataset, SequenceCounts]:
    """One row a document, in the order of `rows`; `row` is its number there, for training leaves out what it drops.

    `rows` has the columns text, target and origin. Of the result, see COLUMNS: `ids` and `learn` are the document's
    sequences, lists of at most `max_tokens` ids and whether each is learnt; `prompt` is what generation starts from,
    `prompt_cut` the tokens cut from its left, `reference` what should follow (the three are empty for training), and
    `characters` those of the learnt text. For seq2seq `source` is the encoder's sequence and `ids` the one of labels.

    A document too long or without anything to learn is cut, dropped or refused as docs/generation.md says; an
    evaluation drops nothing. `on_documents` hears how many were encoded since it last heard. Where `rows` lies on the
    disk, so does the result, and a second call finds it there. Raises DataError with every refused row, or, unless it
    `may_be_empty`, where nothing is left; RecipeError and ModelError for settings and tokenizers that leave no room.
    """
    encoder = Encoder(tokenizer, form=form, settings=settings, purpose=purpose)
    encoded = _mapped(rows, encoder, on_documents=on_documents)
    _refuse(rows, encoded)
    dropped = mask_of(encoded, "dropped", lambda column: pc.not_equal(column, ""))
    if len(rows) and dropped.all() and not may_be_empty:
        raise _nothing_left(rows, encoded)
    notes = [*encoder.notes, *_notes(rows, encoded, dropped=dropped)]
    kept = selected(encoded, np.flatnonzero(~dropped)) if dropped.any() else encoded
    counts = _count(encoded, dropped=dropped, settings=settings, form=form, notes=notes)
    return kept.select_columns(COLUMNS["seq2seq" if form == "seq2seq" else "causal"]), counts


def _table(encoder: Encoder, texts: Sequence[str | None], targets: Sequence[str | None], *, first: int) -> pa.Table:
    """One row a document, with the columns of FEATURES; `first` is the number of the first document."""
    given = [(text or "", target or "") for text, target in zip(texts, targets, strict=True)]
    rows = [row for some in _portions(given) for row in encoder.rows(some)]
    columns: dict[str, Sequence[Any]] = dict(zip(Row._fields, zip(*rows, strict=True), strict=True))
    columns["row"] = range(first, first + len(rows))
    columns["sequences"] = [len(row.ids) for row in rows]
    columns["sequence_tokens"] = [len(row.source) + sum(map(len, row.ids)) for row in rows]
    columns["learnt_tokens"] = [sum(map(sum, row.learn)) for row in rows]
    columns["writes_specials"] = [any(map(encoder.writes_specials, words)) for words in given]
    arrays = [pa.array(columns[field.name], type=field.type) for field in FEATURES.arrow_schema]
    return pa.table(dict(zip(FEATURES, arrays, strict=True)))


def _portions(given: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """The documents in lists of a limited number of characters, or of one document."""
    some: list[tuple[str, str]] = []
    characters = 0
    for texts in given:
        if some and characters + sum(map(len, texts)) > CHARACTERS_AT_A_TIME:
            yield some
            some, characters = [], 0
        some.append(texts)
        characters += sum(map(len, texts))
    if some:
        yield some


def _mapped(rows: Dataset, encoder: Encoder, *, on_documents: Callable[[int], None]) -> Dataset:
    """The rows of FEATURES, in a file of the cache or read from it where `rows` lies on the disk."""
    if not len(rows):  # map would hand back the columns of the documents
        return Dataset(FEATURES.arrow_schema.empty_table())
    heard = 0

    def encode(batch: pa.Table) -> pa.Table:
        nonlocal heard
        table = _table(encoder, batch["text"].to_pylist(), batch["target"].to_pylist(), first=heard)
        heard += len(table)
        on_documents(len(table))
        return table

    # What stays in memory is never looked up, so any new name will do.
    name = fingerprint(rows._fingerprint, encoder.fingerprint) if rows.cache_files else uuid4().hex
    path = cache_folder() / f"sequences-{name}.arrow" if rows.cache_files else None
    with progress_bars(False), nullcontext() if path is None else disk_faults(path.parent):
        encoded = (
            rows.select_columns(["text", "target"])
            .with_format("arrow")
            .map(
                encode,
                batched=True,
                batch_size=ROWS_AT_A_TIME,
                remove_columns=["text", "target"],
                features=FEATURES,
                cache_file_name=None if path is None else str(path),
                load_from_cache_file=True,
                new_fingerprint=name,
            )
        )
    if heard < len(rows):
        on_documents(len(rows) - heard)
    return encoded.with_format(None)


def _refuse(rows: Dataset, encoded: Dataset) -> None:
    problems = Collector(DataError)
    refused = np.flatnonzero(mask_of(encoded, "refused", lambda column: pc.not_equal(column, "")))
    for number, what in zip(refused.tolist(), values(selected(encoded, refused), "refused"), strict=True):
        problems.add(str(rows[number]["origin"]), what)
    problems.raise_if_any()


def _nothing_left(rows: Dataset, encoded: Dataset) -> DataError:
    why = Counter(values(encoded, "dropped")).most_common(1)[0][0]
    what = f"none of the {len(rows):,} examples of train can be learnt ({why})"
    return DataError(
        _origins(rows, np.ones(len(rows), dtype=np.bool_)), what, "Check the columns and windows.max_tokens."
    )


def _notes(rows: Dataset, encoded: Dataset, *, dropped: Mask) -> list[str]:
    """What the user should hear of."""
    notes = []
    whats = Counter(values(selected(encoded, np.flatnonzero(dropped)), "dropped")) if dropped.any() else Counter()
    origins = _origins(rows, dropped)
    for what, count in whats.most_common():
        notes.append(f"warning: {count:,} of {len(rows):,} examples dropped: {what}")
    if whats:
        notes.append(f"dropped were {origins}")
    marks = {
        "writes_specials": "write special tokens out, which the tokenizer takes for its own",
        "prompt_differs": "have other tokens at the end of the prompt when it stands alone",
    }
    for column, what in marks.items():
        marked = mask_of(encoded, column, lambda values: values)
        if marked.any():
            notes.append(f"{int(marked.sum()):,} of {len(rows):,} examples {what}: {_origins(rows, marked)}")
    return notes


def _origins(rows: Dataset, mask: Mask) -> str:
    """The first origins of the rows that are meant, and how many more there are."""
    numbers = np.flatnonzero(mask)
    more = f" and {len(numbers) - ORIGINS_SHOWN:,} more" if len(numbers) > ORIGINS_SHOWN else ""
    return ", ".join(str(rows[int(number)]["origin"]) for number in numbers[:ORIGINS_SHOWN]) + more


def _count(
    encoded: Dataset, *, dropped: Mask, settings: SequenceSettings, form: Form, notes: list[str]
) -> SequenceCounts:  # fmt: skip
    columns = encoded.select_columns(COUNTED).with_format("numpy")[:]
    counted = {name: np.asarray(column, dtype=np.int64) for name, column in columns.items()}
    whole, targets = counted["tokens"], counted["target_tokens"]
    most = settings.max_target_tokens
    return SequenceCounts(
        documents=len(encoded) - int(dropped.sum()),
        sequences=int(counted["sequences"].sum()),
        tokens=int(counted["sequence_tokens"].sum()),
        learnt_tokens=int(counted["learnt_tokens"].sum()),
        documents_dropped=int(dropped.sum()),
        documents_cut=int((counted["tokens_cut"] > 0).sum()),
        tokens_cut=int(counted["tokens_cut"].sum()),
        lengths=audit_lengths(whole, counted["sequences"], window_tokens=settings.max_tokens),
        target_lengths=audit_lengths(targets, np.minimum(targets, 1), window_tokens=most)
        if form == "seq2seq"
        else None,
        notes=notes,
    )
