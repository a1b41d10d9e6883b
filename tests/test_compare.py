"""Comparisons of made-up run folders: who may be compared, what is aligned, what is counted, what is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from finetune.comparison_screen import render_comparison
from finetune.errors import CheckpointError, FinetuneError, RecipeError
from finetune.run_files import RunInfo, Scores, SplitScores
from finetune.runs import Run, write_json, write_json_lines, write_table, write_text
from finetune.scores.classification import score_classification
from finetune.scores.paired import Judged, paired_test
from finetune.selection.compare import MOST_CHANGED_LISTED, Comparison, compare_runs

LABELS = ("bad", "fair", "good")
RECIPE = """
task: text-classification
data: {{source: reviews.csv, columns: {{text: text, label: label}}, multi_label: {multi_label}}}
evaluation: {{bootstrap: {bootstrap}}}
seed: 7
"""


def made_up_run(
    folder: Path, *, right: float = 0.8, documents: int = 120, seed: int = 0, labels: tuple[str, ...] = LABELS,
    multi_label: bool = False, groups: int | None = None, bootstrap: int = 100, metric: str = "f1_macro",
    status: str = "complete", test: bool = True, openings: int = 1, fingerprint: str = "same",
    keep: slice = slice(None),
    hashes: list[str] | None = None, ids: list[str] | None = None, shuffle: bool = False, **changes: Any,
) -> Path:  # fmt: skip
    """A finished run's folder; references are the same for every `seed`, predictions are `right` as often as said."""
    truth, chance = np.random.default_rng(1), np.random.default_rng([seed, 99])
    count = len(labels)
    if multi_label:
        references = truth.integers(0, 2, size=(documents, len(LABELS)))
        guesses = np.where(chance.random(references.shape) < right, references, 1 - references)
        probabilities = 0.2 + 0.6 * guesses
    else:
        references = truth.integers(0, len(LABELS), size=documents)
        guesses = np.where(
            chance.random(documents) < right, references, chance.integers(0, len(LABELS), size=documents)
        )
        probabilities = np.full((documents, len(LABELS)), 0.1) + 0.7 * np.eye(len(LABELS))[guesses]
    # The numbers above are of LABELS; a run may have its labels in another order.
    probabilities = (
        probabilities[:, [LABELS.index(label) for label in labels]] if count == len(LABELS) else probabilities
    )
    named = [
        [[LABELS[i] for i in np.flatnonzero(row)] for row in rows] if multi_label else [LABELS[i] for i in rows]
        for rows in (references, guesses)
    ]
    order = chance.permutation(documents) if shuffle else np.arange(documents)
    order = order[keep]
    whole = {
        "id": ids or [f"doc{row:04}" for row in range(documents)],
        "group": [None if groups is None else f"author {row % groups}" for row in range(documents)],
        "reference": named[0],
        "prediction": named[1],
        "probabilities": list(probabilities),
    }
    table = {name: [column[row] for row in order] for name, column in whole.items()} | changes
    content = hashes or [f"hash{row}" for row in range(documents)]
    run = Run(folder)
    write_text(run.recipe, RECIPE.format(multi_label=str(multi_label).lower(), bootstrap=bootstrap))
    info = RunInfo(
        status=status, task="text-classification", started="2026-01-01", versions={}, git_revision=None, platform="x",
        seed=7, data_fingerprint=fingerprint, model_origin="tiny",
    )  # fmt: skip
    write_json(run.info, info)
    empty = SplitScores(scores={}, per_class=[], confusion=None, label_names=list(labels))
    splits = {"validation": empty} | ({"test": empty} if test else {})
    write_json(
        run.scores,
        Scores(metric_for_best_model=metric, best_epoch=2.0, best_step=9, splits=splits, last={}, baselines={}),
    )
    ids_of_splits = [*table["id"], "another"]
    write_table(
        run.splits,
        {"id": ids_of_splits, "content_hash": [*(content[row] for row in order), "hash0"],
         "split": ["test"] * len(table["id"]) + ["train"]},
    )  # fmt: skip
    if test:
        write_table(run.predictions("test"), table)
    write_json_lines(run.test_openings, [{"by": "train"}] * openings)
    return folder


def compared(*folders: Path, **settings: Any) -> Comparison:
    chosen: dict[str, Any] = {"metric": None, "intersection": False, "folder": folders[0].parent / "comparison"}
    return compare_runs(list(folders), **chosen | settings)[0]


