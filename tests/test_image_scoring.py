"""Drawn images against real digits: what fails must fail, and every number says what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from tiny_images import tiny_drawer

from finetune.data.image_prepare import ImageTable, PreparedImages
from finetune.data.labels import LabelMap
from finetune.errors import RecipeError
from finetune.figures import _on_one_scale
from finetune.image.likelihood import latent_noise, level_nats, measure_likelihood
from finetune.image.vae import Vae
from finetune.image_conditions import Wanted, told_of, training_rows, wanted_to_teach
from finetune.image_learner import ImageLearner
from finetune.image_opponents import baseline_draw, beats_them, measure_opponents, paired_image_test
from finetune.image_scorer import ImageScorer, check_image_metric, metric_refusal
from finetune.image_scoring import rescore_images, score_images
from finetune.learner import save_image_model
from finetune.progress import SILENT
from finetune.recipe import ImageRecipe
from finetune.recipe_file import LoadedRecipe, load_recipe
from finetune.run_files import Scores
from finetune.runs import Run
from finetune.training.plan import FitResult

DIGITS = load_digits()
ORDER = np.random.default_rng(0).permutation(len(DIGITS.images))
PIXELS = np.round(DIGITS.images / 16 * 255).astype(np.uint8)[ORDER][:, None]
LABELS = DIGITS.target.astype(np.int64)[ORDER]
PARTS = {"train": slice(0, 900), "validation": slice(900, 1040), "test": slice(1040, 1200)}
NAMES = [str(digit) for digit in range(10)]


def prepared(*, labels: bool = True, classes: int = 10, few: int | None = None, groups: bool = False) -> PreparedImages:
    """Digits below `classes`; `few`: so many of validation."""

    def table(name: str) -> ImageTable:
        rows = np.arange(len(PIXELS))[PARTS[name]]
        rows = rows[LABELS[rows] < classes][: few if name == "validation" else None]
        of = [f"writer {row % 20}" if groups else None for row in rows]
        return ImageTable(PIXELS[rows], LABELS[rows] if labels else None, None, [f"digit {row}" for row in rows], of)

    known = LabelMap.from_names(NAMES[:classes] if labels else [])
    return PreparedImages({name: table(name) for name in PARTS}, known, {}, f"{labels}{classes}", {}, [])


def recipe(*, condition: str = "label", metric: str = "kernel_distance", **evaluation: Any) -> ImageRecipe:
    return ImageRecipe.model_validate(
        {
            "task": "image-generation",
            "model": {"vae": {}},
            "data": {"source": "builtin:digits"},
            "image": {"size": 8, "condition": condition, **({"captions": ["a {label}", "{label}"],
                      "label_words": {"7": "seven"}} if condition == "caption" else {})},
            "training": {"metric_for_best_model": metric},
            "evaluation": {"bootstrap": 200, **evaluation},
            "seed": 3,
        }
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick_judges() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.image.judges.STEPS", 150)
        yield


@pytest.fixture(scope="module")
def scorer() -> ImageScorer:
    return ImageScorer(prepared(), recipe(baselines=["class_mean", "training_images", "pixel_gaussian"]))


@pytest.fixture(scope="module")
def opponents(scorer: ImageScorer) -> Any:
    names = scorer.recipe.evaluation.baselines
    return measure_opponents(names, scorer, splits=["validation", "test"], progress=SILENT)


def value(scores: Any, name: str) -> float:
    return cast(float, scores[name].value)


# ---- what is asked for


def test_labels_are_asked_for_in_the_proportions_of_the_split(scorer: ImageScorer) -> None:
    wanted, table = scorer.conditions("test"), scorer.prepared.splits["test"]
    assert wanted.count == len(table)
    assert np.bincount(cast(Any, wanted.classes)).tolist() == np.bincount(cast(Any, table.labels)).tolist()
    assert wanted.labels == [NAMES[each] for each in cast(Any, wanted.classes)]
    assert wanted.seed != scorer.conditions("validation").seed
    many = ImageScorer(scorer.prepared, recipe(count=1000)).conditions("test")
    shares = np.bincount(cast(Any, many.classes)) / 1000 - np.bincount(cast(Any, table.labels)) / len(table)
    assert many.count == 1000 and np.abs(shares).max() <= 1 / 1000 + 1e-9


def test_captions_are_templates_of_the_labels_in_turn() -> None:
    wanted = ImageScorer(prepared(), recipe(condition="caption")).conditions("test")
    sevens = [
        text for text, number in zip(cast(Any, wanted.texts), cast(Any, wanted.classes), strict=True) if number == 7
    ]
    assert set(sevens) == {"a seven", "seven"}
    assert wanted.labels is None


def test_captions_of_the_source_are_the_splits_own() -> None:
    data = prepared(labels=False)
    for table in data.splits.values():
        object.__setattr__(table, "captions", [f"picture {each}" for each in table.ids])
    chosen = ImageRecipe.model_validate(
        recipe(condition="none").model_dump()
        | {"image": {"size": 8, "condition": "caption"}, "data": {"source": "x", "columns": {"caption": "text"}}}
    )
    wanted = ImageScorer(data, chosen).conditions("validation")
    assert wanted.texts == data.splits["validation"].captions
    assert wanted.classes is None


def test_an_unconditional_model_is_asked_for_nothing() -> None:
    scorer = ImageScorer(prepared(), recipe(condition="none"))
    assert scorer.conditions("test") == Wanted(count=160, seed=3 + 2)
    assert told_of(scorer.prepared, scorer.recipe, "test", base=Path()) is None


def test_training_rows_are_of_the_class_asked_for_and_none_comes_twice() -> None:
    train = prepared().splits["train"]
    wanted = wanted_to_teach(prepared(), recipe())
    rows = training_rows(wanted, train, seed=0)
    assert np.array_equal(cast(Any, train.labels)[rows], cast(Any, wanted.classes))
    assert len(set(rows.tolist())) == len(rows) == 900


# ---- what fails must fail


def test_class_means_are_recognised_and_recall_nothing(opponents: Any) -> None:
    scores = opponents.measured["class_mean"]["test"].scores
    assert value(scores, "conditional_accuracy") > 0.97
    assert value(scores, "precision") > 0.9
    assert value(scores, "recall") < 0.02
    assert value(scores, "train_on_synthetic") < value(
        opponents.measured["training_images"]["test"].scores, "train_on_synthetic"
    )
    assert value(scores, "kernel_distance") > 0.1


def test_noise_is_neither_recognised_nor_near_real_images(scorer: ImageScorer) -> None:
    wanted = scorer.conditions("test")
    noise = np.random.default_rng(0).integers(0, 256, (wanted.count, 1, 8, 8), dtype=np.uint8)
    scores = scorer.measure(noise, wanted.classes, "test").scores
    assert value(scores, "conditional_accuracy") < 0.4
    assert value(scores, "coverage") < 0.5
    assert value(scores, "kernel_distance") > 0.1


def test_real_images_against_real_ones_are_the_floor(scorer: ImageScorer, opponents: Any) -> None:
    floor = scorer.floor("test").scores
    worse = opponents.measured["class_mean"]["test"].scores
    assert value(floor, "recall") > 0.9 and value(floor, "coverage") > 0.9 and value(floor, "precision") > 0.9
    assert value(floor, "frechet_distance") < value(worse, "frechet_distance") / 5
    assert abs(value(floor, "kernel_distance")) < 0.05
    assert floor["conditional_accuracy"] == floor["train_on_synthetic"]
    assert value(floor, "conditional_accuracy") > 0.95


def test_class_means_are_beaten_by_pixels_of_a_gaussian_and_copies_need_not_be(
    scorer: ImageScorer, opponents: Any
) -> None:
    measured = {name: by_split["test"] for name, by_split in opponents.measured.items()}
    tests = {
        name: test
        for name in ("class_mean", "training_images")
        if (test := paired_image_test(measured["pixel_gaussian"], measured[name], scorer, "test")) is not None
    }
    assert tests["class_mean"].metric == "coverage" and tests["class_mean"].better
    assert tests["class_mean"].p_mcnemar is not None
    assert not tests["training_images"].better
    assert beats_them(tests) is True
    assert beats_them({"training_images": tests["training_images"]}) is None
    assert opponents.strongest("coverage") == "pixel_gaussian"


def test_the_metric_that_chose_is_tested_where_it_belongs_to_real_images(opponents: Any) -> None:
    chosen = ImageScorer(prepared(), recipe(metric="recall"))
    by_name = opponents.measured
    test = paired_image_test(by_name["pixel_gaussian"]["test"], by_name["class_mean"]["test"], chosen, "test")
    assert test is not None and test.metric == "recall" and test.better


# ---- what a number says of itself


def test_every_score_has_its_counts_and_features_and_an_interval_that_says_what_it_covers(opponents: Any) -> None:
    scores = opponents.measured["pixel_gaussian"]["test"].scores
    for name in ("frechet_distance", "kernel_distance", "precision", "recall", "coverage"):
        assert "160 drawn against 160 real images of test, in 64 features" in scores[name].note
        assert scores[name].n == 160
    assert scores["kernel_distance"].low is None and "no interval" in scores["kernel_distance"].note
    for name in ("precision", "recall", "coverage", "conditional_accuracy", "train_on_synthetic"):
        assert scores[name].low <= scores[name].value <= scores[name].high
        assert "the interval covers" in scores[name].note
    assert "recall and train_on_synthetic" in scores["conditional_accuracy"].note
    assert "900 drawn images" in scores["train_on_synthetic"].note and "real ones" in scores["train_on_synthetic"].note


def test_the_same_drawing_gets_the_same_scores(scorer: ImageScorer) -> None:
    draw = baseline_draw("pixel_gaussian", scorer)
    assert scorer.evaluate(draw) == ImageScorer(prepared(), recipe()).evaluate(draw)


def test_an_epoch_trains_no_classifier_unless_it_chooses_by_one(scorer: ImageScorer) -> None:
    draw = baseline_draw("training_images", scorer)
    assert "train_on_synthetic" not in scorer.evaluate(draw)
    chosen = ImageScorer(prepared(), recipe(metric="train_on_synthetic")).evaluate(draw)
    assert cast(float, chosen["train_on_synthetic"]) > 0.9


def test_images_of_a_group_are_drawn_together(opponents: Any) -> None:
    grouped = ImageScorer(prepared(groups=True), recipe())
    draw = baseline_draw("pixel_gaussian", grouped)
    wanted = grouped.conditions("test")
    one = grouped.measure(draw(wanted), wanted.classes, "test").scores["coverage"]
    alone = opponents.measured["pixel_gaussian"]["test"].scores["coverage"]
    assert one.value == alone.value and (one.low, one.high) != (alone.low, alone.high)


def test_without_labels_distances_are_of_pixels_and_there_is_no_accuracy() -> None:
    scorer = ImageScorer(prepared(labels=False), recipe(condition="none"))
    scores = scorer.measure(baseline_draw("training_images", scorer)(scorer.conditions("test")), None, "test").scores
    assert "64 pixels" in scores["recall"].note
    assert scores["conditional_accuracy"].value is None and "condition: none" in cast(
        str, scores["conditional_accuracy"].note
    )


def test_few_images_have_no_covariance_and_the_rest_goes_on() -> None:
    scorer = ImageScorer(prepared(few=40), recipe())
    scores = scorer.measure(
        baseline_draw("training_images", scorer)(scorer.conditions("validation")), None, "validation"
    ).scores
    assert scores["frechet_distance"].value is None and "kernel_distance" in cast(str, scores["frechet_distance"].note)
    assert scores["kernel_distance"].value is not None


# ---- what is refused before any training


def loaded(folder: Path, chosen: ImageRecipe) -> LoadedRecipe:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(chosen.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    return load_recipe(path)


@pytest.mark.parametrize(
    ("metric", "settings", "kind", "reason"),
    [
        ("elbo", {}, "gan", "belongs to a VAE"),
        ("bits_per_dimension", {"likelihood": "bernoulli"}, "vae", "bounds no probability"),
        ("frechet_distance", {}, "vae", "kernel_distance needs no covariance"),
        ("fid", {}, "vae", "evaluation.features is classifier"),
        ("elbo", {}, "vae", None),
        ("kernel_distance", {}, "gan", None),
        ("train_on_synthetic", {}, "gan", None),
    ],
)
def test_a_metric_without_a_value_cannot_choose(
    metric: str, settings: dict[str, Any], kind: str, reason: str | None
) -> None:
    scorer = ImageScorer(prepared(few=60), recipe(metric=metric))
    found = metric_refusal(scorer, metric, tiny_drawer(kind, **settings))
    assert found is None if reason is None else reason in cast(str, found)


def test_the_refusal_names_the_line(tmp_path: Path) -> None:
    chosen = recipe(metric="train_on_synthetic", condition="none")
    with pytest.raises(RecipeError, match=r"metric_for_best_model.*cannot choose the epoch.*condition: none"):
        check_image_metric(loaded(tmp_path, chosen), ImageScorer(prepared(), chosen), tiny_drawer("gan"))


# ---- likelihood


@pytest.mark.parametrize("deviation", [1 / 256, 0.05, 0.5])
def test_the_probabilities_of_all_levels_add_up_to_one(deviation: float) -> None:
    levels = torch.arange(256)[:, None, None, None]
    for mean in (0.0, 0.31, 1.0):
        nats = level_nats(levels, torch.tensor(mean), torch.tensor(deviation).log())
        assert torch.exp(-nats).sum().item() == pytest.approx(1, rel=1e-9)
        inner = stats.norm.cdf([99.5, 100.5], loc=mean * 255, scale=deviation * 255)
        if np.diff(inner)[0] > 1e-12:
            assert nats[100].item() == pytest.approx(-np.log(np.diff(inner)[0]), rel=1e-5)


def test_a_level_far_from_the_mean_keeps_a_finite_probability() -> None:
    nats = level_nats(torch.tensor([[[[0, 255]]]]), torch.tensor(0.5), torch.tensor(1 / 256).log())
    assert torch.isfinite(nats).all() and nats.item() > 1000


def test_what_an_image_scores_does_not_depend_on_its_place_or_on_the_others() -> None:
    model = cast(Vae, tiny_drawer("vae"))
    pixels = np.random.default_rng(0).integers(0, 256, (70, 1, 8, 8), dtype=np.uint8)
    whole, alone = measure_likelihood(model, pixels, seed=3), measure_likelihood(model, pixels[66:67], seed=3)
    assert alone.elbo == pytest.approx(whole.elbo[66:67], rel=1e-6)
    assert measure_likelihood(model, pixels[::-1], seed=3).elbo[::-1] == pytest.approx(whole.elbo, rel=1e-6)
    assert np.abs(measure_likelihood(model, pixels, seed=4).elbo - whole.elbo).max() > 1e-3


def test_the_noise_of_latents_is_standard_normal_and_of_no_two_images_the_same() -> None:
    pixels = np.arange(400, dtype=np.uint16).view(np.uint8).reshape(400, 1, 1, 2)
    noise = latent_noise(pixels, size=50, seed=0).numpy()
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    assert len(np.unique(noise[:, 0])) == 400


def test_the_elbo_is_that_of_training_where_a_level_is_narrow_and_has_no_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cast(Vae, tiny_drawer("vae", likelihood="gaussian", beta=0.5))
    inner = np.random.default_rng(0).integers(40, 216, (70, 1, 8, 8), dtype=np.uint8)
    model.train()
    found = measure_likelihood(model, inner, seed=0)
    assert model.training
    model.train(False)
    noise = latent_noise(inner, size=model.config.latent_size, seed=0)
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: noise[:64])
    output = model(torch.from_numpy(inner[:64]).float() / 255)
    # The density is taken per 1/256, and the levels of pixels lie 1/255 apart.
    expected = output.elbo.detach().numpy() + 64 * np.log(256 / 255)
    assert found.elbo[:64] == pytest.approx(expected, rel=2e-3)
    assert found.loss[:64].mean() == pytest.approx(output.loss.item(), rel=1e-5)
    rebuilt = model.reconstruct(torch.from_numpy(inner).float() / 255).numpy()
    assert found.squared_error == pytest.approx(((rebuilt - inner / 255) ** 2).mean(axis=(1, 2, 3)), rel=1e-4)
    assert found.is_bound


def test_of_a_bernoulli_likelihood_there_are_no_bits(scorer: ImageScorer) -> None:
    model = cast(Vae, tiny_drawer("vae", likelihood="bernoulli"))
    plain = ImageScorer(prepared(), recipe(condition="none"))
    scores = plain.measure_likelihood(plain.likelihood(model, "test"), "test").scores
    assert scores["bits_per_dimension"].value is None and "Bernoulli" in cast(str, scores["bits_per_dimension"].note)
    assert "bounds no probability" in cast(str, scores["elbo"].note)


def test_bits_are_the_elbo_by_dimension(scorer: ImageScorer) -> None:
    plain = ImageScorer(prepared(), recipe(condition="none"))
    found = plain.likelihood(cast(Vae, tiny_drawer("vae")), "test")
    scores = plain.measure_likelihood(found, "test").scores
    bits, elbo = scores["bits_per_dimension"], scores["elbo"]
    assert bits.value == pytest.approx(-found.elbo.mean() / (64 * np.log(2)))
    assert bits.low == pytest.approx(-cast(float, elbo.high) / (64 * np.log(2)))


# ---- pictures


@pytest.mark.parametrize(
    ("chosen", "drawn"),
    [
        ("eval_kernel_distance", ["eval_kernel_distance"]),
        ("eval_elbo", ["eval_coverage", "eval_recall"]),
        ("eval_recall", ["eval_coverage", "eval_recall"]),
    ],
)
def test_curves_of_images_share_a_scale(chosen: str, drawn: list[str]) -> None:
    names = ["eval_elbo", "eval_kernel_distance", "eval_recall", "eval_coverage", "eval_reconstruction_error"]
    assert _on_one_scale(names, chosen) == drawn


# ---- a run


class Learner:
    def __init__(self, scorer: ImageScorer) -> None:
        self.scorer = scorer


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, LoadedRecipe, PreparedImages, Scores]:
    """Two untrained VAEs of three digits as best/ and last/ of a run, scored."""
    folder = tmp_path_factory.mktemp("run")
    run, data, chosen = Run(folder / "run"), prepared(classes=3), recipe(metric="elbo", neighbours=3)
    run.folder.mkdir()
    settings = {
        "format_version": 1,
        "task": "image-generation",
        "kind": "vae",
        "image": {"size": 8, "channels": "grey", "condition": "label"},
        "labels": NAMES[:3],
    }
    for seed, place in enumerate((run.best, run.last)):
        save_image_model(tiny_drawer("vae", condition="label", seed=seed), place, settings=settings)
    rows = [{"step": 10 * e, "epoch": float(e), "eval_loss": 300 / e, "loss": 310 / e} for e in (1, 2, 3, 4)]
    run.history.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe_file = loaded(folder, chosen)
    learner = cast(ImageLearner, Learner(ImageScorer(data, chosen)))
    result = FitResult(best_epoch=1.0, best_step=10, steps=40)
    return run, recipe_file, data, score_images(run, recipe_file, data, learner, result, progress=SILENT)


def test_a_run_has_scores_of_best_and_last_beside_baselines_and_the_floor(finished: Any) -> None:
    run, _, _, scores = finished
    assert run.read(run.scores, Scores) == scores
    assert set(scores.splits) == set(scores.last) == {"validation", "test"}
    assert set(scores.baselines) == {"class_mean", "training_images", "real_images"}
    assert set(scores.baseline_tests) == {"class_mean", "training_images"}
    assert scores.beats_baselines is False and scores.strongest_baseline == "class_mean"
    names = list(scores.splits["test"].scores)
    assert names[:4] == ["loss", "elbo", "bits_per_dimension", "reconstruction_error"]
    assert {"conditional_accuracy", "recall", "train_on_synthetic"} <= set(names)
    assert scores.splits["test"].scores["elbo"].value != scores.last["test"].scores["elbo"].value
    assert any("training_images stands for a model that copies" in note for note in scores.notes)
    assert set(scores.weights) == {"best", "last"}
    assert (run.figures / "curves.png").is_file() and (run.figures / "nearest.png").is_file()


def test_the_loss_of_a_vae_gets_a_verdict_with_advice_that_the_recipe_takes(finished: Any) -> None:
    run, _, _, scores = finished
    assert scores.fit.state == "still_learning" and scores.fit.suggestions
    for each in scores.fit.suggestions:
        load_recipe(run.folder.parent / "recipe.yaml", [each.override])


def test_scored_again_the_numbers_are_the_same_and_the_opening_is_written_down(finished: Any) -> None:
    run, recipe_file, data, scores = finished
    again = rescore_images(run, recipe_file, data, split="test", model="best", progress=SILENT)
    assert again == scores.splits["test"]
    openings = [json.loads(line)["by"] for line in run.test_openings.read_text().splitlines()]
    assert openings == ["train", "evaluate"]


def test_without_test_nothing_of_it_is_looked_at(finished: Any) -> None:
    run, recipe_file, data, _ = finished
    other = Run(run.folder.parent / "closed")
    other.folder.mkdir()
    for place, source in ((other.best, run.best), (other.last, run.last)):
        place.symlink_to(source)
    other.history.write_text("", encoding="utf-8")
    data = replace(data, splits={name: table for name, table in data.splits.items() if name != "test"})
    learner = cast(ImageLearner, Learner(ImageScorer(data, recipe(metric="elbo", neighbours=3))))
    result = FitResult(best_epoch=1.0, best_step=40, steps=40)
    scores = score_images(other, recipe_file, data, learner, result, open_test=False, progress=SILENT)
    assert set(scores.splits) == {"validation"} and not scores.baselines
    assert not other.test_openings.exists()
