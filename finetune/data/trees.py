"""One file of nested records (json, json lines, xml, HDF5) -> rows, with nested names joined by dots: `review.body`.

json lines, xml and HDF5 are read a few rows at a time. A json list is in memory as a whole, because JSON has no
lines to stop at: for more than a few hundred megabytes write json lines.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finetune.data.encodings import TableFile, detect_encoding
from finetune.data.tables import Positioned, check_columns, kind_of, with_columns
from finetune.errors import EnvironmentFault, listed

HDF5_ROWS_AT_ONCE = 256  # texts of variable length: their bytes are known only when they are read
LAST_EXACT_LINE = 65_535


def json_line_rows(file: TableFile, *, roles: Mapping[str, str]) -> Positioned:
    """One object on each line, by physical line."""
    return with_columns(_json_lines(file), file, roles=roles)


def json_rows(file: TableFile, *, roles: Mapping[str, str]) -> Positioned:
    """A list of objects, or an object with one such list under any key; by row number. The file is in memory."""
    return with_columns(_json_list(file), file, roles=roles)


def xml_rows(file: TableFile, *, roles: Mapping[str, str], asked: str | None) -> Positioned:
    """The elements that repeat below the root, by the line where each begins.

    A row's columns are its child elements (`body`), its attributes (`@lang`), and theirs (`body.title`, `body.@lang`);
    an element that occurs several times in a row is a list. Text with markup inside is one text. Entities are neither
    expanded nor fetched: a file that declares any is refused.
    """
    return with_columns(_xml_records(file, asked=asked), file, roles=roles)


def hdf5_rows(file: TableFile, *, roles: Mapping[str, str]) -> Positioned:
    """Datasets of one length, each a column, by row number; below a group: `group.column`. Needs h5py.

    Without `roles` a row has every column.
    """
    try:
        import h5py
    except ImportError:
        raise EnvironmentFault(
            file.name, "reading HDF5 needs the package h5py", "pip install 'finetune[hdf5]'"
        ) from None
    if not file.bytes:
        file.refuse("the file is empty")
    try:
        with h5py.File(file.path, "r") as opened:
            columns = _hdf5_columns(file, opened, kind=h5py.Dataset)
            roles = roles or {name: name for name in columns}
            if not check_columns(list(columns), name=file.name, roles=roles, problems=file.problems):
                return
            wanted = {column: columns[column] for column in roles.values()}
            rows = len(next(iter(columns.values())))
            for start in range(0, rows, HDF5_ROWS_AT_ONCE):
                read = [_hdf5_values(file, dataset, column, start) for column, dataset in wanted.items()]
                for number, values in enumerate(zip(*read, strict=True), start=start + 1):
                    yield number, dict(zip(wanted, values, strict=True))
    except (OSError, RuntimeError) as error:
        if isinstance(error, PermissionError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        file.refuse(f"is damaged or incomplete ({reason})", "Write or fetch the file again.")


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object with the fields of its inner objects as fields of its own: `{"a": {"b": 1}}` has the key `a.b`."""
    record: dict[str, object] = {}
    for key, value in pairs:
        inner = {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
        if not record.keys().isdisjoint(inner):
            raise ValueError("a key appears twice")
        record.update(inner)
    return record


def _parse(text: str) -> object:
    """JSON, with NaN as null: writers put it where a cell was empty. NUL bytes are left to the cleaning."""
    return json.loads(text, object_pairs_hook=_pairs, parse_constant=lambda _: None, strict="\0" not in text)


def _json_lines(file: TableFile) -> Iterator[tuple[int, object]]:
    with file.text() as stream:
        for number, line in enumerate(stream, start=1):
            if not (text := line.strip("\ufeff \t\r\n")):
                continue
            if text == "[" or (number == 1 and text.startswith("[{")):
                file.refuse("holds one JSON list, not a JSON object on each line", "Name it .json.", position=number)
            try:
                value = _parse(text)
            except (ValueError, RecursionError) as error:
                reason = (
                    f"{error.msg.removesuffix(' at')} at column {error.colno}"
                    if isinstance(error, json.JSONDecodeError)
                    else error
                )
                file.problems.add(file.at(number), f"not valid JSON ({reason})", "Write one JSON object on each line.")
                if file.is_hopeless:
                    return
            else:
                yield number, value


def _json_list(file: TableFile) -> Iterator[tuple[int, object]]:
    with file.text() as stream:
        text = stream.read().lstrip("\ufeff")
    if not text.strip():
        file.refuse("the file is empty")
    try:
        value = _parse(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            file.note("read as JSON lines")
            return (yield from _json_lines(file))
        *ended, tail = re.split("\r\n|\r|\n", text[: error.pos])
        file.refuse(
            f"not valid JSON ({error.msg.removesuffix(' at')} at column {len(tail) + 1})", position=len(ended) + 1
        )
    except (ValueError, RecursionError) as error:
        file.refuse(f"not valid JSON ({error})")
    rows = _rows_within(file, value) if isinstance(value, dict) else value
    if not isinstance(rows, list):
        file.refuse(f"holds {kind_of(rows)}, not a list", 'Write a list of objects, or {"data": [...]}.')
    if not rows:
        file.refuse("the list has no rows")
    yield from enumerate(rows, start=1)


def _rows_within(file: TableFile, value: dict[str, object]) -> object:
    """The rows of a top-level object: its only list of objects, or what is under `data`."""
    if isinstance(value.get("data"), list):
        return value["data"]
    lists = {key: each for key, each in value.items() if isinstance(each, list) and each and isinstance(each[0], dict)}
    if len(lists) > 1:
        file.refuse(f"holds several lists of objects: {listed(lists)}", "Leave one of them in the file.")
    if not lists:
        return value
    ((key, rows),) = lists.items()
    file.note(f"the rows are those under '{key}'")
    return rows


def _xml_records(file: TableFile, *, asked: str | None) -> Iterator[tuple[int, object]]:
    """Two passes, neither of which holds more than a row: which element repeats, then the rows."""
    recoded = not _says_its_encoding(file) or asked is not None
    if recoded:
        file.encoding = detect_encoding(file, asked=asked)
    tags = Counter(_local(element.tag) for element in _below_root(file, recoded=recoded))
    repeated = [tag for tag, count in tags.items() if count > 1]
    if len(repeated) > 1:
        file.refuse(f"several elements repeat below the root: {listed(repeated)}", "Leave one kind of row in the file.")
    if not tags:
        file.refuse("the root element has no rows")
    row_tag = repeated[0] if repeated else next(iter(tags))
    if others := [tag for tag in tags if tag != row_tag]:
        file.note(f"the rows are the elements '{row_tag}'; ignored: {listed(others)}")
    mixed: set[str] = set()
    for element in _below_root(file, recoded=recoded):
        if _local(element.tag) == row_tag:
            yield _line(element), _fields(element, path="", mixed=mixed)
    if mixed:
        file.note(f"markup inside {listed(sorted(mixed))} is left out, its text is kept")


def _says_its_encoding(file: TableFile) -> bool:
    with file.open() as stream:
        head = stream.read(200).removeprefix(codecs.BOM_UTF8)
    said = re.match(rb"<\?xml[^>]*encoding\s*=\s*[\"']([\w.:-]+)", head)
    if said:
        file.encoding = said[1].decode().lower()
        if file.encoding not in ("utf-8", "us-ascii"):
            file.note(f"read as {said[1].decode()}, as its first line says")
    return bool(said)


class _AsUtf8:
    """A text as a stream of UTF-8 bytes: Python knows more encodings than the XML library, and by other names."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text

    def read(self, size: int) -> bytes:
        return self._text.read(size).encode()


def _below_root(file: TableFile, *, recoded: bool) -> Iterator[Any]:
    """The elements right below the root, each whole when it comes and emptied afterwards."""
    from lxml import etree

    safe = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}
    depth = 0
    with file.text() if recoded else file.open() as stream:
        given = _AsUtf8(stream) if isinstance(stream, io.TextIOBase) else stream
        encoding = "utf-8" if recoded else None
        events = etree.iterparse(
            given, events=("start", "end"), encoding=encoding, remove_comments=True, remove_pis=True, **safe
        )
        try:
            for event, element in events:
                if event == "start":
                    if not depth:
                        _refuse_entities(file, element.getroottree().docinfo.internalDTD)
                    depth += 1
                    continue
                depth -= 1
                if depth == 1:
                    if (entity := next(element.iter(etree.Entity), None)) is not None:
                        file.refuse(f"uses the entity {entity.text}, which is not expanded", position=_line(element))
                    yield element
                    element.clear()
                    while element.getprevious() is not None:  # the root would keep an empty shell of every row
                        del element.getparent()[0]
        except etree.XMLSyntaxError as error:
            line, reason = next(((told.line, told.message) for told in events.error_log), (None, error.msg))
            file.refuse(f"not valid XML ({reason.strip()})", position=line)


def _refuse_entities(file: TableFile, dtd: Any) -> None:
    if dtd is None:
        return
    if names := [entity.name for entity in dtd.entities()]:
        remedy = "Write the text itself, and remove the declaration."
        file.refuse(f"declares entities ({listed(names)}), which are not expanded", remedy)
    if dtd.system_url:  # an entity declared there and used in an attribute would vanish without a word
        file.refuse(f"names a document type elsewhere ({dtd.system_url}), which is not fetched", "Remove the DOCTYPE.")


def _fields(element: Any, *, path: str, mixed: set[str]) -> dict[str, object]:
    """Column -> text, or the list of texts of an element that repeats."""
    found: dict[str, object] = {f"{path}@{_local(name)}": value for name, value in element.attrib.items()}
    for child in element:
        name = f"{path}{_local(child.tag)}"
        values = _fields(child, path=f"{name}.", mixed=mixed)
        pieces = [child.text, *(each.tail for each in child)]
        if len(child) and any(piece and piece.strip() for piece in pieces):
            mixed.add(name)
            values = {name: "".join(child.itertext())}
        elif not len(child):
            values[name] = child.text or ""
        for key, value in values.items():
            if key in found:
                before = found[key]
                found[key] = [*(before if isinstance(before, list) else [before]), value]
            else:
                found[key] = value
    return found


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _line(element: Any) -> int:
    """Where an element begins. Beyond 16 bits the library tells the line where the first text inside it ends."""
    line: int = element.sourceline
    if line < LAST_EXACT_LINE:
        return line
    while not element.text and len(element):
        element = element[0]
    return line - (element.text or "").count("\n")


def _hdf5_columns(file: TableFile, opened: Any, *, kind: Any) -> dict[str, Any]:
    """The datasets by dotted name. Nothing outside this file is read: links are not followed."""
    columns: dict[str, Any] = {}

    def visit(name: str, each: Any) -> None:
        if isinstance(each, kind) and each.shape:
            columns[name.replace("/", ".")] = each

    opened.visititems(visit)
    if not columns:
        file.refuse("holds no column: no dataset with rows")
    for name, dataset in columns.items():
        if dataset.dtype.names:
            file.refuse(f"'{name}' is a table of records, as pandas writes it", "Write each column as its own dataset.")
        if dataset.is_virtual or dataset.external:
            file.refuse(f"'{name}' is stored in another file", "Write the values into this one.")
    lengths = {name: len(dataset) for name, dataset in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = listed(f"{name} {length}" for name, length in lengths.items())
        file.refuse(f"the columns have unequal lengths: {shown}", "Write one value a row in each, and nothing else.")
    if not next(iter(lengths.values())):
        file.refuse("the file has columns but no rows")
    return columns


def _hdf5_values(file: TableFile, dataset: Any, column: str, start: int) -> Iterable[object]:
    for number, value in enumerate(dataset[start : start + HDF5_ROWS_AT_ONCE].tolist(), start=start + 1):
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError as error:
                what = f"byte 0x{error.object[error.start]:02X} at offset {error.start} of '{column}' is not UTF-8"
                file.problems.add(file.at(number), what, "Write the texts as UTF-8.")
                value = None
        yield value
