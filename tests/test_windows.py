"""Token windows: every token of every document, in order, counted once; nothing is cut without a number."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finetune.data import windows as module
from finetune.data.windows import (
    WindowCounts,
    cut_windows,
    deciding_windows,
    kept_windows,
    merge_windows,
    passages,
    token_ranges,
)
from finetune.errors import DataError, ModelError
from finetune.recipe_windows import Windows

WORDS = tuple(f"word{number}" for number in range(30))
TOKENIZER = tiny_tokenizer(WORDS)
SPECIALS = 2
TEXTS = st.lists(st.lists(st.sampled_from((*WORDS, "strange")), min_size=1, max_size=40), min_size=1, max_size=8)
QUICK = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=30)


def table_of(texts: Sequence[str]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": list(texts), "origin": [f"x.csv:{n}" for n in range(2, len(texts) + 2)]})


def cut(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast = TOKENIZER, **chosen: object
) -> tuple[list[list[list[int]]], WindowCounts]:
    table, counts = cut_windows(table_of(texts), tokenizer, settings=Windows.model_validate(chosen))
    return table["windows"][:], counts


@st.composite
def cuttings(draw: st.DrawFn) -> dict[str, Any]:
    max_tokens = draw(st.integers(8, 20))
    keep = draw(st.sampled_from(["head", "head_tail", "spread"]))
    limits = [{}, {"truncate": True}, *({"max_per_document": most, "keep": keep} for most in range(1, 5))]
    stride = draw(st.integers(0, max_tokens - SPECIALS - 1))
    return {"max_tokens": max_tokens, "stride": stride, **draw(st.sampled_from(limits))}


@QUICK
@given(documents=TEXTS, chosen=cuttings(), side=st.sampled_from(["right", "left"]))
def test_windows_are_the_document_in_order_and_the_counts_are_exact(
    documents: list[list[str]], chosen: dict[str, Any], side: str
) -> None:
    tokenizer = tiny_tokenizer(WORDS)
    tokenizer.truncation_side = side
    texts = [" ".join(words) for words in documents]
    windows, counts = cut(texts, tokenizer, **chosen)
    everything, _ = cut(texts, tokenizer, max_tokens=chosen["max_tokens"], stride=chosen["stride"])
    wholes = [TOKENIZER(text)["input_ids"] for text in texts]
    assert all(len(window) <= chosen["max_tokens"] for rows in everything for window in rows)
    assert [joined(rows, chosen["stride"]) for rows in everything] == wholes
    if chosen.get("truncate"):
        assert windows == [
            [ids] for ids in tokenizer(texts, truncation=True, max_length=chosen["max_tokens"]).input_ids
        ]
    else:
        most, keep = chosen.get("max_per_document"), chosen.get("keep", "head")
        assert windows == [[rows[n] for n in kept_windows(len(rows), most=most, keep=keep)] for rows in everything]
    lengths = [len(whole) for whole in wholes]
    assert (counts.documents, counts.windows) == (len(texts), sum(map(len, windows)))
    assert counts.tokens + counts.tokens_cut == sum(lengths) == counts.lengths.tokens
    assert counts.longest_document_tokens == max(lengths)
    assert counts.documents_over_one_window == sum(len(rows) > 1 for rows in everything)
    if chosen.get("keep", "head") == "head" and side == "right":
        kept = [len(joined(rows, chosen["stride"])) for rows in windows]
        assert counts.tokens == sum(kept)
        assert counts.documents_cut == sum(count < whole for count, whole in zip(kept, lengths, strict=True))


def joined(windows: list[list[int]], stride: int) -> list[int]:
    """A document's tokens out of its windows: without special tokens, and without what a window repeats."""
    cls, *_, sep = windows[0]
    inner = [window[1:-1] for window in windows]
    for before, after in itertools.pairwise(inner):
        assert before[len(before) - stride :] == after[:stride]
    return [cls, *inner[0], *(token for rows in inner[1:] for token in rows[stride:]), sep]


# ---- tokenizers of every shape

MIXED = (
    "A  small village, by the sea. ",
    "Naïve café 3.5 euros!\n\n",
    "今天天气很好。我们去公园吧！",
    "emoji 👩‍👩‍👧 and ﬁne ligatures ",
    "…and then? ",
)


