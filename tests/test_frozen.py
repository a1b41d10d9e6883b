"""A frozen encoder runs once, and what comes of it is what would have come of running it in every epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tiny_fits import LONGEST_WINDOW, VOCABULARY, classification, tiny_bert, tiny_documents, tiny_plan
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from finetune.adapters import freeze
from finetune.errors import Stopped
from finetune.training.batches import DocumentSampler
from finetune.training.checkpoints import newest_checkpoint
from finetune.training.frozen import FeatureTable, FrozenLesson, encoder_features, find_frozen_head
from finetune.training.plan import FitPlan
from finetune.training.trainer import fit

SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 32, "num_labels": 3, "initializer_range": 0.2}  # fmt: skip
LENGTH = {"max_position_embeddings": LONGEST_WINDOW + 2}
NETWORKS: dict[str, Any] = {
    "bert": (lambda: BertForSequenceClassification(BertConfig(**SIZES, **LENGTH)), "pooled"),
    "roberta": (lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES, **LENGTH, pad_token_id=0)), "first"),
    "distilbert": (
        lambda: DistilBertForSequenceClassification(
            DistilBertConfig(
                vocab_size=VOCABULARY, dim=16, n_layers=1, n_heads=2, hidden_dim=32, num_labels=3,
                initializer_range=0.2, seq_classif_dropout=0.2,
            )
        ),
        "first",
    ),
    "gpt2": (
        lambda: GPT2ForSequenceClassification(
            GPT2Config(
                vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, num_labels=3, pad_token_id=0, bos_token_id=1,
                eos_token_id=1, initializer_range=0.2,
            )
        ),
        "last",
    ),
    "llama": (lambda: LlamaForSequenceClassification(LlamaConfig(**SIZES, pad_token_id=0)), "last"),
}  # fmt: skip
OTHERS: dict[str, Any] = {
    "t5": lambda: T5ForSequenceClassification(
        T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, num_labels=3,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )
    ),
    "xlnet": lambda: XLNetForSequenceClassification(
        XLNetConfig(vocab_size=VOCABULARY, d_model=16, n_layer=1, n_head=2, d_inner=32, num_labels=3)
    ),
}  # fmt: skip


def network(name: str, *, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    made: PreTrainedModel = (NETWORKS[name][0] if name in NETWORKS else OTHERS[name])()
    freeze(made)
    return made


def column(windows: list[list[list[int]]]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"windows": windows})


def on_features(plan: FitPlan, model: PreTrainedModel, encoder: str = "w") -> FitPlan:
    """The same plan, with an encoder that runs once."""
    plain: Any = plan.lesson
    windows = datasets.Dataset.from_dict(
        {"windows": [plain.examples[(i, "mine")][0] for i in range(len(plain.examples))]}
    )
    validation = column(list(plain.validation_windows))
    head = find_frozen_head(model, [w for document in validation["windows"][:8] for w in document], pad_id=plain.pad_id)
    assert head is not None
    table = FeatureTable(encoder_features(head, windows, encoder=encoder), plain.examples.labels)
    lesson = FrozenLesson(plain, head, table, encoder_features(head, validation, encoder=encoder))
    return replace(plan, lesson=lesson)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("finetune.training.frozen.cache_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NETWORKS)
def test_the_scores_are_those_of_the_slow_way(tmp_path: Path, name: str) -> None:
    """With dropout in the head, drawn alike; in the encoder there is none."""
    found = []
    for way in ("slow", "fast"):
        scores: list[dict[str, float]] = []
        model = network(name)
        plan = tiny_plan(
            tmp_path / way, train=tiny_documents(30), validation=tiny_documents(12, seed=1), num_train_epochs=3,
            learning_rate=1e-2, tokens_per_micro_batch=64,
        )  # fmt: skip
        plan = replace(plan, on_evaluation=lambda epoch, told, kept=scores: kept.append(dict(told)))
        fit(model, plan if way == "slow" else on_features(plan, model))
        found.append((scores, {n: w.detach() for n, w in model.named_parameters()}))
    (slow, weights), (fast, others) = found
    assert len(slow) == 3 and slow[0]["loss"] != slow[2]["loss"]
    for one, other in zip(slow, fast, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert weights.keys() == others.keys()
    for key, weight in weights.items():
        assert torch.allclose(weight, others[key], atol=1e-5), key


@pytest.mark.parametrize("name", NETWORKS)
def test_what_the_head_reads_is_found_on_the_model(name: str) -> None:
    windows = [window for document in tiny_documents(6)[0] for window in document]
    head = find_frozen_head(network(name), windows, pad_id=0)
    assert head is not None and head.part == NETWORKS[name][1]


@pytest.mark.parametrize("name", OTHERS)
def test_a_head_that_reads_otherwise_is_left_to_the_slow_way(name: str) -> None:
    windows = [[*window, 1] for document in tiny_documents(6)[0] for window in document]  # T5 reads at its end token
    assert find_frozen_head(network(name), windows, pad_id=0) is None


def test_a_head_of_zeros_agrees_with_nothing() -> None:
    model = network("bert")
    torch.nn.init.zeros_(model.get_parameter("classifier.weight"))
    assert find_frozen_head(model, tiny_documents(6)[0][0] + tiny_documents(6)[0][1], pad_id=0) is None


def test_a_new_pooler_learns_with_the_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NETWORKS["bert"][0]()
    freeze(model, new=["bert.pooler.dense.weight", "bert.pooler.dense.bias"])
    before = model.bert.pooler.dense.weight.detach().clone()
    plan = tiny_plan(tmp_path, train=tiny_documents(20), validation=tiny_documents(8, seed=1), learning_rate=1e-2)
    fast = on_features(plan, model)
    assert fast.lesson.head.part == "first"  # type: ignore[attr-defined]
    fit(model, fast)
    assert not torch.equal(model.bert.pooler.dense.weight, before)


def test_the_encoder_runs_once_and_another_time_not_at_all(tmp_path: Path) -> None:
    model, passes = network("bert"), []
    model.base_model.register_forward_hook(lambda *call: passes.append(1))
    plan = tiny_plan(
        tmp_path / "1", train=tiny_documents(30), validation=tiny_documents(12, seed=1), num_train_epochs=5
    )
    fast = on_features(plan, model)
    read = len(passes)
    fit(model, fast)
    assert len(passes) == read > 0
    again = on_features(plan, model)
    assert len(passes) == read + 2  # the probe: the model's own logits, and what its head reads of them
    assert np.array_equal(again.lesson.validation.values, fast.lesson.validation.values)  # type: ignore[attr-defined]


def test_other_weights_or_windows_have_other_features(own_cache: Path) -> None:
    head = find_frozen_head(network("bert"), [w for d in tiny_documents(6)[0] for w in d], pad_id=0)
    assert head is not None
    columns = [column(tiny_documents(5, seed=seed)[0]) for seed in (0, 1)]
    wanted = [(0, "a"), (0, "b"), (1, "a"), (0, "a")]
    made = [encoder_features(head, columns[number], encoder=encoder) for number, encoder in wanted]
    assert len(list(own_cache.glob("features-*.npy"))) == 3
    assert np.array_equal(made[0].values, made[3].values)


def test_features_do_not_depend_on_who_stands_beside(own_cache: Path) -> None:
    model = network("roberta")
    windows = tiny_documents(9)[0]
    head = find_frozen_head(model, [w for d in windows for w in d], pad_id=0)
    assert head is not None
    found = encoder_features(head, column(windows), encoder="w")
    flat = [window for document in windows for window in document]
    assert found.tokens.tolist() == [len(window) for window in flat]
    assert np.diff(found.starts).tolist() == [len(document) for document in windows]
    for number, window in enumerate(flat):
        assert np.allclose(found.values[number], head.read([window])[0].numpy(), atol=1e-5)


def test_a_failure_leaves_no_file(own_cache: Path) -> None:
    head = find_frozen_head(network("bert"), [w for d in tiny_documents(6)[0] for w in d], pad_id=0)
    assert head is not None

    def stop(documents: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoder_features(head, column(tiny_documents(5)[0]), encoder="w", on_documents=stop)
    assert not [path for path in own_cache.iterdir() if "features" in path.name]


def test_a_stopped_head_goes_on_to_the_same_bit(tmp_path: Path) -> None:
    def plan(folder: Path, model: PreTrainedModel) -> FitPlan:
        made = tiny_plan(
            folder, train=tiny_documents(30), validation=tiny_documents(12, seed=1), num_train_epochs=4,
            learning_rate=1e-2,
        )  # fmt: skip
        return on_features(made, model)

    whole = network("bert")
    fit(whole, plan(tmp_path / "whole", whole))
    stopped = network("bert")
    cut = plan(tmp_path / "cut", stopped)

    def stop(epoch: float, scores: Any) -> None:
        if epoch == 2:
            cut.stop._received = 15

    with pytest.raises(Stopped):
        fit(stopped, replace(cut, on_evaluation=stop))
    files = {path.name for path in next(cut.checkpoints.glob("checkpoint-*")).iterdir()}
    assert "trained.safetensors" in files and "model.safetensors" not in files
    checkpoint, _ = newest_checkpoint(cut.checkpoints, identity=cut.identity)
    assert checkpoint is not None
    gone_on = network("bert")
    fit(gone_on, plan(tmp_path / "cut", gone_on), resume=checkpoint)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, gone_on.state_dict()[name]), name


def test_several_processes_take_the_same_part_of_a_step() -> None:
    model = network("bert")
    windows, labels = tiny_documents(11)
    head = find_frozen_head(model, [w for d in windows for w in d], pad_id=0)
    assert head is not None
    table = FeatureTable(encoder_features(head, column(windows), encoder="w"), labels)
    plain: Any = tiny_plan(Path("/nowhere"), train=(windows, labels), validation=(windows, labels)).lesson
    assert table.lengths().tolist() == plain.examples.lengths().tolist()
    lesson = FrozenLesson(plain, head, table, table.features)
    for process in (0, 1):
        sampler = DocumentSampler(documents=11, per_step=6, seed=1, process=process, processes=2, lengths=table.lengths)
        for step in sampler:
            fast, slow = (
                lesson.collate([table[draw] for draw in step]),
                plain.collate([plain.examples[d] for d in step]),
            )
            assert lesson.tokens(fast) == plain.tokens(slow) and lesson.normaliser(fast) == plain.normaliser(slow)
            room = {"budget_tokens": 60, "pass_cost_tokens": 24, "whole": False}
            assert lesson.groups(fast, **room) == plain.groups(slow, **room)  # type: ignore[arg-type]


def test_several_labels_work_too(tmp_path: Path) -> None:
    train, validation = (tiny_documents(n, seed=n, multi_label=True) for n in (20, 8))
    model = tiny_bert(3)
    freeze(model)
    plan = tiny_plan(
        tmp_path, train=train, validation=validation, task=classification(3, multi_label=True),
        score=lambda predictions: {"f1_macro": float(predictions.probabilities.mean())},
    )  # fmt: skip
    fit(model, on_features(plan, model))
