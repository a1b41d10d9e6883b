"""The command line: thin verbs over the library. stdout is for results, stderr for progress and complaints.

Heavy imports wait inside the verbs, so that `--help` and a refused recipe answer before torch is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, get_args

from finetune.errors import FinetuneError, RecipeError, Stopped, did_you_mean, listed
from finetune.progress import Progress, write
from finetune.recipe import ExportFormat
from finetune.recipe_file import LoadedRecipe, check_recipe, load_recipe
from finetune.yaml_text import YamlText

EXIT_INTERRUPTED = 130
RESUME = ("if-possible", "require")
TABLE_SUFFIXES = (
    *(".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".gz"),
    *(".xml", ".h5", ".hdf5"),
)
RECIPE_SUFFIXES = (".yaml", ".yml", "")


def console() -> NoReturn:
    """The installed `finetune` command."""
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    if "WORLD_SIZE" in os.environ:
        os._exit(code)  # gloo sometimes hangs in its own clean-up; everything of ours is written and flushed
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; only our own bugs leave a traceback."""
    arguments = _parsed(sys.argv[1:] if argv is None else argv)
    try:
        return int(arguments.verb(arguments))
    except FinetuneError as error:
        if arguments.debug:
            raise
        write(sys.stderr, error.render())
        return error.exit_status if isinstance(error, Stopped) else error.exit_code
    except KeyboardInterrupt:
        write(sys.stderr, "error: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def train(arguments: argparse.Namespace) -> int:
    target = Path(arguments.target).expanduser()
    progress = _progress(arguments)
    if arguments.resume or arguments.restart:
        if target.is_file():
            folder = arguments.run or "the run folder"
            raise RecipeError(str(target), "is a file; --resume and --restart take a run folder", f"Name {folder}.")
        from finetune.experiment import resume

        required = arguments.resume == "require"
        run = resume(target, arguments.overrides, required=required, restart=arguments.restart, progress=progress)
    else:
        loaded = _recipe(target, arguments)
        from finetune.experiment import train as train_recipe

        run = train_recipe(loaded, folder=arguments.run, progress=progress)
    return _show_run(run, arguments)


def check(arguments: argparse.Namespace) -> int:
    loaded = _recipe(Path(arguments.target).expanduser(), arguments)
    from finetune.experiment import check as check_loaded

    report = check_loaded(loaded, progress=_progress(arguments))
    if arguments.json:
        write(sys.stdout, json.dumps(report, ensure_ascii=False))
    else:
        for line in report["lines"]:
            write(sys.stdout, line)
    return 0


def prepare(arguments: argparse.Namespace) -> int:
    if not arguments.output and (arguments.format or arguments.force):
        raise RecipeError("command line", "--format and --force say how files are written", "Add --output DIR.")
    loaded = _recipe(Path(arguments.target).expanduser(), arguments)
    from finetune.data.prepare import EXAMPLES_SHOWN
    from finetune.dataset_folder import prepare_folder, render_prepared

    progress = _progress(arguments)
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
    target = Path(arguments.output).expanduser() if arguments.output else Path(f"{data.name.split('.')[0]}.yaml")
    if target.is_dir():
        raise RecipeError(str(target), "is a folder", "Name a file with --output.")
    if target.exists() and not arguments.force:
        raise RecipeError(str(target), "exists already", "Add --force to replace it, or name another with --output.")
    from finetune.data.guess import guess_table
    from finetune.runs import write_text
    from finetune.starter import ask, write_recipe

    guess = guess_table(data)
    flags = {"text": arguments.text, "label": arguments.label, "group": arguments.group, "task": arguments.task}
    choices = ask(guess, flags, sys.stdin, sys.stderr, yes=arguments.yes)
    write_text(target, write_recipe(guess, target, choices=choices))
    if arguments.json:
        write(sys.stdout, json.dumps({"recipe": str(target), **asdict(choices)}, ensure_ascii=False))
    elif arguments.quiet:
        write(sys.stdout, str(target))
    else:
        command = f"finetune train {shlex.quote(str(target))}"
        write(sys.stdout, f"{target}: look through it, then run: {command}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    from finetune.experiment import evaluate as evaluate_run
    from finetune.summary import openings, render_classes, render_scores

    split, scores = arguments.split, evaluate_run(
        arguments.run_folder, split=arguments.split, model=arguments.model, progress=_progress(arguments)
    )  # fmt: skip
    if arguments.json:
        write(sys.stdout, json.dumps({"split": split, **scores.model_dump(mode="json")}, ensure_ascii=False))
    else:
        opened = f"; {openings(arguments.run_folder)}" if split == "test" else ""
        write(sys.stdout, f"{split} split of {arguments.run_folder}, model {arguments.model}/{opened}\n")
        write(sys.stdout, render_scores(scores, {}))
        write(sys.stdout, "\n" + render_classes(scores))
    return 0


def predict(arguments: argparse.Namespace) -> int:
    from finetune.prediction_files import predict_file, predict_texts

    progress = _progress(arguments)
    if arguments.text and (arguments.output or arguments.column or arguments.encoding or arguments.force):
        what = "--output, --column, --encoding and --force go with --input"
        raise RecipeError("command line", what, "Leave them out.")
    if arguments.text:
        rows = predict_texts(arguments.run_folder, arguments.text, progress=progress)
        for row in rows:
            write(sys.stdout, json.dumps(row, ensure_ascii=False) if arguments.json else _prediction_line(row))
        return 0
    written = predict_file(
        arguments.run_folder,
        Path(arguments.input),
        output=Path(arguments.output) if arguments.output else None,
        text_column=arguments.column,
        encoding=arguments.encoding,
        force=arguments.force,
        progress=progress,
    )
    if isinstance(written, Path):
        progress.say(f"predictions are in {written}")
    else:
        for row in written:
            write(sys.stdout, json.dumps(row, ensure_ascii=False))
    return 0


def schema(arguments: argparse.Namespace) -> int:
    from finetune.recipe import Recipe

    write(sys.stdout, json.dumps(Recipe.model_json_schema(), ensure_ascii=False, indent=1))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    from finetune.doctor import examine, render, to_json

    checks = examine()
    write(sys.stdout, to_json(checks) if arguments.json else render(checks))
    return 5 if any(check.ok is False for check in checks) else 0


def _recipe(target: Path, arguments: argparse.Namespace) -> LoadedRecipe:
    """A recipe file, or data (a table, a folder of tables or of texts by class) with --text and --label."""
    overrides = arguments.overrides
    if (target / "recipe.yaml").exists():
        raise RecipeError(str(target), "is a run folder, not a recipe", "Add --resume to go on with it.")
    if not target.is_dir() and target.suffix.lower() not in TABLE_SUFFIXES:
        if arguments.text_column or arguments.label_column:
            kinds = listed(TABLE_SUFFIXES)
            raise RecipeError(
                str(target), f"--text and --label go with a data file ({kinds})", "A recipe has data.columns."
            )
        if target.is_file() and target.suffix.lower() not in RECIPE_SUFFIXES:
            raise RecipeError(str(target), f"is neither a recipe (.yaml) nor a data file ({listed(TABLE_SUFFIXES)})")
        return load_recipe(target, overrides)
    if not target.exists():
        beside = [item.name for item in target.parent.iterdir()] if target.parent.is_dir() else []
        raise RecipeError(str(target), "no such file", did_you_mean(target.name, beside) or "Check name and folder.")
    columns = {"text": arguments.text_column or "text", "label": arguments.label_column or "label"}
    values: dict[str, object] = {
        "task": "text-classification",
        "data": {"source": target.absolute().name, "columns": columns},
    }
    name = target.absolute().name
    text = YamlText(name=name, values=values)
    return check_recipe(text, overrides, base=target.absolute().parent, name=name.split(".")[0])


def _show_run(run: Any, arguments: argparse.Namespace) -> int:
    from finetune.experiment import is_writer
    from finetune.summary import render_summary, scores_json

    if not is_writer():
        return 0
    write(sys.stdout, json.dumps(scores_json(run), ensure_ascii=False) if arguments.json else render_summary(run))
    return 0


def _prediction_line(row: dict[str, Any]) -> str:
    label = row["label"] if isinstance(row["label"], str) else ", ".join(row["label"]) or "(none)"
    best = max(row["probabilities"].items(), key=lambda item: float(item[1]))
    decided = f"\t(of {row['windows']} windows, this decided: {row['passage']})" if "passage" in row else ""
    return f"{label}\t{best[1]:.3f}\t{row['text']}{decided}"


def _progress(arguments: argparse.Namespace) -> Progress:
    return Progress(quiet=arguments.quiet)


class _Parser(argparse.ArgumentParser):
    """argparse with our error line, and "did you mean" for what it does not know."""

    def error(self, message: str) -> NoReturn:
        # For example: argument VERB: invalid choice: 'trian' (choose from 'train', 'check')
        choice = re.fullmatch(r".*invalid choice: '?([^']*)'? \(choose from (.*)\)", message)
        hint = did_you_mean(choice[1], choice[2].replace("'", "").split(", ")) if choice else ""
        self.refuse(message, hint or "See `finetune --help`.")

    def refuse(self, what: str, do: str) -> NoReturn:
        write(sys.stderr, RecipeError("command line", what, do).render())
        raise SystemExit(RecipeError.exit_code)


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """argparse takes key=value arguments in one place only, and would take a run folder for the value of --resume."""
    words = [
        f"{word}={RESUME[0]}" if word == "--resume" and not set(argv[place + 1 : place + 2]) & set(RESUME) else word
        for place, word in enumerate(argv)
    ]
    arguments, left = _parser().parse_known_args(words)
    unknown = [word for word in left if word.startswith("-") or "overrides" not in arguments]
    if unknown:
        known = [name for action in arguments.parser._actions for name in action.option_strings]
        hint = did_you_mean(unknown[0].partition("=")[0], known) if unknown[0].startswith("--") else ""
        do = "A setting is written key=value." if "overrides" in arguments else "See `finetune --help`."
        arguments.parser.refuse(f"unknown argument {unknown[0]}", hint or do)
    if left:
        arguments.overrides = [*arguments.overrides, *left]
    return arguments


Verb = Callable[[str, Callable[[argparse.Namespace], int], str], _Parser]


def _parser() -> _Parser:
    common = _Parser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="no progress, only results, warnings and errors")
    common.add_argument("--json", action="store_true", help="machine-readable results on stdout")
    common.add_argument("--debug", action="store_true", help="keep the traceback of an error")
    parser = _Parser(
        prog="finetune",
        description="Fine-tune a Hugging Face model on your own data, and learn honestly whether it worked.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> _Parser:
        made = verbs.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        made.set_defaults(verb=run, parser=made)
        return made

    _data_verbs(verb)
    _run_verbs(verb)
    verb("schema", schema, "print the JSON schema of a recipe")
    verb("doctor", doctor, "versions, devices, Hub and cache, disk")
    return parser


def _data_verbs(verb: Verb) -> None:
    made = verb("init", init, "look at a data file and write a commented recipe for it")
    made.add_argument("data", metavar="FILE", help="a csv, tsv, json, jsonl, parquet, arrow, xml or hdf5 file")
    made.add_argument("--text", metavar="COLUMN", help="the column of the text (default: asked, or guessed)")
    made.add_argument("--label", metavar="COLUMN", help="the column of the label")
    made.add_argument("--group", metavar="COLUMN", help="rows that share this value stay in one split; - is none")
    made.add_argument("--task", metavar="TASK", help="what to learn (default: text-classification)")
    made.add_argument("--output", metavar="RECIPE", help="where to write it (default: the file's name with .yaml)")
    made.add_argument("--yes", action="store_true", help="take the guesses without asking")
    made.add_argument("--force", action="store_true", help="replace RECIPE when it exists")
    made = verb("check", check, "look at recipe, data and model without training")
    _add_recipe_arguments(made)
    made = verb("prepare", prepare, "clean, check and split the data of a recipe, and write it for any other tool")
    _add_recipe_arguments(made)
    made.add_argument("--output", metavar="DIR", help="write train, validation and test, data.json and a card there")
    made.add_argument("--format", choices=get_args(ExportFormat), help="default: parquet")
    made.add_argument("--folds", type=int, metavar="K", help="add a column `fold` over all rows, 0 to K - 1")
    made.add_argument("--show", type=_count, default=0, metavar="N", help="show N examples of what each step changed")
    made.add_argument("--force", action="store_true", help="replace the files of an earlier prepare in DIR")


def _run_verbs(verb: Verb) -> None:
    made = verb("train", train, "train from a recipe, a data file, or a stopped run")
    _add_recipe_arguments(made)
    made.add_argument(
        "--run", metavar="DIR", help="the run folder (default: runs/ plus the recipe's name and a number)"
    )
    made.add_argument("--resume", nargs="?", const=RESUME[0], choices=RESUME,
                      help="go on with a stopped run folder; 'require' refuses to start from scratch")  # fmt: skip
    made.add_argument(
        "--restart", action="store_true", help="forget the run folder's training and scores, and train again"
    )
    made = verb("evaluate", evaluate, "score a finished run's saved model again")
    made.add_argument("run_folder", metavar="RUN")
    made.add_argument(
        "--split", choices=("validation", "test"), default="test", help="default: test; each look at it is recorded"
    )
    made.add_argument("--model", choices=("best", "last"), default="best", help="default: best")
    made = verb("predict", predict, "label new texts")
    made.add_argument("run_folder", metavar="RUN", help="a run folder, or a best/ or last/ folder")
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", action="append", metavar="TEXT", help="a text to label; may be repeated")
    what.add_argument("--input", metavar="FILE", help="a csv, tsv, json, jsonl, parquet, arrow, xml or hdf5 file")
    made.add_argument("--output", metavar="FILE", help="csv, jsonl or parquet; default is jsonl on stdout")
    made.add_argument("--column", metavar="NAME", help="the text column of FILE (default: the one trained on)")
    made.add_argument("--encoding", metavar="NAME", help="the encoding of FILE (default: detected and stated)")
    made.add_argument("--force", action="store_true", help="replace FILE when it exists")


def _count(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, found {word!r}")
    return int(word)


def _add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="RECIPE", help="a recipe, or a data file with --text and --label")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="recipe settings, for example seed=1"
    )
    parser.add_argument("--text", dest="text_column", metavar="COLUMN", help="text column of a data file")
    parser.add_argument("--label", dest="label_column", metavar="COLUMN", help="label column of a data file")
