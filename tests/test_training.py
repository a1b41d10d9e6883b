"""What a fit does to the weights, which epoch it keeps, and what it never sees."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_fits import Documents, classification, tiny_bert, tiny_documents, tiny_plan
from tiny_models import tiny_bert_folder
from transformers import BertForSequenceClassification, PreTrainedModel

from finetune import experiment
from finetune.cli import main
from finetune.errors import OutOfMemory, RecipeError, TrainingFailed
from finetune.runs import read_json_lines
from finetune.tasks.text_classification import TextClassification
from finetune.training.batches import collate_step, pad_windows
from finetune.training.inference import DocumentPredictions
from finetune.training.memory import memory_faults
from finetune.training.plan import FitPlan, FitResult
from finetune.training.trainer import DocumentTrainer, fit, training_arguments

WEIGHTS = (0.5, 1.0, 3.0)
TASKS = {
    "plain": classification(3),
    "weighted": classification(3, class_weights=WEIGHTS),
    "smoothed": classification(3, label_smoothing=0.2),
    "weighted and smoothed": classification(3, class_weights=WEIGHTS, label_smoothing=0.2),
    "several labels": classification(3, multi_label=True, class_weights=WEIGHTS, label_smoothing=0.2),
}


def trainer_of(plan: FitPlan, model: PreTrainedModel) -> DocumentTrainer:
    arguments = training_arguments(plan.settings, folder=plan.checkpoints, seed=plan.seed, greater_is_better=True)
    return DocumentTrainer(model, plan, arguments)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def close(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and any(tensor.abs().max() > 1e-3 for tensor in one.values())
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-5, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def loss_by_hand(model: torch.nn.Module, documents: Documents, task: TextClassification) -> torch.Tensor:
    """One padded batch; per document the mean over its windows; then torch's own weighted mean over documents."""
    windows, labels = documents
    owner = torch.tensor([number for number, rows in enumerate(windows) for _ in rows])
    logits = model(**pad_windows([window for rows in windows for window in rows], pad_id=0)).logits
    weights = None if task.class_weights is None else torch.tensor(task.class_weights)
    targets = task.targets(labels)[owner]
    if task.multi_label:
        targets = targets * (1 - task.label_smoothing) + task.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none").mean(1)
        share = torch.ones(len(windows))
    else:
        losses = F.cross_entropy(
            logits, targets, weight=weights, label_smoothing=task.label_smoothing, reduction="none"
        )
        share = torch.ones(len(windows)) if weights is None else weights[torch.tensor(labels)]
    per_document = torch.stack([losses[owner == number].mean() for number in range(len(windows))])
    return per_document.sum() / share.sum()


@pytest.mark.parametrize("budget", [8, 64, 200, 100_000])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_gradient_of_a_step_is_that_of_the_plain_batch(
    tmp_path: Path, task: TextClassification, budget: int
) -> None:
    documents = tiny_documents(12, multi_label=task.multi_label)
    model = tiny_bert()
    plan = tiny_plan(tmp_path, train=documents, validation=documents, task=task, tokens_per_micro_batch=budget)
    trainer = trainer_of(plan, model)
    step = collate_step(task)([plan.lesson.examples[number, "mine"] for number in range(12)])
    assert max(map(len, documents[0])) > 1
    assert len(trainer._groups(step)) > 2
    loss = trainer.training_step(model, step)
    ours = gradients(model)
    expected = loss_by_hand(model, documents, task)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    close(ours, gradients(model))


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_with_one_window_a_document_it_is_torchs_own_loss(tmp_path: Path, task: TextClassification) -> None:
    windows, labels = tiny_documents(12, most_windows=1, multi_label=task.multi_label)
    model = tiny_bert()
    plan = tiny_plan(tmp_path, train=(windows, labels), validation=(windows, labels), task=task)
    step = collate_step(task)([plan.lesson.examples[number, "mine"] for number in range(12)])
    loss = trainer_of(plan, model).training_step(model, step)
    ours = gradients(model)
    logits = model(**pad_windows([rows[0] for rows in windows], pad_id=0)).logits
    weights = None if task.class_weights is None else torch.tensor(task.class_weights)
    if task.multi_label:
        marks = task.targets(labels) * (1 - task.label_smoothing) + task.label_smoothing / 2
        expected = F.binary_cross_entropy_with_logits(logits, marks, pos_weight=weights)
    else:
        expected = F.cross_entropy(logits, torch.tensor(labels), weight=weights, label_smoothing=task.label_smoothing)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    close(ours, gradients(model))


