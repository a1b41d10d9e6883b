"""`finetune init` for writers: what a table, a text file or a folder suggests becomes a recipe that can be trained."""

from __future__ import annotations

import io
import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_guess import table
from tiny_writers import questions, write_examples

from finetune.cli import main
from finetune.data.guess import guess_table
from finetune.data.guess_forms import guess_form
from finetune.recipe import Seq2SeqRecipe, TextGenerationRecipe
from finetune.recipe_file import LoadedRecipe, load_recipe

SENTENCES = [f"{question}, said the keeper of the lighthouse, and {answer} came." for question, answer in questions(60)]
ANSWERS = [answer for _, answer in questions(60)]
TINY = ("model.from_scratch.hidden_size=16", "model.from_scratch.num_hidden_layers=1",
        "model.from_scratch.intermediate_size=16", "model.from_scratch.num_attention_heads=2")  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def columns_of(recipe: Any) -> dict[str, str]:
    return {key: name for key, name in recipe.data.columns.model_dump().items() if name is not None}


def checked(capsys: pytest.CaptureFixture[str], recipe: str) -> LoadedRecipe:
    """The recipe after `finetune check` has passed it, model and all: it needs no download."""
    capsys.readouterr()
    assert main(["check", recipe, *TINY, "--quiet"]) == 0, capsys.readouterr().err
    assert "recipe, data and model fit together" in capsys.readouterr().out
    return load_recipe(recipe)


def init(*words: str) -> int:
    return main(["init", *words, "--output", "made.yaml"])


# ---- the form, the recipe, and a check of it


