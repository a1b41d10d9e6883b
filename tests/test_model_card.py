"""The model card: front matter the Hub accepts, scores of exactly these weights, and nothing that should not leave."""

from __future__ import annotations

import csv
import getpass
import hashlib
import itertools
import random
import re
import shutil
import socket
from pathlib import Path
from typing import Any, get_args

import pytest
import transformers
import yaml  # type: ignore[import-untyped]
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from tiny_reports import split_scores, tiny_data, tiny_run

from finetune.cli import main
from finetune.errors import CheckpointError
from finetune.experiment import train
from finetune.recipe_file import check_recipe
from finetune.report.card_facts import Which
from finetune.report.model_card import render_model_card
from finetune.report.writing import write_report
from finetune.run_files import Calibration, FitVerdict, PairedTest, Reliability, RunInfo, Scores, Suggestion
from finetune.runs import Run, write_json, write_text
from finetune.yaml_text import read_yaml

BOTH: tuple[Which, ...] = get_args(Which)
HOSTILE = ["<script>alert(1)</script>", "a|b", "x\n---\ny: [", "=HYPERLINK(1)"]
SOURCE = "re: [views] #1.csv"
WORDS = ["aardvark", "bluebell", "cormorant", "dandelion"]
RECIPE = """
task: text-classification
model:
  from_scratch: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, vocab_size: 200}
data: {source: "@source", columns: {text: text, label: label, group: author}}
windows: {max_tokens: 16, stride: 4}
training: {num_train_epochs: 2, per_device_train_batch_size: 16, learning_rate: 1.0e-2, use_cpu: true}
evaluation: {bootstrap: 100, baselines: [majority, naive_bayes]}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A real run whose labels break YAML, Markdown and HTML, from a file that is named by its whole path."""
    folder = tmp_path_factory.mktemp("cards")
    source = folder / SOURCE
    chance = random.Random(5)
    with source.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label", "author"])
        for row in range(240):
            number = row % 4
            words = [WORDS[number], *(chance.choice(["xylophone", "quagmire", "zeppelin"]) for _ in range(6))]
            writer.writerow([f"{row} {' '.join(words)}", HOSTILE[number], f"somebody{row // 3}"])
    text = read_yaml(RECIPE.replace("@source", str(source)), name="recipe.yaml")
    return train(check_recipe(text, base=folder, name="cards"), folder=folder / "run: 1")


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy to change, without the checkpoints."""
    copy = tmp_path / trained.folder.name
    shutil.copytree(trained.folder, copy, ignore=shutil.ignore_patterns("checkpoints", ".lock"))
    return Run(copy)


def front(text: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    assert found is not None
    values = yaml.safe_load(found[1])
    card: Any = ModelCard(text).data
    assert card.to_dict() == values  # the Hub's own reader sees the same
    return dict(values)


def rendered(text: str) -> str:
    return str(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text.split("\n---\n", 1)[1]))


def change(run: Run, **fields: Any) -> Scores:
    scores = run.read(run.scores, Scores).model_copy(update=fields)
    write_json(run.scores, scores)
    return scores


def change_recipe(run: Run, old: str, new: str) -> None:
    text = run.recipe.read_text(encoding="utf-8")
    assert re.search(old, text)
    write_text(run.recipe, re.sub(old, new, text, count=1))


def of_test(text: str) -> dict[str, float]:
    """Metric name -> value in the model-index."""
    found: list[Any] = ModelCard(text).data.get("eval_results") or []
    return {each.metric_name: each.metric_value for each in found}


@pytest.mark.parametrize("which", BOTH)
def test_the_front_matter_holds_the_test_scores_of_these_weights(run: Run, which: Which) -> None:
    scores = run.read(run.scores, Scores)
    best, last = scores.splits["test"].scores, scores.last["test"].scores
    other = last["f1_macro"].model_copy(update={"value": 0.123456789})
    changed = scores.last["test"].model_copy(update={"scores": {**last, "f1_macro": other}})
    change(run, last={**scores.last, "test": changed}, weights={"best": "best-digest", "last": "last-digest"})
    text = render_model_card(run, which=which)
    values, found = front(text), of_test(text)
    assert found["F1 (macro)"] == (0.123456789 if which == "last" else best["f1_macro"].value)
    assert found["Accuracy"] == (best if which == "best" else last)["accuracy"].value
    assert values["library_name"] == "transformers" and values["pipeline_tag"] == "text-classification"
    assert "license" not in values and "base_model" not in values and "language" not in values
    result = values["model-index"][0]["results"][0]
    assert result["dataset"] == {"name": SOURCE, "type": "custom", "split": "test"}
    assert values["model-index"][0]["name"] == "run: 1"
    assert f"`{which}-digest`" in text and text.count("-digest") == 1


def test_undefined_scores_are_left_out_of_the_index(run: Run) -> None:
    scores = run.read(run.scores, Scores)
    split = scores.splits["test"]
    nothing = split.scores["roc_auc"].model_copy(update={"value": None, "low": None, "high": None})
    named = {**split.scores, "roc_auc": nothing}
    change(run, splits={**scores.splits, "test": split.model_copy(update={"scores": named})})
    found = of_test(render_model_card(run, which="best"))
    assert "ROC AUC" not in found and "Accuracy" in found


def test_names_from_the_hub_and_the_corpora(run: Run) -> None:
    info = run.read(run.info, RunInfo)
    write_json(run.info, info.model_copy(update={"model_origin": "hub cache"}))
    change_recipe(run, r"(?s)\nmodel:.*?\ndata:", "\nmodel: {name: owner/some-bert}\ndata:")
    change_recipe(run, r"  source: .*", "  source: owner/reviews")
    values = front(render_model_card(run, which="best"))
    assert values["base_model"] == "owner/some-bert" and values["datasets"] == ["owner/reviews"]
    assert values["model-index"][0]["results"][0]["dataset"]["type"] == "owner/reviews"
    change_recipe(run, r"  source: .*", "  source: builtin:python-docs")
    write_json(run.info, info.model_copy(update={"model_origin": "folder"}))
    values = front(render_model_card(run, which="best"))
    assert values["language"] == "en" and "datasets" not in values
    assert "base_model" not in values  # a folder of that name is no name on the Hub
    assert values["model-index"][0]["results"][0]["dataset"]["name"] == "python-docs"


@pytest.mark.parametrize("which", BOTH)
def test_labels_are_shown_and_never_read_as_markup(run: Run, which: Which) -> None:
    text = render_model_card(run, which=which)
    html = rendered(text)
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html
    assert "<td>a|b</td>" in html and "x\\n---\\ny: [" in html
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings[:3] == ["Scores", "Labels", "How to use it"] and headings[-1] == "Environment"
    # Every row of every table has as many cells as its head.
    for table in re.findall(r"(?s)<table>.*?</table>", html):
        assert len({len(re.findall(r"<t[hd][ >]", row)) for row in table.split("</tr>")[:-1]}) == 1


def test_nothing_private_gets_into_it(trained: Run, run: Run) -> None:
    for each, which in itertools.product((trained, run), BOTH):
        text = render_model_card(each, which=which)
        for word in (*WORDS, "xylophone", "quagmire", "somebody", str(each.folder.parent), "/tmp", "../"):
            assert word not in text, word
        for name in (socket.gethostname(), getpass.getuser()):
            assert not re.search(rf"\b{re.escape(name)}\b", text), name


def test_a_file_brought_by_its_whole_path_is_named_without_it(run: Run) -> None:
    told = run.data.read_text(encoding="utf-8")
    write_text(run.data, told.replace(f'"{SOURCE}"', f'"/mnt/private/secret/{SOURCE}"'))
    text = render_model_card(run, which="best")
    assert SOURCE in text and "secret" not in text


def test_a_closed_test_split_gives_no_results_and_says_so(run: Run) -> None:
    scores = run.read(run.scores, Scores)
    closed = {"validation": scores.splits["validation"]}
    change(
        run, splits=closed, last={"validation": scores.last["validation"]}, baselines={}, baseline_tests={},
        beats_baselines=None, strongest_baseline=None,
    )  # fmt: skip
    run.test_openings.unlink()
    for which in BOTH:
        text = render_model_card(run, which=which)
        assert "model-index" not in front(text) and "The test split was not opened" in text
        assert "optimistic" in text


def test_an_older_folder_without_the_later_fields(run: Run) -> None:
    change(
        run, fit=None, calibration=None, weights={}, baseline_tests={}, strongest_baseline=None, beats_baselines=None
    )
    (run.best / "finetune.json").unlink()
    run.data.unlink()
    run.recipe.unlink()
    run.test_openings.unlink()
    for which in BOTH:
        text = render_model_card(run, which=which)
        assert of_test(text)["Accuracy"] is not None
        assert "sha256 of the weights" not in text and "## Calibration" not in text


def test_it_tells_the_paired_tests_the_calibration_and_the_openings(run: Run) -> None:
    test = PairedTest(
        metric="f1_macro", first=0.9, second=0.5, difference=0.4, low=0.3, high=0.5, p=0.001, p_mcnemar=None,
        only_first_right=20, only_second_right=3, documents=36, groups=12, better=True,
    )  # fmt: skip
    before = Reliability(ece=0.2, log_loss=0.7, bins=[])
    after = Reliability(ece=0.05, log_loss=0.4, bins=[])
    change(
        run, baseline_tests={"majority": test}, beats_baselines=True, strongest_baseline="majority",
        fit=FitVerdict(state="overfitting", since_epoch=2, suggestions=[Suggestion(override="training.x=1", why="")]),
        calibration=Calibration(temperature=1.5, folded=True, thresholds={"a|b": 0.3}, before=before, after=after),
        weights={"best": "aa", "last": "bb"},
    )  # fmt: skip
    run.record_test_opening(by="evaluate", documents=36)
    text = render_model_card(run, which="best")
    verdict = text.split("\n# ", 1)[1].split("\n\n")[1]
    assert "beats every baseline" in verdict and "overfits from epoch 2" in verdict
    for found in ("+0.400 [+0.300, +0.500]", "p = 0.001", "Temperature 1.500", "0.050", "a\\|b", "opened 2 times"):
        assert found in text, found
    last = render_model_card(run, which="last")
    assert "beats every baseline" not in last and "Temperature" not in last
    assert "Only the model in `best/` was compared" in last


def test_a_run_without_scores_is_refused(run: Run) -> None:
    run.scores.unlink()
    with pytest.raises(CheckpointError, match=r"scores\.json"):
        render_model_card(run, which="best")


def test_the_report_writes_a_card_beside_each_model_with_its_own_scores(tmp_path: Path) -> None:
    """After the first epochs the steps are so large that the last model is another one, and worse."""
    chance = random.Random(7)
    rows = ["text,label"]
    for row in range(200):
        label = chance.choice(["good", "bad"])
        words = ["fine", "warm"] if label == "good" else ["cold", "rude"]
        rows.append(f"{row} {' '.join(chance.choices([*words, 'the', 'a'], k=6))},{label}")
    (tmp_path / "reviews.csv").write_text("\n".join(rows), encoding="utf-8")
    text = RECIPE.replace("@source", "reviews.csv").replace(", group: author", "").replace("1.0e-2", "2.0e-1")
    text = text.replace("num_train_epochs: 2", "num_train_epochs: 4, lr_scheduler_type: constant")
    run = train(check_recipe(read_yaml(text, name="r.yaml"), base=tmp_path, name="r"), folder=tmp_path / "run")
    assert write_report(run.folder) == run.report and run.report.is_file()
    scores, info = run.read(run.scores, Scores), run.read(run.info, RunInfo)
    assert scores.best_step != info.steps
    best, last = ((folder / "README.md").read_text(encoding="utf-8") for folder in (run.best, run.last))
    assert run.card.read_text(encoding="utf-8") == best
    assert of_test(best) != of_test(last)
    for card, folder, splits in ((best, run.best, scores.splits), (last, run.last, scores.last)):
        assert of_test(card)["F1 (macro)"] == splits["test"].scores["f1_macro"].value
        assert of_test(card)["Log loss"] == splits["test"].scores["log_loss"].value
        assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card
    assert "not the chosen ones" in last and "not the chosen ones" not in best


def test_the_code_on_the_card_runs(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    python, shell = re.findall(r"```(?:python)?\n(.*?)\n```", render_model_card(trained, which="best"), re.DOTALL)
    found: dict[str, Any] = {}
    exec(python.replace("PATH_OR_NAME", str(trained.best)), found)
    assert isinstance(found["classify"], transformers.Pipeline) and "max_length=16)" in python
    first = shell.splitlines()[0].removeprefix("finetune ").replace('"a text"', "aardvark").split()
    assert main([str(trained.best) if word == "PATH" else word for word in first] + ["--quiet", "--json"]) == 0
    assert "probabilities" in capsys.readouterr().out


def test_the_last_epoch_of_an_older_run_is_told_by_its_step(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", bare=True, old=True)  # chosen at step 20, no digests
    run.update(steps=60)
    assert "not the chosen ones" in render_model_card(run, which="last")
    run.update(steps=20)
    assert "also the chosen one" in render_model_card(run, which="last")


@pytest.mark.parametrize(
    ("source", "files", "datasets", "kind"),
    [
        ("owner/reviews", ["owner/reviews"], ["owner/reviews"], "owner/reviews"),
        ("owner/reviews", ["owner/reviews/train", "owner/reviews/test"], ["owner/reviews"], "owner/reviews"),
        ("../owner/reviews", ["reviews/a.csv"], None, "custom"),
        ("/mnt/private/reviews.csv", ["reviews.csv"], None, "custom"),
        ("{train: owner/reviews, test: ../t.csv}", ["owner/reviews/train", "t.csv"], ["owner/reviews"], "custom"),
    ],
)
def test_datasets_are_named_when_they_are_of_the_hub(
    tmp_path: Path, source: str, files: list[str], datasets: list[str] | None, kind: str
) -> None:
    run = tiny_run(tmp_path / "run")
    write_text(run.recipe, f"task: text-classification\nmodel: {{name: /mnt/private/b}}\ndata: {{source: {source}}}\n")
    write_json(run.data, tiny_data() | {"files": [{"name": name, "rows": 1} for name in files]})
    text = render_model_card(run, which="best")
    values = front(text)
    assert values.get("datasets") == datasets and "base_model" not in values and "somebody" not in text
    assert values["model-index"][0]["results"][0]["dataset"]["type"] == kind


def test_the_card_is_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "one" / "run")
    text = render_model_card(run, which="best")
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert render_model_card(Run(tmp_path / "two" / "run"), which="best") == text


def test_several_labels_a_document_are_said_and_their_thresholds_shown(tmp_path: Path) -> None:
    several = {split: split_scores(0.6, labels=HOSTILE, multi_label=True) for split in ("validation", "test")}
    calibration = Calibration(temperature=1.0, folded=False, thresholds={HOSTILE[0]: 0.34, "a|b": 0.41})
    run = tiny_run(tmp_path / "run", labels=HOSTILE, splits=several, calibration=calibration)
    write_json(run.best / "finetune.json", {"multi_label": True, "windows": {"max_tokens": 64}})
    text = render_model_card(run, which="best")
    assert "A document may have several labels, or none." in text and "max_length=64" in text
    html = rendered(text)
    assert (
        "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>\n<td>0.340</td>" in html
        and "<td>a|b</td>\n<td>0.410</td>" in html
    )
    assert of_test(text)["F1 (macro)"] == several["test"].scores["f1_macro"].value
