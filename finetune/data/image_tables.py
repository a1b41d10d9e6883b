"""Tables with a column of images, Hub datasets and the built-in digits -> sources of images.

A Parquet or Arrow file holds the images themselves, as the datasets library writes them (bytes and path); a csv or
jsonl file, such as a metadata.csv among the images, names their files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.encodings import TableFile
from finetune.data.examples import rows_of_file
from finetune.data.hub_datasets import fetch_dataset
from finetune.data.image_entries import Entry, ImageSource
from finetune.data.image_pixels import Pixels
from finetune.data.labels import label_text
from finetune.data.parts import WHOLE
from finetune.data.tables import check_columns, format_of, named
from finetune.data.text_folders import SPLIT_NAMES
from finetune.errors import Collector, DataError, listed
from finetune.recipe_image import ImageColumns

if TYPE_CHECKING:
    import datasets  # imported late: it takes seconds

METADATA = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"  # what the datasets library calls the column of such a table
DEFAULT_LABEL = ImageColumns().label
LARGEST_DIGIT = 16
OPTIONAL = ("label", "caption", "group", "id")


def table_source(path: Path, *, name: str, columns: ImageColumns) -> ImageSource:
    """The images of one table. Raises DataError with what is wrong with its columns and rows."""
    if format_of(path) in ("parquet", "arrow"):
        return _arrow_source(path, name=name, columns=columns)
    return _listed_source(path, name=name, columns=columns)


def hub_sources(name: str, *, columns: ImageColumns) -> dict[str, list[ImageSource]]:
    """The splits of a Hub dataset that are ours, or all of it. Raises DataError, or EnvironmentFault offline."""
    found = fetch_dataset(name)
    parts: dict[str, list[ImageSource]] = {}
    unused = []
    for theirs, rows in found.items():
        split = WHOLE if len(found) == 1 else SPLIT_NAMES.get(theirs, "")
        if not split or split in parts:
            unused.append(theirs)
            continue
        parts[split] = [_dataset_source(rows, name=name if split == WHOLE else f"{name}/{theirs}", columns=columns)]
    if not parts:
        raise DataError("data.source", f"{name} has no split train, validation or test. Found: {listed(found)}")
    return parts


def digits_source(*, name: str) -> ImageSource:
    """scikit-learn's 1,797 digits of 8x8 pixels, written by 43 people, their 0 to 16 as 0 to 255."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    pixels: Pixels = np.round(bundle.images * (255 / LARGEST_DIGIT)).astype(np.uint8)
    entries = [Entry(str(row + 1), label=str(digit)) for row, digit in enumerate(bundle.target.tolist())]
    digest = hashlib.sha256(pixels.tobytes() + bundle.target.astype(np.uint8).tobytes()).hexdigest()
    return ImageSource(
        name, digest, pixels.nbytes, entries, lambda numbers: (pixels[each] for each in numbers), separator=":"
    )


# ---- tables that hold the images ----


def _arrow_source(path: Path, *, name: str, columns: ImageColumns) -> ImageSource:
    file = _measured(path, name)
    schema = _schema(path, file)
    check_columns(schema.names, name=name, roles={"image": columns.image}, problems=file.problems)
    roles, notes = _roles(schema.names, name=name, columns=columns, problems=file.problems)
    file.problems.raise_if_any()
    kind = schema.field(columns.image).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _listed_source(path, name=name, columns=columns)
    held = _image_columns(kind, column=columns.image, name=name)
    rows = [record for _, record in rows_of_file(file, roles=roles or {"image": held[0]})]
    file.problems.raise_if_any()
    entries = [_entry(str(row + 1), record, roles) for row, record in enumerate(rows)]

    def contents(numbers: Sequence[int]) -> Iterator[bytes | Pixels | DataError]:
        again, wanted = TableFile(path=path, name=name, problems=Collector(DataError)), iter(numbers)
        number = next(wanted, None)
        for row, record in rows_of_file(again, roles=dict.fromkeys(("image",), held[0]) | _path_role(held)):
            if number is not None and row == number + 1:
                yield _held(record, held, folder=path.parent)
                number = next(wanted, None)

    return ImageSource(name, file.sha256, file.bytes, entries, contents, separator=":", notes=tuple(notes))


def _path_role(held: Sequence[str]) -> dict[str, str]:
    return {"path": held[1]} if len(held) > 1 else {}


def _held(record: Mapping[str, object], held: Sequence[str], *, folder: Path) -> bytes | DataError:
    """The bytes of an image, or of the file that its path names."""
    content = record[held[0]]
    if isinstance(content, bytes):
        return content
    path = record[held[1]] if len(held) > 1 else None
    return _file(folder, path) if isinstance(path, str) else DataError("", "is empty")


