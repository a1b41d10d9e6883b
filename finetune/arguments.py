"""The words of the command line: which verb takes which arguments, and what each of them means."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, get_args

from finetune import verbs, verbs_of_hub, verbs_of_images, verbs_of_many, verbs_of_predicting
from finetune.errors import RecipeError, did_you_mean
from finetune.generation_options import OPTIONS
from finetune.progress import write
from finetune.recipe_data import ExportFormat

RESUME = ("if-possible", "require")
WRITING = {
    "temperature": "draw each token; below 1 the likely ones more often, above 1 less often",
    "top_p": "draw among the likeliest tokens of this total probability",
    "top_k": "draw among this many likeliest tokens",
    "num_beams": "search for the likeliest text with this many beams; 1 takes the likeliest token each time",
    "repetition_penalty": "above 1 makes tokens that were there less likely",
    "max_new_tokens": "most tokens to write",
    "seed": "of what is drawn",
}


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


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """argparse takes words of one kind in one place only, and would take a run folder for the value of --resume."""
    words = [
        f"{word}={RESUME[0]}" if word == "--resume" and not set(argv[place + 1 : place + 2]) & set(RESUME) else word
        for place, word in enumerate(argv)
    ]
    arguments, left = _parser().parse_known_args(words)
    several = next((name for name in ("overrides", "run_folders") if name in arguments), None)
    unknown = [word for word in left if word.startswith("-") or several is None]
    if unknown:
        known = [name for action in arguments.parser._actions for name in action.option_strings]
        hint = did_you_mean(unknown[0].partition("=")[0], known) if unknown[0].startswith("--") else ""
        do = "A setting is written key=value." if "overrides" in arguments else "See `finetune --help`."
        arguments.parser.refuse(f"unknown argument {unknown[0]}", hint or do)
    if several is not None:
        setattr(arguments, several, [*getattr(arguments, several), *left])
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
    words = parser.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> _Parser:
        made = words.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        made.set_defaults(verb=run, parser=made)
        return made

    _data_verbs(verb)
    _run_verbs(verb)
    _image_verbs(verb)
    _many_verbs(verb)
    _hub_verbs(verb)
    made = verb("export", verbs.export, "make one plain model of an adapter and its base")
    made.add_argument("run_folder", metavar="RUN", help="a run of lora, dora or qlora, or its best/ or last/ folder")
    made.add_argument("--merge", action="store_true", help="add the matrices to the weights they lie beside")
    made.add_argument("--output", metavar="DIR", help="where the model goes (default: merged/ of the run)")
    made.add_argument("--force", action="store_true", help="replace DIR when an earlier model is there")
    verb("schema", verbs.schema, "print the JSON schema of a recipe")
    made = verb("doctor", verbs.doctor, "versions, devices, Hub and cache, disk; of a recipe also the memory it takes")
    made.add_argument("target", nargs="?", metavar="RECIPE", help="reckon the memory that its training takes")
    made.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="recipe settings")
    return parser


def _train(arguments: argparse.Namespace) -> int:
    return verbs.train(arguments) if arguments.seeds is None else verbs_of_many.seeds(arguments)


def _data_verbs(verb: Verb) -> None:
    made = verb("init", verbs.init, "look at a data file and write a commented recipe for it")
    made.add_argument(
        "data", metavar="FILE", help="a csv, tsv, json, jsonl, parquet, arrow, xml, hdf5 or txt file, or a folder"
    )
    made.add_argument("--text", metavar="COLUMN", help="the column that is read (default: asked, or guessed)")
    made.add_argument("--label", metavar="COLUMN", help="the column of the label, or of the text to write")
    made.add_argument("--group", metavar="COLUMN", help="rows that share this value stay in one split; - is none")
    made.add_argument("--task", metavar="TASK", help="what to learn (default: asked, or guessed)")
    made.add_argument("--output", metavar="RECIPE", help="where to write it (default: the file's name with .yaml)")
    made.add_argument("--yes", action="store_true", help="take the guesses without asking")
    made.add_argument("--force", action="store_true", help="replace RECIPE when it exists")
    made = verb("check", verbs.check, "look at recipe, data and model without training")
    _add_recipe_arguments(made)
    made = verb(
        "prepare", verbs.prepare, "clean, check and split the data of a recipe, and write it for any other tool"
    )
    _add_recipe_arguments(made)
    made.add_argument("--output", metavar="DIR", help="write train, validation and test, data.json and a card there")
    made.add_argument("--format", choices=get_args(ExportFormat), help="default: parquet")
    made.add_argument("--folds", type=int, metavar="K", help="add a column `fold` over all rows, 0 to K - 1")
    made.add_argument("--show", type=_count, default=0, metavar="N", help="show N examples of what each step changed")
    made.add_argument("--force", action="store_true", help="replace the files of an earlier prepare in DIR")


def _run_verbs(verb: Verb) -> None:
    made = verb("train", _train, "train from a recipe, a data file, or a stopped run")
    _add_recipe_arguments(made)
    made.add_argument(
        "--run", metavar="DIR", help="the run folder (default: runs/ plus the recipe's name and a number)"
    )
    made.add_argument("--resume", nargs="?", const=RESUME[0], choices=RESUME,
                      help="go on with a stopped run folder; 'require' refuses to start from scratch")  # fmt: skip
    made.add_argument(
        "--restart", action="store_true", help="forget the run folder's training and scores, and train again"
    )
    made.add_argument(
        "--seeds", type=_count, metavar="N", help="train N times on the same splits, each with its own seed"
    )
    made = verb("evaluate", verbs.evaluate, "score a finished run's saved model again")
    made.add_argument("run_folder", metavar="RUN")
    made.add_argument(
        "--split", choices=("validation", "test"), default="test", help="default: test; each look at it is recorded"
    )
    made.add_argument("--model", choices=("best", "last"), default="best", help="default: best")
    made.add_argument("--data", metavar="FILE", help="score new data instead: anything data.source can name")
    made.add_argument("--gate", action="append", default=[], metavar="RULE",
                      help="such as 'f1_macro>=0.80': exit 1 when it does not hold; may be repeated")  # fmt: skip
    made.add_argument(
        "--gate-on", choices=("value", "interval"), default="value", help="interval: hold the bound that is worse"
    )
    _add_predict(verb("predict", verbs_of_predicting.predict, "label texts, write for prompts, or score images"))


def _add_predict(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "run_folder",
        metavar="RUN",
        help="a run, a best/ or last/ folder, or hub:USER/NAME; or a recipe, whose model writes untrained",
    )
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", action="append", metavar="TEXT", help="a text to label; may be repeated")
    what.add_argument("--prompt", action="append", metavar="TEXT", help="a text to go on from; may be repeated")
    what.add_argument("--input", metavar="FILE",
                      help="a csv, tsv, json, jsonl, parquet, arrow, xml or hdf5 file; "
                      "prompts also one a line, from a txt file, or - for stdin; "
                      "of an image model an image, or a folder or archive of images")  # fmt: skip
    made.add_argument("--output", metavar="FILE", help="csv, jsonl or parquet; default is jsonl on stdout; "
                      "of a vae also a folder for its reconstructions")  # fmt: skip
    made.add_argument("--label", metavar="NAME", help="what all images show, of an image model that draws by label "
                      "(default: the label under which each image scores best)")  # fmt: skip
    made.add_argument("--caption", metavar="TEXT", help="the same of a model trained on captions")
    made.add_argument("--column", metavar="NAME", help="the text column of FILE (default: the one trained on)")
    made.add_argument("--encoding", metavar="NAME", help="the encoding of FILE (default: detected and stated)")
    made.add_argument("--force", action="store_true", help="replace FILE when it exists")
    how = made.add_argument_group("how texts are written", "The defaults are stored with the model.")
    for name, text in WRITING.items():
        how.add_argument(OPTIONS[name], dest=name, type=_number, metavar="N", help=text)


def _image_verbs(verb: Verb) -> None:
    made = verb("sample", verbs_of_images.sample, "draw images with a finished image model")
    _add_drawing(made)
    made.add_argument("--count", type=_count, metavar="N", help="images to draw (default: 64)")
    made.add_argument("--prompt", action="append", default=[], metavar="TEXT",
                      help="what to draw, of a model trained on captions; may be repeated")  # fmt: skip
    made.add_argument("--mix", nargs=2, type=_count, metavar=("A", "B"),
                      help="the styles of seed A below those of seed B, layer by layer (style models)")  # fmt: skip
    made.add_argument("--interpolate", nargs=2, type=_count, metavar=("A", "B"),
                      help="what lies between seed A and seed B")  # fmt: skip
    made.add_argument("--steps", type=_count, metavar="N", help="images from A to B (default: 8)")
    made.add_argument("--output", metavar="DIR", help="where images and grid go (default: runs/NAME-samples-N)")
    made = verb("augment", verbs_of_images.augment,
                "draw a labelled image folder, and measure whether a classifier gains by it")  # fmt: skip
    _add_drawing(made)
    made.add_argument("--count", type=_count, required=True, metavar="N",
                      help="images in all, as many of each label")  # fmt: skip
    made.add_argument("--output", required=True, metavar="DIR", help="the folder; images go to DIR/LABEL/")
    made.add_argument("--measure", action="store_true",
                      help="train a small classifier on the run's images with and without the drawn ones, and compare "
                      "both on the run's test split, which counts as a look at it")  # fmt: skip
    made.add_argument("--seeds", type=_count, metavar="N", help="trainings of each classifier (default: 3)")


def _add_drawing(made: argparse.ArgumentParser) -> None:
    """What drawing one image and drawing many for a classifier have in common."""
    made.add_argument("run_folder", metavar="RUN", help="a run, a best/ or last/ folder, or hub:USER/NAME")
    made.add_argument("--label", action="append", default=[], metavar="NAME",
                      help="draw this label; may be repeated (default: all of them in turn)")  # fmt: skip
    made.add_argument("--seed", type=_count, metavar="N", help="of the images (default: 0)")
    made.add_argument("--truncation", type=_share, default=1.0, metavar="SHARE",
                      help="below 1 draws more typical and more alike images: w is pulled to its mean (style), latents "
                      "are scaled (vae, gan); default: 1")  # fmt: skip
    made.add_argument("--force", action="store_true", help="replace DIR when an earlier output is there")


def _many_verbs(verb: Verb) -> None:
    made = verb("compare", verbs_of_many.compare, "finished runs side by side, paired on the same test documents")
    made.add_argument("run_folders", metavar="RUN", nargs="+", help="two run folders or more")
    made.add_argument("--metric", metavar="NAME", help="the score to test (default: the runs' metric_for_best_model)")
    made.add_argument("--intersection", action="store_true", help="compare on the documents that all runs share")
    made.add_argument(
        "--output", metavar="DIR", help="where comparison.json and report.html go (default: runs/compare-N)"
    )
    made = verb("crossval", verbs_of_many.crossval, "cross-validate a recipe, or choose among several")
    made.add_argument("recipes", metavar="RECIPE", nargs="+", help="one recipe or more, then key=value for all of them")
    made.set_defaults(overrides=[])
    made.add_argument("--folds", type=_count, default=5, metavar="K", help="default: 5")
    made.add_argument("--repeats", type=_count, default=1, metavar="R", help="divide anew R times (default: 1)")
    made.add_argument("--fold", type=_count, metavar="K", help="run this fold alone, from 1; others may run elsewhere")
    made.add_argument(
        "--run", metavar="DIR", help="the folder; finished folds in it are kept (default: runs/NAME-cv-N)"
    )
    made = verb("search", verbs_of_many.search, "search the settings of the recipe's section `search` with Optuna")
    _add_recipe_arguments(made)
    made.add_argument("--run", metavar="DIR",
                      help="the folder, gone on with or shared by processes (default: runs/NAME-search-N)")  # fmt: skip
    made = verb("report", verbs_of_many.report, "write report.html again, and the model card of a run")
    made.add_argument("run_folder", metavar="RUN", help="a run, cross-validation, seeds, search or comparison folder")
    made.add_argument("--language", choices=("en", "zh"), help="default: the recipe's report.language")


def _hub_verbs(verb: Verb) -> None:
    made = verb(
        "push", verbs_of_hub.push, "upload a finished run's model and its card to the Hub, private unless asked"
    )
    made.add_argument("run_folder", metavar="RUN")
    made.add_argument("repository", metavar="USER/NAME", help="the repository, made where it is not there")
    made.add_argument("--public", action="store_true", help="everybody may read it (default: you alone)")
    made.add_argument("--what", choices=("best", "last", "adapter", "merged"), default="best",
                      help="the model; of a run with an adapter also the adapter alone, or a plain model with the "
                      "adapter worked in (default: best)")  # fmt: skip
    made.add_argument("--dry-run", action="store_true", help="list what would be uploaded, and stop there")


def _number(word: str) -> int | float | str:
    """A number, or the word, of which the recipe's own check says what it should have been."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _count(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, found {word!r}")
    return int(word)


def _share(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, found {word!r}") from None


def _add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="RECIPE", help="a recipe, or a data file with --text and --label")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="recipe settings, for example seed=1"
    )
    parser.add_argument("--text", dest="text_column", metavar="COLUMN", help="text column of a data file")
    parser.add_argument("--label", dest="label_column", metavar="COLUMN", help="label column of a data file")
