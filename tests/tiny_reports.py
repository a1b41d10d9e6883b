"""Folders as runs leave them, made in milliseconds for the report, with labels and texts that try to break it.

run = tiny_run(tmp_path / "run", labels=["good", "<script>alert(1)</script>"])
run = tiny_writer_run(tmp_path / "run", metric="loss", form="pairs")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from finetune.run_files import (
    Analysis,
    Calibration,
    FitVerdict,
    PairedTest,
    Reliability,
    ReliabilityBin,
    RunInfo,
    Samples,
    Score,
    Scores,
    ShownDocument,
    ShownText,
    Slice,
    SplitScores,
    Suggestion,
)
from finetune.runs import Run, write_json, write_json_lines, write_text
from finetune.scores.classification import Scores as Counted
from finetune.scores.classification import score_predictions
from finetune.selection.compare import (
    ChangedDocument,
    ChangedSides,
    ComparedPair,
    ComparedRun,
    Comparison,
    LabelChanges,
)
from finetune.selection.crossval import CrossValidation
from finetune.selection.fold_scores import FoldResult, FoldsScore, RecipeResult, ResampledTest
from finetune.selection.search import SearchResult, TrialRow
from finetune.selection.seeds import SeedRun, SeedsScore, SeedStudy

SCRIPT = "<script>alert(1)</script>"
LABELS = ("good", SCRIPT)
TEXT = 'A "quoted" text & <img src=x onerror=alert(2)> with a\x07bell, a\u202eturn and ' + "w" * 300
BASELINES = {"majority": 0.4, "naive_bayes": 0.5, "tfidf_logistic": 0.602}
RECIPE = "task: text-classification\ndata:\n  source: reviews.csv  # <b>\nreport:\n  language: {language}\n"


def tiny_scores(*, labels: Sequence[str] = LABELS, test: bool = True, old: bool = False, **changes: Any) -> Scores:
    """Scores of a model that beats its baselines; `old` leaves out all that came later, `test` False the test split."""
    splits = ["validation", "test"] if test else ["validation"]
    model = {split: split_scores(0.628, labels=labels) for split in splits}
    scores = Scores(
        metric_for_best_model="f1_macro",
        best_epoch=2.0,
        best_step=20,
        splits=model,
        last={split: split_scores(0.6, labels=labels) for split in splits},
        baselines={
            name: {split: split_scores(value, labels=labels) for split in splits} for name, value in BASELINES.items()
        }
        if test
        else {},
        notes=["validation chose the epoch, so its scores are optimistic; test took no part"],
    )
    if old:
        return scores.model_copy(update=changes)
    new: dict[str, Any] = {
        "fit": FitVerdict(
            state="overfitting",
            since_epoch=3.0,
            evidence={
                "validation_loss_best": 0.412, "validation_loss_best_epoch": 2.0, "validation_loss_last": 0.731,
                "training_loss_first": 0.69, "training_loss_last": 0.12, "gap_growth": 0.4,
            },
            suggestions=[
                Suggestion(override="training.num_train_epochs=2", why="validation loss was lowest after epoch 2"),
                Suggestion(override="augmentation={copies: 1, delete: 0.1}", why="changed copies of the documents"),
            ],
        ),
        "calibration": Calibration(
            temperature=1.4, folded=True, before=reliability(0.2) if test else None,
            after=reliability(0.03) if test else None,
        ),
    }  # fmt: skip
    if test:
        new |= {
            "baseline_tests": {name: paired(0.628, value) for name, value in BASELINES.items()},
            "strongest_baseline": "tfidf_logistic",
            "beats_baselines": True,
        }
    return scores.model_copy(update=new | changes)


def paired(
    first: float, second: float, *, p: float = 0.021, better: bool = True, metric: str = "f1_macro"
) -> PairedTest:
    difference = first - second
    return PairedTest(
        metric=metric, first=first, second=second, difference=difference, low=difference - 0.022,
        high=difference + 0.023, p=p, p_mcnemar=0.03, only_first_right=31, only_second_right=18, documents=400,
        groups=None, better=better,
    )  # fmt: skip


def split_scores(value: float, *, labels: Sequence[str] = LABELS, multi_label: bool = False) -> SplitScores:
    """Scores around `value`; four documents a label, of which one is taken for the next label."""
    scored = _counted(tuple(labels), multi_label=multi_label)
    rows = [
        {**row, "intervals": {"precision": [0.5, 0.9], "recall": [0.51, 0.89], "f1": [0.5, 0.9], "fpr": [0.02, 0.13]}}
        for row in scored.per_class
    ]
    scores = {
        "accuracy": Score(value=value + 0.01, low=value - 0.03, high=value + 0.04, n=400),
        "f1_macro": Score(value=value, low=value - 0.038, high=value + 0.036, n=400, coverage=0.91),
        "log_loss": Score(value=0.9, n=400, note="2 true answers had probability 0"),
        "roc_auc": Score(value=None, n=400, note="undefined for a class that no document has"),
    }
    return SplitScores(
        scores=scores, per_class=rows, confusion=scored.confusion or None, label_names=list(labels)
    )  # fmt: skip


@cache
def _counted(labels: tuple[str, ...], *, multi_label: bool) -> Counted:
    references = np.repeat(np.arange(len(labels)), 4)
    guesses = np.where(np.arange(len(references)) % 4 == 3, (references + 1) % len(labels), references)
    if multi_label:
        references, guesses = np.eye(len(labels), dtype=int)[references], np.eye(len(labels), dtype=int)[guesses]
    return score_predictions(references, guesses, label_names=labels, multi_label=multi_label)


def reliability(error: float) -> Reliability:
    bins = [
        ReliabilityBin(low=0.0, high=0.5, documents=0, confidence=None, accuracy=None),
        ReliabilityBin(low=0.5, high=0.75, documents=100, confidence=0.6, accuracy=0.6 - error),
        ReliabilityBin(low=0.75, high=1.0, documents=300, confidence=0.9, accuracy=0.9 - error),
    ]
    return Reliability(ece=error, log_loss=0.5 + error, bins=bins)


def tiny_analysis(*, labels: Sequence[str] = LABELS) -> Analysis:
    values = {"f1_macro": Score(value=0.6, low=0.5, high=0.7, n=50, coverage=0.9)}
    document = ShownDocument(
        id="reviews.csv:7", group=SCRIPT, reference=labels[0], prediction=labels[-1], probability=0.98,
        reference_probability=0.01, text=TEXT, is_passage=True,
    )  # fmt: skip
    return Analysis(
        slices=[
            Slice(by="length", name="up to 20 tokens", documents=50, scores=values),
            Slice(by="group", name=SCRIPT, documents=50, scores=values),
            Slice(by=f"column:{SCRIPT}", name="x", documents=5, scores={"f1_macro": Score(value=0.2, n=5)}),
        ],
        confident_mistakes=[document],
        hesitant=[document.model_copy(update={"prediction": labels[0], "text": None})],
    )


def tiny_data(*, labels: Sequence[str] = LABELS) -> dict[str, Any]:
    lengths = {"documents": 400, "tokens": 9000, "window_tokens": 128, "median": 20, "p90": 60, "longest": 400}
    overlap = {
        "earlier": "train", "later": "test", "rows": 400, "exact": 1, "near": 2, "in_groups": 0, "leaking": 3,
        "exact_pairs": [{"origin": SCRIPT, "twin": "b", "similarity": 1.0, "text": "secret", "twin_text": "secret"}],
        "near_pairs": [],
    }  # fmt: skip
    return {
        "format_version": 1,
        "files": [{"name": f"{SCRIPT}.csv", "rows": 2000, "bytes": 99, "encoding": "utf-8", "sha256": "ab" * 32}],
        "notes": ["a note of the reader"],
        "cleaning": [{"name": "drop_empty", "changed": 0, "dropped": 3, "rows_after": 1997, "notes": ["<i>"]}],
        "labels": list(labels),
        "splits": {
            "sizes": {"train": 1200, "validation": 400, "test": 400}, "shares": {"train": 0.6}, "notes": ["x"],
        },
        "label_counts": {split: {name: 10 for name in labels} for split in ("train", "validation", "test")},
        "duplicate_families": {"exact_families": 1, "near_families": 2},
        "leaks": {"policy": "warn", "brought": [overlap], "left": [overlap]},
        "characters": {"test": {"median": 90, "max": 900}},
        "windows": {"test": {"documents_cut": 2, "tokens_cut": 300, "lengths": lengths}},
        "warnings": ["warning: 3 rows were empty"],
    }  # fmt: skip


def tiny_run(
    folder: Path, *, language: str = "en", labels: Sequence[str] = LABELS, bare: bool = False, **changes: Any
) -> Run:
    """A finished run without models; `bare` writes only what every run ever had."""
    run = Run(folder)
    write_json(
        run.info,
        RunInfo(
            status="complete", task="text-classification", started="2026-01-02T03:04:05+00:00",
            finished="2026-01-02T03:24:05+00:00", seconds={"fit": 1100.0, "score": 30.0},
            versions={"python": "3.11", "torch": "2"}, git_revision="abc", platform="Linux", seed=13,
            data_fingerprint="f" * 64, model_origin="<model>", notes=["warning: a label is rare", "head is new"],
        ),
    )  # fmt: skip
    write_json(run.scores, tiny_scores(labels=labels, **changes))
    if bare:
        return run
    write_text(run.recipe, RECIPE.replace("{language}", language))
    if changes.get("test", True):
        write_json(run.analysis, tiny_analysis(labels=labels))
    write_text(run.data, json.dumps(tiny_data(labels=labels)))
    history = [{"step": 10 * n, "epoch": n / 2, "loss": 1.0 / n} for n in range(1, 7)]
    evaluations = [{"step": 20 * n, "epoch": float(n), "eval_loss": 0.5 + abs(n - 2) / 5, "eval_f1_macro": 0.6}
                   for n in range(1, 4)]  # fmt: skip
    write_json_lines(run.history, [*history, *evaluations])
    write_json_lines(run.test_openings, [{"when": "2026-01-02T03:20:00+00:00", "by": "train", "documents": 400}])
    return run


# ---- a text generator


# Of each baseline its loss, where it has one, and its BLEU and chrF.
TEXT_BASELINES: dict[str, tuple[float | None, float, float]] = {
    "copy_source": (None, 3.2, 21.4),
    "nearest_neighbour": (None, 9.8, 33.1),
    "ngram": (1.934, 1.1, 18.0),
    "zero_shot": (2.61, 0.4, 12.7),
}
SIGNATURES = {
    "bleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
    "chrf": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
}
WRITER_RECIPE = """task: {task}
data: {{source: pairs.jsonl}}  # <b>
generation: {{max_new_tokens: 40, num_beams: 1, do_sample: false, seed: , examples: []}}
report: {{language: {language}}}
"""
WRITTEN = f"first line & {SCRIPT}\n  second  line\twith a\x07bell " + "w" * 300


def text_split_scores(loss: float | None, bleu: float, chrf: float) -> SplitScores:
    """Scores of written text; without a loss, as baselines that only copy have none."""
    values = {
        "bleu": bleu, "chrf": chrf, "rouge_1": chrf / 90, "rouge_2": chrf / 150, "rouge_l": chrf / 100,
        "exact_match": 0.125, "distinct_1": 0.31, "distinct_2": 0.62, "length_ratio": 1.04, "repetition": 0.018,
        "cut_share": 0.073, "empty_share": 0.0,
    }  # fmt: skip
    if loss is not None:
        values = {"loss": loss, "perplexity": float(np.exp(loss)), "nats_per_character": loss / 4, **values}
    scores = {
        name: Score(value=value, n=400)
        if name.startswith("distinct")
        else Score(value=value, low=value * 0.95, high=value * 1.06, n=400)
        for name, value in values.items()
    }
    return SplitScores(scores=scores, signatures=SIGNATURES)


def tiny_text_scores(*, metric: str = "bleu", test: bool = True, **changes: Any) -> Scores:
    """Scores of a text generator that beats its baselines; each is tested by the metric, or by chrF without a loss."""
    splits = ["validation", "test"] if test else ["validation"]
    ours = text_split_scores(1.234, 31.42, 56.78)
    baselines = {name: dict.fromkeys(splits, text_split_scores(*values)) for name, values in TEXT_BASELINES.items()}
    new: dict[str, Any] = {}
    if test:
        new = {
            "baselines": baselines,
            "baseline_tests": {name: text_test(ours, each["test"], metric) for name, each in baselines.items()},
            "strongest_baseline": "ngram" if metric == "loss" else "nearest_neighbour",
            "beats_baselines": True,
        }
    evidence = {"metric_best": 30.666, "metric_best_epoch": 3.0, "validation_loss_best": 1.301, "evaluations": 3.0}
    scores = Scores(
        metric_for_best_model=metric, best_epoch=2.0, best_step=20, splits=dict.fromkeys(splits, ours),
        last=dict.fromkeys(splits, text_split_scores(1.31, 30.0, 55.5)), baselines={},
        fit=FitVerdict(
            state="still_learning", evidence=evidence,
            suggestions=[Suggestion(override="training.num_train_epochs=6", why="it was still learning")],
        ),
        notes=["test: texts were written for a sample of 400 of 1,000 documents"],
    )  # fmt: skip
    return scores.model_copy(update=new | changes)


def text_test(ours: SplitScores, theirs: SplitScores, metric: str, *, better: bool = True) -> PairedTest:
    tested = metric if metric in theirs.scores else "chrf"
    first, second = (each.scores[tested].value or 0.0 for each in (ours, theirs))
    return paired(first, second, metric=tested, better=better).model_copy(update={"p_mcnemar": None})


def shown_text(number: int, *, prediction: str = WRITTEN, cut: bool = True) -> ShownText:
    return ShownText(
        id=f"pairs.jsonl:{number}", group=SCRIPT, prompt=f"prompt {number} {SCRIPT}", cut=cut, chrf=12.345,
        reference=f"reference {number}\n\nof two paragraphs", prediction=prediction,
    )  # fmt: skip


def tiny_samples(*, epochs: int = 3, documents: int = 2) -> list[Samples]:
    """One for each evaluation; of the first document the text names the epoch, of the second it is empty at first."""
    return [
        Samples(
            epoch=float(epoch), step=10 * epoch,
            texts=[
                shown_text(number, prediction=f"text of epoch {epoch} {WRITTEN}" if number != 1 or epoch > 1 else "  ")
                for number in range(documents)
            ],
        )
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


def tiny_text_data(form: str) -> dict[str, Any]:
    lengths = {
        "documents": 400, "tokens": 9000, "window_tokens": 128, "median": 20, "p90": 60, "p95": 70, "p99": 90,
        "longest": 400, "over_one_window": 2,
    }  # fmt: skip
    counts = {
        "documents": 399, "sequences": 401, "tokens": 9100, "learnt_tokens": 4321, "documents_dropped": 1,
        "documents_cut": 2, "tokens_cut": 345, "lengths": lengths,
        "target_lengths": lengths if form == "seq2seq" else None, "notes": ["warning: 1 of 400 examples dropped"],
    }  # fmt: skip
    characters = {"test": {"median": 90, "max": 900}}
    kept = {name: value for name, value in tiny_data().items() if name not in ("labels", "label_counts")}
    return kept | {
        "form": form, "windows": {"train": counts, "test": counts}, "characters": characters,
        "target_characters": characters,
    }  # fmt: skip


def tiny_writer_run(
    folder: Path, *, form: str = "seq2seq", language: str = "en", bare: bool = False, epochs: int = 3, **changes: Any
) -> Run:
    """A finished run of a text generator, without models; `bare` writes only what every run ever had."""
    run, task = Run(folder), "seq2seq" if form == "seq2seq" else "text-generation"
    write_json(
        run.info,
        RunInfo(
            status="complete", task=task, started="2026-01-02T03:04:05+00:00", finished="2026-01-02T03:24:05+00:00",
            seconds={"fit": 1100.0}, versions={"python": "3.11"}, git_revision="abc", platform="Linux", seed=13,
            steps=60, data_fingerprint="f" * 64, model_origin="from scratch", padding_share=0.02, fill_rate=0.934,
        ),
    )  # fmt: skip
    write_json(run.scores, tiny_text_scores(**changes))
    if bare:
        return run
    write_text(run.recipe, WRITER_RECIPE.format(task=task, language=language))
    write_text(run.data, json.dumps(tiny_text_data(form)))
    if changes.get("test", True):
        write_json(run.analysis, tiny_text_analysis())
    for each in tiny_samples(epochs=epochs):
        write_json(run.samples / f"{each.epoch:g}" / "texts.json", each)
    rows: list[dict[str, Any]] = [{"step": 5 * n, "epoch": n / 2, "loss": 3.0 / n} for n in range(1, 7)]
    rows += [{"step": 10 * n, "epoch": float(n), "eval_loss": 2.0 / n, "eval_perplexity": 7.0 / n,
              "eval_bleu": 10.0 * n, "eval_chrf": 15.0 * n, "eval_rouge_l": 0.2 * n, "eval_length_ratio": 1.2}
             for n in range(1, 4)]  # fmt: skip
    write_json_lines(run.history, rows)
    write_json_lines(run.test_openings, [{"when": "2026-01-02T03:20:00+00:00", "by": "train", "documents": 400}])
    return run


def tiny_text_analysis() -> Analysis:
    values = {"bleu": Score(value=28.04, low=20.0, high=33.3, n=50), "loss": Score(value=1.4, n=50)}
    return Analysis(
        slices=[Slice(by="length", name="up to 20 tokens", documents=50, scores=values)],
        best_texts=[shown_text(71, cut=False)],
        worst_texts=[shown_text(72, prediction="")],
    )


# ---- several runs


def tiny_comparison(names: Sequence[str] = ("a", SCRIPT), *, better: bool = True) -> Comparison:
    values = dict(zip(names, (0.7, 0.6, 0.5), strict=False))
    runs = [
        ComparedRun(name=name, folder=f"../{number}", model_origin="bert", seed=13, best_epoch=2.0, test_openings=1,
                    scores=split_scores(value).scores)
        for number, (name, value) in enumerate(values.items())
    ]  # fmt: skip
    pairs = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    changed = ChangedDocument(id="d1", group=None, reference="good", first="good", second=SCRIPT, right="first")
    return Comparison(
        metric="f1_macro", documents=400, groups=None, left_out={names[0]: 3}, runs=runs,
        tests=[
            ComparedPair(first=one, second=other, test=paired(values[one], values[other], better=better))
            for one, other in pairs
        ],
        changed=[
            ChangedSides(
                first=names[0], second=other, both_right=300, both_wrong=51, only_first_right=31, only_second_right=18,
                by_label=[LabelChanges(label=SCRIPT, only_first_right=31, only_second_right=18)], documents=[changed],
            )
            for other in names[1:]
        ],
        resamples=1000, seed=13, notes=["a note"],
    )  # fmt: skip


def tiny_crossval(names: Sequence[str] = ("bert",), *, better: bool = True) -> CrossValidation:
    def test(first: float, second: float) -> ResampledTest:
        difference = first - second
        return ResampledTest(
            metric="f1_macro", first=first, second=second, difference=difference, low=difference - 0.05,
            high=difference + 0.05, p=0.01 if better else 0.4, better=better,
        )  # fmt: skip

    def result(name: str, mean: float) -> RecipeResult:
        folds = [
            FoldResult(fold=n, repeat=1, folder=f"folds/{n}", train_documents=60, validation_documents=20,
                       held_out_documents=20, best_epoch=2.0, scores={"f1_macro": mean + (n - 2) / 50},
                       baselines={"majority": {"f1_macro": 0.3}})
            for n in (1, 2, 3)
        ]  # fmt: skip
        values: list[float | None] = [fold.scores["f1_macro"] for fold in folds]
        return RecipeResult(
            name=name, folds=folds, baselines={"majority": {"f1_macro": 0.3}}, strongest_baseline="majority",
            scores={
                "f1_macro": FoldsScore(mean=mean, values=values, deviation=0.02, low=mean - 0.05, high=mean + 0.05,
                                       pooled=mean + 0.01, pooled_by_repeat=[mean + 0.01])
            },
            baseline_tests={"majority": test(mean, 0.3)}, beats_baselines=better,
        )  # fmt: skip

    recipes = [result(name, 0.7 - number / 10) for number, name in enumerate(names)]
    return CrossValidation(
        metric="f1_macro", folds=3, repeats=1, documents=100, groups=None, recipes=recipes, best=names[0],
        tests={name: test(0.7, 0.6) for name in names[1:]}, notes=["a note"],
    )  # fmt: skip


def tiny_seeds(*values: float) -> SeedStudy:
    values = values or (0.61, 0.65, 0.63)
    runs = [
        SeedRun(seed=13 + n, folder=f"seeds/{13 + n}", best_epoch=2.0, scores={"f1_macro": value})
        for n, value in enumerate(values)
    ]
    mean = sum(values) / len(values)
    return SeedStudy(
        name=SCRIPT, metric="f1_macro", documents=400, split_seed=13, runs=runs,
        scores={"f1_macro": SeedsScore(mean=mean, deviation=0.02, values=list(values))},
        baselines={"majority": {"f1_macro": 0.4}, "tfidf_logistic": {"f1_macro": 0.602}}, notes=["a note"],
    )  # fmt: skip


def tiny_search() -> SearchResult:
    trials = [
        TrialRow(number=n, status="complete", params={"training.learning_rate": 1e-5 * (n + 1), "x": SCRIPT},
                 value=0.5 + n / 20, best_epoch=2.0, epochs=3.0, seconds=20.0 + n)
        for n in range(4)
    ]  # fmt: skip
    trials += [
        TrialRow(number=4, status="pruned", params={"training.learning_rate": 1e-3}, value=0.2, epochs=1.0),
        TrialRow(number=5, status="failed", params={"training.learning_rate": 1.0}, value=None, failure="not finite"),
    ]
    return SearchResult(
        metric="f1_macro", direction="maximize", trials=trials, importance={"training.learning_rate": 0.8, "x": 0.2},
        winner=3, overrides=["training.learning_rate=4e-05"], test=split_scores(0.62).scores, notes=["a note"],
    )  # fmt: skip
