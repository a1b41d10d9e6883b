"""Cleaning steps that rewrite one text, each a function from text to text that changes nothing when applied again.

They need no table, so a finished model applies the same functions to a new text. To add a step, write a function,
enter it in TEXT_STEPS and give its name to CleaningName in recipe.py.
"""

from __future__ import annotations

import html
import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser

import ftfy
import opencc

TextStep = Callable[[str], str]

MOST_ROUNDS = 10


def fixed_unicode(text: str) -> str:
    """The text with mojibake repaired (ftfy), in NFKC, without NUL, control, bidirectional and zero-width characters.

    The joiners U+200C and U+200D stay where a script or an emoji needs them. Line ends become line feeds.
    """
    if text.isascii() and not _CONTROL_ASCII.search(text):
        return text  # nothing below can change it, and most English rows end here
    # One repair can uncover another: mojibake under a compatibility form, say. Repeating makes the step idempotent.
    for _ in range(MOST_ROUNDS):
        lines = _LINE_BREAKS.sub("\n", text).split("\n")
        repaired = "\n".join(line if line.isascii() else ftfy.fix_text(line, config=_FTFY) for line in lines)
        repaired = _without_invisible(unicodedata.normalize("NFKC", repaired))
        if repaired == text:
            break
        text = repaired
    return text


def stripped_html(text: str) -> str:
    """The text without tags and comments, scripts and styles with their content; entities become their characters.

    Block elements, table cells and `<br>` give a line break. A `<` that opens no HTML element is text: `a < b`, `<3`,
    `List<String>`. An entity needs its semicolon, so that the `&copy=1` of an address is no ©. Markup that was escaped,
    even twice (`&amp;lt;b&amp;gt;`), goes too, as it would when the step is applied again.
    """
    for _ in range(MOST_ROUNDS):
        if "<" not in text and "&" not in text:
            return text
        stripped = _ENTITY.sub(lambda found: html.unescape(found[0]), _ESCAPED_AMPERSAND.sub("&", _without_tags(text)))
        if stripped == text:
            return text
        text = stripped
    return _OPENING.sub("", text)  # nested deeper than any real page: what could still open markup goes


def stripped_urls(text: str) -> str:
    """The text without addresses: `http://`, `https://`, `ftp://` or `www.` and the ASCII characters that follow.

    An address ends at a character that no address has (RFC 3986, without square brackets); the full stop or round
    bracket that ends the sentence stays.
    """
    return _URL.sub("", text)


def masked_emails(text: str) -> str:
    """Every e-mail address becomes `[email]`."""
    return _EMAIL.sub("[email]", text) if "@" in text else text


def masked_numbers(text: str) -> str:
    """Every number becomes `[number]`, with its decimal point and separators; digits of a name (`mp3`) stay."""
    return _NUMBER.sub("[number]", text)


def stripped_control(text: str) -> str:
    """The text without the control, bidirectional and zero-width characters that fix_unicode removes."""
    if text.isascii() and not _CONTROL_ASCII.search(text):
        return text
    return _without_invisible(_LINE_BREAKS.sub("\n", text))


def stripped_punctuation(text: str) -> str:
    """Every run of punctuation (the Unicode categories P*) becomes one space, so that `and/or` stays two words.

    An apostrophe or a hyphen between two letters or digits stays: `don't`, `well-known`.
    """
    return _punctuation().sub(" ", text)


def lowered(text: str) -> str:
    """The text in lower case."""
    return text.lower()


def simplified_chinese(text: str) -> str:
    """Traditional Chinese characters become simplified ones (OpenCC, t2s)."""
    if text.isascii():
        return text
    # OpenCC reads UTF-8, which has no lone surrogates; one table entry leads to another (薴, 苧, 苎).
    text = _SURROGATES.sub("\ufffd", text)
    for _ in range(MOST_ROUNDS):
        simplified = str(_opencc().convert(text))
        if simplified == text:
            break
        text = simplified
    return text


def normalized_whitespace(text: str) -> str:
    """One space for every run inside a line, no space at line ends, at most one empty line, trimmed ends.

    Line breaks stay: paragraphs and list items carry meaning.
    """
    lines = (" ".join(line.split()) for line in text.splitlines())
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip()


