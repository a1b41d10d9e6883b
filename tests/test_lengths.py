"""The length audit: numbers that a person can count by hand, and lines that say what truncation would have cost."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.lengths import audit_lengths, length_lines


def test_a_hundred_documents() -> None:
    tokens, windows = np.arange(1, 101), np.ones(100, dtype=np.int64)
    windows[50:] = 3
    audit = audit_lengths(tokens, windows, window_tokens=90)
    assert (audit.documents, audit.tokens, audit.longest) == (100, 5050, 100)
    assert (audit.median, audit.p90, audit.p95, audit.p99) == (51, 91, 96, 100)
    assert (audit.over_one_window, audit.over_one_window_share) == (10, 0.1)
    assert (audit.windows_mean, audit.windows_most) == (2.0, 3)
    assert (audit.truncation_tokens, audit.truncation_tokens_share) == (55, 55 / 5050)
    assert json.loads(json.dumps(audit.to_json())) == audit.to_json()
    shown = "\n".join(length_lines({"train": audit}))
    for part in ("train: 100 documents", "median 51", "10 documents (10.0%)", "lose 55 tokens (1.1%)", "at most 3"):
        assert part in shown


def test_where_everything_fits_there_is_one_line() -> None:
    audit = audit_lengths(np.array([5, 8]), np.array([1, 1]), window_tokens=8)
    assert audit.over_one_window == audit.truncation_tokens == 0
    assert len(length_lines({"train": audit, "test": audit})) == 2


def test_no_documents() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    audit = audit_lengths(nothing, nothing, window_tokens=8)
    assert set(audit.to_json().values()) == {0, 8}


@given(tokens=st.lists(st.integers(1, 5000), min_size=1, max_size=50), window=st.integers(1, 1000))
def test_percentiles_are_lengths_of_documents(tokens: list[int], window: int) -> None:
    audit = audit_lengths(np.array(tokens), np.ones(len(tokens)), window_tokens=window)
    known = [audit.median, audit.p90, audit.p95, audit.p99, audit.longest]
    assert known == sorted(known) and set(known) <= set(tokens)
    assert audit.truncation_tokens == sum(tokens) - sum(min(count, window) for count in tokens)
