"""What a run folder tells, read once for its page and its cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import CheckpointError
from finetune.report.sentences import shown_split
from finetune.run_files import Analysis, RunInfo, Samples, Scores, SplitScores
from finetune.runs import Json, Run, read_json_lines
from finetune.yaml_text import read_yaml

WRITERS = ("text-generation", "seq2seq")


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
