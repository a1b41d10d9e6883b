"""Text steps: what each one changes, what it leaves alone, that once is enough, and that a megabyte is soon done."""

from __future__ import annotations

import time
from html import unescape

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from finetune.cleaning_steps import DEFAULT_CLEANING, CleaningStep
from finetune.data.cleaning import clean_text
from finetune.data.text_steps import (
    TEXT_STEPS,
    fixed_unicode,
    lowered,
    masked_emails,
    masked_numbers,
    normalized_whitespace,
    simplified_chinese,
    stripped_control,
    stripped_html,
    stripped_punctuation,
    stripped_urls,
    visible,
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("schÃ¶n", "schön"),
        ("plain\nschÃ¶n\nplain", "plain\nschön\nplain"),
        ("a\x00b", "ab"),
        ("\u202eevil\u202c", "evil"),
        ("\ufeffze\u200bro\u00ad", "zero"),
        ("ab\u200dc", "abc"),
        ("ＡＢＣ１２３", "ABC123"),
        ("one\r\ntwo\rthree\x0cfour", "one\ntwo\nthree\nfour"),
    ],
)
def test_fix_unicode_repairs(before: str, after: str) -> None:
    assert fixed_unicode(before) == after


@pytest.mark.parametrize("text", ["می\u200cخواهم", "👩\u200d💻", "今天很好", "&lt;b&gt; “quoted”\tx", "naïve café"])
def test_fix_unicode_leaves_alone(text: str) -> None:
    assert fixed_unicode(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<p>Hello <b>world</b></p><p>next<br/>line</p>", "Hello world\nnext\nline"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a\nb"),
        ("x<!-- a <b>comment</b> -->y", "xy"),
        ("<script>if (a<b) {}</script>kept<STYLE>p {}</STYLE>", "kept"),
        ("<!DOCTYPE html><html><head><title>T</title></head><body>B</body></html>", "T\nB"),
        ("<a href='x>y' title=\"z\">link</a>", "link"),
        ("AT&amp;T &copy; &#20013;&#x6587;", "AT&T © 中文"),
        ("&lt;b&gt;bold&lt;/b&gt; &amp;amp;lt;br&amp;amp;gt;x", "bold \nx"),
        ("1 &lt; 2", "1 < 2"),
        ("  kept  space &amp; all ", "  kept  space & all "),
    ],
)
def test_strip_html_leaves_the_text(before: str, after: str) -> None:
    assert stripped_html(before) == after


@pytest.mark.parametrize(
    "text",
    ["a < b and c > d", "I <3 you", "List<String> x; i<n;", "?a=1&copy=2&section=3", "Q&A; R&D", "<!-- no end",
     '<b "no end of the quote>', "<script> without an end", "<john@example.com>", "&unknown; &;", "<b", "1 <2> 3"],
)  # fmt: skip
def test_strip_html_leaves_what_is_no_markup(text: str) -> None:
    assert stripped_html(text) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("see http://a.b/c?d=e&f=g. Then", "see . Then"),
        ("(HTTPS://x.y/z), www.foo.com!", "(), !"),
        ("请访问http://t.cn/abc谢谢", "请访问谢谢"),
        ("[site]:www.foo.com[wap] <http://x.y>", "[site]:[wap] <>"),
        ("ftp://a/b/ 'http://q'", " ''"),
        ("http:// www. awww.x example.com", "http:// www. awww.x example.com"),
    ],
)
def test_strip_urls(before: str, after: str) -> None:
    assert stripped_urls(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Write to a.b+c@d-e.co.uk.", "Write to [email]."),
        ("邮箱abc@qq.com谢谢", "邮箱[email]谢谢"),
        ("x@y @me a@b. user@host.c0m", "x@y @me a@b. user@host.c0m"),
    ],
)
def test_mask_emails(before: str, after: str) -> None:
    assert masked_emails(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("3.14, 1,000,000 and 5kg.", "[number], [number] and [number]kg."),
        ("共3个，２０２０年", "共[number]个，[number]年"),
        ("mp3 H2O x_1 python3", "mp3 H2O x_1 python3"),
        ("2020-05-01 at 12:30", "[number]-[number]-[number] at [number]:[number]"),
    ],
)
def test_mask_numbers(before: str, after: str) -> None:
    assert masked_numbers(before) == after


