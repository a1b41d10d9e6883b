"""Writers side by side: their stored texts and nats on the same documents, scored and tested again.

A text's scores are over the documents that every run wrote a text for. Only run folders are read, never a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from finetune.errors import CheckpointError, RecipeError
from finetune.recipe import writer_recipe
from finetune.run_files import PairedTest, Score
from finetune.scores.bootstrap import Interval
from finetune.scores.generation import score_losses, score_texts, text_statistics
from finetune.scores.paired import ROUNDING, TESTED_INSTEAD, greater_is_better
from finetune.scores.paired_texts import paired_loss_test, paired_text_test
from finetune.scores.signatures import bleu_tokenizer_of
from finetune.scores.text_metrics import (
    LOSS_METRICS,
    TEXT_METRICS,
    LossStatistics,
    TextStatistics,
    loss_intervals,
    sentence_bleu,
    text_intervals,
)
from finetune.selection.aligned_runs import (
    AlignedRun,
    Array,
    FinishedRun,
    differing,
    documents_of,
    folders,
    read_documents,
    shared_documents,
)
from finetune.selection.comparison import ChangedDocument, ChangedSides

WRITER_METRICS = (*LOSS_METRICS, *TEXT_METRICS)
COLUMNS = ("id", "group", "reference", "prediction", "cut", "nats", "tokens", "characters")
MOST_TEXTS_LISTED = 50
SHOWN_CHARACTERS = 600


@dataclass(frozen=True, kw_only=True)
class WrittenRun(AlignedRun):
    """references, texts: null where no text was asked for. losses: of all n documents. cut: (n,) truth values."""

    references: list[str | None]
    texts: list[str | None]
    cut: Array
    losses: LossStatistics

    def chosen(self, rows: list[int]) -> Self:
        losses = self.losses
        return replace(
            super().chosen(rows),
            references=[self.references[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            cut=self.cut[rows],
            losses=LossStatistics(losses.nats[rows], losses.tokens[rows], losses.characters[rows]),
        )


@dataclass(frozen=True)
class TextContest:
    """Writers on the same documents.

    written: the documents that every run wrote a text for. texts: run -> what is counted of these, none where the runs
    were to write different things. no_losses: why their losses do not compare, or nothing.
    """

    runs: list[WrittenRun]
    written: Array
    texts: dict[str, TextStatistics]
    no_losses: str
    notes: tuple[str, ...]
    metrics = WRITER_METRICS

    @classmethod
    def read(cls, finished: Sequence[FinishedRun], *, intersection: bool) -> TextContest:
        """Raises CheckpointError for test documents that are not the same, or of which nothing can be compared."""
        runs = shared_documents(
            read_documents(finished, _written_run, columns=COLUMNS), intersection=intersection
        )  # fmt: skip
        written = np.array([row for row, texts in enumerate(zip(*(run.texts for run in runs), strict=True))
                            if None not in texts], dtype=np.int64)  # fmt: skip
        other_references = _other_references(runs, written)
        no_losses = _other_characters(runs)
        if other_references and no_losses:
            raise CheckpointError(folders(*runs), f"cannot be compared: {other_references}; {no_losses}")
        texts: dict[str, TextStatistics] = {}
        if len(written) and not other_references:
            tokenizer = _bleu_tokenizer(runs[0])
            texts = {run.name: _counted(run, written, bleu_tokenizer=tokenizer) for run in runs}
        return cls(runs, written, texts, no_losses, tuple(_notes(runs, written, other_references, no_losses)))

    @property
    def same_tokens(self) -> bool:
        """Whether a token is the same for all of them, so that nats per token compare."""
        return all(np.array_equal(run.losses.tokens, self.runs[0].losses.tokens) for run in self.runs[1:])

    def tested(self, metric: str) -> str:
        """Raises RecipeError for a metric that these runs cannot be compared by."""
        tested = TESTED_INSTEAD.get(metric, metric)
        where, of_loss = f"command line: --metric {metric}", tested in LOSS_METRICS
        if of_loss and self.no_losses:
            raise RecipeError(where, f"cannot be compared: {self.no_losses}", "Choose a score of the texts: chrf.")
        if not of_loss and not self.texts:
            what = "the runs wrote no text for the same documents after the same prompts"
            raise RecipeError(where, what, "Choose nats_per_character." if not self.no_losses else "")
        return "nats_per_character" if tested == "loss" and not self.same_tokens else tested

    def judged(self, metric: str) -> Array:
        """The numbers of the documents that a metric is about."""
        return np.arange(len(self.runs[0].ids)) if metric in LOSS_METRICS else self.written

    def scores(self, run: WrittenRun, groups: Array | None, *, resamples: int, seed: int) -> dict[str, Score]:
        """All scores of the stored texts and nats; where losses do not compare, only those of the texts."""
        named: dict[str, Any] = {"resamples": resamples, "seed": seed}
        scores = dict[str, Score]()
        if not self.no_losses:
            found = loss_intervals(run.losses, groups=groups, **named)
            scores |= _with_intervals(score_losses(run.losses), found, n=len(run.ids))
        if self.texts:
            texts, groups = self.texts[run.name], None if groups is None else groups[self.written]
            found = text_intervals(texts, groups=groups, **named) if resamples else {}
            scores |= _with_intervals(score_texts(texts), found, n=len(self.written))
        return scores

    def test(
        self, first: WrittenRun, second: WrittenRun, groups: Array | None, *, metric: str, resamples: int, seed: int
    ) -> PairedTest:
        named: dict[str, Any] = {"metric": metric, "resamples": resamples, "seed": seed}
        if metric in LOSS_METRICS:
            return paired_loss_test(first.losses, second.losses, groups=groups, **named)
        groups = None if groups is None else groups[self.written]
        return paired_text_test(self.texts[first.name], self.texts[second.name], groups=groups, **named)

    def changed(
        self, first: WrittenRun, second: WrittenRun, groups: Sequence[str | None], *, metric: str
    ) -> ChangedSides:
        """Which documents each is better at by their own scores, and those that differ most."""
        judged = self.judged(metric)
        ours, theirs = self._own_scores(first, metric), self._own_scores(second, metric)
        ahead = ours - theirs if greater_is_better(metric) else theirs - ours
        moved = np.flatnonzero(np.abs(ahead) > ROUNDING)
        most = moved[np.argsort(-np.abs(ahead[moved]), kind="stable")][:MOST_TEXTS_LISTED]
        only_first, only_second = int((ahead > ROUNDING).sum()), int((ahead < -ROUNDING).sum())
        return ChangedSides(
            first=first.name,
            second=second.name,
            both_right=None,
            both_wrong=None,
            only_first_right=only_first,
            only_second_right=only_second,
            by_label=[],
            documents=[
                ChangedDocument(
                    id=first.ids[row],
                    group=groups[row],
                    reference=self._shown(first.references[row]),
                    first=self._shown(first.texts[row]),
                    second=self._shown(second.texts[row]),
                    right="first" if ahead[place] > 0 else "second",
                    first_score=float(ours[place]),
                    second_score=float(theirs[place]),
                )
                for place in most.tolist()
                for row in [int(judged[place])]
            ],
            metric=metric,
            equal=len(judged) - only_first - only_second,
        )

    def _own_scores(self, run: WrittenRun, metric: str) -> Array:
        """(judged documents,) the score of each document by itself; of BLEU sacrebleu's sentence BLEU."""
        if metric in LOSS_METRICS:
            return LOSS_METRICS[metric].of(run.losses.rows)
        rows = self.texts[run.name].rows
        return sentence_bleu(rows) if metric == "bleu" else TEXT_METRICS[metric].of(rows)

    def _shown(self, text: str | None) -> str:
        if text is None or not all(run.recipe.report.examples for run in self.runs):
            return ""
        return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _written_run(finished: FinishedRun, table: pa.Table) -> WrittenRun:
    numbers = {name: table[name].to_numpy() for name in ("cut", "nats", "tokens", "characters")}
    losses = LossStatistics(numbers["nats"], numbers["tokens"], numbers["characters"])
    if not np.isfinite(numbers["nats"].astype(np.float64)).all():
        raise ValueError("nats are not finite")
    return WrittenRun(
        **documents_of(finished, table),
        references=table["reference"].to_pylist(),
        texts=table["prediction"].to_pylist(),
        cut=numbers["cut"],
        losses=losses,
    )


