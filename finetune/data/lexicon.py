"""Lexicons: which words may stand for which others, from a user's own file or a public wordnet.

Four layouts are read, each recognised by what it holds:

    good,fine,decent              a user's .csv or .txt, or a .tsv with tabs: the word may become each synonym, one way
    Aa01A01= 人 士 人物           Cilin: a class with `=` holds synonyms, `#` (related) and `@` (alone) do not
    00001740-a  cmn:lemma  能干   Open Multilingual Wordnet, with tabs: the words of one synset are synonyms
    a folder with data.noun ...   WordNet as Princeton and Debian's wordnet-base ship it: the same
"""

from __future__ import annotations

import csv
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.encodings import TableFile, detect_encoding
from finetune.errors import Collector, DataError, listed

WHERE = "augmentation.lexicon"
# Chinese and Japanese are written without spaces between words.
UNSPACED = (
    "\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Vowel signs and accents that \w leaves out, though they are parts of words: Hebrew, Arabic, the Indic scripts, Thai.
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u0900-\u0963\u0966-\u0df3\u0e31-\u0e4e"
    "\u0eb1-\u0ece\u0f18-\u0f84\u102b-\u109d\u17b4-\u17d3\u200c\u200d"
)
_LETTER = f"(?:[^\\W{UNSPACED}]|[{_MARKS}])"
# A word between spaces keeps its inner hyphen, apostrophe or point (well-known, don't, 3.5); a run without spaces is
# one match, to be cut into words by the lexicon.
WORDS = re.compile(f"[{UNSPACED}]+|{_LETTER}+(?:[-'’.]{_LETTER}+)*")
UNSPACED_RUN = re.compile(f"[{UNSPACED}]+")
_CILIN = re.compile(r"[A-Z][a-z]\d\d[A-Z]\d\d([=#@])")
_OMW = re.compile(r"\d{8}-[nvars]\t")
_ADJECTIVE_PLACE = re.compile(r"\((?:a|p|ip)\)$")
_WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_WORDNET_WORDS = re.compile(r"\d{8} \d\d [nvasr] ([0-9a-f]{2}) ")


@dataclass(frozen=True)
class Lexicon:
    """Synonyms by word. `sha256` is of the files' bytes; `unspaced_words` are all words in scripts without spaces.

    Words of a public lexicon with spaces or signs in them are never looked up, but may be synonyms.
    """

    name: str = ""
    sha256: str = ""
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unspaced_words: frozenset[str] = frozenset()
    longest_unspaced: int = 1
    notes: tuple[str, ...] = ()

    def of(self, word: str) -> tuple[str, ...]:
        """The synonyms of a word as it stands, or else of its lower case; none if unknown."""
        return self.synonyms.get(word) or self.synonyms.get(word.lower(), ())


