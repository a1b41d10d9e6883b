"""What a source of images lists before any is decoded: entries with their labels, and where each is in a tree.

A folder and an archive are the same tree of paths here: a folder for each class, perhaps inside train, validation and
test. Anything else in it (a .DS_Store, a list of addresses) is no image: it is left out, counted, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from finetune.data.image_pixels import FORMATS, Pixels
from finetune.data.parts import WHOLE
from finetune.data.text_folders import SPLIT_NAMES
from finetune.errors import Collector, DataError, listed

Paths = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One image of a source: its path or row there, which is unique, and what the source says of it."""

    place: str
    label: str | None = None
    caption: str | None = None
    group: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class ImageSource:
    """Images to read: what they are called in messages and ids, what decides them, and how their contents are had.

    `contents` takes ascending numbers of entries and gives the bytes of a file, or pixels (height, width[, 3]), of
    each, or a DataError for an image that cannot be had.
    """

    name: str
    sha256: str
    size_bytes: int
    entries: Sequence[Entry]
    contents: Callable[[Sequence[int]], Iterator[bytes | Pixels | DataError]]
    separator: str = "/"  # between name and place; rows have a colon
    notes: tuple[str, ...] = ()

    def origin(self, number: int) -> str:
        """`flowers/rose/17.png`, or `train.parquet:17`: where to look an image up, and its id without another."""
        place = self.entries[number].place
        return place if place == self.name else f"{self.name}{self.separator}{place}"


@dataclass
class Arranged:
    """Entries of a tree by part: `all`, or the splits that its folders name."""

    parts: dict[str, list[Entry]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def arranged(files: Sequence[str], folders: Collection[str], *, name: str, labelled: bool) -> Arranged:
    """The images among the paths of a tree, with the label their folder gives them where `labelled`.

    `files` and `folders` are paths inside the tree with slashes. Folders that everything lies in are looked through.
    Without labels images may lie at any depth. Raises DataError where there is no image, a class folder is empty, or
    images lie beside or below class folders.
    """
    images = [tuple(path.split("/")) for path in files if is_image(path)]
    if not images:
        found = listed(files, most=5) or ("empty folders" if folders else "no files")
        raise DataError(name, f"no image is in it. Found: {found}", f"Accepted: {listed(FORMATS)}.")
    result = Arranged()
    if ignored := [path for path in files if not is_image(path)]:
        kind = "file that is no image" if len(ignored) == 1 else "files that are no images"
        result.notes.append(f"{name}: {len(ignored):,} {kind} ignored: {listed(ignored, most=3)}")
    root = _wrapper(images, labelled=labelled)
    roots = _splits([parts[len(root) :] for parts in images], name=name) or {WHOLE: ()}
    if len(roots) == 1 and WHOLE in roots and root and root[-1].lower() in SPLIT_NAMES:
        roots = {SPLIT_NAMES[root[-1].lower()]: ()}
    problems = Collector(DataError)
    for split, inner in roots.items():
        base = root + inner
        below = [parts[len(base) :] for parts in images if parts[: len(base)] == base]
        if labelled:
            _check_classes(below, folders, base=base, name=name, problems=problems)
        result.parts[split] = [
            Entry("/".join(base + parts), label=parts[0] if labelled and len(parts) == 2 else None) for parts in below
        ]
    problems.raise_if_any()
    return result


def is_image(path: str) -> bool:
    """Whether a path of a tree ends like an image and is not hidden."""
    parts = path.split("/")
    return PurePosixPath(path).suffix.lower() in FORMATS and not any(map(_is_hidden, parts))


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _wrapper(images: Sequence[Paths], *, labelled: bool) -> Paths:
    """The folders that all images lie in, above the class folder."""
    kept, shortest = 2 if labelled else 1, min(map(len, images))
    depth = 0
    while depth < shortest - kept and len({parts[depth] for parts in images}) == 1:
        depth += 1
    return images[0][:depth]


def _splits(images: Sequence[Paths], *, name: str) -> dict[str, Paths]:
    """train, validation and test where every top folder is named like one; else nothing."""
    heads = dict.fromkeys(parts[0] for parts in images)
    if any(len(parts) == 1 or parts[0].lower() not in SPLIT_NAMES for parts in images):
        return {}  # a class may be called `test` beside classes of other names
    found: dict[str, Paths] = {}
    for head in heads:
        split = SPLIT_NAMES[head.lower()]
        if split in found:
            raise DataError(name, f"{found[split][0]} and {head} both name the {split} split", "Leave one.")
        found[split] = (head,)
    return found


def _check_classes(
    images: Sequence[Paths], folders: Collection[str], *, base: Paths, name: str, problems: Collector
) -> None:
    """Adds a problem for each empty class folder, and for images beside class folders or below them."""
    classes = {parts[0] for parts in images if len(parts) > 1}
    for folder in sorted(folders):
        parts = tuple(folder.split("/"))
        is_class = parts[: len(base)] == base and len(parts) == len(base) + 1 and not _is_hidden(parts[-1])
        if is_class and parts[-1] not in classes:
            problems.add(f"{name}/{folder}", "the class folder has no image", "Fill it, or remove it.")
    here = "/".join((name, *base))
    beside = [parts[0] for parts in images if len(parts) == 1]
    if beside and classes:
        what = f"{len(beside):,} images lie beside the class folders: {listed(beside, most=3)}"
        problems.add(here, what, "Put them into a class folder, or set data.columns.label: null.")
    if deeper := next((parts for parts in images if len(parts) > 2), None):
        what = f"{'/'.join(deeper[:-1])} is a folder inside a class folder"
        do = "Put the images of a class right into its folder, or set data.columns.label: null."
        problems.add(here, what, do)
