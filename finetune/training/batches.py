"""Documents for each optimizer step, and the micro-batches a step is cut into.

The documents of a step are drawn as plain random shuffling draws them. Only inside the step are windows sorted by
length and cut into micro-batches of little padding; their gradients add up to that of the plain batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from finetune.tasks.base import Task

# What starting one more forward and backward pass costs, in tokens of the same pass: measured on MiniLM-L6 with
# two CPU threads, where small matrices are nearly as fast as large ones; a GPU wants them large.
PASS_COST_TOKENS = {"cpu": 24, "cuda": 4096}
# The largest micro-batch where a recipe names none: on a CPU larger ones take more memory and are not faster.
MICRO_BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}


def of_device(tokens: Mapping[str, int], device: torch.device) -> int:
    """A figure of one of the tables above; whatever is no CPU counts as a GPU."""
    return tokens.get(device.type, tokens["cuda"])


def keyed_seed(*key: int) -> int:
    """A 63-bit seed that depends on the whole key, for example (seed, epoch), and on nothing that ran before."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


Role = Literal["mine", "other", "stand-in"]
Draw = tuple[int, Role]
Row = tuple[list[list[int]], Any, Role]


class DocumentSampler:
    """A batch sampler that yields this process's documents of each optimizer step of an epoch.

    The order depends on (seed, epoch) alone, so that a resumed run and any number of processes see the same steps.
    Every document is in exactly one step of one process; with `lengths` (documents,), in tokens, so that all have about
    as many tokens in a step. A process for which a short last step leaves nothing gets the step's first document, to be
    given weight 0, so that it still joins the gradient exchange.
    """

    def __init__(
        self, *, documents: int, per_step: int, seed: int, process: int = 0, processes: int = 1,
        lengths: Callable[[], npt.NDArray[np.int64]] | None = None,
    ) -> None:  # fmt: skip
        self.documents, self.per_step, self.seed = documents, per_step, seed
        self._lengths = lengths() if lengths is not None and processes > 1 else None
        self.process, self.processes = process, processes
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.documents // self.per_step)

    def steps(self) -> Iterator[list[int]]:
        """All documents of each step, over all processes."""
        generator = torch.Generator().manual_seed(keyed_seed(self.seed, self.epoch))
        order = torch.randperm(self.documents, generator=generator).tolist()
        for start in range(0, self.documents, self.per_step):
            yield order[start : start + self.per_step]

    def __iter__(self) -> Iterator[list[Draw]]:
        """Documents of other processes come along for the step's normaliser only."""
        for step in self.steps():
            owner = self._owners(step)
            mine = self.process in owner
            yield [
                (document, "mine" if owner[place] == self.process else "other")
                if mine or place > 0
                else (document, "stand-in")
                for place, document in enumerate(step)
            ]

    def _owners(self, step: list[int]) -> list[int]:
        """The process of each document of a step, the same on every process."""
        if self._lengths is None:
            return [place % self.processes for place in range(len(step))]
        # Longest first, each to whoever has least: at most 4/3 of the best possible (Graham 1969, LPT).
        lengths = self._lengths[step]
        load, owner = np.zeros(self.processes), [0] * len(step)
        for place in np.argsort(-lengths, kind="stable").tolist():
            owner[place] = int(np.argmin(load))
            load[owner[place]] += max(1, lengths[place])
        return owner


@dataclass(frozen=True)
class Step:
    """One process's part of one optimizer step: w windows of its documents.

    windows: token ids, ragged. targets (w, ...): the target of each window's document. weights (w,): the window's
    share in its document's mean, 0 for a stand-in. normaliser: sum of document weights over all processes.
    """

    windows: list[list[int]]
    targets: torch.Tensor
    weights: torch.Tensor
    normaliser: float


class DocumentTable:
    """What training reads: for document i its `windows` and its encoded label. Rows come from Arrow one at a time."""

    def __init__(self, windows: Any, labels: Sequence[Any]) -> None:
        self._windows, self.labels = windows, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, draw: Draw) -> Row:
        document, role = draw
        windows = [] if role == "other" else self._windows[document]["windows"]
        return windows, self.labels[document], role

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens (n,) of each document, its windows together."""
        return np.array([sum(map(len, row["windows"])) for row in self._windows], dtype=np.int64)


def collate_step(task: Task) -> Callable[[list[Row]], Step]:
    """Rows of DocumentTable -> Step."""

    def collate(rows: list[Row]) -> Step:
        targets = task.targets([label for _, label, _ in rows])
        owner = [place for place, (windows, _, _) in enumerate(rows) for _ in windows]
        shares = [0.0 if role == "stand-in" else 1 / len(windows) for windows, _, role in rows for _ in windows]
        return Step(
            windows=[window for windows, _, _ in rows for window in windows],
            targets=targets[torch.tensor(owner, dtype=torch.long)],
            weights=torch.tensor(shares),
            normaliser=float(task.document_weights(targets).sum()),
        )

    return collate


def cut_micro_batches(
    lengths: Sequence[int] | npt.NDArray[np.int64], *, budget_tokens: int, pass_cost_tokens: int
) -> list[list[int]]:
    """Group windows by length so that padding plus the cost of each pass is smallest.

    Returns lists of window numbers, longest first; rows x longest is at most `budget_tokens` in each, or one
    window. An exact dynamic programme over the sorted lengths: O(w²), vectorised.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    longest = lengths[order]
    count = len(order)
    best = np.zeros(count + 1)
    cut = np.zeros(count + 1, dtype=np.int64)
    starts = np.arange(count)
    for end in range(1, count + 1):
        size = (end - starts[:end]) * longest[:end]
        cost = best[:end] + size + pass_cost_tokens
        cost[(size > budget_tokens) & (starts[:end] < end - 1)] = np.inf
        cut[end] = int(np.argmin(cost))
        best[end] = cost[cut[end]]
    groups: list[list[int]] = []
    end = count
    while end > 0:
        groups.append(order[cut[end] : end].tolist())
        end = int(cut[end])
    return groups[::-1]


def pad_windows(windows: Sequence[Sequence[int]], *, pad_id: int) -> dict[str, torch.Tensor]:
    """Ragged windows -> input_ids and attention_mask, both (windows, longest)."""
    longest = max(len(window) for window in windows)
    ids = torch.full((len(windows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros(len(windows), longest, dtype=torch.long)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.tensor(window, dtype=torch.long)
        mask[row, : len(window)] = 1
    return {"input_ids": ids, "attention_mask": mask}
