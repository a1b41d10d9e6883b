"""What a recipe names as its source -> the files, folders of texts, corpora and Hub splits to read for each split.

A name that could be a file is never looked up on the Hub, and no file is read twice.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from finetune.data.hub_datasets import dataset_rows, fetch_dataset
from finetune.data.tables import ACCEPTED, Record, format_of
from finetune.data.text_folders import SPLIT_NAMES, holds_texts, is_text, split_folders
from finetune.errors import Collector, DataError, did_you_mean, listed
from finetune.recipe_data import SPLITS

Source = str | list[str] | dict[str, str | list[str]]
Corpora = Mapping[str, Callable[[], Iterable[Mapping[str, str]]]]

WHOLE = "all"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")


@dataclass(frozen=True)
class Part:
    """One thing to read: a file or a folder of texts (`path`), or `rows` that came from a corpus or the Hub.

    `stamp` says, without making the rows of a corpus, what decides them.
    """

    name: str
    path: Path | None = None
    rows: Callable[[], Iterable[Record]] | None = None
    stamp: Callable[[], str] | None = None


Parts = dict[str, list[Part]]


@dataclass
class Search:
    """Where names start from, and what looking for them brings to light. With `plain_text` .txt files are documents."""

    base: Path
    corpora: Corpora
    plain_text: bool = False
    stamps: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    streaming: bool = False  # of a Hub dataset nothing is fetched before its rows are asked for
    problems: Collector = field(default_factory=lambda: Collector(DataError))
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def find_parts(source: Source, *, search: Search) -> Parts:
    """What to read for each split, in a fixed order: `all` for one source without splits of its own.

    Raises DataError with all problems of the names.
    """
    given = source if isinstance(source, dict) else {WHOLE: source}
    lists = {split: [names] if isinstance(names, str) else list(names or []) for split, names in given.items()}
    if list(lists) == [WHOLE] and len(lists[WHOLE]) == 1 and (own := _own_splits(lists[WHOLE][0], search=search)):
        return own
    parts: Parts = {}
    owners: dict[object, tuple[str, Part]] = {}  # file or corpus -> where it is read
    for split in (each for each in lists if each not in SPLITS and isinstance(source, dict)):
        remedy = did_you_mean(split, SPLITS) or "Name train, validation and test."
        search.problems.add("data.source", f"no split is called '{split}'", remedy)
    for split in (each for each in (WHOLE, *SPLITS) if each in lists):
        found: list[Part] = []
        for name in lists[split]:
            try:
                found += _parts_of(name, split=split, search=search)
            except DataError as error:
                search.problems.problems.extend(error.problems)
        if not lists[split]:
            search.problems.add("data.source", "nothing is named" + ("" if split == WHOLE else f" for {split}"))
        claimed = (_claimed(part, split=split, owners=owners, search=search) for part in found)
        parts[split] = [part for part in claimed if part]
    search.problems.raise_if_any()
    return parts


def _own_splits(name: str, *, search: Search) -> Parts:
    """The splits that a Hub dataset or a folder of texts brings; `all` for a Hub dataset without, else nothing."""
    if _is_hub_id(name, base=search.base):
        return _hub_splits(name, search=search)
    folder = search.base / Path(name).expanduser()
    if name.startswith("builtin:") or not folder.is_dir() or _tables_below(folder):
        return {}
    label = _shown(folder)
    found = split_folders(folder, name=label, labelled=not search.plain_text)
    return {split: [Part(f"{label}/{found[split].name}", found[split])] for split in SPLITS if split in found}


def _parts_of(name: str, *, split: str, search: Search) -> list[Part]:
    if name.startswith("builtin:"):
        corpus = name.removeprefix("builtin:")
        if corpus in search.corpora:
            return [Part(name, rows=search.corpora[corpus], stamp=search.stamps.get(corpus))]
        found, hint = listed(search.corpora) or "none", did_you_mean(corpus, search.corpora)
        raise DataError("data.source", f"no built-in corpus '{corpus}'. Found: {found}", hint)
    if splits := _own_splits(name, search=search):
        if split in splits or WHOLE in splits:
            return splits.get(split) or splits[WHOLE]
        remedy = "Name it alone, or under the splits it has." if split == WHOLE else ""
        raise DataError("data.source", f"{name} has no split '{split}'. Found: {listed(splits)}", remedy)
    if "://" in name:
        raise DataError("data.source", f"'{name}' is an address", "Download it and name the file.")
    path = search.base / Path(name).expanduser()
    if path.is_dir():
        return _folder(path, name=name, search=search)
    if path.is_file():
        return [Part(_shown(path), path)]
    if path.exists():
        raise DataError(name, "is not a regular file")
    if glob.has_magic(name):
        return _matches(name, search=search)
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(name, "no such file", did_you_mean(path.name, beside) or "Check the name and the folder.")


def _folder(folder: Path, *, name: str, search: Search) -> list[Part]:
    """Every table below a folder, sorted; a folder without tables that holds texts is one part."""
    label = _shown(folder)
    if not _tables_below(folder) and holds_texts(folder):
        return [Part(label, folder)]
    files = [(f"{label}/{path.relative_to(folder).as_posix()}", path) for path in _files_below(folder)]
    stems = {path.name.split(".")[0].lower() for _, path in files}
    if len({SPLIT_NAMES[stem] for stem in stems if stem in SPLIT_NAMES}) > 1:
        remedy = "To keep the splits apart, name each under data.source.train, validation and test."
        search.warnings.append(f"{label}: files that are named like splits are read as one. {remedy}")
    return _tables(files, name=label, what="no table in this folder", search=search)


def _files_below(folder: Path) -> list[Path]:
    """Every file at any depth but hidden ones, sorted."""
    below = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in below if not re.search(r"(^|/)\.", path.relative_to(folder).as_posix())]


def _tables_below(folder: Path) -> bool:
    return any(format_of(path) for path in _files_below(folder))


def _shown(path: Path) -> str:
    """What ids and messages call a file or folder: its last part, so that moving the recipe changes no id."""
    return path.resolve().name


def _matches(pattern: str, *, search: Search) -> list[Part]:
    found = sorted(glob.glob(os.path.expanduser(pattern), root_dir=search.base, recursive=True))
    files = [(_shown(search.base / each), search.base / each) for each in found if (search.base / each).is_file()]
    return _tables(files, name=pattern, what="no table matches", search=search)


def _tables(files: Sequence[tuple[str, Path]], *, name: str, what: str, search: Search) -> list[Part]:
    """Those files that are tables; how many are not is noted."""
    parts = [Part(shown, path) for shown, path in files if format_of(path) or (search.plain_text and is_text(path))]
    if not parts:
        raise DataError(name, f"{what}. Found: {listed(path.name for _, path in files) or 'no files'}", ACCEPTED)
    if len(parts) < len(files):
        search.notes.append(f"{name}: {len(files) - len(parts)} files that are no tables ignored")
    return parts


def _claimed(part: Part, *, split: str, owners: dict[object, tuple[str, Part]], search: Search) -> Part | None:
    """The part under a name of its own, which ids need; None for one that is read already."""
    key = part.path.resolve() if part.path else part.name
    if key in owners:
        other, first = owners[key]
        if other == split:
            search.warnings.append(f"{first.name}: named twice, read once")
        else:  # the same rows in two splits are a leak
            search.problems.add(first.name, f"is named for {other} and for {split}", "Give each split its own file.")
        return None
    taken, folders = {each.name for _, each in owners.values()}, 0
    while part.path and part.name in taken:
        folders += 1
        part = replace(part, name="/".join(part.path.resolve().parts[-1 - folders :]))
    owners[key] = (split, part)
    return part


def _is_hub_id(name: str, *, base: Path) -> bool:
    """owner/name, unless it is, or sits in, something on this disk, or ends like a file."""
    looks = HUB_ID.fullmatch(name) and not FILE_EXTENSION.search(name)
    return bool(looks) and not (base / name.split("/")[0]).exists()


def _hub_splits(name: str, *, search: Search) -> Parts:
    """The dataset's own splits where it has train and more, else all of it."""
    found = fetch_dataset(name, streaming=search.streaming)
    ours: Parts = {}
    for theirs, rows in found.items():
        split = WHOLE if len(found) == 1 else SPLIT_NAMES.get(theirs, "")
        if not split or split in ours:
            search.notes.append(f"{name}: split '{theirs}' is not used")
            continue
        ours[split] = [Part(name if split == WHOLE else f"{name}/{theirs}", rows=partial(dataset_rows, rows))]
    if not ours:
        raise DataError("data.source", f"{name} has no split train, validation or test. Found: {listed(found)}")
    return ours