def load_lexicon(name: str, *, base: Path) -> Lexicon:
    """Read a lexicon file or a WordNet folder; a relative name starts at `base`.

    Encodings are those of tables. Blank lines and lines that begin with # are skipped.
    A word on several lines has the synonyms of all. Of a wordnet every sense of a word counts; English stop words,
    single letters and numbers are not looked up in WordNet, where `in` is indium. Raises DataError with all problems.
    """
    path = base / Path(name).expanduser()
    problems = Collector(DataError)
    try:
        if path.is_dir():
            files = _wordnet_files(path, name, problems)
            synonyms = _collected(entry for file in files for entry in _wordnet(_lines(file), file))
        else:
            files = [TableFile(path=path, name=name, problems=problems)]
            synonyms = _collected(_entries(_lines(files[0]), files[0]))
    except FileNotFoundError:
        raise DataError(WHERE, f"no such file or folder: {name}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(WHERE, f"cannot read {name} ({getattr(error, 'strerror', None) or error})") from None
    problems.raise_if_any()
    if not synonyms:
        raise DataError(WHERE, f"{name} holds no synonyms", "Write lines of a word and its synonyms: good,fine,decent.")
    known = {word for head, others in synonyms.items() for word in (head, *others) if UNSPACED_RUN.fullmatch(word)}
    return Lexicon(
        name=name,
        sha256=hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest(),
        synonyms=synonyms,
        unspaced_words=frozenset(known),
        longest_unspaced=max(map(len, known), default=1),
        notes=tuple(note for file in files for note in file.notes),
    )


Line = tuple[int, str]  # 1-based number, text
Entry = tuple[str, Iterable[str]]  # a word and its synonyms


def _collected(entries: Iterable[Entry]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}  # the inner one is an ordered set
    for word, others in entries:
        if WORDS.fullmatch(word):
            found.setdefault(word, {}).update((other, None) for other in others if other != word)
    return {word: tuple(others) for word, others in found.items() if others}


def _lines(file: TableFile) -> list[Line]:
    """The lines that say something."""
    file.measure()
    file.encoding = detect_encoding(file, asked=None)
    with file.text() as stream:
        lines = [(number, line.rstrip("\r\n")) for number, line in enumerate(stream, start=1)]
    return [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]


def _entries(lines: list[Line], file: TableFile) -> Iterator[Entry]:
    first = lines[0][1] if lines else ""
    if _CILIN.match(first):
        return _cilin(lines, file)
    if _OMW.match(first) or file.path.suffix == ".tab":
        return _open_multilingual(lines, file)
    return _users(lines, file, separator="\t" if file.path.suffix == ".tsv" else ",")


def _users(lines: list[Line], file: TableFile, *, separator: str) -> Iterator[Entry]:
    for number, line in lines:
        try:
            word, *others = [cell.strip() for cell in next(csv.reader([line], delimiter=separator, strict=True))]
        except csv.Error as error:
            file.problems.add(file.at(number), f"a quote is wrong ({error})", "Leave the quotes out.")
            continue
        if not others:
            remedy = f"Write: {separator.join(('good', 'fine', 'decent'))}."
            file.problems.add(file.at(number), f"one word, no synonym. Found: {word}", remedy)
        elif not word or not all(others):
            file.problems.add(file.at(number), f"an empty field. Found: {line}", "Remove the separator too many.")
        elif not WORDS.fullmatch(word):
            what = f"'{word}' is not one word, and only single words are looked up"
            file.problems.add(file.at(number), what, "Phrases may be synonyms, not the first field.")
        elif word in others:
            file.problems.add(file.at(number), f"'{word}' is its own synonym", "Remove one of the two.")
        else:
            yield word, others


def _cilin(lines: list[Line], file: TableFile) -> Iterator[Entry]:
    for number, line in lines:
        if not (code := _CILIN.match(line)):
            file.problems.add(file.at(number), f"no Cilin code. Found: {line[:40]}", "Write lines like Aa01A01= 人 士.")
        elif code[1] == "=":
            yield from _class(line[code.end() :].split())


def _open_multilingual(lines: list[Line], file: TableFile) -> Iterator[Entry]:
    """Lines `synset<TAB>type<TAB>word`; a type `cmn:lemma` or `lemma` gives a word, definitions and examples do not."""
    synsets: dict[str, list[str]] = {}
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) < 3 or not _OMW.match(line):
            what = f"not a synset, a type and a word with tabs between. Found: {line[:40]}"
            file.problems.add(file.at(number), what)
        elif fields[1].split(":")[-1] == "lemma":
            # Some words carry a plus before their particle (健康+的), which no text does.
            synsets.setdefault(fields[0], []).append(fields[2].replace("_", " ").replace("+", "").strip())
    for words in synsets.values():
        yield from _class(words)


def _wordnet_files(folder: Path, name: str, problems: Collector) -> list[TableFile]:
    if missing := [file for file in _WORDNET_FILES if not (folder / file).is_file()]:
        remedy = "Name a lexicon file, or the folder of WordNet's data files (dict, or /usr/share/wordnet)."
        raise DataError(WHERE, f"{name} is a folder without {listed(missing)}", remedy)
    return [TableFile(path=folder / file, name=f"{name}/{file}", problems=problems) for file in _WORDNET_FILES]


def _wordnet(lines: list[Line], file: TableFile) -> Iterator[Entry]:
    """Synsets: offset, file number, type, count in hexadecimal, then word and sense number, word and sense number ...

    wndb(5WN) describes them; NLTK's reader refuses a folder without `lexnames`, which Debian's has not.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    for number, line in lines:
        if line.startswith("  "):
            continue  # the licence
        if not (start := _WORDNET_WORDS.match(line)):
            file.problems.add(file.at(number), f"not a synset of WordNet. Found: {line[:40]}")
            continue
        fields = line[start.end() :].split(" ", 2 * int(start[1], 16))[:-1:2]
        # An adjective may be followed by its place: galore(ip). A phrase has underscores for spaces.
        words = [_ADJECTIVE_PLACE.sub("", word).replace("_", " ") for word in fields]
        for word, others in _class(words):
            if len(word) > 1 and not word[0].isdigit() and word.lower() not in ENGLISH_STOP_WORDS:
                yield word, others


def _class(words: list[str]) -> Iterator[Entry]:
    """Words that all mean the same: each has the others as synonyms."""
    words = [word for word in words if word]
    for word in words if len(words) > 1 else ():
        yield word, words
