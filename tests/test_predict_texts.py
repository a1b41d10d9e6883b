"""`finetune predict` for prompts: on the screen as they are written, from files and stdin, by a run and by a recipe."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from finished_writers import finished_writer
from test_startup import last_line
from tiny_models import tiny_writer_folder

from finetune.cli import main
from finetune.runs import Run, read_table
from finetune.text_predictor import TextPredictor

WORDS = ["the lion eats the bear", "a fish", "under the old roof sits a small wolf", "no", "the bear finds the fish"]
RECIPE = """task: text-generation
model: {name: base}
data: {source: pairs.jsonl, columns: {prompt: question, completion: answer}}
windows: {max_tokens: 48}
generation: {max_new_tokens: 12, do_sample: true, top_k: 40EXAMPLES}
training: {num_train_epochs: 1, per_device_train_batch_size: 16, use_cpu: true}
evaluation: {baselines: [], bootstrap: 0}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders pairs and chat, which draw what they write."""
    folder = tmp_path_factory.mktemp("models")
    for form in ("pairs", "chat", "text"):
        finished_writer(folder / form, form, do_sample=True, top_k=40)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A writer that was trained for a moment."""
    folder = tmp_path_factory.mktemp("run")
    tiny_writer_folder(folder / "base", "gpt2")
    rows = [{"question": f"{WORDS[number % 5]} {number}", "answer": f"answer {number}"} for number in range(60)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.replace("EXAMPLES", ""), encoding="utf-8")
    assert main(["train", str(folder / "recipe.yaml"), "--run", str(folder / "run"), "--quiet", "--json"]) == 0
    return Run(folder / "run")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command prints, which is all it says."""
    capsys.readouterr()
    assert main([*map(str, words), "--quiet"]) == 0, capsys.readouterr().err
    told = capsys.readouterr()
    assert told.err == ""
    return told.out


def rows_of(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shown(capsys, *words).rstrip("\n").split("\n")]


def test_a_run_writes_for_its_test_prompts_what_its_predictions_say(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted, source = read_table(run.predictions("test")), run.folder.parent / "pairs.jsonl"
    lines = source.read_text(encoding="utf-8").splitlines()
    asked = [lines[int(id_.rpartition(":")[2]) - 1] for id_ in predicted["id"]]
    (tmp_path / "test.jsonl").write_text("\n".join(asked), encoding="utf-8")
    rows = rows_of(capsys, "predict", run.folder, "--input", "test.jsonl")
    assert [row["text"] for row in rows] == predicted["prediction"]
    assert [row["cut"] for row in rows] == predicted["cut"]
    assert len(rows) > 5 and len({row["text"] for row in rows}) > 5


def test_one_prompt_gives_its_text_alone(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [row] = rows_of(capsys, "predict", models / "pairs", "--prompt", "a fish", "--json")
    assert list(row) == ["prompt", "text", "tokens", "cut", "prompt_tokens_cut"] and row["prompt"] == "a fish"
    visible = "".join(each if each in "\t\n" or each.isprintable() else f"\\u{ord(each):04x}" for each in row["text"])
    assert shown(capsys, "predict", models / "pairs", "--prompt", "a fish") == visible + "\n"


def test_a_text_appears_as_it_is_written(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []

    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    monkeypatch.setattr("sys.stdout", Terminal())
    assert main(["predict", str(models / "pairs"), "--prompt", "a fish", "--quiet"]) == 0
    assert len(pieces) > 3 and pieces[-1] == "\n"


def test_several_prompts_head_their_texts(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.verbs_of_predicting.SHOWN_CHARACTERS", 20)
    words = ["predict", models / "text", "--beams", 1, "--prompt", "a\nfish", "--prompt", "x" * 40]
    texts = [row["text"] for row in rows_of(capsys, *words, "--json")]
    assert texts[0].isprintable()  # by chance, as these weights are
    told = shown(capsys, *words)
    assert told.startswith(f"[1] a fish\n{texts[0]}\n\n[2] {'x' * 19}…\n")


def test_settings_are_stored_and_can_be_changed(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(*options: object) -> str:
        return str(rows_of(capsys, "predict", models / "pairs", "--prompt", "a fish", "--json", *options)[0]["text"])

    assert text() == text("--seed", 13) != text("--seed", 14)
    assert text("--temperature", 0.01) == text("--top-k", 1) == text("--beams", 1) != text("--beams", 3)
    assert text("--top-p", 1e-9) == text("--beams", 1)
    [row] = rows_of(capsys, "predict", models / "pairs", "--prompt", "a", "--json", "--max-new-tokens", 3)
    assert row["tokens"] == 3 and row["cut"]
    assert text("--beams", 1) != text("--beams", 1, "--repetition-penalty", 5)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_in_and_out_keep_the_order(
    models: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").write_text("n,question\n" + "".join(f"{n},{words}\n" for n, words in enumerate(WORDS)))
    expected = rows_of(capsys, "predict", models / "pairs", "--input", "in.csv")
    assert [row["id"] for row in expected] == [f"in.csv:{line}" for line in range(2, 7)]
    assert [row["prompt"] for row in expected] == WORDS
    alone = TextPredictor.load(models / "pairs").write(WORDS)
    assert [row["text"] for row in expected] == [one.text for one in alone]
    assert shown(capsys, "predict", models / "pairs", "--input", "in.csv", "--output", f"out{suffix}") == ""
    path = tmp_path / f"out{suffix}"
    if suffix == ".parquet":
        found = pyarrow.parquet.read_table(path).to_pylist()
    elif suffix == ".jsonl":
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        with path.open(encoding="utf-8", newline="") as handle:
            found = list(csv.DictReader(handle))
        expected = [{name: str(value) for name, value in row.items()} for row in expected]
    assert found == expected


@pytest.mark.parametrize("name", ["in.txt", "-"])
def test_every_line_of_a_text_is_a_prompt(
    models: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "\ufefffisch\r\nbär\r\n".encode()
    (tmp_path / "in.txt").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    rows = rows_of(capsys, "predict", models / "text", "--input", name)
    assert [row["prompt"] for row in rows] == ["fisch", "bär"]
    assert [row["id"].rpartition(":")[2] for row in rows] == ["1", "2"]


def test_chats_are_messages_json_or_words(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = [{"role": "user", "content": "a fish"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in (chat, chat)))
    (tmp_path / "in.csv").write_text('messages,words\n"[{""role"": ""user"", ""content"": ""a fish""}]",a fish\n')
    told = rows_of(capsys, "predict", models / "chat", "--input", "in.jsonl")
    assert [row["prompt"] for row in told] == [chat, chat]
    for column in ("messages", "words"):
        [row] = rows_of(capsys, "predict", models / "chat", "--input", "in.csv", "--column", column)
        assert row | {"id": ""} == told[0] | {"id": ""}
    shown(capsys, "predict", models / "chat", "--input", "in.jsonl", "--output", "out.csv")
    assert '"[{""role"": ""user""' in (tmp_path / "out.csv").read_text(encoding="utf-8")


def test_a_recipe_asks_its_base_model_with_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_writer_folder(tmp_path / "base", "gpt2")
    asked: list[Any] = []
    original = TextPredictor._encoded

    def watched(self: TextPredictor, texts: Any, *more: Any) -> Any:
        asked.extend(texts)
        return original(self, texts, *more)

    monkeypatch.setattr(TextPredictor, "_encoded", watched)
    examples = ", examples: [{prompt: 'a?', completion: b}]"
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("EXAMPLES", examples), encoding="utf-8")
    shown(capsys, "predict", "recipe.yaml", "--prompt", "c?")
    assert asked == ["a?\nb\n\nc?\n"]


def test_what_was_cut_is_told(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(models / "pairs"), "--prompt", "a", "--max-new-tokens", "2"]) == 0
    assert "1 of 1 texts were cut off after 2 tokens, or by the model's context" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--prompt", "a", "--top-p", "4"], ["--text", "a"]], ids=" ".join)
def test_wrong_options_are_refused_before_anything_heavy_is_imported(models: Path, options: list[str]) -> None:
    assert last_line("predict", str(models / "pairs"), *options) == "exit 2; imported: "


def test_an_ascii_terminal(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", told)
    typed = "好 café".encode().decode("ascii", "surrogateescape")  # as Python hands it over there
    assert main(["predict", str(models / "pairs"), "--prompt", typed, "--json", "--quiet"]) == 0
    printed = told.buffer.getvalue()  # type: ignore[attr-defined]
    assert printed.isascii() and json.loads(printed)["prompt"] == "好 café"


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(models: Path) -> None:
    command = f'set -o pipefail; "{sys.executable}" -m finetune predict "{models / "pairs"}" --prompt a --quiet | true'
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
