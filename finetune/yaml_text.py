"""YAML with line numbers: a recipe's text becomes plain values, and every key remembers its line.

YAML 1.2 by ruamel.yaml: `no` and `on` are words, `5e-5` is a number. Tags, tabs and texts built to exhaust memory
are refused here, before any value is looked at; repeated keys are told together with whatever else is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune.errors import Problem, RecipeError

# A parser in Python reads 100 kB a second; a thousand label names are 30 kB.
MOST_BYTES = 200_000
MOST_VALUES = 20_000
DEEPEST = 20

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlText:
    """`values` as written; `lines` gives the 1-based line of each key, by its path from the top.

    `problems` are keys that could not be taken as written; whoever checks the values shows them with the rest.
    """

    name: str
    values: dict[str, object]
    lines: dict[Path, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

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
    reader = _Reader(name=name)
    values = reader.read(root, path=())
    if not isinstance(values, dict):
        raise RecipeError(f"{name}:1", "expected key: value pairs at the top level", "See `finetune schema`.")
    return YamlText(name=name, values=values, lines=reader.lines, problems=tuple(reader.problems))


def _compose(text: str, *, name: str):  # type: ignore[no-untyped-def]  # ruamel.yaml's nodes carry no types
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml, depth = YAML(typ="safe", pure=True), 0
    try:
        for event in yaml.parse(text):  # composing is recursive, so depth is looked at first
            kind = type(event).__name__
            depth += kind.endswith(("MappingStartEvent", "SequenceStartEvent"))
            depth -= kind.endswith(("MappingEndEvent", "SequenceEndEvent"))
            if depth > DEEPEST:
                line = event.start_mark.line + 1
                raise RecipeError(f"{name}:{line}", f"more than {DEEPEST} levels deep", "A recipe has three.")
        return yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        source_lines = text.splitlines()
        tabbed = line <= len(source_lines) and source_lines[line - 1].lstrip(" ").startswith("\t")
        what = "is indented with a tab" if tabbed else f"is not valid YAML ({error.problem or error.context})"
        do = "Use spaces." if tabbed else ""
        raise RecipeError(f"{name}:{line}", what, do) from None
    except (YAMLError, ValueError) as error:
        raise RecipeError(name, f"is not valid YAML ({str(error).splitlines()[0]})") from None


class _Reader:
    """Walks ruamel's node tree, so that repeated keys, tags and runaway aliases are seen with their lines."""

    def __init__(self, *, name: str) -> None:
        self._name = name
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
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
            line = key_node.start_mark.line + 1
            if type(key_node).__name__ != "ScalarNode":
                self._complain(line, "a key is a list or a mapping", "Write a word before the colon.")
                continue
            key = str(key_node.value)
            if key == "<<":
                self._complain(line, "merge keys (<<) are not supported", "Write the keys out.")
            elif key in values:
                self._complain(line, f"key '{key}' repeated (line {self.lines[(*path, key)]})", "Keep one of them.")
            else:
                self.lines[(*path, key)] = line
                values[key] = self.read(value_node, path=(*path, key))
        return values

    def _complain(self, line: int, what: str, do: str) -> None:
        self.problems.append(Problem(f"{self._name}:{line}", what, do))

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
                return _whole_number(text)
            case "float":
                return _float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"), text)
            case "str" | "timestamp":
                return _number_or_text(text)
        raise self._tag_error(node, line)

    def _refuse_tag(self, node, kind: str, line: int) -> None:  # type: ignore[no-untyped-def]
        if str(node.tag) != f"tag:yaml.org,2002:{kind}":
            raise self._tag_error(node, line)

    def _tag_error(self, node, line: int) -> RecipeError:  # type: ignore[no-untyped-def]
        return RecipeError(f"{self._name}:{line}", f"tags are not allowed: {node.tag}", "Write a plain value.")


def _whole_number(text: str) -> object:
    plain = text.replace("_", "")
    prefixed = plain.lstrip("+-")[:2] in ("0x", "0o", "0b")
    try:
        return int(plain, 0) if prefixed else int(plain)
    except ValueError:  # thousands of digits, or a lone sign
        return text


def _number_or_text(text: str) -> object:
    # 5e-5 without a dot is a number to everyone who writes a learning rate.
    return _float(text, text) if text[:1] in "+-.0123456789" and "e" in text.lower() else text


def _float(plain: str, text: str) -> object:
    try:
        return float(plain)
    except ValueError:
        return text