def test_accumulation_changes_neither_loss_nor_gradient_norm(tmp_path: Path) -> None:
    documents = tiny_documents(30)

    def losses(name: str, **settings: int) -> list[tuple[float, float]]:
        plan = tiny_plan(tmp_path / name, train=documents, validation=documents, **settings)
        fit(tiny_bert(), plan)
        return [(row["loss"], row["grad_norm"]) for row in read_json_lines(plan.history) if "loss" in row]

    whole = losses("12", per_device_train_batch_size=12)
    parts = losses("4x3", per_device_train_batch_size=4, gradient_accumulation_steps=3)
    assert len(whole) == 3
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    tiny = losses("micro", per_device_train_batch_size=12, tokens_per_micro_batch=8)
    np.testing.assert_allclose(tiny, whole, rtol=1e-4)


def test_the_logged_loss_is_the_mean_of_the_steps_since_the_last_line(tmp_path: Path) -> None:
    documents = tiny_documents(36)
    rows = {}
    for every in (1, 3):
        plan = tiny_plan(tmp_path / str(every), train=documents, validation=documents, logging_steps=every)
        fit(tiny_bert(), plan)
        rows[every] = [row["loss"] for row in read_json_lines(plan.history) if "loss" in row]
    assert len(rows[3]) == 1
    assert rows[3][0] == pytest.approx(np.mean(rows[1]), rel=1e-5)


def test_every_epoch_has_its_training_loss(tmp_path: Path) -> None:
    documents = tiny_documents(36)
    plan = tiny_plan(tmp_path, train=documents, validation=documents, logging_steps=2, num_train_epochs=2)
    fit(tiny_bert(), plan)
    rows = read_json_lines(plan.history)
    told = [(row["step"], "eval" if "eval_loss" in row else "train") for row in rows]
    assert told == [(2, "train"), (3, "train"), (3, "eval"), (4, "train"), (6, "train"), (6, "eval")]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_fits_are_equal_bit_for_bit_whatever_ran_before(tmp_path: Path, workers: int) -> None:
    documents = tiny_documents(20)
    weights = []
    for number in range(2):

        def score(predictions: DocumentPredictions, number: int = number) -> Mapping[str, float | None]:
            torch.rand(1 + number)  # the dropout of the next epoch must not depend on this
            return {"f1_macro": None}

        model = tiny_bert(dropout=0.3)
        chosen = {"extra": {"dataloader_num_workers": workers * number}, "num_train_epochs": 2, "score": score}
        fit(model, tiny_plan(tmp_path / str(number), train=documents, validation=documents, **chosen))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["classifier.weight"], tiny_bert().state_dict()["classifier.weight"])


# ---- which epoch is kept


class Scripted:
    """A validation scorer that says what it is told; the weights of each evaluation are kept beside it."""

    def __init__(self, *values: float | None) -> None:
        self._values = iter(values)
        self.model = tiny_bert()
        self.weights: list[torch.Tensor] = []
        self.saved: dict[str, torch.Tensor] = {}

    def __call__(self, predictions: DocumentPredictions) -> Mapping[str, float | None]:
        self.weights.append(self.model.classifier.weight.detach().clone())
        return {"f1_macro": next(self._values)}

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        self.saved[folder.name] = model.classifier.weight.detach().clone()


def scripted_fit(tmp_path: Path, *values: float | None, **settings: Any) -> tuple[Scripted, FitResult, FitPlan]:
    script = Scripted(*values)
    documents = tiny_documents(24)
    chosen = {"num_train_epochs": len(values), "learning_rate": 1e-2, **settings}
    plan = tiny_plan(
        tmp_path, train=documents, validation=documents, score=script, save_model=script.save, **chosen
    )  # fmt: skip
    return script, fit(script.model, plan), plan


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((0.5, 0.7, 0.6), 2),
        ((0.5, 0.7, 0.7), 2),  # of equals the first
        ((0.5, 0.5, 0.5), 1),
        ((None, 0.4, None), 2),  # undefined is never best
        ((0.1, None, 0.2), 3),
    ],
)
def test_the_first_best_epoch_is_in_memory_and_named(
    tmp_path: Path, values: tuple[float | None, ...], best: int
) -> None:
    script, result, _ = scripted_fit(tmp_path, *values)
    assert (result.best_epoch, result.best_step, result.steps) == (best, 2 * best, 6)
    assert torch.equal(script.model.classifier.weight, script.weights[best - 1])
    assert torch.equal(script.saved["last"], script.weights[-1])
    assert not torch.equal(script.weights[0], script.weights[1])


