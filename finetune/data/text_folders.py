"""A folder with one sub-folder of .txt files for each class -> rows of text, label and file; or a single .txt file.

Such a folder may hold train, validation and test, each with the class folders inside. Anything else in it (a
.DS_Store, a list of addresses) is no text of a class: it is left out, and that is said.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from finetune.data.encodings import TableFile, detect_encoding
from finetune.data.tables import Record, check_columns, check_signature
from finetune.errors import DataError, listed

SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation",
               "dev": "validation", "test": "test"}  # fmt: skip
COLUMNS = ("text", "label", "file")


def holds_texts(folder: Path) -> bool:
    """Whether there is a .txt file at any depth."""
    return any(is_text(path) for path in folder.rglob("*"))


def is_text(path: Path) -> bool:
    """Whether this is a .txt file."""
    return path.suffix.lower() == ".txt" and path.is_file()


def split_folders(folder: Path, *, name: str, labelled: bool = True) -> dict[str, Path]:
    """train, validation and test among the sub-folders, where they hold class folders; else nothing.

    Without labels they are splits where they hold texts, and nothing beside them does.
    Raises DataError where sub-folders are named like splits and hold no class folders, or two name one split.
    """
    found: dict[str, Path] = {}
    like_splits = [each for each in _folders(folder) if each.name.lower() in SPLIT_NAMES]
    if not labelled:
        others = [each for each in folder.iterdir() if each not in like_splits and not each.name.startswith(".")]
        if any(is_text(each) or (each.is_dir() and holds_texts(each)) for each in others):
            return {}
        like_splits = [each for each in like_splits if holds_texts(each)]
    without = [each.name for each in like_splits if labelled and not any(map(holds_texts, _folders(each)))]
    if not like_splits or (len(without) == len(like_splits) < len(_folders(folder))):
        return {}  # a class may be called `test` beside classes of other names
    if without:
        remedy = f"Expected {name}/{without[0]}/CLASS/*.txt."
        raise DataError(name, f"{listed(without)}: named like a split, but without class folders", remedy)
    for each in like_splits:
        split = SPLIT_NAMES[each.name.lower()]
        if split in found:
            raise DataError(name, f"{found[split].name} and {each.name} both name the {split} split", "Leave one.")
        found[split] = each
    return found


def text_rows(
    file: TableFile, *, roles: Mapping[str, str], asked: str | None, labelled: bool
) -> Iterator[tuple[str, Record]]:
    """The texts of `file.path` by their paths inside it, sorted; text as it stands, its encoding detected for each.

    Raises DataError where a class folder is empty or has folders of its own. With `labelled=False` .txt files may lie
    at any depth.
    """
    if not check_columns(COLUMNS, name=file.name, roles=roles, problems=file.problems):
        return
    encodings: Counter[str] = Counter()
    for path in _texts(file, labelled=labelled):
        inner = path.relative_to(file.path).as_posix()
        one = TableFile(path=path, name=file.at(inner), problems=file.problems)
        try:
            text = _content(one, asked=asked)
        except DataError as error:
            file.problems.problems.extend(error.problems)
            continue
        encodings[one.encoding.removesuffix("-sig")] += 1
        yield inner, {"text": text, "label": inner.partition("/")[0], "file": inner}
    file.encoding = ", ".join(sorted(encodings)) or file.encoding
    for encoding, count in sorted(encodings.items()):
        if encoding != "utf-8":
            file.note(f"{count:,} texts read as {encoding.upper()}")


def whole_file(file: TableFile, *, roles: Mapping[str, str], asked: str | None) -> Iterator[tuple[str, Record]]:
    """A .txt file as one text, at no position. Raises DataError where it is empty or no text."""
    if not check_columns(COLUMNS, name=file.name, roles=roles, problems=file.problems):
        return
    if not file.sha256:
        file.measure()
    check_signature(file)
    yield "", {"text": _content(file, asked=asked), "label": "", "file": file.name}


def measure_folder(file: TableFile) -> None:
    """Sets bytes (of the texts) and sha256 over all names in the folder and the contents of texts. Raises OSError."""
    digest, file.bytes = hashlib.sha256(), 0
    for path in sorted(file.path.rglob("*")):
        content = path.read_bytes() if is_text(path) else b""
        file.bytes += len(content)
        told = f"{path.relative_to(file.path).as_posix()}\0{path.is_dir()}\0{len(content)}\0"
        digest.update(told.encode("utf-8", "surrogateescape") + content)
    file.sha256 = digest.hexdigest()


def _texts(file: TableFile, *, labelled: bool) -> list[Path]:
    """The .txt files in a fixed order; what else there is goes to the notes."""
    texts: list[Path] = []
    ignored: list[str] = []
    for path in sorted(each for each in file.path.rglob("*") if each.is_file()):
        parts = path.relative_to(file.path).parts
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
        if is_text(path) and not hidden and (len(parts) > 1 or not labelled):
            texts.append(path)
        else:
            ignored.append("/".join(parts))
    if labelled:
        _check_classes(file, texts=texts)
    if ignored:
        kind = "texts of a class" if labelled else ".txt files"
        file.note(f"{len(ignored):,} files that are no {kind} ignored: {listed(ignored, most=3)}")
    return texts


def _content(file: TableFile, *, asked: str | None) -> str:
    """All of a file, its encoding detected. Raises DataError."""
    file.encoding = detect_encoding(file, asked=asked)
    with file.text() as stream:
        return stream.read()


def _check_classes(file: TableFile, *, texts: list[Path]) -> None:
    if not _folders(file.path):
        file.refuse("the folder has no class folders", "Put the texts of each class into a folder of its name.")
    inner = [path.relative_to(file.path).parts[:-1] for path in texts]
    classes = {parts[0] for parts in inner}
    for empty in (each.name for each in _folders(file.path) if each.name not in classes):
        file.problems.add(file.at(empty), "the class folder has no .txt file", "Fill it, or remove it.")
    if deeper := next((parts for parts in inner if len(parts) > 1), None):
        what = f"{'/'.join(deeper)} is a folder inside a class folder"
        file.refuse(what, "Put the texts of a class right into its folder.")


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith((".", "__MACOSX")))