def test_strip_control_changes_nothing_that_shows() -> None:
    assert stripped_control("a\x00\x07b\u202ec\u200bd\r\ne\u2028f ＡﬁÃ¶\t“x”") == "abcd\ne\nf ＡﬁÃ¶\t“x”"
    assert stripped_control("می\u200cخواهم 👩\u200d💻 ab\u200dc") == "می\u200cخواهم 👩\u200d💻 abc"
    assert stripped_control("a\u061c\u200db") == "ab"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Don't stop, it’s well-known!", "Don't stop  it’s well-known "),
        ("and/or snake_case «x» ... y", "and or snake case  x    y"),
        ("你好，世界。", "你好 世界 "),
        ("'quoted' -- 1-2 a+b <c> $5", " quoted    1-2 a+b <c> $5"),
    ],
)
def test_strip_punctuation(before: str, after: str) -> None:
    assert stripped_punctuation(before) == after


def test_lowercase_and_simplified_chinese() -> None:
    assert lowered("ÄBC Straße ΣΑΣ") == "äbc straße σας"
    assert simplified_chinese("漢字簡體，後來 abc") == "汉字简体，后来 abc"
    assert simplified_chinese("薴") == "苎"
    assert simplified_chinese("plain") == "plain"


def test_whitespace_keeps_paragraphs() -> None:
    assert normalized_whitespace("  a \t b\u3000c \r\n\n\n\n d\n") == "a b c\n\nd"


PIECES = st.sampled_from(
    ["<", ">", "<b>", "</p>", "<br", "<!--", "-->", "<script>", "</script>", "&", "&amp;", "amp;", "&lt;", "lt;",
     "&#38;", "#60;", '"', "'", "=", "/", "!", "http", "https://", "://", "www.", ".", "a", "x.co", "@", "[email]", "1",
     "２", ",", "-", "’", "_", "漢", "薴", "İ", "Σ", "Ã", "©", "Ã©", "â€™", "\x00", "\u200d", "\u200c", "\u200b",
     "\u061c", "\u202e", "😀", "\x85", "\u2028", "ﬁ", "\r", "\n", " ", "\u3000"]
)  # fmt: skip
MESSY = st.one_of(st.lists(PIECES, max_size=30).map("".join), st.text())


@pytest.mark.parametrize("name", TEXT_STEPS)
@given(text=MESSY)
@example(text="<" * 30 + "b" + ">b" * 30)
@example(text="&amp;" * 30 + "lt;b>")
@example(text="&" + "#38;" * 30 + "lt;b>")
def test_a_step_applied_again_changes_nothing(name: str, text: str) -> None:
    once = TEXT_STEPS[name](text)
    assert TEXT_STEPS[name](once) == once


@given(text=MESSY)
@example(text="<.b>")
@example(text="<\u200bb> &am\u200bp;lt;b&gt; http:\u200b//x 1\u200b2@x.co")
def test_the_default_chain_and_the_chain_of_all_steps_applied_again_change_nothing(text: str) -> None:
    for names in (DEFAULT_CLEANING, TEXT_STEPS):
        chain = [CleaningStep(name=name) for name in names]
        once = clean_text(text, chain)
        assert clean_text(once, chain) == once


@given(text=st.text(alphabet="ab <>&;3c=\n", max_size=60))
def test_strip_html_keeps_every_character_of_a_text_without_markup(text: str) -> None:
    assume(not any(tag in text for tag in ("<b>", "<b ", "<a", "<b\n")) and unescape(text) == text)  # as &ac; is a sign
    assert stripped_html(text) == text


HARD = ["<", "<a ", '<b "', "<!--", "&amp;", "&lt;", "<<b>b>", "<p><", "<div>", "<script>", "</script>", "http://a.",
        "www.", "a", "a@", "a.a@a.", "1", "1,", "'", "-", "\u200d", "漢", "\n", " ", "Ã©", "\x00", "\r"]  # fmt: skip


@pytest.mark.parametrize("name", TEXT_STEPS)
def test_no_text_takes_more_than_linear_time(name: str) -> None:
    # 100,000 characters take tens of milliseconds; with one quadratic pattern they would take minutes.
    for piece in HARD:
        started = time.process_time()
        TEXT_STEPS[name](piece * (100_000 // len(piece)))
        assert time.process_time() - started < 2, piece


def test_visible_writes_what_does_not_show() -> None:
    assert visible("a\u202eb\n中") == "a\\u202eb\\n中"
    assert len(visible("x" * 500)) == 160