def refused(*folders: Path, **settings: Any) -> str:
    with pytest.raises(FinetuneError) as caught:
        compared(*folders, **settings)
    assert caught.value.exit_code == 2
    assert not (folders[0].parent / "comparison").exists()
    return str(caught.value)


def test_the_better_run_is_named_and_everything_is_written(tmp_path: Path) -> None:
    weak, strong = made_up_run(tmp_path / "weak", right=0.5), made_up_run(tmp_path / "strong", right=0.95, seed=1)
    comparison, folder = compare_runs([weak, strong], metric=None, intersection=False, folder=tmp_path / "out")
    written = Comparison.model_validate_json((folder / "comparison.json").read_text(encoding="utf-8"))
    assert written == comparison
    [pair] = comparison.tests
    assert (pair.first, pair.second, pair.test.better, pair.test.p_holm) == ("strong", "weak", True, None)
    assert comparison.metric == "f1_macro" and comparison.documents == 120 and comparison.groups is None
    assert [run.name for run in comparison.runs] == ["weak", "strong"]
    assert [run.folder for run in comparison.runs] == ["../weak", "../strong"]
    screen = render_comparison(comparison, folder)
    assert screen.startswith("strong is better than weak: test f1_macro ")
    for part in ("120 test documents", "log_loss", "McNemar", "only strong right", "Note: ", str(folder)):
        assert part in screen


def test_scores_and_test_are_those_of_the_stored_predictions(tmp_path: Path) -> None:
    folders = [made_up_run(tmp_path / name, right=share, seed=seed) for seed, (name, share) in enumerate(
        {"one": 0.8, "two": 0.6}.items())]  # fmt: skip
    comparison = compared(*folders, metric="accuracy")
    tables = [json.loads(Run(folder).scores.read_text(encoding="utf-8")) for folder in folders]
    assert all(not table["splits"]["test"]["scores"] for table in tables)  # so they were computed again
    from finetune.runs import read_table

    number = {name: index for index, name in enumerate(LABELS)}
    sides = []
    for run, folder in zip(comparison.runs, folders, strict=True):
        rows = read_table(Run(folder).predictions("test"))
        references = np.array([number[name] for name in rows["reference"]])
        probabilities = np.array(rows["probabilities"])
        expected = score_classification(references, probabilities, label_names=LABELS).values
        assert {name: score.value for name, score in run.scores.items()} == pytest.approx(expected)
        for name in ("accuracy", "error_rate", "f1_macro", "matthews", "log_loss", "roc_auc"):
            score = run.scores[name]
            assert score.value is not None and score.low is not None and score.high is not None
            assert score.low <= score.value <= score.high and score.n == 120 and score.coverage is not None
        sides.append(Judged(np.array([number[name] for name in rows["prediction"]]), probabilities))
    again = paired_test(references, *sides, classes=3, metric="accuracy", resamples=100, seed=7)
    assert comparison.tests[0].test == again
    [changed] = comparison.changed
    assert changed.both_right + changed.both_wrong + changed.only_first_right + changed.only_second_right == 120
    assert (changed.only_first_right, changed.only_second_right) == (again.only_first_right, again.only_second_right)


def test_documents_are_aligned_by_content_and_labels_by_name(tmp_path: Path) -> None:
    plain = made_up_run(tmp_path / "plain", seed=3)
    other = made_up_run(
        tmp_path / "other",
        seed=3,
        shuffle=True,
        labels=("good", "bad", "fair"),
        ids=[f"row{row}" for row in range(120)],
    )
    comparison = compared(plain, other)
    one, two = (run.scores for run in comparison.runs)
    assert {name: score.value for name, score in one.items()} == pytest.approx(
        {name: score.value for name, score in two.items()}
    )
    test = comparison.tests[0].test
    assert (test.p, test.p_mcnemar, test.difference, test.better) == (1.0, 1.0, 0.0, False)
    assert comparison.changed[0].documents == [] and comparison.changed[0].by_label == []
    assert render_comparison(comparison, tmp_path).startswith("NO difference is shown")


