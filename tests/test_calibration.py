"""Temperatures, thresholds and reliability: against slow loops, scikit-learn, and plain transformers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss
from tiny_fits import classification, tiny_bert, tiny_documents
from tiny_models import tiny_bert_folder, tiny_distilbert_folder, tiny_gpt2_folder, tiny_roberta_folder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from finetune.calibrating import calibrate, fold_temperature
from finetune.classifier_learner import ClassifierLearner
from finetune.errors import ModelError
from finetune.predict import Predictor
from finetune.prediction_files import predict_texts
from finetune.progress import SILENT
from finetune.run_files import Calibration
from finetune.runs import MODEL_SETTINGS
from finetune.scores.calibration import (
    TEMPERATURES,
    TemperatureLosses,
    choose_temperature,
    fit_thresholds,
    log_losses,
    reliability,
)
from finetune.scores.classification import predicted_labels, score_classification
from finetune.training import inference
from finetune.training.inference import gathered, losses_by_temperature, predict_documents

NUMBERS = st.integers(0, 2**32 - 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def drawn_from(probabilities: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """References of which each is drawn with exactly these probabilities (n, C)."""
    return (probabilities.cumsum(axis=1) < random.random((len(probabilities), 1))).sum(axis=1)


# ---- reliability


def slow_ece(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Guo et al. (2017), equation 3, word by word."""
    total = 0.0
    for number in range(1, bins + 1):
        low, high = (number - 1) / bins, number / bins
        members = [i for i, sure in enumerate(confidence) if low < sure <= high or (sure == 0 and number == 1)]
        if members:
            accuracy = sum(bool(right[i]) for i in members) / len(members)
            mean = sum(float(confidence[i]) for i in members) / len(members)
            total += len(members) / len(confidence) * abs(accuracy - mean)
    return total


@given(seed=NUMBERS, documents=st.integers(1, 60), classes=st.integers(2, 5), bins=st.integers(1, 20))
def test_reliability_of_single_labels(seed: int, documents: int, classes: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = softmax(random.normal(size=(documents, classes), scale=3))
    references = random.integers(classes, size=documents)
    found = reliability(references, probabilities, multi_label=False, bins=bins)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == references
    assert found.ece == pytest.approx(slow_ece(confidence, right, bins), abs=1e-12)
    assert sum(each.documents for each in found.bins) == documents and len(found.bins) == bins
    weighted = [each.documents * each.accuracy for each in found.bins if each.accuracy is not None]
    assert sum(weighted) == pytest.approx(right.sum())
    assert all(each.low < each.confidence <= each.high for each in found.bins if each.confidence is not None)
    assert found.log_loss == pytest.approx(log_loss(references, probabilities, labels=range(classes)))


@given(seed=NUMBERS, documents=st.integers(1, 40), classes=st.integers(1, 4))
def test_reliability_of_several_labels_is_over_decisions(seed: int, documents: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.choice([0.0, 0.2, 1 / 3, 0.5, 0.9, 1.0], size=(documents, classes))
    references = random.integers(2, size=(documents, classes))
    found = reliability(references, probabilities, multi_label=True, bins=10)
    assert found.ece == pytest.approx(slow_ece(probabilities.ravel(), references.ravel(), 10), abs=1e-12)
    assert sum(each.documents for each in found.bins) == documents * classes
    scores = score_classification(
        references, probabilities, label_names=[f"l{i}" for i in range(classes)], multi_label=True
    )
    assert found.log_loss == pytest.approx(scores.values["log_loss"])


@pytest.mark.parametrize("multi_label", [False, True])
def test_calibrated_probabilities_have_a_small_error_and_exaggerated_ones_a_large_one(multi_label: bool) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 3), scale=1.5)
    honest = 1 / (1 + np.exp(-logits)) if multi_label else softmax(logits)
    loud = 1 / (1 + np.exp(-4 * logits)) if multi_label else softmax(4 * logits)
    drawn = (random.random(honest.shape) < honest).astype(int) if multi_label else drawn_from(honest, random)
    assert reliability(drawn, honest, multi_label=multi_label).ece < 0.015
    assert reliability(drawn, loud, multi_label=multi_label).ece > 0.1


