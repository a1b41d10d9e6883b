"""What each verb does: parsed arguments in, exit code out. stdout is for results, stderr for progress and complaints.

Heavy imports wait inside the verbs, so that `--help` and a refused recipe answer before torch is imported.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from finetune.errors import CheckpointError, RecipeError, did_you_mean, listed
from finetune.progress import WARNING, Progress, write
from finetune.recipe_data import ExportFormat
from finetune.recipe_file import LoadedRecipe, check_recipe, load_recipe
from finetune.yaml_text import YamlText

if TYPE_CHECKING:
    from finetune.run_files import SplitScores

TABLE_SUFFIXES = (
    *(".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".gz"),
    *(".xml", ".h5", ".hdf5"),
)
RECIPE_SUFFIXES = (".yaml", ".yml", "")


def train(arguments: argparse.Namespace) -> int:
    target = Path(arguments.target).expanduser()
    progress = progress_of(arguments)
    if arguments.resume or arguments.restart:
        if target.is_file():
            folder = arguments.run or "the run folder"
            raise RecipeError(str(target), "is a file; --resume and --restart take a run folder", f"Name {folder}.")
        _refuse_trial(target)
        from finetune.experiment import resume

        required = arguments.resume == "require"
        run = resume(target, arguments.overrides, required=required, restart=arguments.restart, progress=progress)
    else:
        loaded = load_target(target, arguments)
        from finetune.experiment import train as train_recipe

        run = train_recipe(loaded, folder=arguments.run, progress=progress)
    return show_run(run, arguments)


def _refuse_trial(folder: Path) -> None:
    """A trial that is gone on with by hand would open the test split before the search has its winner."""
    study = folder.absolute().parent.parent
    if folder.absolute().parent.name == "trials" and (study / "study.log").exists():
        do = f"Go on with the search: finetune search RECIPE --run {shlex.quote(str(study))}"
        raise CheckpointError(str(folder), "is a trial of a search, which alone may go on with it", do)


def check(arguments: argparse.Namespace) -> int:
    loaded = load_target(Path(arguments.target).expanduser(), arguments)
    from finetune.experiment import check as check_loaded

    report = check_loaded(loaded, progress=progress_of(arguments))
    if arguments.json:
        write(sys.stdout, json.dumps(report, ensure_ascii=False))
    else:
        for line in report["lines"]:
            write(sys.stdout, line)
    return 0


def prepare(arguments: argparse.Namespace) -> int:
    if not arguments.output and (arguments.format or arguments.force):
        raise RecipeError("command line", "--format and --force say how files are written", "Add --output DIR.")
    loaded = load_target(Path(arguments.target).expanduser(), arguments)
    do = "Look at the images with finetune check; training reads them by itself."
    refuse_images(loaded, "finetune prepare writes documents for other tools", do)
    from finetune.data.prepare import EXAMPLES_SHOWN
    from finetune.dataset_folder import prepare_folder, render_prepared

    progress = progress_of(arguments)
    done = prepare_folder(
        loaded,
        Path(arguments.output).expanduser() if arguments.output else None,
        format=arguments.format or get_args(ExportFormat)[0],
        folds=arguments.folds,
        examples=max(arguments.show, EXAMPLES_SHOWN),
        force=arguments.force,
        progress=progress,
    )
    if arguments.json:
        write(sys.stdout, json.dumps({"files": list(map(str, done.files)), "data": done.report}, ensure_ascii=False))
    else:
        for line in render_prepared(done, examples=arguments.show):
            write(sys.stdout, line)
    if done.files:
        progress.say(f"{listed(path.name for path in done.files)} and a data card are in {done.files[0].parent}")
    return 0


def init(arguments: argparse.Namespace) -> int:
    data = Path(arguments.data).expanduser()
    named = data.name.split(".")[0].removeprefix("builtin:")
    target = Path(arguments.output).expanduser() if arguments.output else Path(f"{named}.yaml")
    if target.is_dir():
        raise RecipeError(str(target), "is a folder", "Name a file with --output.")
    if target.exists() and not arguments.force:
        raise RecipeError(str(target), "exists already", "Add --force to replace it, or name another with --output.")
    from finetune.first_recipe import first_recipe
    from finetune.runs import write_text

    flags = {"text": arguments.text, "label": arguments.label, "group": arguments.group, "task": arguments.task}
    choices, text = first_recipe(data, target, flags, sys.stdin, sys.stderr, yes=arguments.yes)
    write_text(target, text)
    if arguments.json:
        write(sys.stdout, json.dumps({"recipe": str(target), **asdict(choices)}, ensure_ascii=False))
    elif arguments.quiet:
        write(sys.stdout, str(target))
    else:
        command = f"finetune train {shlex.quote(str(target))}"
        write(sys.stdout, f"{target}: look through it, then run: {command}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    from finetune.report.sentences import number
    from finetune.scores.gates import check_gates, judge_gates, parse_gate

    # Before any work: a faulty rule must not cost an opening of the test split.
    known = _scores_of(arguments.run_folder) if arguments.gate else ()
    gates = [parse_gate(rule, metrics=known) for rule in arguments.gate]
    if arguments.gate_on != "value" and not gates:
        raise RecipeError("command line", "--gate-on says how gates are held, and there is none", "Add --gate RULE.")
    if arguments.data and arguments.split != "test":
        what = "--split names a split of the run, --data something else"
        raise RecipeError("command line", what, "Leave one of them out.")
    scores, told, lines = (_evaluate_new if arguments.data else _evaluate_split)(arguments)
    outcomes = judge_gates(gates, scores.scores, on=arguments.gate_on)
    if arguments.json:
        told["gates"] = [asdict(outcome) for outcome in outcomes]
        write(sys.stdout, json.dumps(told, ensure_ascii=False))
    else:
        passed = [(gate, outcome) for gate, outcome in zip(gates, outcomes, strict=True) if outcome.passed]
        held = [f"Gate {one.rule} holds ({number(one.held or 0.0, gate.metric)})." for gate, one in passed]
        write(sys.stdout, "\n\n".join(part for part in (*lines, *held) if part))
    check_gates(outcomes)
    return 0


def _scores_of(folder: str) -> list[str]:
    """The names of the scores that a finished run has."""
    from finetune.run_files import Scores
    from finetune.runs import find_run

    run = find_run(folder)
    splits = run.read(run.scores, Scores).splits
    return list(dict.fromkeys(name for split in splits.values() for name in split.scores))


def _evaluate_split(arguments: argparse.Namespace) -> tuple[SplitScores, dict[str, Any], list[str]]:
    """Scores of a split of the run, what --json prints of them, and the parts of the screen."""
    from finetune.experiment import evaluate as evaluate_run
    from finetune.summary import approximate, openings, render_classes, render_scores

    split, scores = arguments.split, evaluate_run(
        arguments.run_folder, split=arguments.split, model=arguments.model, progress=progress_of(arguments)
    )  # fmt: skip
    opened = f"; {openings(arguments.run_folder)}" if split == "test" else ": selected on, so optimistic"
    title = f"{split} split of {arguments.run_folder}, model {arguments.model}/{opened}"
    lines = [title + approximate(scores), render_scores(scores, {}, model=arguments.model), render_classes(scores)]
    return scores, {"split": split, **scores.model_dump(mode="json")}, lines


def _evaluate_new(arguments: argparse.Namespace) -> tuple[SplitScores, dict[str, Any], list[str]]:
    """The same of new data; what reading it brought to light goes to stderr."""
    from finetune.new_data import evaluate_new
    from finetune.new_examples import ALL, NEW
    from finetune.summary import approximate, render_classes, render_scores, render_tests

    progress = progress_of(arguments)
    done = evaluate_new(arguments.run_folder, arguments.data, model=arguments.model, progress=progress)
    for note in done.notes:
        warning = note.removeprefix(WARNING)
        (progress.warn if warning != note else progress.say)(warning)
    scores, split = done.scores, done.scores.splits[NEW]
    baselines = {name: {"test": by_split[NEW]} for name, by_split in scores.baselines.items()}
    shown: dict[str, str] = {"model": arguments.model, "chosen_by": scores.metric_for_best_model}
    unbeaten = [name for name, test in scores.baseline_tests.items() if not test.better]
    documents = max(score.n for score in split.scores.values())
    lines = [f"This model does NOT beat {listed(unbeaten)} on these documents (paired test)."] if unbeaten else []
    lines += [f"{arguments.data}: {documents:,} documents that taught this run nothing, model {arguments.model}/"]
    lines[-1] += approximate(split)
    lines += [render_scores(split, baselines, **shown), render_tests(scores.baseline_tests), render_classes(split)]
    if ALL in scores.splits:
        lines += ["With the documents that the run knew:", render_scores(scores.splits[ALL], {}, **shown)]
    lines += [f"Evaluation folder: {done.folder}"]
    return split, {"run": arguments.run_folder, "evaluation": str(done.folder), "split": NEW,
                   **scores.model_dump(mode="json")}, lines  # fmt: skip


def export(arguments: argparse.Namespace) -> int:
    if not arguments.merge:
        what = "export needs to know what to make of the run"
        raise RecipeError("command line", what, "Add --merge: an adapter and its base become one plain model.")
    from finetune.exporting import export_merged
    from finetune.report.writing import write_merged_card

    output = Path(arguments.output).expanduser() if arguments.output else None
    done = export_merged(arguments.run_folder, output=output, force=arguments.force, progress=progress_of(arguments))
    write_merged_card(arguments.run_folder, done.folder)
    if arguments.json:
        write(sys.stdout, json.dumps({"model": str(done.folder), "difference": done.difference}))
    else:
        write(
            sys.stdout, f"{done.folder}: a plain model; its logits differ by {done.difference:.1e} from the adapter's"
        )
    return 0


def schema(arguments: argparse.Namespace) -> int:
    from finetune.recipe_file import recipe_schema

    write(sys.stdout, json.dumps(recipe_schema(), ensure_ascii=False, indent=1))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    # A faulty recipe is refused before the machine is looked at.
    loaded = load_recipe(Path(arguments.target).expanduser(), arguments.overrides) if arguments.target else None
    from finetune.doctor import examine, examine_memory, render, to_json

    checks = [*examine(), *(examine_memory(loaded) if loaded is not None else [])]
    write(sys.stdout, to_json(checks) if arguments.json else render(checks))
    return 5 if any(check.ok is False for check in checks) else 0


def load_target(target: Path, arguments: argparse.Namespace) -> LoadedRecipe:
    """A recipe file, or data (a table, a folder of tables or of texts by class) with --text and --label."""
    overrides = arguments.overrides
    if (target / "recipe.yaml").exists():
        resumable = "resume" in arguments and arguments.seeds is None
        do = "Add --resume to go on with it." if resumable else f"Its recipe is {target / 'recipe.yaml'}."
        raise RecipeError(str(target), "is a run folder, not a recipe", do)
    if (target / "plan.json").is_file() and any((target / name).is_dir() for name in ("folds", "seeds")):
        raise RecipeError(str(target), "is a folder of several runs, not a recipe", "Name the recipe they came from.")
    if not target.is_dir() and target.suffix.lower() not in TABLE_SUFFIXES:
        if arguments.text_column or arguments.label_column:
            kinds = listed(TABLE_SUFFIXES)
            raise RecipeError(
                str(target), f"--text and --label go with a data file ({kinds})", "A recipe has data.columns."
            )
        if target.is_file() and target.suffix.lower() not in RECIPE_SUFFIXES:
            what = f"is neither a recipe (.yaml) nor a data file ({listed(TABLE_SUFFIXES)})"
            raise RecipeError(str(target), what, "To learn from a text, write its recipe: finetune init FILE.")
        return load_recipe(target, overrides)
    if not target.exists():
        beside = [item.name for item in target.parent.iterdir()] if target.parent.is_dir() else []
        raise RecipeError(str(target), "no such file", did_you_mean(target.name, beside) or "Check name and folder.")
    if target.is_dir():
        _refuse_image_folder(target)
    columns = {"text": arguments.text_column or "text", "label": arguments.label_column or "label"}
    values: dict[str, object] = {
        "task": "text-classification",
        "data": {"source": target.absolute().name, "columns": columns},
    }
    name = target.absolute().name
    text = YamlText(name=name, values=values)
    return check_recipe(text, overrides, base=target.absolute().parent, name=name.split(".")[0])


def _refuse_image_folder(target: Path) -> None:
    """What images become (size, colour, a model) is for a recipe to say."""
    from finetune.image_starter import holds_images

    if holds_images(target):
        do = f"Write its recipe first: finetune init {shlex.quote(str(target))}"
        raise RecipeError(str(target), "is a folder of images, which needs a recipe", do)


def refuse_images(loaded: LoadedRecipe, what: str, do: str) -> None:
    """For a verb that works on documents. Raises RecipeError with the line of the task."""
    if loaded.recipe.task == "image-generation":
        raise RecipeError(loaded.where("task"), f"{what}, and image-generation has none", do)


def show_run(run: Any, arguments: argparse.Namespace) -> int:
    from finetune.processes import is_writer
    from finetune.report.writing import write_report
    from finetune.summary import render_summary, scores_json

    if not is_writer():
        return 0
    if not run.report.exists():  # of a run that was complete already it is there, and nothing is rewritten
        write_report(run.folder)
    write(sys.stdout, json.dumps(scores_json(run), ensure_ascii=False) if arguments.json else render_summary(run))
    return 0


def fetch_model(arguments: argparse.Namespace) -> None:
    """Where a finished model is asked for: `hub:USER/NAME` becomes the folder it was fetched into."""
    if arguments.run_folder.startswith("hub:"):
        from finetune.hub_models import find_saved_model

        arguments.run_folder = str(find_saved_model(arguments.run_folder, progress=progress_of(arguments)))


def progress_of(arguments: argparse.Namespace) -> Progress:
    return Progress(quiet=arguments.quiet)
