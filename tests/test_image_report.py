"""The page, the card and the last screen of an image run: its images inside the page, its scores beside the floor."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_reader import Page
from PIL import Image
from tiny_reports import paired, tiny_run

from finetune.cli import main
from finetune.image_grid import grid, reduced, save_grid
from finetune.report.image_strings import IMAGES_FOR_DOCUMENTS
from finetune.report.model_card import render_model_card
from finetune.report.page import picture
from finetune.report.run_page import render_run
from finetune.report.sentences import number, outcome, verdict_sentences
from finetune.report.strings import WORDS, Words
from finetune.run_files import ImageSamples, Neighbours, RunInfo, Score, Scores, ShownNeighbour, SplitScores
from finetune.runs import Run, write_json, write_json_lines, write_table, write_text
from finetune.selection.compare import compare_runs
from finetune.summary import render_summary

SCRIPT = "<script>alert(1)</script>"
RECIPE = """task: image-generation
model: {gan: {latent_size: 64}}
data: {source: 'builtin:digits'}
image: {size: 8, channels: grey, condition: label}
report: {language: en}
"""


def image_scores(coverage: float = 0.61, *, recall: float = 0.15, distance: float = 0.021) -> SplitScores:
    values = {"kernel_distance": distance, "coverage": coverage, "recall": recall, "train_on_synthetic": 0.75}
    scores = {
        name: Score(value=value, low=None if name == "kernel_distance" else value - 0.05, n=270, note="270 against 270",
                    high=None if name == "kernel_distance" else value + 0.05)
        for name, value in values.items()
    }  # fmt: skip
    scores["conditional_accuracy"] = Score(value=None, n=0, note="the model is not asked for anything")
    return SplitScores(scores=scores)


def tiny_scores(*, test: bool = True, **changes: Any) -> Scores:
    splits = ["validation", "test"] if test else ["validation"]
    tests = {
        "class_mean": paired(0.61, 0.2, metric="coverage", p=0.001),
        "training_images": paired(0.61, 0.97, metric="coverage", p=0.001, better=False),
    }
    scores = Scores(
        metric_for_best_model="kernel_distance", best_epoch=2.0, best_step=20,
        splits=dict.fromkeys(splits, image_scores()), last=dict.fromkeys(splits, image_scores(0.5)),
        baselines={
            name: dict.fromkeys(splits, image_scores(value, recall=value, distance=far))
            for name, value, far in (("class_mean", 0.2, 0.3), ("training_images", 0.97, 0.001),
                                     ("real_images", 0.96, 0.002))
        } if test else {},
        baseline_tests=tests if test else {}, strongest_baseline="class_mean" if test else None,
        beats_baselines=True if test else None,
    )  # fmt: skip
    return scores.model_copy(update=changes)


def image_run(folder: Path, *, drawn: bool = True, epochs: int = 3, near: float = 0.04, copies: int = 0) -> Run:
    """A finished image run without models, of an adversarial game."""
    run = Run(folder)
    write_json(
        run.info,
        RunInfo(
            status="complete", task="image-generation", started="2026-01-02T03:04:05+00:00", seconds={"fit": 90.0},
            versions={"torch": "2"}, git_revision=None, platform="Linux", seed=13, data_fingerprint="f" * 64,
            steps=30, parameters=1000,
        ),
    )  # fmt: skip
    write_json(run.scores, tiny_scores())
    write_text(run.recipe, RECIPE)
    write_json_lines(
        run.history,
        [{"step": n, "epoch": n / 10, "generator_loss": 1.0 + n, "discriminator_loss": 2.0, "d_real": 0.7,
          "d_drawn": 0.2} for n in range(1, 31)]
        + [{"step": 10 * n, "epoch": float(n), "eval_kernel_distance": 0.1 / n} for n in range(1, 4)],
    )  # fmt: skip
    if not drawn:
        return run
    random = np.random.default_rng(0)
    for epoch in range(1, epochs + 1):
        images = random.integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
        save_grid(run.samples / str(epoch) / "grid.png", images)
        told = ImageSamples(epoch=epoch, step=10 * epoch, count=4, labels=["0", SCRIPT, "0", SCRIPT])
        write_json(run.samples / str(epoch) / "images.json", told)
    for name in ("nearest", "interpolation"):
        save_grid(run.figures / f"{name}.png", images)
    shown = [ShownNeighbour(asked="0", nearest="digits:7", distance=0.01)]
    found = Neighbours(
        split="test", drawn=270, real=270, training=1257, median_drawn=0.2, median_real=0.13, near_distance=0.08,
        near_share=near, copies=copies, shown=shown,
    )  # fmt: skip
    write_json(run.figures / "nearest.json", found)
    return run


def pictures(page: Page) -> list[bytes]:
    sources = [found.get("src") or "" for name, found in page.seen if name == "img"]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    return [base64.b64decode(source.partition(",")[2]) for source in sources]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_images_are_inside_the_page(tmp_path: Path, language: Any) -> None:
    run = image_run(tmp_path / "run")
    page = Page(render_run(run, language))
    found = pictures(page)
    files = [run.samples / "2" / "grid.png", run.samples / "1" / "grid.png", run.samples / "3" / "grid.png"]
    files += [run.figures / "nearest.png", run.figures / "interpolation.png"]
    assert found == [path.read_bytes() for path in files], "the chosen epoch comes first, and is large"
    assert not {"script", "iframe", "link", "object"} & {name for name, _ in page.seen}
    assert all(attributes.get("alt") for name, attributes in page.seen if name == "img")
    policy = next(found for _, found in page.seen if found.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert SCRIPT in page.text
    words = Words(language)
    for title in ("grids", "nearest", "interpolation", "plot.game", "plot.judged"):
        assert words(title) in page.text
    assert words("reconstructions") not in page.text


DATA = {
    "files": [{"name": "flowers", "rows": 1797, "bytes": 99, "encoding": "", "sha256": "a" * 64}],
    "images": {
        "resizing": f"8x8 pixels, grey {SCRIPT}", "values": "whole numbers 0 to 255", "changed": {"of mode P read": 3},
        "skipped": 2, "smallest": [20, 24], "largest": [1000, 800], "train_mean": [0.25], "train_deviation": [0.125],
    },
    "splits": {"sizes": {"train": 1257, "test": 270}, "shares": {"train": 0.8, "test": 0.2}},
    "duplicate_families": {"exact_families": 1, "rows_in_exact_families": 2, "rows_too_plain_to_compare": 4},
    "leaks": {"policy": "refuse", "brought": None, "left": []},
    "label_counts": {"train": {"rose": 3}},
}  # fmt: skip


def test_the_page_and_the_card_say_how_images_were_read(tmp_path: Path) -> None:
    run = image_run(tmp_path / "run")
    write_json(run.data, DATA)
    page = Page(render_run(run, "en")).text
    assert f"8x8 pixels, grey {SCRIPT}" in page and "20 × 24 to 1,000 × 800" in page
    assert "of mode P read: 3" in page and "0.250, 0.125" in page
    assert "images too plain to compare" in page
    card = render_model_card(run, which="best")
    assert "- Images: 8x8 pixels, grey &lt;script&gt;" in card and SCRIPT not in card
    assert "- Changed: of mode P read: 3." in card and "- Skipped, because they could not be read: 2." in card


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_of_images_speaks_of_no_documents(tmp_path: Path, language: Any) -> None:
    run = image_run(tmp_path / "run")
    write_json(run.data, DATA)
    page = Page(render_run(run, language)).text
    foreign = {"en": ("document", "rows", "text "), "zh": ("文档", "文本", "行数")}[language]
    assert [word for word in foreign if word in page] == []
    assert {"en": "Images of each label", "zh": "各标签的图像数"}[language] in page


def test_what_is_said_of_images_has_a_word_of_documents_behind_it() -> None:
    for key, (english, chinese) in IMAGES_FOR_DOCUMENTS.items():
        assert english and chinese and WORDS[key] != (english, chinese)
        for said, usual in zip((english, chinese), WORDS[key], strict=True):
            found, wanted = (set(re.findall(r"{(\w+)}", each)) for each in (said, usual))
            assert found == wanted, key


def test_curves_of_both_sides_are_drawn(tmp_path: Path) -> None:
    page = Page(render_run(image_run(tmp_path / "run", drawn=False), "en"))
    labels = [found["aria-label"] or "" for name, found in page.seen if name == "svg" and "aria-label" in found]
    assert any("generator: 2.000 → 31.000; discriminator: 2.000 → 2.000" in label for label in labels)
    assert any("real, D(x): 0.700 → 0.700; drawn, D(G(z)): 0.200 → 0.200" in label for label in labels)
    assert any(label.startswith("kernel_distance on validation by epoch") for label in labels)
    assert not pictures(page)


def test_few_of_many_epochs_are_shown(tmp_path: Path) -> None:
    page = Page(render_run(image_run(tmp_path / "run", epochs=30), "en"))
    assert "7 of 30 evaluations are shown; the others are in samples/." in page.text


@pytest.mark.parametrize(
    ("near", "copies", "said"),
    [
        (0.05, 0, "Nothing here says that it copies"),
        (0.4, 0, "It draws training images again, or only few kinds"),
        (0.05, 3, "3 of them are copies, equal in every pixel"),
    ],
)
def test_the_page_says_whether_it_copies(tmp_path: Path, near: float, copies: int, said: str) -> None:
    assert said in Page(render_run(image_run(tmp_path / "run", near=near, copies=copies), "en")).text


def test_the_verdict_leaves_the_copies_out_and_names_the_floor() -> None:
    first = verdict_sentences(tiny_scores())[0]
    assert first.startswith("This model beats every baseline: test coverage 0.610")
    assert "class_mean, has 0.200" in first
    assert "training_images" not in first
    assert "Training images handed out again, which need not be beaten, have a coverage of 0." in first
    assert "Test kernel_distance is 0.0210; real images against other real ones have 0.00200." in first
    assert "Its recall is 0.150 [0.100, 0.200]: more than half of the real images lie where it draws nothing." in first
    assert outcome(tiny_scores()) == "good"
    alone = tiny_scores(baselines={}, baseline_tests={}, beats_baselines=None, strongest_baseline=None)
    assert verdict_sentences(alone)[0].startswith("No baseline was tested beside this model. Test kernel_distance is")
    assert outcome(alone) == "open"
    assert "The test split was not opened" in verdict_sentences(tiny_scores(test=False))[0]
    good = {split: image_scores(recall=0.8) for split in ("validation", "test")}
    assert "draws nothing" not in verdict_sentences(tiny_scores(splits=good))[0]


def test_recall_and_training_on_drawn_images_stand_beside_accuracy(tmp_path: Path) -> None:
    page = Page(render_run(image_run(tmp_path / "run"), "en"))
    table = page.text.index("Scores on the test split")
    row = page.text[table : page.text.index("More scores of the same images")]
    for name in ("coverage", "recall", "conditional_", "accuracy", "train_on_".partition("_")[0], "synthetic"):
        assert name in row
    assert "Real images against other real ones (the floor)" in row
    assert "270 test images" in page.text


@pytest.mark.parametrize(
    ("value", "metric", "shown"),
    [
        (-227.66, "elbo", "-227.7"),
        (10.1348, "frechet_distance", "10.1"),
        (1234.5, "frechet_distance", "1,234"),
        (0.0021337, "kernel_distance", "0.00213"),
        (-0.0114, "kernel_distance", "-0.0114"),
        (0.0, "kid", "0.00"),
        (0.8261, "recall", "0.826"),
    ],
)
def test_numbers_of_any_magnitude(value: float, metric: str, shown: str) -> None:
    assert number(value, metric) == shown


def test_the_last_screen(tmp_path: Path) -> None:
    run = image_run(tmp_path / "run")
    screen = render_summary(run)
    assert "Test: 270 images, never used for choosing" in screen
    assert "paired on 270 images" not in screen, "the tests of the helper are of 400"
    assert "paired on 400 images: coverage" in screen
    assert f"Drawn after epoch 2: {run.samples / '2' / 'grid.png'}" in screen
    assert "4.0% of 270 drawn ones (about 5 % of new images would be); exact copies: 0." in screen
    assert "documents" not in screen


def test_the_card(tmp_path: Path) -> None:
    run = image_run(tmp_path / "run")
    run.best.mkdir()
    settings = {"task": "image-generation", "kind": "gan", "labels": ["0", "a|b"],
                "image": {"size": 8, "channels": "grey", "condition": "label"}}  # fmt: skip
    (run.best / "finetune.json").write_text(json.dumps(settings), encoding="utf-8")
    card = render_model_card(run, which="best")
    assert "library_name: finetune" in card
    assert "pipeline_tag: unconditional-image-generation" in card
    assert 'load_image_model("PATH")' in card
    assert "(16, 1, 8, 8)" in card
    assert "finetune sample PATH --label NAME" in card
    assert "Does it copy?" in card
    assert "from scratch" in card
    assert "`model.gan.latent_size` | 64" in card
    assert "transformers import pipeline" not in card
    assert "documents" not in card.lower().replace("paired documents", "")


def test_pages_of_other_tasks_have_no_images(tmp_path: Path) -> None:
    assert not pictures(Page(render_run(tiny_run(tmp_path / "run"), "en")))


def test_only_png_has_a_place_in_a_page() -> None:
    with pytest.raises(ValueError, match="only PNG"):
        picture(b"<svg onload=alert(1)>", alt="x")
    assert '"' not in picture(grid(np.zeros((1, 1, 8, 8), np.uint8)), alt='a" onload="x').html.split('alt="')[1][:5]


def test_a_wide_grid_is_averaged_down_for_the_page() -> None:
    wide = grid(np.zeros((4, 3, 256, 256), np.uint8), columns=4)
    assert Image.open(io.BytesIO(wide)).width == 1030
    small = Image.open(io.BytesIO(reduced(wide, most_pixels=768)))
    assert (small.width, small.height) == (768, 191)
    assert reduced(wide, most_pixels=2000) == wide


# ---- runs side by side


def splits_of(run: Run, *, test: str = "ab") -> None:
    """splits.parquet with these test images, and a recipe that can be read."""
    names = [*test, "x"]
    write_table(
        run.splits,
        {"id": names, "group": [None] * len(names), "content_hash": names, "family": list(range(len(names))),
         "split": ["test"] * len(test) + ["train"], "fold": [None] * len(names)},
    )  # fmt: skip


def two_runs(place: Path, **changes: Any) -> tuple[Run, Run]:
    first, second = (image_run(place / name, drawn=False) for name in ("one", "two"))
    nearer = {split: image_scores(0.7, distance=0.01) for split in ("validation", "test")}
    write_json(second.scores, tiny_scores(splits=nearer, **changes))
    for run in (first, second):
        splits_of(run)
    return first, second


def test_image_runs_stand_side_by_side_without_a_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    two_runs(tmp_path)
    assert main(["compare", "one", "two", "--output", "both", "--quiet"]) == 0
    screen = capsys.readouterr().out
    assert screen.startswith("Test kernel_distance, the best first: two 0.0100, one 0.0210. Nothing was tested")
    assert "2 test images" in screen
    assert "no paired test" in screen
    found = json.loads(Path("both/comparison.json").read_text(encoding="utf-8"))
    assert [run["name"] for run in found["runs"]] == ["two", "one"]
    assert found["tests"] == [] == found["changed"]
    page = Page(Path("both/report.html").read_text(encoding="utf-8")).text
    assert "2 test images" in page
    assert "0.0100" in page
    assert main(["compare", "one", "two", "--metric", "recall", "--output", "more", "--quiet"]) == 0
    assert "Test recall, the best first" in capsys.readouterr().out


def test_runs_without_a_common_choice_stand_in_the_order_of_coverage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, _ = two_runs(tmp_path)
    of_vae = image_scores()
    of_vae.scores["elbo"] = Score(value=-180.0, n=270)
    write_json(first.scores, tiny_scores(splits={"validation": of_vae, "test": of_vae}, metric_for_best_model="elbo"))
    assert main(["compare", "one", "two", "--output", "both", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("Test coverage, the best first: two 0.700")


@pytest.mark.parametrize(
    ("condition", "tag"), [("label", "unconditional-image-generation"), ("caption", "text-to-image")]
)
def test_a_model_asked_by_text_is_text_to_image(tmp_path: Path, condition: str, tag: str) -> None:
    run = image_run(tmp_path / "run")
    write_json(run.best / "finetune.json", {"image": {"condition": condition, "text_encoder": "x"}})
    front = render_model_card(run, which="best").split("---")[1]
    assert f"pipeline_tag: {tag}" in front and f"type: {tag}" in front


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one", "two", "--intersection"], "scored on whole splits"),
        (["one", "two", "--metric", "elbo"], "'elbo' is not a score of these runs"),
        (["one", "other"], "have different test images"),
        (["one", "texts"], "have different tasks: image-generation, text-classification"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_compare_refuses_of_image_runs(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    two_runs(tmp_path)
    splits_of(image_run(tmp_path / "other", drawn=False), test="bc")
    texts = tiny_run(tmp_path / "texts")
    recipe = "task: text-classification\ndata: {source: reviews.csv, columns: {text: text, label: label}}\n"
    write_text(texts.recipe, recipe)
    texts.predictions("test").parent.mkdir()
    texts.predictions("test").write_bytes(b"")
    assert main(["compare", *words, "--quiet"]) == 2
    assert message in capsys.readouterr().err


def test_different_measuring_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, second = two_runs(tmp_path)
    write_text(second.recipe, RECIPE + "evaluation: {features: pixels}\nseed: 7\n")
    notes = compare_runs([Path("one"), Path("two")], metric=None, intersection=False, folder=Path("both"))[0].notes
    told = next(note for note in notes if "not measured alike" in note)
    assert "evaluation.features" in told
    assert "seed" in told
