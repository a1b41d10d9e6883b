"""A file on the disk -> its characters, decoded strictly: a byte that fits no encoding is refused, never replaced.

Any bytes are some Latin-1 or GB18030 text, so what was meant is found out in a fixed order and stated.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from finetune.errors import Collector, DataError

BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
                    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
CHUNK_BYTES = 1 << 20
MOST_PROBLEMS_KEPT = 1000  # a file with more is not worth reading to its end
# Genuine GB18030 is mostly GB2312 characters (simplified 1.0, traditional poems .71); Big5 read as GB18030 has .35
# and Latin-1 at most .5, so below this share a file that happens to decode is refused instead of garbled.
LEAST_COMMON_SHARE = 0.6
# Korean and Japanese of their own encodings decode as GB2312 characters too, but as rare ones: of theirs .02, .03 are
# among these, of Chinese ones .29 to .35 (news, reviews) or .17 to .19 (poems, traditional ones included).
FREQUENT = frozenset(
    "的一是不了在人有我他这中大来上个国和说地到为子时道出而要于就下得可你年生自会那后能对着事其里所去行过"
    "家十用发天如然作方成者多日都三小军二无同么经法当起与好看学进种将还分此心前面又定见只主没公从山水风花"
    "月春何云江這來個說為時會後對裡過發無當學還見從風雲"
)
LEAST_FREQUENT_SHARE = 0.05
FEWEST_FOR_A_SHARE = 30  # of fewer characters beyond ASCII a share says nothing
# UTF-16 writes the comma and the line end of any language as one NUL and one ASCII byte, always in the same order.
LEAST_SAME_SIDE_SHARE = 0.95
NUL_SHARE_OF_ASCII = 0.2  # more than any dirt; half of the bytes where the text is English


@dataclass
class TableFile:
    """A file (or a folder of texts) to read, what messages call it, and what reading it brings to light."""

    path: Path
    name: str
    problems: Collector
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    encoding: str = "utf-8"
    sha256: str = ""
    made_of: str = ""  # what decides the rows of a corpus, known before they are made
    bytes: int = 0
    rows: int = 0
    stamp: tuple[int, int] | None = None

    @property
    def zipped(self) -> bool:
        return self.path.suffix.lower() == ".gz"

    @property
    def is_hopeless(self) -> bool:
        return len(self.problems.problems) >= MOST_PROBLEMS_KEPT

    def at(self, position: int | str) -> str:
        """`reviews.csv:3`; a text of a folder is `reviews/good/3.txt`."""
        return f"{self.name}:{position}" if isinstance(position, int) else f"{self.name}/{position}"

    def note(self, text: str) -> None:
        self.notes.append(f"{self.name}: {text}")

    def refuse(self, what: str, do: str = "", *, position: int | None = None) -> NoReturn:
        """Nothing more can be read from this file."""
        raise DataError(self.at(position) if position else self.name, what, do)

    def measure(self) -> None:
        """Sets bytes and sha256. Raises OSError."""
        self.stamp = self._stamp()
        self.bytes = self.stamp[0]
        with self.path.open("rb") as stream:
            self.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()

    def has_changed(self) -> bool:
        """Whether the file is another than the one that was measured, or gone."""
        try:
            return self.stamp is not None and self.stamp != self._stamp()
        except OSError:
            return True

    def _stamp(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def open(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self.path)) if self.zipped else self.path.open("rb")

    def text(self) -> io.TextIOWrapper:
        # newline="" leaves line ends inside quotes alone, and still ends a line at \n, \r\n or a lone \r.
        return io.TextIOWrapper(self.open(), encoding=self.encoding, errors="strict", newline="")


def detect_encoding(file: TableFile, *, asked: str | None) -> str:
    """The codec that reads the file strictly: a byte order mark, UTF-8, then GB18030. Raises DataError for all else.

    `asked` is the encoding that the recipe names: it wins, unless the file is plainly something else. What is not
    plain UTF-8 is noted.
    """
    with file.open() as stream:
        head = stream.read(CHUNK_BYTES)
    marked = next((codec for mark, codec in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
    codec = marked or "utf-8"
    is_valid, plain = _decodes(file, codec=codec)
    if asked is not None:
        return _asked_encoding(file, asked=asked, valid=codec, is_valid=is_valid, plain=plain)
    if marked is None and (order := _unmarked_utf16(head)):
        remedy = f"Set data.encoding: {order}, or save it as UTF-8."
        file.refuse("looks like UTF-16 without a byte order mark", remedy)
    if is_valid:
        if not codec.startswith("utf-8"):
            file.note(f"read as {codec.upper()}")
        return codec
    if marked is None and _is_gb18030(file):
        file.note("read as GB18030")
        return "gb18030"
    line, column, byte = _first_failure(file, codec=codec)
    what = f"byte 0x{byte:02X} at column {column} is not {marked.upper() if marked else 'UTF-8 (nor GB18030)'}"
    file.refuse(
        what,
        "Convert the file to UTF-8, or name its encoding, such as data.encoding: latin-1, cp1251 or euc-kr.",
        position=line,
    )


def _asked_encoding(file: TableFile, *, asked: str, valid: str, is_valid: bool, plain: bool) -> str:
    try:
        info = codecs.lookup(asked)
        "".encode(asked)
    except (LookupError, UnicodeError, ValueError):
        remedy = "Write utf-8, gb18030 or latin-1."
        raise DataError("data.encoding", f"'{asked}' is not a text encoding", remedy) from None
    same = info.name in (valid, codecs.lookup(valid).name, valid.removesuffix("-sig"))
    if is_valid and not plain and not same:
        # Any bytes are some Chinese or Latin-1 text: only this check tells mojibake from what was meant.
        what = f"the file is valid {valid.removesuffix('-sig').upper()}, but data.encoding is {asked}"
        file.refuse(what, "Remove the encoding.")
    codec = valid if same else asked
    if not _decodes(file, codec=codec)[0]:
        line, column, byte = _first_failure(file, codec=codec)
        file.refuse(f"byte 0x{byte:02X} at column {column} is not {asked}", "Correct the encoding.", position=line)
    if info.name != "utf-8":
        file.note(f"read as {asked}")
    return codec


def _decodes(file: TableFile, *, codec: str) -> tuple[bool, bool]:
    """Whether every byte decodes, and whether all was plain ASCII."""
    decoder, plain = codecs.getincrementaldecoder(codec)("strict"), True
    with file.open() as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError:
                return False, False
            plain = plain and text.isascii()
            if not chunk:
                return True, plain


def _first_failure(file: TableFile, *, codec: str) -> tuple[int, int, int]:
    """(line, column in characters, byte) of the first byte of a file that does not decode."""
    decoder = codecs.getincrementaldecoder(codec)("strict")
    line, tail = 1, ""
    with file.open() as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                *ended, tail = re.split("\r\n|\r|\n", tail + error.object[: error.start].decode(codec, "ignore"))
                return line + len(ended), len(tail) + 1, error.object[error.start]
            # A carriage return at the very end may be half of a line end: it waits for the next chunk.
            *ended, tail = re.split("\r\n|\n|\r(?!$)", tail + text)
            line += len(ended)


def _unmarked_utf16(head: bytes) -> str | None:
    """utf-16-le or utf-16-be where the NUL bytes of a file's beginning all stand on one side of a pair."""
    nul = head.count(0)
    if nul < 2:
        return None
    share_of_second = head[1::2].count(0) / nul
    for codec, share, line_end in (
        ("utf-16-le", share_of_second, b"\n\0"),
        ("utf-16-be", 1 - share_of_second, b"\0\n"),
    ):
        if share >= LEAST_SAME_SIDE_SHARE and (line_end in head or nul > NUL_SHARE_OF_ASCII * len(head)):
            return codec
    return None


def _is_gb18030(file: TableFile) -> bool:
    common = wide = frequent = 0
    try:
        with io.TextIOWrapper(file.open(), encoding="gb18030", errors="strict") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                characters = re.sub("[\x00-\x7f]+", "", chunk)
                wide += len(characters)
                common += len(characters.encode("gb2312", "ignore")) // 2
                frequent += sum(character in FREQUENT for character in characters)
    except UnicodeDecodeError:
        return False
    is_chinese = frequent >= LEAST_FREQUENT_SHARE * wide or wide < FEWEST_FOR_A_SHARE
    return is_chinese and common >= LEAST_COMMON_SHARE * wide
