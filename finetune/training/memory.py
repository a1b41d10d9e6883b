"""How much memory a training took, for run.json; and what to do where there was too little."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch

from finetune.errors import OutOfMemory

# Torch has an error of its own for a GPU; of a processor's memory only its words tell.
WORDS = ("out of memory", "can't allocate memory", "not enough memory")
ADVICE = (
    "Lower what is computed at a time: of texts training.tokens_per_micro_batch or windows.max_tokens, of images "
    "training.per_device_train_batch_size; `finetune doctor RECIPE` reckons what texts take."
)


def optimizer_bytes(optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of an optimizer's state, such as Adam's two averages of every trained weight; 0 before its first step."""
    states = optimizer.state.values() if optimizer is not None else ()
    return sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))


def peak_bytes(device: torch.device) -> int | None:
    """The most memory that was in use: tensors on a GPU, on a CPU the whole process since it began; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # Linux counts in KiB


@contextlib.contextmanager
def memory_faults(where: str) -> Iterator[None]:
    """A memory that is too small, as one message of the environment family."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in WORDS):
            raise
        raise OutOfMemory(where, "out of memory", ADVICE) from error