def trained(backend: Tokenizer, trainer: Any) -> Tokenizer:
    backend.train_from_iterator([*MIXED, *WORDS], trainer)
    return backend


def bert() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trained(backend, trainers.WordPieceTrainer(vocab_size=120, special_tokens=names, show_progress=False))
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", model_max_length=16)


def byte_level(post_processor: Callable[[Tokenizer], Any] | None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=letters, show_progress=False
    )
    trained(backend, trainer)
    if post_processor is not None:
        backend.post_processor = post_processor(backend)
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=16)


def roberta() -> PreTrainedTokenizerFast:
    return byte_level(lambda _: processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True))


def gpt2() -> PreTrainedTokenizerFast:
    return byte_level(lambda _: processors.ByteLevel(trim_offsets=False))


def t5() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.normalizer, backend.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    names = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=130, special_tokens=names, unk_token="<unk>", show_progress=False)
    trained(backend, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=16)


SHAPES = {build.__name__: build() for build in (bert, roberta, gpt2, t5)}
SHAPES["no post-processor"] = byte_level(None)


def tokenizers_own(tokenizer: PreTrainedTokenizerFast, text: str, chosen: dict[str, Any]) -> list[list[int]]:
    encoded = tokenizer(
        [text], truncation=True, max_length=chosen["max_tokens"], stride=chosen["stride"],
        return_overflowing_tokens=True,
    )  # fmt: skip
    rows = encoded["input_ids"]
    return rows[::-1] if tokenizer.truncation_side == "left" else rows


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("shape", SHAPES)
@QUICK
@given(parts=st.lists(st.sampled_from(MIXED), min_size=1, max_size=12), chosen=cuttings())
def test_cut_at_tokens_the_windows_are_the_tokenizers_own(
    shape: str, side: str, parts: list[str], chosen: dict[str, Any]
) -> None:
    tokenizer, text = SHAPES[shape], "".join(parts)
    tokenizer.truncation_side = side
    chosen = {"max_tokens": chosen["max_tokens"], "stride": chosen["stride"], "boundary": "token"}
    assert cut([text], tokenizer, **chosen)[0] == [tokenizers_own(tokenizer, text, chosen)]
    truncated, _ = cut([text], tokenizer, max_tokens=chosen["max_tokens"], stride=0, truncate=True)
    assert truncated == [[tokenizer(text, truncation=True, max_length=chosen["max_tokens"])["input_ids"]]]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("shape", SHAPES)
@QUICK
@given(parts=st.lists(st.sampled_from(MIXED), min_size=1, max_size=12), chosen=cuttings())
def test_offsets_are_of_the_windows_tokens(shape: str, side: str, parts: list[str], chosen: dict[str, Any]) -> None:
    tokenizer, text = SHAPES[shape], "".join(parts)
    tokenizer.truncation_side = side
    bare = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    table, _ = cut_windows(table_of([text]), tokenizer, settings=Windows.model_validate(chosen))
    prefix, suffix = module._special_tokens(tokenizer)
    row = table[0]
    place = 0
    for window, (start, end) in zip(row["windows"], row["offsets"], strict=True):
        inner = window[len(prefix) : len(window) - len(suffix)]
        places = [
            n for n in range(place, len(bare["input_ids"]))
            if bare["input_ids"][n : n + len(inner)] == inner and bare["offset_mapping"][n][0] == start
        ]  # fmt: skip
        assert places, "the window's tokens begin where its offsets say"
        place = places[0]
        assert end == bare["offset_mapping"][place + len(inner) - 1][1]


# ---- sentences


@pytest.mark.parametrize("stride", [0, 2])
def test_a_window_ends_with_the_last_sentence_of_its_last_quarter(stride: int) -> None:
    tokenizer = tiny_tokenizer((*WORDS, "."))
    sentences = ["word1 word2 word3 word4 word5.", "word6 word7 word8."] * 4  # 6 and 4 tokens
    text = " ".join(sentences)
    table, _ = cut_windows(table_of([text]), tokenizer, settings=Windows(max_tokens=14, stride=stride))
    shown = [text[start:end] for start, end in table[0]["offsets"]]
    assert shown[0] == " ".join(sentences[:2]), "10 of 12 tokens, in the last quarter"
    assert all(passage.endswith("word8.") for passage in shown)
    for before, after in itertools.pairwise(table[0]["windows"]):
        assert before[1:-1][len(before) - 2 - stride :] == after[1:-1][:stride]


