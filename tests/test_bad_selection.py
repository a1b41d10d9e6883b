"""What a user sees who compares, cross-validates, searches, evaluates or reports wrongly.

Every case runs the command in process and looks at exit code, message and disk; bad_inputs.py says how.
"""

from __future__ import annotations

import csv
import html
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_inputs import Case, check_refused, edit_json, on_disk, recipe, refused, settle_in, table, write_files

from finetune.cli import main
from finetune.experiment import train
from finetune.progress import SILENT
from finetune.recipe_file import load_recipe
from finetune.runs import read_json_lines, read_table
from finetune.selection.compare import compare_runs
from finetune.selection.crossval import cross_validate
from finetune.selection.search import search_settings
from finetune.selection.seeds import train_with_seeds
from finetune.yaml_text import read_yaml

SPACE = "search: {trials: 2, space: {training.learning_rate: [1e-3, 1e-2]}}\n"
SEARCHING = {"recipe.yaml": recipe(extra=SPACE)}
Build = Callable[[Path], object]


def seeds(*words: str) -> tuple[str, ...]:
    return ("train", "recipe.yaml", "--run", "out", "--seeds", *words)


def crossval(*words: str) -> tuple[str, ...]:
    return ("crossval", "recipe.yaml", "--run", "out", *words)


def settings(extra: str = "", **more: str) -> dict[str, str | bytes]:
    return {"recipe.yaml": recipe(extra=extra, **more)}


def evaluation(text: str) -> str:
    """A recipe with this in its section evaluation, in line 7."""
    return recipe().replace("bootstrap: 0", text)


def space(text: str, *more: str) -> dict[str, str | bytes]:
    """A recipe whose section search, from line 12 on, has this space: in line 13, further lines from 14 on."""
    lines = [f"  space: {{{text}}}", *more]
    return settings("search:\n" + "".join(f"{line}\n" for line in lines))


def of_runs(id: str, argv: str, *says: str, build: Build | None = None, needs: str = "a b", **more: Any) -> Case:
    """A command over the ready folders named in `needs`, after `build` has damaged them."""
    return Case(id, more.pop("files", {}), says, argv=tuple(argv.split()), build=build, needs=(*needs.split(),), **more)


def cut(name: str) -> Build:
    """Only the first half of the file is left."""
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def gone(name: str) -> Build:
    return lambda folder: (folder / name).unlink()


def written(name: str, text: str) -> Build:
    return lambda folder: (folder / name).write_text(text)


def status(name: str, value: str) -> Build:
    return lambda folder: edit_json(folder / name / "run.json", status=value)


