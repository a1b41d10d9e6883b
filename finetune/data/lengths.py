"""How long the documents are in tokens of the model's own tokenizer, told before anything is trained.

Most tools cut long texts at the model's limit without a word; here the numbers come first, with what the cut would
have cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LengthAudit:
    """Lengths of the documents of one split, in tokens of the whole text, its special tokens included.

    `windows_mean` and `windows_most` speak of the windows that are trained and predicted, after `max_per_document`.
    `truncation_*` is what keeping only the first `window_tokens` of each document would lose; shares are of 1.
    """

    documents: int
    tokens: int
    window_tokens: int
    median: int
    p90: int
    p95: int
    p99: int
    longest: int
    over_one_window: int
    over_one_window_share: float
    windows_mean: float
    windows_most: int
    truncation_tokens: int
    truncation_tokens_share: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def audit_lengths(tokens: Ints, windows: Ints, *, window_tokens: int) -> LengthAudit:
    """The audit of documents with these numbers of `tokens` (d,) and `windows` (d,); all zeros for no documents.

    A percentile is the length of a document (numpy's `higher`), never a value between two.
    """
    some = tokens if len(tokens) else np.zeros(1, dtype=np.int64)
    median, p90, p95, p99 = np.percentile(some, (50, 90, 95, 99), method="higher").tolist()
    total, beyond = int(tokens.sum()), np.maximum(tokens - window_tokens, 0)
    over = int((beyond > 0).sum())
    return LengthAudit(
        documents=len(tokens),
        tokens=total,
        window_tokens=window_tokens,
        median=median,
        p90=p90,
        p95=p95,
        p99=p99,
        longest=int(some.max()),
        over_one_window=over,
        over_one_window_share=over / len(tokens) if over else 0.0,
        windows_mean=float(windows.mean()) if len(windows) else 0.0,
        windows_most=int(windows.max(initial=0)),
        truncation_tokens=int(beyond.sum()),
        truncation_tokens_share=int(beyond.sum()) / total if over else 0.0,
    )


def length_lines(audits: Mapping[str, LengthAudit]) -> list[str]:
    """One or two lines a split for the screen."""
    lines = []
    for split, audit in audits.items():
        lines.append(
            f"{split}: {audit.documents:,} documents, {audit.tokens:,} tokens; median {audit.median:,}, "
            f"90 % up to {audit.p90:,}, 95 % up to {audit.p95:,}, 99 % up to {audit.p99:,}, "
            f"longest {audit.longest:,}"
        )
        if audit.over_one_window:
            lines.append(
                f"{split}: {audit.over_one_window:,} documents ({audit.over_one_window_share:.1%}) are longer than "
                f"one window of {audit.window_tokens:,} tokens; {audit.windows_mean:.1f} windows a document, "
                f"at most {audit.windows_most:,}; truncation would lose {audit.truncation_tokens:,} tokens "
                f"({audit.truncation_tokens_share:.1%})"
            )
    return lines
