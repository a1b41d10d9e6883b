"""Which examples of text to write are one example: families over source and target, and over equal sources.

Near duplicates are told by source and target together. By the source alone, prompts of one template and the numbered
titles of a series would be one family although what is written differs, and one poem under two titles would be none.
A source that is repeated exactly stays in one split with all its targets: a model that has seen it remembers. But a
source that a good share of all rows repeat is an instruction; it does not say which rows belong together.
"""

from __future__ import annotations

from functools import partial

import datasets
import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from finetune.data.blocks import blocks_of
from finetune.data.duplicates import exact_families
from finetune.data.near_duplicates import Families, find_families
from finetune.data.row_streams import Setting, mapped, values
from finetune.data.store import code_version
from finetune.data.text_steps import visible
from finetune.data.written_examples import asked_text, whole_text
from finetune.progress import SILENT, Progress
from finetune.recipe_data import Form

INSTRUCTION_SHARE = 0.05
FEWEST_ROWS_OF_AN_INSTRUCTION = 10  # in a small source two rows are a large share


def compared_rows(rows: Dataset, form: Form) -> Dataset:
    """What families go by: columns text (what is asked and what is written, one below the other) and origin."""
    if form == "text":
        return rows
    return mapped(
        rows,
        partial(_compared, form=form),
        name="joining sources and targets",
        version=["compared", form, code_version("written_examples.py")],
        reads=["text", "target"],
        features=datasets.Features({name: datasets.Value("string") for name in ("text", "origin")}),
        setting=Setting(examples=0, num_proc=1, cached=True),
    )


def find_example_families(
    rows: Dataset,
    compared: Dataset,
    form: Form,
    *,
    similarity: float | None,
    num_proc: int = 1,
    progress: Progress = SILENT,
) -> tuple[Families, list[str]]:
    """The families of rows with text and target, and notes on sources that several rows have.

    `compared` are their `compared_rows`. Two rows are `exact` duplicates when their sources are equal (after folding);
    of an instruction, when source and target are. A row that only an equal source ties to its family has similarity 1.
    Raises EnvironmentFault as `find_families`.
    """
    near = find_families(compared, similarity=similarity, num_proc=num_proc, progress=progress)
    if form == "text":
        return near, []
    source = exact_families(asked_text(text, form=form) for text in values(rows, "text"))
    sizes = np.bincount(source, minlength=len(source))
    limit = max(FEWEST_ROWS_OF_AN_INSTRUCTION, INSTRUCTION_SHARE * len(source))
    exact = np.where(sizes[source] > limit, near.exact, source)
    family = _first_rows(blocks_of(len(exact), groups=exact, families=near.family))
    alike = np.where(family == near.family, near.similarity, np.float32(1))
    notes = _instruction_notes(rows, sizes, form=form, limit=limit) + _target_notes(exact, near.exact)
    return Families(family, _first_rows(exact), alike, near.short), notes


def _compared(texts: list[str | None], targets: list[str | None], *, form: Form) -> dict[str, list[str]]:
    return {"text": [whole_text(*pair, form=form) for pair in zip(texts, targets, strict=True)]}


def _first_rows(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row the first one with its number, shape (rows,)."""
    _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    return first[which]


def _instruction_notes(rows: Dataset, sizes: NDArray[np.int64], *, form: Form, limit: float) -> list[str]:
    notes = []
    for row in np.flatnonzero(sizes > limit).tolist():
        shown = visible(asked_text(rows[row]["text"], form=form))
        notes.append(
            f"{sizes[row]:,} of {len(sizes):,} rows share one prompt ({shown}): it is taken for an instruction, "
            "and duplicates among them are told by what is written"
        )
    return notes


def _target_notes(exact: NDArray[np.int64], whole: NDArray[np.int64]) -> list[str]:
    """How many sources stand with several targets; `exact` and `whole` number sources, and sources with targets."""
    pairs = np.unique(np.stack([exact, whole]), axis=1)[0]
    count = int((np.unique(pairs, return_counts=True)[1] > 1).sum())
    several = "1 source has" if count == 1 else f"{count:,} sources have"
    return [f"{several} several targets; each stays in one split with all of them"] if count else []
