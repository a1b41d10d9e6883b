"""What the JSON files of a run folder hold, as pydantic models that refuse unknown keys.

A reader (the report, a comparison, the model card) relies on what is written here and on nothing else. A field that
came later has a default, so that older run folders can still be read.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

FORMAT_VERSION = 1


class RunFile(BaseModel):
    """A JSON file of the run folder: unknown keys are kept out, so that readers can rely on what is here."""

    model_config = ConfigDict(extra="forbid")


class RunInfo(RunFile):
    """run.json: what ran, on what, how it stands."""

    kind: Literal["training"] = "training"
    format_version: int = FORMAT_VERSION
    status: Literal["running", "stopped", "failed", "pruned", "complete"]
    task: str
    started: str
    finished: str | None = None
    seconds: dict[str, float] = {}
    versions: dict[str, str]
    git_revision: str | None
    platform: str
    device: str = "cpu"
    processes: int = 1
    threads: int = 1
    seed: int
    data_fingerprint: str
    model_origin: str | None = None
    parameters: int | None = None
    trainable_parameters: int | None = None
    optimizer_bytes: int | None = None
    peak_memory_bytes: int | None = None
    steps: int | None = None
    padding_share: float | None = None
    training_tokens: int | None = None
    micro_batches: str | None = None
    fill_rate: float | None = None
    notes: list[str] = []
    failure: str | None = None


class Score(RunFile):
    """One number: `value` is null where it is undefined, and `note` says why; `low`..`high` is a 95 % interval.

    `coverage` is null for an interval that holds what it promises; for an approximate one (few documents, rare classes,
    few effective groups) it is how often such an interval contained the truth in simulations, as a share.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    note: str | None = None
    coverage: float | None = None


class SplitScores(RunFile):
    """Scores of one set of predictions on one split, counted in documents.

    per_class: one row a label with label, support, precision, recall, f1, tp, fp, tn, fn, tpr, fpr, tnr, fnr and
    `intervals`, which maps some of these to [low, high]. Written text has no labels: its scores stand alone, with
    sacrebleu's signatures of bleu and chrf.
    """

    scores: dict[str, Score]
    per_class: list[dict[str, Any]] = []
    confusion: list[list[int]] | None = None
    label_names: list[str] = []
    signatures: dict[str, str] = {}


