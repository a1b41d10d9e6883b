"""What a user sees for bad prompts, settings and models of generators: part G and D11 of the catalogue of bad inputs.

bad_inputs.py says how a case is judged. What was cut or scored nevertheless stands below the refused ones.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from bad_inputs import Case, check_refused, on_disk, refused, settle_in, write_files
from finished_writers import finished_classifier, finished_writer, recipe_of
from tiny_models import tiny_writer_folder

from finetune.cli import main
from finetune.errors import DataError, ModelError
from finetune.predict import Predictor
from finetune.recipe import writer_recipe
from finetune.scores.generation import score_texts, signatures, text_statistics
from finetune.text_predictor import TextPredictor
from finetune.text_scorer import choose_bleu_tokenizer

FORMS = ("text", "pairs", "chat", "seq2seq")
QUESTIONS = b"id,question\nb,what is a fish\na,no\n"
RECIPE = """task: TASK
model: {name: NAME}
data: {source: pairs.jsonl, columns: COLUMNS}
windows: {max_tokens: 32}
generation: {max_new_tokens: 8}
training: {num_train_epochs: 1, per_device_train_batch_size: 16, use_cpu: true}
evaluation: {baselines: [], bootstrap: 0}
"""
PAIRS = "".join(json.dumps({"prompt": f"what is {n}", "completion": f"it is {n}"}) + "\n" for n in range(40))


def recipe(name: str, *, task: str = "text-generation") -> dict[str, str | bytes]:
    read, written = ("source", "target") if task == "seq2seq" else ("prompt", "completion")
    columns = f"{{{read}: prompt, {written}: completion}}"
    return {
        "recipe.yaml": RECIPE.replace("TASK", task).replace("NAME", name).replace("COLUMNS", columns),
        "pairs.jsonl": PAIRS,
    }


def asked(id: str, *says: str, options: tuple[str, ...], form: str = "pairs", **more: Any) -> Case:
    """`finetune predict FORM` with these options is refused with these words."""
    files = more.pop("files", {"new.csv": QUESTIONS})
    return refused(id, files, *says, argv=("predict", form, *options), needs=(form,), **more)


FROM_FILE = ("--input", "new.csv")
CASES = [
    asked("G01", "new.jsonl:2: the prompt is empty in 2 places: new.jsonl:2, new.jsonl:3",
          options=("--input", "new.jsonl"),
          files={"new.jsonl": '{"question": "a"}\n{"question": null}\n{"question": "  "}\n'}),
    asked("G01-text", "new.jsonl:1: the prompt is empty", options=("--input", "new.jsonl"), form="text",
          files={"new.jsonl": '{"text": null}\n'}),
    asked("G01-chat", "new.jsonl:1: the prompt is empty", options=("--input", "new.jsonl"), form="chat",
          files={"new.jsonl": '{"messages": null}\n{"messages": "a"}\n'}),
    asked("G01-number", "new.jsonl:1: 'question' is a number", options=("--input", "new.jsonl"),
          files={"new.jsonl": '{"question": 1}\n'}),
    *(asked(f"G02-{form}", "--prompt 1: the prompt is empty. Write what the model shall go on from.",
            options=("--prompt", ""), form=form) for form in FORMS),
    *(asked(f"G02-blank-{form}", "--prompt 2: the prompt is empty.", options=("--prompt", "a", "--prompt", " \n "),
            form=form) for form in FORMS[1:]),
    asked("G02-line", "new.txt:2: the prompt is empty.", options=("--input", "new.txt"), files={"new.txt": "a\n\nb\n"}),
    asked("G02-file", "new.txt: the file is empty.", options=("--input", "new.txt"), files={"new.txt": ""}),
    asked("G02-message", "new.jsonl:1: 'messages': messages[0].content: is empty", options=("--input", "new.jsonl"),
          form="chat", files={"new.jsonl": '{"messages": [{"role": "user", "content": ""}]}\n'}),
    asked("G02-answered", "new.jsonl:1: 'messages': messages[0].role: the last message must be the user's",
          options=("--input", "new.jsonl"), form="chat",
          files={"new.jsonl": '{"messages": [{"role": "assistant", "content": "a"}]}\n'}),
    asked("G04-surrogate", r"--prompt 1: the prompt has half of a character (\udce9) at character 4",
          options=("--prompt", "caf\udce9")),
    asked("G04-file", "new.jsonl:1: 'question' has half of a character", options=("--input", "new.jsonl"),
          files={"new.jsonl": '{"question": "\\ud800"}\n'}),
    asked("G04-bytes", "new.txt:1: byte 0xE9 at column 4 is not UTF-8", "such as --encoding latin-1",
          options=("--input", "new.txt"), files={"new.txt": b"caf\xe9\n"}),
    asked("G05", "--column: no column 'question' in new.csv. Columns found: 'id', 'questoin'. Did you mean 'questoin'?",
          options=FROM_FILE, files={"new.csv": "id,questoin\na,b\n"}),
    asked("G05-option", "--column: no column 'text' in new.csv. Columns found: 'id', 'question'",
          options=(*FROM_FILE, "--column", "text")),
    asked("G05-txt", "--column: goes with a table", options=("--input", "new.txt", "--column", "question"),
          files={"new.txt": "a\n"}),
    asked("G05-file", "none.csv: no such file", options=("--input", "none.csv")),
    asked("G06", "--output out.csv: exists already. Add --force to replace it.",
          options=(*FROM_FILE, "--output", "out.csv"), files={"new.csv": QUESTIONS, "out.csv": "mine"}),
    asked("G06-name", "--output out.xlsx: the name must end in one of .csv, .jsonl, .parquet",
          options=(*FROM_FILE, "--output", "out.xlsx")),
    asked("G06-folder", "--output none/out.csv: no such folder", options=(*FROM_FILE, "--output", "none/out.csv")),
    asked("G08-nothing", "--max-new-tokens: must be greater than or equal to 1, found 0",
          options=("--prompt", "a", "--max-new-tokens", "0")),
    asked("G08-room", "--max-new-tokens: 64 leave no room for a prompt in 64. Write at most 32.",
          options=("--prompt", "a", "--max-new-tokens", "64")),
    asked("G08-cold", "--temperature: must be greater than 0, found 0. The likeliest tokens are written with --beams 1",
          options=("--prompt", "a", "--temperature", "0")),
    asked("G08-words", "--top-k: must be a whole number, found 'many'", options=("--prompt", "a", "--top-k", "many")),
    asked("G08-both", "--temperature: draws each token, and --beams searches for the likeliest text. Keep one of them.",
          options=("--prompt", "a", "--temperature", "0.7", "--beams", "4")),
    asked("G08-seed", "--seed: has no effect: these settings draw nothing", options=("--prompt", "a", "--seed", "1")),
    asked("G08-refuse", "--prompt 1: longer than windows.max_tokens 48. Found: 61 tokens",
          options=("--prompt", "x" * 60), form="seq2seq",
          build=lambda folder: edit_windows(folder / "seq2seq/finetune.json", too_long="refuse")),
    asked("D11-text", "--text: pairs is for text-generation, and labels no text. Write --prompt.",
          options=("--text", "a")),
    asked("D11-prompt", "--prompt: classifier is for text-classification, and writes no text. Write --text.",
          options=("--prompt", "a"), form="classifier"),
    asked("D11-beams", "--beams: is about texts to be written, and classifier is for text-classification",
          options=("--text", "a", "--beams", "2"), form="classifier"),
    asked("D11-bare", "bare: has no finetune.json. Name a run folder", options=("--prompt", "a"), form="bare"),
    refused("D11", recipe("classifier"), "/classifier: has a head for another task (BertForSequenceClassification)",
            needs=("classifier",)),
    refused("D11-seq2seq", recipe("classifier", task="seq2seq"), "/classifier: has a head for another task",
            needs=("classifier",)),
    refused("D11-untrained", recipe("classifier"), "/classifier: has a head for another task",
            argv=("predict", "recipe.yaml", "--prompt", "a"), needs=("classifier",)),
    refused("D11-labels", {}, "--prompt: recipe.yaml is for text-classification, and writes no text",
            argv=("predict", "recipe.yaml", "--prompt", "a")),
    refused("D11-scratch", recipe("none") | {"recipe.yaml": str(recipe("none")["recipe.yaml"]).replace(
            "{name: none}", "{from_scratch: {architecture: gpt2, vocab_size: 300, hidden_size: 8, "
            "num_attention_heads: 2, num_hidden_layers: 1, intermediate_size: 8}}")},
            "recipe.yaml:2: model.from_scratch: the model is new and has learnt nothing. Train it, and name the run.",
            argv=("predict", "recipe.yaml", "--prompt", "a")),
    refused("D11-crossval", recipe("pairs"), "recipe.yaml:1: task: cross-validation is of text-classification",
            argv=("crossval", "recipe.yaml", "--folds", "2", "--run", "out"), needs=("pairs",)),
]  # fmt: skip
PROMISED = {*(f"G{number:02d}" for number in (1, 2, 3, 5, 6, 7, 8, 9)), "D11"}
ACCEPTED = {"G03", "G07", "G09"}


def edit_windows(path: Path, **changes: object) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["windows"] |= changes
    path.write_text(json.dumps(settings), encoding="utf-8")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished writer of each form, a classifier, and a writer that says nothing of itself."""
    folder = tmp_path_factory.mktemp("ready")
    for form in FORMS:
        finished_writer(folder / form, form)
    finished_classifier(folder / "classifier")
    tiny_writer_folder(folder / "bare")
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_in(tmp_path, monkeypatch)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_refused(case: Case, ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_files(case, tmp_path, ready=ready)
    check_refused(case, tmp_path, capfd, argv=case.arguments())


def test_every_promised_case_is_here() -> None:
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))
    assert not PROMISED - {id[:3] for id in ids} - ACCEPTED
    tests = [name for name in globals() if name.startswith("test_")]
    assert all(any(re.search(rf"_{id.lower()}_", name) for name in tests) for id in ACCEPTED)