def _other_references(runs: Sequence[WrittenRun], written: Array) -> str:
    """Why texts do not compare, or nothing. Raises CheckpointError where the data itself is another."""
    first = runs[0]
    for other in runs[1:]:
        differ = np.zeros(len(first.ids), dtype=bool)
        differ[[row for row in written.tolist() if first.references[row] != other.references[row]]] = True
        if not differ.any():
            continue
        if "text" not in {writer_recipe(run.recipe).form for run in (first, other)}:
            what = f"have different references for {differing(first, differ)}"
            raise CheckpointError(folders(first, other), what, "Train both on the same data, cleaned alike.")
        return f"{first.name} and {other.name} continue other prompts (generation.prompt_tokens, or other tokenizers)"
    return ""


def _other_characters(runs: Sequence[WrittenRun]) -> str:
    """Why losses do not compare, or nothing."""
    first = runs[0]
    for other in runs[1:]:
        differ = first.losses.characters != other.losses.characters
        if differ.any():
            return (
                f"{first.name} and {other.name} were scored on other characters of {differing(first, differ)} "
                "(their windows or tokenizers cut them differently)"
            )
    return ""


def _bleu_tokenizer(run: WrittenRun) -> str:
    references = (reference for reference in run.references if reference)
    return bleu_tokenizer_of(run.finished.scores.splits["test"].signatures, references)


def _counted(run: WrittenRun, written: Array, *, bleu_tokenizer: str) -> TextStatistics:
    rows = written.tolist()
    return text_statistics(
        [run.references[row] or "" for row in rows],
        [run.texts[row] or "" for row in rows],
        bleu_tokenizer=bleu_tokenizer,
        cut=run.cut[rows],
        origins=[run.ids[row] for row in rows],
    )


def _notes(runs: Sequence[WrittenRun], written: Array, other_references: str, no_losses: str) -> Iterator[str]:
    """What a reader of the scores must know."""
    documents = len(runs[0].ids)
    if other_references:
        yield f"texts are not compared: {other_references}"
    elif not len(written):
        yield "texts are not compared: there is no document that every run wrote one for"
    elif len(written) < documents:
        yield f"texts are compared on the {len(written):,} of {documents:,} documents that every run wrote one for"
    if no_losses:
        yield f"losses are not compared: {no_losses}"
    elif any(not np.array_equal(run.losses.tokens, runs[0].losses.tokens) for run in runs[1:]):
        yield "the runs cut text into other tokens, so that loss and perplexity do not compare; nats_per_character does"
    tokenizers = {run.name: _bleu_tokenizer(run) for run in runs}
    if len({*tokenizers.values()}) > 1:
        told = ", ".join(f"{name} {tokenizer}" for name, tokenizer in tokenizers.items())
        yield f"the runs counted BLEU with different tokenisers ({told}); here all have that of {runs[0].name}"


def _with_intervals(values: dict[str, float | None], found: dict[str, Interval], *, n: int) -> dict[str, Score]:
    return {
        name: Score(value=value, n=n, **dict(zip(("low", "high"), found.get(name, ()), strict=False)))
        for name, value in values.items()
    }