def test_a_paragraph_end_is_preferred_to_a_later_sentence_end() -> None:
    tokenizer = tiny_tokenizer((*WORDS, "."))
    text = " ".join(WORDS[:9]) + "\n\n" + "word1 word2. " + " ".join(WORDS[:9])
    table, _ = cut_windows(table_of([text]), tokenizer, settings=Windows(max_tokens=14, stride=0))
    start, end = table[0]["offsets"][0]
    assert text[start:end] == " ".join(WORDS[:9])
    chosen = Windows(max_tokens=14, stride=0, boundary="token")
    start, end = cut_windows(table_of([text]), tokenizer, settings=chosen)[0][0]["offsets"][0]
    assert text[start:end].endswith("word2.")


def test_from_the_end_a_window_begins_with_a_sentence() -> None:
    tokenizer = tiny_tokenizer((*WORDS, "."))
    tokenizer.truncation_side = "left"
    text = " ".join(["word1 word2 word3 word4 word5.", "word6 word7 word8."] * 4)
    table, _ = cut_windows(table_of([text]), tokenizer, settings=Windows(max_tokens=14, stride=0))
    shown = [text[start:end] for start, end in table[0]["offsets"]]
    assert len(shown) == 4 and all(passage.startswith("word1") for passage in shown)


@given(data=st.data(), room=st.integers(1, 60), count=st.integers(1, 400))
def test_ranges_cover_everything_overlap_by_the_stride_and_move_on(data: st.DataObject, room: int, count: int) -> None:
    stride = data.draw(st.integers(0, room - 1))
    places = st.lists(st.integers(1, count), unique=True).map(sorted)
    good, better = data.draw(places), data.draw(places)
    ranges = token_ranges(count, room=room, stride=stride, good=good, better=better)
    assert ranges[0][0] == 0 and ranges[-1][1] == count
    assert all(0 < last - first <= room for first, last in ranges)
    for (first, last), (following, end) in itertools.pairwise(ranges):
        assert following == last - stride and end > last
        assert following - first >= (room - stride) / 2, "at most twice the windows of cutting at tokens"
        assert last - first >= 0.75 * room
        tempting = [place for place in good + better if 0.75 * room <= place - first <= room]
        assert last - first == room or last in tempting


@given(count=st.integers(1, 50), most=st.integers(1, 60), keep=st.sampled_from(["head", "head_tail", "spread"]))
def test_kept_windows(count: int, most: int, keep: str) -> None:
    kept = kept_windows(count, most=most, keep=keep)
    assert kept == sorted(set(kept)) and len(kept) == min(count, most) and set(kept) <= set(range(count))
    assert kept[0] == 0
    if keep == "head":
        assert kept == list(range(len(kept)))
    elif 2 <= most < count:
        assert kept[-1] == count - 1
        gaps = np.diff(kept)
        assert gaps.max() - gaps.min() <= 1 if keep == "spread" else kept[: -(-most // 2)] == list(range(-(-most // 2)))


# ---- the rest


def test_documents_keep_their_windows_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(WORDS[: 1 + 7 * (number % 4)]) for number in range(11)]
    at_once, counts = cut(texts, max_tokens=9, stride=3)
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 2)
    assert cut(texts, max_tokens=9, stride=3) == (at_once, counts)
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 5)
    monkeypatch.setattr(module, "CHARACTERS_AT_A_TIME", 100)
    assert cut(texts, max_tokens=9, stride=3) == (at_once, counts)


def test_progress_is_told_in_documents_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[int] = []
    rows = datasets.Dataset.from_dict({"text": ["word1 " * 99] * 600, "origin": ["x"] * 600})
    cut_windows(rows, TOKENIZER, settings=Windows(), on_documents=heard.append)
    assert (sum(heard), len(heard)) == (600, 3)
    assert capfd.readouterr() == ("", "")


