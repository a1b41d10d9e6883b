"""Where a text may be cut: the ends of its paragraphs and sentences, in English and Chinese, by their punctuation.

It need not find every sentence, for a window without one is cut at a token; it must not cut inside a number or a name.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

_CHINESE = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_CLOSING = "[\"'”’」』）)】》〉\\]}»]*+"
_END = re.compile(
    rf"""(?:
        [。！？；…．][。！？；…．!?]*+{_CLOSING}           # Chinese ends need no space after them
      | (?<=[{_CHINESE}])[!?;]++{_CLOSING}                 # the same after NFKC, which makes them ASCII:
      | (?<![!?;])[!?;]++{_CLOSING}(?=[{_CHINESE}])        # beside a Chinese character
      | (?<![.!?])\.{{2,}}+{_CLOSING}(?=[{_CHINESE}])      # "……" after NFKC
      | (?<![.!?])(?:(?<!\b[^\W\d_])\.|[!?])[.!?]*+{_CLOSING}(?=\s|\Z)   # not "J. Smith", "e.g. this", "3.5"
    )(?P<gap>\s*+)
    | (?P<break>\n\s*+)""",
    re.VERBOSE,
)


def token_breaks(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Places where a sentence ends, and where a paragraph ends: place p is before token p.

    `offsets` are the characters [start, end) of each token of the text.
    """
    ends = list(accumulate((end for _, end in offsets), max))
    sentences: list[int] = []
    paragraphs: list[int] = []
    for stop, resume, paragraph in breaks(text):
        place = bisect_right(ends, resume)
        # A token that holds the end of one sentence and the beginning of the next is not cut.
        if place < len(offsets) and offsets[place][0] >= stop:
            (paragraphs if paragraph else sentences).append(place)
    return sentences, paragraphs


class Break(NamedTuple):
    """A place to cut: what comes before ends at character `stop`, what comes after begins at `resume`."""

    stop: int
    resume: int
    paragraph: bool


def breaks(text: str) -> Iterator[Break]:
    """The ends of sentences and paragraphs in their order. A run of whitespace with a line break ends a paragraph."""
    for found in _END.finditer(text):
        gap = "gap" if found["break"] is None else "break"
        yield Break(found.start(gap), found.end(), paragraph="\n" in found[gap])
