"""The nearest neighbour equals a dense cosine, takes the first of equals, and does not depend on its blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from finetune.errors import DataError
from finetune.scores import retrieval
from finetune.scores.retrieval import NearestNeighbour, copy_source

WORDS = st.sampled_from(["a", "man", "runs", "dog", "red", "house", "!"])
TEXTS = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXTS, min_size=1, max_size=12), st.lists(TEXTS, min_size=1, max_size=8))
def test_it_equals_a_dense_cosine(train: list[str], queries: list[str]) -> None:
    numbers, cosines = NearestNeighbour.fit(train, train).nearest(queries)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]").fit(train)
    dense = cosine_similarity(vectorizer.transform(queries), vectorizer.transform(train))
    np.testing.assert_allclose(cosines, dense.max(axis=1), atol=1e-12)
    np.testing.assert_allclose(dense[np.arange(len(queries)), numbers], dense.max(axis=1), atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXTS, min_size=1, max_size=12))
def test_a_training_source_finds_its_first_equal(train: list[str]) -> None:
    model = NearestNeighbour.fit(train, [str(number) for number in range(len(train))])
    for number, answer in zip(range(len(train)), model.predict(train), strict=True):
        assert train[int(answer)] == train[number] and int(answer) == train.index(train[number])


def test_the_answer_is_the_target_of_the_nearest_source() -> None:
    sources = ["the dog runs", "a red house", "a man sleeps"]
    model = NearestNeighbour.fit(sources, ["der Hund läuft", "ein rotes Haus", "ein Mann schläft"])
    assert model.predict(["one house is red", "this man"]) == ["ein rotes Haus", "ein Mann schläft"]
    # Nothing shared: all are equal.
    assert model.predict(["xyz", ""]) == ["der Hund läuft"] * 2
    assert model.nearest(["xyz"])[1].tolist() == [0.0]
    assert model.predict([]) == []
    assert model.settings == {"tokens": "words"}


def test_scripts_without_spaces_are_compared_by_character() -> None:
    model = NearestNeighbour.fit(["今天天气很好", "我喜欢吃苹果"], ["weather", "apples"])
    assert model.predict(["他也喜欢苹果", "天气不好"]) == ["apples", "weather"]
    assert model.settings == {"tokens": "characters"}


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in generator.integers(0, 30, size=8)) for _ in range(60)]
    model = NearestNeighbour.fit(texts[:40], texts[:40])
    whole = model.nearest(texts[40:])
    monkeypatch.setattr(retrieval, "BLOCK_SIMILARITIES", 100)
    np.testing.assert_array_equal(model.nearest(texts[40:]), whole)


def test_copies_and_refusals() -> None:
    assert copy_source(["one", ""]) == ["one", ""]
    with pytest.raises(DataError, match="all 2 training sources are empty"):
        NearestNeighbour.fit(["", " "], ["a", "b"])
    with pytest.raises(ValueError, match="1 sources and 2 targets"):
        NearestNeighbour.fit(["a"], ["a", "b"])
