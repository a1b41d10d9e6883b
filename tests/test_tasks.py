"""What a task says about losses, decisions and windows, and predictions in the order of the documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from tiny_fits import LONGEST_WINDOW, VOCABULARY, classification, tiny_bert, tiny_documents
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from finetune.data.labels import LabelMap
from finetune.tasks.text_classification import balanced_weights
from finetune.training import inference
from finetune.training.inference import Share, document_features, gathered, predict_documents

NUMBERS = st.integers(0, 2**32 - 1)


@given(seed=NUMBERS, smoothing=st.sampled_from([0.0, 0.1, 0.5]), weighted=st.booleans())
def test_single_label_losses_are_torchs(seed: int, smoothing: float, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(4, (9,), generator=generator)
    weights = torch.rand(4, generator=generator, dtype=torch.float64) + 0.1 if weighted else None
    task = classification(
        4, class_weights=None if weights is None else tuple(weights.tolist()), label_smoothing=smoothing
    )
    mean = task.training_losses(logits, targets).sum() / task.document_weights(targets).sum()
    expected = F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-9)
    plain = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(task.evaluation_losses(logits, targets), plain)


@given(seed=NUMBERS, smoothing=st.sampled_from([0.0, 0.1]), weighted=st.booleans())
def test_multi_label_losses_are_torchs(seed: int, smoothing: float, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    marks = torch.randint(2, (9, 4), generator=generator).double()
    weights = torch.rand(4, generator=generator, dtype=torch.float64) + 0.1 if weighted else None
    chosen = None if weights is None else tuple(weights.tolist())
    task = classification(4, multi_label=True, class_weights=chosen, label_smoothing=smoothing)
    mean = task.training_losses(logits, marks).sum() / task.document_weights(marks).sum()
    smooth = marks.clamp(smoothing / 2, 1 - smoothing / 2)
    expected = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights)
    torch.testing.assert_close(mean, expected)


@given(encoded=st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_balanced_weights_are_scikit_learns(encoded: list[int]) -> None:
    present = sorted(set(encoded))
    labels = LabelMap.from_names(f"l{number}" for number in present)
    numbers = [present.index(label) for label in encoded]
    expected = compute_class_weight("balanced", classes=np.arange(len(present)), y=numbers)
    np.testing.assert_allclose(balanced_weights(numbers, labels), expected)


def test_balanced_weights_of_several_labels_are_negatives_over_positives() -> None:
    labels = LabelMap.from_names(["a", "b", "c"], multi_label=True)
    assert balanced_weights([[0], [0, 1], [0], []], labels) == (1 / 3, 3.0, 4.0)


def test_targets_and_decisions() -> None:
    single, several = classification(3), classification(3, multi_label=True)
    assert single.targets([2, 0]).tolist() == [2, 0]
    assert several.targets([[0, 2], []]).tolist() == [[1, 0, 1], [0, 0, 0]]
    probabilities = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])
    assert single.decide(probabilities) == ["label1", "label0"]
    assert several.decide(probabilities) == [["label1"], []]
    assert several.encode("label2|label0") == [0, 2] and single.encode("label1") == 1


# ---- predictions


def by_hand(
    model: torch.nn.Module, windows: list[list[list[int]]], *, multi_label: bool, how: str
) -> tuple[np.ndarray, list[int]]:
    """Probabilities of documents and their deciding windows, one window at a time, without padding."""
    rows, deciding = [], []
    model.eval()
    for document in windows:
        with torch.no_grad():
            logits = torch.cat([model(input_ids=torch.tensor([window])).logits for window in document]).double()
        values = logits.sigmoid() if multi_label else logits.softmax(-1)
        if how == "mean_logits":
            row = logits.mean(0).sigmoid() if multi_label else logits.mean(0).softmax(-1)
        else:
            row = values.mean(0) if how == "mean" else values.max(0).values
        rows.append((row if multi_label else row / row.sum()).numpy())
        deciding.append(int(values[:, row.argmax()].argmax()))
    return np.stack(rows), deciding


@pytest.mark.parametrize("how", ["mean", "mean_logits", "max"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 512])
def test_row_i_is_document_i(monkeypatch: pytest.MonkeyPatch, multi_label: bool, how: str, chunk: int) -> None:
    monkeypatch.setattr(inference, "DOCUMENTS_AT_A_TIME", chunk)
    windows, labels = tiny_documents(13, multi_label=multi_label, seed=3)
    model = tiny_bert().train()
    task = classification(3, multi_label=multi_label, aggregate=how)
    heard: list[int] = []
    predicted = predict_documents(
        model, windows, task=task, pad_id=0, budget_tokens=50, labels=labels, on_documents=heard.append
    )
    assert model.training and sum(heard) == 13 and max(heard) <= chunk
    expected, deciding = by_hand(model, windows, multi_label=multi_label, how=how)
    np.testing.assert_allclose(predicted.probabilities, expected, rtol=1e-5, atol=1e-7)
    assert predicted.deciding.tolist() == deciding and max(deciding) > 0
    assert predicted.windows.tolist() == [len(document) for document in windows]
    for document in (0, 7, 12):
        alone = predict_documents(
            model, [windows[document]], task=task, pad_id=0, budget_tokens=50, labels=[labels[document]]
        )
        assert alone.losses is not None and predicted.losses is not None
        np.testing.assert_allclose(alone.probabilities[0], predicted.probabilities[document], rtol=1e-5)
        assert alone.loss == pytest.approx(predicted.losses[document], rel=1e-5)


def test_the_loss_is_the_mean_over_documents_of_the_mean_over_windows() -> None:
    windows, labels = tiny_documents(9, seed=5)
    model = tiny_bert().eval()
    predicted = predict_documents(model, windows, task=classification(3), pad_id=0, budget_tokens=99, labels=labels)
    losses = []
    for document, label in zip(windows, labels, strict=True):
        with torch.no_grad():
            logits = torch.cat([model(input_ids=torch.tensor([window])).logits for window in document])
        losses.append(float(F.cross_entropy(logits, torch.full((len(document),), label))))
    assert predicted.loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_without_labels_or_documents() -> None:
    model, task = tiny_bert(), classification(3)
    windows, _ = tiny_documents(3)
    assert predict_documents(model, windows, task=task, pad_id=0, budget_tokens=99).loss is None
    nothing = predict_documents(model, [], task=task, pad_id=0, budget_tokens=99, labels=[])
    assert nothing.probabilities.size == 0 and nothing.losses is not None and nothing.losses.size == 0
    assert nothing.windows.size == nothing.deciding.size == 0


@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_shares_of_processes_come_back_in_order(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    windows, labels = tiny_documents(count, seed=6)
    model, task, processes = tiny_bert(), classification(3), 3
    whole = predict_documents(model, windows, task=task, pad_id=0, labels=labels)
    shares = [
        predict_documents(
            model, Share(windows, process=n, processes=processes), task=task, pad_id=0, labels=labels[n::processes]
        )
        for n in range(processes)
    ]
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda parts, mine: parts.__setitem__(slice(None), shares)
    )
    back = gathered(shares[0], documents=count, processes=processes)
    np.testing.assert_allclose(back.probabilities, whole.probabilities, rtol=1e-5)
    assert back.losses is not None and whole.losses is not None
    np.testing.assert_allclose(back.losses, whole.losses, rtol=1e-5)
    assert (back.windows.tolist(), back.deciding.tolist()) == (whole.windows.tolist(), whole.deciding.tolist())


@given(count=st.integers(0, 20), processes=st.integers(1, 4), chunk=st.integers(1, 6))
def test_the_shares_of_processes_are_every_document_once(count: int, processes: int, chunk: int) -> None:
    whole = [[[number]] for number in range(count)]
    back: list[Any] = [None] * count
    for process in range(processes):
        share = Share(whole, process=process, processes=processes)
        listed = [document for start in range(0, len(share), chunk) for document in share[start : start + chunk]]
        assert listed == [share[number] for number in range(len(share))]
        back[process::processes] = listed
    assert back == whole


SIZES = {"vocab_size": VOCABULARY, "num_labels": 3, "pad_token_id": 0}
BERTLIKE = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": LONGEST_WINDOW + 2, **SIZES,
}  # fmt: skip
ENCODERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "no token types": lambda: DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, **SIZES),
    "positions from the padding id": lambda: RobertaConfig(**BERTLIKE | {"pad_token_id": 1}),
    "relative positions": lambda: MPNetConfig(**BERTLIKE | {"pad_token_id": 1}),
    "shared layers": lambda: AlbertConfig(embedding_size=8, **BERTLIKE),
    "another head": lambda: ElectraConfig(embedding_size=8, **BERTLIKE),
    "last token": lambda: GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=LONGEST_WINDOW, **SIZES),
    "disentangled attention": lambda: AutoConfig.for_model("deberta-v2", relative_attention=True, **BERTLIKE),
    "rotary": lambda: AutoConfig.for_model("modernbert", **BERTLIKE, global_attn_every_n_layers=1, local_attention=8),
}


@pytest.mark.parametrize("build", ENCODERS.values(), ids=ENCODERS)
def test_padding_changes_no_prediction_of_any_encoder(build: Callable[[], PreTrainedConfig]) -> None:
    torch.manual_seed(0)
    config = build()
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():  # fresh weights are so small that every text would get the same answer
        for weights in (p for p in model.parameters() if p.dim() > 1):
            weights.normal_(std=0.3)
    windows, _ = tiny_documents(8, seed=4)
    predicted = predict_documents(
        model, windows, task=classification(3), pad_id=int(config.pad_token_id), budget_tokens=10_000
    )
    expected, _ = by_hand(model, windows, multi_label=False, how="mean")
    np.testing.assert_allclose(predicted.probabilities, expected, rtol=1e-4, atol=1e-6)
    assert np.ptp(predicted.probabilities, axis=0).max() > 1e-4, "it is not one constant answer"


def test_features_are_means_over_tokens_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "DOCUMENTS_AT_A_TIME", 4)
    windows, _ = tiny_documents(9, seed=2)
    model = tiny_bert().eval()
    features = document_features(model, windows, pad_id=0, budget_tokens=60)
    with torch.no_grad():
        for document, row in zip(windows, features, strict=True):
            hidden = [model.base_model(input_ids=torch.tensor([window]))[0][0].mean(0) for window in document]
            np.testing.assert_allclose(row, torch.stack(hidden).mean(0).numpy(), rtol=1e-4, atol=1e-6)


def test_tiny_documents_are_of_very_different_lengths(tmp_path: Path) -> None:
    lengths = [len(window) for document in tiny_documents(13, seed=3)[0] for window in document]
    assert min(lengths) <= 4 and max(lengths) >= LONGEST_WINDOW - 4