def test_an_edge_belongs_to_the_bin_below() -> None:
    found = reliability(np.array([0, 0, 0]), np.array([[0.5, 0.5], [0.6, 0.4], [1.0, 0.0]]), multi_label=False, bins=2)
    assert [each.documents for each in found.bins] == [1, 2]
    empty = reliability(np.array([0]), np.array([[1.0, 0.0]]), multi_label=False, bins=2).bins[0]
    assert (empty.documents, empty.confidence, empty.accuracy) == (0, None, None)


@pytest.mark.parametrize(
    ("references", "probabilities"),
    [
        (np.zeros(0, dtype=int), np.zeros((0, 2))),
        (np.array([0]), np.array([[2.0, -1.0]])),
        (np.array([2]), np.array([[0.5, 0.5]])),
        (np.array([0, 1]), np.array([[0.5, 0.5]])),
    ],
)
def test_what_cannot_be_reliable(references: np.ndarray, probabilities: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"cannot be compared|between 0 and 1|must be 0 to 1"):
        reliability(references, probabilities, multi_label=False)


# ---- choosing a temperature


def losses_of(logits: np.ndarray, references: np.ndarray) -> TemperatureLosses:
    by_temperature = [log_losses(references, softmax(logits / t), multi_label=False) for t in TEMPERATURES]
    # In two parts, as chunks come.
    losses = np.stack(by_temperature, axis=1)
    return TemperatureLosses.none_yet().plus(losses[: len(losses) // 3]).plus(losses[len(losses) // 3 :])


@pytest.mark.parametrize("exaggeration", [0.2, 0.5, 1.7, 5.0])
def test_the_temperature_of_least_loss_is_found_between_the_steps_of_the_grid(exaggeration: float) -> None:
    random = np.random.default_rng(1)
    logits = random.normal(size=(4000, 4), scale=1.5)
    references = drawn_from(softmax(logits), random)
    found, note = choose_temperature(losses_of(exaggeration * logits, references))
    fine = exaggeration * np.exp(np.linspace(-0.2, 0.2, 401))
    means = [log_losses(references, softmax(exaggeration * logits / t), multi_label=False).mean() for t in fine]
    assert note is None
    assert found == pytest.approx(fine[int(np.argmin(means))], rel=2e-3)
    assert found == pytest.approx(exaggeration, rel=0.06)


def test_temperatures_that_are_left_alone() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=(400, 3), scale=1.5)
    references = drawn_from(softmax(logits), random)
    cases = {
        "too few (at least 50)": (5 * logits[:49], references[:49]),
        "by more than chance": (logits, references),
        "endless sureness": (logits, logits.argmax(axis=1)),
    }
    for reason, (given_logits, truth) in cases.items():
        temperature, note = choose_temperature(losses_of(given_logits, truth))
        assert temperature == 1.0 and note is not None and reason in note


def test_a_loud_model_that_knows_nothing_is_silenced() -> None:
    random = np.random.default_rng(4)
    logits, references = random.normal(size=(300, 3), scale=8), random.integers(3, size=300)
    temperature, note = choose_temperature(losses_of(logits, references))
    assert temperature == TEMPERATURES[-1] and note is not None and "says nothing" in note
    before, after = (reliability(references, softmax(logits / t), multi_label=False) for t in (1, temperature))
    assert after.ece < 0.15 < 0.4 < before.ece


def test_calibrated_logits_are_left_alone_nearly_always() -> None:
    random = np.random.default_rng(3)
    changed = 0
    for _ in range(60):
        logits = random.normal(size=(200, 3), scale=1.5)
        changed += choose_temperature(losses_of(logits, drawn_from(softmax(logits), random)))[0] != 1.0
    assert changed <= 8  # a twentieth is expected: three; nine or more happens once in 300 times


# ---- thresholds


def brute_force(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The highest F1 of all sets of documents that a threshold can predict."""
    return max(f1_score(truth, probabilities >= level, zero_division=0) for level in np.unique(probabilities))


@given(seed=NUMBERS, documents=st.integers(2, 25), digits=st.integers(1, 3))
def test_thresholds_are_the_best_there_are(seed: int, documents: int, digits: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.random((documents, 2)).round(digits)
    references = random.integers(2, size=(documents, 2))
    found = fit_thresholds(references, probabilities, label_names=["a", "b"], least_positives=2)
    for column, name in enumerate("ab"):
        if references[:, column].sum() < 2:
            assert name not in found
            continue
        truth, values = references[:, column], probabilities[:, column]
        reached = f1_score(truth, values >= found[name])
        assert reached == pytest.approx(brute_force(truth, values), abs=1e-12)
        assert 0 <= found[name] <= 1
        if reached > f1_score(truth, values >= 0.5, zero_division=0) + 1e-12:
            assert found[name] != 0.5
            below, above = values[values < found[name]], values[values >= found[name]]
            middle = (max(below, default=0.0) + min(above)) / 2
            assert found[name] == pytest.approx(middle)
        else:
            assert found[name] == 0.5, "one half is as good"


def test_thresholds_need_thirty_positives_and_go_between_neighbours() -> None:
    references = np.array([[1, 1, 1]] * 29 + [[1, 0, 1]] + [[0, 0, 0]] * 30)
    probabilities = np.array([[0.4, 0.9, 0.7]] * 30 + [[0.2, 0.1, 0.3]] * 30)
    found = fit_thresholds(references, probabilities, label_names=["low", "few", "half"])
    assert found == pytest.approx({"low": 0.3, "half": 0.5})
    close = np.nextafter(0.1, 1)
    found = fit_thresholds(np.array([[1], [0]]), np.array([[close], [0.1]]), label_names=["a"], least_positives=1)
    assert found == {"a": close}, "no number is between them, and the lower one must stay out"


def test_thresholds_decide() -> None:
    probabilities, thresholds = np.array([[0.3, 0.6], [0.2, 0.4]]), np.array([0.3, 0.7])
    assert predicted_labels(probabilities, multi_label=True).tolist() == [[0, 1], [0, 0]]
    assert predicted_labels(probabilities, multi_label=True, thresholds=thresholds).tolist() == [[1, 0], [0, 0]]
    task = classification(2, multi_label=True)
    assert task.decide(probabilities, thresholds=thresholds) == [["label0"], []]
    references = np.array([[1, 0], [0, 0]])
    scores = [
        score_classification(references, probabilities, label_names=["a", "b"], multi_label=True, thresholds=chosen)
        for chosen in (None, thresholds)
    ]
    assert [score.values["accuracy"] for score in scores] == [0.5, 1.0]


# ---- one pass over documents


@pytest.mark.parametrize("how", ["mean", "mean_logits", "max"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_losses_by_temperature_are_those_of_merged_documents(
    monkeypatch: pytest.MonkeyPatch, multi_label: bool, how: str
) -> None:
    monkeypatch.setattr(inference, "DOCUMENTS_AT_A_TIME", 4)
    windows, labels = tiny_documents(11, multi_label=multi_label, seed=3)
    task, model = classification(3, multi_label=multi_label, aggregate=how), tiny_bert()
    heard: list[int] = []
    found = losses_by_temperature(model, windows, labels, task=task, pad_id=0, on_documents=heard.append)
    assert found.documents == 11 and heard == [4, 4, 3]
    some = [0, 12, found.one, 50]
    by_hand = []
    for temperature in TEMPERATURES[some]:
        cooler = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in cooler.classifier.parameters():
                parameter.div_(temperature)
        probabilities = predict_documents(cooler, windows, task=task, pad_id=0).probabilities
        by_hand.append(task.log_losses(probabilities, task.targets(labels)))
    losses = np.stack(by_hand, axis=1)
    np.testing.assert_allclose(found.sums[some], losses.sum(axis=0), rtol=1e-4)
    gains = losses[:, [2]] - losses
    np.testing.assert_allclose(found.squared_gains[some], (gains**2).sum(axis=0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("how", ["mean", "mean_logits", "max"])
def test_uncalibrated_probabilities_are_those_before_folding(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    windows, labels = tiny_documents(9, seed=6)
    model, task = tiny_bert(), classification(3, aggregate=how)
    before = predict_documents(model, windows, task=task, pad_id=0)
    assert before.uncalibrated is None
    assert fold_temperature(model, 3.0, probe=[document[0] for document in windows], pad_id=0)

    def predicted(start: int = 0, step: int = 1) -> inference.DocumentPredictions:
        return predict_documents(
            model, windows[start::step], task=task, pad_id=0, labels=labels[start::step], temperature=3.0
        )

    after = predicted()
    assert after.uncalibrated is not None
    np.testing.assert_allclose(after.uncalibrated, before.probabilities, rtol=1e-4)
    assert np.abs(after.probabilities - before.probabilities).max() > 0.01
    shares = [predicted(0, 2), predicted(1, 2)]
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda parts, mine: parts.__setitem__(slice(None), shares)
    )
    back = gathered(shares[0], documents=9, processes=2)
    assert back.uncalibrated is not None
    np.testing.assert_allclose(back.uncalibrated, after.uncalibrated, rtol=1e-5)


# ---- folding

FOLDERS: dict[str, Callable[..., Path]] = {
    "bert": tiny_bert_folder, "distilbert": tiny_distilbert_folder, "roberta": tiny_roberta_folder,
    "gpt2": tiny_gpt2_folder,
}  # fmt: skip
PROBE = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 5, 3]]


def tiny_model(folder: Path) -> PreTrainedModel:
    """With weights that are large enough for the logits to differ."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.config.pad_token_id = 1 if model.config.model_type == "roberta" else 0
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(std=0.3)
    return model


def logits_of(model: PreTrainedModel, windows: list[list[int]] = PROBE) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([window])).logits.float() for window in windows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.4, 2.7])
@pytest.mark.parametrize("kind", FOLDERS)
def test_folding_divides_the_logits(kind: str, temperature: float, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model(FOLDERS[kind](tmp_path, num_labels=3)).to(dtype).eval()  # type: ignore[arg-type]
    before, weights = logits_of(model), {name: each.clone() for name, each in model.state_dict().items()}
    assert fold_temperature(model.train(), temperature, probe=PROBE, pad_id=model.config.pad_token_id)
    assert model.training, "left as it was found"
    changed = {name.rsplit(".", 1)[0] for name, each in model.state_dict().items() if not each.equal(weights[name])}
    assert changed == {{"roberta": "classifier.out_proj", "gpt2": "score"}.get(kind, "classifier")}
    exact = dtype == torch.float32
    torch.testing.assert_close(
        logits_of(model.eval()) * temperature, before, rtol=1e-5 if exact else 0.05, atol=1e-5 if exact else 0.05
    )


class BentHead(torch.nn.Module):
    """A last layer whose outputs do not come out as they are."""

    def __init__(self, inside: torch.nn.Linear) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.inside(features))


