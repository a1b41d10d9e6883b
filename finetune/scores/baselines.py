"""Cheap opponents for a fine-tuned classifier, fitted on the same training split and scored on the same documents.

All of them are deterministic. Where a strength (C, alpha) is to be chosen, each candidate is fitted on the training
split, the best macro-F1 on the validation split wins, and that fitted model is the one used; the test split takes no
part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.preprocessing import StandardScaler

from finetune.errors import DataError
from finetune.scores.classification import predicted_labels, score_predictions

# What scikit-learn, which has no types, takes and gives: a dense array or a scipy sparse matrix; an estimator.
Matrix = Any
Estimator = Any

MOST_NGRAMS = 100_000
MOST_ITERATIONS = 1000
# Punctuation and emoji are words too, so that every text with something visible in it has words.
WORDS = r"\w+|[^\w\s]"
# Thai, Lao and Tibetan; Burmese; Khmer; kana; Chinese characters.
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
SHARE_WITHOUT_SPACES = 0.25


@dataclass(frozen=True)
class Inputs:
    """n documents: their texts, and their features (n, d) where a baseline needs them."""

    texts: Sequence[str]
    features: np.ndarray | None = None


@dataclass(frozen=True)
class Labelled:
    """n documents with labels: (n,) class numbers, or (n, C) of 0 and 1 for multi-label."""

    inputs: Inputs
    labels: np.ndarray


class Baseline(Protocol):
    """A fitted opponent. `settings` says what the fit chose, for the report."""

    @property
    def settings(self) -> Mapping[str, str | float]: ...

    def predict_probabilities(self, inputs: Inputs) -> np.ndarray:
        """(n, C) float64; rows add up to 1 unless multi-label. A class without training documents has 0."""


class Fit(Protocol):
    """Fits one baseline for `classes` classes. Raises DataError where all training texts are empty."""

    def __call__(
        self, train: Labelled, validation: Labelled, *, classes: int, multi_label: bool = False
    ) -> Baseline: ...


def fit_majority(train: Labelled, validation: Labelled, *, classes: int, multi_label: bool = False) -> Baseline:
    """Every document gets the class frequencies of the training split."""
    counts = train.labels.sum(axis=0) if multi_label else np.bincount(train.labels, minlength=classes)
    return _Constant(frequencies=counts / len(train.labels))


def fit_naive_bayes(train: Labelled, validation: Labelled, *, classes: int, multi_label: bool = False) -> Baseline:
    """Multinomial Naive Bayes on counts of 1- and 2-grams; alpha 1 or 0.1."""
    tokens = token_kind(train.inputs.texts)
    vectorizer = _fitted_vectorizer(CountVectorizer(**_ngrams(tokens)), train.inputs.texts)
    return _fit_candidates(
        {("alpha", alpha): MultinomialNB(alpha=alpha) for alpha in (1.0, 0.1)},
        train,
        validation,
        features=lambda inputs: vectorizer.transform(inputs.texts),
        classes=classes,
        multi_label=multi_label,
        settings={"tokens": tokens},
    )


def fit_tfidf_logistic(train: Labelled, validation: Labelled, *, classes: int, multi_label: bool = False) -> Baseline:
    """Logistic regression on sublinear TF-IDF of 1- and 2-grams; C 1 or 10."""
    tokens = token_kind(train.inputs.texts)
    vectorizer = _fitted_vectorizer(TfidfVectorizer(sublinear_tf=True, **_ngrams(tokens)), train.inputs.texts)
    return _fit_candidates(
        {("C", strength): LogisticRegression(C=strength, max_iter=MOST_ITERATIONS) for strength in (1.0, 10.0)},
        train,
        validation,
        features=lambda inputs: vectorizer.transform(inputs.texts),
        classes=classes,
        multi_label=multi_label,
        settings={"tokens": tokens},
    )


def fit_frozen_encoder(train: Labelled, validation: Labelled, *, classes: int, multi_label: bool = False) -> Baseline:
    """Logistic regression on standardised features of an encoder that was not trained; C 0.01, 0.1 or 1."""
    scaler = StandardScaler().fit(_given_features(train.inputs))
    return _fit_candidates(
        {("C", strength): LogisticRegression(C=strength, max_iter=MOST_ITERATIONS) for strength in (0.01, 0.1, 1.0)},
        train,
        validation,
        features=lambda inputs: scaler.transform(_given_features(inputs)),
        classes=classes,
        multi_label=multi_label,
        settings={},
    )


def token_kind(texts: Sequence[str]) -> str:
    """`characters` where over a quarter of what is written is in scripts without spaces between words, else `words`."""
    # A file may be sorted by language or label, so the sample is spread over all of it.
    sample = [re.sub(r"\s", "", text[:1000]) for text in texts[:: max(1, len(texts) // 2000)]]
    written = sum(len(text) for text in sample)
    without_spaces = sum(len(WITHOUT_SPACES.findall(text)) for text in sample)
    return "characters" if without_spaces > SHARE_WITHOUT_SPACES * written else "words"


@dataclass(frozen=True)
class _Constant:
    frequencies: np.ndarray

    @property
    def settings(self) -> Mapping[str, str | float]:
        return {}

    def predict_probabilities(self, inputs: Inputs) -> np.ndarray:
        return np.tile(self.frequencies, (len(inputs.texts), 1))


@dataclass(frozen=True)
class _Estimated:
    settings: Mapping[str, str | float]
    features: Callable[[Inputs], Matrix]
    probabilities: Callable[[Matrix], np.ndarray]

    def predict_probabilities(self, inputs: Inputs) -> np.ndarray:
        return self.probabilities(self.features(inputs))


def _fit_candidates(
    candidates: Mapping[tuple[str, float], Estimator],
    train: Labelled,
    validation: Labelled,
    *,
    features: Callable[[Inputs], Matrix],
    classes: int,
    multi_label: bool,
    settings: Mapping[str, str | float],
) -> Baseline:
    """The candidate with the best macro-F1 on validation, the first of equals."""
    train_features, validation_features = features(train.inputs), features(validation.inputs)
    names = [str(number) for number in range(classes)]
    best: tuple[float, _Estimated] | None = None
    for (name, strength), estimator in candidates.items():
        fit = _fit_labels if multi_label else _fit_classes
        probabilities = fit(estimator, train_features, train.labels, classes=classes)
        predictions = predicted_labels(probabilities(validation_features), multi_label=multi_label)
        scores = score_predictions(validation.labels, predictions, label_names=names, multi_label=multi_label)
        macro = scores.values["f1_macro"] or 0.0
        if best is None or macro > best[0]:
            best = macro, _Estimated({**settings, name: strength}, features=features, probabilities=probabilities)
    assert best is not None
    return best[1]


def _fit_classes(
    estimator: Estimator, features: Matrix, labels: np.ndarray, *, classes: int
) -> Callable[[Matrix], np.ndarray]:
    """One model for single-label documents."""
    seen = np.unique(labels)
    if len(seen) == 1:
        return _always(np.eye(classes)[seen[0]])
    model = clone(estimator).fit(features, labels)

    def probabilities(features: Matrix) -> np.ndarray:
        # The model knows only the classes that it saw; the others keep their column of zeros.
        spread = np.zeros((features.shape[0], classes))
        spread[:, seen] = model.predict_proba(features)
        return spread

    return probabilities


def _fit_labels(
    estimator: Estimator, features: Matrix, labels: np.ndarray, *, classes: int
) -> Callable[[Matrix], np.ndarray]:
    """One model a label, each against the rest."""
    columns = [_fit_classes(estimator, features, labels[:, label].astype(int), classes=2) for label in range(classes)]
    return lambda features: np.column_stack([column(features)[:, 1] for column in columns])


def _always(row: np.ndarray) -> Callable[[Matrix], np.ndarray]:
    return lambda features: np.tile(row, (features.shape[0], 1))


def _ngrams(tokens: str) -> dict[str, Any]:
    kind = {"analyzer": "char"} if tokens == "characters" else {"token_pattern": WORDS}
    return {**kind, "ngram_range": (1, 2), "max_features": MOST_NGRAMS, "dtype": np.float64}


def _fitted_vectorizer(vectorizer: Estimator, texts: Sequence[str]) -> Estimator:
    if not any(text.strip() for text in texts):
        raise DataError("data.source", f"all {len(texts)} training texts are empty", "Check data.columns.text.")
    return vectorizer.fit(texts)


def _given_features(inputs: Inputs) -> np.ndarray:
    if inputs.features is None or len(inputs.features) != len(inputs.texts):
        raise ValueError("this baseline needs the features of every document")
    return inputs.features


BASELINES: dict[str, Fit] = {
    "majority": fit_majority,
    "naive_bayes": fit_naive_bayes,
    "tfidf_logistic": fit_tfidf_logistic,
    "frozen_encoder": fit_frozen_encoder,
}
