"""The screen of a comparison: which run is better, if that can be told, then the scores and the paired tests."""

from __future__ import annotations

from pathlib import Path

from finetune.data.text_steps import visible
from finetune.progress import WARNING
from finetune.report.many_sentences import comparison_sentences
from finetune.report.sentences import coverages, difference_text, number, score_text
from finetune.scores.images import IMAGE_METRICS
from finetune.selection.compare import ChangedSides, Comparison
from finetune.summary import table

HEADLINES = ("accuracy", "f1_macro", "f1_weighted", "roc_auc", "log_loss")
TEXT_HEADLINES = ("loss", "nats_per_character", "bleu", "chrf", "rouge_l", "exact_match")
MOST_LABELS = 10
MOST_DOCUMENTS = 5
SHOWN_CHARACTERS = 100


def render_comparison(comparison: Comparison, folder: Path) -> str:
    """The whole screen as text."""
    units = f" in {comparison.groups:,} groups" if comparison.groups is not None else ""
    kind = "documents" if comparison.tests else "images"
    parts = [
        _shown(comparison_sentences(comparison)[0]),
        f"{comparison.documents:,} test {kind}{units}. In brackets: 95 % intervals.",
        _scores(comparison),
        _tests(comparison),
        *(_changed(changed) for changed in comparison.changed),
        "\n".join(_note(note) for note in (*_approximate(comparison), *comparison.notes)),
        f"Comparison folder: {folder}",
    ]
    return "\n\n".join(part for part in parts if part)


def _scores(comparison: Comparison) -> str:
    """A row for each run, a column for each headline score with its interval; the tested score is always among them."""
    tested = comparison.tests[0].test.metric if comparison.tests else comparison.metric
    headlines = TEXT_HEADLINES if _is_written(comparison) else HEADLINES if comparison.tests else IMAGE_METRICS
    known = [name for name in headlines if any(name in run.scores for run in comparison.runs)]
    shown = known if tested in known else [tested, *known]
    rows = [
        [
            visible(run.name),
            *(score_text(run.scores.get(name), name) for name in shown),
            "n/a" if run.best_epoch is None else f"{run.best_epoch:g}",
            str(run.seed),
        ]
        for run in comparison.runs
    ]
    return table(["", *shown, "best epoch", "seed"], rows)


def _tests(comparison: Comparison) -> str:
    tests = [pair.test for pair in comparison.tests]
    if not tests:
        return ""
    with_holm = any(test.p_holm is not None for test in tests)
    header = [f"difference in {tests[0].metric}", "95 % interval", "p", "p (Holm)", "p (McNemar)", "better"]
    left_out = ([] if with_holm else [3]) + ([4] if _is_written(comparison) else [])
    rows = []
    for pair in comparison.tests:
        test = pair.test
        difference, _, interval = difference_text(test).partition(" ")
        cells = [
            f"{visible(pair.first)} - {visible(pair.second)}: {difference}",
            interval or "none",
            _number_of_p(test.p),
            _number_of_p(test.p_holm),
            _number_of_p(test.p_mcnemar),
            "yes" if test.better else "cannot be told",
        ]
        rows.append([cell for column, cell in enumerate(cells) if column not in left_out])
    return table([name for column, name in enumerate(header) if column not in left_out], rows)


def _is_written(comparison: Comparison) -> bool:
    return bool(comparison.changed) and comparison.changed[0].metric is not None


def _changed(changed: ChangedSides) -> str:
    """Counts, and the labels on which most documents changed sides."""
    first, second = visible(changed.first), visible(changed.second)
    if changed.metric is not None:
        return _changed_texts(changed, changed.metric)
    text = (
        f"{first} and {second}: both right {changed.both_right:,}, both wrong {changed.both_wrong:,}, "
        f"only {first} right {changed.only_first_right:,}, only {second} right {changed.only_second_right:,}."
    )
    rows = sorted(changed.by_label, key=lambda row: -(row.only_first_right + row.only_second_right))
    if not rows:
        return text
    hidden = len(rows) - MOST_LABELS
    shown = [[visible(row.label), str(row.only_first_right), str(row.only_second_right)] for row in rows[:MOST_LABELS]]
    more = f"\n({hidden} more labels in comparison.json)" if hidden > 0 else ""
    return f"{text}\n\n{table(['label', f'only {first} right', f'only {second} right'], shown)}{more}"


def _changed_texts(changed: ChangedSides, metric: str) -> str:
    """Counts, and the documents that differ most, with what was written for them."""
    first, second = visible(changed.first), visible(changed.second)
    text = (
        f"{first} and {second}, each document by its own {metric}: {first} better {changed.only_first_right:,}, "
        f"{second} better {changed.only_second_right:,}, equal {changed.equal:,}."
    )
    lines = []
    for document in changed.documents[:MOST_DOCUMENTS]:
        lines.append(f"  {visible(document.id)}")
        said = (("reference", document.reference, None), (first, document.first, document.first_score),
                (second, document.second, document.second_score))  # fmt: skip
        for name, written, score in said:
            value = "" if score is None else f" ({number(score, metric)})"
            lines.append(f"    {name}{value}: {visible(str(written), SHOWN_CHARACTERS)}")
    hidden = changed.only_first_right + changed.only_second_right - MOST_DOCUMENTS
    if hidden > 0:
        lines.append(f"  ({hidden:,} more; comparison.json has the first {len(changed.documents):,})")
    return "\n".join([text, *(["The documents that differ most:"] if lines else []), *lines])


def _approximate(comparison: Comparison) -> list[str]:
    """What the mark ~ means here."""
    found = coverages((name, score) for run in comparison.runs for name, score in run.scores.items())
    shares = sorted({found[name] for name in HEADLINES if name in found})
    if not shares:
        return []
    span = f"{shares[0]}" if len(shares) == 1 else f"{shares[0]} to {shares[-1]}"
    return [f"~ marks an approximate interval: in simulations of so little data {span} % contained the truth"]


def _note(text: str) -> str:
    warning = text.removeprefix(WARNING)
    return _shown(f"Warning: {warning}" if warning != text else f"Note: {text}")


def _shown(text: str) -> str:
    """A sentence in full; a name in it cannot steer the terminal."""
    return visible(text, most_characters=len(text))


def _number_of_p(p: float | None) -> str:
    if p is None:
        return "none"
    return "<0.001" if p < 0.001 else f"{p:.3f}"