def test_smaller_is_better_for_a_loss(tmp_path: Path) -> None:
    documents = tiny_documents(24)
    plan = tiny_plan(
        tmp_path, train=documents, validation=documents, greater_is_better=False, metric_for_best_model="loss",
        num_train_epochs=3, learning_rate=0.05,
    )  # fmt: skip
    result = fit(tiny_bert(), plan)
    losses = [row["eval_loss"] for row in read_json_lines(plan.history) if "eval_loss" in row]
    assert len(losses) == 3 and result.best_epoch == 1 + int(np.argmin(losses))


def test_a_score_that_is_never_defined_leaves_the_last_model_and_says_so(tmp_path: Path) -> None:
    script, result, plan = scripted_fit(tmp_path, None, None)
    assert (result.best_epoch, result.best_step) == (2, 4)
    assert torch.equal(script.model.classifier.weight, script.weights[-1])
    assert any("never defined" in note for note in result.notes)
    rows = [row for row in read_json_lines(plan.history) if "eval_f1_macro" in row]
    assert [row["eval_f1_macro"] for row in rows] == [None, None]


def test_without_best_model_selection_the_last_stays(tmp_path: Path) -> None:
    script, result, _ = scripted_fit(tmp_path, 0.9, 0.1, load_best_model_at_end=False)
    assert (result.best_epoch, result.best_step) == (2, 4)
    assert torch.equal(script.model.classifier.weight, script.weights[-1])


@pytest.mark.parametrize(
    ("values", "patience", "epochs"),
    [((0.5, 0.4, 0.6, 0.7), 1, 2), ((0.5, 0.5, 0.5, 0.5), 2, 3), ((0.5, 0.4, 0.6, 0.5), 2, 4)],
)
def test_early_stopping(tmp_path: Path, values: tuple[float, ...], patience: int, epochs: int) -> None:
    script, result, _ = scripted_fit(tmp_path, *values, early_stopping_patience=patience)
    assert (len(script.weights), result.steps) == (epochs, 2 * epochs)
    assert result.best_epoch == 1 + int(np.argmax(values[:epochs]))


@pytest.mark.parametrize(("limit", "kept"), [(1, {2, 8}), (2, {2, 8}), (3, {2, 6, 8})])
def test_best_and_newest_checkpoint_are_always_kept(tmp_path: Path, limit: int, kept: set[int]) -> None:
    _, _, plan = scripted_fit(tmp_path, 0.9, 0.1, 0.2, 0.3, save_total_limit=limit)
    assert {path.name for path in plan.checkpoints.iterdir()} == {f"checkpoint-{step}" for step in kept}


def test_evaluation_every_few_steps(tmp_path: Path) -> None:
    chosen = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    script, result, plan = scripted_fit(tmp_path, 0.1, 0.8, 0.3, 0.2, **chosen, num_train_epochs=5)
    evaluated = [row["step"] for row in read_json_lines(plan.history) if "eval_loss" in row]
    assert evaluated == [3, 6, 9, 10], "and the last, wherever it falls"
    assert (result.best_step, result.best_epoch, result.steps) == (6, 3.0, 10)
    assert torch.equal(script.model.classifier.weight, script.weights[1])


def test_no_evaluation_at_all(tmp_path: Path) -> None:
    script, result, plan = scripted_fit(
        tmp_path, 0.1, 0.2, eval_strategy="no", save_strategy="no", load_best_model_at_end=False
    )
    assert not script.weights and (result.best_epoch, result.best_step) == (2, 4)
    assert not any("eval_loss" in row for row in read_json_lines(plan.history))
    assert not list(plan.checkpoints.glob("*"))


@pytest.mark.parametrize("most", [1, 3, 5])
def test_max_steps_wins_over_epochs_and_is_evaluated(tmp_path: Path, most: int) -> None:
    script, result, _ = scripted_fit(tmp_path, *(0.1 * n for n in range(5)), num_train_epochs=1, max_steps=most)
    assert result.steps == most
    assert len(script.weights) == math.ceil(most / 2)
    assert result.best_step == most and result.best_epoch == most / 2


# ---- optimizers


