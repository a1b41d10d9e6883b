"""Looks at the first rows of a table and guesses which column is the text, which the label, which the group.

A guess is a starting point for `finetune init`, never a setting of a run: whatever it finds is shown with the reason,
and what it does not find is said with the flag that names it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.data.encodings import TableFile
from finetune.data.examples import NUMBER, rows_of_file
from finetune.errors import Collector, DataError, Problem, did_you_mean, listed

MOST_ROWS = 20_000
MOST_LABELS = 200
LEAST_ROWS_PER_LABEL = 5
MOST_LABEL_CHARACTERS = 60
LONGEST_KEPT_VALUE = 200  # longer values are only counted, by their hash
SAMPLED_TEXTS = 200
SAMPLED_CHARACTERS = 400
LEAST_WORDS_OF_A_TEXT = 2
FEWEST_ROWS_OF_A_CLASS = 3  # one each for train, validation and test

ColumnKind = Literal["text", "whole numbers", "numbers", "true/false", "list", "chat", "other", "empty"]

TEXT_NAMES = {
    *("text", "review", "content", "body", "sentence", "comment", "document", "message", "description", "abstract"),
    *("article", "tweet", "post", "question", "query", "utterance", "正文", "内容", "評論", "评论", "文本", "句子"),
    *("文章", "评价", "留言"),
}
LABEL_NAMES = {
    *("label", "class", "category", "sentiment", "polarity", "star", "rating", "score", "topic", "intent", "emotion"),
    *("target", "type", "area", "genre", "tag", "section", "y", "标签", "類別", "类别", "分类", "情感", "类目", "标注"),
    *("星级", "评分"),
}
CLEAR_LABEL_NAMES = {
    *("label", "labels", "class", "category", "sentiment", "polarity", "stars", "rating", "intent", "emotion", "topic"),
    *("标签", "类别", "分类", "情感"),
}
GROUP_NAMES = {
    *("author", "user", "username", "customer", "patient", "speaker", "writer", "reviewer", "file", "filename", "path"),
    *("doc", "document", "source", "hotel", "product", "item", "movie", "business", "store", "session", "thread"),
    *("conversation", "dialog", "dialogue", "case", "url", "domain", "site", "publisher", "channel", "account"),
    *("group", "作者", "用户", "来源", "文件", "酒店", "商品", "会话", "文档", "店铺"),
}
ID_NAMES = {"id", "uuid", "guid", "key", "idx", "index", "rowid", "编号", "序号"}
NEVER_LABELS = {
    *("split", "fold", "date", "time", "year", "month", "day", "hour", "timestamp", "lang", "language", "length"),
    *("count", "vote", "like", "age", "price", "index", "idx", "id", "email", "phone", "日期", "时间", "语言"),
}
_WHOLE = re.compile(r"[+-]?\d+")
_WORDS_OF_A_NAME = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+")
_KANA, _HANGUL = re.compile("[\u3040-\u30ff]"), re.compile("[\uac00-\ud7af\u1100-\u11ff]")
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_UNSPACED = re.compile(f"{_KANA.pattern}|{_HANGUL.pattern}|{_HAN.pattern}")


@dataclass(frozen=True)
class ColumnFacts:
    """One column, in the rows looked at. `counts` is empty when more than 200 values differ."""

    name: str
    kind: ColumnKind
    filled: int
    distinct: int
    median_characters: int
    p95_characters: int
    median_words: float
    counts: Mapping[str, int]
    sample: tuple[str, ...]

    @cached_property
    def languages(self) -> dict[str, float]:
        """Two letters -> share of the texts, largest first; none where there is no word to tell by."""
        return languages_of(self.sample)

    @property
    def rows_per_value(self) -> float:
        return self.filled / max(1, self.distinct)


@dataclass(frozen=True)
class Guess:
    """What a table looks like. `problems` say what nothing fits; `notes` what reading brought to light.

    `rows` were looked at; `is_whole` tells whether these are all. `groups` and `ids` are candidates, best first.
    """

    path: Path
    rows: int
    is_whole: bool
    columns: tuple[ColumnFacts, ...]
    text: str | None
    label: str | None
    groups: tuple[str, ...]
    ids: tuple[str, ...]
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]

    def column(self, name: str) -> ColumnFacts:
        """Raises DataError for a column that is not there."""
        for column in self.columns:
            if column.name == name:
                return column
        names = [column.name for column in self.columns]
        hint = did_you_mean(name, names) or "Name one of these."
        raise DataError(self.path.name, f"no column '{name}'. Columns found: {listed(names)}", hint)

    @property
    def languages(self) -> dict[str, float]:
        return self.column(self.text).languages if self.text else {}


def guess_table(path: str | Path, base: Path | None = None) -> Guess:
    """Look at the first 20,000 rows of a table in any accepted format; a relative path starts at `base`.

    Raises DataError when the file cannot be read as it stands: what training would refuse is no start.
    """
    path = (base or Path()) / Path(path).expanduser()
    if path.is_dir():
        do = "Name one table in it; a folder of texts by class needs no recipe: finetune train FOLDER."
        raise DataError(str(path), "is a folder", do)
    if not path.is_file():
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(str(path), "no such file", did_you_mean(path.name, beside) or "Check the name and the folder.")
    file = TableFile(path=path, name=path.name, problems=Collector(DataError))
    columns: dict[str, _Column] = {}
    rows = 0
    for _, record in islice(rows_of_file(file, roles={}), MOST_ROWS + 1):
        rows += 1
        if rows > MOST_ROWS:
            break
        for name, value in record.items():
            if name:  # an index column without a name
                columns.setdefault(name, _Column()).add(value)
    file.problems.raise_if_any()
    facts = tuple(column.facts(name) for name, column in columns.items())
    if not facts:
        file.refuse("no row could be read")
    return _guess(path, facts, rows=min(rows, MOST_ROWS), is_whole=rows <= MOST_ROWS, notes=tuple(file.notes))


def cautions(guess: Guess, *, text: str, label: str) -> list[str]:
    """What will disturb a training on these two columns, each as a sentence."""
    texts, labels = guess.column(text), guess.column(label)
    found = []
    if missing := guess.rows - texts.filled:
        found.append(f"{missing:,} of {guess.rows:,} rows without {text}: drop_empty removes them, up to 5 in 100")
    if (missing := guess.rows - labels.filled) and labels.kind != "list":
        found.append(f"{missing:,} of {guess.rows:,} rows without {label}: fill them in, or remove them")
    rare = [name for name, count in labels.counts.items() if count < FEWEST_ROWS_OF_A_CLASS]
    if rare and guess.is_whole:
        shown = listed((f"'{name[:40]}'" for name in rare), most=5)
        found.append(f"classes with fewer than {FEWEST_ROWS_OF_A_CLASS} rows cannot be in every split: {shown}")
    if labels.distinct > MOST_LABELS:
        found.append(f"{label} has {labels.distinct:,} different values: is it free text, or an id?")
    if labels.distinct < 2:
        found.append(f"{label} has {labels.distinct} value: there is nothing to tell apart")
    return found


def languages_of(texts: Iterable[str]) -> dict[str, float]:
    """The share of the texts in each language, largest first: by script where that decides, else by py3langid.

    A text without letters has no language; `{}` when none has.
    """
    votes = Counter(language for text in texts if (language := _language(text)))
    return {language: count / votes.total() for language, count in votes.most_common()}


def _language(text: str) -> str | None:
    letters = sum(map(str.isalpha, text))
    if not letters:
        return None
    for code, script in (("ja", _KANA), ("ko", _HANGUL), ("zh", _HAN)):
        # Japanese is half kana, a Chinese text that quotes some is not; nor does one Chinese name make a text Chinese.
        if len(script.findall(text)) > 0.3 * letters:
            return code
    import py3langid  # reads its model when first used

    return str(py3langid.classify(text)[0])


@dataclass
class _Column:
    """Counts of one column, filled value by value."""

    filled: int = 0
    kinds: Counter[ColumnKind] = field(default_factory=Counter)
    counts: Counter[str | int] = field(default_factory=Counter)
    characters: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    sample: list[str] = field(default_factory=list)

    def add(self, value: object) -> None:
        kind, texts = _read(value)
        if kind == "empty":
            return
        self.filled += 1
        self.kinds[kind] += 1
        for text in texts:
            self.counts[text if len(text) <= LONGEST_KEPT_VALUE else hash(text)] += 1
        whole = " ".join(texts)
        self.characters.append(len(whole))
        self.words.append(len(whole.split()) + len(_UNSPACED.findall(whole[:10_000])))
        if len(self.sample) < SAMPLED_TEXTS:
            self.sample.append(whole[:SAMPLED_CHARACTERS])

    def facts(self, name: str) -> ColumnFacts:
        median, p95 = np.percentile(self.characters or [0], (50, 95), method="higher").tolist()
        few = len(self.counts) <= MOST_LABELS
        return ColumnFacts(
            name=name,
            kind=self._kind(),
            filled=self.filled,
            distinct=len(self.counts),
            median_characters=int(median),
            p95_characters=int(p95),
            median_words=float(np.median(self.words or [0])),
            counts={str(value): count for value, count in self.counts.most_common()} if few else {},
            sample=tuple(self.sample),
        )

    def _kind(self) -> ColumnKind:
        if not self.kinds:
            return "empty"
        if set(self.kinds) == {"whole numbers", "numbers"}:
            return "numbers"
        # Numbers among words are words: a title such as `1984` makes no column of numbers.
        return next(iter(self.kinds)) if len(self.kinds) == 1 else "list" if "list" in self.kinds else "text"


def _read(value: object) -> tuple[ColumnKind, list[str]]:
    """The kind of one value, and its text or texts."""
    if value is None or value != value:
        return "empty", []
    if isinstance(value, bool):
        return "true/false", [str(value).lower()]
    if isinstance(value, int):
        return "whole numbers", [str(value)]
    if isinstance(value, float):
        return "numbers", [str(value)]
    if (contents := _messages(value)) is not None:
        return "chat", contents
    if isinstance(value, list):
        return "list", [str(each).strip() for each in value]
    if not isinstance(value, str):
        return "other", []
    text = value.strip()
    if not text:
        return "empty", []
    if text.lower() in ("true", "false"):
        return "true/false", [text.lower()]
    if len(text) <= 40 and NUMBER.fullmatch(text):
        return "whole numbers" if _WHOLE.fullmatch(text) else "numbers", [text]
    return "text", [text]


def _messages(value: object) -> list[str] | None:
    """What is said in a chat: a list of {role, content}, or the JSON of one; None for any other value."""
    if isinstance(value, str):
        if not value.lstrip().startswith("[{"):
            return None
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(each, dict) and {"role", "content"} <= each.keys() for each in value):
        return None
    return [str(each["content"]).strip() for each in value]


def _guess(path: Path, columns: tuple[ColumnFacts, ...], *, rows: int, is_whole: bool, notes: tuple[str, ...]) -> Guess:
    text = _best(columns, key=_textness)
    rest = [column for column in columns if column is not text]
    label = _best(rest, key=lambda column: _labelness(column, rows=rows))
    rest = [column for column in rest if column is not label]
    fewest = label.distinct if label else 1
    groups = sorted((each for each in rest if _is_group(each, rows=rows, fewest=fewest)), key=_grouplikeness)
    ids = [each for each in rest if each.filled == rows == each.distinct and named_like(each.name, ID_NAMES)]
    seen = "" if is_whole else f" in the first {rows:,} rows"
    problems = [] if text else [_nothing_fits(path, columns, role="text", seen=seen)]
    rest = [each for each in columns if each is not text]
    problems += [] if label else [_nothing_fits(path, rest, role="label", seen=seen)]
    return Guess(
        path=path,
        rows=rows,
        is_whole=is_whole,
        columns=columns,
        text=text.name if text else None,
        label=label.name if label else None,
        groups=tuple(each.name for each in groups),
        ids=tuple(each.name for each in ids),
        notes=notes,
        problems=tuple(problems),
    )


def _best(columns: Iterable[ColumnFacts], *, key: Callable[[ColumnFacts], Any]) -> ColumnFacts | None:
    """The column with the highest score; none when every score is None."""
    scored = [(score, column) for column in columns if (score := key(column)) is not None]
    return max(scored, key=lambda item: item[0])[1] if scored else None


def _textness(column: ColumnFacts) -> float | None:
    """Free text is long and says something else in most rows."""
    words = column.median_words >= LEAST_WORDS_OF_A_TEXT
    if column.kind != "text" or not words or column.distinct < max(2, 0.1 * column.filled):
        return None
    return column.median_characters * (3 if named_like(column.name, TEXT_NAMES) else 1)


def _labelness(column: ColumnFacts, *, rows: int) -> tuple[int, int] | None:
    """Few different short values, each many times; a name such as `label` outweighs fewer values."""
    name = 2 * (column.name.lower() in LABEL_NAMES) + named_like(column.name, LABEL_NAMES)
    enough = 2 if name else LEAST_ROWS_PER_LABEL
    fits = 2 <= column.distinct <= MOST_LABELS and column.rows_per_value >= enough
    if not fits or column.filled < 0.5 * rows or column.median_characters > MOST_LABEL_CHARACTERS:
        return None
    if column.kind in ("other", "chat", "numbers"):
        return None
    if not name and (named_like(column.name, NEVER_LABELS | GROUP_NAMES) or column.kind == "list"):
        return None
    if not name and column.kind == "whole numbers" and column.distinct > 10:
        return None  # an age, a count
    return name, -column.distinct


def _is_group(column: ColumnFacts, *, rows: int, fewest: int) -> bool:
    """Values that come back, more of them than labels."""
    repeats = column.rows_per_value >= 2 and column.distinct > max(fewest, 2)
    named = named_like(column.name, GROUP_NAMES)
    likely = named or (column.kind == "text" and not named_like(column.name, NEVER_LABELS | LABEL_NAMES))
    return repeats and likely and column.kind in ("text", "whole numbers") and column.filled >= 0.5 * rows


def _grouplikeness(column: ColumnFacts) -> tuple[bool, int]:
    """Sorts names such as `author` first, then the finest division."""
    return not named_like(column.name, GROUP_NAMES), -column.distinct


def is_named_like_a_group(name: str) -> bool:
    return named_like(name, GROUP_NAMES)


def is_label_name(name: str) -> bool:
    """Whether the name leaves no doubt that a table is about its labels."""
    return name.lower() in CLEAR_LABEL_NAMES


def named_like(name: str, words: set[str]) -> bool:
    """Whether a word of the name is one of these, also in the plural."""
    parts = [part.lower() for part in _WORDS_OF_A_NAME.findall(name)]
    return any(part in words or part.removesuffix("s") in words for part in parts)


def _nothing_fits(path: Path, columns: Iterable[ColumnFacts], *, role: Literal["text", "label"], seen: str) -> Problem:
    found = listed(f"{each.name} ({_described(each)})" for each in columns) or "no other column"
    if role == "text":
        what = f"no column looks like a text: several words, different in most rows. Found{seen}: {found}"
        return Problem(path.name, what, "Name it with --text COLUMN.")
    what = f"no column looks like a label: few different values, each in many rows. Found{seen}: {found}"
    do = "Name it with --label COLUMN. Without labels a text can be learnt to be written: --task text-generation."
    return Problem(path.name, what, do)


def _described(column: ColumnFacts) -> str:
    return "empty" if column.kind == "empty" else f"{column.kind}, {column.distinct:,} different values"
