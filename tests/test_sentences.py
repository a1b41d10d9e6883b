"""Ends of sentences and paragraphs: in English, in Chinese, and in Chinese after NFKC has made its marks ASCII."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.sentences import breaks, token_breaks


def pieces(text: str) -> list[str]:
    """The text cut at every break, without the space between."""
    found, start = [], 0
    for stop, resume, _ in breaks(text):
        found.append(text[start:stop])
        start = resume
    return [*found, text[start:]] if text[start:] else found


CHINESE = ["他说：“走吧！”", "今天好吗？", "好（真的）；", "我想……", "然后就走了。"]


@pytest.mark.parametrize(
    "sentences",
    [
        ["One is 3.5 or .7 of it.", "Two?", 'He said "no."', "(See J. Smith, e.g. page 4.)", "Really?!", "Yes..."],
        ["Visit www.a.com/b?c=d now!", "The U.S. army came.", "Then it ended"],
    ],
)
def test_english_sentences(sentences: list[str]) -> None:
    assert pieces(" ".join(sentences)) == sentences


def test_chinese_sentences_need_no_space() -> None:
    assert pieces("".join(CHINESE)) == CHINESE


def test_chinese_sentences_after_nfkc() -> None:
    normal = [unicodedata.normalize("NFKC", sentence) for sentence in CHINESE]
    assert normal[1].endswith("?") and normal[3].endswith("......")
    assert pieces("".join(normal)) == normal


def test_paragraphs() -> None:
    text = "Title\n\n  First one. Second.\nThird"
    assert [(text[:stop].split()[-1], paragraph) for stop, _, paragraph in breaks(text)] == [
        ("Title", True), ("one.", False), ("Second.", True),
    ]  # fmt: skip


def test_a_token_over_a_break_is_not_cut() -> None:
    text = "Yes. No. Go\n\nhome"
    offsets = [(0, 3), (3, 4), (4, 10), (10, 13), (13, 17)]  # the third holds " No. G" and the fourth "o\n\n"
    assert token_breaks(text, offsets) == ([2], [4])
    assert token_breaks(text, [(0, len(text))]) == ([], [])


@given(text=st.text(alphabet="aB1 .!?;。！…\n\"')”中3", max_size=60))
def test_breaks_are_in_order_and_leave_nothing_out(text: str) -> None:
    places = [place for stop, resume, _ in breaks(text) for place in (stop, resume)]
    assert places == sorted(places)
    assert "".join("".join(pieces(text)).split()) == "".join(text.split())


@pytest.mark.parametrize("unit", [" ", ".", "!", '"', "\n", ". ", "中!", ".a", " \n", "..”a"])
def test_time_grows_with_the_length_only(unit: str) -> None:
    started = time.process_time()
    for _ in breaks(unit * 100_000 + "a"):
        pass
    assert time.process_time() - started < 5
