"""The lesson of a classifier whose encoder is frozen: what its head reads of every window is computed a single time.

What a head reads is tried on the model: its own forward, given the one vector that it needs in place of the encoder's
output, must give the model's own logits. So every architecture keeps its head as transformers wrote it, with its
dropout; where none of the ways agrees, the encoder runs in every epoch, and the scores are the same.

Steps are the same as without this: the same documents, the same groups of windows and so the same draws of dropout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import datasets
import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from finetune.data.store import cache_folder, fingerprint, replacing
from finetune.training.batches import (
    MICRO_BATCH_TOKENS,
    PASS_COST_TOKENS,
    Draw,
    Row,
    Step,
    collate_step,
    cut_micro_batches,
    of_device,
    pad_windows,
)
from finetune.training.classifying import ClassifierLesson, validation_scores
from finetune.training.inference import predictions_of_logits
from finetune.training.lessons import Turn

Part = Literal["pooled", "first", "last"]
Floats32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

VERSION = 1  # of the files in the cache
WINDOWS_AT_A_TIME = 512
ROWS_AT_A_TIME = 4096  # of features, when a head scores them
PROBED_WINDOWS = 6
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Features:
    """What the head reads of a split's windows (w, d), their tokens (w,), and where each document begins (n + 1,)."""

    values: Floats32
    tokens: Ints
    starts: Ints


@dataclass(frozen=True)
class FrozenHead:
    """A classifier with a frozen encoder, and which part of the encoder's output its head reads.

    pooled: what the encoder's own pooler gives. first, last: the last hidden state of the first, or last, token.
    """

    network: PreTrainedModel
    part: Part
    pad_id: int

    @torch.no_grad()
    def read(self, windows: Sequence[Sequence[int]]) -> torch.Tensor:
        """What the head reads of some windows (w, d), on the model's device, without dropout."""
        batch = _batch(self.network, windows, pad_id=self.pad_id)
        output = self.network.base_model(**batch)
        if self.part == "pooled":
            pooled: torch.Tensor = output.pooler_output
            return pooled
        rows = torch.arange(len(windows), device=self.network.device)
        places = batch["attention_mask"].sum(1) - 1 if self.part == "last" else torch.zeros_like(rows)
        hidden: torch.Tensor = output[0][rows, places]
        return hidden

    @contextmanager
    def instead_of_encoder(self, features: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
        """Within, calling the model on the inputs given here runs its head alone, on `features` (w, d).

        To the head each is a window of one token, which is its first and its last.
        """
        encoder, name = self.network.base_model, self.network.base_model_prefix
        pooler = getattr(encoder, "pooler", None)
        hidden = features[:, None]
        pooled = features if self.part == "pooled" else pooler(hidden) if pooler is not None else None
        output = BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=hidden, pooler_output=pooled)
        ids = torch.full((len(features), 1), int(self.pad_id == 0), device=features.device)
        setattr(self.network, name, _Answer(encoder, output))
        try:
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        finally:
            setattr(self.network, name, encoder)

    def logits(self, features: Floats32) -> npt.NDArray[np.float64]:
        """Logits (w, c) of features (w, d), with dropout off."""
        was_training, device = self.network.training, next(self.network.parameters()).device
        self.network.train(False)
        try:
            with torch.no_grad():
                parts = []
                for start in range(0, len(features), ROWS_AT_A_TIME):
                    some = torch.from_numpy(np.array(features[start : start + ROWS_AT_A_TIME])).to(device)
                    with self.instead_of_encoder(some) as inputs:
                        parts.append(self.network(**inputs).logits.double().cpu().numpy())
            return np.concatenate(parts)
        finally:
            self.network.train(was_training)


def _batch(network: PreTrainedModel, windows: Sequence[Sequence[int]], *, pad_id: int) -> dict[str, torch.Tensor]:
    return {name: tensor.to(network.device) for name, tensor in pad_windows(windows, pad_id=pad_id).items()}


