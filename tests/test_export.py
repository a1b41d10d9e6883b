"""Runs of adapters from recipe to card, and the plain model that `finetune export RUN --merge` makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_adapters import classifier_recipe, classifier_run, writer_run
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from finetune.cli import main
from finetune.errors import ModelError, RecipeError
from finetune.experiment import evaluate, train
from finetune.exporting import export_merged
from finetune.predict import Predictor
from finetune.report.writing import write_report
from finetune.run_files import RunInfo, Scores
from finetune.runs import Run
from finetune.text_predictor import TextPredictor

TEXTS = ["17 fine lovely clean", "23 dirty cold rude", "5 warm broken"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return classifier_run(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module", params=["pairs", "seq2seq"])
def writer(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Run:
    return writer_run(tmp_path_factory.mktemp("writer"), request.param)


def test_a_run_says_what_was_trained_and_what_it_took(classifier: Run) -> None:
    info = classifier.read(classifier.info, RunInfo)
    assert info.trainable_parameters is not None and info.parameters is not None
    assert 0 < info.trainable_parameters < info.parameters
    assert info.optimizer_bytes is not None and info.optimizer_bytes >= 8 * info.trainable_parameters
    assert info.peak_memory_bytes is not None and info.peak_memory_bytes > 50_000_000  # torch alone takes more
    assert any(note.startswith("lora: ") for note in info.notes)


def test_the_scores_are_those_of_the_saved_adapter(classifier: Run) -> None:
    scores = classifier.read(classifier.scores, Scores)
    assert "frozen_encoder" in scores.baselines and {*scores.weights} == {"best", "last"}
    again = evaluate(classifier.folder, split="validation")
    assert again.scores["loss"].value == scores.splits["validation"].scores["loss"].value


def test_the_temperature_is_in_the_adapter(classifier: Run) -> None:
    scores = classifier.read(classifier.scores, Scores)
    assert scores.calibration is not None and scores.calibration.temperature != 1.0 and scores.calibration.folded
    predicted = Predictor.load(classifier.folder).predict(TEXTS)
    for text, ours in zip(TEXTS, predicted, strict=True):
        theirs = {row["label"]: row["score"] for row in with_peft(classifier)(text)[0]}
        assert theirs == pytest.approx(ours.probabilities, abs=1e-5)


def with_peft(run: Run) -> Any:
    """As the card says it: base, adapter, pipeline."""
    config = AutoConfig.from_pretrained(run.best)
    base = AutoModelForSequenceClassification.from_pretrained(run.folder.parent / "base", config=config)
    model = PeftModel.from_pretrained(base, str(run.best)).merge_and_unload()  # type: ignore[operator]
    return pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(run.best), top_k=None)


def test_the_card_names_the_base_and_loads_with_peft(classifier: Run) -> None:
    write_report(classifier.folder)
    card = (classifier.best / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card and "an adapter (lora) of a local model" in card
    assert (
        "| `adapter.r` | 4 |" in card
        and "With peft and transformers" in card
        and str(classifier.folder.parent) not in card
    )
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    names = {"PATH_OR_NAME": str(classifier.best), "PATH_OF_BASE": str(classifier.folder.parent / "base")}
    for name, path in names.items():
        code = code.replace(name, path)
    told: dict[str, Any] = {}
    exec(code, told)  # our own words, with two paths put in
    assert told["classify"](TEXTS[0]) == with_peft(classifier)(TEXTS[0])


def test_a_writers_card_is_python_too(writer: Run) -> None:
    write_report(writer.folder)
    card = (writer.best / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0]
    for name, path in {"PATH_OR_NAME": writer.best, "PATH_OF_BASE": writer.folder.parent / "base"}.items():
        code = code.replace(name, str(path))
    exec(code, {})  # our own words, with two paths put in


def test_a_merged_classifier_says_the_same_to_everyone(classifier: Run, tmp_path: Path) -> None:
    done = export_merged(classifier.folder, output=tmp_path / "merged")
    assert done.difference <= 1e-5
    ours = Predictor.load(classifier.folder).predict(TEXTS)
    merged = Predictor.load(done.folder).predict(TEXTS)
    plain = pipeline("text-classification", model=str(done.folder), top_k=None)
    for one, other, text in zip(ours, merged, TEXTS, strict=True):
        assert one.label == other.label and one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        theirs = {row["label"]: row["score"] for row in plain(text)[0]}
        assert theirs == pytest.approx(other.probabilities, abs=1e-5)
    names = {path.name for path in done.folder.iterdir()}
    assert "model.safetensors" in names and not {name for name in names if name.startswith("adapter")}
    settings = json.loads((done.folder / "finetune.json").read_text())
    assert settings["merged"]["kind"] == "lora" and "base" not in json.dumps(settings["merged"]["base"])


def test_a_merged_writer_writes_the_same(writer: Run, tmp_path: Path) -> None:
    done = export_merged(writer.folder, output=tmp_path / "merged")
    assert done.difference <= 1e-5
    prompts = ["the cat sees the dog 3", "the bird likes the fish 11"]
    ours, merged = (TextPredictor.load(folder).write(prompts) for folder in (writer.folder, done.folder))
    assert [text.text for text in ours] == [text.text for text in merged]


def test_a_writers_scores_are_those_of_the_saved_adapter(writer: Run) -> None:
    scores = writer.read(writer.scores, Scores)
    assert evaluate(writer.folder, split="validation").scores["loss"].value == pytest.approx(
        scores.splits["validation"].scores["loss"].value, abs=1e-6
    )
    zero_shot, own = scores.baselines["zero_shot"]["validation"], scores.splits["validation"]
    assert zero_shot.scores["loss"].value != own.scores["loss"].value  # the base without its adapter


def test_an_adapter_learns_on_a_merged_base(classifier: Run, tmp_path: Path) -> None:
    done = export_merged(classifier.folder, output=tmp_path / "base-2")
    loaded = classifier_recipe(tmp_path, model={"name": "base-2"}, adapter={"kind": "dora", "r": 2})
    run = train(loaded, folder=tmp_path / "run", open_test=False)
    told = json.loads((run.best / "finetune.json").read_text())["adapter"]
    assert told["kind"] == "dora" and told["base"]["name"] == "../../base-2"
    assert {*load_file(run.best / "adapter_model.safetensors")} and done.folder.exists()
    assert Predictor.load(run.folder).predict(TEXTS)


def test_a_frozen_run_ends_as_a_plain_model(tmp_path: Path) -> None:
    run = classifier_run(tmp_path, adapter={"kind": "frozen"})
    info = run.read(run.info, RunInfo)
    assert info.trainable_parameters == 2 * 16 + 2
    base, best = load_file(tmp_path / "base" / "model.safetensors"), load_file(run.best / "model.safetensors")
    assert all(torch.equal(best[f"bert.{name}"], tensor) for name, tensor in base.items())
    scores = run.read(run.scores, Scores)
    # What was scored on features while training is what the saved model says of the texts.
    history = [row for row in run.history_rows() if row.get("step") == scores.best_step and "eval_loss" in row]
    assert scores.calibration is not None
    if not scores.calibration.folded:
        assert history[0]["eval_loss"] == pytest.approx(scores.splits["validation"].scores["loss"].value, abs=1e-5)
    assert history[0]["eval_accuracy"] == scores.splits["validation"].scores["accuracy"].value
    plain = pipeline("text-classification", model=str(run.best), top_k=None)
    for text, ours in zip(TEXTS, Predictor.load(run.folder).predict(TEXTS), strict=True):
        theirs = {row["label"]: row["score"] for row in plain(text)[0]}
        assert theirs == pytest.approx(ours.probabilities, abs=1e-5)
    with pytest.raises(ModelError, match="is a plain model already"):
        export_merged(run.folder)


def test_the_verb(classifier: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(classifier.folder)]) == 2
    assert "Add --merge" in capsys.readouterr().err
    assert main(["export", str(classifier.folder), "--merge", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["model"]) == classifier.folder / "merged" and told["difference"] <= 1e-5
    assert main(["export", str(classifier.folder), "--merge"]) == 2
    assert "exists already. Add --force" in capsys.readouterr().err
    assert main(["export", str(classifier.folder), "--merge", "--force"]) == 0
    assert main(["predict", str(classifier.folder / "merged"), "--text", TEXTS[0], "--quiet"]) == 0


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_merged_model_has_a_card_of_its_own(classifier: Run, tmp_path: Path, which: str) -> None:
    source, merged = classifier.folder if which == "best" else classifier.last, tmp_path / "plain"
    assert main(["export", str(source), "--merge", "--output", str(merged), "--quiet"]) == 0
    card = (merged / "README.md").read_text(encoding="utf-8")
    weights = classifier.read(classifier.scores, Scores).weights[which]
    assert f"the adapter of `{which}/`" in card and f"sha256 of the adapter: `{weights}`" in card
    assert "library_name: transformers" in card and "and need it" not in card and str(tmp_path) not in card
    code = card.split("```python\n")[1].split("```")[0].replace("PATH_OR_NAME", str(merged))
    told: dict[str, Any] = {}
    exec(code, told)  # our own words, with a path put in
    theirs = {row["label"]: row["score"] for row in told["classify"](TEXTS[0])[0]}
    ours = Predictor.load(classifier.folder / which).predict(TEXTS[:1])[0]
    assert theirs == pytest.approx(ours.probabilities, abs=1e-5)


def test_an_adapter_without_its_run_is_merged_without_a_card(classifier: Run, tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    alone = shutil.copytree(classifier.best, tmp_path / "runs" / "x" / "best")  # its base lies where it lay
    shutil.copytree(classifier.folder.parent / "base", tmp_path / "runs" / "base")
    assert main(["export", str(alone), "--merge", "--output", str(tmp_path / "plain"), "--quiet"]) == 0
    assert not (tmp_path / "plain" / "README.md").exists()


def test_what_must_not_be_written_over_is_not(classifier: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match="holds no earlier output"):
        export_merged(classifier.folder, output=tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_moved_base_is_named_by_every_verb(classifier: Run, capsys: pytest.CaptureFixture[str]) -> None:
    base = classifier.folder.parent / "base"
    shutil.move(base, base.with_name("away"))
    try:
        for words in (["predict", "--text", "fine"], ["export", "--merge", "--output", str(base.with_name("merged"))]):
            assert main([words[0], str(classifier.folder), *words[1:], "--quiet"]) == 2
            said = capsys.readouterr().err
            assert "is an adapter of '../../base', which is not found" in said and "Traceback" not in said
    finally:
        shutil.move(base.with_name("away"), base)