def test_documents_of_one_content_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    hashes = [f"hash{row // 2}" for row in range(120)]
    one = made_up_run(tmp_path / "one", seed=3, hashes=hashes)
    two = made_up_run(tmp_path / "two", seed=3, hashes=hashes, shuffle=True)
    comparison = compared(one, two)  # two documents of one content have different references here
    assert comparison.documents == 120 and comparison.tests[0].test.p == 1.0


def test_other_test_documents_are_refused_or_left_out(tmp_path: Path) -> None:
    one, two = (
        made_up_run(tmp_path / "one", keep=slice(0, 90)),
        made_up_run(tmp_path / "two", seed=1, keep=slice(30, 120)),
    )
    message = refused(one, two)
    assert "one 90, two 90, of which 60 are shared" in message and "--intersection" in message
    comparison = compared(one, two, intersection=True)
    assert comparison.documents == 60 and comparison.left_out == {"one": 30, "two": 30}
    assert any("left out: 30 of one, 30 of two" in note for note in comparison.notes)
    assert {document.id for document in comparison.changed[0].documents} <= {f"doc{row:04}" for row in range(30, 90)}
    none = made_up_run(tmp_path / "none", keep=slice(90, 120))
    with pytest.raises(CheckpointError, match="share no test document"):
        compared(one, none, intersection=True, folder=tmp_path / "again")


def test_changed_documents_say_who_was_right(tmp_path: Path) -> None:
    one, two = (
        made_up_run(tmp_path / "one", right=0.9, groups=40),
        made_up_run(tmp_path / "two", right=0.3, seed=1, groups=40),
    )
    changed = compared(one, two).changed[0]
    assert len(changed.documents) == changed.only_first_right + changed.only_second_right > 0
    assert sum(row.only_first_right for row in changed.by_label) == changed.only_first_right
    for document in changed.documents:
        winner, loser = (
            (document.first, document.second) if document.right == "first" else (document.second, document.first)
        )
        assert winner == document.reference != loser and document.group is not None


def test_at_most_two_hundred_documents_are_listed(tmp_path: Path) -> None:
    one = made_up_run(tmp_path / "one", right=1.0, documents=600)
    two = made_up_run(tmp_path / "two", right=0.0, seed=1, documents=600)
    changed = compared(one, two).changed[0]
    assert len(changed.documents) == MOST_CHANGED_LISTED < changed.only_first_right


def test_groups_are_swapped_whole_and_leave_no_mcnemar(tmp_path: Path) -> None:
    one, two = (made_up_run(tmp_path / name, seed=seed, groups=30) for seed, name in enumerate(("one", "two")))
    comparison = compared(one, two)
    test = comparison.tests[0].test
    assert comparison.groups == test.groups == 30 and test.p_mcnemar is None
    assert "120 test documents in 30 groups" in render_comparison(comparison, tmp_path)
    without = made_up_run(tmp_path / "without", seed=2)
    mixed = compared(without, one, folder=tmp_path / "mixed")
    assert mixed.groups == 30 and not any("different groups" in note for note in mixed.notes)
    other = made_up_run(tmp_path / "other", seed=2, groups=20)
    assert any("name different groups" in note for note in compared(one, other, folder=tmp_path / "again").notes)


def test_below_ten_groups_there_is_no_interval_and_a_note(tmp_path: Path) -> None:
    one, two = (made_up_run(tmp_path / name, seed=seed, groups=6) for seed, name in enumerate(("one", "two")))
    comparison = compared(one, two)
    assert all(score.low is None for run in comparison.runs for score in run.scores.values())
    assert comparison.tests[0].test.low is None and "none" in render_comparison(comparison, tmp_path)
    assert any("6 effective groups are too few" in note for note in comparison.notes)


def test_three_runs_are_ranked_corrected_and_warned_about(tmp_path: Path) -> None:
    shares = {"weak": 0.5, "strong": 0.9, "middle": 0.75}
    folders = [
        made_up_run(tmp_path / name, right=share, seed=seed) for seed, (name, share) in enumerate(shares.items())
    ]
    comparison = compared(*folders)
    pairs = [(pair.first, pair.second) for pair in comparison.tests]
    assert pairs == [("strong", "middle"), ("strong", "weak"), ("middle", "weak")]
    tests = [pair.test for pair in comparison.tests]
    assert [test.p_holm for test in tests] == pytest.approx(multipletests([test.p for test in tests], method="holm")[1])
    assert all(test.better == ((test.p_holm or 0) < 0.05) for test in tests)
    assert [changed.second for changed in comparison.changed] == ["middle", "weak"]
    assert any("choosing the best of several runs" in note for note in comparison.notes)
    assert "p (Holm)" in render_comparison(comparison, tmp_path)


