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
from finetune import recipe_data, recipe_training
from finetune.branches import BRANCHES
from finetune.cleaning_steps import CleaningName
from finetune.data.cleaning import STEPS
from finetune.data.export_formats import EXPORTS
from finetune.errors import RecipeError
from finetune.recipe import DEFAULT_TEXT_BASELINES, RECIPES, ClassifierRecipe, Recipe, writer_recipe
from finetune.recipe_file import check_recipe, dump_recipe, load_recipe, recipe_schema, relocate
from finetune.recipe_parts import Section
from finetune.recipe_problems import MANAGED_FIELDS, OLD_NAMES, WITHOUT_EFFECT, training_argument_names
from finetune.recipe_training import ClassifierTraining, Training
from finetune.recipe_windows import Windows
from finetune.scores.baselines import BASELINES
from finetune.scores.bleu_tokenizers import BLEU_TOKENIZERS
from finetune.scores.classification import METRIC_NAMES
from finetune.text_opponents import TEXT_BASELINES
from finetune.yaml_text import YamlText, read_yaml

SMALLEST = "task: text-classification\ndata: {source: reviews.csv}\n"
SMALLEST_OF = {
    "text-classification": SMALLEST,
    "text-generation": "task: text-generation\nmodel: {name: a/b}\ndata: {source: poems.txt}\n",
    "seq2seq": "task: seq2seq\nmodel: {name: a/b}\ndata: {source: pairs.jsonl}\n",
    "image-generation": "task: image-generation\ndata: {source: digits}\n",
}
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
    ClassifierTraining,
    num_train_epochs=st.integers(1, 1000),
    learning_rate=st.floats(1e-12, 10),
    warmup_steps=st.floats(0, 0.99) | st.integers(0, 9),
    early_stopping_patience=st.none() | st.integers(1, 9),
    metric_for_best_model=st.sampled_from(get_args(recipe_training.LabelMetric)),
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
    return ClassifierRecipe.model_validate({"task": "text-classification", "data": data, **parts})


@settings(max_examples=60)
@given(recipe=recipes())
@example(
    recipe=ClassifierRecipe.model_validate(
        {"task": "text-classification", "data": {"source": "x", "labels": ODD_LABELS}}
    )
)
def test_a_dump_loads_as_the_same_recipe(recipe: Recipe) -> None:
    assert read(dump_recipe(recipe, header="one\ntwo")) == recipe


@pytest.mark.parametrize("text", ["\x85", "a\x85b", "\u2028", "a\u2029", "a\rb"])
def test_a_dump_keeps_unusual_line_breaks(text: str) -> None:
    values = {"task": "text-classification", "data": {"source": "0", "labels": ["no", text]}}
    recipe = ClassifierRecipe.model_validate(values)
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
        (words.TaskName, BRANCHES), (CleaningName, STEPS), (words.BaselineName, BASELINES),
        (words.TextBaselineName, TEXT_BASELINES), (words.BleuTokenizer, BLEU_TOKENIZERS),
        (recipe_training.LabelMetric, [*METRIC_NAMES, "loss"]), (recipe_data.SplitName, recipe_data.SPLITS),
        (recipe_data.ExportFormat, EXPORTS),
    ],
)  # fmt: skip
def test_a_literal_is_the_keys_of_its_table(literal: Any, table: Any) -> None:
    assert sorted(get_args(literal)) == sorted(table)