class _Answer(torch.nn.Module):
    """Stands where the encoder was, and says what it would have said.

    The encoder stays below it: DistributedDataParallel looks for its buffers in every pass.
    """

    def __init__(self, encoder: torch.nn.Module, output: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self._output = output

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self._output


def find_frozen_head(network: PreTrainedModel, windows: Sequence[Sequence[int]], *, pad_id: int) -> FrozenHead | None:
    """The part of the encoder's output that the head reads, by which it gives the model's own logits; None: of none.

    `windows` are some of the data, of different lengths.
    """
    probe = [window for window in windows if len(window)][:PROBED_WINDOWS]
    was_training = network.training
    network.train(False)
    try:
        with torch.no_grad():
            own = network(**_batch(network, probe, pad_id=pad_id)).logits.double().cpu().numpy()
        for part in ("pooled", "first", "last"):
            head = FrozenHead(network, part, pad_id)
            if _agrees(head, probe, own):
                return head
        return None
    finally:
        network.train(was_training)


def _agrees(head: FrozenHead, probe: Sequence[Sequence[int]], own: npt.NDArray[np.float64]) -> bool:
    pooler = getattr(head.network.base_model, "pooler", None)
    learns = isinstance(pooler, torch.nn.Module) and any(weight.requires_grad for weight in pooler.parameters())
    if head.part == "pooled" and (pooler is None or learns):  # features must not change while the head learns
        return False
    try:
        ours = head.logits(head.read(probe).float().cpu().numpy())
    except Exception:  # whatever a model of another build makes of one token: then the encoder runs every time
        return False
    # A head that says the same of everything, as one of zeros does, would agree with any part.
    tells_apart = np.ptp(own, axis=0).max() > 100 * TOLERANCE * np.abs(own).max()
    return bool(ours.shape == own.shape and tells_apart and np.abs(ours - own).max() <= TOLERANCE * np.abs(own).max())


# ---- computed once


def encoder_features(
    head: FrozenHead,
    windows: datasets.Dataset,
    *,
    encoder: str,
    on_documents: Callable[[int], None] = lambda count: None,
) -> Features:
    """What the head reads of all windows of a split (column `windows`: token ids), from the cache where it is there.

    `encoder` tells the stored encoder, its configuration too, from all others. `on_documents` hears how many documents
    are done, and may raise; what was computed until then is lost.
    """
    starts, tokens, digest = _told_of(windows)
    versions = torch.__version__, transformers.__version__, head.network.device.type
    name = fingerprint("features", VERSION, encoder, head.part, head.pad_id, digest, *versions)
    path = cache_folder() / f"features-{name}.npy"
    if not path.exists():
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, _header(len(tokens), _width(head, windows)))
            for values in _computed(head, windows, on_documents):
                file.write(values.tobytes())
    else:
        on_documents(len(windows))
    return Features(np.load(path, mmap_mode="r"), tokens, starts)


def _computed(head: FrozenHead, windows: datasets.Dataset, on_documents: Callable[[int], None]) -> Iterator[Floats32]:
    """Features of some documents at a time, in their order; inside, windows of like length go together."""
    device = head.network.device
    budget, cost = 4 * of_device(MICRO_BATCH_TOKENS, device), of_device(PASS_COST_TOKENS, device)
    head.network.train(False)
    for start in range(0, len(windows), WINDOWS_AT_A_TIME):
        documents = windows[start : start + WINDOWS_AT_A_TIME]["windows"]
        flat = [window for document in documents for window in document]
        found: Floats32 | None = None
        for group in cut_micro_batches([len(w) for w in flat], budget_tokens=budget, pass_cost_tokens=cost):
            values = head.read([flat[number] for number in group]).float().cpu().numpy()
            found = np.empty((len(flat), values.shape[1]), dtype=np.float32) if found is None else found
            found[group] = values
        assert found is not None
        yield found
        on_documents(len(documents))


