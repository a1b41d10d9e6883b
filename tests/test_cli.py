"""The command line: what it takes, what it prints where, and what it returns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_bert_folder

from finetune import verbs
from finetune.arguments import parsed
from finetune.cli import console, main
from finetune.errors import RecipeError
from finetune.recipe import RECIPES
from finetune.recipe_file import load_recipe

TINY = (
    "model.from_scratch={hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}",
    "windows={max_tokens: 64, stride: 8}",
    "evaluation={baselines: [majority], bootstrap: 50}",
    "training={num_train_epochs: 1, per_device_train_batch_size: 16, use_cpu: true}",
)


def reviews(path: Path, *, header: str = "review,mood", labels: tuple[str, str] = ("good", "bad")) -> Path:
    rows = [f"the film of day {number} is fine,{labels[number % 2]}" for number in range(40)]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def exit_code(*arguments: str) -> Any:
    """What main returns, or what argparse ends with."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: VERB"),
        (["trian", "x"], "Did you mean 'train'?"),
        (["train"], "the following arguments are required: RECIPE. See `finetune --help`."),
        (["train", "x.yaml", "--epochs", "3"], "unknown argument --epochs. A setting is written key=value."),
        (["train", "x.yaml", "--rum", "y"], "unknown argument --rum. Did you mean '--run'?"),
        (["schema", "x"], "unknown argument x"),
        (["train", "x", "--resume=maybe"], "invalid choice: 'maybe'"),
        (["predict", "x"], "one of the arguments --text --prompt --input is required"),
        (
            ["predict", "x", "--text", "a", "--output", "o.csv"],
            "--output, --column, --encoding and --force go with --input",
        ),
        (["train", "notes.txt"], "notes.txt: is neither a recipe (.yaml) nor a data file"),
        (["train", "x.yaml", "seed"], "x.yaml: no such file"),
        (["train", "x.csv", "--text", "a"], "x.csv: no such file. Did you mean 'xy.csv'?"),
        (["train", "xy.yaml", "--text", "a"], "xy.yaml: --text and --label go with a data file (.csv"),
        (["train", "."], "xy.csv: the file is empty"),
        (["train", "nowhere", "--resume"], "nowhere: no such run folder"),
        (["train", "--resume", "nowhere"], "nowhere: no such run folder"),
        (["train", "--resume", "require", "nowhere"], "nowhere: no such run folder"),
        (["train", "nowhere", "--restart"], "nowhere: no such run folder"),
        (["evaluate", "nowhere"], "nowhere: no such run folder"),
        (["predict", "nowhere", "--text", "a"], "nowhere: no such run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_command_lines(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "xy.csv").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "xy.yaml").touch()
    assert exit_code(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and message in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("place", [2, 4])
def test_settings_may_stand_anywhere(place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "x.yaml", "--run", "out"]
    words[place:place] = ["seed=x"]
    (tmp_path / "x.yaml").write_text("task: text-classification\ndata: {source: x.csv}\n", encoding="utf-8")
    assert exit_code(*words, "data.limit=0") == 2
    told = capsys.readouterr().err
    assert "command line: seed: must be a whole number" in told and "command line: data.limit: " in told


def test_a_data_file_trains_and_leaves_a_recipe_that_trains_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "数据").mkdir()
    data = reviews(tmp_path / "数据" / "my reviews.csv")
    first = ["train", str(data), "--text", "review", "--label", "mood", *TINY, "--json", "--quiet"]
    assert main(first) == 0
    shown = capsys.readouterr()
    run = tmp_path / "runs" / "my-reviews-1"
    assert shown.err == ""
    scores = json.loads(shown.out)
    recipe = load_recipe(run / "recipe.yaml").recipe
    assert (recipe.data.columns.text, recipe.data.columns.label) == ("review", "mood")
    assert recipe.data.source == "../../数据/my reviews.csv"
    assert main(["train", str(run / "recipe.yaml"), "--run", "again", "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["splits"] == scores["splits"]
    assert main(first) == 0
    assert (tmp_path / "runs" / "my-reviews-2" / "scores.json").exists(), "a new run has a folder of its own"


def test_check_prints_lines_or_json_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reviews(tmp_path / "a.csv")
    arguments = ["check", "a.csv", "--text", "review", "--label", "mood", *TINY]
    assert main(arguments) == 0
    assert "labels: bad, good" in capsys.readouterr().out.splitlines()
    assert main([*arguments, "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["windows"]["train"]["documents"] == 28 and shown.err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_schema_is_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["discriminator"]["mapping"]) == set(RECIPES)
    of_labels = schema["$defs"]["ClassifierRecipe"]
    assert of_labels["required"] == ["task", "data"] and of_labels["additionalProperties"] is False


def test_ctrl_c_before_a_run_has_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "load_recipe", interrupted)
    assert main(["check", "x.yaml"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(verbs, "load_recipe", broken)
    with pytest.raises(ZeroDivisionError):
        main(["check", "x.yaml"])


def test_our_own_faults_do_not_look_like_a_failed_gate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(verbs, "load_recipe", broken)
    monkeypatch.setattr(sys, "argv", ["finetune", "check", "x.yaml"])
    with pytest.raises(SystemExit) as ended:
        console()
    assert ended.value.code == 70 and "ZeroDivisionError" in capsys.readouterr().err


def test_debug_keeps_the_traceback_of_a_refusal() -> None:
    with pytest.raises(RecipeError):
        main(["check", "x.yaml", "--debug"])


def test_a_reader_that_stops_reading_is_no_error() -> None:
    command = f"{sys.executable} -m finetune schema | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("{", "")


def test_f12_no_terminal_no_stdin_no_utf_8(tmp_path: Path) -> None:
    """Chinese labels where only ASCII can be shown: escaped, not an error."""
    reviews(tmp_path / "评论.csv", labels=("好评", "差评"))
    bare = {"LC_ALL": "C", "TERM": "dumb", "COLUMNS": "40", "PYTHONIOENCODING": "ascii:strict", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "finetune", "check", "评论.csv", "--text", "review", "--label", "mood", *TINY]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command], env={**os.environ, **bare}, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    assert rb"labels: \u597d\u8bc4, \u5dee\u8bc4" in done.stdout


def test_a_warning_is_shown_even_when_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = reviews(tmp_path / "a.csv")
    path.write_text(path.read_text().replace("0 is fine,good", "0 is fine,Good"), encoding="utf-8")
    assert main(["train", "a.csv", "--text", "review", "--label", "mood", *TINY, "--quiet", "--json"]) == 0
    shown = capsys.readouterr()
    assert "warning: labels 'Good' (4 rows), 'good' (16 rows) differ only in the way they are written" in shown.err
    assert json.loads(shown.out)["splits"]["test"]["label_names"] == ["Good", "bad", "good"]


def test_a_group_on_both_sides_of_brought_parts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, first in (("tr.csv", 0), ("te.csv", 100)):
        rows = [f"text {first + row},{'good' if row % 2 else 'bad'},author {row}" for row in range(20)]
        (tmp_path / name).write_text("\n".join(["text,label,author", *rows]), encoding="utf-8")
    (tmp_path / "r.yaml").write_text(
        "task: text-classification\ndata: {source: {train: tr.csv, test: te.csv}, columns: {group: author}}\n",
        encoding="utf-8",
    )
    assert main(["check", str(tmp_path / "r.yaml"), "--quiet"]) == 1
    shown = capsys.readouterr().err
    assert "data.source.test: 20 of 20 rows (100.0 %) are in a group that train has too: author 0, author 1" in shown
    assert "data.leaks: move" in shown


def test_what_a_split_misses_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"text {row},{('good', 'bad')[row % 2]},author {row}" for row in range(60)]
    rows += [f"rare {row},rare,author x" for row in range(6)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label,author", *rows]), encoding="utf-8")
    tiny_bert_folder(tmp_path / "m", texts=rows)
    words = ["model.name=./m", "windows.max_tokens=32", "windows.stride=0", "data.columns.group=author"]
    assert main(["check", str(tmp_path / "a.csv"), *words, "--quiet"]) == 0
    assert "warning: validation has no row of class 'rare'" in capsys.readouterr().out


def test_prepare_is_quiet_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"the film of day {number} is fine,{'good' if number % 2 else 'bad'},{number}" for number in range(40)]
    (tmp_path / "d.csv").write_text("\n".join(["text,label,price", *rows]) + "\n", encoding="utf-8")
    arguments = ["data.numeric={price: min_max}", "--output", str(tmp_path / "out")]
    assert main(["prepare", str(tmp_path / "d.csv"), *arguments, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_list_label_names_the_remedy_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"text": f"text {row}", "label": ["a", "b"]}) for row in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert main(["check", str(tmp_path / "a.jsonl"), "--quiet"]) == 2
    shown = capsys.readouterr().err
    assert "a.jsonl:1: 'label' is a list. Set data.multi_label: true" in shown and shown.count("error:") == 1


def test_a_model_that_cannot_read_the_text_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bert_folder(tmp_path / "m", texts=["only these words are known"])
    rows = [f"{'quartz jukebox vexing' * 3} {row},{'good' if row % 2 else 'bad'}" for row in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    assert main(["check", str(tmp_path / "a.csv"), "model.name=./m", "windows.max_tokens=32", "windows.stride=0"]) == 0
    assert "of the training tokens are unknown to this model's tokenizer" in capsys.readouterr().out


def test_words_of_one_kind_may_stand_on_both_sides_of_an_option() -> None:
    assert parsed(["compare", "a", "--metric", "accuracy", "b"]).run_folders == ["a", "b"]
    assert parsed(["train", "a.yaml", "seed=1", "--quiet", "data.limit=2"]).overrides == ["seed=1", "data.limit=2"]
