"""sample, augment and predict of image models: what they refuse before anything is loaded, and what they write."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_drawers import LABELS, tiny_drawer

from finetune.cli import main
from finetune.data.image_prepare import ImageTable, PreparedImages
from finetune.data.labels import LabelMap
from finetune.image_augmenting import Augmentation, augmentation_lines, measure
from finetune.image_predictor import Asked, ImagePredictor, spherical
from finetune.progress import SILENT
from finetune.run_files import RunInfo
from finetune.runs import Run, write_json

KINDS = ("vae", "gan", "style")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def drawers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind, asked for nothing and for labels."""
    place = tmp_path_factory.mktemp("drawers")
    made = {kind: tiny_drawer(place / kind, kind=kind) for kind in KINDS}
    return made | {
        f"{kind}-label": tiny_drawer(place / f"{kind}-label", kind=kind, condition="label") for kind in KINDS
    }


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts embedded without an encoder: the same text the same row, other texts other rows."""

    def embed(texts: list[str], *, encoder_name: str, base: Path) -> np.ndarray:
        rows = [np.random.default_rng(sum(text.encode())).standard_normal(384) for text in texts]
        return np.array(rows, dtype=np.float32)

    monkeypatch.setattr("finetune.image_predictor.embed_texts", embed)


def run(*words: object) -> int:
    return main([*map(str, words), "--quiet"])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def real_images(folder: Path, count: int = 3, *, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"photo {number}.png")
    return folder


# ---- what is drawn


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_the_same_whatever_the_count(kind: str, drawers: dict[str, Path]) -> None:
    predictor = ImagePredictor.load(drawers[f"{kind}-label"], use_cpu=True)
    many = predictor.draw(70, seed=5)
    assert many.shape == (70, 1, 8, 8)
    assert many.dtype == np.uint8
    assert np.array_equal(predictor.draw(3, seed=5), many[:3])
    assert np.array_equal(predictor.draw(4, seed=5, first=63), many[63:67])
    assert not np.array_equal(predictor.draw(3, seed=6), many[:3])
    assert len({image.tobytes() for image in many}) > 60, "the test would say nothing of a model that draws one image"


def test_labels_come_in_turn(drawers: dict[str, Path]) -> None:
    predictor = ImagePredictor.load(drawers["gan-label"], use_cpu=True)
    every, one = predictor.draw(6, seed=1), predictor.draw(6, seed=1, asked=predictor.asked([LABELS[1]]))
    same = [bool(np.array_equal(a, b)) for a, b in zip(every, one, strict=True)]
    assert same == [False, True, False, False, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_makes_images_more_alike(kind: str, drawers: dict[str, Path]) -> None:
    predictor = ImagePredictor.load(drawers[kind], use_cpu=True)
    spreads = [predictor.draw(32, seed=0, truncation=share).std(axis=0).mean() for share in (1.0, 0.3, 0.0)]
    assert spreads[0] > spreads[1] > spreads[2] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_way_leads_from_one_seed_to_the_other(kind: str, drawers: dict[str, Path]) -> None:
    predictor = ImagePredictor.load(drawers[kind], use_cpu=True)
    way = predictor.between((1, 2), steps=5, asked=Asked()).astype(int)
    ends = [predictor.draw(1, seed=seed)[0].astype(int) for seed in (1, 2)]
    assert np.abs(way[0] - ends[0]).max() <= 1
    if kind != "style":  # whose noise stays that of the first
        assert np.abs(way[-1] - ends[1]).max() <= 1
    assert len({image.tobytes() for image in way}) == 5


def test_a_great_circle_keeps_the_length() -> None:
    one, other = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    way = spherical(one, other, torch.linspace(0, 1, 5)[:, None])
    assert torch.allclose(way.norm(dim=1), torch.full((5,), 3.0))
    angle = np.pi / 8
    assert torch.allclose(way[1], torch.tensor([3 * np.cos(angle), 3 * np.sin(angle)], dtype=torch.float32))
    assert torch.allclose(spherical(one, one, torch.tensor([[0.0], [0.5]])), one.expand(2, 2))


def test_mixing_goes_from_one_image_to_the_other(drawers: dict[str, Path]) -> None:
    predictor = ImagePredictor.load(drawers["style"], use_cpu=True)
    mixed = predictor.mixed((1, 2), asked=Asked())
    layers = predictor.model.layers  # type: ignore[attr-defined]
    assert len(mixed) == layers + 1
    assert np.abs(mixed[0].astype(int) - predictor.draw(1, seed=1)[0].astype(int)).max() <= 1
    assert len({image.tobytes() for image in mixed}) == layers + 1


# ---- sample


def test_sample_writes_images_a_grid_and_a_record(drawers: dict[str, Path], tmp_path: Path) -> None:
    assert run("sample", drawers["vae-label"], "--count", 4, "--seed", 7, "--output", "drawn") == 0
    assert sorted(path.name for path in Path("drawn").iterdir()) == [
        "grid.png",
        "samples.json",
        "seed7-0000-label-0.png",
        "seed7-0001-label-1.png",
        "seed7-0002-label-seven-7.png",
        "seed7-0003-label-0.png",
    ]
    record = json.loads(Path("drawn/samples.json").read_text(encoding="utf-8"))
    assert record["generated"] is True
    assert [image["label"] for image in record["images"]] == ["0", "1", "seven/7", "0"]
    expected = ImagePredictor.load(drawers["vae-label"], use_cpu=True).draw(4, seed=7)
    for image, row in zip(expected, record["images"], strict=True):
        assert np.array_equal(pixels(Path("drawn") / row["file"]), image[0])
    assert run("sample", drawers["vae-label"], "--count", 2, "--seed", 7, "--output", "fewer") == 0
    assert Path("fewer/seed7-0001-label-1.png").read_bytes() == Path("drawn/seed7-0001-label-1.png").read_bytes()


def test_sample_names_a_new_folder_itself(drawers: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        assert run("sample", drawers["gan"], "--count", 1, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["folder"] == f"runs/gan-samples-{number}"
        assert told["images"] == [{"file": "seed0-0000.png", "number": 0}]
        assert Path(told["grid"]).is_file()


def test_sample_replaces_what_it_wrote_and_nothing_else(drawers: dict[str, Path]) -> None:
    words = ("sample", drawers["gan"], "--output", "drawn")
    assert run(*words, "--count", 3) == 0
    assert run(*words, "--count", 1) == 2
    assert len(list(Path("drawn").iterdir())) == 5
    assert run(*words, "--count", 1, "--force") == 0
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["grid.png", "samples.json", "seed0-0000.png"]
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work", encoding="utf-8")
    assert run("sample", drawers["gan"], "--output", "mine", "--force") == 2
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


def test_ways_of_a_style_model(drawers: dict[str, Path]) -> None:
    assert run("sample", drawers["style-label"], "--mix", 1, 2, "--label", "1", "--output", "mixed") == 0
    names = sorted(path.name for path in Path("mixed").glob("seed*"))
    assert names == [f"seed1-below-seed2-{kept:02d}-label-1.png" for kept in range(len(names))]
    assert run("sample", drawers["style-label"], "--interpolate", 1, 2, "--steps", 3, "--output", "way") == 0
    assert sorted(path.name for path in Path("way").glob("seed*")) == [
        f"seed1-to-seed2-{step:02d}of03-label-0.png" for step in (1, 2, 3)
    ]


@pytest.mark.usefixtures("no_network")
def test_a_prompt_is_drawn_by_a_caption_model_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tiny_drawer(tmp_path / "own", kind="gan", condition="caption", labels=())
    made = tiny_drawer(
        tmp_path / "made", kind="gan", condition="caption", captions=["a handwritten {label}"],
        label_words={"1": "one"},
    )  # fmt: skip
    assert run("sample", own, "--prompt", "a handwritten seven", "--count", 1, "--output", "a") == 0
    assert Path("a/seed0-0000-a-handwritten-seven.png").is_file()
    assert run("sample", made, "--label", "1", "--count", 1, "--output", "b") == 0
    assert run("sample", made, "--prompt", "a handwritten one", "--count", 1, "--output", "c") == 0
    assert pixels(next(Path("b").glob("seed*"))).tobytes() == pixels(next(Path("c").glob("seed*"))).tobytes()
    assert run("sample", own) == 2
    assert "Write --prompt" in capsys.readouterr().err
    assert run("sample", own, "--label", "1") == 2
    assert "trained on captions of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("vae-label", ["--label", "seven"], "knows no label 'seven'. Did you mean 'seven/7'?"),
        ("vae-label", ["--label", "zzz"], "knows no label 'zzz'. Its labels: 0, 1, seven/7."),
        ("vae", ["--label", "1"], "is unconditional: nothing can be asked of it"),
        ("vae-label", ["--prompt", "a seven"], "draws by label, and reads no text. Write --label"),
        ("vae", ["--prompt", "a seven"], "is unconditional, and reads no text"),
        ("vae-label", ["--prompt", "a", "--label", "1"], "--label and --prompt both say what to draw"),
        ("vae", ["--count", "0"], "--count: must be 1 or more, found 0"),
        ("vae", ["--truncation", "1.5"], "--truncation: must be between 0 and 1, found 1.5"),
        ("vae", ["--truncation", "nan"], "--truncation: must be between 0 and 1, found nan"),
        ("vae", ["--truncation", "much"], "must be a number, found 'much'"),
        ("vae", ["--mix", "1", "2"], "is a vae, which has no styles to mix"),
        ("style", ["--mix", "1", "2", "--interpolate", "1", "2"], "--mix and --interpolate are two ways"),
        ("style", ["--mix", "1", "2", "--count", "3"], "--count: does nothing beside --mix"),
        ("vae", ["--interpolate", "1", "2", "--seed", "3"], "--seed: does nothing beside --interpolate"),
        ("vae", ["--interpolate", "1", "2", "--steps", "1"], "--steps: must be 2 or more"),
        ("vae", ["--steps", "3"], "--steps: goes with --interpolate"),
        ("vae-label", ["--interpolate", "1", "2", "--label", "0", "--label", "1"], "shows one label"),
        ("vae", ["--output", "file.txt"], "--output file.txt: file.txt is a file"),
        ("nowhere", [], "no such run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_sample_refuses(
    model: str, words: list[str], message: str, drawers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file.txt").write_text("x", encoding="utf-8")
    try:
        code: Any = run("sample", drawers.get(model, Path(model)), *words)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["file.txt"], "something was written"


def test_a_model_of_texts_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "finetune.json").write_text('{"task": "text-classification"}', encoding="utf-8")
    assert run("sample", model) == 2
    assert "is a model for text-classification, and draws no images" in capsys.readouterr().err


def test_a_failure_leaves_nothing_half_written(
    drawers: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("sample", drawers["gan"], "--count", 1, "--output", "drawn") == 0

    def full(path: Path, *rest: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("finetune.image_samples.save_grid", full)
    assert run("sample", drawers["gan"], "--count", 2, "--output", "drawn", "--force") == 5
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["grid.png", "samples.json", "seed0-0000.png"]
    assert [path.name for path in Path().iterdir()] == ["drawn"]


# ---- predict


def test_a_vae_scores_encodes_and_rebuilds(drawers: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    images = real_images(Path("photos"))
    assert run("predict", drawers["vae"], "--input", images) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(row) for row in rows] == [{"image", "elbo", "bits_per_dimension", "reconstruction_error"}] * 3
    assert all("photo" in row["image"] for row in rows)
    row = rows[0]
    assert row["bits_per_dimension"] == pytest.approx(-row["elbo"] / (64 * np.log(2)), rel=1e-6)
    for suffix in ("csv", "jsonl", "parquet"):
        assert run("predict", drawers["vae"], "--input", images, "--output", f"out.{suffix}") == 0
    table = list(csv.DictReader(Path("out.csv").read_text(encoding="utf-8").splitlines()))
    lines = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [float(table[0][f"latent_{place}"]) for place in range(4)] == pytest.approx(lines[0]["latent"], abs=1e-5)
    assert [line["elbo"] for line in lines] == pytest.approx([each["elbo"] for each in rows])


def test_reconstructions_stand_beside_originals(drawers: dict[str, Path]) -> None:
    images = real_images(Path("photos"), 2)
    assert run("predict", drawers["vae"], "--input", images, "--output", "again") == 0
    names = sorted(path.name for path in Path("again").iterdir())
    assert names == [
        "0001-photo-0-original.png", "0001-photo-0-reconstruction.png", "0002-photo-1-original.png",
        "0002-photo-1-reconstruction.png", "grid.png", "reconstructions.json",
    ]  # fmt: skip
    assert np.array_equal(pixels(Path("again") / names[0]), pixels(images / "photo 0.png"))
    row = json.loads(Path("again/reconstructions.json").read_text(encoding="utf-8"))["images"][0]
    original, again = (pixels(Path("again") / name).astype(float) / 255 for name in names[:2])
    assert row["reconstruction_error"] == pytest.approx(((original - again) ** 2).mean(), abs=2e-3)


def test_a_discriminator_judges_every_image_alone(drawers: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("gan", "style"):
        images = real_images(Path(f"photos-{model}"), 4)
        assert run("predict", drawers[model], "--input", images) == 0
        together = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert run("predict", drawers[model], "--input", images / "photo 2.png") == 0
        assert json.loads(capsys.readouterr().out)["logit"] == together[2]["logit"]


def test_without_a_label_the_likeliest_is_named(drawers: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    images = real_images(Path("photos"), 2)
    told = {}
    for label in (*LABELS, None):
        assert run("predict", drawers["vae-label"], "--input", images, *(["--label", label] if label else [])) == 0
        told[label] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for place, row in enumerate(told[None]):
        best = max(LABELS, key=lambda label: told[label][place]["elbo"])
        assert row == told[best][place]
        assert row["label"] == best


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("gan", ["--input", "photos", "--output", "again"], "is a gan, which rebuilds no image"),
        ("vae", ["--input", "photos", "--output", "x.png"], "must end in one of .csv, .jsonl, .parquet, or be"),
        ("vae", ["--input", "photos", "--output", "old.csv"], "exists already. Add --force"),
        ("vae", ["--input", "photos", "--output", "no/x.csv"], "no such folder: no"),
        ("vae", ["--text", "a"], "--text: is about texts"),
        ("vae", ["--prompt", "a"], "--prompt: is about texts"),
        ("vae", ["--input", "photos", "--column", "a"], "--column: is about texts"),
        ("vae", ["--input", "photos", "--temperature", "1"], "--temperature: is about texts"),
        ("vae", ["--input", "photos", "--label", "1"], "is unconditional"),
        ("vae-label", ["--input", "photos", "--label", "2"], "knows no label '2'"),
        ("vae-label", ["--input", "photos", "--caption", "a"], "--caption: "),
        ("vae", ["--input", "nowhere.png"], "nowhere.png"),
        ("vae", ["--input", "broken"], "broken"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_predict_refuses(
    model: str, words: list[str], message: str, drawers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    real_images(Path("photos"), 1)
    real_images(Path("broken"), 1)
    Path("broken/photo 9.png").write_bytes(b"no image")
    Path("old.csv").write_text("mine", encoding="utf-8")
    assert run("predict", drawers[model], *words) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in Path().iterdir()} == {"photos", "broken", "old.csv"}


def test_options_of_images_do_nothing_for_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "finetune.json").write_text('{"task": "text-classification"}', encoding="utf-8")
    assert run("predict", model, "--text", "a", "--label", "good") == 2
    assert "--label: says what images show" in capsys.readouterr().err


# ---- augment


def test_augment_writes_a_folder_that_can_be_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from finetune.data.image_files import find_images
    from finetune.recipe_image import ImageColumns

    drawer = tiny_drawer(tmp_path / "drawer", kind="gan", condition="label", labels=("cat", "dog"))
    assert run("augment", drawer, "--count", 5, "--output", "more") == 0
    assert "not measured: add --measure" in capsys.readouterr().out
    record = json.loads(Path("more/augmentation.json").read_text(encoding="utf-8"))
    assert record["generated"] is True
    assert record["images"] == {"cat": 3, "dog": 2}
    assert sorted(str(path.relative_to("more")) for path in Path("more").glob("*/*")) == [
        "cat/seed0-000000.png", "cat/seed0-000002.png", "cat/seed0-000004.png", "dog/seed0-000001.png",
        "dog/seed0-000003.png",
    ]  # fmt: skip
    found = find_images("more", columns=ImageColumns(), base=Path(), most_pixels=10_000)
    entries = [entry for sources in found.parts.values() for source in sources for entry in source.entries]
    assert sorted(entry.label or "" for entry in entries) == ["cat"] * 3 + ["dog"] * 2
    drawn = ImagePredictor.load(drawer, use_cpu=True).draw(2, seed=0)
    assert np.array_equal(pixels(Path("more/dog/seed0-000001.png")), drawn[1, 0])


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("gan", ["--count", "9"], "draws nothing by label"),
        ("gan-label", ["--count", "9"], "the label 'seven/7' is no name for a folder"),
        ("gan-label", ["--count", "1"], "--count: must be 3 or more, one image a label at least"),
        ("gan-label", ["--count", "9", "--label", "2"], "knows no label '2'"),
        ("gan-label", ["--count", "9", "--label", "0", "--measure"], "is no run folder"),
        ("gan-label", ["--count", "9", "--seeds", "2"], "--seeds: says how often --measure trains"),
        ("gan-label", ["--count", "9", "--measure", "--seeds", "0"], "--seeds: must be 1 or more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_augment_refuses(
    model: str, words: list[str], message: str, drawers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("augment", drawers[model], *words, "--output", "more") == 2
    assert message in capsys.readouterr().err
    assert not list(Path().iterdir())


class Pretended:
    """A judge that gets the first `right` of every ten images right."""

    def __init__(self, right: int) -> None:
        self.right = right

    def classes(self, images: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(images)) % 10 < self.right, 1, 0)


def prepared_of(images: int) -> PreparedImages:
    """Every image shows class 1, `dog`."""

    def table(count: int) -> ImageTable:
        labels = np.ones(count, dtype=np.int64)
        ids = [f"i{number}" for number in range(count)]
        return ImageTable(np.zeros((count, 1, 8, 8), np.uint8), labels, None, ids, [None] * count)

    splits = {"train": table(7), "validation": table(2), "test": table(images)}
    families = {name: np.arange(len(each)) for name, each in splits.items()}
    return PreparedImages(splits, LabelMap(names=("cat", "dog")), families, "f" * 64, {}, [])


@pytest.mark.parametrize(
    ("with_drawn", "verdict", "said"),
    [
        (9, "better", "A small classifier does better on test with them: accuracy 0.900 with, 0.600 without"),
        (3, "worse", "A small classifier does WORSE on test with them, so leave them out: accuracy 0.300"),
        (6, "open", "Whether a small classifier gains by them cannot be told: accuracy 0.600"),
    ],
)
def test_worth_is_what_the_paired_test_says(
    with_drawn: int, verdict: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def train_judge(images: np.ndarray, labels: np.ndarray, *, classes: int, seed: int) -> Pretended:
        assert len(images) == len(labels)
        assert classes == 2
        seen.append((len(images), seed))
        return Pretended(with_drawn if len(images) > 7 else 6)

    monkeypatch.setattr("finetune.image_augmenting.train_judge", train_judge)
    run_, drawn = Run(tmp_path), np.zeros((5, 1, 8, 8), np.uint8)
    found = measure(prepared_of(40), drawn, np.ones(5, dtype=np.int64), seeds=2, run=run_, progress=SILENT)
    assert seen == [(7, 0), (12, 0), (7, 1), (12, 1)], "the same seeds on both sides"
    assert found.verdict == verdict
    assert [(trial.without, trial.with_generated) for trial in found.trials] == [(0.6, with_drawn / 10)] * 2
    assert found.test.groups == 40, "a test image with all its answers is one unit"
    assert found.test.documents == 80
    openings = [json.loads(line) for line in run_.test_openings.read_text(encoding="utf-8").splitlines()]
    assert [opening["by"] for opening in openings] == ["augment --measure"]
    images = {"cat": 3, "dog": 2}
    record = Augmentation(
        run="r", model="gan", weights_sha256=None, seed=0, truncation=1.0, images=images, measured=found
    )  # fmt: skip
    lines = augmentation_lines(Augmentation.model_validate_json(record.model_dump_json()), Path("more"))
    assert lines[0] == "5 generated images of 2 labels are in more"
    assert lines[1].startswith(said)


def test_augment_measures_a_run_on_its_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    tiny_drawer(folder / "best", kind="gan", condition="label", labels=("cat", "dog"))
    (folder / "recipe.yaml").write_text("task: image-generation\ndata: {source: 'builtin:digits'}\n", encoding="utf-8")
    info = RunInfo(status="complete", task="image-generation", started="2026-01-02", versions={}, git_revision=None,
                   platform="Linux", seed=0, data_fingerprint="f" * 64)  # fmt: skip
    write_json(folder / "run.json", info)
    labels_taught: list[list[int]] = []

    def train_judge(images: np.ndarray, labels: np.ndarray, *, classes: int, seed: int) -> Pretended:
        labels_taught.append(list(labels))
        return Pretended(6)

    monkeypatch.setattr("finetune.image_augmenting.train_judge", train_judge)
    monkeypatch.setattr("finetune.image_augmenting.prepare_images", lambda loaded, *, progress: prepared_of(20))
    words = ("augment", folder, "--count", 4, "--measure", "--seeds", 1, "--output", "more")
    assert run(*words) == 0
    assert labels_taught == [[1] * 7, [1] * 7 + [0, 1, 0, 1]]
    record = json.loads(Path("more/augmentation.json").read_text(encoding="utf-8"))
    assert record["measured"]["generated_images"] == 4
    write_json(folder / "run.json", info.model_copy(update={"data_fingerprint": "0" * 64}))
    assert run(*words, "--force") == 2
    assert json.loads(Path("more/augmentation.json").read_text(encoding="utf-8")) == record
