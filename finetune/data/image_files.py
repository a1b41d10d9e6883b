"""What an image recipe names as its source -> the images to read for each split; and new images for a finished model.

Folders, archives, idx files, tables, the built-in digits and Hub datasets all become lists of entries here; nothing
is decoded yet but for new images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from finetune.data.image_archives import archive_contents, is_archive, list_archive
from finetune.data.image_entries import Arranged, Entry, ImageSource, arranged, is_image
from finetune.data.image_idx import idx_source, idx_split, is_idx
from finetune.data.image_pixels import Changes, Pixels, Resize, Shape, Unreadable, decoded
from finetune.data.image_tables import METADATA, digits_source, hub_sources, table_source
from finetune.data.parts import HUB_ID, WHOLE, Source
from finetune.data.tables import format_of
from finetune.data.text_folders import SPLIT_NAMES
from finetune.errors import Collector, DataError, did_you_mean, listed
from finetune.recipe_data import SPLITS
from finetune.recipe_image import ImageColumns

DIGITS = "builtin:digits"
CHUNK_BYTES = 1 << 20
GRID = "grid.png"
GRID_RECORDS = ("samples.json", "reconstructions.json")  # what `sample` and `predict` write beside such a grid
ACCEPTED = (
    "Accepted: a folder of images or of a folder for each class, .zip and .tar of these, idx files, .parquet and "
    ".arrow with a column of images, .csv and .jsonl that name files, builtin:digits."
)

Sources = dict[str, list[ImageSource]]
OfSplit = Callable[[Path], str | None]


@dataclass
class Found:
    """Sources by part, `all` for one source without splits of its own, and what finding them brought to light."""

    parts: Sources = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_images(source: Source, *, columns: ImageColumns, base: Path, most_pixels: int) -> Found:
    """Everything the recipe names, listed and fingerprinted. Relative paths start at `base`.

    Raises DataError with all problems of all names, or EnvironmentFault where the Hub cannot be reached.
    """
    finder = _Finder(columns, base, most_pixels)
    if isinstance(source, str):
        parts = finder.named(source)
        if len(parts) == 1:  # a folder `train` that everything lies in divides nothing
            return Found({WHOLE: next(iter(parts.values()))}, finder.notes)
        if "train" not in parts:
            raise DataError("data.source", f"{source} has no split 'train'. Found: {listed(parts)}")
        return Found({split: parts[split] for split in SPLITS if split in parts}, finder.notes)
    problems, found = Collector(DataError), Found(notes=finder.notes)
    for split, names in source.items() if isinstance(source, dict) else [(WHOLE, source)]:
        for name in [names] if isinstance(names, str) else names:
            try:
                found.parts.setdefault(split, []).extend(_for_split(finder.named(name), split, name=name))
            except DataError as error:
                problems.problems.extend(error.problems)
    problems.raise_if_any()
    _check_names(found.parts)
    found.parts = {split: found.parts[split] for split in (WHOLE, *SPLITS) if split in found.parts}
    return found


def read_new_images(
    path: Path | str,
    *,
    size: int,
    channels: int,
    resize: Resize,
    most_pixels: int,
    say: Callable[[str], object] = lambda note: None,
) -> tuple[Pixels, list[str]]:
    """Images for a finished model from a file, folder, archive or idx file: uint8 (N, channels, size, size), names.

    `say` is told what was left out and changed. Raises DataError with every image that cannot be read.
    """
    path, shape, changes = Path(path), Shape(size, channels, resize, most_pixels), Changes()
    found = find_images(str(path), columns=ImageColumns(label=None), base=Path.cwd(), most_pixels=most_pixels)
    problems, pixels, names = Collector(DataError), list[Pixels](), list[str]()
    for source in (each for sources in found.parts.values() for each in sources):
        numbers = range(len(source.entries))
        for number, content in zip(numbers, source.contents(numbers), strict=True):
            try:
                pixels.append(pixels_of(content, shape=shape, changes=changes))
            except Unreadable as error:
                problems.add(source.origin(number), error.what, error.do)
            names.append(source.origin(number))
    problems.raise_if_any()
    for note in (*found.notes, *changes.notes()):
        say(note)
    return np.stack(pixels), names


def pixels_of(content: bytes | Pixels | DataError, *, shape: Shape, changes: Changes) -> Pixels:
    """As `decoded`, and of what a source could not hand over. Raises Unreadable."""
    if isinstance(content, DataError):
        raise Unreadable(content.problems[0].what, content.problems[0].do)
    return decoded(content, shape=shape, changes=changes)


def _for_split(parts: Sources, split: str, *, name: str) -> list[ImageSource]:
    """What one of several names gives to a split: all of it, or its own part of that name."""
    if split in parts:
        return parts[split]
    if len(parts) == 1 and split != WHOLE:  # `test: archive.zip` whose only folder is called train
        return next(iter(parts.values()))
    if split == WHOLE:
        remedy = "Name it alone, or under the splits it has."
        raise DataError("data.source", f"{name} brings its own splits: {listed(parts)}", remedy)
    raise DataError("data.source", f"{name} has no split '{split}'. Found: {listed(parts)}")


def _check_names(parts: Sources) -> None:
    """Ids are made of names, and the same file in two splits is a leak. Raises DataError."""
    owner: dict[str, str] = {}
    for split, sources in parts.items():
        for name in (source.name for source in sources):
            if name in owner:
                also = f"{owner[name]} and {split}" if owner[name] != split else f"{split} twice"
                what = f"two sources are called so, for {also}".replace(WHOLE, "one part")
                raise DataError(name, what, "Give each its own name.")
            owner[name] = split


@dataclass
class _Finder:
    columns: ImageColumns
    base: Path
    most_pixels: int
    notes: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> bool:
        return self.columns.label is not None

    def named(self, name: str) -> Sources:
        """The parts of one name of the recipe."""
        if name == DIGITS:
            return {WHOLE: [digits_source(name=name)]}
        if name.startswith("builtin:"):
            remedy = did_you_mean(name, [DIGITS])
            raise DataError("data.source", f"no built-in images are called '{name}'. Found: {DIGITS}", remedy)
        path = self.base / Path(name).expanduser()
        if path.is_dir():
            return self._folder(path)
        if path.is_file():
            return self._file(path)
        if "://" in name:
            raise DataError("data.source", f"'{name}' is an address", "Download it and name the file.")
        if HUB_ID.fullmatch(name) and not Path(name).suffix and not (self.base / name.split("/")[0]).exists():
            return hub_sources(name, columns=self.columns)
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        remedy = did_you_mean(path.name, beside) or "Check the name and the folder."
        raise DataError(name, "no such file or folder", remedy)

    def _file(self, path: Path) -> Sources:
        name = path.resolve().name
        if is_archive(path):
            return self._archive(path, name=name)
        if is_idx(path):
            return {WHOLE: [self._noted(idx_source(path, labelled=self.labelled, most_pixels=self.most_pixels))]}
        if is_image(name):
            return {WHOLE: [_tree(path.parent, name=name, entries=[Entry(path.name)])]}
        if format_of(path):
            return {WHOLE: [self._noted(table_source(path, name=name, columns=self.columns))]}
        raise DataError(name, "is no image, archive or table of images", ACCEPTED)

    def _folder(self, folder: Path) -> Sources:
        """idx files, a list of the images, tables of images, or the images themselves: the first of these it holds."""
        name = folder.resolve().name
        files, folders = _below(folder)
        here = [path for path in files if "/" not in path]
        if idx := [path for path in here if is_idx(folder / path)]:
            return self._one_each(idx, folder, of_split=idx_split, name=name, files=files)
        if lists := [path for path in METADATA if path in here]:
            return {WHOLE: [self._noted(table_source(folder / lists[0], name=name, columns=self.columns))]}
        tables = [path for path in files if format_of(Path(path)) in ("parquet", "arrow")]
        if tables and not any(map(is_image, files)):
            return self._one_each(tables, folder, of_split=_split_of_table, name=name, files=files)
        self._needs_no_columns(name)
        if GRID in files and {*GRID_RECORDS} & {*files}:
            files.remove(GRID)
            self.notes.append(f"{name}: {GRID} left out, which shows the other images again")
        found = arranged(files, folders, name=name, labelled=self.labelled)
        self.notes += found.notes
        return _by_part(found, lambda entries: _tree(folder, name=name, entries=entries))

    def _one_each(
        self, paths: Sequence[str], folder: Path, *, of_split: OfSplit, name: str, files: Sequence[str]
    ) -> Sources:
        """A source for each file; they are parts where every name tells a split, and train is among them."""
        splits = [of_split(Path(path)) for path in paths]
        apart = all(splits) and "train" in splits
        parts: Sources = {}
        for path, split in zip(paths, splits, strict=True):
            parts.setdefault(split if apart and split else WHOLE, []).extend(self._file(folder / path)[WHOLE])
        used = {source.name for sources in parts.values() for source in sources}
        ignored = [path for path in files if Path(path).name not in used and "labels" not in path.lower()]
        if ignored:
            self.notes.append(f"{name}: {len(ignored):,} other files ignored: {listed(ignored, most=3)}")
        return parts

    def _archive(self, path: Path, *, name: str) -> Sources:
        self._needs_no_columns(name)
        listing = list_archive(path, name=name)
        found = arranged(listing.files, listing.folders, name=name, labelled=self.labelled)
        self.notes += found.notes
        digest, size = _digest([path])

        def source(entries: Sequence[Entry]) -> ImageSource:
            def contents(numbers: Sequence[int]) -> Iterator[bytes | Pixels | DataError]:
                yield from archive_contents(path, [entries[number].place for number in numbers], name=name)

            return ImageSource(name, digest, size, entries, contents)

        return _by_part(found, source)

    def _needs_no_columns(self, name: str) -> None:
        wanted = [key for key in ("caption", "group", "id") if getattr(self.columns, key) is not None]
        if wanted:
            what = f"{name} is a tree of images, and has no column of a {wanted[0]}"
            do = f"Put a {METADATA[0]} with a column file_name beside the images, or use a table."
            raise DataError(f"data.columns.{wanted[0]}", what, do)

    def _noted(self, source: ImageSource) -> ImageSource:
        self.notes += source.notes
        return source


def _by_part(found: Arranged, source: Callable[[Sequence[Entry]], ImageSource]) -> Sources:
    return {split: [source(entries)] for split, entries in found.parts.items()}


def _split_of_table(path: Path) -> str | None:
    """train of `train-00000-of-00001.parquet`, as the datasets library names its files."""
    return SPLIT_NAMES.get(path.name.lower().split(".")[0].split("-")[0])


def _below(folder: Path) -> tuple[list[str], list[str]]:
    """Files and folders at any depth, sorted, with slashes. Links are followed to files, not into folders."""
    files, folders = [], []
    for root, inner, names in os.walk(folder):
        start = Path(root).relative_to(folder)
        files += [(start / name).as_posix() for name in names if os.path.isfile(os.path.join(root, name))]
        folders += [(start / name).as_posix() for name in inner]
    return sorted(files), sorted(folders)


def _tree(folder: Path, *, name: str, entries: Sequence[Entry]) -> ImageSource:
    """Images of a folder."""
    digest, size = _digest([folder / entry.place for entry in entries], names=[entry.place for entry in entries])

    def contents(numbers: Sequence[int]) -> Iterator[bytes | Pixels | DataError]:
        for number in numbers:
            try:
                yield (folder / entries[number].place).read_bytes()
            except OSError as error:
                yield DataError("", f"cannot be read ({error.strerror or error})", "Give read permission.")

    return ImageSource(name, digest, size, entries, contents)


def _digest(paths: Sequence[Path], *, names: Sequence[str] = ()) -> tuple[str, int]:
    """sha256 of a file, or of the names and contents of several, and their bytes."""
    digest, size = hashlib.sha256(), 0
    for number, path in enumerate(paths):
        own = hashlib.sha256() if names else digest
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    own.update(chunk)
                    size += len(chunk)
        except OSError:
            own.update(b"unreadable")  # reading it will say why
        if names:
            digest.update(f"{names[number]}\0".encode("utf-8", "surrogateescape") + own.digest())
    return digest.hexdigest(), size
