"""A finished adapter and its base as one plain model, which every tool loads as any other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from finetune.adapters import merge
from finetune.errors import ModelError
from finetune.hub_models import find_saved_model
from finetune.model_folder import is_adapter_folder
from finetune.models import load_classifier
from finetune.output_folder import check_output_folder
from finetune.pretrained import save_model
from finetune.progress import SILENT, Progress
from finetune.runs import MODEL_SETTINGS
from finetune.saved_models import saved_task
from finetune.writers import load_writer

MERGED = "merged"
PROBED_TOKENS = (2, 8)  # sequences, and tokens of each
# Sums of other rounding differ in the sixth digit; what differs by more was not merged rightly.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """Where the plain model is, and how far its logits lie from those before, as a share of the largest."""

    folder: Path
    difference: float


def export_merged(
    run_folder: str | Path, *, output: Path | None = None, force: bool = False, progress: Progress = SILENT
) -> Exported:
    """Merge the adapter in best/ of a run, or in a model folder, into its base, and save the plain model.

    Without `output` it goes to merged/ of the run. Raises ModelError where there is no adapter or its base is not
    found, and RecipeError for an output folder that must not be written.
    """
    source = find_saved_model(run_folder, progress=progress)
    if not is_adapter_folder(source):
        raise ModelError(str(source), "is a plain model already", "Use it as it is: there is nothing to merge.")
    folder = output or source.parent / MERGED
    check_output_folder(folder, record=MODEL_SETTINGS, force=force)
    model, tokenizer = (load_classifier if saved_task(source) == "text-classification" else load_writer)(
        source, whole=True
    )
    difference = _merged_difference(model)
    if not difference <= TOLERANCE:
        what = f"the merged model says something else: its logits differ by {difference:.2g}"
        raise ModelError(str(source), what, "Use the adapter as it is.")
    save_model(
        model, tokenizer, folder, extra_files={MODEL_SETTINGS: json.dumps(_settings(source, difference), indent=1)}
    )
    return Exported(folder, difference)


def _settings(source: Path, difference: float) -> dict[str, Any]:
    """finetune.json of the plain model; where it comes from is told without a folder of this machine."""
    settings: dict[str, Any] = json.loads((source / MODEL_SETTINGS).read_text(encoding="utf-8"))
    adapter = settings.pop("adapter", {})
    base = adapter.get("base", {})
    known = {} if base.get("is_folder") else {"name": base.get("name"), "revision": base.get("revision")}
    base = {**known, "sha256": base.get("sha256")}
    return settings | {"merged": {"kind": adapter.get("kind"), "base": base, "difference": difference}}


@torch.no_grad()
def _merged_difference(model: PreTrainedModel) -> float:
    """Merges in place; how far the logits of random tokens then lie from those before, as a share of the largest."""
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    ids = torch.randint(vocabulary, PROBED_TOKENS, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    before: torch.Tensor = model(**inputs).logits.double()
    merge(model)
    after: torch.Tensor = model(**inputs).logits.double()
    return float((after - before).abs().max() / before.abs().max())