def visible(text: str, most_characters: int = 160) -> str:
    """The text for a report: shortened, with every character that does not show written as its escape."""
    shown = text if len(text) <= most_characters else text[: most_characters - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


_CONTROL_ASCII = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_LINE_BREAKS = re.compile("\r\n|[\r\x0b\x0c\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0001-\U000e007f]"
)
# Persian, the Indic scripts, Mongolian and joined emoji are spelt with joiners; anywhere else they only hide.
_USELESS_JOINER = re.compile(
    "(?<![\u0600-\u109f\u1780-\u18af\u2190-\u2bff\ufb50-\ufdff\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]"
)
# Entities, quotes and terminal colours may be what the text is about; only damage is repaired.
_FTFY = ftfy.TextFixerConfig(
    unescape_html=False, remove_terminal_escapes=False, uncurl_quotes=False, normalization="NFKC", explain=False
)


def _without_invisible(text: str) -> str:
    return _USELESS_JOINER.sub("", _INVISIBLE.sub("", text))  # in this order: what hides before a joiner is no script


# Possessive (`*+`): a pattern that fails is given up at once, so a megabyte of `<a <a <a` takes no longer than prose.
_BLOCK = (
    "address|article|aside|blockquote|body|br|button|caption|center|dd|details|dialog|dir|div|dl|dt|fieldset|figcaption|"
    "figure|footer|form|frameset|h[1-6]|head|header|hgroup|hr|html|legend|li|main|menu|nav|ol|optgroup|option|p|pre|"
    "search|section|select|summary|table|tbody|td|template|textarea|tfoot|th|thead|title|tr|ul"
)
_INLINE = (
    "a|abbr|acronym|applet|area|audio|b|base|basefont|bdi|bdo|big|canvas|cite|code|col|colgroup|data|datalist|del|dfn|em|"
    "embed|font|frame|i|iframe|img|input|ins|kbd|label|link|map|mark|marquee|meta|meter|nobr|noframes|noscript|object|"
    "output|param|picture|progress|q|rp|rt|ruby|s|samp|slot|small|source|span|strike|strong|sub|sup|svg|time|track|tt|u|"
    "var|video|wbr"
)
_IS_BLOCK = re.compile(_BLOCK)
_ELEMENT = rf"/?(?:(?P<script>script)|(?P<style>style)|{_BLOCK}|{_INLINE})(?=[\s/>])"
_ATTRIBUTES = r"""(?:[^<>"']|"[^"<]*+"|'[^'<]*+')*+"""
_MARKUP = re.compile(
    rf"<(?:/(?:script|style)\s*+>|{_ELEMENT}{_ATTRIBUTES}>|!doctype\s[^<>]*+>|\?xml[^<>]*+>|(?P<comment>!--))",
    re.IGNORECASE,
)
_RAW_END = re.compile(r"</(?P<script>script)\s*+>|</(?P<style>style)\s*+>|(?P<comment>-->)", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_ESCAPED_AMPERSAND = re.compile(r"&(?:(?:amp|AMP|#0{0,5}38|#[xX]0{0,4}26);)+")
_OPENING = re.compile(r"[<&]+(?=[A-Za-z#/!?])")


class _TextOfHtml(HTMLParser):
    """Collects the text; a block element breaks the line, and scripts and styles say nothing."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._breaks = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._breaks |= _IS_BLOCK.fullmatch(tag) is not None

    def handle_endtag(self, tag: str) -> None:
        self._breaks |= _IS_BLOCK.fullmatch(tag) is not None

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in ("script", "style"):
            return
        if self._breaks and self.parts and not self.parts[-1].endswith("\n") and not data.startswith("\n"):
            self.parts.append("\n")
        self._breaks = False
        self.parts.append(data)


def _without_tags(text: str) -> str:
    """The text without markup, its entities as they were written."""
    if not _MARKUP.search(text):
        return text
    last_end = {found.lastgroup: found.start() for found in _RAW_END.finditer(text)}
    pieces, end = [], 0
    for found in _MARKUP.finditer(text):
        # The parser swallows all that follows a comment or a script without an end: such an opening is text.
        opens = found.lastgroup is None or last_end.get(found.lastgroup, -1) > found.start()
        pieces += [_escaped(text[end : found.start()]), found[0] if opens else _escaped(found[0])]
        end = found.end()
    parser = _TextOfHtml()
    parser.feed("".join([*pieces, _escaped(text[end:])]))
    parser.close()
    return "".join(parser.parts)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


# Only ASCII: a Chinese sentence goes on right behind an address.
_URL = re.compile(
    r"(?:(?:https?|ftp)://|(?<![A-Za-z0-9@.-])www\.(?=[A-Za-z0-9]))[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]*[A-Za-z0-9/=_&#%~+$@*-]",
    re.IGNORECASE,
)
# The look-behind lets a match start only where a run of these characters starts, so that each is looked at once.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}+@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_NUMBER = re.compile(r"(?<![A-Za-z_\d])\d++(?:[.,]\d++)*+")


@cache
def _punctuation() -> re.Pattern[str]:
    marks = (chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)).startswith("P"))
    inside_a_word = r"(?<=[^\W_])['’‐‑-](?=[^\W_])"
    return re.compile(rf"(?:(?!{inside_a_word})[{re.escape(''.join(marks))}])+")


@cache
def _opencc() -> opencc.OpenCC:
    return opencc.OpenCC("t2s")


TEXT_STEPS: dict[str, TextStep] = {
    "fix_unicode": fixed_unicode,
    "strip_html": stripped_html,
    "strip_urls": stripped_urls,
    "mask_emails": masked_emails,
    "mask_numbers": masked_numbers,
    "strip_control": stripped_control,
    "strip_punctuation": stripped_punctuation,
    "lowercase": lowered,
    "simplify_chinese": simplified_chinese,
    "normalize_whitespace": normalized_whitespace,
}