class PlainHead(torch.nn.Module):
    """A head without any linear layer."""

    def __init__(self, inside: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(inside.weight.detach().clone())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.weight.T


@pytest.mark.parametrize("head", [BentHead, PlainHead])
def test_a_model_whose_last_layer_is_not_found_is_left_alone(head: Any) -> None:
    model = over_confident_model()
    model.classifier = head(model.classifier)
    if head is BentHead:
        model.classifier.register_forward_hook(lambda module, given, logits: 8 * logits)
    windows, _ = tiny_documents(300, most_windows=1, seed=1)
    loud = predict_documents(model, windows, task=TASK, pad_id=0).probabilities
    honest = loud**0.3 / (loud**0.3).sum(axis=1, keepdims=True)
    labels = drawn_from(honest, np.random.default_rng(1)).tolist()
    weights = {name: each.clone() for name, each in model.state_dict().items()}
    found = calibrated(model, windows, labels)
    assert (found.temperature, found.folded) == (1.0, False)
    assert found.note is not None and "no last linear layer was found" in found.note
    assert all(each.equal(weights[name]) for name, each in model.state_dict().items())


# ---- the whole of it

Some = tuple[list[list[list[int]]], list[Any]]
TASK = classification(3)


def over_confident_model(*, loud: float = 5.0, classes: int = 3) -> PreTrainedModel:
    model = tiny_bert(classes, seed=4).eval()
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.mul_(loud)
    return model


def over_confident_documents(
    count: int, *, seed: int, most_windows: int = 1, loud: float = 5.0, multi_label: bool = False
) -> tuple[Some, Some]:
    """Validation and other documents, labelled as a model five times less sure says: with just its probabilities."""
    windows, _ = tiny_documents(2 * count, most_windows=most_windows, seed=seed)
    task = classification(3, multi_label=multi_label)
    honest = predict_documents(over_confident_model(loud=1.0 * loud / 5.0), windows, task=task, pad_id=0).probabilities
    random = np.random.default_rng(seed)
    labels = (
        [np.flatnonzero(row).tolist() for row in random.random(honest.shape) < honest]
        if multi_label
        else drawn_from(honest, random).tolist()
    )
    return (windows[:count], labels[:count]), (windows[count:], labels[count:])


def calibrated(
    model: PreTrainedModel, windows: Any, labels: Any, *, multi_label: bool = False, heard: list[int] | None = None
) -> Calibration:
    return calibrate(
        model, task=classification(3, multi_label=multi_label), windows=windows, labels=labels, pad_id=0,
        label_names=["label0", "label1", "label2"], multi_label=multi_label,
        on_documents=(heard if heard is not None else []).append,
    )  # fmt: skip


def test_an_over_confident_model_is_calmed_for_other_documents_too() -> None:
    (windows, labels), (others, truth) = over_confident_documents(1200, seed=2)
    model = over_confident_model()
    before = predict_documents(model, others, task=TASK, pad_id=0).probabilities
    heard: list[int] = []
    found = calibrated(model, windows, labels, heard=heard)
    after = predict_documents(model, others, task=TASK, pad_id=0).probabilities
    assert found.temperature == pytest.approx(5.0, rel=0.15) and found.folded and found.note is None
    assert found.thresholds == {} and sum(heard) == 1200
    was, now = (reliability(np.array(truth), each, multi_label=False) for each in (before, after))
    assert now.ece < was.ece / 3 and now.log_loss < was.log_loss - 0.1
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all(), "documents of one window keep their label"
    again = calibrated(over_confident_model(), windows, labels)
    assert again == found
    settled = calibrated(model, windows, labels)
    assert settled.temperature == 1.0 and not settled.folded and "by more than chance" in (settled.note or "")


def test_several_windows_are_calibrated_as_documents() -> None:
    """The mean of window probabilities is duller than they are: the temperature makes up for it."""
    (windows, labels), _ = over_confident_documents(600, seed=3, most_windows=3)
    model = over_confident_model()
    found = calibrated(model, windows, labels)
    loss = log_losses(
        np.array(labels), predict_documents(model, windows, task=TASK, pad_id=0).probabilities, multi_label=False
    ).mean()
    for other in (0.9, 1.1):
        moved = over_confident_model()
        assert fold_temperature(moved, found.temperature * other, probe=windows[0], pad_id=0)
        worse = predict_documents(moved, windows, task=TASK, pad_id=0).probabilities
        assert log_losses(np.array(labels), worse, multi_label=False).mean() > loss


def test_several_labels_get_thresholds_of_the_calibrated_probabilities() -> None:
    (windows, labels), _ = over_confident_documents(400, seed=5, multi_label=True)
    model, heard = over_confident_model(), list[int]()
    found = calibrated(model, windows, labels, multi_label=True, heard=heard)
    assert found.folded and found.temperature == pytest.approx(5.0, rel=0.25) and sum(heard) == 2 * 400
    task = classification(3, multi_label=True)
    probabilities = predict_documents(model, windows, task=task, pad_id=0).probabilities
    marks = task.targets(labels).numpy()
    assert list(found.thresholds) == [f"label{i}" for i in range(3) if marks[:, i].sum() >= 30] != []
    for column, name in enumerate(f"label{i}" for i in range(3)):
        if name in found.thresholds:
            chosen = f1_score(marks[:, column], probabilities[:, column] >= found.thresholds[name])
            assert chosen == pytest.approx(brute_force(marks[:, column], probabilities[:, column]))


# ---- the saved model


def saved(folder: Path, *, multi_label: bool, calibration: Calibration | None, **kept: Any) -> Path:
    """A folder as a run leaves it, by ClassifierLearner.save."""
    source = tiny_bert_folder(folder / "source", texts=["a b c d e f g h i j k l m n ."], num_labels=3)
    model = tiny_model(source)
    if calibration is not None and calibration.folded:
        assert fold_temperature(model, calibration.temperature, probe=PROBE, pad_id=0)
    settings = {
        "format_version": 1, "task": "text-classification", "multi_label": multi_label, "cleaning": [],
        "windows": {"max_tokens": 16, "stride": 2, "aggregate": "mean"}, "text_column": "text",
    }  # fmt: skip
    learner = ClassifierLearner(
        classification(3, multi_label=multi_label), model, AutoTokenizer.from_pretrained(source), {}, {}, None, [],
        settings, fresh_model=lambda: model,
    )  # fmt: skip
    learner.save(model, folder / "best", *([] if calibration is None else [calibration]))
    assert "calibration" not in learner.settings
    return folder / "best"


TEXTS = ["a b c", "d e f g", "h", "i j k l m n", "a a a a b"]


def test_plain_transformers_gives_the_calibrated_probabilities(tmp_path: Path) -> None:
    calibration = Calibration(temperature=2.5, folded=True)
    best = saved(tmp_path, multi_label=False, calibration=calibration)
    stored = json.loads((best / MODEL_SETTINGS).read_text(encoding="utf-8"))
    assert stored["calibration"] == {"temperature": 2.5, "folded": True, "thresholds": {}}
    plain, tokenizer = AutoModelForSequenceClassification.from_pretrained(best), AutoTokenizer.from_pretrained(best)
    with torch.no_grad():
        theirs = torch.cat([plain(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]).softmax(-1)
    predictor = Predictor.load(best, use_cpu=True)
    rows = datasets.Dataset.from_dict({"text": TEXTS, "origin": TEXTS})
    ours = predictor.predict_rows(rows)
    np.testing.assert_allclose(ours.probabilities, theirs.numpy(), rtol=1e-4)
    assert predictor.calibration == calibration and predictor.thresholds is None
    untouched = Predictor.load(saved(tmp_path / "plain", multi_label=False, calibration=None), use_cpu=True)
    before = untouched.predict_rows(rows)
    assert before.uncalibrated is None and untouched.calibration is None and untouched.thresholds is None
    assert ours.uncalibrated is not None
    np.testing.assert_allclose(ours.uncalibrated, before.probabilities, rtol=1e-4)
    assert np.abs(ours.probabilities - before.probabilities).max() > 0.05
    assert ours.probabilities.argmax(axis=1).tolist() == before.probabilities.argmax(axis=1).tolist()


def test_a_predictor_decides_by_the_thresholds(tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain", multi_label=True, calibration=None)
    middle = Predictor.load(plain, use_cpu=True).predict(TEXTS)
    values = [one.probabilities["LABEL_1"] for one in middle]
    threshold = float(np.median(values))
    assert min(values) < threshold < max(values)
    calibration = Calibration(temperature=1.0, folded=False, thresholds={"LABEL_1": threshold})
    best = saved(tmp_path, multi_label=True, calibration=calibration)
    predictor = Predictor.load(best, use_cpu=True)
    assert predictor.thresholds is not None and predictor.thresholds.tolist() == [0.5, threshold, 0.5]
    for row in predict_texts(best, TEXTS, progress=SILENT):
        limits = {"LABEL_0": 0.5, "LABEL_1": threshold, "LABEL_2": 0.5}
        exact = predictor.predict([row["text"]])[0].probabilities
        assert row["label"] == [name for name, value in exact.items() if value >= limits[name]]
    rows = datasets.Dataset.from_dict({"text": TEXTS, "origin": TEXTS})
    assert predictor.predict_rows(rows).uncalibrated is None, "there is no temperature"


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"temperature": 2.0, "folded": True, "thresholds": {"other": 0.4}}, "labels that the model has not: other"),
        ({"temperature": "warm", "folded": True}, "cannot be read"),
        ({"temperature": 2.0, "folded": True, "thresholds": {}, "colour": 1}, "cannot be read"),
    ],
)
def test_a_calibration_that_cannot_be_meant(tmp_path: Path, calibration: Any, message: str) -> None:
    best = saved(tmp_path, multi_label=True, calibration=None)
    settings = json.loads((best / MODEL_SETTINGS).read_text(encoding="utf-8"))
    (best / MODEL_SETTINGS).write_text(json.dumps(settings | {"calibration": calibration}), encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        Predictor.load(best, use_cpu=True)


def test_the_grid_holds_one() -> None:
    assert TEMPERATURES[TemperatureLosses.none_yet().one] == 1 and (np.diff(TEMPERATURES) > 0).all()