def test_an_empty_stdin_is_refused(
    ready: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["predict", str(ready / "text"), "--input", "-"]) == 2
    assert "error: stdin: the file is empty." in capfd.readouterr().err


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("pairs", "warning: 28 tokens at the beginning of 1 of 2 prompts were cut off: the model reads no more"),
        ("seq2seq", "warning: 33 tokens at the end of 1 of 2 prompts were cut off: the model reads 48 at most"),
    ],
)  # fmt: skip
def test_g03_a_prompt_longer_than_the_context_is_cut_and_told(
    form: str, told: str, ready: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = on_disk(ready / form)
    long = "x" * 80
    assert main(["predict", str(ready / form), "--prompt", long, "--prompt", "short", "--json", "--quiet"]) == 0
    shown = capfd.readouterr()
    rows = [json.loads(line) for line in shown.out.rstrip("\n").split("\n")]
    assert [row["prompt"] for row in rows] == [long, "short"] and told in shown.err
    assert [row["prompt_tokens_cut"] for row in rows] == [28 if form == "pairs" else 33, 0]
    assert on_disk(ready / form) == before


def test_g07_rows_stay_in_the_order_of_the_file(ready: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Texts are written longest prompt first; each is the one that its prompt gets alone."""
    prompts = ["a fish", "the lion eats the bear and the fish", "no", "under the roof", "b"]
    Path("new.csv").write_text("question\n" + "".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    assert main(["predict", str(ready / "pairs"), "--input", "new.csv", "--output", "out.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")]
    assert [(row["id"], row["prompt"]) for row in rows] == [(f"new.csv:{n + 2}", p) for n, p in enumerate(prompts)]
    predictor = TextPredictor.load(ready / "pairs")
    assert [row["text"] for row in rows] == [predictor.write([prompt])[0].text for prompt in prompts]


def test_g06_force_replaces_the_file(ready: Path) -> None:
    Path("new.csv").write_bytes(QUESTIONS)
    Path("out.csv").write_text("mine")
    command = ["predict", str(ready / "pairs"), "--input", "new.csv", "--output", "out.csv", "--force", "--quiet"]
    assert main(command) == 0
    assert Path("out.csv").read_text(encoding="utf-8").startswith('"id","prompt","text","tokens","cut"')


def test_g09_chinese_is_scored_by_its_own_words_and_says_so() -> None:
    texts = ["今天天气很好我们去公园", "他昨天买了一本新书"]
    scores = {name: score_texts(text_statistics(texts, texts, bleu_tokenizer=name))["bleu"] for name in ("zh", "13a")}
    assert scores == {"zh": 100, "13a": 0}  # the default would call every word wrong
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "target": texts})
    prepared: Any = type("Prepared", (), {"splits": {"train": rows}})
    loaded = recipe_of("pairs")
    assert choose_bleu_tokenizer(loaded, writer_recipe(loaded.recipe), prepared) == "zh"
    assert "tok:zh" in signatures("zh")["bleu"]


def test_g09_an_empty_prediction_scores_0_and_is_counted_and_an_empty_reference_is_refused() -> None:
    scores = score_texts(text_statistics(["a b c d", "a b c d"], ["", "a b c d"], bleu_tokenizer="13a"))
    assert scores["empty_share"] == 0.5 and scores["exact_match"] == 0.5
    assert scores["bleu"] is not None and 0 < scores["bleu"] < 50
    assert score_texts(text_statistics(["a b c d"], [""], bleu_tokenizer="13a"))["bleu"] == 0
    with pytest.raises(DataError, match=r"new\.csv:2.*empty"):
        text_statistics(["", "a"], ["a", "a"], bleu_tokenizer="13a", origins=["new.csv:2", "new.csv:3"])


def test_d11_a_writer_is_loaded_as_no_classifier_nor_the_other_way(ready: Path) -> None:
    with pytest.raises(ModelError, match="no classification head"):
        Predictor.load(ready / "pairs")
    with pytest.raises(ModelError, match="is a model for text-classification, and writes no text"):
        TextPredictor.load(ready / "classifier")
    shutil.copy(ready / "pairs/finetune.json", "finetune.json")
    for path in (ready / "classifier").iterdir():
        if path.name != "finetune.json":
            shutil.copy(path, path.name)
    with pytest.raises(ModelError, match="has a head for another task"):
        TextPredictor.load(".")