def test_a_second_run_reads_what_the_first_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table_of(["word1 word2", "word3 " * 30]).save_to_disk(tmp_path / "rows")
    rows = datasets.load_from_disk(tmp_path / "rows")
    chosen = Windows(max_tokens=9, stride=3)
    calls: list[int] = []
    counted = module._Cutter.cut
    monkeypatch.setattr(module._Cutter, "cut", lambda self, texts: calls.append(len(texts)) or counted(self, texts))

    def again(tokenizer: PreTrainedTokenizerFast = TOKENIZER, **change: object) -> tuple[Any, list[int]]:
        heard: list[int] = []
        found = cut_windows(rows, tokenizer, settings=chosen.model_copy(update=change), on_documents=heard.append)
        return (found[0].to_dict(), found[1]), heard

    first, heard = again()
    assert calls == heard == [2] and list((tmp_path / "cache").rglob("*.arrow"))
    TOKENIZER("what another caller wants", truncation=True, max_length=5)
    assert again() == (first, [2]) and calls == [2], "the second is read, and its progress told"
    assert again(aggregate="max")[0] == first and calls == [2], "what happens later is no reason to cut again"
    for change in ({"stride": 2}, {"boundary": "token"}, {"max_per_document": 1}, {"truncate": True}):
        before = len(calls)
        again(**change)
        assert len(calls) == before + 1, change
    again(tiny_tokenizer((*WORDS, "more")))
    monkeypatch.setattr(module, "code_version", lambda *files: "of an edited file")
    again()
    assert len(calls) == 7


def test_documents_without_a_token_are_refused_together() -> None:
    # The tokenizer drops control characters, so that only its own special tokens would be left.
    with pytest.raises(DataError) as error:
        cut(["word1", "\u200b\u200b", "word2", "\u0000"])
    assert [problem.where for problem in error.value.problems] == ["x.csv:3", "x.csv:5"]
    assert "leaves nothing" in str(error.value)


def test_a_stride_without_room_is_refused() -> None:
    tokenizer = tiny_tokenizer(WORDS)
    pair = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] [CLS] $A [SEP] [SEP]", special_tokens=pair
    )
    with pytest.raises(ModelError, match="holds 8"):
        cut(["word1 " * 99], tokenizer, max_tokens=12, stride=9)


def test_no_documents() -> None:
    windows, counts = cut([])
    assert windows == [] and counts.documents == counts.tokens == counts.longest_document_tokens == 0


def test_counts_are_json() -> None:
    _, counts = cut(["word1 " * 30], max_tokens=9, stride=3)
    told = json.loads(json.dumps(counts.to_json()))
    assert told["tokens"] == 32 and told["lengths"]["longest"] == 32


@pytest.mark.parametrize("how", ["mean", "mean_logits", "max"])
def test_window_predictions_come_back_to_their_documents(how: Any) -> None:
    random = np.random.default_rng(0)
    owner = np.array([2, 0, 1, 2, 2, 0])
    values = random.random((6, 3))
    merged = merge_windows(values, owner, documents=3, how=how)
    for document in range(3):
        expected = getattr(values[owner == document], how.removesuffix("_logits"))(axis=0)
        np.testing.assert_allclose(merged[document], expected)


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=9), seed=st.integers(0, 2**32 - 1))
def test_the_deciding_window_is_the_surest_of_the_documents_label(counts: list[int], seed: int) -> None:
    owner = np.repeat(np.arange(len(counts)), counts)
    values = np.random.default_rng(seed).integers(0, 4, size=(len(owner), 3)).astype(float)  # with many ties
    merged = merge_windows(values, owner, documents=len(counts), how="mean")
    found = deciding_windows(values, owner, merged=merged)
    expected = [int(values[owner == d, merged[d].argmax()].argmax()) for d in range(len(counts))]
    assert found.tolist() == expected


def test_passages_are_the_offsets_of_the_chosen_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 2)
    texts = [" ".join(WORDS[:length]) for length in (3, 30, 12, 25, 1)]
    table, _ = cut_windows(table_of(texts), TOKENIZER, settings=Windows(max_tokens=9, stride=3))
    chosen = np.array([len(row) - 1 for row in table["windows"]])
    found = passages(table, chosen)
    assert found.tolist() == [row[-1] for row in table["offsets"]]
    assert all(text.endswith(text[start:end]) for text, (start, end) in zip(texts, found, strict=True))


@pytest.fixture(autouse=True)
def tokenizer_unchanged() -> Iterator[None]:
    yield
    assert TOKENIZER.truncation_side == "right"
