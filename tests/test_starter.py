"""The recipe that `finetune init` writes: it validates, it loads its data, and its reasons are figures of the table."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_guess import table, texts

from finetune.data.guess import Guess, guess_table
from finetune.data.recipe_source import column_map
from finetune.data.sources import load_examples
from finetune.errors import DataError
from finetune.recipe_file import LoadedRecipe, load_recipe
from finetune.recipe_lines import scalar
from finetune.starter import Choices, ask, write_recipe
from finetune.yaml_text import read_yaml


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def found(folder: Path, **columns: Any) -> Guess:
    usual = {"review": texts(60), "label": ["a", "b"] * 30, "author": [f"p{row % 20}" for row in range(60)]}
    return guess_table(table(folder, usual | columns))


def asked(guess: Guess, flags: dict[str, str | None] | None = None, *, answers: str = "") -> tuple[Choices, str]:
    stderr = io.StringIO()
    return ask(guess, flags or {}, Terminal(answers), stderr), stderr.getvalue()


def recipe(guess: Guess, folder: Path, **choices: str | None) -> LoadedRecipe:
    """The recipe written, loaded, and its data read by it."""
    path = folder / "sub" / "first.yaml"
    path.parent.mkdir(exist_ok=True)
    taken = ask(guess, choices, io.StringIO(), io.StringIO())
    path.write_text(write_recipe(guess, path, choices=taken), encoding="utf-8")
    loaded = load_recipe(path)
    data = loaded.recipe.data
    rows = load_examples(data.source, columns=column_map(data.columns), base=loaded.base, multi_label=data.multi_label)
    assert len(rows.splits["all"]) == guess.rows
    return loaded


def test_without_a_terminal_the_guesses_are_taken_and_said(tmp_path: Path) -> None:
    stderr = io.StringIO()
    choices = ask(found(tmp_path), {}, io.StringIO("ignored\n"), stderr)
    assert choices == Choices("text-classification", "review", "label", "author")
    assert stderr.getvalue() == (
        "data.csv: 60 rows; text is review, label is label, group is author. "
        "Others are named with --text, --label and --group.\n"
    )


def test_flags_outweigh_guesses_and_are_not_asked(tmp_path: Path) -> None:
    flags: dict[str, str | None] = {"text": "review", "label": "author", "group": "-", "task": "text-classification"}
    choices, told = asked(found(tmp_path), flags)
    assert choices == Choices("text-classification", "review", "author", None)
    assert "column" not in told.splitlines()[-1]


def test_a_terminal_is_asked_once_for_each_column(tmp_path: Path) -> None:
    choices, told = asked(found(tmp_path), answers="\nlable\nlabel\n-\n")
    assert choices == Choices("text-classification", "review", "label", None)
    assert re.findall(r"(\w+) column.*?\[(\w+)\]:", told) == [
        ("text", "review"), ("label", "label"), ("label", "label"), ("group", "author"),
    ]  # fmt: skip
    assert "Did you mean 'label'?" in told


def test_the_end_of_the_input_takes_the_guesses(tmp_path: Path) -> None:
    assert asked(found(tmp_path))[0].group == "author"


def test_yes_asks_nothing(tmp_path: Path) -> None:
    stderr = io.StringIO()
    ask(found(tmp_path), {}, Terminal("x\n"), stderr, yes=True)
    assert len(stderr.getvalue().splitlines()) == 1


def test_no_label_is_refused_unless_somebody_names_one(tmp_path: Path) -> None:
    pairs = guess_table(table(tmp_path, {"en": texts(40), "de": [f"{text} auf" for text in texts(40)]}))
    with pytest.raises(DataError, match="no column looks like a label"):
        ask(pairs, {}, io.StringIO(), io.StringIO())
    with pytest.raises(DataError, match="no column looks like a label"):
        asked(pairs)
    assert asked(pairs, answers="en\nde\n\n")[0] == Choices("text-classification", "en", "de")


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"text": "reviw"}, "Did you mean 'review'"),
        ({"text": "label"}, "the label column is not named, and the guess is taken already"),
        ({"text": "review", "label": "review"}, "already in use"),
    ],
)
def test_wrong_flags(flags: dict[str, str | None], what: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=what):
        ask(found(tmp_path), flags, io.StringIO(), io.StringIO())


def test_the_recipe_holds_what_was_found(tmp_path: Path) -> None:
    guess = found(tmp_path, label=["a"] * 45 + ["b"] * 15, id=range(60))
    loaded = recipe(guess, tmp_path)
    made = loaded.recipe
    assert made.data.source == "../data.csv"
    assert made.data.columns.model_dump() | {} == {"text": "review", "label": "label", "group": "author", "id": "id"}
    assert made.model.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert made.training.class_weights == "balanced"
    assert made.windows.max_tokens == 64
    text = (tmp_path / "sub" / "first.yaml").read_text(encoding="utf-8")
    for reason in ("60 rows", "most frequent a with 75.0%", "20 different values", "3.0 times the rows of the rarest"):
        assert reason in text
    settings = [line for line in text.splitlines() if re.match(r" *\w+: *[^# ]", line)]
    reasons = [line for line in settings if "#" not in line]
    assert reasons == ["task: text-classification"]


@pytest.mark.parametrize(
    ("sentence", "model", "tokenizer", "window"),
    [
        ("这家酒店的房间很干净，前台也很热情，下次还来住。", "google-bert/bert-base-chinese", "characters", 64),
        ("这家酒店的房间很干净，前台也很热情。" * 40, "google-bert/bert-base-chinese", "characters", 512),
        ("Das Zimmer war sauber und still.", "distilbert/distilbert-base-multilingual-cased", "wordpiece", 64),
    ],
)  # fmt: skip
def test_model_and_window_follow_the_texts(
    sentence: str, model: str, tokenizer: str, window: int, tmp_path: Path
) -> None:
    guess = found(tmp_path, review=[f"{sentence}{row}" for row in range(60)])
    made = recipe(guess, tmp_path).recipe
    assert made.model.name == model
    assert made.windows.max_tokens == window
    assert f"tokenizer: {tokenizer}" in (tmp_path / "sub" / "first.yaml").read_text(encoding="utf-8")


def test_two_languages_need_a_model_of_both(tmp_path: Path) -> None:
    reviews = [f"很干净的房间，下次还来 {row}" if row % 2 else text for row, text in enumerate(texts(60))]
    made = recipe(found(tmp_path, review=reviews), tmp_path).recipe
    assert made.model.name == "distilbert/distilbert-base-multilingual-cased"


def test_the_block_without_a_download_is_a_recipe_too(tmp_path: Path) -> None:
    recipe(found(tmp_path), tmp_path)
    path = tmp_path / "sub" / "first.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    start = lines.index("# model:")
    block = [line.removeprefix("# ") for line in lines[start : start + 3]]
    kept = [line for line in lines if not line.startswith("model: ")]
    path.write_text("\n".join([*kept, *block]), encoding="utf-8")
    scratch = load_recipe(path).recipe.model.from_scratch
    assert scratch is not None
    assert scratch.hidden_size == 192


def test_a_rare_class_turns_stratification_off(tmp_path: Path) -> None:
    guess = found(tmp_path, label=["a"] * 30 + ["b"] * 29 + ["rare"])
    made = recipe(guess, tmp_path).recipe
    assert made.data.split.stratify is False
    assert "'rare'" in (tmp_path / "sub" / "first.yaml").read_text(encoding="utf-8")


def test_several_labels(tmp_path: Path) -> None:
    import json

    path = tmp_path / "data.jsonl"
    rows = [{"text": text, "tags": ["a", "b"][: row % 3]} for row, text in enumerate(texts(60))]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert recipe(guess_table(path), tmp_path).recipe.data.multi_label is True


@pytest.mark.parametrize(
    "name", ["my text", "a: b", "# x", "no", "0123", "酒店", 'say "x"', "- y", "a\nb", "*z", "x {y}"]
)
def test_any_column_name_and_label_make_a_valid_recipe(name: str, tmp_path: Path) -> None:
    columns = {name: texts(60), "label": [f"{name}\n# bad: [", "b"] * 30, f"{name} author": ["p", "q", "r"] * 20}
    guess = guess_table(table(tmp_path, columns, name="odd [1] #.csv"))
    made = recipe(guess, tmp_path, text=name, label="label", group=f"{name} author").recipe
    assert (made.data.columns.text, made.data.columns.group) == (name, f"{name} author")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_scalar_reads_back_as_its_text(text: str) -> None:
    assert read_yaml(f"key: {scalar(text)}  # why", name="x").values == {"key": text}