def one_step(tmp_path: Path, **settings: Any) -> tuple[dict[str, torch.Tensor], ...]:
    """Weights before and after one step on all documents, and the gradient of that step."""
    documents = tiny_documents(12)
    model = tiny_bert()
    plan = tiny_plan(
        tmp_path, train=documents, validation=documents, save_strategy="no", eval_strategy="no",
        load_best_model_at_end=False, warmup_steps=0, **settings,
    )  # fmt: skip
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss_by_hand(model, documents, classification(3)).backward()
    gradient = gradients(model)
    fit(model, plan)
    return before, {name: p.detach().clone() for name, p in model.named_parameters()}, gradient


def test_sgd_is_plain_sgd(tmp_path: Path) -> None:
    before, after, gradient = one_step(tmp_path, optim="sgd", learning_rate=0.1, weight_decay=0.0, max_grad_norm=0)
    close({name: (before[name] - after[name]) / 0.1 for name in before}, gradient)


def test_the_gradient_norm_is_clipped(tmp_path: Path) -> None:
    before, after, gradient = one_step(tmp_path, optim="sgd", learning_rate=1.0, weight_decay=0.0, max_grad_norm=0.01)
    norm = torch.sqrt(sum(((before[name] - after[name]) ** 2).sum() for name in before))  # type: ignore[arg-type]
    whole = torch.sqrt(sum((tensor**2).sum() for tensor in gradient.values()))  # type: ignore[arg-type]
    assert float(whole) > 0.1 and float(norm) == pytest.approx(0.01, rel=1e-2)


def test_adam_moves_every_weight_by_the_learning_rate_at_first(tmp_path: Path) -> None:
    before, after, gradient = one_step(tmp_path, learning_rate=1e-3, weight_decay=0.0)
    name = "classifier.weight"
    assert (gradient[name].abs() > 1e-3).all()
    torch.testing.assert_close(before[name] - after[name], 1e-3 * gradient[name].sign(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "kind", "options"),
    [
        ({"optim": "sgd"}, "SGD", {"momentum": 0.0, "lr": 5e-5}),
        ({"optim": "sgd", "extra": {"optim_args": "momentum=0.9,nesterov=true"}}, "SGD", {"momentum": 0.9}),
        ({"optim": "adamw_torch", "extra": {"adam_beta2": 0.98}}, "AdamW", {"betas": (0.9, 0.98)}),
        ({"optim": "adamw_torch_fused"}, "AdamW", {"fused": True}),
        ({"optim": "adafactor"}, "Adafactor", {}),
    ],
)
def test_optimizers_by_name(tmp_path: Path, settings: dict[str, Any], kind: str, options: dict[str, Any]) -> None:
    documents = tiny_documents(12)
    trainer = trainer_of(tiny_plan(tmp_path, train=documents, validation=documents, **settings), tiny_bert())
    optimizer = trainer.create_optimizer()
    assert type(optimizer).__name__ == kind
    assert {name: optimizer.defaults[name] for name in options} == options


@pytest.mark.parametrize(("warmup", "peak"), [(0.5, 4), (2, 2), (0, 0)])
def test_warm_up_is_a_share_or_a_number_of_steps(tmp_path: Path, warmup: float, peak: int) -> None:
    documents = tiny_documents(16)
    plan = tiny_plan(
        tmp_path, train=documents, validation=documents, warmup_steps=warmup, learning_rate=1e-3,
        per_device_train_batch_size=2,
    )  # fmt: skip
    fit(tiny_bert(), plan)
    rates = [row["learning_rate"] for row in read_json_lines(plan.history) if "learning_rate" in row]
    expected = [step / peak if step < peak else (8 - step) / (8 - peak) for step in range(8)]
    np.testing.assert_allclose(rates, 1e-3 * np.array(expected), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("extra", [{"fsdp": "nonsense"}, {"dataloader_persistent_workers": True}])
def test_refused_arguments_are_refused_by_us(tmp_path: Path, extra: dict[str, Any]) -> None:
    documents = tiny_documents(4)
    with pytest.raises(RecipeError, match="training"):
        fit(tiny_bert(), tiny_plan(tmp_path, train=documents, validation=documents, extra=extra))


def test_a_loss_that_is_not_finite_ends_the_fit(tmp_path: Path) -> None:
    documents = tiny_documents(24)
    model = tiny_bert()
    with torch.no_grad():
        model.classifier.bias[0] = math.inf
    with pytest.raises(TrainingFailed, match="loss is not finite"):
        fit(model, tiny_plan(tmp_path, train=documents, validation=documents))


# ---- the test split


SPLIT_WORDS = {split: [f"{split}word{number}" for number in range(6)] for split in ("train", "validation", "test")}
RECIPE = """
task: text-classification
model: {name: bert}
data:
  source: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
windows: {max_tokens: 16, stride: 4}
training: {num_train_epochs: 2, per_device_train_batch_size: 4, learning_rate: 1.0e-2, use_cpu: true}
evaluation: {baselines: [majority], bootstrap: 0}
"""


class Closed(dict[str, Any]):
    """A dictionary by split in which the test split may not be opened."""

    def __getitem__(self, split: str) -> Any:
        assert split != "test", "the test split was opened during the fit"
        return super().__getitem__(split)

    def items(self) -> Any:
        raise AssertionError("all splits were opened during the fit")

    values = items


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[set[int]]]:
    """The token ids of every forward pass, in order."""
    batches: list[set[int]] = []
    forward = BertForSequenceClassification.forward

    def recording(self: Any, input_ids: Any = None, **named: Any) -> Any:
        batches.append(set(input_ids.unique().tolist()))
        return forward(self, input_ids=input_ids, **named)

    monkeypatch.setattr(BertForSequenceClassification, "forward", recording)
    yield batches


