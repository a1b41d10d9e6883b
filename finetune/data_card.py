"""Prepared data -> its card: a README.md that says where the rows came from and what was done to them.

The front matter is what the Hub and the datasets library read, so that `load_dataset(FOLDER)` gives the columns their
types again. Names and labels come from the data and are written so that no reader takes them for YAML, Markdown or
HTML.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence

from finetune.data.text_steps import visible
from finetune.recipe_data import ExportFormat, Form
from finetune.runs import Json

MOST_CLASSES = 100
MOST_NOTES = 50
MOST_PAIRS = 10
MOST_CHARACTERS = 120
TOLD_ELSEWHERE = ("examples", "notes", "warnings")  # of augmentation: in data.json, and among the warnings
# The Hub's own words for sizes, each with its upper end.
SIZE_CATEGORIES = (
    (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"),
)  # fmt: skip
# What the datasets library calls the reader of each format; it has none for tfrecord.
LOADERS: dict[ExportFormat, str] = {
    "parquet": "parquet", "csv": "csv", "json": "json", "jsonl": "json", "arrow": "arrow", "hdf5": "hdf5",
}  # fmt: skip


FORMS: dict[Form, str] = {
    "text": "a plain text", "pairs": "a prompt with its completion", "chat": "a chat that the assistant's answer ends",
    "seq2seq": "a source with its target",
}  # fmt: skip
LISTS: Json = {
    "list": {"list": "string"},
    "messages": {"list": [{"name": "role", "dtype": "string"}, {"name": "content", "dtype": "string"}]},
}


def card(
    report: Json, *, sizes: Mapping[str, int], columns: Mapping[str, str], format: ExportFormat, title: str
) -> str:
    """The text of README.md.

    `report` is data.json; parts that are not in it are left out. `sizes` gives the rows of each split, `columns` the
    kind of each column (`exports.column_kinds`), `title` a name for people.
    """
    parts = [
        _front_matter(report, sizes, columns, format=format, title=title),
        f"# {escaped(title)}",
        _overview(report, sizes),
        _section("Sources", _sources(report), *_bullets(report.get("notes"))),
        _section("Cleaning", *_cleaning(report)),
        _section("Duplicates", *_duplicates(report)),
        _section("Splits", *_splits(report, sizes)),
        _section("Leaks between splits", *_leaks(report)),
        _section("Augmentation of train", *_lines(report.get("augmentation"), left_out=TOLD_ELSEWHERE)),
        _section("Lengths in characters", *_by_split(report.get("characters"))),
        _section("Lengths of targets in characters", *_by_split(report.get("target_characters"))),
        _section("Lengths in tokens", *_by_split(report.get("lengths"))),
        _section("Numeric columns", *_numeric(report)),
        _section("Warnings", *_bullets(report.get("warnings"))),
        _section("How to read it", *_reading(sizes, columns, format=format)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: object, most_characters: int = MOST_CHARACTERS) -> str:
    """Text of the data for a line of Markdown: one line, shortened, nothing in it is markup, HTML or a link."""
    marked = re.sub(r"([\\`*_{}\[\]#!|~$@]|:(?=//))", r"\\\1", visible(str(text), most_characters))
    # At the start of a line these make lists and rules; `www.` makes a link anywhere.
    marked = re.sub(r"^(\d*)([-+=.)])(?=[-=\s]|$)", r"\1\\\2", marked)
    marked = re.sub(r"\b(www)\.", r"\1\\.", marked, flags=re.IGNORECASE)
    return html.escape(marked, quote=False)


def _front_matter(
    report: Json, sizes: Mapping[str, int], columns: Mapping[str, str], *, format: ExportFormat, title: str
) -> str:
    from ruamel.yaml import YAML

    files = [{"split": split, "path": f"{split}.{format}"} for split in sizes]
    config: Json = {"config_name": "default", "data_files": files}
    if format == "csv":
        config |= {"keep_default_na": False, "na_values": [""]}  # a text `NA` is a text
    kinds = _csv_kinds(columns) if format == "csv" else columns
    features = [{"name": name} | LISTS.get(kind, {"dtype": kind}) for name, kind in kinds.items()]
    values: Json = {
        "pretty_name": title,
        "task_categories": ["text-generation" if "form" in report else "text-classification"],
        "size_categories": [_size_category(sum(sizes.values()))],
        "tags": ["finetune"],
    }
    if format in LOADERS and format != "hdf5":  # there the reader finds the columns, and the mask of nulls, by itself
        values |= {"configs": [config], "dataset_info": {"features": features}}
    yaml, stream = YAML(), io.StringIO()
    yaml.dump(values, stream)
    return f"---\n{stream.getvalue()}---"


def _size_category(rows: int) -> str:
    return next((name for most, name in SIZE_CATEGORIES if rows < most), "n>10M")


def _overview(report: Json, sizes: Mapping[str, int]) -> str:
    labels = len(report.get("labels", []))
    several = ", several for each row" if report.get("multi_label") else ""
    parts = ", ".join(f"{rows:,} in {split}" for split, rows in sizes.items())
    told = f" {labels:,} labels{several}." if labels else ""
    told += f" Each is {FORMS[report['form']]}." if "form" in report else ""
    return (
        f"{sum(sizes.values()):,} rows: {parts}.{told} Prepared by `finetune prepare`; every figure below is also in "
        "data.json. The licence is that of the sources: state it before you publish."
    )


def _sources(report: Json) -> str:
    rows = [
        [escaped(file.get("name")), _number(file.get("rows")), _number(file.get("bytes")),
         escaped(file.get("encoding")), f"`{file.get('sha256')}`"]
        for file in report.get("files", [])
    ]  # fmt: skip
    return _table(["source", "rows", "bytes", "encoding", "sha256"], rows)


def _cleaning(report: Json) -> list[str]:
    steps = report.get("cleaning", [])
    rows = [
        [escaped(step.get("name")), _number(step.get("changed")), _number(step.get("dropped")),
         _number(step.get("rows_after"))]
        for step in steps
    ]  # fmt: skip
    notes = [f"{step.get('name')}: {note}" for step in steps for note in step.get("notes", [])]
    return [_table(["step, in this order", "rows changed", "rows dropped", "rows left"], rows), *_bullets(notes)]


def _duplicates(report: Json) -> list[str]:
    """Every figure of the report by its own name: `near families: 3`."""
    figures = _lines(report.get("duplicate_families"))
    return [*figures, "A family of duplicates stays in one split."] if figures else []


def _leaks(report: Json) -> list[str]:
    """What every two splits share: as they were brought, if they were, and as they are now."""
    found = report.get("leaks") or {}
    blocks = [f"Policy: {escaped(found['policy'])}."] if "policy" in found else []
    for title, key in (("As the splits were brought:", "brought"), ("In these files:", "left")):
        overlaps = found.get(key) or []
        rows = [
            [f"{escaped(each.get('earlier'))}, {escaped(each.get('later'))}",
             *(_number(each.get(kind)) for kind in ("rows", "exact", "near", "in_groups", "leaking"))]
            for each in overlaps
        ]  # fmt: skip
        header = ["splits", "rows of the later", "exact", "near", "in shared groups", "any of these"]
        pairs = [
            f"{pair.get('origin')} and {pair.get('twin')}: {pair.get('similarity', 0):.2f} similar"
            for each in overlaps
            for pair in (*each.get("exact_pairs", ()), *each.get("near_pairs", ()))
        ]
        blocks += [title, _table(header, rows), *_bullets(pairs[:MOST_PAIRS])] if rows else []
    return blocks


def _splits(report: Json, sizes: Mapping[str, int]) -> list[str]:
    split_report, counts = report.get("splits") or {}, report.get("label_counts") or {}
    groups, shares = report.get("groups") or {}, split_report.get("shares") or {}
    rows = [
        [split, _number(size), f"{shares[split]:.1%}" if split in shares else "", _number(groups.get(split) or None)]
        for split, size in sizes.items()
    ]
    labels = list(report.get("labels") or sorted({label for each in counts.values() for label in each}))
    classes = [
        [escaped(label), *(_number(counts.get(split, {}).get(label, 0)) for split in sizes)]
        for label in labels[:MOST_CLASSES]
    ]
    hidden = len(labels) - MOST_CLASSES
    return [
        _table(["split", "rows", "share", "groups"], rows),
        *_bullets(split_report.get("notes")),
        _table(["label", *sizes], classes) if counts else "",
        f"{hidden:,} more labels are in data.json." if hidden > 0 and counts else "",
    ]


def _by_split(found: object) -> list[str]:
    """A column for each split and a row for each figure."""
    if not isinstance(found, Mapping) or not all(isinstance(each, Mapping) for each in found.values()):
        return []
    figures = list(dict.fromkeys(name for each in found.values() for name in each))
    rows = [[escaped(name.replace("_", " ")), *(_value(each.get(name)) for each in found.values())] for name in figures]
    return [_table(["figure", *map(escaped, found)], rows)]


def _numeric(report: Json) -> list[str]:
    columns = report.get("numeric") or {}
    names = list(dict.fromkeys(name for each in columns.values() for name in each))
    rows = [[escaped(column), *(_value(each.get(name)) for name in names)] for column, each in columns.items()]
    return [_table(["column", *map(escaped, names)], rows), "Fitted on the training split only." if rows else ""]


def _reading(sizes: Mapping[str, int], columns: Mapping[str, str], *, format: ExportFormat) -> list[str]:
    first = f"{next(iter(sizes))}.{format}"
    lines = {
        "parquet": f'pandas.read_parquet("{first}")',
        "csv": f'pandas.read_csv("{first}", keep_default_na=False, na_values=[""], dtype={_text_types(columns)})',
        "json": f'pandas.read_json("{first}", orient="records", dtype=False)',
        "jsonl": f'pandas.read_json("{first}", lines=True, dtype=False)',
        "arrow": f'pyarrow.ipc.open_stream("{first}").read_all().to_pandas()',
        "hdf5": f'pandas.DataFrame({{name: h5py.File("{first}")[name].asstr()[:] for name in {_texts(columns)}}})',
        "tfrecord": f'[record for record in tfrecord.tfrecord_loader("{first}", None)]',
    }
    files = ", ".join(f'"{split}": "{split}.{format}"' for split in sizes)
    loader = LOADERS.get(format)
    if loader == "csv":  # the reader guesses types before it looks at those in the header of the card
        types = ", ".join(f'"{name}": datasets.Value("{kind}")' for name, kind in _csv_kinds(columns).items())
        more = f'keep_default_na=False, na_values=[""], features=datasets.Features({{{types}}})'
        lines["datasets"] = f'datasets.load_dataset("csv", data_files={{{files}}}, {more})'
    elif loader:
        lines["datasets"] = f'datasets.load_dataset("{loader}", data_files={{{files}}})'
    shown = [lines[key] for key in ("datasets", format) if key in lines]
    return ["```python\n" + "\n".join(shown) + "\n```", *_bullets(_limits(columns, format=format))]


def _limits(columns: Mapping[str, str], *, format: ExportFormat) -> list[str]:
    """What the format cannot say, and what a spreadsheet would do."""
    joined = "Several labels of a row are joined by |." if "list" in columns.values() else ""
    dates = "The datasets library makes times of a column in which every text is a date; pandas does not."
    told: dict[str, list[str]] = {
        "json": [dates, "The datasets library reads numbers of a .json list to ten digits; jsonl keeps them all."],
        "jsonl": [dates],
        "csv": [
            "An empty cell is a null. Read with the types above: a reader that guesses makes 456 of the text 0456.",
            joined,
            "Texts are written as they are. A spreadsheet takes one that begins with =, +, - or @ for a formula: "
            "import the columns as text.",
        ],
        "hdf5": ["null_mask/COLUMN is true where a cell is null.", joined],
        "tfrecord": ["A null is an absent feature. Numbers are 32-bit.", "Texts are UTF-8 in lists of bytes."],
    }
    return [line for line in told.get(format, []) if line]


def _csv_kinds(columns: Mapping[str, str]) -> dict[str, str]:
    return {name: "string" if kind == "list" else kind for name, kind in columns.items()}


def _texts(columns: Mapping[str, str]) -> list[str]:
    return [name for name, kind in columns.items() if kind in ("string", "list")]


def _text_types(columns: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'"{name}": str' for name in _texts(columns)) + "}"


def _lines(found: object, *, left_out: Sequence[str] = ()) -> list[str]:
    """The figures of a part by their own names, as bullets: `words changed, swap: 12`."""

    def walk(value: object, path: tuple[str, ...]) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key in (each for each in value if each not in left_out):
                yield from walk(value[key], (*path, str(key).replace("_", " ")))
        else:
            yield f"{', '.join(path)}: {_plain(value)}"

    return _bullets(list(walk(found, ()))) if found else []


def _bullets(lines: Sequence[str] | None) -> list[str]:
    """One list, as one block."""
    shown = [f"- {escaped(line, 400)}" for line in list(lines or [])[:MOST_NOTES]]
    if lines and len(lines) > MOST_NOTES:
        shown.append(f"- and {len(lines) - MOST_NOTES:,} more in data.json")
    return ["\n".join(shown)] if shown else []


def _section(title: str, *blocks: str) -> str:
    filled = [block for block in blocks if block]
    return "\n\n".join([f"## {title}", *filled]) if filled else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns that are empty in every row are left out. Cells are escaped already."""
    kept = [index for index in range(len(header)) if any(row[index] for row in rows)]
    lines = [[header[index] for index in kept], ["---"] * len(kept), *([row[index] for index in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if kept else ""


def _value(value: object) -> str:
    return "" if value is None else escaped(_plain(value))


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else escaped(value)
