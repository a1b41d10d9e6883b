"""How sequences fill blocks of tokens, and how a long document becomes sequences.

Whole sequences are packed by best-fit decreasing, which needs at most 11/9 of the fewest blocks possible, plus one
(Johnson 1974; Dósa 2007 for the constant 6/9).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

Span = tuple[int, int, int]  # the tokens [start, end) of a window, and the first of them that is predicted


def best_fit(lengths: ArrayLike, *, room: int) -> list[list[int]]:
    """Blocks of at most `room` tokens: the numbers of the sequences in each, every sequence in exactly one.

    `lengths` (n,) are tokens. The longest sequence comes first, of equals the one of the lower number; each goes into
    the fullest block that has room for it, of equals into the one that was last filled. Takes n (log n + room / 64)
    steps. Raises ValueError for a sequence without tokens or longer than `room`.
    """
    sizes = np.asarray(lengths, dtype=np.int64).reshape(-1)
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= room:
        raise ValueError(f"sequences of {sizes.min()} to {sizes.max()} tokens do not fit blocks of 1 to {room}")
    blocks: list[list[int]] = []
    blocks_with: defaultdict[int, list[int]] = defaultdict(list)  # free tokens -> the numbers of such blocks
    free = 0  # bit k is set where blocks_with[k] is not empty: the lowest bit from `size` on is the best fit
    for number in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[number])
        enough = free >> size
        if enough:
            before = size + (enough & -enough).bit_length() - 1
            block = blocks_with[before].pop()
            if not blocks_with[before]:
                free ^= 1 << before
        else:
            before, block = room, len(blocks)
            blocks.append([])
        blocks[block].append(number)
        blocks_with[before - size].append(block)
        free |= 1 << (before - size)
    return blocks


def fill_rate(lengths: ArrayLike, bins: Iterable[Sequence[int]], *, room: int) -> float:
    """The share of the blocks' tokens that are real, 0 to 1; 0.0 for no blocks."""
    sizes = np.asarray(lengths, dtype=np.int64).reshape(-1)
    filled = [int(sizes[list(numbers)].sum()) for numbers in bins]
    return sum(filled) / (len(filled) * room) if filled else 0.0


def windows_of(length: int, *, most: int, stride: int) -> list[Span]:
    """Windows (start, end, first predicted) of at most `most` tokens that predict each token but the very first once.

    A window begins `stride` tokens before the first that it predicts, so that these have context; with a stride of 0 it
    is one token, because the first token of a window has nothing it could be predicted from. The first window begins
    with the document. As `stride` in transformers' guide to perplexity, `stride` here is `most` less theirs.
    """
    context = max(stride, 1)
    if stride < 0 or context >= most:
        raise ValueError(f"windows of {most} tokens have no room after {stride} tokens of context")
    spans = [(0, min(most, length), 1)] if length else []
    while spans and spans[-1][1] < length:
        done = spans[-1][1]
        start = done - context
        spans.append((start, min(start + most, length), done))
    return spans


def blocks_of(length: int, *, most: int) -> list[Span]:
    """The same for training: full blocks and a rest, each beginning with the last token of the one before.

    That one token of context costs one token a block, and every token but the very first is learnt exactly once an
    epoch. Full blocks rather than equal parts: they need no packing, and the rests fill up blocks together.
    """
    return windows_of(length, most=most, stride=1)