def _image_columns(kind: pa.DataType, *, column: str, name: str) -> list[str]:
    """The columns of bytes and of paths that a column of images is made of."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [column]
    if pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
        return [f"{column}.bytes", f"{column}.path"]
    what = f"column '{column}' in {name} is of type {kind}, and holds no images"
    raise DataError("data.columns.image", what, "Name a column of encoded images, or of the names of their files.")


def _schema(path: Path, file: TableFile) -> pa.Schema:
    try:
        if format_of(path) == "parquet":
            return pq.read_schema(path)
        with pa.memory_map(str(path)) as source:
            head = source.read(6)
            source.seek(0)
            return (pa.ipc.open_file if head == b"ARROW1" else pa.ipc.open_stream)(source).schema
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        file.refuse(f"is damaged or incomplete ({reason})", "Write or fetch the file again.")


# ---- tables that name files ----


def _listed_source(path: Path, *, name: str, columns: ImageColumns) -> ImageSource:
    file = _measured(path, name)
    rows = [record for _, record in rows_of_file(file, roles={})]
    file.problems.raise_if_any()
    found = list(dict.fromkeys(key for record in rows[:100] for key in record))
    image = FILE_NAME if columns.image not in found and FILE_NAME in found else columns.image
    check_columns(found, name=name, roles={"image": image}, problems=file.problems)
    roles, notes = _roles(found, name=name, columns=columns, problems=file.problems)
    file.problems.raise_if_any()
    places = [record.get(image) for record in rows]
    entries = [_entry(str(row + 1), record, roles) for row, record in enumerate(rows)]
    digest, size = hashlib.sha256(file.sha256.encode()), file.bytes
    for place in places:
        content = _file(path.parent, place)
        if isinstance(content, bytes):
            digest.update(hashlib.sha256(content).digest())
            size += len(content)
    contents = lambda numbers: (_file(path.parent, places[number]) for number in numbers)  # noqa: E731
    return ImageSource(name, digest.hexdigest(), size, entries, contents, separator=":", notes=tuple(notes))


def _file(folder: Path, place: object) -> bytes | DataError:
    """The bytes of a file that a table names, which must lie in the table's folder or below."""
    if not isinstance(place, str) or not place.strip():
        return DataError("", "names no file", "Fill it in, or remove the row.")
    inner = Path(place.strip())
    if inner.is_absolute() or ".." in inner.parts:
        return DataError("", f"names '{place}', outside the folder of the table", "Name files below it.")
    try:
        return (folder / inner).read_bytes()
    except OSError as error:
        return DataError("", f"names '{place}', which cannot be read ({error.strerror})", "Correct it.")


# ---- the Hub ----


def _dataset_source(rows: datasets.Dataset, *, name: str, columns: ImageColumns) -> ImageSource:
    from datasets import Image

    problems = Collector(DataError)
    check_columns(rows.column_names, name=name, roles={"image": columns.image}, problems=problems)
    roles, notes = _roles(rows.column_names, name=name, columns=columns, problems=problems)
    problems.raise_if_any()
    if not isinstance(rows.features[columns.image], Image):
        what = f"column '{columns.image}' of {name} is no column of images"
        raise DataError("data.columns.image", what, "Name another column.")
    told = rows.select_columns(list(dict.fromkeys(roles.values()))) if roles else None
    features = rows.features
    names = {column: list(getattr(features[column], "names", [])) for column in roles.values()}
    records: list[dict[str, object]] = [{} for _ in range(len(rows))]
    if told is not None:
        by_column = {column: named(list(told[column]), names=names[column]) for column in names}
        records = [dict(zip(by_column, values, strict=True)) for values in zip(*by_column.values(), strict=True)]
    entries = [_entry(str(row + 1), record, roles) for row, record in enumerate(records)]
    images = rows.select_columns([columns.image]).cast_column(columns.image, Image(decode=False))
    digest, size = hashlib.sha256(repr([vars(entry) for entry in entries]).encode()), 0
    for content in _dataset_contents(images, columns.image, range(len(rows))):
        if isinstance(content, bytes):
            digest.update(hashlib.sha256(content).digest())
            size += len(content)

    def contents(numbers: Sequence[int]) -> Iterator[bytes | Pixels | DataError]:
        yield from _dataset_contents(images, columns.image, numbers)

    return ImageSource(name, digest.hexdigest(), size, entries, contents, separator=":", notes=tuple(notes))


def _dataset_contents(
    images: datasets.Dataset, column: str, numbers: Sequence[int]
) -> Iterator[bytes | Pixels | DataError]:
    for number in numbers:
        held: Any = images[int(number)][column]
        content, path = (held or {}).get("bytes"), (held or {}).get("path")
        if content is None and path and Path(path).is_file():  # fetched into the library's own cache
            content = Path(path).read_bytes()
        yield content if isinstance(content, bytes) else DataError("", "is empty")


# ---- what a row says of its image ----


def _roles(
    found: Sequence[str], *, name: str, columns: ImageColumns, problems: Collector
) -> tuple[dict[str, str], list[str]]:
    """The columns that are read beside the image, by what they mean, and notes."""
    wanted = {role: column for role in OPTIONAL if (column := getattr(columns, role)) is not None}
    notes = []
    if wanted.get("label") == DEFAULT_LABEL and DEFAULT_LABEL not in found:
        wanted.pop("label")  # nobody asked for it by name, and images need none
        notes.append(f"{name}: no column '{DEFAULT_LABEL}', so its images have no labels. Found: {listed(found)}")
    check_columns(found, name=name, roles=wanted, problems=problems)
    return {role: column for role, column in wanted.items() if column in found}, notes


def _entry(place: str, record: Mapping[str, object], roles: Mapping[str, str]) -> Entry:
    told = {role: label_text(record.get(column)) or None for role, column in roles.items()}
    return Entry(place, **told)


def _measured(path: Path, name: str) -> TableFile:
    file = TableFile(path=path, name=name, problems=Collector(DataError))
    try:
        file.measure()
    except PermissionError:
        file.refuse("cannot be read: permission denied")
    return file
