"""Token windows: every token of every document, in order, counted once; nothing is cut without a number."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from finetune.data import windows as module
from finetune.data.windows import WindowCounts, cut_windows, merge_windows
from finetune.errors import DataError
from finetune.recipe import Windows

WORDS = tuple(f"word{number}" for number in range(30))
TOKENIZER = tiny_tokenizer(WORDS)
SPECIALS = 2
TEXTS = st.lists(st.lists(st.sampled_from((*WORDS, "strange")), min_size=1, max_size=40), min_size=1, max_size=8)


def cut(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast = TOKENIZER, **chosen: object
) -> tuple[list[list[list[int]]], WindowCounts]:
    rows = datasets.Dataset.from_dict({"text": list(texts), "origin": [f"x.csv:{n}" for n in range(2, len(texts) + 2)]})
    table, counts = cut_windows(rows, tokenizer, settings=Windows.model_validate(chosen))
    return table["windows"][:], counts


@st.composite
def cuttings(draw: st.DrawFn) -> dict[str, object]:
    max_tokens = draw(st.integers(8, 20))
    limits = [{}, {"truncate": True}, *({"max_per_document": most} for most in range(1, 5))]
    stride = draw(st.integers(0, max_tokens - SPECIALS - 1))
    return {"max_tokens": max_tokens, "stride": stride, **draw(st.sampled_from(limits))}


@given(documents=TEXTS, chosen=cuttings(), side=st.sampled_from(["right", "left"]))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_windows_are_the_document_in_order_and_the_counts_are_exact(
    documents: list[list[str]], chosen: dict[str, int], side: str
) -> None:
    tokenizer = tiny_tokenizer(WORDS)
    tokenizer.truncation_side = side
    texts = [" ".join(words) for words in documents]
    windows, counts = cut(texts, tokenizer, **chosen)
    everything, _ = cut(texts, tokenizer, max_tokens=chosen["max_tokens"], stride=chosen["stride"])
    keep = 1 if chosen.get("truncate") else chosen.get("max_per_document")
    wholes = [TOKENIZER(text)["input_ids"] for text in texts]
    assert windows == [rows[:keep] for rows in everything]
    assert all(len(window) <= chosen["max_tokens"] for rows in everything for window in rows)
    assert [joined(rows, chosen["stride"]) for rows in everything] == wholes
    kept = [len(joined(rows, chosen["stride"])) for rows in windows]
    assert counts == WindowCounts(
        documents=len(texts),
        windows=sum(map(len, windows)),
        tokens=sum(kept),
        longest_document_tokens=max(map(len, wholes)),
        documents_over_one_window=sum(len(rows) > 1 for rows in everything),
        documents_cut=sum(count < len(whole) for count, whole in zip(kept, wholes, strict=True)),
        tokens_cut=sum(map(len, wholes)) - sum(kept),
    )


def joined(windows: list[list[int]], stride: int) -> list[int]:
    """A document's tokens out of its windows: without special tokens, and without what a window repeats."""
    cls, *_, sep = windows[0]
    inner = [window[1:-1] for window in windows]
    for before, after in itertools.pairwise(inner):
        assert before[len(before) - stride :] == after[:stride]
    return [cls, *inner[0], *(token for rows in inner[1:] for token in rows[stride:]), sep]


def test_documents_keep_their_windows_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(WORDS[: 1 + 7 * (number % 4)]) for number in range(11)]
    at_once, counts = cut(texts, max_tokens=9, stride=3)
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 2)
    assert cut(texts, max_tokens=9, stride=3) == (at_once, counts)


def test_progress_is_told_in_documents_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[int] = []
    rows = datasets.Dataset.from_dict({"text": ["word1"] * 600, "origin": ["x"] * 600})
    cut_windows(rows, TOKENIZER, settings=Windows(), on_documents=heard.append)
    assert (sum(heard), len(heard)) == (600, 3)
    assert capfd.readouterr() == ("", "")


def test_documents_without_a_token_are_refused_together() -> None:
    # The tokenizer drops control characters, so that only its own special tokens would be left.
    with pytest.raises(DataError) as error:
        cut(["word1", "\u200b\u200b", "word2", "\u0000"])
    assert [problem.where for problem in error.value.problems] == ["x.csv:3", "x.csv:5"]
    assert "leaves nothing" in str(error.value)


def test_no_documents() -> None:
    windows, counts = cut([])
    assert windows == [] and counts.documents == counts.tokens == counts.longest_document_tokens == 0


@pytest.mark.parametrize("how", ["mean", "max"])
def test_window_predictions_come_back_to_their_documents(how: str) -> None:
    random = np.random.default_rng(0)
    owner = np.array([2, 0, 1, 2, 2, 0])
    values = random.random((6, 3))
    merged = merge_windows(values, owner, documents=3, how=how)
    for document in range(3):
        expected = getattr(values[owner == document], how)(axis=0)
        np.testing.assert_allclose(merged[document], expected)


@pytest.fixture(autouse=True)
def tokenizer_unchanged() -> Iterator[None]:
    yield
    assert TOKENIZER.truncation_side == "right"
