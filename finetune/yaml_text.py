"""YAML with line numbers: a recipe's text becomes plain values, and every key remembers its line.

YAML 1.2 by ruamel.yaml: `no` and `on` are words, `5e-5` is a number. Repeated keys, tags, tabs and texts
built to exhaust memory are refused here, before any value is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune.errors import RecipeError

MOST_BYTES = 1_000_000
MOST_VALUES = 20_000
DEEPEST = 20

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlText:
    """`values` as written; `lines` gives the 1-based line of each key, by its path from the top."""

    name: str
    values: dict[str, object]
    lines: dict[Path, int] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """`recipe.yaml:7` for a key, or for the nearest section above it that is written down."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{self.name}:{self.lines[path[:length]]}"
        return self.name


def read_yaml(text: str, *, name: str) -> YamlText:
    """Parse `text`; `name` is what messages call it. Raises RecipeError with the line."""
    if len(text.encode("utf-8", errors="replace")) > MOST_BYTES:
        raise RecipeError(name, f"larger than {MOST_BYTES:,} bytes", "A recipe is a page of settings, not data.")
    root = _compose(text, name=name)
    if root is None:
        raise RecipeError(name, "is empty; expected key: value pairs", "See `finetune schema`.")
    lines: dict[Path, int] = {}
    values = _Reader(name=name, lines=lines).read(root, path=())
    if not isinstance(values, dict):
        raise RecipeError(f"{name}:1", "expected key: value pairs at the top level", "See `finetune schema`.")
    return YamlText(name=name, values=values, lines=lines)


def _compose(text: str, *, name: str):  # type: ignore[no-untyped-def]  # ruamel.yaml's nodes carry no types
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        source_lines = text.splitlines()
        tabbed = line <= len(source_lines) and source_lines[line - 1].lstrip(" ").startswith("\t")
        what = "is indented with a tab" if tabbed else f"is not valid YAML ({error.problem or error.context})"
        do = "Use spaces." if tabbed else ""
        raise RecipeError(f"{name}:{line}", what, do) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(name, f"is not valid YAML ({str(error).splitlines()[0]})") from None


class _Reader:
    """Walks ruamel's node tree, so that repeated keys, tags and runaway aliases are seen with their lines."""

    def __init__(self, *, name: str, lines: dict[Path, int]) -> None:
        self._name = name
        self._lines = lines
        self._visited = 0

    def read(self, node, *, path: Path) -> object:  # type: ignore[no-untyped-def]
        self._visited += 1
        line = node.start_mark.line + 1
        if self._visited > MOST_VALUES or len(path) > DEEPEST:
            raise RecipeError(
                f"{self._name}:{line}",
                f"more than {MOST_VALUES:,} values or {DEEPEST} levels after aliases are filled in",
                "Write the settings out.",
            )
        kind = type(node).__name__
        if kind == "MappingNode":
            self._refuse_tag(node, "map", line)
            return self._read_mapping(node, path=path)
        if kind == "SequenceNode":
            self._refuse_tag(node, "seq", line)
            return [self.read(item, path=(*path, index)) for index, item in enumerate(node.value)]
        return self._read_scalar(node, line)

    def _read_mapping(self, node, *, path: Path) -> dict[str, object]:  # type: ignore[no-untyped-def]
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key == "<<":
                raise RecipeError(f"{self._name}:{line}", "merge keys (<<) are not supported", "Write the keys out.")
            if key in values:
                first = self._lines[(*path, key)]
                raise RecipeError(f"{self._name}:{line}", f"key '{key}' repeated (line {first})", "Keep one of them.")
            self._lines[(*path, key)] = line
            values[key] = self.read(value_node, path=(*path, key))
        return values

    def _read_scalar(self, node, line: int) -> object:  # type: ignore[no-untyped-def]
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        text = node.value
        if node.style in ('"', "'", "|", ">"):
            self._refuse_tag(node, "str", line)
            return text
        match kind:
            case "null":
                return None
            case "bool":
                return str(text).lower() == "true"
            case "int":
                return int(text.replace("_", ""), 0) if text[:2] in ("0x", "0o") else int(text.replace("_", ""))
            case "float":
                return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").lower())
            case "str" | "timestamp":
                return _number_or_text(text)
        raise self._tag_error(node, line)

    def _refuse_tag(self, node, kind: str, line: int) -> None:  # type: ignore[no-untyped-def]
        if str(node.tag) != f"tag:yaml.org,2002:{kind}":
            raise self._tag_error(node, line)

    def _tag_error(self, node, line: int) -> RecipeError:  # type: ignore[no-untyped-def]
        return RecipeError(f"{self._name}:{line}", f"tags are not allowed: {node.tag}", "Write a plain value.")


def _number_or_text(text: str) -> object:
    # 5e-5 without a dot is a number to everyone who writes a learning rate.
    if text[:1] in "+-.0123456789" and "e" in text.lower():
        try:
            return float(text)
        except ValueError:
            return text
    return text