def foreign(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/thesis.txt").write_text("mine")


def other_references(folder: Path) -> None:
    path = folder / "b/predictions/test.parquet"
    found = pq.read_table(path)
    turned = [{"pos": "neg", "neg": "pos"}[label] for label in found["reference"].to_pylist()]
    place = found.schema.get_field_index("reference")
    pq.write_table(found.set_column(place, "reference", pa.array(turned)), path)


def seen_in(*splits: str) -> Build:
    """new.csv holds what the run has in these splits."""

    def build(folder: Path) -> None:
        rows = read_table(folder / "a/splits.parquet")
        places = (id.rpartition(":")[2] for id in rows["id"])  # as in reviews.csv:2
        taken = {int(place) for place, split in zip(places, rows["split"], strict=True) if split in splits}
        header, *lines = (folder / "reviews.csv").read_text().splitlines()
        kept = [line for number, line in enumerate(lines, 2) if number in taken]
        (folder / "new.csv").write_text("\n".join([header, *kept]) + "\n")

    return build


def losing_trial(folder: Path) -> None:
    """The trial that did not win has scored no test split; it becomes number 0."""
    winner = json.loads((folder / "search/search.json").read_text())["winner"]
    if winner == 0:
        shutil.rmtree(folder / "search/trials/0")
        shutil.move(folder / "search/trials/1", folder / "search/trials/0")


COMPARE = [
    of_runs("one", "compare a", "command line: compare needs two runs"),
    of_runs("none", "compare", "command line: the following arguments are required: RUN"),
    of_runs("twice", "compare a a", "a: is named twice. Name each run once."),
    of_runs("twice-by-link", "compare a link", "link: is named twice", build=lambda f: (f / "link").symlink_to("a")),
    of_runs("nowhere", "compare a nowhere", "nowhere: no such run folder"),
    of_runs("file", "compare a reviews.csv", "reviews.csv: is a file, not a run folder"),
    of_runs("no-run", "compare a out", "out: is not a run folder: it has no run.json", build=foreign),
    of_runs("model", "compare a b/best", "b/best: is not a run folder"),
    of_runs(
        "stopped",
        "compare a b",
        "b: is not complete: stopped. Go on with: finetune train b --resume",
        build=status("b", "stopped"),
    ),
    of_runs(
        "running",
        "compare a b",
        "b: is not complete: killed outright while it ran. Go on with: finetune train b",
        build=status("b", "running"),
    ),
    of_runs(
        "both",
        "compare a b",
        "a: is not complete: failed",
        "b: is not complete: stopped",
        build=lambda f: (status("a", "failed")(f), status("b", "stopped")(f)),
    ),
    of_runs(
        "task",
        "compare a b",
        "a, b: have different tasks: text-classification and seq2seq",
        build=lambda f: edit_json(f / "b/run.json", task="seq2seq"),
    ),
    of_runs(
        "documents",
        "compare a elsewhere",
        "a, elsewhere: have different test documents: a 6, elsewhere 6, of which ",
        "Compare those with --intersection.",
        needs="a elsewhere",
    ),
    of_runs("documents-none", "compare a yesno --intersection", "a, yesno: have different labels", needs="a yesno"),
    of_runs(
        "labels",
        "compare a yesno",
        "a, yesno: have different labels: only a has 'neg', 'pos'; only yesno has 'no', 'yes'",
        needs="a yesno",
    ),
    of_runs(
        "references", "compare a b", "a, b: have different labels for 6 of the same documents", build=other_references
    ),
    of_runs(
        "metric",
        "compare a b --metric f1_makro",
        "command line: --metric: 'f1_makro' is not known. Did you mean 'f1_macro'?",
    ),
    of_runs(
        "output", "compare a b --output out", "out: is not empty. Name another folder with --output.", build=foreign
    ),
    of_runs("output-file", "compare a b --output reviews.csv", "reviews.csv: is a file. Name a folder with --output."),
    of_runs("output-run", "compare a b --output a", "a: is not empty"),
    of_runs("predictions", "compare a b", "b: has no test predictions", build=gone("b/predictions/test.parquet")),
    of_runs(
        "predictions-cut",
        "compare a b",
        "b/predictions/test.parquet: cannot be read",
        build=cut("b/predictions/test.parquet"),
    ),
    of_runs("scores", "compare a b", "b: has no scores.json", build=gone("b/scores.json")),
    of_runs("scores-cut", "compare a b", "b/scores.json", build=cut("b/scores.json")),
    of_runs("scores-key", "compare a b", "b/scores.json", build=lambda f: edit_json(f / "b/scores.json", sources=1)),
    of_runs("run-cut", "compare a b", "b/run.json", build=cut("b/run.json")),
    of_runs("splits", "compare a b", "b/splits.parquet: is missing", build=gone("b/splits.parquet")),
    of_runs("splits-cut", "compare a b", "b/splits.parquet: cannot be read", build=cut("b/splits.parquet")),
    of_runs("recipe", "compare a b", "b/recipe.yaml: no such file", build=gone("b/recipe.yaml")),
    of_runs(
        "folds",
        "compare a cv",
        "cv: is a cross-validation, not a run. Name the runs inside, such as cv/folds/1",
        needs="a cv",
    ),
    of_runs(
        "seeds",
        "compare a seeds",
        "seeds: is a study of seeds, not a run. Name the runs inside, such as seeds/seeds/13",
        needs="a seeds",
    ),
    of_runs(
        "search",
        "compare a search",
        "search: is a search, not a run. Name its winner's run, search/trials/",
        needs="a search",
    ),
    of_runs("comparison", "compare a compared", "compared: is a comparison, not a run", needs="a compared"),
    of_runs(
        "trial",
        "compare a search/trials/0",
        "search/trials/0: has no test predictions",
        needs="a search",
        build=losing_trial,
    ),
]


CROSSVAL = [
    refused("folds-1", {}, "command line: --folds must be 2 or more, found 1.", argv=crossval("--folds", "1")),
    refused(
        "folds-text",
        {},
        "command line: argument --folds: must be a whole number from 0, found 'five'",
        argv=crossval("--folds", "five"),
    ),
    refused(
        "folds-documents",
        {},
        "folds: too few to split into 41 folds. Found: 40 rows, and at least 41 are needed.",
        "Add rows, or use fewer folds.",
        argv=crossval("--folds", "41"),
    ),
    refused(
        "folds-class", {"reviews.csv": table("odd one,rare", "odd two,rare")}, "'rare'", argv=crossval("--folds", "3")
    ),
    refused(
        "folds-groups",
        {
            "reviews.csv": table(
                *(f"day {n} was good,{('pos', 'neg')[n % 2]},{n // 6}" for n in range(12)),
                header="text,label,author",
                count=0,
            ),
            **settings(data="  columns: {group: author}\n"),
        },
        "folds: too few",
        argv=crossval("--folds", "3"),
    ),
    refused(
        "fold-0", {}, "command line: --fold must be 1 to 2, found 0.", argv=crossval("--folds", "2", "--fold", "0")
    ),
    refused(
        "fold-3", {}, "command line: --fold must be 1 to 2, found 3.", argv=crossval("--folds", "2", "--fold", "3")
    ),
    refused("repeats-0", {}, "command line: --repeats must be 1 or more, found 0.", argv=crossval("--repeats", "0")),
    refused(
        "override",
        {},
        "command line: unknown key 'training.lerning_rate'. Did you mean 'learning_rate'?",
        argv=crossval("training.lerning_rate=1"),
    ),
    refused("no-recipe", {}, "command line: crossval needs a recipe", argv=("crossval", "seed=1")),
    refused(
        "recipe-nowhere", {}, "recpe.yaml: no such file. Did you mean 'recipe.yaml'?", argv=("crossval", "recpe.yaml")
    ),
    refused(
        "held-out",
        settings(data="  fold: {folds: 5, fold: 2}\n"),
        "recipe.yaml:6: data.fold: holds out one fold already",
        "Leave it out.",
        argv=crossval(),
    ),
    refused(
        "names",
        {"sub/recipe.yaml": recipe(source="../reviews.csv")},
        "command line: two recipes are named recipe. Give their files different names.",
        argv=("crossval", "recipe.yaml", "sub/recipe.yaml", "--run", "out"),
    ),
    refused(
        "metrics",
        {"b.yaml": recipe(training="  metric_for_best_model: accuracy\n")},
        "training.metric_for_best_model: the recipes choose by different metrics: recipe f1_macro, b accuracy",
        argv=crossval("b.yaml"),
    ),
    refused(
        "data",
        {"b.yaml": recipe(source="b.csv"), "b.csv": table(start=50)},
        "b: has other documents than recipe",
        argv=crossval("b.yaml"),
    ),
    refused(
        "foreign",
        {},
        "out: is not empty and has no plan.json",
        "Name another with --run.",
        argv=crossval(),
        build=foreign,
    ),
    refused("file", {"out": "mine"}, "out: is a file. Name a folder with --run.", argv=crossval()),
    refused(
        "numeric",
        settings(data="  numeric: {stars: standardize}\n"),
        "recipe.yaml:6: data.numeric: the models here read text",
        argv=crossval(),
    ),
    of_runs(
        "plan",
        "crossval recipe.yaml --folds 3 --run cv",
        "cv: has another plan (folds 2, now 3",
        "name another folder with --run.",
        needs="cv",
    ),
    of_runs(
        "plan-settings",
        "crossval recipe.yaml --folds 2 --run cv training.learning_rate=1",
        "cv: has another plan (recipe: training.learning_rate 5e-05, now 1",
        needs="cv",
    ),
    of_runs("plan-seeds", "crossval recipe.yaml --folds 2 --run seeds", "seeds: has another plan", needs="seeds"),
    of_runs("plan-search", "crossval recipe.yaml --folds 2 --run search", "search/plan.json", needs="search"),
    of_runs(
        "plan-cut", "crossval recipe.yaml --folds 2 --run cv", "cv/plan.json", needs="cv", build=cut("cv/plan.json")
    ),
    of_runs(
        "fold-splits",
        "crossval recipe.yaml --folds 2 --run cv",
        "cv/folds/2/splits.parquet: cannot be read",
        needs="cv",
        build=cut("cv/folds/2/splits.parquet"),
    ),
    of_runs(
        "fold-test",
        "crossval recipe.yaml --folds 2 --run cv",
        "cv/folds/2/predictions/test.parquet: cannot be read",
        needs="cv",
        build=cut("cv/folds/2/predictions/test.parquet"),
    ),
    of_runs(
        "fold-scores",
        "crossval recipe.yaml --folds 2 --run cv",
        "cv/folds/1/scores.json",
        needs="cv",
        build=cut("cv/folds/1/scores.json"),
    ),
    of_runs(
        "fold-run",
        "crossval recipe.yaml --folds 2 --run cv",
        "cv/folds/1/run.json",
        needs="cv",
        build=cut("cv/folds/1/run.json"),
    ),
    of_runs(
        "fold-gone",
        "crossval recipe.yaml --folds 2 --run cv",
        "cv/folds/2: is complete, but its scores.json is gone. Delete this folder",
        needs="cv",
        build=gone("cv/folds/2/scores.json"),
    ),
    of_runs("into-run", "crossval recipe.yaml --run a", "a: is not empty and has no plan.json"),
    of_runs("run", "crossval a", "a: is a run folder, not a recipe. Its recipe is a/recipe.yaml.", hides=("--resume",)),
    of_runs("run-many", "crossval cv", "cv: is a folder of several runs, not a recipe.", needs="cv"),
    of_runs("train-many", "train seeds", "seeds: is a folder of several runs, not a recipe.", needs="seeds"),
]

SEEDS = [
    refused("one", {}, "command line: --seeds must be 2 or more, found 1.", argv=seeds("1")),
    refused("zero", {}, "command line: --seeds must be 2 or more, found 0.", argv=seeds("0")),
    refused(
        "text", {}, "command line: argument --seeds: must be a whole number from 0, found 'many'", argv=seeds("many")
    ),
    refused("minus", {}, "command line: argument --seeds: ", argv=seeds("-2")),
    refused("nothing", {}, "command line: argument --seeds: expected one argument", argv=seeds()),
    refused("foreign", {}, "out: is not empty and has no plan.json", argv=seeds("2"), build=foreign),
    refused("file", {"out": "mine"}, "out: is a file", argv=seeds("2")),
    of_runs(
        "resume",
        "train a --seeds 2 --resume",
        "command line: --seeds goes without --resume or --restart. Name the recipe, and the folder with --run",
    ),
    of_runs("restart", "train a --seeds 2 --restart", "command line: --seeds goes without --resume or --restart"),
    of_runs("target", "train a --seeds 2", "a: is a run folder, not a recipe. Its recipe is a/recipe.yaml."),
    of_runs("run", "train recipe.yaml --seeds 2 --run a", "a: is not empty and has no plan.json"),
    of_runs("folds", "train recipe.yaml --seeds 2 --run cv", "cv: has another plan", needs="cv"),
    of_runs(
        "other",
        "train recipe.yaml --seeds 2 --run seeds training.learning_rate=1",
        "seeds: has another plan (recipe: training.learning_rate 5e-05, now 1",
        needs="seeds",
    ),
    of_runs(
        "scores-cut",
        "train recipe.yaml --seeds 2 --run seeds",
        "seeds/seeds/14/scores.json",
        needs="seeds",
        build=cut("seeds/seeds/14/scores.json"),
    ),
    of_runs(
        "data",
        "train recipe.yaml --seeds 2 --run seeds",
        "seeds: has another plan (recipe: data fingerprint",
        needs="seeds",
        build=lambda f: (f / "reviews.csv").write_text(table("one more,pos")),
    ),
]

SEARCH_ARGV = ("search", "recipe.yaml", "--run", "out")
SEARCH = [
    Case(id, files, says, argv=SEARCH_ARGV)
    for id, files, *says in (
        ("section", {}, "recipe.yaml: has no section search. Add search: {space:"),
        (
            "unknown",
            space("training.lerning_rate: {low: 1e-5, high: 1e-3}"),
            "recipe.yaml:13: search.space",
            "Did you mean 'training.learning_rate'?",
        ),
        (
            "range-of-choice",
            space("training.optim: {low: 1, high: 2}"),
            "recipe.yaml:13: search.space.training.optim: takes no range; write a list of choices",
        ),
        (
            "low-high",
            space("training.learning_rate: {low: 1e-3, high: 1e-5}"),
            "recipe.yaml:13: search.space.training.learning_rate: low 0.001 must be below high 1e-05",
        ),
        ("equal", space("training.learning_rate: {low: 1e-3, high: 1e-3}"), "low 0.001 must be below high 0.001"),
        (
            "log",
            space("training.weight_decay: {low: 0, high: 1, log: true}"),
            "a logarithmic scale needs low above 0, found 0",
        ),
        (
            "choice",
            space("training.optim: [adamw_torch, adam]"),
            "recipe.yaml:13: search.space.training.optim: training.optim=adam is refused: 'adam' is not known",
        ),
        ("value", space("training.learning_rate: [1e-3, -1]"), "training.learning_rate=-1 is refused"),
        (
            "halves",
            space("training.num_train_epochs: {low: 1, high: 2.5}"),
            "counts something, so low, high and step are whole numbers",
        ),
        (
            "metric",
            space("training.metric_for_best_model: [accuracy, f1_macro]"),
            "recipe.yaml:13: search.space.training.metric_for_best_model: is the same in every trial",
            "Leave it out of the space.",
        ),
        ("seed", space("seed: [1, 2]"), "recipe.yaml:13: search.space.seed: is the same in every trial"),
        ("data", space("data.limit: [10, 20]"), "recipe.yaml:13: search.space.data.limit: is the same in every trial"),
        ("one", space("training.learning_rate: [1e-3]"), "recipe.yaml:13: search.space.training.learning_rate: "),
        ("empty", space(""), "recipe.yaml:13: search.space: "),
        ("bare", settings("search:\n"), "recipe.yaml: has no section search"),
        ("number", space("training.learning_rate: 1e-3"), "recipe.yaml:13: search.space.training.learning_rate: "),
        (
            "trials",
            space("training.learning_rate: [1e-3, 1e-2]", "  trials: 1"),
            "recipe.yaml:14: search.trials: must be greater than or equal to 2, found 1",
        ),
        (
            "key",
            space("training.learning_rate: {low: 1e-3, high: 1e-2, lg: true}"),
            "recipe.yaml:13: unknown key 'search.space.training.learning_rate.lg'. Did you mean 'log'?",
        ),
    )
] + [
    refused("foreign", SEARCHING, "out: ", argv=SEARCH_ARGV, build=foreign),
    refused("file", {**SEARCHING, "out": "mine"}, "out: is a file", argv=SEARCH_ARGV),
    of_runs(
        "other",
        "search recipe.yaml --run search training.num_train_epochs=2",
        "search: ",
        "training.num_train_epochs 1, now 2",
        needs="search",
        files=SEARCHING,
    ),
    of_runs(
        "plan-cut",
        "search recipe.yaml --run search",
        "search/plan.json",
        needs="search",
        files=SEARCHING,
        build=cut("search/plan.json"),
    ),
    of_runs(
        "journal",
        "search recipe.yaml --run search",
        "search/study.log: cannot be read",
        needs="search",
        files=SEARCHING,
        build=written("search/study.log", "[]\n"),
    ),
    of_runs("run", "search recipe.yaml --run a", "a: ", files=SEARCHING),
    of_runs("folds", "search recipe.yaml --run cv", "cv", needs="cv", files=SEARCHING),
    of_runs(
        "target", "search a", "a: is a run folder, not a recipe. Its recipe is a/recipe.yaml.", hides=("--resume",)
    ),
]

HELD = "evaluate a --split validation"
EVALUATE = [
    of_runs(
        "gate",
        f"{HELD} --gate f1_macro",
        "--gate 'f1_macro': is not a score, one of >= > <= <, and a number. Write it like 'f1_macro>=0.80'.",
    ),
    of_runs("gate-equal", f"{HELD} --gate f1_macro==1", "--gate 'f1_macro==1': is not a score"),
    of_runs(
        "gate-metric",
        f"{HELD} --gate f1_makro>=0.8",
        "--gate 'f1_makro>=0.8': no score is called 'f1_makro'. Did you mean 'f1_macro'?",
    ),
    of_runs(
        "gate-bound", f"{HELD} --gate f1_macro>=80", "--gate 'f1_macro>=80': f1_macro is between 0 and 1, found 80"
    ),
    of_runs("gate-nan", f"{HELD} --gate f1_macro>=nan", "--gate 'f1_macro>=nan': 'nan' is not a number"),
    of_runs("gate-inf", f"{HELD} --gate loss<=inf", "--gate 'loss<=inf': 'inf' is not a number"),
    of_runs("gate-on", f"{HELD} --gate-on middle", "command line: argument --gate-on: invalid choice: 'middle'"),
    of_runs("nowhere", "evaluate nowhere", "nowhere: no such run folder"),
    of_runs("folds", "evaluate cv", "cv: is a cross-validation, not a run. Name the runs inside", needs="cv"),
    of_runs("search", "evaluate search", "search: is a search, not a run. Name its winner's run", needs="search"),
    of_runs("seeds", "predict seeds --text good", "seeds: is a study of seeds, not a run", needs="seeds"),
    of_runs("model", "evaluate a/best", "a/best: is not a run folder"),
    of_runs("no-best", HELD, "a: has no best/", build=lambda f: shutil.rmtree(f / "a/best")),
    of_runs(
        "split",
        "evaluate a --data new.csv --split validation",
        "command line: --split names a split of the run, --data something else. Leave one of them out.",
    ),
    *(
        of_runs(id, "evaluate a --data new.csv", *says, files=files)
        for id, files, *says in (
            ("no-file", {}, "no such file", "new.csv"),
            (
                "column",
                {"new.csv": table(header="txt,label", start=90)},
                "data.columns.text: no column 'text' in new.csv. Columns found: 'txt', 'label'.",
                "Did you mean 'txt'?",
            ),
            ("no-label", {"new.csv": "text\nfine\nbad\n"}, "data.columns.label: no column 'label' in new.csv"),
            (
                "label",
                {"new.csv": table("fine,pos", "so so,meh", start=90)},
                "new.csv: label 'meh' (1 row: line 3) is none of the labels this model knows: neg, pos.",
                "Correct the rows, or leave them out.",
            ),
            ("empty", {"new.csv": ""}, "new.csv"),
            ("header", {"new.csv": "text,label\n"}, "new.csv"),
            ("blank", {"new.csv": "text,label\n   ,pos\n"}, "cleaning"),
            ("no-labels", {"new.csv": "text,label\nfine,\nbad,\n"}, "new.csv: 2 rows without label: lines 2, 3."),
        )
    ),
    of_runs(
        "seen",
        "evaluate a --data new.csv",
        "documents are in this run's train or validation split. Name data that the model has not seen.",
        build=seen_in("train", "validation"),
    ),
    of_runs(
        "data-scores",
        "evaluate a --data new.csv",
        "a/scores.json",
        build=cut("a/scores.json"),
        files={"new.csv": table(start=90)},
    ),
    of_runs(
        "data-splits",
        "evaluate a --data new.csv",
        "a/splits.parquet: is missing",
        build=gone("a/splits.parquet"),
        files={"new.csv": table(start=90)},
    ),
    of_runs(
        "data-splits-cut",
        "evaluate a --data new.csv",
        "a/splits.parquet: cannot be read",
        build=cut("a/splits.parquet"),
        files={"new.csv": table(start=90)},
    ),
    of_runs(
        "data-gate",
        "evaluate a --data new.csv --gate f1>=0.8",
        "--gate 'f1>=0.8': no score is called 'f1'",
        files={"new.csv": table(start=90)},
    ),
]

REPORT = [
    of_runs("file", "report reviews.csv", "reviews.csv: is a file. Name a finished run"),
    of_runs("nowhere", "report nowhere", "nowhere: is not there"),
    of_runs("foreign", "report out", "out: has none of run.json, comparison.json, crossval.json", build=foreign),
    of_runs("language", "report a --language de", "command line: argument --language: invalid choice: 'de'"),
    of_runs("stopped", "report a", "a: ", build=lambda f: (status("a", "stopped")(f), (f / "a/scores.json").unlink())),
    of_runs("scores", "report a", "a: has no scores.json", build=gone("a/scores.json")),
    of_runs("scores-cut", "report a", "a/scores.json", build=cut("a/scores.json")),
    of_runs("analysis-cut", "report a", "a/analysis.json", build=cut("a/analysis.json")),
    of_runs("data-cut", "report a", "a/data.json", build=cut("a/data.json")),
    of_runs("model-cut", "report a", "a/best/finetune.json: is not JSON.", build=cut("a/best/finetune.json")),
    of_runs("run-cut", "report a", "a/run.json", build=cut("a/run.json")),
    of_runs("folds-cut", "report cv", "cv/crossval.json", build=cut("cv/crossval.json"), needs="cv"),
    of_runs("folds-begun", "report cv", "cv: ", build=gone("cv/crossval.json"), needs="cv"),
    of_runs("fold-cut", "report cv", "cv/folds/1/scores.json", build=cut("cv/folds/1/scores.json"), needs="cv"),
    of_runs(
        "compared-cut",
        "report compared",
        "compared/comparison.json",
        build=cut("compared/comparison.json"),
        needs="compared",
    ),
]

KEYS = [
    refused(id, files, *says)
    for id, files, *says in (
        (
            "fold",
            settings(data="  fold: {folds: 5, fold: 6}\n"),
            "recipe.yaml:6: data.fold: fold 6 of 5 folds does not exist",
        ),
        (
            "fold-0",
            settings(data="  fold: {folds: 5, fold: 0}\n"),
            "recipe.yaml:6: data.fold.fold: must be greater than or equal to 1, found 0",
        ),
        (
            "fold-folds",
            settings(data="  fold: {folds: 1, fold: 1}\n"),
            "recipe.yaml:6: data.fold.folds: must be greater than or equal to 2, found 1",
        ),
        ("fold-missing", settings(data="  fold: {folds: 5}\n"), "recipe.yaml:6: data.fold.fold: is missing"),
        (
            "fold-extra",
            settings(data="  fold: {folds: 5, fold: 1, reapeat: 2}\n"),
            "recipe.yaml:6: unknown key 'data.fold.reapeat'. Did you mean 'repeat'?",
        ),
        (
            "fold-number",
            settings(data="  fold: 3\n"),
            "recipe.yaml:6: data.fold: must be key: value pairs, found 3",
            "folds",
        ),
        ("fold-many", settings(data="  fold: {folds: 50, fold: 1}\n"), "50 folds"),
        (
            "split-seed",
            settings(data="  split: {seed: -1}\n"),
            "recipe.yaml:6: data.split.seed: must be greater than or equal to 0, found -1",
        ),
        (
            "slices",
            {"reviews.csv": "text,label,hotel\nfine,pos,Ritz\n", "recipe.yaml": evaluation("slices: [hotels]")},
            "recipe.yaml:7: evaluation.slices: no column 'hotels' in reviews.csv",
            "Did you mean 'hotel'?",
        ),
        (
            "slices-twice",
            {"recipe.yaml": evaluation("slices: [label, label]")},
            "recipe.yaml:7: evaluation.slices: ",
            "label",
        ),
        ("slices-text", {"recipe.yaml": evaluation("slices: [text]")}, "evaluation.slices: "),
        (
            "calibrate",
            {"recipe.yaml": evaluation("calibrate: maybe")},
            "recipe.yaml:7: evaluation.calibrate: must be true or false, found 'maybe'",
        ),
        (
            "language",
            settings("report: {language: de}\n"),
            "recipe.yaml:12: report.language: 'de' is not known. Choose one of: en, zh.",
        ),
        (
            "examples-minus",
            settings("report: {examples: -1}\n"),
            "recipe.yaml:12: report.examples: must be greater than or equal to 0, found -1",
        ),
        (
            "examples-many",
            settings("report: {examples: 1000}\n"),
            "recipe.yaml:12: report.examples: must be less than or equal to 100, found 1000",
        ),
    )
]

FAMILIES = {
    "compare": COMPARE, "crossval": CROSSVAL, "seeds": SEEDS, "search": SEARCH, "evaluate": EVALUATE, "report": REPORT,
    "keys": KEYS,
}  # fmt: skip
CASES = [pytest.param(case, id=f"{name}-{case.id}") for name, family in FAMILIES.items() for case in family]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that can be compared (a, b), two that cannot, and a folder of each kind of many runs."""
    folder = tmp_path_factory.mktemp("ready")
    (folder / "reviews.csv").write_text(table(), encoding="utf-8")
    (folder / "yesno.csv").write_text(table(labels=("yes", "no")), encoding="utf-8")
    (folder / "recipe.yaml").write_text(recipe(), encoding="utf-8")
    (folder / "search.yaml").write_text(recipe(extra=SPACE), encoding="utf-8")

    def made(name: str, *overrides: str) -> None:
        train(load_recipe(folder / "recipe.yaml", overrides), folder=folder / name, progress=SILENT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.scoring.draw_figures", lambda run, scores: None)  # a second each, and no part of this
        made("a")
        made("b", "seed=14", "data.split.seed=13")
        made("elsewhere", "data.split.seed=3")
        made("yesno", "data.source=yesno.csv")
        loaded = load_recipe(folder / "recipe.yaml")
        cross_validate([loaded], folds=2, repeats=1, only_fold=None, folder=folder / "cv", progress=SILENT)
        train_with_seeds(loaded, count=2, folder=folder / "seeds", progress=SILENT)
        search_settings(load_recipe(folder / "search.yaml"), folder=folder / "search", progress=SILENT)
        compare_runs([folder / "a", folder / "b"], metric=None, intersection=False, folder=folder / "compared")
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_in(tmp_path, monkeypatch)


@pytest.mark.parametrize("case", CASES)
def test_refused(
    case: Case, ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(case, tmp_path, ready=ready)
    monkeypatch.setattr("bad_inputs.main", exit_code)
    check_refused(case, tmp_path, capfd, argv=case.arguments())


def exit_code(argv: Sequence[str]) -> int:
    """Also of a command line that is refused before a verb begins."""
    try:
        return main(argv)
    except SystemExit as end:
        return int(end.code or 0)


def test_no_case_is_named_twice() -> None:
    ids = [str(case.id) for case in CASES]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("how", [(), ("--gate-on", "interval")])
def test_a_gate_that_does_not_hold_exits_1_below_the_results(
    how: tuple[str, ...], ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """There is no interval here, because the recipe draws no resamples."""
    write_files(Case("gate", needs=("a",)), tmp_path, ready=ready)
    before = on_disk(tmp_path)
    capfd.readouterr()
    holds = () if how else ("--gate", "accuracy>=0")
    assert main(["evaluate", "a", "--split", "validation", "--gate", "f1_macro>=1", *holds, *how]) == 1
    shown = capfd.readouterr()
    assert "f1_macro" in shown.out and "validation split of a" in shown.out
    refusals = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    why = "and has no interval to judge it by" if how else "it is not >= 1"
    assert len(refusals) == 1 and refusals[0].startswith("error: --gate 'f1_macro>=1': f1_macro is 0.")
    assert why in refusals[0] and refusals[0].endswith(".") and "Traceback" not in shown.err
    assert on_disk(tmp_path) == before, "a look at validation is no opening"


def test_new_data_that_is_the_test_split_is_an_opening_of_it(
    ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_files(Case("opening", needs=("a",), build=seen_in("test")), tmp_path, ready=ready)
    before = len(read_json_lines(tmp_path / "a/test_openings.jsonl"))
    assert main(["evaluate", "a", "--data", "new.csv"]) == 0
    shown = capfd.readouterr()
    assert "6 of 6 documents are in this run's test split; this was recorded as an opening of it" in shown.err
    assert len(read_json_lines(tmp_path / "a/test_openings.jsonl")) == before + 1


def test_recipes_of_a_cross_validation_may_stand_behind_an_option(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Were the second one taken for a setting, the first would be cross-validated alone."""
    write_files(Case("order"), tmp_path, ready=tmp_path)
    assert main(["crossval", "recipe.yaml", "--folds", "2", "b.yaml", "seed=1"]) == 2
    assert "b.yaml: no such file" in capfd.readouterr().err


LABELS = ("<script>alert(1)</script>", "a|b", "new\n---\nline: x", '=HYPERLINK("x")', "{{x}}: [&'%")
STEERING = "<img src=x onerror=alert(2)> `---`"


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_b15_i07_labels_are_shown_and_not_obeyed(
    language: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through training, report, card and comparison: escaped in the pages, and the card's front matter is YAML."""
    monkeypatch.setattr("finetune.scoring.draw_figures", lambda run, scores: None)
    with open(tmp_path / "reviews.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        writer.writerows([f"{STEERING} day {row} is number {row * 7}", LABELS[row % len(LABELS)]] for row in range(75))
    (tmp_path / "recipe.yaml").write_text(recipe(extra=f"report: {{language: {language}}}\n"), encoding="utf-8")
    for name, seed in (("a", 1), ("b", 2)):
        assert main(["train", "recipe.yaml", "--run", name, f"seed={seed}", "data.split.seed=1"]) == 0
    assert main(["compare", "a", "b", "--output", "compared"]) == 0
    assert "Traceback" not in capfd.readouterr().err
    for page in map(Path, ("a/report.html", "compared/report.html")):
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text and "<img src=x" not in text
    assert html.escape(LABELS[0]) in Path("a/report.html").read_text(encoding="utf-8")
    for card in map(Path, ("a/README.md", "a/best/README.md", "a/last/README.md")):
        text = card.read_text(encoding="utf-8")
        assert "<script" not in text and "<img" not in text
        head, front, body = text.split("---\n", 2)
        assert head == "" and "model-index" in read_yaml(front, name=str(card)).values
        assert not [line for line in body.splitlines() if line.strip() == "---"], "no label ends the card"