def test_the_test_split_never_reaches_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fed: list[set[int]]
) -> None:
    everything = [word for words in SPLIT_WORDS.values() for word in words]
    tiny_bert_folder(tmp_path / "bert", texts=everything)
    vocabulary = json.loads((tmp_path / "bert" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    for split, words in SPLIT_WORDS.items():
        rows = [{"text": f"{words[n % 6]} {words[n // 6]}", "label": "ab"[n % 2]} for n in range(24)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    fitted_after: list[int] = []
    real_plan, real_save = experiment.fit_plan, experiment._save_best

    def closed(prepared: Any, learner: Any) -> tuple[Any, Any]:
        prepared = replace(prepared, splits=Closed(prepared.splits), encoded=Closed(prepared.encoded))
        return prepared, replace(learner, windows=Closed(learner.windows))

    def closed_plan(run: Any, loaded: Any, prepared: Any, learner: Any, **named: Any) -> FitPlan:
        return real_plan(run, loaded, *closed(prepared, learner), **named)

    def closed_save(run: Any, loaded: Any, prepared: Any, learner: Any, *rest: Any, **named: Any) -> Any:
        calibration = real_save(run, loaded, *closed(prepared, learner), *rest, **named)
        fitted_after.append(len(fed))
        assert not run.test_openings.exists()
        return calibration

    monkeypatch.setattr(experiment, "fit_plan", closed_plan)
    monkeypatch.setattr(experiment, "_save_best", closed_save)
    assert main(["train", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run"), "--quiet"]) == 0
    ids = {split: {vocabulary[word] for word in words} for split, words in SPLIT_WORDS.items()}
    during, after = set().union(*fed[: fitted_after[0]]), set().union(*fed[fitted_after[0] :])
    assert ids["train"] | ids["validation"] <= during and not ids["test"] & during
    assert ids["test"] <= after, "the scoring saw it, so that the recording works"
    assert not ids["train"] & after
    assert len(read_json_lines(tmp_path / "run" / "test_openings.jsonl")) == 1


def test_what_is_left_in_memory_after_bf16_calculates_in_float32(tmp_path: Path) -> None:
    model = tiny_bert(3)
    plan = tiny_plan(tmp_path, train=tiny_documents(12), validation=tiny_documents(6, seed=1), bf16=True)
    fit(model, plan)
    seen: list[torch.dtype] = []
    model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    model(torch.tensor([[2, 5, 7]]))
    assert seen == [torch.float32]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_f09_too_little_memory_is_told_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fit(*_: Any, **__: Any) -> Any:
        raise error

    rows = [{"text": f"{'warm' if n % 2 else 'cold'} {n}", "label": "ab"[n % 2]} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    model = {"from_scratch": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                              "intermediate_size": 32, "vocab_size": 60}}  # fmt: skip
    recipe = {"task": "text-classification", "model": model, "data": {"source": "rows.jsonl"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    monkeypatch.setattr(experiment, "fit", fit)
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "recipe.yaml"), "--run", str(run), "--quiet"]) == 5
    said = capsys.readouterr().err
    assert f"error: {run}: out of memory. Lower what is computed at a time" in said and "max_tokens" in said
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] == "failed"


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_faults("run"):
        raise RuntimeError("shapes differ")
    with pytest.raises(OutOfMemory, match="out of memory"), memory_faults("run"):
        torch.empty(2**56)
