"""comparison.json: what is written down of finished runs side by side."""

from __future__ import annotations

from typing import Literal

from finetune.run_files import FORMAT_VERSION, PairedTest, RunFile, Score


class ComparedRun(RunFile):
    """One run, scored again on the compared documents. `folder` is relative to that of the comparison."""

    name: str
    folder: str
    model_origin: str | None
    seed: int
    best_epoch: float | None
    test_openings: int
    scores: dict[str, Score]


class ComparedPair(RunFile):
    """Two runs by name; the first has the better score, or was named first where the scores are equal."""

    first: str
    second: str
    test: PairedTest


class LabelChanges(RunFile):
    """Documents with this label that only one of the two gets right."""

    label: str
    only_first_right: int
    only_second_right: int


class ChangedDocument(RunFile):
    """A document that only one of the two gets right: what the reference says, and what each run says.

    Of written text, one that `right` is better at by the document's own score: both scores, and the texts, shortened;
    a text is empty where none was written, or where a recipe shows none (report.examples: 0).
    """

    id: str
    group: str | None
    reference: str | list[str]
    first: str | list[str]
    second: str | list[str]
    right: Literal["first", "second"]
    first_score: float | None = None
    second_score: float | None = None


class ChangedSides(RunFile):
    """Where two runs part. The counts are of all documents; `documents` are the first 200 that changed sides.

    A written text is not right or wrong: both_right and both_wrong are null, only_first_right are the documents that
    first is better at by their own score in `metric`, `equal` those that neither is, and `documents` the 50 that
    differ most.
    """

    first: str
    second: str
    both_right: int | None
    both_wrong: int | None
    only_first_right: int
    only_second_right: int
    by_label: list[LabelChanges]
    documents: list[ChangedDocument]
    metric: str | None = None
    equal: int | None = None


class Comparison(RunFile):
    """comparison.json. tests: every pair; changed: the run with the best score against each other one.

    `metric` is what was asked for; each test names what it tested. left_out: name of a run -> how many of its test
    documents not all runs share. resamples, seed: behind intervals and tests.
    """

    kind: Literal["comparison"] = "comparison"
    format_version: int = FORMAT_VERSION
    metric: str
    documents: int
    groups: int | None
    left_out: dict[str, int]
    runs: list[ComparedRun]
    tests: list[ComparedPair]
    changed: list[ChangedSides]
    resamples: int
    seed: int
    notes: list[str]
