"""What a search found, as text for a terminal: the winner's test score first, then the trials that led to it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from finetune.report.many_sentences import winner_scores
from finetune.report.sentences import plain_score, score_text, verdict_sentences
from finetune.search_space import Choice
from finetune.selection.search import SearchResult, TrialRow
from finetune.summary import table

MOST_TRIALS = 20


def render_search(result: SearchResult, folder: Path) -> str:
    """The whole screen; `folder` is that of the search."""
    winner = next(trial for trial in result.trials if trial.number == result.winner)
    test, scores = result.test[result.metric], winner_scores(result, folder)
    value = plain_score(winner.value, result.metric)
    chosen = f"Chosen by {result.metric} on validation: {value}, optimistic, because it is the best of"
    parts = [
        verdict_sentences(scores)[0] if scores is not None else "",
        f"Trial {result.winner} wins: test {result.metric} {score_text(test, result.metric)} ({test.n:,} documents).\n"
        f"{chosen} {len(result.trials)} trials.",
        _trials(result),
        _importance(result),
        "~ marks an interval that is only approximate: the documents are few." if test.coverage is not None else "",
        "\n".join(f"Note: {note}." for note in result.notes),
        f"The winner's run, with its model in best/: {folder / 'trials' / str(result.winner)}",
        f"Train it again: finetune train {shlex.join([str(folder / 'recipe.yaml'), *result.overrides])}",
        f"Search folder: {folder}",
    ]
    return "\n\n".join(part for part in parts if part)


def best_first(result: SearchResult) -> list[TrialRow]:
    """Complete trials by their value, then pruned ones, then failed ones."""
    sign = -1 if result.direction == "maximize" else 1
    order = ("complete", "pruned", "failed")
    return sorted(
        result.trials, key=lambda trial: (order.index(trial.status), sign * (trial.value or 0.0), trial.number)
    )


def _trials(result: SearchResult) -> str:
    ranked, names = best_first(result), list(result.trials[0].params)
    rows = [
        [
            f"{trial.number}" + (" *" if trial.number == result.winner else ""),
            trial.status,
            plain_score(trial.value, result.metric),
            _plain(trial.best_epoch),
            _plain(trial.epochs),
            "n/a" if trial.seconds is None else f"{trial.seconds:.0f}",
            *(_plain(trial.params.get(name)) for name in names),
        ]
        for trial in ranked[:MOST_TRIALS]
    ]
    columns = ["trial", "", result.metric, "best epoch", "epochs", "seconds", *(_last_words(names))]
    hidden = len(ranked) - MOST_TRIALS
    more = f"\n({hidden} more trials in search.json)" if hidden > 0 else ""
    return f"{table(columns, rows)}{more}\n* the winner; {result.metric} is that of validation"


def _importance(result: SearchResult) -> str:
    if result.importance is None:
        return f"Importance of the settings: none shown, {result.importance_note}."
    rows = [[name, f"{share:.2f}"] for name, share in result.importance.items()]
    heading = "Relative importance of the settings (fANOVA, sums to 1), within the ranges searched:"
    return f"{heading}\n{table(['setting', 'share'], rows)}"


def _last_words(names: Sequence[str]) -> list[str]:
    """`learning_rate` for training.learning_rate, where no other setting ends in the same word."""
    words = [name.split(".")[-1] for name in names]
    return [word if words.count(word) == 1 else name for name, word in zip(names, words, strict=True)]


def _plain(value: Choice | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:g}" if isinstance(value, float) else str(value)
