"""What a run folder tells, read once for its page and its cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import CheckpointError
from finetune.report.sentences import shown_split
from finetune.run_files import Analysis, ImageSamples, Neighbours, RunInfo, Samples, Scores, SplitScores
from finetune.runs import Json, Run, read_json_lines
from finetune.yaml_text import read_yaml

WRITERS = ("text-generation", "seq2seq")


@dataclass(frozen=True)
class Grid:
    """What was drawn after one evaluation from the same random numbers; `asked` in words, row by row."""

    epoch: float
    png: bytes
    asked: list[str]


@dataclass(frozen=True)
class Pictures:
    """The images of an image run, as PNG; None for what the run has not drawn."""

    grids: list[Grid]
    nearest: bytes | None
    interpolation: bytes | None
    reconstructions: bytes | None
    neighbours: Neighbours | None


@dataclass(frozen=True)
class Story:
    """What a run folder holds, as the page needs it; `split` is the one that the page speaks of."""

    folder: Path
    info: RunInfo
    scores: Scores
    analysis: Analysis | None
    data: Json
    history: list[Json]
    openings: list[Json]
    recipe: str
    samples: list[Samples]
    pictures: Pictures | None = None

    @classmethod
    def read(cls, run: Run) -> Story:
        """Raises CheckpointError when the run was never scored."""
        return cls(
            folder=run.folder,
            info=run.read(run.info, RunInfo),
            scores=run.read(run.scores, Scores),
            analysis=run.read(run.analysis, Analysis) if run.analysis.exists() else None,
            data=_data_of(run),
            history=run.history_rows(),
            openings=read_json_lines(run.test_openings),
            recipe=run.recipe.read_text(encoding="utf-8") if run.recipe.exists() else "",
            samples=read_samples(run),
            pictures=read_pictures(run),
        )

    @property
    def split(self) -> str:
        return shown_split(self.scores)

    @property
    def shown(self) -> SplitScores:
        return self.scores.splits[self.split]

    @property
    def metric(self) -> str:
        return self.scores.metric_for_best_model

    @property
    def writes(self) -> bool:
        """Whether the run made a text generator; otherwise it made a classifier."""
        return self.info.task in WRITERS

    @property
    def draws(self) -> bool:
        """Whether the run made an image model."""
        return self.info.task == "image-generation"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The recipe's sections by name; none of a folder without a recipe."""
        return read_yaml(self.recipe, name="recipe.yaml").values if self.recipe else {}


def _data_of(run: Run) -> Json:
    """data.json, which has many shapes; a folder without it is told without its data."""
    try:
        found = json.loads(run.data.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise CheckpointError(str(run.data), "is not JSON") from None
    return found if isinstance(found, dict) else {}


def read_samples(run: Run) -> list[Samples]:
    """What was written after each evaluation, in their order; nothing of a classifier."""
    found = [run.read(path, Samples) for path in run.samples.glob("*/texts.json")]
    return sorted(found, key=lambda each: each.step)


def read_pictures(run: Run) -> Pictures | None:
    """The grids by their steps, and the figures of the test; None of a run that drew nothing."""
    found = [(run.read(path, ImageSamples), path.with_name("grid.png")) for path in run.samples.glob("*/images.json")]
    ordered = sorted(found, key=lambda each: each[0].step)
    grids = [Grid(sample.epoch, picture, _words_of(sample)) for sample, path in ordered if (picture := _bytes_of(path))]
    nearest, ways, again = (
        _bytes_of(run.figures / f"{name}.png") for name in ("nearest", "interpolation", "reconstructions")
    )
    told = run.figures / "nearest.json"
    neighbours = run.read(told, Neighbours) if told.exists() else None
    return Pictures(grids, nearest, ways, again, neighbours) if grids or nearest or ways or again else None


def _words_of(sample: ImageSamples) -> list[str]:
    return list(sample.labels or sample.prompts or [])


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