def test_a_loss_is_better_when_lower(tmp_path: Path) -> None:
    one, two = made_up_run(tmp_path / "one", right=0.5), made_up_run(tmp_path / "two", right=0.95, seed=1)
    for number, metric in enumerate(("loss", "log_loss", "error_rate")):
        [pair] = compared(one, two, metric=metric, folder=tmp_path / f"out{number}").tests
        assert pair.first == "two" and pair.test.difference < 0 and pair.test.better


def test_roc_auc_is_shown_and_another_score_tested(tmp_path: Path) -> None:
    one, two = made_up_run(tmp_path / "one"), made_up_run(tmp_path / "two", seed=1, metric="accuracy")
    comparison = compared(one, two, metric="roc_auc")
    assert comparison.metric == "roc_auc" and comparison.tests[0].test.metric == "f1_macro"
    assert any("tested is f1_macro" in note for note in comparison.notes)
    assert any("one by f1_macro, two by accuracy" in note for note in comparison.notes)


def test_several_labels(tmp_path: Path) -> None:
    one = made_up_run(tmp_path / "one", multi_label=True, right=0.95)
    two = made_up_run(tmp_path / "two", multi_label=True, right=0.7, seed=1, labels=("good", "bad", "fair"))
    comparison = compared(one, two)
    assert comparison.tests[0].test.better and comparison.tests[0].first == "one"
    changed = comparison.changed[0]
    assert all(isinstance(document.reference, list) for document in changed.documents)
    assert max(row.only_first_right for row in changed.by_label) <= changed.only_first_right
    assert "cannot be compared: one is multi-label" in refused_elsewhere(one, made_up_run(tmp_path / "three"))


