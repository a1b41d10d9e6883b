"""Answers that need no generator: the target of the nearest training source, and the source itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from finetune.errors import DataError
from finetune.scores.baselines import WORDS, token_kind

# scipy's sparse matrices and scikit-learn have no types.
Matrix = Any
Estimator = Any

# Similarities held at once, 8 bytes each.
BLOCK_SIMILARITIES = 8_000_000


@dataclass(frozen=True)
class NearestNeighbour:
    """The training source of the highest cosine of sublinear TF-IDF vectors of 1- and 2-grams: of words, or of
    characters where `token_kind` says so. The first of equals; where nothing is shared all are equal, at 0."""

    tokens: str  # words or characters
    targets: Sequence[str]
    vectorizer: Estimator
    vectors: Matrix  # (features, n) sparse, columns of length 1

    @classmethod
    def fit(cls, sources: Sequence[str], targets: Sequence[str]) -> NearestNeighbour:
        """Raises DataError where all sources are empty, ValueError where there are not as many targets."""
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} sources and {len(targets)} targets")
        if not any(source.strip() for source in sources):
            raise DataError("data.source", f"all {len(sources)} training sources are empty", "Check data.columns.")
        tokens = token_kind(sources)
        kind = {"analyzer": "char"} if tokens == "characters" else {"token_pattern": WORDS}
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float64, **kind)
        vectors = vectorizer.fit_transform(sources)
        return cls(tokens=tokens, targets=targets, vectorizer=vectorizer, vectors=vectors.T.tocsr())

    @property
    def settings(self) -> Mapping[str, str | float]:
        return {"tokens": self.tokens}

    def predict(self, sources: Sequence[str]) -> list[str]:
        """The target of each source's nearest training source."""
        numbers, _ = self.nearest(sources)
        return [self.targets[number] for number in numbers]

    def nearest(self, sources: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(n,) numbers of the nearest training sources and (n,) their cosines, 0 to 1."""
        numbers, cosines = np.zeros(len(sources), dtype=np.int64), np.zeros(len(sources))
        rows = max(1, BLOCK_SIMILARITIES // self.vectors.shape[1])
        for first in range(0, len(sources), rows):
            block = slice(first, first + rows)
            similarities = (self.vectorizer.transform(sources[block]) @ self.vectors).toarray()
            numbers[block] = similarities.argmax(axis=1)
            cosines[block] = similarities.max(axis=1)
        return numbers, np.minimum(cosines, 1.0)


def copy_source(sources: Sequence[str]) -> list[str]:
    """Every source as its own answer: what a summary or a translation is worth that changed nothing."""
    return list(sources)
