"""Calibrates a finished model on its validation documents, in the weights themselves.

The temperature goes into the last layer, so that whoever loads the model with plain transformers gets the calibrated
probabilities without knowing of a temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from finetune.run_files import Calibration
from finetune.scores.calibration import choose_temperature, fit_thresholds
from finetune.tasks.base import Task
from finetune.training.batches import pad_windows
from finetune.training.inference import losses_by_temperature, predict_documents

PROBED_DOCUMENTS = 8
# Dividing by a power of two rounds nothing in any precision, so a linear last layer obeys it to the bit; a GPU may
# add up in another order.
PROBE = 4.0
PROBE_TOLERANCE = 1e-5
# Any other divisor rounds the weights to their precision, bfloat16 to three digits.
TOLERANCE = 0.02


def calibrate(
    model: PreTrainedModel,
    *,
    task: Task,
    windows: Sequence[list[list[int]]],
    labels: Sequence[Any],
    pad_id: int,
    label_names: Sequence[str],
    multi_label: bool,
    on_documents: Callable[[int], None] = lambda count: None,
) -> Calibration:
    """Fit a temperature on validation documents and divide the last layer of `model` by it, in place.

    `windows` and encoded `labels` are those of the validation documents. Several labels also get thresholds, fitted on
    the calibrated probabilities in a second pass; a single label stays the most probable class. `on_documents` hears
    how many documents each finished chunk of a pass had, and may raise.
    """
    losses = losses_by_temperature(model, windows, labels, task=task, pad_id=pad_id, on_documents=on_documents)
    temperature, note = choose_temperature(losses)
    probe = [document[0] for document in windows[:PROBED_DOCUMENTS]]
    folded = temperature != 1.0 and fold_temperature(model, temperature, probe=probe, pad_id=pad_id)
    if temperature != 1.0 and not folded:
        note = f"no temperature: {temperature:.2f} was fitted, but no last linear layer was found to divide by it"
        temperature = 1.0
    thresholds = {}
    if multi_label:
        predicted = predict_documents(
            model, windows, task=task, pad_id=pad_id, temperature=temperature, on_documents=on_documents
        )
        marks = task.targets(labels).numpy()
        thresholds = fit_thresholds(marks, predicted.probabilities, label_names=label_names)
    return Calibration(temperature=temperature, folded=folded, thresholds=thresholds, note=note)


@torch.no_grad()
def fold_temperature(model: PreTrainedModel, temperature: float, *, probe: Sequence[list[int]], pad_id: int) -> bool:
    """Divide the logits of `model` by `temperature` for good, in the weights of its last layer.

    Which layer that is, the logits of the `probe` windows say, and they are looked at again in the end. Where no linear
    layer with an output for each label does it alone, the model stays as it was, and False is returned.
    """
    batch = {name: tensor.to(model.device) for name, tensor in pad_windows(probe, pad_id=pad_id).items()}

    def logits() -> torch.Tensor:
        return model(**batch).logits.float()  # type: ignore[no-any-return]

    was_training = model.training
    model.train(False)
    try:
        before = logits()
        for layer in _last_layers(model):
            kept = [parameter.clone() for parameter in layer.parameters()]
            for divisor, tolerance in ((PROBE, PROBE_TOLERANCE), (temperature, TOLERANCE)):
                for parameter, values in zip(layer.parameters(), kept, strict=True):
                    parameter.copy_(values / divisor)
                off = (logits() * divisor - before).abs().max()
                if not off <= tolerance * before.abs().max():  # nor where there is a NaN
                    break
            else:
                return True
            for parameter, values in zip(layer.parameters(), kept, strict=True):
                parameter.copy_(values)
        return False
    finally:
        model.train(was_training)


def _last_layers(model: PreTrainedModel) -> Iterator[torch.nn.Linear]:
    """Linear layers with one output for each label, the last first: `classifier`, `out_proj`, `score`."""
    for module in reversed(list(model.modules())):
        if isinstance(module, torch.nn.Linear) and module.out_features == model.config.num_labels:
            yield module
