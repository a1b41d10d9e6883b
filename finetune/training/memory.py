"""How much memory a training took, for run.json."""

from __future__ import annotations

import sys

import torch


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
