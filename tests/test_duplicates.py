"""Exact duplicates: what is folded away, and what is not."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.duplicates import content_hash, exact_families, folded_text


def test_families_are_named_by_their_first_member() -> None:
    texts = ["Good film", "bad film", "  good\tFILM ", "Good film!", "ＧＯＯＤ film"]  # full-width letters at the end
    assert exact_families(texts).tolist() == [0, 1, 0, 3, 0]


def test_empty_texts_are_not_duplicates_of_each_other() -> None:
    assert exact_families(["", " \n", ""]).tolist() == [0, 1, 2]


def test_no_texts_give_no_families() -> None:
    assert exact_families([]).shape == (0,)


def test_texts_may_come_from_a_stream_that_is_read_once() -> None:
    numbers = exact_families(text for text in ("一样", "别的", "一样"))
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [0, 1, 0]


@pytest.mark.parametrize("pair", [("STRASSE", "straße"), ("ﬁlm", "film"), ("今天 好", "今天\u3000好")])
def test_these_are_the_same_text(pair: tuple[str, str]) -> None:
    assert content_hash(pair[0]) == content_hash(pair[1])


def test_the_hash_is_the_start_of_the_sha256_of_the_folded_text() -> None:
    assert content_hash("Good  film") == hashlib.sha256(b"good film").hexdigest()[:16]


def test_a_lone_surrogate_is_hashed() -> None:
    assert content_hash("\ud800") != content_hash("\ud801")


@given(st.text())
def test_folding_is_idempotent(text: str) -> None:
    assert folded_text(folded_text(text)) == folded_text(text)


@given(st.lists(st.text(alphabet="aAb \t", max_size=3), max_size=12))
def test_two_texts_share_a_family_exactly_when_they_fold_alike(texts: list[str]) -> None:
    numbers = exact_families(texts).tolist()
    for i, one in enumerate(texts):
        for j, other in enumerate(texts):
            alike = i == j or (folded_text(one) != "" and folded_text(one) == folded_text(other))
            assert (numbers[i] == numbers[j]) == alike