@pytest.mark.parametrize("form", ["text", "pairs", "chat", "seq2seq"])
def test_the_recipe_of_every_form_passes_check(form: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = write_examples(here / "examples.jsonl", form)
    task = "seq2seq" if form == "seq2seq" else "text-generation"
    assert init("examples.jsonl", *(["--task", task] if form == "seq2seq" else [])) == 0
    shown = capsys.readouterr()
    assert shown.out == "made.yaml: look through it, then run: finetune train made.yaml\n"
    assert f"{task}, because " in shown.err
    loaded = checked(capsys, "made.yaml")
    assert loaded.recipe.task == task and columns_of(loaded.recipe) == named
    assert isinstance(loaded.recipe, TextGenerationRecipe | Seq2SeqRecipe) and loaded.recipe.form == form


@pytest.mark.parametrize(
    ("names", "task", "form"),
    [
        (("prompt", "completion"), "text-generation", "pairs"),
        (("Instruction", "Output"), "text-generation", "pairs"),
        (("question", "answer"), "text-generation", "pairs"),
        (("问题", "回答"), "text-generation", "pairs"),
        (("input", "output"), "text-generation", "pairs"),
        (("source", "target"), "seq2seq", "seq2seq"),
        (("en", "de"), "seq2seq", "seq2seq"),
        (("Chinese", "English"), "seq2seq", "seq2seq"),
        (("article", "highlights"), "seq2seq", "seq2seq"),
        (("text", "summary"), "seq2seq", "seq2seq"),
        (("source_text", "target_text"), "seq2seq", "seq2seq"),
    ],
)
def test_pairs_are_told_by_their_names(names: tuple[str, str], task: str, form: str, here: Path) -> None:
    # The order of the columns says nothing where the names do.
    columns = {names[1]: [f"{answer}!" for answer in SENTENCES], "id": range(60), names[0]: SENTENCES}
    found = guess_form(guess_table(table(here, columns)))
    assert found is not None
    expected = names if names[0] not in ("en", "Chinese") else (names[1], names[0])  # languages: in their order
    assert (found.task, found.form, (found.text, found.target)) == (task, form, expected)


def test_labels_are_learnt_where_a_table_is_about_them(here: Path) -> None:
    labelled = {"question": SENTENCES, "answer": ANSWERS, "label": ["a", "b"] * 30}
    assert guess_form(guess_table(table(here, labelled))) is None
    assert guess_form(guess_table(table(here, {"text": SENTENCES, "outcome": ["a", "b"] * 30}))) is None
    asked = guess_form(guess_table(table(here, labelled)), task="text-generation")
    assert asked is not None and (asked.text, asked.target) == ("question", "answer")


def test_few_values_beside_a_pair_are_no_labels(here: Path) -> None:
    found = guess_form(guess_table(table(here, {"prompt": SENTENCES, "completion": ANSWERS, "hard": ["y", "n"] * 30})))
    assert found is not None and found.form == "pairs"


def test_chats_are_told_by_what_they_hold(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chats = [
        json.dumps([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
        for question, answer in questions(60)
    ]
    table(here, {"conversation": chats, "n": range(60)}, name="chats.csv")
    assert init("chats.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "recipe": "made.yaml", "task": "text-generation", "form": "chat", "text": "conversation", "target": None,
        "group": None, "id": None,
    }  # fmt: skip
    assert columns_of(checked(capsys, "made.yaml").recipe) == {"messages": "conversation"}
    assert "Qwen/Qwen2.5-0.5B-Instruct" in Path("made.yaml").read_text("utf-8")


def test_flags_name_columns_and_task(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"headline": ANSWERS, "story": SENTENCES, "author": [f"a{row % 20}" for row in range(60)]}
    path = table(here, columns, name="news.csv")
    assert init(path.name, "--task", "seq2seq", "--text", "story", "--label", "headline", "--group", "author") == 0
    made = checked(capsys, "made.yaml").recipe
    assert columns_of(made) == {"source": "story", "target": "headline", "group": "author"}
    assert init(path.name, "--task", "text-generation", "--text", "story", "--force") == 0
    assert columns_of(load_recipe("made.yaml").recipe) == {"text": "story", "group": "author"}
    assert init(path.name, "--text", "story", "--label", "author", "--force") == 0
    assert load_recipe("made.yaml").recipe.task == "text-classification"


def test_seq2seq_takes_the_two_columns_of_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(here, {"left": SENTENCES, "right": ANSWERS})
    assert init("data.csv", "--task", "seq2seq") == 0
    assert "two columns of text, taken in their order; source is left, target is right" in capsys.readouterr().err


def test_a_terminal_is_asked_for_each_column(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    table(here, {"prompt": SENTENCES, "completion": ANSWERS, "author": [f"a{row % 20}" for row in range(60)]})
    monkeypatch.setattr(sys, "stdin", Terminal("\nprompt\ncompletion\n-\n"))
    assert init("data.csv") == 0
    told = capsys.readouterr().err
    assert re.findall(r"(\w+) column.*?\[(\w+)\]: ", told) == [
        ("prompt", "prompt"), ("completion", "completion"), ("completion", "completion"), ("group", "author"),
    ]  # fmt: skip
    assert "'prompt' is already in use" in told and "Task: text-generation, because " in told
    assert columns_of(load_recipe("made.yaml").recipe) == {"prompt": "prompt", "completion": "completion"}


# ---- plain text


def book(characters: int) -> str:
    """Lines of words in no order, with a blank line now and then: no passage is like another."""
    chance = random.Random(2)
    words = ["".join(chance.choices("aeioubdklmnrst", k=chance.randint(2, 8))) for _ in range(3000)]
    lines = (" ".join(chance.choices(words, k=9)) + "\n" * chance.choice((1, 1, 1, 2)) for _ in range(characters // 20))
    return "".join(lines)[:characters]


def test_one_long_text_is_cut_into_passages_in_file_order(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("book.txt").write_text(book(60_000), encoding="utf-8")
    assert init("book.txt") == 0
    assert "book.txt: 1 text of 60,000 characters; text-generation from plain text." in capsys.readouterr().err
    made = load_recipe("made.yaml").recipe
    assert isinstance(made, TextGenerationRecipe)
    assert made.data.passage_characters == 600 and made.data.split.contiguous
    assert made.data.source == "book.txt" and made.form == "text"
    checked(capsys, "made.yaml")


def test_a_short_text_is_warned_of(here: Path) -> None:
    Path("note.txt").write_text(book(9_000), encoding="utf-8")
    assert init("note.txt") == 0
    assert "Look at this first: so little text teaches a model next to nothing" in Path("made.yaml").read_text("utf-8")


@pytest.mark.parametrize("splits", [(), ("train", "validation", "test")])
def test_a_folder_of_texts(splits: Sequence[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row, sentence in enumerate(book(30_000).split("\n\n")[:60]):
        path = Path("texts", *([splits[row % len(splits)]] if splits else []), f"{row}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sentence, encoding="utf-8")
    assert init("texts") == 0
    made = checked(capsys, "made.yaml").recipe
    assert isinstance(made, TextGenerationRecipe)
    assert made.data.passage_characters is None and not made.data.split.contiguous
    written = Path("made.yaml").read_text("utf-8")
    assert ("brings its own splits: train, validation, test" in written) == bool(splits)


def test_a_folder_of_classes_is_only_written_from_when_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row, sentence in enumerate(SENTENCES):
        path = Path("texts", ("good", "bad")[row % 2], f"{row}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sentence, encoding="utf-8")
    assert init("texts") == 2
    told = capsys.readouterr().err
    assert "is a folder of texts by class" in told and "finetune train texts" in told and not Path("made.yaml").exists()
    assert init("texts", "--task", "text-generation") == 0
    checked(capsys, "made.yaml")


# ---- what the recipe says


def test_every_line_has_its_reason(here: Path) -> None:
    table(here, {"prompt": SENTENCES, "completion": [*ANSWERS[:-1], ""], "id": range(60)})
    assert init("data.csv") == 0
    text = Path("made.yaml").read_text("utf-8")
    settings = [line for line in text.splitlines() if re.match(r" *\w+: *[^# ]", line)]
    reasons = [line for line in settings if "#" not in line and "from_scratch" not in line and "num_hidden" not in line]
    assert reasons == ["task: text-generation"]
    for part in ("60 rows", "1 of 60 rows without completion", "openai-community/gpt2", "learning_rate: 5.0e-5",
                 "id: id  # different in every row", "about 42 / 9 / 9 documents"):  # fmt: skip
        assert part in text


def test_the_pretrained_model_of_the_comment_makes_a_recipe_too(here: Path) -> None:
    for form, model in (("pairs", "openai-community/gpt2"), ("seq2seq", "google-t5/t5-small")):
        task = ["--task", "seq2seq"] if form == "seq2seq" else []
        examples = (
            {"prompt": SENTENCES, "completion": SENTENCES} if form == "pairs" else {"en": SENTENCES, "de": SENTENCES}
        )
        table(here, {name: [f"{name} {each}" for each in texts] for name, texts in examples.items()})
        assert init("data.csv", *task, "--force") == 0
        text = Path("made.yaml").read_text("utf-8")
        commented = re.search(r"^#   (model: .*)$", text, re.M)
        assert commented is not None
        changed = re.sub(r"^model:\n.*\n.*\n", commented[1] + "\n", text, flags=re.M)
        Path("made.yaml").write_text(changed, encoding="utf-8")
        assert load_recipe("made.yaml").recipe.model.name == model


def test_chinese_is_written_by_characters(here: Path) -> None:
    table(
        here,
        {
            "问题": [f"第{row}家酒店的房间怎么样？" for row in range(60)],
            "回答": [f"房间{row}很干净。" for row in range(60)],
        },
    )
    assert init("data.csv") == 0
    text = Path("made.yaml").read_text("utf-8")
    assert "tokenizer: characters" in text and "Qwen/Qwen2.5-0.5B" in text


def test_an_input_beside_an_instruction_is_pointed_out(here: Path) -> None:
    table(here, {"instruction": SENTENCES, "input": SENTENCES, "output": ANSWERS})
    assert init("data.csv") == 0
    assert "column input is not read" in Path("made.yaml").read_text("utf-8")


def test_many_documents_are_written_for_by_sample(here: Path) -> None:
    many = [f"{row} {SENTENCES[row % 60]}" for row in range(4000)]
    table(here, {"prompt": many, "completion": many})
    assert init("data.csv") == 0
    assert load_recipe("made.yaml").recipe.evaluation.sample == 500  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["my text", "a: b", "# x", "no", '酒店 "x"', "a\nb", "{y}"])
def test_any_column_name_makes_a_valid_recipe(name: str, here: Path) -> None:
    table(here, {name: SENTENCES, f"{name} too": ANSWERS})
    assert init("data.csv", "--task", "seq2seq", "--text", name, "--label", f"{name} too") == 0
    assert columns_of(load_recipe("made.yaml").recipe) == {"source": name, "target": f"{name} too"}


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.csv", "--task", "seq2seq"], "no two columns look like source and target"),
        (["data.csv", "--task", "text-generation", "--text", "texxt"], "Did you mean 'text'?"),
        (["data.csv", "--task", "text-generation", "--text", "text", "--label", "text"], "'text' is already in use"),
        (["data.csv", "--task", "seq2seq", "--label", "label"], "no two columns look like source and target"),
        (["data.csv", "--task", "text-generatoin"], "Did you mean 'text-generation'?"),
        (["numbers.csv", "--task", "text-generation"], "no column looks like text, prompts and completions, or chats"),
        (["numbers.csv"], "no column looks like a text"),
        (["book.txt", "--task", "seq2seq"], "is plain text, of which seq2seq has no columns"),
        (["book.txt", "--text", "text"], "names a column, and book.txt is plain text"),
        (["empty.txt"], "empty.txt"),
        (["bokk.txt"], "Did you mean 'book.txt'?"),
        (["book.pdf"], "format"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused_leaves_nothing(
    words: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(here, {"text": SENTENCES, "label": ["a", "b"] * 30})
    table(here, {"a": range(40), "b": range(40)}, name="numbers.csv")
    for name, text in (("book.txt", book(30_000)), ("empty.txt", ""), ("book.pdf", "%PDF")):
        Path(name).write_text(text, encoding="utf-8")
    assert init(*words) == 2
    shown = capsys.readouterr()
    assert says in shown.err and shown.out == "" and not Path("made.yaml").exists()


def test_a_made_recipe_trains(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_examples(here / "pairs.jsonl", "pairs")
    assert init("pairs.jsonl") == 0
    quick = ("training.num_train_epochs=1", "generation.max_new_tokens=4", "evaluation.bootstrap=0",
             "evaluation.baselines=[]", "training.use_cpu=true")  # fmt: skip
    assert main(["train", "made.yaml", *TINY, *quick, "--run", "run", "--quiet"]) == 0
