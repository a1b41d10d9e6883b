"""The recipe: what is written is what is meant, what is wrong is told, and what is dumped loads again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune import recipe as words
from finetune.cleaning_steps import CleaningName
from finetune.data.cleaning import STEPS
from finetune.data.export_formats import EXPORTS
from finetune.errors import RecipeError
from finetune.recipe import Recipe, Training, Windows
from finetune.recipe_file import (
    MANAGED_FIELDS,
    OLD_NAMES,
    WITHOUT_EFFECT,
    check_recipe,
    dump_recipe,
    load_recipe,
    relocate,
    training_argument_names,
)
from finetune.recipe_parts import Section
from finetune.scores.baselines import BASELINES
from finetune.scores.classification import METRIC_NAMES
from finetune.tasks.table import TASKS
from finetune.yaml_text import YamlText, read_yaml

SMALLEST = "task: text-classification\ndata: {source: reviews.csv}\n"
# Words that YAML, one version or another, takes for something else.
ODD_LABELS = [
    "no",
    "on",
    "~",
    "null",
    "1e5",
    "5e-5",
    "0123",
    "0x1F",
    "1_000",
    "12:30",
    "2024-01-01",
    ".inf",
    "- a",
    "a: b",
    "#",
]


def written(text: str, tmp_path: Path, *, name: str = "recipe.yaml") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        check_recipe(read_yaml(text, name="recipe.yaml"), overrides, base=Path(), name="recipe")
    return [str(problem) for problem in caught.value.problems]


def read(text: str, *overrides: str) -> Recipe:
    return check_recipe(read_yaml(text, name="recipe.yaml"), overrides, base=Path(), name="recipe").recipe


# ---- a dump loads again

labels = st.lists(
    st.sampled_from(ODD_LABELS) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9),
    min_size=2, max_size=6, unique=True,
)  # fmt: skip
shares = st.integers(1, 8).flatmap(lambda test: st.tuples(st.integers(1, 9 - test), st.just(test)))
sources = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(str.strip)
trainings = st.builds(
    Training,
    num_train_epochs=st.integers(1, 1000),
    learning_rate=st.floats(1e-12, 10),
    warmup_steps=st.floats(0, 0.99) | st.integers(0, 9),
    early_stopping_patience=st.none() | st.integers(1, 9),
    metric_for_best_model=st.sampled_from(get_args(words.SelectionMetric)),
    extra=st.dictionaries(
        st.sampled_from(["adam_beta1", "run_name"]), st.floats(0, 1) | st.booleans() | st.sampled_from(ODD_LABELS)
    ),
)


ARGUMENTS: dict[str, Any] = {
    "fill_missing": "none", "drop_short": 3, "drop_long": 9000, "keep_language": ["zh"], "drop_conflicts": "refuse"
}  # fmt: skip
STEPS_AS_WRITTEN = [*({name: ARGUMENTS[name]} if name in ARGUMENTS else name for name in STEPS), "my.cleaning:shout"]


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    validation, test = draw(shares)
    split = {"train": (10 - validation - test) / 10, "validation": validation / 10, "test": test / 10}
    data: dict[str, Any] = {"source": draw(sources | st.lists(sources, min_size=1, max_size=3)), "split": split}
    data["labels"] = draw(st.none() | labels)
    training, tokens = draw(trainings), draw(st.integers(8, 512))
    windows = Windows(max_tokens=tokens, stride=draw(st.integers(0, tokens - 3)))
    parts = {
        "training": training,
        "windows": windows,
        "cleaning": draw(st.lists(st.sampled_from(STEPS_AS_WRITTEN), unique_by=str)),
    }
    return Recipe.model_validate({"task": "text-classification", "data": data, **parts})


@settings(max_examples=60)
@given(recipe=recipes())
@example(recipe=Recipe.model_validate({"task": "text-classification", "data": {"source": "x", "labels": ODD_LABELS}}))
def test_a_dump_loads_as_the_same_recipe(recipe: Recipe) -> None:
    assert read(dump_recipe(recipe, header="one\ntwo")) == recipe


@pytest.mark.parametrize("text", ["\x85", "a\x85b", "\u2028", "a\u2029", "a\rb"])
def test_a_dump_keeps_unusual_line_breaks(text: str) -> None:
    values = {"task": "text-classification", "data": {"source": "0", "labels": ["no", text]}}
    recipe = Recipe.model_validate(values)
    assert read(dump_recipe(recipe)) == recipe


def test_a_moved_recipe_names_the_same_files(tmp_path: Path) -> None:
    source = "{train: [a.csv, 'b*.csv'], test: 'builtin:digits'}"
    text = f"task: text-classification\nmodel: {{name: m}}\ndata: {{source: {source}}}\n"
    for name in ("a.csv", "m/config.json"):
        written("x", tmp_path, name=name)
    loaded = load_recipe(written(text, tmp_path))
    moved = relocate(loaded, folder=tmp_path / "runs" / "one")
    assert moved.data.source == {"train": ["../../a.csv", "../../b*.csv"], "test": "builtin:digits"}
    assert moved.model.name == "../../m"
    # A name that is no folder here stays a Hub name.
    assert (
        relocate(loaded.__class__(loaded.recipe, tmp_path / "elsewhere", "x", loaded.text), folder=tmp_path).model.name
        == "m"
    )


# ---- reading


@given(text=st.text(alphabet=st.sampled_from("ab:-#'\"[]{}&*!|>%@?,. \n\t0x1e_~"), max_size=40) | st.text(max_size=40))
@example(text="a: " + "9" * 5000)
@example(text="a: -0x1F")
@example(text="a: +_")
@example(text="? [a]\n: 1")
@example(text="a: &a [*a]")
@example(text="%YAML 9.9\n---\na: 1")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(read_yaml(text, name="recipe.yaml").values, dict)
    except RecipeError as error:
        assert str(error).startswith("recipe.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5), ("1.5", 1.5), ("-.inf", float("-inf")), ("e5", "e5"),
        ("1_000", 1000), ("0x1F", 31), ("-0x1F", -31), ("0o17", 15), ("017", 17), ("9" * 5000, "9" * 5000),
        ("no", "no"), ("on", "on"), ("true", True), ("~", None), ("'1'", "1"),
        ("2024-01-01", "2024-01-01"), ("12:30", "12:30"), ("[1, a]", [1, "a"]),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = read_yaml(f"key: {text}", name="x").values["key"]
    assert found == value and type(found) is type(value)


def test_keys_remember_their_lines() -> None:
    text = read_yaml("a:\n  b: 1\n\n  c: {d: 2}\n", name="x.yaml")
    assert [text.where(path) for path in (("a", "b"), ("a", "c", "d"), ("a", "z"), ("q",))] == [
        "x.yaml:2", "x.yaml:4", "x.yaml:1", "x.yaml"
    ]  # fmt: skip


# ---- overrides


def test_the_command_line_wins_over_the_file_and_the_last_over_the_first() -> None:
    recipe = read(
        SMALLEST + "seed: 1\n", "seed=2", "seed=3", "training.learning_rate=2e-5", "data.split.stratify=false"
    )
    assert (recipe.seed, recipe.training.learning_rate, recipe.data.split.stratify) == (3, 2e-5, False)


def test_overrides_are_yaml() -> None:
    recipe = read(SMALLEST, "data.labels=[no, 'yes', 3]", "data.limit=", "data.source=a=b.csv", "model={name: x/y}")
    assert (recipe.data.labels, recipe.data.limit, recipe.data.source) == (["no", "yes", "3"], None, "a=b.csv")
    assert recipe.model.name == "x/y"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training", "command line: 'training' is not key=value"),
        ("=1", "command line: '' is not key=value"),
        ("training..lr=1", "command line: 'training..lr' is not key=value"),
        ("task.x=1", "command line: 'task.x': 'task' is a value, not a section"),
        ("data.labels=[a", "command line: data.labels: is not valid YAML"),
        ("training.lr=1", "command line: unknown key 'training.lr'. Write training.learning_rate."),
        ("seed=x", "command line: seed: must be a whole number, found 'x'"),
    ],
)
def test_a_wrong_override_is_told_with_the_rest(override: str, message: str) -> None:
    told = problems(SMALLEST + "sed: 1\n", override)
    assert any(each.startswith(message) for each in told), told
    assert any(each.startswith("recipe.yaml:3: unknown key 'sed'") for each in told), told


def test_an_override_does_not_change_the_text_it_came_from() -> None:
    text = read_yaml(SMALLEST, name="x")
    check_recipe(text, ["data.limit=3", "seed=4"], base=Path(), name="x")
    assert text.values == {"task": "text-classification", "data": {"source": "reviews.csv"}}


# ---- names


@pytest.mark.parametrize(
    ("literal", "table"),
    [
        (words.TaskName, TASKS), (CleaningName, STEPS), (words.BaselineName, BASELINES),
        (words.SelectionMetric, [*METRIC_NAMES, "loss"]), (words.SplitName, words.SPLITS),
        (words.ExportFormat, EXPORTS),
    ],
)  # fmt: skip
def test_a_literal_is_the_keys_of_its_table(literal: Any, table: Any) -> None:
    assert sorted(get_args(literal)) == sorted(table)


def sections(
    section: type[Section] = Recipe, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    """Every section of the recipe with its path."""
    yield path, section
    for name, field in section.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from sections(kind, (*path, name))


FIELDS = [(*path, name) for path, section in sections() for name in section.model_fields]


@pytest.mark.parametrize("path", [path for path in FIELDS if len(path[-1]) > 4], ids=".".join)
def test_a_misspelt_key_is_corrected(path: tuple[str, ...]) -> None:
    misspelt = path[-1][:2] + path[-1][3:]
    told = problems(SMALLEST, ".".join((*path[:-1], misspelt)) + "=1")
    assert any(each.endswith(f"Did you mean '{path[-1]}'?") for each in told), told


def test_every_field_says_what_it_is() -> None:
    silent = [".".join(path) for path in FIELDS if not described(path)]
    assert not silent


def described(path: tuple[str, ...]) -> str:
    section = next(kind for place, kind in sections() if place == path[:-1])
    return section.model_fields[path[-1]].description or ""


def test_the_schema_describes_every_property() -> None:
    schema = json.loads(json.dumps(Recipe.model_json_schema()))
    steps = schema["$defs"].pop("CleaningStep")["anyOf"]  # a name, or a name with its value
    named = {*steps[0]["enum"], *(name for step in steps[2:] for name in step["properties"])}
    assert named == set(STEPS) and "pattern" in steps[1]
    objects = [schema, *schema["$defs"].values()]
    assert {name for each in objects for name in each["properties"]} >= {path[-1] for path in FIELDS}
    assert all(field.get("description") for each in objects for field in each["properties"].values())
    assert not any(each.get("additionalProperties", True) for each in objects)


def test_old_names_lead_to_keys_that_exist() -> None:
    known = {path[-1] for path in FIELDS}
    assert not known & set(OLD_NAMES)
    for name, remedy in OLD_NAMES.items():
        told = problems(SMALLEST, f"training.{name}=1")
        assert told[0].endswith(remedy), told
        if remedy.startswith("Write "):
            assert remedy.removeprefix("Write ").split(";")[0].rstrip(".").split(".")[-1] in known, remedy


def test_fields_of_transformers_are_ours_or_free_or_refused() -> None:
    installed = set(training_argument_names())
    assert len(installed) > 80
    refused = MANAGED_FIELDS | WITHOUT_EFFECT
    assert refused <= installed and not refused & set(Training.model_fields) and not MANAGED_FIELDS & WITHOUT_EFFECT
    assert read(SMALLEST, "training.extra={adam_beta1: 0.8, optim_args: null}").training.extra == {
        "adam_beta1": 0.8, "optim_args": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.adam_beta1=0.8", "unknown key 'training.adam_beta1'. Write training.extra: {adam_beta1: ...}."),
        ("training.extra.adam_bta1=0.8", "has no field 'adam_bta1'. Did you mean 'adam_beta1'?"),
        (
            "training.extra.learning_rate=1",
            "'learning_rate' is a key of training itself. Write training.learning_rate.",
        ),
        ("training.extra.output_dir=x", "'output_dir' is set by finetune. Name the run folder with --run DIR."),
        ("training.extra.eval_accumulation_steps=2", "'eval_accumulation_steps' has no effect here. Leave it out."),
        ("learning_rate=1", "unknown key 'learning_rate'. Write training.learning_rate."),
        ("columns.text=x", "unknown key 'columns'. Write data.columns."),
    ],
)
def test_a_key_in_the_wrong_place_is_told_its_own(override: str, message: str) -> None:
    assert any(each.endswith(message) for each in problems(SMALLEST, override))


# ---- settings that would be ignored or contradict each other


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.eval_steps=5"], "training.eval_steps: eval_strategy 'steps' and eval_steps need each other"),
        (["training.eval_strategy=steps", "training.save_strategy=steps"], "'steps' and eval_steps need each other"),
        (["training.warmup_steps=1.5"], "training.warmup_steps: warmup_steps is a share below 1 or a whole number"),
        (
            ["training.early_stopping_patience=1", "training.load_best_model_at_end=false"],
            "early_stopping_patience needs",
        ),
        (["windows.truncate=true", "windows.max_per_document=2"], "max_per_document has no effect"),
        (["windows.max_tokens=32"], "stride 128 must be smaller than max_tokens 32 less two special tokens"),
        (["model={name: a/b, from_scratch: {}}"], "name and from_scratch exclude each other"),
        (["model={revision: main, from_scratch: {}}"], "revision needs a name"),
        (["data.labels=[a, a]"], "data.labels: 'a' is listed twice"),
        (["data.labels=[a]"], "data.labels: "),
        (["cleaning=[drop_empty, drop_empty]"], "cleaning: 'drop_empty' is listed twice"),
        (["data.source={test: a.csv}"], "a source by split needs 'train'"),
        (["data.source=[]"], "expected a file, a glob, a folder"),
    ],
)
def test_contradictions_are_refused(overrides: list[str], message: str) -> None:
    assert any(message in each for each in problems(SMALLEST, *overrides))


def test_defaults_make_a_recipe() -> None:
    recipe = read(SMALLEST)
    assert recipe.model.name == words.DEFAULT_MODEL
    assert recipe.training.metric_for_best_model == "f1_macro"
    assert recipe.data.split.shares == {"train": 0.70, "validation": 0.15, "test": 0.15}


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read(SMALLEST).seed = 1  # type: ignore[misc]


def test_values_in_hand_are_checked_like_a_file() -> None:
    text = YamlText(name="reviews.csv", values={"task": "text-classification", "data": {"source": "reviews.csv"}})
    assert check_recipe(text, base=Path(), name="reviews").recipe == read(SMALLEST)