def refused_elsewhere(*folders: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        compared(*folders, folder=folders[0].parent / "elsewhere")
    return str(caught.value)


def test_predictions_by_a_runs_own_thresholds_are_what_counts(tmp_path: Path) -> None:
    """At 0.5 nothing would be predicted; the run decided from 0.2 on."""
    one = made_up_run(tmp_path / "one", multi_label=True, right=1.0)
    lowered = [row / 4 for row in _column(one, "probabilities")]
    two = made_up_run(tmp_path / "two", multi_label=True, right=1.0, probabilities=lowered)
    comparison = compared(one, two)
    assert [run.scores["accuracy"].value for run in comparison.runs] == [1.0, 1.0]
    log_losses = [run.scores["log_loss"].value or 0 for run in comparison.runs]
    assert log_losses[1] > log_losses[0]


def _column(folder: Path, name: str) -> list[np.ndarray]:
    from finetune.runs import read_table

    return [np.array(row) for row in read_table(Run(folder).predictions("test"))[name]]


def test_without_bootstrap_there_are_tests_and_no_intervals(tmp_path: Path) -> None:
    one, two = made_up_run(tmp_path / "one", bootstrap=0), made_up_run(tmp_path / "two", right=0.3, seed=1, bootstrap=0)
    comparison = compared(one, two)
    assert comparison.tests[0].test.low is None and comparison.tests[0].test.better
    assert all(score.low is None for run in comparison.runs for score in run.scores.values())


def test_warnings(tmp_path: Path) -> None:
    one = made_up_run(tmp_path / "one", openings=3)
    two = made_up_run(tmp_path / "two", seed=1, fingerprint="other")
    comparison = compared(one, two)
    assert [run.test_openings for run in comparison.runs] == [3, 1]
    screen = render_comparison(comparison, tmp_path)
    assert "Warning: one has opened its test split 3 times" in screen and "Warning: the runs were trained on" in screen


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    one, two = made_up_run(tmp_path / "a" / "run"), made_up_run(tmp_path / "b" / "run", seed=1)
    comparison = compared(one, two)
    assert [run.name for run in comparison.runs] == [str(one), str(two)]


def test_a_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    one, two = made_up_run(tmp_path / "\x1b[31mred"), made_up_run(tmp_path / "two", seed=1)
    comparison = compared(one, two)
    assert "\x1b" not in render_comparison(comparison, Path("runs/compare-1"))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"status": "stopped"}, "is not complete: stopped"),
        ({"test": False}, "has no test predictions"),
        ({"labels": ("bad", "fair")}, "does not fit the other files of its run"),
        ({"reference": ["bad"] * 120}, "of the same documents: doc0"),
        ({"prediction": ["worst"] * 120}, "does not fit the other files of its run"),
        ({"probabilities": [np.array([0.5, 0.9, 0.1])] * 120}, "must add up to 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, other: dict[str, Any], says: str) -> None:
    assert says in refused(made_up_run(tmp_path / "one"), made_up_run(tmp_path / "two", seed=1, **other))


def test_other_labels_are_refused_by_name(tmp_path: Path) -> None:
    one, two = made_up_run(tmp_path / "one"), made_up_run(tmp_path / "two", seed=1)
    scores = Run(two).read(Run(two).scores, Scores)
    scores.splits["test"].label_names = [*LABELS, "awful"]
    write_json(Run(two).scores, scores)
    four = [np.append(row, 0.0) for row in _column(two, "probabilities")]
    rows = _column(two, "reference")
    made_up = {"reference": [str(row) for row in rows], "probabilities": four}
    table = {name: [str(cell) for cell in _column(two, name)] for name in ("id", "prediction")}
    write_table(Run(two).predictions("test"), {**table, "group": [None] * 120, **made_up})
    assert "only two has 'awful'" in refused(one, two)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    one, two = made_up_run(tmp_path / "one"), made_up_run(tmp_path / "two", seed=1)
    Run(two).predictions("test").write_bytes(b"PAR1 and nothing more")
    assert "test.parquet: cannot be read" in refused(one, two)
    made_up_run(two, seed=1)
    Run(two).splits.unlink()
    assert "splits.parquet: is missing" in refused(one, two)
    splits = made_up_run(tmp_path / "other", ids=[f"row{row}" for row in range(120)]) / "splits.parquet"
    made_up_run(two, seed=1)
    Run(two).splits.write_bytes(splits.read_bytes())
    assert "does not fit the other files of its run ('doc0000')" in refused(one, two)
    made_up_run(two, seed=1)
    write_table(Run(two).predictions("test"), {"id": ["doc0000"], "generated": ["a text"]})
    assert "test.parquet: cannot be read" in refused(one, two)


def test_folders_that_are_no_runs_are_refused_together(tmp_path: Path) -> None:
    one = made_up_run(tmp_path / "one")
    inside = [made_up_run(tmp_path / "folds" / "folds" / str(fold)) for fold in (1, 2)]
    write_json(tmp_path / "folds" / "crossval.json", {"kind": "crossval"})
    message = refused(one, one, tmp_path / "nowhere", tmp_path / "folds", tmp_path)
    assert f"{one}: is named twice" in message and "nowhere: no such run folder" in message
    assert f"is a cross-validation, not a run. Name the runs inside, such as {inside[0]} {inside[1]}" in message
    assert "is a folder of 3 runs, not a run" in message
    with pytest.raises(RecipeError, match="needs two runs"):
        compared(one)


def test_the_metric_and_the_folder_are_checked_first(tmp_path: Path) -> None:
    one, two = made_up_run(tmp_path / "one"), made_up_run(tmp_path / "two", seed=1)
    assert "Did you mean 'f1_macro'?" in refused(one, two, metric="f1macro")
    with pytest.raises(RecipeError, match="is not empty"):
        compared(one, two, folder=one)
    with pytest.raises(RecipeError, match="is a file"):
        compared(one, two, folder=Run(one).recipe / "out")


def test_new_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = made_up_run(tmp_path / "one"), made_up_run(tmp_path / "two", seed=1)
    folders = [compared_folder for _, compared_folder in (
        compare_runs([one, two], metric=None, intersection=False, folder=None) for _ in range(2))]  # fmt: skip
    assert folders == [Path("runs/compare-1"), Path("runs/compare-2")]
    assert [run.folder for run in compared(one, two, folder=Path("runs/third")).runs] == ["../../one", "../../two"]


def test_comparing_never_loads_a_learning_library() -> None:
    code = "import finetune.selection.compare, finetune.comparison_screen, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "evaluate", "accelerate", "peft", "datasets", "matplotlib", "optuna"}
