"""What preparation hands to a training, from one command to the next: own functions, copies, numbers, windows."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune import branches, experiment
from finetune.cli import main
from finetune.run_files import RunInfo, Scores
from finetune.run_lock import LOCK
from finetune.runs import Run, check_run_folder, read_table

WORDS = {"good": ["fine", "lovely", "clean", "warm"], "bad": ["dirty", "cold", "rude", "broken"]}
RECIPE: dict[str, Any] = {
    "task": "text-classification",
    "model": {
        "from_scratch": {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "vocab_size": 200,
        }
    },
    "data": {"source": "rows.csv", "columns": {"group": "who"}},
    "windows": {"max_tokens": 16, "stride": 4},
    "training": {"num_train_epochs": 2, "per_device_train_batch_size": 16, "use_cpu": True, "learning_rate": 5e-3},
    "evaluation": {"baselines": ["majority"], "bootstrap": 50},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    chance = random.Random(3)
    rows = []
    for row in range(60):
        label = ("good", "bad")[row % 2]
        said = " ".join(chance.choice(WORDS[label]) for _ in range(30 if row % 5 == 0 else 6))
        rows.append(f"{row} {said},{label},p{row // 2},{row}")
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,who,stars", *rows]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_recipe(folder: Path, **sections: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(RECIPE | sections), encoding="utf-8")
    return str(path)


def trained(folder: Path, name: str, **sections: Any) -> Run:
    assert main(["train", write_recipe(folder, **sections), "--run", str(folder / name), "--quiet"]) == 0
    return Run(folder / name)


def weights(run: Run) -> bytes:
    return (run.last / "model.safetensors").read_bytes()


def test_an_own_function_stays_with_the_run_whatever_becomes_of_its_file(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    own = folder / "my_cleaning.py"
    own.write_text("def shout(text): return text.upper().replace('!', '')", encoding="utf-8")
    run = trained(folder, "run", cleaning=["my_cleaning:shout", "drop_empty"])
    copy = run.folder / "functions" / "my_cleaning.py"
    assert copy.read_text("utf-8") == own.read_text("utf-8")
    # Neither the file that is gone nor another of its name decides what the run does.
    own.write_text("def shout(text): raise ValueError('not this one')", encoding="utf-8")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    shutil.copy(own, "my_cleaning.py")

    capsys.readouterr()
    assert main(["predict", str(run.folder), "--text", "lovely clean! " * 20, "--json", "--quiet"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["windows"] > 1 and row["passage"].startswith("LOVELY CLEAN") and "!" not in row["passage"]
    assert main(["predict", str(run.best), "--text", "lovely", "--quiet"]) == 0

    again = folder / "again"
    assert main(["train", str(run.recipe), "--run", str(again), "--quiet"]) == 0
    assert weights(Run(again)) == weights(run)
    assert (again / "functions" / "my_cleaning.py").read_text("utf-8") == copy.read_text("utf-8")
    assert main(["evaluate", str(run.folder), "--quiet"]) == 0

    before = weights(run)
    assert main(["train", str(run.folder), "--resume", "--quiet"]) == 0, "already complete"
    assert main(["train", str(run.folder), "--restart", "--quiet"]) == 0
    assert weights(run) == before


def test_a_stopped_run_goes_on_without_the_original_function_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.py").write_text("def shout(text): return text.upper()", encoding="utf-8")
    whole = trained(folder, "whole", cleaning=["mine:shout"])

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "score_run", stopped)
    recipe = write_recipe(folder, cleaning=["mine:shout"])
    assert main(["train", recipe, "--run", str(folder / "run"), "--quiet"]) == 130
    monkeypatch.setattr(experiment, "score_run", branches.score_run)
    (folder / "mine.py").unlink()
    assert main(["train", str(folder / "run"), "--resume", "--quiet"]) == 0
    assert weights(Run(folder / "run")) == weights(whole)


def test_a_kill_between_the_copy_and_run_json_leaves_a_folder_to_be_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "steps").mkdir()
    (folder / "steps" / "mine.py").write_text("def shout(text): return text.upper()", encoding="utf-8")
    recipe = write_recipe(folder, cleaning=["steps.mine:shout"])

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    begin = Run.begin
    monkeypatch.setattr(Run, "begin", killed)
    assert main(["train", recipe, "--run", "run", "--quiet"]) == 130
    assert sorted(path.name for path in (folder / "run").iterdir()) == [LOCK, "functions"]
    assert (folder / "run" / "functions" / "steps" / "mine.py").is_file()
    check_run_folder(folder / "run")
    capsys.readouterr()
    assert main(["train", "run", "--resume", "--quiet"]) == 2
    assert "was stopped before its training began. Train into it again with --run." in capsys.readouterr().err
    monkeypatch.setattr(Run, "begin", begin)
    assert main(["train", recipe, "--run", "run", "--quiet"]) == 0


def test_numeric_columns_end_check_and_train_before_any_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def worked(*_: Any, **__: Any) -> None:
        raise AssertionError("no data should be read")

    recipe = write_recipe(folder, data={"source": "rows.csv", "numeric": {"stars": "standardize"}})
    with monkeypatch.context() as patched:
        patched.setattr("finetune.data.prepare.prepare", worked)
        for words in (["check", recipe], ["train", recipe, "--run", "run"]):
            assert main([*words, "--quiet"]) == 2
            shown = capsys.readouterr().err
            assert "the models here read text, and would not look at numeric columns" in shown
            assert "recipe.yaml:" in shown and "use finetune prepare" in shown
    assert not (folder / "run").exists()
    assert main(["prepare", recipe, "--quiet"]) == 0


def test_copies_teach_and_are_never_scored(folder: Path) -> None:
    plain = trained(folder, "plain")
    grown = trained(folder, "grown", augmentation={"delete": 0.2, "swap": 0.2, "copies": 2})
    ours, theirs = read_table(grown.splits), read_table(plain.splits)
    rows = list(zip(ours["id"], ours["family"], ours["group"], ours["split"], strict=True))
    originals = [row for row in rows if "#copy" not in row[0]]
    assert originals == list(zip(theirs["id"], theirs["family"], theirs["group"], theirs["split"], strict=True))
    copies = [row for row in rows if "#copy" in row[0]]
    of = {row[0]: row[1:] for row in originals}
    assert len(copies) > 60
    assert all(of[name.partition("#copy")[0]] == (family, group, "train") for name, family, group, _ in copies)

    data = json.loads(grown.data.read_text("utf-8"))
    assert data["augmentation"]["copies"] == len(copies) and data["augmentation"]["words_changed"]["delete"] > 0
    assert data["windows"]["train"]["documents"] == sum(1 for row in rows if row[3] == "train")
    for split in ("validation", "test"):
        mine, other = read_table(grown.predictions(split)), read_table(plain.predictions(split))
        assert [mine[name] for name in ("id", "group", "reference")] == [
            other[name] for name in ("id", "group", "reference")
        ]
        with_copies, without = (run.read(run.scores, Scores).splits[split] for run in (grown, plain))
        assert with_copies.scores["f1_macro"].n == without.scores["f1_macro"].n == len(mine["id"])
    infos = [run.read(run.info, RunInfo) for run in (grown, plain)]
    assert infos[0].data_fingerprint != infos[1].data_fingerprint
    assert infos[0].steps == 2 * -(-sum(1 for row in rows if row[3] == "train") // 16)


def test_a_run_with_copies_goes_on_as_if_nothing_had_happened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = {"augmentation": {"delete": 0.2}, "training": RECIPE["training"] | {"logging_steps": 1}}
    whole = trained(folder, "whole", **sections)
    fit = experiment.fit
    scored: list[Any] = []

    def stopped_after_an_epoch(loaded: Any, learner: Any, plan: Any, **rest: Any) -> Any:
        score = plan.lesson.score_validation

        def once(predictions: Any) -> Any:
            if scored:
                raise KeyboardInterrupt
            scored.append(predictions)
            return score(predictions)

        object.__setattr__(plan.lesson, "score_validation", once)
        return fit(loaded, learner, plan, **rest)

    monkeypatch.setattr(experiment, "fit", stopped_after_an_epoch)
    recipe = write_recipe(folder, **sections)
    assert main(["train", recipe, "--run", "run", "--quiet"]) == 130
    monkeypatch.setattr(experiment, "fit", fit)
    run = Run(folder / "run")
    assert run.read(run.info, RunInfo).status == "stopped" and not run.scores.exists()
    assert main(["train", "run", "--resume=require", "--quiet"]) == 0
    assert weights(run) == weights(whole)
    assert read_table(run.predictions("test")) == read_table(whole.predictions("test"))


def test_windows_are_told_before_training_and_kept_in_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(folder)
    assert main(["check", recipe, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    audit = next(place for place, line in enumerate(lines) if line.startswith("train:"))
    assert "token" in lines[audit] and "window" in " ".join(lines[:4])
    assert audit < lines.index("labels: bad, good")
    run = trained(folder, "run")
    windows = json.loads(run.data.read_text("utf-8"))["windows"]
    for split in ("train", "validation", "test"):
        assert windows[split]["lengths"] and windows[split]["documents"] == windows[split]["lengths"]["documents"]
    table = read_table(run.predictions("test"))
    assert max(table["windows"]) > 1 and min(table["windows"]) == 1
    assert sum(table["windows"]) == windows["test"]["windows"]
    text_of = {
        f"rows.csv:{line}": row.split(",")[0]
        for line, row in enumerate((folder / "rows.csv").read_text("utf-8").splitlines(), start=1)
    }
    for name, count, start, end in zip(
        table["id"], table["windows"], table["passage_start"], table["passage_end"], strict=True
    ):
        whole = text_of[name]
        assert 0 <= start < end <= len(whole)
        assert (whole[start:end] == whole) == (count == 1)