def _width(head: FrozenHead, windows: datasets.Dataset) -> int:
    return int(head.read(windows[0]["windows"][:1]).shape[1])


def _header(rows: int, width: int) -> dict[str, Any]:
    return {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": (rows, width)}


def _told_of(windows: datasets.Dataset) -> tuple[Ints, Ints, str]:
    """Where each document's windows begin (n + 1,), the tokens of each window (w,), and a digest of all token ids."""
    counts, tokens, digest = [np.zeros(1, dtype=np.int64)], [], hashlib.sha256()
    for batch in windows.with_format("arrow").iter(batch_size=WINDOWS_AT_A_TIME):
        column = batch["windows"].combine_chunks()
        flat = column.flatten()
        lengths = np.asarray(flat.value_lengths(), dtype=np.int64)
        counts.append(np.asarray(column.value_lengths(), dtype=np.int64))
        tokens.append(lengths)
        for numbers in (counts[-1], lengths, np.asarray(flat.flatten(), dtype=np.int64)):
            digest.update(numbers.tobytes())
    return np.cumsum(np.concatenate(counts)), np.concatenate(tokens), digest.hexdigest()


# ---- the lesson


class FeatureTable:
    """What training reads: for document i the numbers of its windows, each as a list of one, and its encoded label."""

    def __init__(self, features: Features, labels: Sequence[Any]) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self) -> Ints:
        """Tokens (n,) of each document, its windows together."""
        return np.add.reduceat(self.features.tokens, self.features.starts[:-1])

    def __getitem__(self, draw: Draw) -> Row:
        document, role = draw
        first, end = self.features.starts[document : document + 2]
        numbers = [] if role == "other" else [[number] for number in range(first, end)]
        return numbers, self.labels[document], role


@dataclass(frozen=True)
class FrozenLesson:
    """See lessons.py: a ClassifierLesson whose encoder has said everything already. A window is known by its number."""

    plain: ClassifierLesson
    head: FrozenHead
    examples: FeatureTable
    validation: Features
    micro_batches: str = "by length"
    fill_rate: None = None

    @property
    def counters(self) -> dict[str, float]:
        return self.plain.counters

    def collate(self, rows: list[Row]) -> Step:
        return collate_step(self.plain.task)(rows)

    def tokens(self, step: Step) -> int:
        return int(self._tokens(step).sum())

    def normaliser(self, step: Step) -> float:
        return step.normaliser

    def groups(self, step: Step, *, budget_tokens: int, pass_cost_tokens: int, whole: bool) -> list[list[int]]:
        # The groups that the encoder would have had: dropout in the head is drawn group by group.
        if whole:
            return [list(range(len(step.windows)))]
        return cut_micro_batches(self._tokens(step), budget_tokens=budget_tokens, pass_cost_tokens=pass_cost_tokens)

    def padded_tokens(self, step: Step, group: list[int]) -> int:
        return int(self._tokens(step)[group].sum())  # nothing is padded: each is one vector

    def loss(self, model: torch.nn.Module, step: Step, group: list[int]) -> torch.Tensor:
        numbers = [step.windows[index][0] for index in group]
        device = next(model.parameters()).device
        features = torch.from_numpy(self.examples.features.values[numbers]).to(device)
        with self.head.instead_of_encoder(features) as inputs:
            logits = model(**inputs).logits
        return self.plain.summed_loss(logits, step, group)

    def evaluate(self, model: PreTrainedModel, turn: Turn) -> Mapping[str, float | None]:
        # A head is done in no time, so that every process does all of it.
        predictions = predictions_of_logits(
            self.head.logits(self.validation.values),
            np.diff(self.validation.starts),
            task=self.plain.task,
            labels=self.plain.validation.labels,
        )
        return validation_scores(predictions, self.plain.score_validation)

    def _tokens(self, step: Step) -> Ints:
        """Tokens of the windows of a step (w,)."""
        return self.examples.features.tokens[[window[0] for window in step.windows]]