def sections(section: type[Section], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    """Every section of the recipe with its path."""
    yield path, section
    for name, field in section.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from sections(kind, (*path, name))


FIELDS = [
    (task, *path, name)
    for task, recipe in RECIPES.items()
    for path, section in sections(recipe)
    for name in section.model_fields
    if path != ("generation", "examples")  # an item of a list
]


@pytest.mark.parametrize("place", [place for place in FIELDS if len(place[-1]) > 4], ids=".".join)
def test_a_misspelt_key_is_corrected(place: tuple[str, ...]) -> None:
    task, *path = place
    misspelt = path[-1][:2] + path[-1][3:]
    told = problems(SMALLEST_OF[task], ".".join((*path[:-1], misspelt)) + "=1")
    assert any(each.endswith(f"Did you mean '{path[-1]}'?") for each in told), told


def test_every_field_says_what_it_is() -> None:
    silent = [".".join(place) for place in FIELDS if not described(place)]
    assert not silent


def described(place: tuple[str, ...]) -> str:
    section = next(kind for path, kind in sections(RECIPES[place[0]]) if path == place[1:-1])
    return section.model_fields[place[-1]].description or ""


def test_the_schema_describes_every_property() -> None:
    schema = json.loads(json.dumps(recipe_schema()))
    steps = schema["$defs"].pop("CleaningStep")["anyOf"]  # a name, or a name with its value
    named = {*steps[0]["enum"], *(name for step in steps[2:] for name in step["properties"])}
    assert named == set(STEPS) and "pattern" in steps[1]
    objects = list(schema["$defs"].values())
    assert {name for each in objects for name in each["properties"]} >= {place[-1] for place in FIELDS}
    assert all(field.get("description") for each in objects for field in each["properties"].values())
    assert not any(each.get("additionalProperties", True) for each in objects)
    assert set(schema["discriminator"]["mapping"]) == set(RECIPES)


# ---- the task selects the keys


def test_an_unknown_task_is_told_the_known_ones() -> None:
    told = problems("task: text-clasification\ndata: {source: x.csv}\nseed: no\n")
    assert told[0] == "recipe.yaml:1: task: 'text-clasification' is not known. Did you mean 'text-classification'?"
    assert len(told) == 2  # the seed is told as well: the keys are those of the task that was meant
    told = problems("task: poems\ndata: {source: x}\ngeneration: {num_beams: 2}\n")
    assert len(told) == 1 and "text-classification, text-generation, seq2seq" in told[0]


@pytest.mark.parametrize(
    ("task", "override", "message"),
    [
        ("text-generation", "windows.aggregate=mean", "'windows.aggregate'. It belongs to text-classification."),
        ("text-classification", "generation.max_new_tokens=5", "It belongs to text-generation, seq2seq."),
        ("seq2seq", "generation.max_length=30", "Write generation.max_new_tokens"),
        ("seq2seq", "windows.stride=5", "It belongs to text-classification, text-generation."),
        ("seq2seq", "training.metric_for_best_model=f1_macro", "'f1_macro' is not known"),
        ("text-generation", "evaluation.baselines=[majority]", "'majority' is not known"),
        ("text-generation", "evaluation.baselines=[copy_source]", "does not go with this form of examples"),
        ("text-generation", "data.columns={prompt: a}", "prompt and completion need each other"),
        ("text-generation", "data.columns={prompt: a, completion: b, messages: c}", "are different forms of examples"),
        ("text-generation", "generation={temperature: 0.7}", "and need do_sample"),
        ("text-generation", "generation={do_sample: true, num_beams: 4}", "keep one of them"),
        ("text-generation", "generation={examples: [{prompt: a, completion: b}]}", "examples is for prompts and"),
        ("seq2seq", "generation={length_penalty: 2}", "needs num_beams above 1"),
        ("seq2seq", "generation={min_new_tokens: 200}", "min_new_tokens 200 is above max_new_tokens 128"),
        ("text-generation", "model={}", "needs name or from_scratch"),
    ],
)
def test_what_does_not_go_with_a_task_is_refused(task: str, override: str, message: str) -> None:
    told = problems(SMALLEST_OF[task], override)
    assert any(message in each for each in told), told


def test_a_key_that_has_no_effect_is_told_where_it_stands() -> None:
    text = SMALLEST_OF["text-generation"]
    pairs = "data.columns={prompt: a, completion: b}"
    told = problems(text, pairs, "windows.stride=5")
    assert told[0].startswith("command line: windows.stride: is for plain text, and data.columns names")
    told = problems(text + "evaluation: {baselines: [copy_source]}\n")
    assert told[0].startswith("recipe.yaml:4: evaluation.baselines: 'copy_source' does"), told


@pytest.mark.parametrize(
    ("columns", "form"),
    [
        ("{}", "text"), ("{group: a}", "text"), ("{text: body}", "text"), ("{messages: m}", "chat"),
        ("{prompt: a, completion: b}", "pairs"),
    ],
)  # fmt: skip
def test_the_columns_tell_the_form_and_the_form_the_baselines(columns: str, form: str) -> None:
    recipe = writer_recipe(read(SMALLEST_OF["text-generation"], f"data.columns={columns}"))
    assert (recipe.form, recipe.evaluation.baselines) == (form, DEFAULT_TEXT_BASELINES[form])  # type: ignore[index]
    scratch = writer_recipe(read(SMALLEST_OF["text-generation"], f"data.columns={columns}", "model={from_scratch: {}}"))
    assert not {"zero_shot", "few_shot"} & set(scratch.evaluation.baselines)


@pytest.mark.parametrize("task", SMALLEST_OF)
def test_the_dump_of_every_task_loads_again(task: str) -> None:
    recipe = read(SMALLEST_OF[task])
    assert read(dump_recipe(recipe)) == recipe


def test_old_names_lead_to_keys_that_exist() -> None:
    known = {place[-1] for place in FIELDS}
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
