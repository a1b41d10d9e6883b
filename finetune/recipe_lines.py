"""What both kinds of first recipes are written with: scalars, names inside comments, languages, lengths in tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from finetune.data.text_steps import visible

SECOND_LANGUAGE = 0.15  # share of texts from which one language's model is not enough
WINDOW_SIZES = (64, 128, 256, 512)
UNSPACED = {"zh", "ja"}
LANGUAGES = {
    "en": "English", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "de": "German", "fr": "French",
    "es": "Spanish", "it": "Italian", "pt": "Portuguese", "ru": "Russian", "nl": "Dutch", "ar": "Arabic",
}  # fmt: skip
# Rounded up from multilingual and English word pieces on news text; a guess for the window size, not a count.
TOKENS_PER_CHARACTER = {"en": 0.25, "zh": 1.0, "ja": 0.8, "ko": 0.7}
OTHER_TOKENS_PER_CHARACTER = 0.4
_PLAIN = re.compile(r"[^\W\d][\w./-]*|\.\./[\w./-]*\w")
_YAML_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def scalar(text: str) -> str:
    """A YAML scalar that reads back as this text: plain where nothing can be mistaken, else in quotes."""
    if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS:
        return text
    quoted = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text)
    return f'"{quoted}"'


def shown(text: str, most: int = 80) -> str:
    """A name or value inside a comment: on one line, shortened, with what does not show as its escape."""
    return visible(text, most)


def source_line(data: Path, recipe: Path) -> str:
    """`  source: ../data.csv`, as it is found from where the recipe stands."""
    source = Path(os.path.relpath(data.resolve(), recipe.parent.resolve())).as_posix()
    return f"  source: {scalar(source)}  # relative to this recipe"


def frequent_languages(shares: Mapping[str, float]) -> dict[str, float]:
    """The languages that a model for these texts should know, with their shares."""
    return {code: share for code, share in shares.items() if share >= SECOND_LANGUAGE}


def told_languages(shares: Mapping[str, float]) -> str:
    """`English (92%) and German (8%)`."""
    return " and ".join(f"{LANGUAGES.get(code, f'of language {code}')} ({share:.0%})" for code, share in shares.items())


def tokens_of(characters: int, languages: Mapping[str, float]) -> int:
    """About how many tokens a text of so many characters has in the language that needs most."""
    shares = [TOKENS_PER_CHARACTER.get(language, OTHER_TOKENS_PER_CHARACTER) for language in languages]
    return round(characters * max(shares, default=OTHER_TOKENS_PER_CHARACTER)) + 2


def window_for(tokens: int) -> tuple[int, bool]:
    """The smallest window that holds so many tokens with room to spare, and whether there is one."""
    size = next((size for size in WINDOW_SIZES if size >= 1.1 * tokens), WINDOW_SIZES[-1])
    return size, size >= 1.1 * tokens


def as_comment(lines: list[str]) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