class PairedTest(RunFile):
    """Two sets of predictions (first, second) of the same documents, compared document by document.

    difference is first - second; low..high its 95 % interval by the paired bootstrap, null where there is none; p the
    two-sided approximate randomisation, p_mcnemar McNemar's exact test (null where documents are grouped), p_holm p
    after Holm's correction where several pairs are compared. `better` is true when first is ahead in the metric's own
    direction and p (after correction, where there is one) is below .05. Of written text, "right" is "better by the
    document's own score".
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p: float
    p_mcnemar: float | None
    p_holm: float | None = None
    only_first_right: int
    only_second_right: int
    documents: int
    groups: int | None
    better: bool


class Suggestion(RunFile):
    """A recipe override to paste, such as `training.num_train_epochs=2`, and why."""

    override: str
    why: str


class FitVerdict(RunFile):
    """What the history says about the training; `since_epoch` is where overfitting or instability began.

    evidence: named numbers that the verdict rests on, such as validation_loss_best, validation_loss_last, gap_growth.
    """

    state: Literal["too_short", "still_learning", "good_fit", "overfitting", "unstable", "nothing_learned"]
    since_epoch: float | None = None
    evidence: dict[str, float] = {}
    suggestions: list[Suggestion] = []


class ReliabilityBin(RunFile):
    """Documents whose highest probability is in (low, high]: their mean confidence, and the share that is right."""

    low: float
    high: float
    documents: int
    confidence: float | None
    accuracy: float | None


class Reliability(RunFile):
    """Expected calibration error (share, 0..1) over `bins`, and log loss in nats."""

    ece: float
    log_loss: float
    bins: list[ReliabilityBin]


class Calibration(RunFile):
    """What was fitted on validation after the epoch was chosen, and what it did on test.

    Probabilities are softmax (or sigmoid) of logits / temperature. `folded`: the weights in best/ already hold the
    division. `thresholds`: multi-label only, label -> probability from which it is predicted; others stay at 0.5.
    before, after: reliability on test, null while test was not opened.
    """

    temperature: float
    folded: bool
    thresholds: dict[str, float] = {}
    note: str | None = None
    before: Reliability | None = None
    after: Reliability | None = None


class Scores(RunFile):
    """scores.json: model and baselines on the same documents. `test` is absent while it was not opened.

    baseline_tests: the model (first) against each baseline (second) on test, by the selection metric or, where that
    cannot be resampled, the one named there. beats_baselines: better than every one of them. strongest_baseline: by
    validation. weights: sha256 of the weights in best/ and last/ that these scores belong to.
    """

    format_version: int = FORMAT_VERSION
    metric_for_best_model: str
    best_epoch: float | None
    best_step: int | None
    splits: dict[str, SplitScores]
    last: dict[str, SplitScores]
    baselines: dict[str, dict[str, SplitScores]]
    baseline_tests: dict[str, PairedTest] = {}
    strongest_baseline: str | None = None
    beats_baselines: bool | None = None
    fit: FitVerdict | None = None
    calibration: Calibration | None = None
    weights: dict[str, str] = {}
    notes: list[str] = []


class Slice(RunFile):
    """Test documents that share something: `by` is length, group or column:NAME; `name` says which."""

    by: str
    name: str
    documents: int
    scores: dict[str, Score]


class ShownDocument(RunFile):
    """One document of the error analysis: a shortened text (the passage that decided, of a long one), or null.

    probability is that of the prediction, reference_probability that of the reference (the lowest, of several).
    """

    id: str
    group: str | None
    reference: str | list[str]
    prediction: str | list[str]
    probability: float
    reference_probability: float
    text: str | None
    is_passage: bool = False


class ShownText(RunFile):
    """One document with what was written for it, shortened. `cut`: the length limit ended it. chrf: 0..100."""

    id: str
    group: str | None = None
    prompt: str
    reference: str
    prediction: str
    cut: bool
    chrf: float | None = None


class Analysis(RunFile):
    """analysis.json: where the model is right and wrong on test; of written text, the best and worst by chrF."""

    format_version: int = FORMAT_VERSION
    slices: list[Slice]
    confident_mistakes: list[ShownDocument] = []
    hesitant: list[ShownDocument] = []
    best_texts: list[ShownText] = []
    worst_texts: list[ShownText] = []
    notes: list[str] = []


class Samples(RunFile):
    """samples/EPOCH/texts.json: what the model wrote after an epoch for the same validation documents every time."""

    epoch: float
    step: int
    texts: list[ShownText]


class ShownNeighbour(RunFile):
    """A drawn image of figures/nearest.png, from the left, and the training image below; `asked` is what it shows."""

    asked: str | None = None
    nearest: str
    distance: float


class Neighbours(RunFile):
    """figures/nearest.json: how near drawn images are to training images, and how near real ones of `split` are.

    Distances are roots of mean squared differences of pixels, 0..1. near_distance: below it are 5 % of the real images;
    near_share: the share of drawn ones below it, which is about 5 % of a model that draws new images, and more of one
    that draws training images again. copies: drawn images at distance 0. shown: the nearest ones, nearest first.
    """

    split: str
    drawn: int
    real: int
    training: int
    median_drawn: float
    median_real: float
    near_distance: float
    near_share: float
    copies: int
    shown: list[ShownNeighbour]


class ImageSamples(RunFile):
    """samples/EPOCH/images.json: what grid.png beside it shows, drawn from the same latents after every evaluation.

    labels, prompts: what was asked for, image by image in the order of the grid; both are empty of an unconditional
    model.
    """

    epoch: float
    step: int
    count: int
    labels: list[str] = []
    prompts: list[str] = []
