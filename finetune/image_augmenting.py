"""`augment`: a folder of drawn images sorted by label, and what it is worth to a classifier.

What it is worth is measured, never assumed: the same small classifier learns from the run's training images alone and
from them with the drawn ones, for several seeds and equally many steps, and both are asked about the test split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.data.image_prepare import ImageTable, PreparedImages, prepare_images
from finetune.errors import CheckpointError, DataError, listed
from finetune.image.judges import STEPS, train_judge
from finetune.image_grid import Pixels, png
from finetune.image_predictor import ImagePredictor
from finetune.image_requests import AUGMENTATION_RECORD, AugmentRequest, model_name
from finetune.image_samples import weights_of
from finetune.output_folder import written_folder
from finetune.progress import Progress
from finetune.recipe_file import load_recipe
from finetune.run_files import FORMAT_VERSION, PairedTest, RunFile, RunInfo
from finetune.runs import Run, write_json
from finetune.scores.paired import Judged, paired_test

DRAWN_AT_A_TIME = 1024
WARNING_OF_USE = (
    "These images were drawn by a model from random numbers. Nobody looked at them, and a label is what was asked for, "
    "not what an image shows."
)

Labels = NDArray[np.int64]


class Trial(RunFile):
    """Accuracy on test of two classifiers of one seed: without the drawn images, and with them."""

    seed: int
    without: float
    with_generated: float


class Measured(RunFile):
    """What the drawn images did to a classifier. test: with (first) against without (second), all seeds together.

    A unit of the test is one test image, or one family of near duplicates, with its answers for every seed.
    """

    classifier_steps: int
    training_images: int
    generated_images: int
    test_images: int
    trials: list[Trial]
    test: PairedTest

    @property
    def verdict(self) -> Literal["better", "worse", "open"]:
        if self.test.better:
            return "better"
        mirrored = self.test.difference < 0 and self.test.p < 0.05
        return "worse" if mirrored else "open"


class Augmentation(RunFile):
    """augmentation.json: what lies beside it, how it came about, and what it is worth where that was measured."""

    kind: Literal["augmentation"] = "augmentation"
    format_version: int = FORMAT_VERSION
    generated: Literal[True] = True
    about: str = WARNING_OF_USE
    run: str
    model: str
    weights_sha256: str | None
    seed: int
    truncation: float
    images: dict[str, int]
    measured: Measured | None = None


def write_augmentation(target: Path, request: AugmentRequest, folder: Path, *, progress: Progress) -> Augmentation:
    """Draw into FOLDER/LABEL/, with augmentation.json; the folder is there as a whole or not at all.

    The caller has asked `check_augment` and `check_output_folder`. Raises CheckpointError and DataError where the
    worth is to be measured, and the run's data has changed or has no labels.
    """
    prepared = _prepared(target, progress=progress) if request.measured_seeds else None
    predictor = ImagePredictor.load(target)
    names = list(dict.fromkeys(request.labels)) or predictor.settings.labels
    kept, counts = list[Pixels](), dict.fromkeys(names, 0)
    with written_folder(folder, record=AUGMENTATION_RECORD) as staging:
        for first, pixels in _drawn(predictor, request, names, progress):
            for place, image in enumerate(pixels, start=first):
                name = names[place % len(names)]
                (staging / name).mkdir(parents=True, exist_ok=True)
                (staging / name / f"seed{request.seed}-{place:06d}.png").write_bytes(png(image))
                counts[name] += 1
            kept += [pixels] if prepared is not None else []
        record = Augmentation(
            run=model_name(target),
            model=predictor.settings.kind,
            weights_sha256=weights_of(target),
            seed=request.seed,
            truncation=request.truncation,
            images=counts,
        )
        if prepared is not None:
            drawn = np.concatenate(kept)
            classes = np.array([prepared.labels.names.index(names[place % len(names)]) for place in range(len(drawn))])
            measured = measure(
                prepared, drawn, classes, seeds=request.measured_seeds, run=Run(target), progress=progress
            )
            record = record.model_copy(update={"measured": measured})
        write_json(staging / AUGMENTATION_RECORD, record)
    return record


def measure(
    prepared: PreparedImages, drawn: Pixels, drawn_labels: Labels, *, seeds: int, run: Run, progress: Progress
) -> Measured:
    """Classifiers with and without the drawn images (N, C, S, S) on the test split, whose opening is recorded."""
    train, test = prepared.splits["train"], prepared.splits["test"]
    labels, references, classes = _labels(train), _labels(test), len(prepared.labels.names)
    run.record_test_opening(by="augment --measure", documents=len(test))
    together = np.concatenate([np.asarray(train.pixels), drawn]), np.concatenate([labels, drawn_labels])
    answers: dict[str, list[Labels]] = {"without": [], "with": []}
    with progress.bar(total=2 * seeds, desc="measuring", unit="classifier") as bar:
        for seed in range(seeds):
            for side, (pixels, wanted) in (("without", (train.pixels, labels)), ("with", together)):
                judge = train_judge(pixels, wanted, classes=classes, seed=seed)
                answers[side].append(judge.classes(test.pixels))
                bar.update(1)
    with_, without = (Judged(np.concatenate(answers[side])) for side in ("with", "without"))
    families = prepared.families.get("test", np.arange(len(test)))
    return Measured(
        classifier_steps=STEPS,
        training_images=len(train),
        generated_images=len(drawn),
        test_images=len(test),
        trials=[
            Trial(seed=seed, without=_accuracy(without, references), with_generated=_accuracy(with_, references))
            for seed, (without, with_) in enumerate(zip(answers["without"], answers["with"], strict=True))
        ],
        test=paired_test(
            np.tile(references, seeds),
            with_,
            without,
            classes=classes,
            metric="accuracy",
            groups=np.tile(families, seeds),
            seed=0,
        ),
    )


def augmentation_lines(record: Augmentation, folder: Path) -> list[str]:
    """What the screen says: what was written and, where it was measured, whether it helped."""
    total = sum(record.images.values())
    lines = [f"{total:,} generated images of {len(record.images):,} labels are in {folder}"]
    found = record.measured
    if found is None:
        return [*lines, "Whether a classifier gains by them was not measured: add --measure."]
    test = found.test
    ahead = sum(trial.with_generated > trial.without for trial in found.trials)
    interval = f" [{test.low:+.3f}, {test.high:+.3f}]" if test.low is not None and test.high is not None else ""
    p = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
    verdict = {
        "better": "A small classifier does better on test with them",
        "worse": "A small classifier does WORSE on test with them, so leave them out",
        "open": "Whether a small classifier gains by them cannot be told",
    }[found.verdict]
    seeds = f"mean of {len(found.trials)} seeds" if len(found.trials) > 1 else "one seed"
    each = listed([f"{trial.with_generated:.3f} against {trial.without:.3f}" for trial in found.trials], most=10)
    return [
        *lines,
        f"{verdict}: accuracy {test.first:.3f} with, {test.second:.3f} without ({seeds}).",
        f"Difference {test.difference:+.3f}{interval}, {p}, paired on {found.test_images:,} test images; "
        f"with them ahead for {ahead} of {len(found.trials)} seeds ({each}).",
        f"{found.training_images:,} real training images, {found.generated_images:,} generated ones, "
        f"{found.classifier_steps} steps either way. Another classifier, or fewer real images, may answer otherwise.",
    ]


def _prepared(target: Path, *, progress: Progress) -> PreparedImages:
    """The data of the run as it was trained."""
    run = Run(target)
    prepared = prepare_images(load_recipe(run.recipe), progress=progress)
    if prepared.fingerprint != run.read(run.info, RunInfo).data_fingerprint:
        what = "the data has changed since this run was trained"
        raise CheckpointError(str(run.folder), what, "Restore it, or train again.")
    for split in ("train", "test"):
        _labels(prepared.splits[split])
    return prepared


def _labels(table: ImageTable) -> Labels:
    if table.labels is None:
        raise DataError("--measure", "the run's images have no labels, so no classifier can learn from them")
    return table.labels


def _drawn(
    predictor: ImagePredictor, request: AugmentRequest, names: Sequence[str], progress: Progress
) -> Iterator[tuple[int, Pixels]]:
    """Blocks of images with the number of their first; image i shows label i of the names in turn."""
    asked = predictor.asked(names)
    with progress.bar(total=request.count, desc="drawing", unit="image") as bar:
        for first in range(0, request.count, DRAWN_AT_A_TIME):
            count = min(DRAWN_AT_A_TIME, request.count - first)
            yield (
                first,
                predictor.draw(
                    count,
                    seed=request.seed,
                    asked=asked,
                    truncation=request.truncation,
                    first=first,
                    on_images=bar.update,
                ),
            )


def _accuracy(answers: Labels, references: Labels) -> float:
    return float((answers == references).mean())
