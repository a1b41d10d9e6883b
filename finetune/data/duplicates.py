"""Which texts are the same text: exact duplicates after folding case, compatibility forms and white space."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

HASH_DIGITS = 16


def families(texts: Iterable[str]) -> NDArray[np.int64]:
    """The family of each text, shape (texts,): the index of the first text that says the same.

    Texts without any word character or sign are families of their own: two empty rows repeat nothing.
    """
    first_by_key: dict[bytes, int] = {}
    numbers = []
    for index, text in enumerate(texts):
        folded = folded_text(text)
        numbers.append(first_by_key.setdefault(_digest(folded), index) if folded else index)
    return np.array(numbers, dtype=np.int64)


def content_hash(text: str) -> str:
    """The first 16 hexadecimal digits of the sha256 of the folded text: equal for duplicates, and reveals no text."""
    return _digest(folded_text(text)).hex()[:HASH_DIGITS]


def folded_text(text: str) -> str:
    """What two duplicates share: NFKC, case folded, white space runs as one space, ends trimmed."""
    # Folding case can undo the normal form and the other way round: the Unicode standard (chapter 3.13, D146) asks
    # for this sandwich.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.casefold().split())


def _digest(folded: str) -> bytes:
    # A lone surrogate has no UTF-8; it must not stop a count of duplicates.
    return hashlib.sha256(folded.encode("utf-8", "surrogatepass")).digest()
